//! Images, their history and the store, in the words and columns of Docker.

use std::collections::BTreeSet;

use super::units::{self, rfc3339};
use super::{Template, Value};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{Compression, Descriptor, ImageConfig, LayerType, Manifest};
use crate::json;

/// How ids, sizes and ages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Ids and commands in full.
    pub full: bool,
    /// `78.2MB` and `2 hours ago`; otherwise bytes and dates.
    pub human: bool,
    /// The time from which ages are counted, in seconds since 1970.
    pub now: i64,
}

impl Style {
    fn id(self, id: &Digest) -> Value {
        if self.full { id.to_string().into() } else { id.short().into() }
    }

    fn size(self, bytes: u64, digits: usize) -> Value {
        if self.human { units::size(bytes, digits).into() } else { bytes.to_string().into() }
    }

    fn since(self, created: Option<i64>) -> Value {
        match created {
            None => "N/A".into(),
            Some(at) => format!("{} ago", units::duration(self.now.saturating_sub(at))).into(),
        }
    }
}

/// The parts of an image's name: the repository, and its tag or digest.
pub fn split_name(name: &str) -> (&str, Option<&str>, Option<&str>) {
    let (name, digest) = match name.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (name, None),
    };
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    match name.get(base..).and_then(|last| last.rfind(':')).map(|colon| name.split_at(base + colon)) {
        Some((repository, tag)) => (repository, tag.get(1..), digest),
        None => (name, None, digest),
    }
}

/// One line of `images`: a name of an image, or an image without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// `debian:bookworm`; `None` for an image that has no name.
    pub name: Option<String>,
    /// The digest of its configuration: the image's id.
    pub id: Digest,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// Seconds since 1970.
    pub created: Option<i64>,
    /// The size of the contents of all of its layers, in bytes: Docker's "virtual size".
    pub size: u64,
    /// How much of it other images have as well.
    pub shared: Option<u64>,
    /// Bundles that are made of it.
    pub bundles: usize,
    /// Its labels.
    pub labels: Vec<(String, String)>,
}

/// What `--sort` goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// The newest first, as Docker does.
    Created,
    /// The largest first.
    Size,
    /// By name.
    Name,
}

/// Puts the lines into order; equal ones are ordered by name and id, so that the order is always the same.
pub fn sort(lines: &mut [Listed], by: Sort) {
    let name = |line: &Listed| (line.name.is_none(), line.name.clone(), line.id);
    match by {
        Sort::Created => lines.sort_by_cached_key(|line| (std::cmp::Reverse(line.created), name(line))),
        Sort::Size => lines.sort_by_cached_key(|line| (std::cmp::Reverse(line.size), name(line))),
        Sort::Name => lines.sort_by_cached_key(name),
    }
}

/// A `--filter` of `images`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// `dangling=true`: has no name.
    Dangling(bool),
    /// `reference=PATTERN`, with `*`, `?` and `[a-z]` that don't cross a slash.
    Reference(String),
    /// `label=KEY` or `label=KEY=VALUE`.
    Label(String, Option<String>),
    /// `before=IMAGE`: made earlier than that one.
    Before(String),
    /// `since=IMAGE`: made later.
    Since(String),
}

impl std::str::FromStr for Filter {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |what: &str| Err(Error::invalid(format!("filter {text:?}: {what}")));
        let Some((key, value)) = text.split_once('=') else { return wrong("not of the form NAME=VALUE") };
        Ok(match (key.trim(), value.trim()) {
            ("dangling", "true" | "1") => Self::Dangling(true),
            ("dangling", "false" | "0") => Self::Dangling(false),
            ("dangling", _) => return wrong("neither true nor false"),
            ("reference", pattern) => Self::Reference(pattern.to_owned()),
            ("label", label) => match label.split_once('=') {
                Some((key, value)) => Self::Label(key.to_owned(), Some(value.to_owned())),
                None => Self::Label(label.to_owned(), None),
            },
            ("before", image) => Self::Before(image.to_owned()),
            ("since", image) => Self::Since(image.to_owned()),
            _ => return wrong("not one of dangling, reference, label, before and since"),
        })
    }
}

