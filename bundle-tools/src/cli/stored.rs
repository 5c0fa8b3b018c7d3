//! Commands on what the store has: `tag`, `rmi`, `prune`, `verify`.

use std::collections::HashSet;
use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;

use clap::Args;
use orlop_bundle::bundle;
use orlop_bundle::digest::Digest;
use orlop_bundle::error::{At, Error, ErrorKind, Result};
use orlop_bundle::format::Value;
use orlop_bundle::format::units;
use orlop_bundle::layer::Time;
use orlop_bundle::reference::Reference;
use orlop_bundle::store::{Found, Freed, Prune as Kind, Ref, Store, Verify as What};

use super::Global;
use super::screen::{Screen, ask, tell};
use super::shown::{created, now};

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

/// A name as it is kept: with its tag, and without a digest, which is not for us to give.
pub(crate) fn new_name(text: &str) -> Result<String> {
    let name: Reference = text.parse()?;
    if name.digest.is_some() {
        return Err(Error::invalid(format!("{text}: a digest can't be given to an image")));
    }
    Ok(name.tagged().to_string())
}

/// Gives an image another name.
pub(crate) fn tag(args: &Tag, store: &Store) -> Result<()> {
    let name = new_name(&args.name)?;
    let found = store.find(&args.image)?;
    // A whole index is the better one to have come from.
    let from = found.refs.iter().filter(|r| r.index.is_some()).max_by_key(|r| r.whole);
    match from.and_then(|r| r.index.as_ref().filter(|_| r.whole)) {
        Some(index) => store.set_ref_whole(&name, &found.descriptor, index),
        None => store.set_ref_from(&name, &found.descriptor, from.and_then(|r| r.index.as_ref())),
    }
}

/// The time that `SOURCE_DATE_EPOCH` says, in seconds since 1970, if it is set.
pub(crate) fn source_date_epoch() -> Result<Option<Time>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(None) };
    let sec = text.to_str().and_then(|text| text.parse().ok());
    let sec = sec.ok_or_else(|| Error::invalid(format!("SOURCE_DATE_EPOCH: not a number of seconds: {text:?}")))?;
    Ok(Some(Time { sec, nsec: 0 }))
}

/// Removes names, and images that have no other.
pub(crate) fn rmi(args: &Rmi, store: &Store, screen: &mut Screen) -> Result<()> {
    let used: HashSet<Digest> = store.bundle_manifests()?.iter().map(|manifest| manifest.digest).collect();
    let mut failed = None;
    for what in &args.images {
        match remove(what, args.force, &used, store, screen) {
            Err(e) if args.force && e.kind() == ErrorKind::NotFound => {}
            Err(e) => {
                // The others are still removed; the last error is the command's own.
                if let Some(before) = failed.replace(e) {
                    tell(&format!("orlop-bundle: rmi {before}"));
                }
            }
            Ok(()) => {}
        }
    }
    if !args.no_prune {
        match store.prune_where(Kind::Unnamed, &|_| Ok(false)) {
            // Somebody is at work: it goes with the next prune.
            Err(e) if e.kind() == ErrorKind::InUse => {}
            other => drop(other?),
        }
    }
    failed.map_or(Ok(()), Err)
}

