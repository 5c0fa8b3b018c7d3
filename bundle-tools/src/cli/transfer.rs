//! Commands that move images: `pull`, `import`, `load`, `push`, `save`, `login`, `logout`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// How to talk to a registry.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Registry")]
pub(crate) struct Wire {
    /// Talk plain HTTP to every registry (to those on loopback that is done anyway)
    #[arg(long)]
    pub(crate) plain_http: bool,
}

/// `pull IMAGE...`
#[derive(Debug, Args)]
#[command(after_help = "\
Where from:
  registry.example/team/app:1.2      a registry; a name without one is looked up in registries.json
  registry.example/app@sha256:...    exactly this content
  oci:DIR[:TAG]                      an OCI layout
  oci-archive:FILE[:TAG]             a tar of one
  docker-archive:FILE[:NAME]         what `docker save` writes
  dir:DIR                            what `skopeo copy ... dir:` writes

Examples:
  orlop-bundle pull 127.0.0.1:5000/app
  orlop-bundle pull --platform linux/arm64 registry.example/app:1.2
  orlop-bundle pull oci:build:latest --name app:dev")]
pub(crate) struct Pull {
    /// Which image of a multi-platform one: OS/ARCH[/VARIANT]
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// What it is called here, if not as it is there
    #[arg(long, value_name = "NAME[:TAG]")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) wire: Wire,
    /// What to fetch
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
}

/// `import SOURCE NAME`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mmdebstrap --variant=minbase bookworm base.tar && orlop-bundle import base.tar debian:bookworm
  orlop-bundle import -c 'CMD [\"/app\"]' -c 'ENV MODE=prod' ./folder app:1")]
pub(crate) struct Import {
    /// Set something of the image's configuration, as a Dockerfile says it: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub(crate) change: Vec<String>,
    /// What the history says of it
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) message: Option<String>,
    /// What it runs on: OS/ARCH[/VARIANT], else this machine's
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// A tar (plain, gzip or zstd), a folder, or - for standard input
    pub(crate) source: String,
    /// The image's name
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) name: Option<String>,
}

/// `load`
#[derive(Debug, Args)]
#[command(after_help = "\
What `docker save`, `podman save` and `orlop-bundle save` write is understood, and so is an OCI layout, packed or not.

Example:
  orlop-bundle load -i images.tar")]
pub(crate) struct Load {
    /// The archive or folder; else standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<String>,
}

/// `push IMAGE [DESTINATION]`
#[derive(Debug, Args)]
#[command(after_help = "\
Only layers that the destination lacks are sent, as the bytes that were received or made: digests stay the same.

Examples:
  orlop-bundle push 127.0.0.1:5000/mine:2.0
  orlop-bundle push mine:2.0 registry.example/team/mine:2.0
  orlop-bundle push mine:2.0 oci:layout:2.0")]
pub(crate) struct Push {
    #[command(flatten)]
    pub(crate) wire: Wire,
    /// Name, id, the beginning of an id, or digest
    pub(crate) image: String,
    /// Where to, in the forms of pull; else the image's own name
    pub(crate) destination: Option<String>,
}

/// What `save` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Archive {
    /// A tar of an OCI layout that also has Docker's manifest.json.
    #[value(alias = "docker")]
    DockerArchive,
    /// A tar of an OCI layout.
    #[value(alias = "oci")]
    OciArchive,
}

/// `save IMAGE...`
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  orlop-bundle save -o images.tar mine:1.0 mine:2.0")]
pub(crate) struct Save {
    /// The archive; else standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// The form
    #[arg(long, value_enum, default_value = "docker-archive")]
    pub(crate) format: Archive,
    /// Name, id, the beginning of an id, or digest
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
}

/// `login REGISTRY`
#[derive(Debug, Args)]
#[command(after_help = "\
They are kept in Docker's config.json, or by the credential helper that it names.

Example:
  pass registry | orlop-bundle login -u me --password-stdin registry.example")]
pub(crate) struct Login {
    /// The name
    #[arg(short, long, value_name = "NAME")]
    pub(crate) username: Option<String>,
    /// The password; others may see it in the list of processes
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    pub(crate) password: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    pub(crate) password_stdin: bool,
    /// Host, and port if it is not the usual one
    pub(crate) registry: String,
}

/// `logout REGISTRY`
#[derive(Debug, Args)]
pub(crate) struct Logout {
    /// Host, and port if it is not the usual one
    pub(crate) registry: String,
}