impl Filter {
    /// Whether `line` stays. `created` tells when an image of a given name was made.
    pub fn takes(&self, line: &Listed, created: impl FnOnce(&str) -> Result<Option<i64>>) -> Result<bool> {
        Ok(match self {
            Self::Dangling(yes) => line.name.is_none() == *yes,
            Self::Reference(pattern) => line.name.as_deref().is_some_and(|name| refers(pattern, name)),
            Self::Label(key, value) => {
                line.labels.iter().any(|(have, is)| have == key && value.as_ref().is_none_or(|value| value == is))
            }
            Self::Before(image) => line.created < created(image)?,
            Self::Since(image) => line.created > created(image)?,
        })
    }
}

/// Whether `pattern` means `name`: all of it, or the name without its tag, as Docker has it.
pub fn refers(pattern: &str, name: &str) -> bool {
    matches(pattern, name) || matches(pattern, split_name(name).0)
}

/// Go's `path.Match`: `*` and `?` match no slash, `[a-c]` and `[^a]` one character, `\` takes the next one as it is.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where the last star stands and how much text it has taken: only that one needs to be tried again.
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some('*'), _) => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            (Some('?'), Some(c)) if *c != '/' => Some(1),
            (Some('['), Some(c)) => class(pattern.get(p..).unwrap_or_default(), *c),
            (Some('\\'), Some(c)) if pattern.get(p + 1) == Some(c) => Some(2),
            (Some(a), Some(c)) if a == c && !matches!(a, '?' | '\\') => Some(1),
            _ => None,
        };
        if let Some(length) = step {
            (p, t) = (p + length, t + 1);
            continue;
        }
        match star {
            Some((at, taken)) if text.get(taken).is_some_and(|c| *c != '/') => {
                star = Some((at, taken + 1));
                (p, t) = (at + 1, taken + 1);
            }
            _ => return false,
        }
    }
}

/// The length of the class at the start of `pattern` if it has `c`.
fn class(pattern: &[char], c: char) -> Option<usize> {
    let negated = matches!(pattern.get(1), Some('^'));
    let mut at = if negated { 2 } else { 1 };
    let mut found = false;
    let first = at;
    loop {
        let low = *pattern.get(at)?;
        if low == ']' && at > first {
            return (found != negated && c != '/').then_some(at + 1);
        }
        let high = match (pattern.get(at + 1), pattern.get(at + 2)) {
            (Some('-'), Some(high)) if *high != ']' => {
                at += 2;
                *high
            }
            _ => low,
        };
        found |= (low..=high).contains(&c);
        at += 1;
    }
}

/// The columns of `images`, and with `--digests`.
pub const IMAGES: &str = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
/// See [`IMAGES`].
pub const IMAGES_DIGESTS: &str = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
/// What stands above them.
pub const IMAGES_HEAD: &[(&str, &str)] = &[
    ("Containers", "CONTAINERS"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedSince", "CREATED"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("Labels", "LABELS"),
    ("Repository", "REPOSITORY"),
    ("SharedSize", "SHARED SIZE"),
    ("Size", "SIZE"),
    ("Tag", "TAG"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "SIZE"),
];

/// What a template of `images` sees of a line.
pub fn image_row(line: &Listed, style: Style) -> Value {
    let none = || "<none>".to_owned();
    let (repository, tag) = match line.name.as_deref().map(split_name) {
        Some((repository, tag, _)) => (repository.to_owned(), tag.map_or_else(none, str::to_owned)),
        None => (none(), none()),
    };
    let part = |bytes: Option<u64>| bytes.map_or_else(|| "N/A".into(), |bytes| style.size(bytes, 4));
    let labels: Vec<_> = line.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Value::record([
        ("Containers", line.bundles.to_string().into()),
        ("CreatedAt", line.created.map_or_else(|| "N/A".to_owned(), units::go_time).into()),
        ("CreatedSince", style.since(line.created)),
        ("Digest", line.manifest.to_string().into()),
        ("ID", style.id(&line.id)),
        ("Labels", labels.join(",").into()),
        ("Repository", repository.into()),
        ("SharedSize", part(line.shared)),
        ("Size", style.size(line.size, 3)),
        ("Tag", tag.into()),
        ("UniqueSize", part(line.shared.map(|shared| line.size.saturating_sub(shared)))),
        ("VirtualSize", style.size(line.size, 4)),
    ])
}

/// What `images --json` says of an image and all of its names: numbers and dates for programs.
pub fn image_entry(names: &[&str], line: &Listed) -> Value {
    Value::record([
        ("Id", line.id.to_string().into()),
        ("Digest", line.manifest.to_string().into()),
        ("Names", Value::list(names.iter().copied())),
        ("Created", line.created.map(rfc3339).into()),
        ("Size", line.size.into()),
        ("SharedSize", line.shared.into()),
        ("Bundles", line.bundles.into()),
        ("Labels", Value::Map(line.labels.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect())),
    ])
}

/// One line of `history`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The image's id for the newest step; the others are of images that are not here.
    pub id: Option<Digest>,
    /// Seconds since 1970.
    pub created: Option<i64>,
    /// The command.
    pub created_by: String,
    /// The size of its layer's contents, in bytes.
    pub size: u64,
    /// Free words.
    pub comment: String,
    /// The layer that it made.
    pub layer: Option<Digest>,
}

