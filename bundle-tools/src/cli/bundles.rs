//! Commands on bundles: `create`, `unpack`, `commit`, `diff`, `unmount`, `rm`.

use clap::{Args, ValueEnum};

/// How a bundle gets its root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// Mount where that is possible, else directory.
    Auto,
    /// Mount the image's layers as they are stored, with a writable layer above.
    Mount,
    /// Write all files; needs no privileges.
    Directory,
}

/// `create IMAGE BUNDLE`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  orlop-bundle create debian:bookworm web && orlop run -b web c1
  orlop-bundle create -m 256m --cpus 0.5 -e MODE=prod -v /srv/data:/data:ro app:1 web
  orlop-bundle create --backend directory app:1 web sleep 60")]
pub(crate) struct Create {
    /// How the bundle gets its root file system
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) backend: Backend,
    /// Name, id, the beginning of an id, or digest
    pub(crate) image: String,
    /// The bundle: a folder that is made
    pub(crate) bundle: String,
}

/// `unpack IMAGE DIR`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  orlop-bundle unpack --rootfs-only debian:bookworm root")]
pub(crate) struct Unpack {
    /// The files directly into the folder, without config.json; otherwise they go to rootfs/ in it
    #[arg(long)]
    pub(crate) rootfs_only: bool,
    /// Name, id, the beginning of an id, or digest
    pub(crate) image: String,
    /// The folder, which must be empty or not be there
    #[arg(value_name = "DIR")]
    pub(crate) folder: String,
}

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Packing {
    /// As all registries and runtimes know it.
    Gzip,
    /// Smaller and faster; Docker knows it since 20.10.
    Zstd,
    /// Not at all.
    None,
}

/// `commit BUNDLE NAME`
#[derive(Debug, Args)]
#[command(after_help = "\
With SOURCE_DATE_EPOCH set, the same changes make the same image.

Examples:
  orlop-bundle commit web mine:2.0
  orlop-bundle commit -c 'CMD [\"/app\", \"serve\"]' -c 'ENV MODE=prod' -m 'add the app' web mine:2.0")]
pub(crate) struct Commit {
    /// Who made it: NAME <ADDRESS>
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) author: Option<String>,
    /// What the history says of it
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) message: Option<String>,
    /// Set something of the image's configuration, as a Dockerfile says it: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub(crate) change: Vec<String>,
    /// How the layer is packed
    #[arg(long, value_enum, default_value = "gzip")]
    pub(crate) compression: Packing,
    /// How hard: 1 to 9 for gzip, 1 to 19 for zstd
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(1..=19))]
    pub(crate) level: Option<i32>,
    /// The bundle
    pub(crate) bundle: String,
    /// The image's name; else it has only an id
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) name: Option<String>,
}

/// `diff BUNDLE`
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The bundle
    pub(crate) bundle: String,
}

/// `unmount BUNDLE...`
#[derive(Debug, Args)]
pub(crate) struct Unmount {
    /// The bundles
    #[arg(value_name = "BUNDLE", required = true)]
    pub(crate) bundles: Vec<String>,
}

/// `rm BUNDLE...`
#[derive(Debug, Args)]
#[command(after_help = "What was written in the bundle is gone with it; commit it before.")]
pub(crate) struct Rm {
    /// Also bundles that are in use; what isn't there is no error
    #[arg(short, long)]
    pub(crate) force: bool,
    /// The bundles
    #[arg(value_name = "BUNDLE", required = true)]
    pub(crate) bundles: Vec<String>,
}
