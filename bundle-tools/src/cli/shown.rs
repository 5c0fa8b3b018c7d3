//! Commands that show: `images`, `history`, `inspect`, `df`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{ArgAction, Args, ValueEnum};
use orlop_bundle::bundle::{self, BundleUsage};
use orlop_bundle::digest::Digest;
use orlop_bundle::error::Result;
use orlop_bundle::format::documents::{self, Filter, Inspected, Listed, Sort, Style, Used};
use orlop_bundle::format::{Format, Template, Value, align, units};
use orlop_bundle::store::{Image, Store};

use super::Global;
use super::screen::Screen;

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
          default_missing_value = "true", action = ArgAction::Set, hide_possible_values = true)]
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
Sizes are those of files, as they take room on disk; a bundle's are what it has written, and its volumes.
RECLAIMABLE is what `prune -a` frees; of bundles, what `rm` of those that no container runs in would.

Examples:
  orlop-bundle df
  orlop-bundle df -v")]
pub(crate) struct Df {
    /// Also each image, and what it shares with others, and each bundle
    #[arg(short, long, conflicts_with = "format")]
    pub(crate) verbose: bool,
    /// table, json, or a template of Go: .Type .TotalCount .Active .Size .Reclaimable
    #[arg(long, value_name = "FORMAT", conflicts_with = "json")]
    pub(crate) format: Option<String>,
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// When an image says that it was made.
pub(crate) fn created(image: &Image) -> Option<i64> {
    image.config.created.as_deref().and_then(units::parse_time)
}

/// What is known of a layer that several images may have.
#[derive(Clone, Copy, Default)]
struct Sharing {
    /// How many images have it.
    images: u64,
    /// The bytes of its files.
    content: u64,
}

/// The layers of `images`, each read once.
fn sharing(store: &Store, images: &[Image]) -> Result<BTreeMap<Digest, Sharing>> {
    let mut layers: BTreeMap<Digest, Sharing> = BTreeMap::new();
    let mut seen = HashSet::new();
    for image in images.iter().filter(|image| seen.insert(image.id())) {
        for diff_id in image.config.rootfs.diff_ids.iter().collect::<HashSet<_>>() {
            layers.entry(*diff_id).or_default().images += 1;
        }
    }
    for (diff_id, layer) in &mut layers {
        layer.content = store.size(&[*diff_id])?;
    }
    Ok(layers)
}

/// The lines of `images`: every name of every image, and every image that has none.
fn listed(store: &Store, images: &[Image], layers: &BTreeMap<Digest, Sharing>) -> Result<Vec<Listed>> {
    let mut bundles: HashMap<Digest, usize> = HashMap::new();
    for manifest in store.bundle_manifests()? {
        *bundles.entry(manifest.digest).or_default() += 1;
    }
    let mut lines = Vec::new();
    for image in images {
        let of = image.config.rootfs.diff_ids.iter().filter_map(|diff_id| layers.get(diff_id));
        let (mut size, mut shared) = (0u64, 0u64);
        for layer in of {
            size = size.saturating_add(layer.content);
            if layer.images > 1 {
                shared = shared.saturating_add(layer.content);
            }
        }
        let line = Listed {
            name: None,
            id: image.id(),
            manifest: image.descriptor.digest,
            created: created(image),
            size,
            shared: Some(shared),
            bundles: bundles.get(&image.descriptor.digest).copied().unwrap_or(0),
            labels: image.config.config.labels.clone().into_iter().collect(),
        };
        let before = lines.len();
        lines.extend(image.names().map(|name| Listed { name: Some(name.to_owned()), ..line.clone() }));
        if lines.len() == before {
            lines.push(line);
        }
    }
    Ok(lines)
}

/// Lists images.
pub(crate) fn images(args: &Images, global: &Global, store: &Store, screen: &mut Screen) -> Result<()> {
    // Before anything is read, so that what is wrong with it is said at once.
    let columns = if args.digests { documents::IMAGES_DIGESTS } else { documents::IMAGES };
    let format = Format::parse(args.format.as_deref().unwrap_or("table"), columns)?;
    let images = store.images()?;
    let mut lines = listed(store, &images, &sharing(store, &images)?)?;
    if let Some(pattern) = &args.name {
        lines.retain(|line| line.name.as_deref().is_some_and(|name| documents::refers(pattern, name)));
    }
    for filter in &args.filter {
        let mut kept = Vec::with_capacity(lines.len());
        for line in lines {
            if filter.takes(&line, |image| Ok(created(&store.image(image)?)))? {
                kept.push(line);
            }
        }
        lines = kept;
    }
    documents::sort(&mut lines, args.sort);
    let style = Style { full: args.no_trunc, human: true, now: now() };
    if global.quiet {
        let mut seen = HashSet::new();
        for line in lines.iter().filter(|line| seen.insert(line.id)) {
            screen.line(&if args.no_trunc { line.id.to_string() } else { line.id.short() })?;
        }
        return Ok(());
    }
    if global.json {
        let mut entries: Vec<(Vec<&str>, &Listed)> = Vec::new();
        for line in &lines {
            match entries.iter_mut().find(|(_, entry)| entry.manifest == line.manifest) {
                Some((names, _)) => names.extend(line.name.as_deref()),
                None => entries.push((line.name.as_deref().into_iter().collect(), line)),
            }
        }
        let entries: Vec<_> = entries.iter().map(|(names, line)| documents::image_entry(names, line)).collect();
        return screen.line(&Value::List(entries).json_pretty());
    }
    let rows: Vec<_> = lines.iter().map(|line| documents::image_row(line, style)).collect();
    screen.print(&format.render(&rows, documents::IMAGES_HEAD)?)
}

/// Shows what an image was made of.
pub(crate) fn history(args: &History, global: &Global, store: &Store, screen: &mut Screen) -> Result<()> {
    let columns = if args.human { documents::HISTORY } else { documents::HISTORY_DATES };
    let format = Format::parse(args.format.as_deref().unwrap_or("table"), columns)?;
    let image = store.image(&args.image)?;
    let steps = documents::steps(image.id(), &image.config, |diff_id| store.size(&[*diff_id]))?;
    if global.json {
        let entries = steps.iter().map(documents::history_entry).collect();
        return screen.line(&Value::List(entries).json_pretty());
    }
    let style = Style { full: args.no_trunc, human: args.human, now: now() };
    let rows: Vec<_> = steps.iter().map(|step| documents::history_row(step, style)).collect();
    let format = if global.quiet { Format::Lines(Template::parse("{{.ID}}")?) } else { format };
    screen.print(&format.render(&rows, documents::HISTORY_HEAD)?)
}

/// Shows all that is known of images.
pub(crate) fn inspect(args: &Inspect, store: &Store, screen: &mut Screen) -> Result<()> {
    let template = match args.format.as_deref() {
        None => None,
        Some("json") => Some(Template::parse("{{json .}}")?),
        Some(template) => Some(Template::parse(template)?),
    };
    let mut entries = Vec::with_capacity(args.images.len());
    for name in &args.images {
        let image = store.image(name)?;
        let named = image.refs.iter().filter_map(|r| {
            let known = r.index.as_ref().unwrap_or(&r.manifest);
            r.name.clone().map(|name| (name, known.digest))
        });
        let diff_ids = &image.config.rootfs.diff_ids;
        let tars: Vec<_> = diff_ids.iter().map(|diff_id| store.tar_path(diff_id).display().to_string()).collect();
        let index = store.tree_path(diff_ids)?.map(|path| path.display().to_string());
        entries.push(documents::inspect(&Inspected {
            names: &named.collect::<Vec<_>>(),
            manifest: &image.descriptor,
            parts: &image.manifest,
            config: &image.config_bytes,
            size: store.size(diff_ids)?,
            tagged: image.refs.iter().map(|r| r.time).max().and_then(|time| i64::try_from(time).ok()),
            index: index.as_deref(),
            tars: &tars,
        })?);
    }
    screen.print(&documents::inspected(&entries, template.as_ref())?)
}

/// What `df --json` says of a bundle.
fn bundle_entry(of: &BundleUsage) -> Value {
    let record = of.record.as_ref();
    Value::record([
        ("Id", of.id.as_str().into()),
        ("Path", record.map(|record| record.path.display().to_string()).into()),
        ("Image", record.map(|record| record.image.clone()).into()),
        ("Backend", record.map(|record| record.backend.name()).into()),
        ("Created", record.map(|record| units::rfc3339(record.created)).into()),
        ("Files", of.sum.files.into()),
        ("Disk", of.sum.bytes.into()),
        ("Pid", of.user.map(u64::from).into()),
        ("Left", of.is_left.into()),
    ])
}

/// The bundles, as Docker shows containers.
fn bundle_table(bundles: &[BundleUsage], now: i64) -> String {
    let mut table = "BUNDLE ID\tIMAGE\tBACKEND\tSIZE\tCREATED\tSTATUS\tPATH\n".to_owned();
    for of in bundles {
        let status = match (of.user, of.is_left) {
            (Some(pid), _) => format!("Up (process {pid})"),
            (None, true) => "Left; prune removes it".to_owned(),
            (None, false) => "Not running".to_owned(),
        };
        let id = of.id.get(..12).unwrap_or(&of.id);
        let (image, backend, created, path) = match &of.record {
            Some(record) => {
                let age = units::duration(now.saturating_sub(record.created));
                (record.image.as_str(), record.backend.name(), format!("{age} ago"), record.path.display().to_string())
            }
            None => ("<none>", "<none>", "N/A".to_owned(), "<none>".to_owned()),
        };
        let size = units::size(of.sum.bytes, 4);
        table.push_str(&format!("{id}\t{image}\t{backend}\t{size}\t{created}\t{status}\t{path}\n"));
    }
    table
}

/// Shows what the store takes.
pub(crate) fn df(args: &Df, global: &Global, store: &Store, screen: &mut Screen) -> Result<()> {
    let format = Format::parse(args.format.as_deref().unwrap_or("table"), documents::DF)?;
    let usage = store.usage()?;
    let bundles = bundle::usage(store)?;
    let of_bundles = |of: &dyn Fn(&BundleUsage) -> bool| bundles.iter().filter(|b| of(b)).map(|b| b.sum.bytes).sum();
    let content = usage.total().bytes.saturating_sub(usage.incoming.bytes);
    let downloads = usize::try_from(usage.incoming.files).unwrap_or(usize::MAX);
    let rows = [
        Used {
            kind: "Images",
            total: usage.images.len(),
            active: usage.images.iter().filter(|image| image.in_use).count(),
            size: content,
            reclaimable: usage.reclaimable_unused.min(content),
        },
        Used {
            kind: "Bundles",
            total: bundles.len(),
            active: bundles.iter().filter(|bundle| bundle.user.is_some()).count(),
            size: of_bundles(&|_| true),
            reclaimable: of_bundles(&|bundle| bundle.user.is_none()),
        },
        Used {
            kind: "Partial downloads",
            total: downloads,
            active: 0,
            size: usage.incoming.bytes,
            reclaimable: usage.incoming.bytes,
        },
    ];
    if global.json {
        let images = usage.images.iter().map(|of| {
            Value::record([
                ("Id", of.image.id().to_string().into()),
                ("Names", Value::list(of.image.names())),
                ("Size", of.size.into()),
                ("SharedSize", of.shared.into()),
                ("UniqueSize", of.unique().into()),
                ("Disk", of.disk.into()),
                ("InUse", of.in_use.into()),
            ])
        });
        let files = [usage.blobs, usage.layers, usage.trees, usage.incoming].map(|sum| sum.bytes);
        let [blobs, layers, trees, incoming] = files.map(Value::from);
        let document = Value::record([
            ("Usage", Value::List(rows.iter().map(documents::df_entry).collect())),
            ("Disk", Value::record([("Blobs", blobs), ("Layers", layers), ("Indexes", trees), ("Partial", incoming)])),
            ("Images", Value::List(images.collect())),
            ("Bundles", Value::List(bundles.iter().map(bundle_entry).collect())),
        ]);
        return screen.line(&document.json_pretty());
    }
    if !args.verbose {
        let rows: Vec<_> = rows.iter().map(documents::df_row).collect();
        return screen.print(&format.render(&rows, documents::DF_HEAD)?);
    }
    let images: Vec<_> = usage.images.into_iter().map(|of| of.image).collect();
    let layers = sharing(store, &images)?;
    let mut lines = listed(store, &images, &layers)?;
    documents::sort(&mut lines, Sort::Created);
    let style = Style { full: false, human: true, now: now() };
    let rows: Vec<_> = lines.iter().map(|line| documents::image_row(line, style)).collect();
    let columns = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}";
    screen.print("Images space usage:\n\n")?;
    screen.print(&Format::parse("table", columns)?.render(&rows, documents::IMAGES_HEAD)?)?;
    screen.print(&format!("\nBundles space usage:\n\n{}", align(&bundle_table(&bundles, style.now))))?;
    let mut table = "LAYER\tIMAGES\tSIZE\n".to_owned();
    for (diff_id, layer) in &layers {
        table.push_str(&format!("{}\t{}\t{}\n", diff_id.short(), layer.images, units::size(layer.content, 3)));
    }
    screen.print(&format!("\nLayers space usage:\n\n{}", align(&table)))?;
    let mut table = "FILES\tTOTAL\tSIZE ON DISK\n".to_owned();
    for (name, sum) in [
        ("Blobs", usage.blobs),
        ("Layers", usage.layers),
        ("Indexes", usage.trees),
        ("Partial downloads", usage.incoming),
    ] {
        table.push_str(&format!("{name}\t{}\t{}\n", sum.files, units::size(sum.bytes, 4)));
    }
    screen.print(&format!("\nFiles space usage:\n\n{}", align(&table)))
}