/// The steps of an image, the newest first. `size` tells how large the contents of a layer are. Layers that the history
/// does not mention come last, as steps of their own.
pub fn steps(id: Digest, config: &ImageConfig, mut size: impl FnMut(&Digest) -> Result<u64>) -> Result<Vec<Step>> {
    let mut layers = config.rootfs.diff_ids.iter();
    let mut steps = Vec::with_capacity(config.history.len());
    for history in &config.history {
        let layer = if history.empty_layer { None } else { layers.next() };
        steps.push(Step {
            id: None,
            created: history.created.as_deref().and_then(units::parse_time),
            created_by: history.created_by.clone(),
            size: layer.map(&mut size).transpose()?.unwrap_or(0),
            comment: history.comment.clone(),
            layer: layer.copied(),
        });
    }
    for layer in layers {
        let (created, created_by, comment) = (None, String::new(), String::new());
        steps.push(Step { id: None, created, created_by, size: size(layer)?, comment, layer: Some(*layer) });
    }
    steps.reverse();
    if let Some(newest) = steps.first_mut() {
        newest.id = Some(id);
    }
    Ok(steps)
}

/// The columns of `history`.
pub const HISTORY: &str = "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
/// The same with `--human=false`.
pub const HISTORY_DATES: &str = "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
/// What stands above them.
pub const HISTORY_HEAD: &[(&str, &str)] = &[
    ("Comment", "COMMENT"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("CreatedSince", "CREATED"),
    ("ID", "IMAGE"),
    ("Layer", "LAYER"),
    ("Size", "SIZE"),
];

/// What a template of `history` sees of a step.
pub fn history_row(step: &Step, style: Style) -> Value {
    // Tabs would be taken for columns.
    let mut command = step.created_by.replace('\t', " ");
    if !style.full && command.chars().count() > 45 {
        command = command.chars().take(44).chain(['…']).collect();
    }
    let at = step.created.map_or_else(|| "N/A".to_owned(), rfc3339);
    Value::record([
        ("Comment", step.comment.as_str().into()),
        ("CreatedAt", at.as_str().into()),
        ("CreatedBy", command.into()),
        // Docker's history takes the beginning of time, too, for no date.
        ("CreatedSince", style.since(step.created.filter(|at| *at > 0))),
        ("ID", step.id.as_ref().map_or_else(|| "<missing>".into(), |id| style.id(id))),
        ("Layer", step.layer.as_ref().map_or_else(|| "".into(), |layer| style.id(layer))),
        ("Size", style.size(step.size, 3)),
    ])
}

/// What `history --json` says of a step.
pub fn history_entry(step: &Step) -> Value {
    Value::record([
        ("Id", step.id.map(|id| id.to_string()).into()),
        ("Created", step.created.map(rfc3339).into()),
        ("CreatedBy", step.created_by.as_str().into()),
        ("Size", step.size.into()),
        ("Comment", step.comment.as_str().into()),
        ("Layer", step.layer.map(|layer| layer.to_string()).into()),
    ])
}

/// What the store knows of an image beyond its documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected<'a> {
    /// All of its names, each with the digest of what the registry knows by it: the manifest, or an index that has it.
    pub names: &'a [(String, Digest)],
    /// The descriptor of its manifest.
    pub manifest: &'a Descriptor,
    /// The manifest.
    pub parts: &'a Manifest,
    /// The bytes of its configuration.
    pub config: &'a [u8],
    /// The size of the contents of all layers.
    pub size: u64,
    /// When it was given its newest name, in seconds since 1970.
    pub tagged: Option<i64>,
    /// Where its merged index is, if it has been made.
    pub index: Option<&'a str>,
    /// Where its plain layers are, from the base up.
    pub tars: &'a [String],
}

