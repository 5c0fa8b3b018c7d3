//! Commands that show: `images`, `history`, `inspect`, `df`.

use clap::{ArgAction, Args, ValueEnum};
use orlop_bundle::format::documents::{Filter, Sort};

/// `images`
#[derive(Debug, Args)]
#[command(after_help = "\
Fields of a template: .Repository .Tag .Digest .ID .CreatedSince .CreatedAt .Size .SharedSize .UniqueSize .Labels .Containers

Examples:
  orlop-bundle images --sort size
  orlop-bundle images --filter reference='registry.example/*' --format 'table {{.Repository}}\\t{{.Size}}'
  orlop-bundle images -q --filter dangling=true")]
pub(crate) struct Images {
    /// Accepted; there are no hidden images
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Whole ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Also the digests of the manifests
    #[arg(long)]
    pub(crate) digests: bool,
    /// dangling=BOOL, reference=PATTERN, label=KEY[=VALUE], before=IMAGE, since=IMAGE
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) filter: Vec<Filter>,
    /// table, json, or a template of Go
    #[arg(long, value_name = "FORMAT", conflicts_with = "json")]
    pub(crate) format: Option<String>,
    /// By what they are ordered
    #[arg(long, value_enum, default_value = "created")]
    pub(crate) sort: Sort,
    /// Only images of this repository, or with this name; * and ? match
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(crate) name: Option<String>,
}

/// `history IMAGE`
#[derive(Debug, Args)]
#[command(after_help = "\
Fields of a template: .ID .CreatedSince .CreatedAt .CreatedBy .Size .Comment .Layer

Example:
  orlop-bundle history --no-trunc --format '{{.CreatedBy}}' mine:2.0")]
pub(crate) struct History {
    /// Whole ids and commands
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// --human=false: bytes and dates
    #[arg(short = 'H', long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", action = ArgAction::Set)]
    pub(crate) human: bool,
    /// table, json, or a template of Go
    #[arg(long, value_name = "FORMAT", conflicts_with = "json")]
    pub(crate) format: Option<String>,
    /// Name, id, the beginning of an id, or digest
    pub(crate) image: String,
}

/// What `inspect` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// An image.
    Image,
}

/// `inspect IMAGE...`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  orlop-bundle inspect mine:2.0
  orlop-bundle inspect -f '{{json .Config.Env}}' mine:2.0
  orlop-bundle inspect -f '{{range .RootFS.Layers}}{{println .}}{{end}}' mine:2.0")]
pub(crate) struct Inspect {
    /// json, or a template of Go over the document
    #[arg(short, long, value_name = "FORMAT", conflicts_with = "json")]
    pub(crate) format: Option<String>,
    /// Accepted for docker's command lines
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) r#type: Option<Kind>,
    /// Name, id, the beginning of an id, or digest
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
}

/// `df`
#[derive(Debug, Args)]
#[command(after_help = "\
Sizes are those of files in the store, as they take room on disk. RECLAIMABLE is what `prune -a` frees.

Examples:
  orlop-bundle df
  orlop-bundle df -v")]
pub(crate) struct Df {
    /// Also each image, and what it shares with others
    #[arg(short, long, conflicts_with = "format")]
    pub(crate) verbose: bool,
    /// table, json, or a template of Go: .Type .TotalCount .Active .Size .Reclaimable
    #[arg(long, value_name = "FORMAT", conflicts_with = "json")]
    pub(crate) format: Option<String>,
}