fn remove(what: &str, force: bool, used: &HashSet<Digest>, store: &Store, screen: &mut Screen) -> Result<()> {
    let found = store.find(what)?;
    let id = found.manifest.config.digest;
    let is_name = |name: &str| name == what || name == format!("{what}:latest");
    let named = found.refs.iter().filter_map(|r| r.name.clone()).find(|name| is_name(name));
    // To people several manifests of one configuration are one image: packed in another way, or another registry's.
    let (of_image, others): (Vec<Found>, Vec<Found>) = match id.hex().starts_with(hex(what)) && named.is_none() {
        true => store.manifests()?.into_iter().partition(|other| other.manifest.config.digest == id),
        false => {
            let others = store.manifests()?.into_iter();
            (vec![found.clone()], others.filter(|other| other.descriptor.digest != found.descriptor.digest).collect())
        }
    };
    let names: Vec<&str> = of_image.iter().flat_map(|of| &of.refs).filter_map(|r| r.name.as_deref()).collect();
    let going = named.as_ref().map_or_else(|| names.clone(), |name| vec![name.as_str()]);
    let in_use = |why: String| Err(Error::new(ErrorKind::InUse, format!("{what}: {why}")));
    if !force && going.len() > 1 {
        return in_use(format!("has {} names ({}); remove them, or use -f", going.len(), going.join(", ")));
    }
    let last = going.len() == names.len();
    let is_used = of_image.iter().any(|of| used.contains(&of.descriptor.digest));
    if !force && last && is_used {
        return in_use("a bundle is made of it; remove that, or use -f".to_owned());
    }
    for name in &going {
        if store.remove_ref(name)? {
            screen.line(&format!("Untagged: {name}"))?;
        }
    }
    if last {
        for of in &of_image {
            store.remove_nameless(&of.descriptor.digest)?;
        }
        if !is_used && !others.iter().any(|other| other.manifest.config.digest == id) {
            screen.line(&format!("Deleted: {id}"))?;
        }
    }
    Ok(())
}

/// An id without what may stand before it.
fn hex(id: &str) -> &str {
    id.strip_prefix("sha256:").unwrap_or(id)
}

/// What `prune --filter` asks of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    /// Made before this time.
    Until(i64),
    /// Has this label, with this value if there is one.
    Label(String, Option<String>),
}

fn condition(text: &str, now: i64) -> Result<Condition> {
    let wrong = |what: &str| Error::invalid(format!("filter {text:?}: {what}"));
    match text.split_once('=') {
        Some(("until", time)) => {
            let age = || Some(now.saturating_sub(age(time)?));
            let time = units::parse_time(time).or_else(|| time.parse().ok()).or_else(age);
            time.map(Condition::Until)
                .ok_or_else(|| wrong("neither a time (RFC 3339, or seconds) nor an age (240h, 90m)"))
        }
        Some(("label", label)) => Ok(match label.split_once('=') {
            Some((key, value)) => Condition::Label(key.to_owned(), Some(value.to_owned())),
            None => Condition::Label(label.to_owned(), None),
        }),
        _ => Err(wrong("neither until=TIME nor label=KEY[=VALUE]")),
    }
}

/// The seconds of a duration as Go writes it: `1h30m`, `45s`.
fn age(text: &str) -> Option<i64> {
    let (mut seconds, mut number) = (0i64, None::<i64>);
    for c in text.chars() {
        match c.to_digit(10) {
            Some(digit) => number = Some(number.unwrap_or(0).checked_mul(10)?.checked_add(i64::from(digit))?),
            None => {
                let unit = match c {
                    'h' => 3600,
                    'm' => 60,
                    's' => 1,
                    _ => return None,
                };
                seconds = seconds.checked_add(number.take()?.checked_mul(unit)?)?;
            }
        }
    }
    (number.is_none() && !text.is_empty()).then_some(seconds)
}

/// Removes what nothing needs.
pub(crate) fn prune(args: &Prune, global: &Global, store: &Store, screen: &mut Screen) -> Result<()> {
    let now = now();
    let conditions = args.filter.iter().map(|text| condition(text, now)).collect::<Result<Vec<_>>>()?;
    let what = if args.all { "all images that no bundle is made of" } else { "all images without a name" };
    if !args.force && !confirmed(what)? {
        return Ok(());
    }
    let may = |r: &Ref| -> Result<bool> {
        if conditions.is_empty() {
            return Ok(true);
        }
        let image = store.image_of(&r.manifest)?;
        Ok(conditions.iter().all(|condition| match condition {
            // What has no date is older than any.
            Condition::Until(time) => created(&image).is_none_or(|made| made < *time),
            Condition::Label(key, value) => {
                let labels = &image.config.config.labels;
                labels.get(key).is_some_and(|is| value.as_ref().is_none_or(|value| value == is))
            }
        }))
    };
    // What is left of bundles whose directories somebody has removed keeps no image.
    bundle::sweep(store)?;
    let freed = store.prune_where(if args.all { Kind::Unused } else { Kind::Unnamed }, &may)?;
    screen.print(&pruned(&freed, global))
}