/// The document of `inspect`: the members that Docker had until 25, by its names, then what is known here besides
/// (`Manifest`, `Layers`). What Docker leaves out when it is empty is there, and null. Left out are `Container` and
/// `ContainerConfig`, which say what an old build left behind, and which Docker itself has given up.
pub fn inspect(image: &Inspected<'_>) -> Result<Value> {
    let config: serde_json::Value = json::parse("image configuration", image.config)?;
    let parsed = ImageConfig::parse(image.config, image.parts.layers.len())?;
    let text = |key: &str| config.get(key).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    let mut repositories = BTreeSet::new();
    for (name, digest) in image.names {
        repositories.insert(format!("{}@{digest}", split_name(name).0));
    }
    let tags = image.names.iter().map(|(name, _)| name.as_str()).filter(|name| !name.contains('@'));
    let comment = parsed.history.last().map(|step| step.comment.as_str()).unwrap_or_default();
    let layers = image.parts.layers.iter().zip(&parsed.rootfs.diff_ids).map(|(blob, diff)| {
        let compression = LayerType::of(&blob.media_type).map(|layer| match layer.compression {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        });
        Value::record([
            ("DiffId", diff.to_string().into()),
            ("Blob", blob.digest.to_string().into()),
            ("BlobSize", blob.size.into()),
            ("Compression", compression.into()),
        ])
    });
    Ok(Value::record([
        ("Id", image.parts.config.digest.to_string().into()),
        ("RepoTags", Value::list(tags)),
        ("RepoDigests", Value::list(repositories)),
        ("Parent", "".into()),
        ("Comment", comment.into()),
        ("Created", text("created").into()),
        ("DockerVersion", text("docker_version").into()),
        ("Author", text("author").into()),
        ("Config", run_config(config.get("config"))),
        ("Architecture", text("architecture").into()),
        ("Variant", text("variant").into()),
        ("Os", text("os").into()),
        ("OsVersion", text("os.version").into()),
        ("Size", image.size.into()),
        ("VirtualSize", image.size.into()),
        ("GraphDriver", Value::record([("Data", graph_data(image)), ("Name", "erofs".into())])),
        (
            "RootFS",
            Value::record([
                ("Type", "layers".into()),
                ("Layers", Value::list(parsed.rootfs.diff_ids.iter().map(Digest::to_string))),
            ]),
        ),
        ("Metadata", Value::record([("LastTagTime", image.tagged.map(rfc3339).into())])),
        (
            "Manifest",
            Value::record([
                ("MediaType", image.manifest.media_type.as_str().into()),
                ("Digest", image.manifest.digest.to_string().into()),
                ("Size", image.manifest.size.into()),
            ]),
        ),
        ("Layers", Value::list(layers)),
    ]))
}

/// Where an image's files are, in texts as Docker's drivers have them.
fn graph_data(image: &Inspected<'_>) -> Value {
    let index = image.index.map(|index| ("Index".to_owned(), index.into()));
    Value::Map(index.into_iter().chain([("Layers".to_owned(), image.tars.join(":").into())]).collect())
}

/// `config` of a configuration with all members of Docker's, and what it has besides.
fn run_config(config: Option<&serde_json::Value>) -> Value {
    const SLICE: Value = Value::Null("[]");
    const MAP: Value = Value::Null("map[]");
    const POINTER: Value = Value::Null("<nil>");
    let known = [
        ("Hostname", "".into()),
        ("Domainname", "".into()),
        ("User", "".into()),
        ("AttachStdin", false.into()),
        ("AttachStdout", false.into()),
        ("AttachStderr", false.into()),
        ("ExposedPorts", MAP),
        ("Tty", false.into()),
        ("OpenStdin", false.into()),
        ("StdinOnce", false.into()),
        ("Env", SLICE),
        ("Cmd", SLICE),
        ("Healthcheck", POINTER),
        ("ArgsEscaped", false.into()),
        ("Image", "".into()),
        ("Volumes", MAP),
        ("WorkingDir", "".into()),
        ("Entrypoint", SLICE),
        ("NetworkDisabled", false.into()),
        ("MacAddress", "".into()),
        ("OnBuild", SLICE),
        ("Labels", MAP),
        ("StopSignal", "".into()),
        ("StopTimeout", POINTER),
        ("Shell", SLICE),
    ];
    let mut members = config.and_then(|config| config.as_object()).cloned().unwrap_or_default();
    let mut fields = Vec::with_capacity(known.len() + members.len());
    for (name, absent) in known {
        let value = members.remove(name).filter(|value| !value.is_null());
        fields.push((name.to_owned(), value.map_or(absent, Value::from)));
    }
    fields.extend(members.into_iter().map(|(name, value)| (name, value.into())));
    Value::Record(fields)
}

