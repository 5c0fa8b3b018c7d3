//! Commands on what the store has: `tag`, `rmi`, `prune`, `verify`.

use clap::Args;

/// `tag IMAGE NAME`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  orlop-bundle tag mine:2.0 127.0.0.1:5000/mine:2.0")]
pub(crate) struct Tag {
    /// Name, id, the beginning of an id, or digest
    pub(crate) image: String,
    /// The new name; it is taken from the image that has it
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) name: String,
}

/// `rmi IMAGE...`
#[derive(Debug, Args)]
#[command(after_help = "\
A name is removed; an id means all names of that image. What other images and bundles need stays.

Examples:
  orlop-bundle rmi mine:1.0
  orlop-bundle rmi $(orlop-bundle images -q --filter dangling=true)")]
pub(crate) struct Rmi {
    /// Remove an image by its id although it has several names or a bundle is made of it; what isn't there is no error
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Keep the content until the next prune
    #[arg(long)]
    pub(crate) no_prune: bool,
    /// Name, id, the beginning of an id, or digest
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
}

/// `prune`
#[derive(Debug, Args)]
#[command(after_help = "\
Without -a: what no name and no bundle leads to. With -a: names that no bundle is made of, and what they lead to.

Examples:
  orlop-bundle prune -f
  orlop-bundle prune -a -f --filter until=240h")]
pub(crate) struct Prune {
    /// Also the images that no bundle is made of
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Don't ask
    #[arg(short, long)]
    pub(crate) force: bool,
    /// until=TIME: only images made before (2026-11-21T00:00:00Z, or an age: 240h, 90m); label=KEY[=VALUE]
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) filter: Vec<String>,
}

/// `verify`
#[derive(Debug, Args)]
#[command(after_help = "\
Every blob, layer, table and index is read and compared with its name. The exit status is 1 if something is bad.

Example:
  orlop-bundle verify --repair && orlop-bundle pull mine:2.0")]
pub(crate) struct Verify {
    /// Remove what is bad; the next pull of its image fetches it again
    #[arg(long)]
    pub(crate) repair: bool,
}
