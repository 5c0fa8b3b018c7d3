//! Commands on bundles: `create`, `unpack`, `commit`, `diff`, `unmount`, `rm`.

use std::path::Path;

use clap::{Args, ValueEnum};
use orlop_bundle::bundle::{self, Bundle};
use orlop_bundle::commit::document::About;
use orlop_bundle::config::Options;
use orlop_bundle::config::namespaces::Mapping;
use orlop_bundle::dir::Dir;
use orlop_bundle::directory::remove_tree;
use orlop_bundle::error::{Error, ErrorKind, Result};
use orlop_bundle::format::Value;
use orlop_bundle::image::Compression;
use orlop_bundle::layer::Time;
use orlop_bundle::store::Store;

use super::Global;
use super::screen::{Screen, tell};
use super::stored::{new_name, source_date_epoch};

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
    #[command(flatten)]
    pub(crate) options: Options,
}

/// `unpack IMAGE DIR`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  orlop-bundle unpack --rootfs-only debian:bookworm root")]
pub(crate) struct Unpack {
    /// The files directly into the folder; otherwise it becomes a bundle, as create --backend directory makes it
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
    /// Smaller and faster; Docker knows it since 23.0.
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
    /// How hard: 1 to 9 for gzip, 1 to 19 for zstd; 1 and 3 if nothing is said
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

/// `mount BUNDLE...`
#[derive(Debug, Args)]
pub(crate) struct Mount {
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

/// Makes a bundle.
pub(crate) fn create(args: &Create, global: &Global, store: &Store, screen: &mut Screen) -> Result<()> {
    let backend = match args.backend {
        Backend::Auto => None,
        Backend::Mount => Some(bundle::Backend::Mount),
        Backend::Directory => Some(bundle::Backend::Directory),
    };
    make(&args.image, &args.bundle, backend, &args.options, global, store, screen)
}

fn make(
    image: &str,
    path: &str,
    backend: Option<bundle::Backend>,
    options: &Options,
    global: &Global,
    store: &Store,
    screen: &mut Screen,
) -> Result<()> {
    let created = bundle::create(store, &bundle::Create { image, path: Path::new(path), backend, options })?;
    let record = &created.record;
    if global.json {
        let document = Value::record([
            ("Id", record.id.as_str().into()),
            ("Path", record.path.display().to_string().into()),
            ("Image", record.image.as_str().into()),
            ("Backend", record.backend.name().into()),
            ("Notes", Value::list(created.notes.iter().map(String::as_str))),
        ]);
        return screen.line(&document.json_pretty());
    }
    if !global.quiet {
        created.notes.iter().for_each(|note| tell(&format!("orlop-bundle: create {path}: {note}")));
    }
    Ok(())
}

/// Writes an image's files.
pub(crate) fn unpack(args: &Unpack, global: &Global, store: &Store, screen: &mut Screen) -> Result<()> {
    if !args.rootfs_only {
        let backend = Some(bundle::Backend::Directory);
        let mut options = Options::default();
        // Files are what is asked for: an image that says nothing to run is no error here.
        let run = store.image(&args.image)?.config.config;
        if run.entrypoint.is_empty() && run.cmd.is_empty() {
            options.command.push("sh".to_owned());
        }
        return make(&args.image, &args.folder, backend, &options, global, store, screen);
    }
    let _lease = store.lease()?;
    let image = store.image(&args.image)?;
    let folder = Dir::make(Path::new(&args.folder))?;
    if let Some(there) = folder.names()?.first() {
        let text = format!("{}: is not empty (it has {there:?})", args.folder);
        return Err(Error::new(ErrorKind::AlreadyExists, text));
    }
    match store.write_directory(&image.config.rootfs.diff_ids, &folder, &bundle::owners(&Mapping::default())) {
        Ok(written) => {
            written.notes.iter().for_each(|note| tell(&format!("orlop-bundle: unpack {}: {note}", args.image)));
            Ok(())
        }
        Err(e) => {
            // It was empty, and is again as far as that can be had; what went wrong first is what counts.
            for name in folder.names()? {
                let _ = remove_tree(&folder, &name);
            }
            Err(e)
        }
    }
}

/// Shows what was changed in a bundle.
pub(crate) fn diff(args: &Diff, global: &Global, screen: &mut Screen) -> Result<()> {
    let (bundle, store) = Bundle::open(Path::new(&args.bundle))?;
    let changes = bundle.diff(&store)?;
    if global.json {
        let entries = changes.iter().map(|change| {
            let path = format!("/{}", String::from_utf8_lossy(&change.path));
            Value::record([("Path", path.into()), ("Kind", change.action.letter().to_string().into())])
        });
        return screen.line(&Value::List(entries.collect()).json_pretty());
    }
    screen.print(&changes.iter().map(|change| format!("{change}\n")).collect::<String>())
}

/// Makes an image of a bundle.
pub(crate) fn commit(args: &Commit, global: &Global, screen: &mut Screen) -> Result<()> {
    let name = args.name.as_deref().map(new_name).transpose()?;
    let (bundle, store) = Bundle::open(Path::new(&args.bundle))?;
    let epoch = source_date_epoch()?;
    let about = About {
        author: args.author.clone(),
        message: args.message.clone(),
        created_by: "orlop-bundle commit".to_owned(),
        changes: args.change.clone(),
        created: epoch.unwrap_or_else(Time::now),
    };
    let compression = match args.compression {
        Packing::Gzip => Compression::Gzip,
        Packing::Zstd => Compression::Zstd,
        Packing::None => Compression::None,
    };
    let wish =
        bundle::Commit { name: name.as_deref(), compression, level: args.level, about, reproducible: epoch.is_some() };
    let made = bundle.commit(&store, &wish)?;
    if !global.quiet {
        made.summary.notes.iter().for_each(|note| tell(&format!("orlop-bundle: commit {}: {note}", args.bundle)));
    }
    screen.line(&made.id.to_string())
}

/// Does `act` to every bundle; the others' errors are told at once, the last one's is the command's own.
fn each(bundles: &[String], name: &str, mut act: impl FnMut(&Path) -> Result<()>) -> Result<()> {
    let mut failed: Option<Error> = None;
    for bundle in bundles {
        let Err(e) = act(Path::new(bundle)) else { continue };
        let is_named = e.to_string().strip_prefix(bundle.as_str()).is_some_and(|rest| rest.starts_with(':'));
        if let Some(before) = failed.replace(if is_named { e } else { e.context(bundle) }) {
            tell(&format!("orlop-bundle: {name} {before}"));
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Unmounts bundles.
pub(crate) fn unmount(args: &Unmount) -> Result<()> {
    each(&args.bundles, "unmount", |path| Bundle::open(path)?.0.unmount())
}

/// Mounts bundles again.
pub(crate) fn mount(args: &Mount) -> Result<()> {
    each(&args.bundles, "mount", |path| {
        let (bundle, store) = Bundle::open(path)?;
        let _lease = store.lease()?;
        bundle.mount(&store)
    })
}

/// Removes bundles.
pub(crate) fn rm(args: &Rm) -> Result<()> {
    each(&args.bundles, "rm", |path| match Bundle::open(path) {
        Err(e) if args.force && e.kind() == ErrorKind::NotFound => Ok(()),
        opened => opened?.0.remove(args.force),
    })
}