/// The documents `entries`, as `inspect` prints them: what the template makes of each, or a list of JSON.
pub fn inspected(entries: &[Value], template: Option<&Template>) -> Result<String> {
    match template {
        None => Ok(Value::List(entries.to_vec()).json_pretty() + "\n"),
        Some(template) => {
            let mut out = String::new();
            for entry in entries {
                out.push_str(&template.render(entry)?);
                out.push('\n');
            }
            Ok(out)
        }
    }
}

/// One line of `df`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// `Images`, `Bundles`, ...
    pub kind: &'static str,
    /// How many there are.
    pub total: usize,
    /// How many of them are in use.
    pub active: usize,
    /// The bytes of their files.
    pub size: u64,
    /// The bytes that removing what is not in use would free.
    pub reclaimable: u64,
}

/// The columns of `df`.
pub const DF: &str = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
/// What stands above them.
pub const DF_HEAD: &[(&str, &str)] = &[
    ("Active", "ACTIVE"),
    ("Reclaimable", "RECLAIMABLE"),
    ("Size", "SIZE"),
    ("TotalCount", "TOTAL"),
    ("Type", "TYPE"),
];

/// What a template of `df` sees of a line.
pub fn df_row(used: &Used) -> Value {
    let mut reclaimable = units::size(used.reclaimable, 4);
    if let Some(percent) = used.reclaimable.saturating_mul(100).checked_div(used.size) {
        reclaimable = format!("{reclaimable} ({percent}%)");
    }
    Value::record([
        ("Active", used.active.to_string().into()),
        ("Reclaimable", reclaimable.into()),
        ("Size", units::size(used.size, 4).into()),
        ("TotalCount", used.total.to_string().into()),
        ("Type", used.kind.into()),
    ])
}