fn pruned(freed: &Freed, global: &Global) -> String {
    if global.json {
        let document = Value::record([
            ("Untagged", Value::list(freed.names.iter().map(String::as_str))),
            ("Deleted", Value::list(freed.manifests.iter().map(Digest::to_string))),
            ("Files", freed.files.into()),
            ("SpaceReclaimed", freed.bytes.into()),
        ]);
        return document.json_pretty() + "\n";
    }
    let mut out = String::new();
    let is_none = freed.names.is_empty() && freed.manifests.is_empty();
    if !global.quiet && !is_none {
        out.push_str("Deleted Images:\n");
        freed.names.iter().for_each(|name| out.push_str(&format!("untagged: {name}\n")));
        freed.manifests.iter().for_each(|digest| out.push_str(&format!("deleted: {digest}\n")));
        out.push('\n');
    }
    out.push_str(&format!("Total reclaimed space: {}\n", units::size(freed.bytes, 4)));
    out
}

/// Asks on a terminal. Where nobody can be asked, the answer has to be on the command line.
fn confirmed(what: &str) -> Result<bool> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(Error::invalid("standard input is no terminal to ask on; use -f"));
    }
    ask(&format!("WARNING! This will remove {what}.\nAre you sure you want to continue? [y/N] "));
    let mut answer = String::new();
    input.lock().read_line(&mut answer).at(|| "standard input")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Reads and hashes everything. The status is a failure's if something is bad and stays so.
pub(crate) fn verify(args: &Verify, global: &Global, store: &Store, screen: &mut Screen) -> Result<ExitCode> {
    let what = if args.repair { What::Repair } else { What::Report };
    let (mut checked, mut bad, mut findings, mut shown) = (0u64, 0u64, Vec::new(), Ok(()));
    let well = store.verify(what, &mut |finding| {
        checked += 1;
        let Some(damage) = &finding.damage else { return };
        bad += 1;
        if global.json {
            findings.push(Value::record([
                ("Kind", finding.kind.into()),
                ("Name", finding.name.as_str().into()),
                ("Damage", damage.as_str().into()),
                ("Repaired", finding.repaired.into()),
            ]));
        } else if shown.is_ok() {
            let repaired = if finding.repaired { " (repaired)" } else { "" };
            shown = screen.line(&format!("{} {}: {damage}{repaired}", finding.kind, finding.name));
        }
    })?;
    shown?;
    if global.json {
        let document =
            Value::record([("Checked", checked.into()), ("Well", well.into()), ("Damaged", Value::List(findings))]);
        screen.line(&document.json_pretty())?;
    } else if !global.quiet {
        screen.line(&format!("{checked} objects checked, {bad} damaged"))?;
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prune_takes_may_be_old_or_labelled() {
        let label = |key: &str, value: Option<&str>| Condition::Label(key.into(), value.map(Into::into));
        for (text, expected) in [
            ("until=240h", Some(Condition::Until(1_000_000 - 240 * 3600))),
            ("until=1h30m5s", Some(Condition::Until(1_000_000 - 5405))),
            ("until=1970-01-02T00:00:00Z", Some(Condition::Until(86400))),
            ("until=86400", Some(Condition::Until(86400))),
            ("label=a", Some(label("a", None))),
            ("label=a=b=c", Some(label("a", Some("b=c")))),
            ("until=", None),
            ("until=h", None),
            ("until=5d", None),
            ("until=99999999999999999999h", None),
            ("dangling=true", None),
            ("until", None),
        ] {
            assert_eq!(condition(text, 1_000_000).ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_new_name_has_a_tag_and_no_digest() {
        assert_eq!(new_name("mine").unwrap(), "mine:latest");
        assert_eq!(new_name("127.0.0.1:5000/a/b:c").unwrap(), "127.0.0.1:5000/a/b:c");
        let digest = Digest::of(b"");
        assert!(new_name(&format!("a@{digest}")).is_err());
        assert!(new_name("UPPER").is_err());
    }
}