/// What `df --json` says of a line.
pub fn df_entry(used: &Used) -> Value {
    Value::record([
        ("Type", used.kind.into()),
        ("TotalCount", used.total.into()),
        ("Active", used.active.into()),
        ("Size", used.size.into()),
        ("Reclaimable", used.reclaimable.into()),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;
    use crate::image::media;

    /// 2026-11-21 12:25:44 UTC.
    const NOW: i64 = 1_795_263_944;

    fn style() -> Style {
        Style { full: false, human: true, now: NOW }
    }

    fn id(digit: &str) -> Digest {
        Digest::from_hex(&digit.repeat(32)).unwrap()
    }

    fn lines() -> Vec<Listed> {
        let line = |name: Option<&str>, digit: &str, created: i64, size: u64| Listed {
            name: name.map(str::to_owned),
            id: id(digit),
            manifest: id("cd"),
            created: Some(created),
            size,
            shared: Some(500),
            bundles: 1,
            labels: vec![("a".to_owned(), "1".to_owned())],
        };
        vec![
            line(Some("debian:bookworm"), "ab", 1_795_254_744, 124_123_456),
            line(Some("debian:12"), "ab", 1_795_254_744, 124_123_456),
            line(None, "12", 0, 999_960),
            line(Some("127.0.0.1:5000/team/app:1.2"), "34", 1_700_000_000, 0),
        ]
    }

    fn table(format: &str, columns: &str, style: Style) -> String {
        let rows: Vec<_> = lines().iter().map(|line| image_row(line, style)).collect();
        Format::parse(format, columns)
            .and_then(|format| format.render(&rows, IMAGES_HEAD))
            .unwrap_or_else(|e| e.to_string())
    }

    #[test]
    fn images_are_listed_as_docker_lists_them() {
        // What docker 28.2 prints for the same images, but for its 1e+03kB.
        let expected = "\
REPOSITORY                TAG        IMAGE ID       CREATED        SIZE
debian                    bookworm   abababababab   3 hours ago    124MB
debian                    12         abababababab   3 hours ago    124MB
<none>                    <none>     121212121212   56 years ago   1MB
127.0.0.1:5000/team/app   1.2        343434343434   3 years ago    0B
";
        assert_eq!(table("table", IMAGES, style()), expected);
        let full = table("", IMAGES_DIGESTS, Style { full: true, ..style() });
        let line = format!("debian                    12         {}   {}   3 hours ago    124MB", id("cd"), id("ab"));
        assert_eq!(full.lines().nth(2).unwrap(), line);
    }

    #[test]
    fn templates_choose_the_columns_of_images() {
        for (format, expected) in [
            (
                r"table {{.ID}}\t{{.Repository | upper}}",
                "IMAGE ID       REPOSITORY\nabababababab   DEBIAN\nabababababab   DEBIAN\n121212121212   <NONE>\n\
                 343434343434   127.0.0.1:5000/TEAM/APP\n",
            ),
            (
                "table {{json .ID}}\\t{{.Tag}}",
                "IMAGE ID         TAG\n\"abababababab\"   bookworm\n\"abababababab\"   12\n\"121212121212\"   <none>\n\
                 \"343434343434\"   1.2\n",
            ),
            (
                "{{.Containers}} {{.SharedSize}} {{.UniqueSize}}",
                "1 500B 124.1MB\n1 500B 124.1MB\n1 500B 999.5kB\n1 500B 0B\n",
            ),
            (
                "{{slice .CreatedAt 0 19}}",
                "2026-11-21 09:52:24\n2026-11-21 09:52:24\n1970-01-01 00:00:00\n2023-11-14 22:13:20\n",
            ),
            ("{{.Foo}}", "format: 1:3: there is no .Foo in object"),
            ("table {{.Foo}}", "format: 1:3: there is no .Foo in object"),
        ] {
            assert_eq!(table(format, IMAGES, style()), expected, "{format}");
        }
        let json = table("json", IMAGES, style());
        let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
        let digest = id("cd").to_string();
        let expected = serde_json::json!({
            "Containers": "1", "CreatedAt": "2026-11-21 09:52:24 +0000 UTC", "CreatedSince": "3 hours ago",
            "Digest": digest, "ID": "abababababab", "Labels": "a=1", "Repository": "debian", "SharedSize": "500B",
            "Size": "124MB", "Tag": "bookworm", "UniqueSize": "124.1MB", "VirtualSize": "124.1MB"
        });
        assert_eq!(first, expected);
    }

    #[test]
    fn names_are_split_at_the_tag_and_not_at_the_port() {
        for (name, parts) in [
            ("a", ("a", None, None)),
            ("a:1", ("a", Some("1"), None)),
            ("127.0.0.1:5000/a", ("127.0.0.1:5000/a", None, None)),
            ("127.0.0.1:5000/a/b:c", ("127.0.0.1:5000/a/b", Some("c"), None)),
            ("a:1@sha256:00", ("a", Some("1"), Some("sha256:00"))),
        ] {
            assert_eq!(split_name(name), parts, "{name}");
        }
    }

    #[test]
    fn patterns_are_those_of_path_match() {
        for (pattern, text, expected) in [
            ("debian", "debian", true),
            ("deb*", "debian", true),
            ("*", "team/app", false),
            ("*/*", "team/app", true),
            ("*/app:1.?", "team/app:1.2", true),
            ("[a-e]ebian", "debian", true),
            ("[^a-c]ebian", "debian", true),
            ("[^d]ebian", "debian", false),
            ("a[", "a[", false),
            ("a[]", "a]", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("", "", true),
            ("?", "/", false),
            ("*a", "b/a", false),
            (&"*a".repeat(1000), &"a".repeat(999), false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
        assert!(refers("debian", "debian:12") && refers("debian:1?", "debian:12") && !refers("deb", "debian:12"));
    }

    #[test]
    fn filters_take_what_they_say() {
        let made = |name: &str| match name {
            "app" => Ok(Some(1_700_000_000)),
            _ => Err(Error::not_found(format!("{name}: no such image"))),
        };
        let kept = |text: &str| -> Result<Vec<usize>> {
            let filter: Filter = text.parse()?;
            let mut kept = Vec::new();
            for (n, line) in lines().iter().enumerate() {
                if filter.takes(line, made)? {
                    kept.push(n);
                }
            }
            Ok(kept)
        };
        for (text, expected) in [
            ("dangling=true", vec![2]),
            ("dangling=0", vec![0, 1, 3]),
            ("reference=debian", vec![0, 1]),
            ("reference=*:12", vec![1]),
            ("reference=*/*/*", vec![3]),
            ("label=a", vec![0, 1, 2, 3]),
            ("label=a=2", vec![]),
            ("before=app", vec![2]),
            ("since=app", vec![0, 1]),
        ] {
            assert_eq!(kept(text).unwrap(), expected, "{text}");
        }
        for wrong in ["dangling", "dangling=maybe", "colour=red", "since=nothing"] {
            assert!(kept(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn images_are_ordered_by_age_size_or_name() {
        for (by, expected) in [
            (Sort::Created, ["debian:12", "debian:bookworm", "127.0.0.1:5000/team/app:1.2", "-"]),
            (Sort::Size, ["debian:12", "debian:bookworm", "-", "127.0.0.1:5000/team/app:1.2"]),
            (Sort::Name, ["127.0.0.1:5000/team/app:1.2", "debian:12", "debian:bookworm", "-"]),
        ] {
            let mut lines = lines();
            sort(&mut lines, by);
            let names: Vec<_> = lines.iter().map(|line| line.name.as_deref().unwrap_or("-")).collect();
            assert_eq!(names, expected, "{by:?}");
        }
    }

    const CONFIG: &str = r#"{
        "created": "2026-11-21T11:52:24Z", "author": "me", "os": "linux", "architecture": "arm64", "variant": "v8",
        "config": {"Env": ["A=1"], "Labels": {"x": "y"}, "Cmd": null, "Healthcheck": {"Test": ["NONE"]}},
        "rootfs": {"type": "layers", "diff_ids": [
            "sha256:abababababababababababababababababababababababababababababababab",
            "sha256:cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"]},
        "history": [
            {"created": "0001-01-01T00:00:00Z"},
            {"created": "1970-01-01T00:00:00Z", "created_by": "short", "empty_layer": true},
            {"created": "2026-11-21T11:52:24Z", "comment": "c",
             "created_by": "/bin/sh -c #(nop)\tCMD [\"bash\"] and a very long command that goes on and on"}
        ]
    }"#;

    fn config() -> String {
        // A tab is not allowed in JSON as it is.
        CONFIG.replace('\t', "\\t")
    }

    fn history(format: &str, columns: &str, style: Style) -> String {
        let config = ImageConfig::parse(config().as_bytes(), 2).unwrap();
        let size = |diff: &Digest| Ok(if *diff == id("ab") { 5 } else { 77_800_000 });
        let rows: Vec<_> =
            steps(id("ab"), &config, size).unwrap().iter().map(|step| history_row(step, style)).collect();
        Format::parse(format, columns).unwrap().render(&rows, HISTORY_HEAD).unwrap()
    }

    #[test]
    fn history_is_printed_as_docker_prints_it() {
        let expected = [
            "IMAGE          CREATED          CREATED BY                                      SIZE      COMMENT",
            "abababababab   33 minutes ago   /bin/sh -c #(nop) CMD [\"bash\"] and a very lo…   77.8MB    c",
            "<missing>      N/A              short                                           0B        ",
            "<missing>      N/A                                                              5B        ",
            "",
        ];
        assert_eq!(history("table", HISTORY, style()), expected.join("\n"));
        let plain = history("", HISTORY_DATES, Style { full: true, human: false, now: NOW });
        let mut lines = plain.lines();
        assert!(lines.next().unwrap().contains("   CREATED AT             CREATED BY   "));
        let first = lines.next().unwrap();
        assert!(first.contains("2026-11-21T11:52:24Z") && first.contains("and on   77800000   c"), "{first}");
        assert_eq!(history("{{.Layer}}", HISTORY, style()), "cdcdcdcdcdcd\n\nabababababab\n");
    }

    #[test]
    fn layers_without_history_are_steps_too_and_the_newest_step_has_the_id() {
        let config = config().replace("\"history\"", "\"other\"");
        let config = ImageConfig::parse(config.as_bytes(), 2).unwrap();
        let steps = steps(id("12"), &config, |_| Ok(1)).unwrap();
        let seen: Vec<_> = steps.iter().map(|step| (step.id, step.layer)).collect();
        assert_eq!(seen, [(Some(id("12")), Some(id("cd"))), (None, Some(id("ab")))]);
    }

    #[test]
    fn inspect_has_dockers_members_and_the_configuration_whole() {
        let layer = Descriptor::new(media::LAYER_GZIP, id("56"), 10);
        let parts = Manifest {
            schema_version: 2,
            media_type: media::MANIFEST.to_owned(),
            artifact_type: None,
            config: Descriptor::new(media::CONFIG, id("12"), 3),
            layers: vec![layer.clone(), Descriptor { media_type: media::LAYER_ZSTD.to_owned(), ..layer }],
            subject: None,
            annotations: Default::default(),
        };
        let names = [("h:1/a:1".to_owned(), id("78")), ("h:1/a:2".to_owned(), id("78")), ("b".to_owned(), id("34"))];
        let manifest = Descriptor::new(media::MANIFEST, id("34"), 9);
        let text = config();
        let document = inspect(&Inspected {
            names: &names,
            manifest: &manifest,
            parts: &parts,
            config: text.as_bytes(),
            size: 77_800_005,
            tagged: Some(1_795_261_944),
            index: Some("/s/trees/12.erofs"),
            tars: &["/s/layers/ab.tar".to_owned(), "/s/layers/cd.tar".to_owned()],
        })
        .unwrap();
        let render =
            |template: &str| Template::parse(template).and_then(|template| template.render(&document)).unwrap();
        let (ab, cd, a, b) = (id("ab"), id("cd"), id("78"), id("34"));
        for (template, expected) in [
            ("{{.Id}} {{.ID}}", format!("{0} {0}", id("12"))),
            ("{{json .RepoTags}}", r#"["h:1/a:1","h:1/a:2","b"]"#.to_owned()),
            ("{{json .RepoDigests}}", format!(r#"["b@{b}","h:1/a@{a}"]"#)),
            (
                "{{.Os}}/{{.Architecture}}/{{.Variant}} {{.Author}} {{.Size}} {{.Comment}}",
                "linux/arm64/v8 me 77800005 c".into(),
            ),
            ("{{json .RootFS}}", format!(r#"{{"Type":"layers","Layers":["{ab}","{cd}"]}}"#)),
            ("{{.Config.Cmd}} {{.Config.Env}} {{.Config.Volumes}} [{{.Config.User}}]", "[] [A=1] map[] []".into()),
            (
                "{{.Config.Tty}} {{.Config.StopTimeout}} {{.Config.Shell}} {{.VirtualSize}}",
                "false <nil> [] 77800005".into(),
            ),
            ("{{if .Config.ExposedPorts}}ports{{end}}{{.Parent}}{{.DockerVersion}}{{.OsVersion}}", String::new()),
            ("{{.GraphDriver.Name}} {{.GraphDriver.Data.Index}}", "erofs /s/trees/12.erofs".into()),
            ("{{.GraphDriver.Data.Layers}}", "/s/layers/ab.tar:/s/layers/cd.tar".into()),
            ("{{.Config.Labels.x}} {{.Config.Labels.z}}", "y <no value>".into()),
            ("{{index .Config.Healthcheck.Test 0}}", "NONE".into()),
            ("{{.Metadata.LastTagTime}}", "2026-11-21T11:52:24Z".into()),
            ("{{range .Layers}}{{.Compression}} {{end}}", "gzip zstd ".into()),
            ("{{.Manifest.Digest}}", b.to_string()),
        ] {
            assert_eq!(render(template), expected, "{template}");
        }
        let printed = inspected(&[document], None).unwrap();
        assert!(printed.starts_with("[\n    {\n        \"Id\": \"sha256:1212"), "{printed}");
        assert!(serde_json::from_str::<serde_json::Value>(&printed).is_ok());
    }

    #[test]
    fn df_says_what_can_be_had_back() {
        let used = |total, size, reclaimable| Used { kind: "Images", total, active: 1, size, reclaimable };
        let rows = [used(3, 1_092_588, 500_000), used(0, 0, 0)].map(|used| df_row(&used));
        let expected = "\
TYPE      TOTAL     ACTIVE    SIZE      RECLAIMABLE
Images    3         1         1.093MB   500kB (45%)
Images    0         1         0B        0B
";
        assert_eq!(Format::parse("table", DF).unwrap().render(&rows, DF_HEAD).unwrap(), expected);
    }
}
