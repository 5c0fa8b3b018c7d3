//! `mounts`: what every container has, the image's volumes, and the caller's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use serde_json::{Value, json};

use crate::config::namespaces::{Join, Mapping};
use crate::config::process::clean;
use crate::config::resources::Bytes;
use crate::config::{Context, Options};
use crate::error::{At, Error, Result};
use crate::image::RunConfig;

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path of the host.
    Host(PathBuf),
    /// A new directory of the bundle, filled with what the image has there.
    Volume,
    /// An empty tmpfs.
    Tmpfs,
}

/// A mount that the caller asked for, or an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Where in the container: absolute and clean.
    pub destination: String,
    /// What.
    pub source: Source,
    /// Options of mount(8), but for `bind`.
    pub options: Vec<String>,
}

/// `--volume`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFlag(pub Wanted);

/// `--mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFlag(pub Wanted);

/// `--tmpfs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmpfsFlag(pub Wanted);

/// A place for a mount in a container: not the root, and not /proc, which would hide what runtimes check.
fn destination(path: &str) -> Result<String> {
    let clean = clean(path).map_err(|why| Error::invalid(format!("{path:?} {why}")))?;
    match clean.as_str() {
        "/" | "/proc" => Err(Error::invalid(format!("{path:?}: nothing can be mounted on {clean}"))),
        _ => Ok(clean),
    }
}

/// A path of the host: `/x`, `./x`, `../x`.
fn host(path: &str) -> Result<PathBuf> {
    if !path.starts_with(['/', '.']) {
        return Err(Error::unsupported(format!("{path:?}: there are no named volumes; a path begins with / or .")));
    }
    std::path::absolute(path).at(|| format!("{path:?}"))
}

const PROPAGATION: [&str; 6] = ["private", "rprivate", "slave", "rslave", "shared", "rshared"];

/// A bind's options from the words behind `-v`: by default all that is mounted below, seen as private. Read-only is
/// read-only all the way down.
fn bind_options(words: &[&str]) -> Result<Vec<String>> {
    let (mut recursive, mut propagation, mut flags, mut read) = ("rbind", "rprivate", Vec::new(), None);
    for word in words {
        match *word {
            "ro" | "rw" if read.is_some_and(|read| read != *word) => {
                return Err(Error::invalid("both ro and rw"));
            }
            "ro" | "rw" => read = Some(*word),
            "bind" | "rbind" => recursive = word,
            word if PROPAGATION.contains(&word) => propagation = word,
            "nosuid" | "nodev" | "noexec" | "suid" | "dev" | "exec" => flags.push((*word).to_owned()),
            // Labels of SELinux, which needs none where there is none; macOS' caches; and seeding, which a bind has not.
            "z" | "Z" if std::fs::metadata("/sys/fs/selinux/enforce").is_err() => {}
            "z" | "Z" => return Err(Error::unsupported("files are not relabelled: chcon(1) them")),
            "consistent" | "cached" | "delegated" | "nocopy" => {}
            _ => return Err(Error::invalid(format!("unknown option {word:?}"))),
        }
    }
    let read: &[&str] = match (read, recursive) {
        (Some("ro"), "rbind") => &["ro", "rro"],
        (Some("ro"), _) => &["ro"],
        _ => &[],
    };
    let mut options = vec![recursive.to_owned(), propagation.to_owned()];
    options.extend(read.iter().map(|word| (*word).to_owned()));
    options.extend(flags);
    Ok(options)
}

impl FromStr for VolumeFlag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<_> = text.split(':').collect();
        let (source, place, words) = match *parts.as_slice() {
            [place] => (Source::Volume, place, ""),
            [source, place] => (Source::Host(host(source)?), place, ""),
            [source, place, words] => (Source::Host(host(source)?), place, words),
            _ => return Err(Error::invalid("not [HOST:]PATH[:OPTIONS]")),
        };
        let words: Vec<_> = words.split(',').filter(|word| !word.is_empty()).collect();
        Ok(Self(Wanted { destination: destination(place)?, source, options: bind_options(&words)? }))
    }
}

impl FromStr for TmpfsFlag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (place, words) = text.split_once(':').unwrap_or((text, ""));
        let mut options: Vec<_> = ["noexec", "nosuid", "nodev"].map(str::to_owned).into();
        for word in words.split(',').filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "exec" | "suid" | "dev" => options.retain(|kept| kept.strip_prefix("no") != Some(name)),
                "noexec" | "nosuid" | "nodev" | "rw" => continue,
                "ro" | "noatime" | "nodiratime" | "relatime" | "strictatime" | "sync" if value.is_empty() => {}
                "size" if value.ends_with('%') || value.parse::<Bytes>().is_ok() => {}
                "mode" if is_mode(value) => {}
                "uid" | "gid" | "nr_inodes" | "nr_blocks" if super::namespaces::decimal(value).is_some() => {}
                _ => return Err(Error::invalid(format!("unknown option {word:?}"))),
            }
            options.push(word.to_owned());
        }
        options.retain(|word| !matches!(word.as_str(), "exec" | "suid" | "dev"));
        Ok(Self(Wanted { destination: destination(place)?, source: Source::Tmpfs, options }))
    }
}

fn is_mode(text: &str) -> bool {
    (1..=5).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b))
}

impl FromStr for MountFlag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (mut kind, mut source, mut target) = ("volume", None, None);
        let (mut words, mut tmpfs) = (Vec::new(), Vec::new());
        let truth = |name: &str, value: Option<&str>| match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(value) => Err(Error::invalid(format!("{name}={value}: neither true nor false"))),
        };
        for field in text.split(',') {
            let (name, value) = match field.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (field, None),
            };
            let need = || value.filter(|v| !v.is_empty()).ok_or_else(|| Error::invalid(format!("{name}: no value")));
            match name {
                "type" => kind = need()?,
                "source" | "src" => source = Some(need()?),
                "target" | "destination" | "dst" => target = Some(need()?),
                "readonly" | "ro" => words.extend(truth(name, value)?.then_some("ro")),
                "bind-propagation" if PROPAGATION.contains(&need()?) => words.push(need()?),
                "bind-recursive" if matches!(value, Some("enabled" | "readonly")) => {}
                "bind-recursive" if value == Some("disabled") => words.push("bind"),
                "bind-nonrecursive" => words.extend(truth(name, value)?.then_some("bind")),
                "consistency" => _ = need()?,
                "volume-nocopy" => return Err(Error::unsupported("volume-nocopy: a volume begins as the image's")),
                "tmpfs-size" => tmpfs.push(format!("size={}", need()?.parse::<Bytes>()?.0)),
                "tmpfs-mode" if is_mode(need()?) => tmpfs.push(format!("mode={}", need()?)),
                _ => return Err(Error::invalid(format!("{field:?} is unknown or has no such value"))),
            }
        }
        let target = target.ok_or_else(|| Error::invalid("no target"))?;
        if kind != "tmpfs" && !tmpfs.is_empty() {
            return Err(Error::invalid("tmpfs-size and tmpfs-mode go with type=tmpfs alone"));
        }
        let (source, options) = match (kind, source) {
            ("bind", Some(path)) => (Source::Host(host(path)?), bind_options(&words)?),
            ("bind", None) => return Err(Error::invalid("no source")),
            ("volume", None) => (Source::Volume, bind_options(&words)?),
            ("volume", Some(name)) => return Err(Error::unsupported(format!("{name:?}: there are no named volumes"))),
            ("tmpfs", None) => {
                let read = words.contains(&"ro").then(|| "ro".to_owned());
                let fixed = ["noexec", "nosuid", "nodev"].map(str::to_owned);
                (Source::Tmpfs, fixed.into_iter().chain(tmpfs).chain(read).collect())
            }
            ("tmpfs", Some(_)) => return Err(Error::invalid("a tmpfs has no source")),
            _ => return Err(Error::unsupported(format!("type {kind:?}: neither bind, tmpfs nor volume"))),
        };
        Ok(Self(Wanted { destination: destination(target)?, source, options }))
    }
}

/// A new directory of the bundle that a container has mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name in the bundle's directory `volumes`: a number.
    pub name: String,
    /// Where it is in the container, and what of the image it begins with.
    pub destination: String,
}

/// The image's volumes: a path that is not absolute, has a `..` (CVE-2022-23648), or is or covers what the runtime sets
/// up is refused.
fn of_image(image: &RunConfig) -> Result<Vec<Wanted>> {
    let wanted = image.volumes.keys().map(|path| {
        let wrong = |why: &str| Error::invalid(format!("image configuration: config.Volumes: {path:?} {why}"));
        if path.split('/').any(|part| part == "..") {
            return Err(wrong("has a .."));
        }
        let clean = clean(path).map_err(|why| wrong(&why))?;
        let first = clean.split('/').nth(1).unwrap_or_default();
        if matches!(first, "" | "proc" | "sys" | "dev") {
            return Err(wrong("is no place for a volume"));
        }
        let options = bind_options(&[])?;
        Ok(Wanted { destination: clean, source: Source::Volume, options })
    });
    wanted.collect()
}

/// The mounts that the caller asked for, and of the image's volumes those that they don't replace; parents first.
fn wanted(image: &RunConfig, options: &Options) -> Result<Vec<Wanted>> {
    let volumes = options.volume.iter().map(|flag| &flag.0);
    let given = volumes.chain(options.mount.iter().map(|flag| &flag.0)).chain(options.tmpfs.iter().map(|flag| &flag.0));
    let mut all = BTreeMap::new();
    for wanted in given {
        if all.insert(wanted.destination.clone(), wanted.clone()).is_some() {
            return Err(Error::invalid(format!("{}: mounted on twice", wanted.destination)));
        }
    }
    for volume in of_image(image)? {
        all.entry(volume.destination.clone()).or_insert(volume);
    }
    let mut list: Vec<_> = all.into_values().collect();
    list.sort_by_key(|wanted| wanted.destination.matches('/').count());
    Ok(list)
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": source, "options": options})
}

/// What every container has, as Docker's.
fn defaults(options: &Options, mapping: &Mapping) -> Vec<Value> {
    let shm = options.shm_size.map_or_else(|| "size=65536k".to_owned(), |size| format!("size={}", size.0));
    let access = if options.privileged { "rw" } else { "ro" };
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    // The group `tty` of most systems.
    if mapping.host(0, 5).is_some() {
        pts.push("gid=5");
    }
    // The kernel mounts a new sysfs only for the owner of the network namespace.
    let sysfs = if mapping.is_some() && options.network != Join::Private {
        mount("/sys", "none", "/sys", &["rbind", "nosuid", "noexec", "nodev", access])
    } else {
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access])
    };
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &pts),
        sysfs,
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
    ];
    let flags = ["nosuid", "noexec", "nodev"];
    if options.ipc == Join::Host {
        // They belong to the IPC namespace, so the host's come with it.
        for path in ["/dev/mqueue", "/dev/shm"] {
            all.push(mount(path, "bind", path, &["rbind", "nosuid", "noexec", "nodev"]));
        }
    } else {
        all.push(mount("/dev/mqueue", "mqueue", "mqueue", &flags));
        all.push(mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm]));
    }
    all
}

/// `mounts`, and the volumes that must be made for them. `files` are those of the bundle that are mounted into /etc.
pub(super) fn list(
    image: &RunConfig,
    options: &Options,
    context: &Context,
    mapping: &Mapping,
    files: &[&str],
) -> Result<(Vec<Value>, Vec<Volume>)> {
    let wanted = wanted(image, options)?;
    let taken = |place: &str| wanted.iter().any(|w| w.destination == place);
    let own_dev = taken("/dev");
    let mut all: Vec<Value> = defaults(options, mapping)
        .into_iter()
        .filter(|mount| {
            let place = mount.get("destination").and_then(Value::as_str).unwrap_or_default();
            !(taken(place) || own_dev && place.starts_with("/dev/"))
        })
        .collect();
    let bundle = context.bundle_path();
    for file in files {
        let place = format!("/etc/{file}");
        if !taken(&place) {
            all.push(mount(&place, "bind", &format!("{bundle}/{file}"), &["bind", "rprivate"]));
        }
    }
    let mut volumes = Vec::new();
    for entry in &wanted {
        let words: Vec<_> = entry.options.iter().map(String::as_str).collect();
        match &entry.source {
            Source::Tmpfs => all.push(mount(&entry.destination, "tmpfs", "tmpfs", &words)),
            Source::Host(path) => {
                std::fs::metadata(path).at(|| format!("mount source {}", path.display()))?;
                let text = path
                    .to_str()
                    .ok_or_else(|| Error::invalid(format!("mount source {}: is not UTF-8", path.display())))?;
                all.push(mount(&entry.destination, "bind", text, &words));
            }
            Source::Volume => {
                let name = volumes.len().to_string();
                all.push(mount(&entry.destination, "bind", &format!("{bundle}/volumes/{name}"), &words));
                volumes.push(Volume { name, destination: entry.destination.clone() });
            }
        }
    }
    Ok((all, volumes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{context, options};

    #[test]
    fn a_volume_flag_is_a_source_a_place_and_words() {
        for (text, meant) in [
            ("/h:/c", Some("Host(\"/h\") /c rbind,rprivate")),
            ("/h:/c:ro", Some("Host(\"/h\") /c rbind,rprivate,ro,rro")),
            ("/h:/c:ro,rshared,nosuid", Some("Host(\"/h\") /c rbind,rshared,ro,rro,nosuid")),
            ("/h:/c/../d//e:rw", Some("Host(\"/h\") /d/e rbind,rprivate")),
            ("/c", Some("Volume /c rbind,rprivate")),
            ("name:/c", None),
            ("/h:c", None),
            ("/h:/", None),
            ("/h:/..", None),
            ("/h:/proc", None),
            ("/h:/c:bad", None),
            ("/h:/c:ro,rw", None),
            // CVE-2024-9407: a propagation is one of six words, not an option of mount.
            ("/h:/c:rprivate;x", None),
            ("/h:/c:ro:rw", None),
            ("", None),
        ] {
            let made = text
                .parse::<VolumeFlag>()
                .ok()
                .map(|VolumeFlag(w)| format!("{:?} {} {}", w.source, w.destination, w.options.join(",")));
            assert_eq!(made.as_deref(), meant, "{text}");
        }
    }

    #[test]
    fn a_mount_flag_is_a_list_of_fields() {
        for (text, meant) in [
            ("type=bind,src=/h,dst=/c", Some("Host(\"/h\") /c rbind,rprivate")),
            ("type=bind,source=/h,target=/c,readonly", Some("Host(\"/h\") /c rbind,rprivate,ro,rro")),
            ("type=bind,src=/h,dst=/c,ro=false,bind-propagation=slave", Some("Host(\"/h\") /c rbind,slave")),
            ("type=bind,src=/h,dst=/c,bind-recursive=disabled,ro", Some("Host(\"/h\") /c bind,rprivate,ro")),
            (
                "type=tmpfs,dst=/c,tmpfs-size=1m,tmpfs-mode=1770",
                Some("Tmpfs /c noexec,nosuid,nodev,size=1048576,mode=1770"),
            ),
            ("type=volume,dst=/c", Some("Volume /c rbind,rprivate")),
            ("dst=/c", Some("Volume /c rbind,rprivate")),
            ("type=volume,src=x,dst=/c", None),
            ("type=bind,dst=/c", None),
            ("type=bind,src=/h", None),
            ("type=bind,src=/h,dst=/c,bind-propagation=rw,exec", None),
            ("type=bind,src=/h,dst=/c,tmpfs-size=1m", None),
            ("type=bind,src=/h,dst=/proc", None),
            ("type=npipe,src=/h,dst=/c", None),
            ("type=tmpfs,src=/h,dst=/c", None),
            ("type=tmpfs,dst=/c,tmpfs-mode=999", None),
            ("type=bind,src=/h,dst=/c,readonly=maybe", None),
            ("", None),
        ] {
            let made = text
                .parse::<MountFlag>()
                .ok()
                .map(|MountFlag(w)| format!("{:?} {} {}", w.source, w.destination, w.options.join(",")));
            assert_eq!(made.as_deref(), meant, "{text}");
        }
    }

    #[test]
    fn a_tmpfs_is_without_programs_unless_they_are_asked_for() {
        for (text, meant) in [
            ("/t", Some("noexec,nosuid,nodev")),
            ("/t:size=64m,mode=755", Some("noexec,nosuid,nodev,size=64m,mode=755")),
            ("/t:exec,rw", Some("nosuid,nodev")),
            ("/t:noexec,ro", Some("noexec,nosuid,nodev,ro")),
            ("/t:x", None),
            ("/t:size=x", None),
            ("/t:uid=-1", None),
            ("t", None),
        ] {
            assert_eq!(text.parse::<TmpfsFlag>().ok().map(|f| f.0.options.join(",")).as_deref(), meant, "{text}");
        }
    }

    fn volumes(paths: &[&str]) -> RunConfig {
        let volumes = paths.iter().map(|path| ((*path).to_owned(), json!({}))).collect();
        RunConfig { volumes, ..RunConfig::default() }
    }

    #[test]
    fn an_images_volume_is_not_the_root_nor_outside_nor_what_the_runtime_mounts() {
        for (path, fits) in [
            ("/data", true),
            ("/data/", true),
            ("/var/lib/x/./y", true),
            ("/process", true),
            ("/", false),
            ("", false),
            ("data", false),
            ("../../etc", false),
            ("/../../etc", false),
            ("/data/../..", false),
            ("/a/..", false),
            ("/proc", false),
            ("//proc/self", false),
            ("/./proc", false),
            ("/sys/fs", false),
            ("/dev/shm", false),
            ("/a\0", false),
        ] {
            assert_eq!(of_image(&volumes(&[path])).is_ok(), fits, "{path}");
        }
    }

    #[test]
    fn mounts_come_parents_first_and_the_callers_win() {
        let image = volumes(&["/a/b/c", "/data", "/a"]);
        let list = |flags: &str| {
            let (mounts, volumes) =
                context(|context| list(&image, &options(flags), context, &Mapping::default(), &["hosts"])).unwrap();
            let text = |mount: &Value, key: &str| mount[key].as_str().unwrap().to_owned();
            let lines: Vec<_> =
                mounts.iter().map(|m| format!("{}={}", text(m, "destination"), text(m, "source"))).collect();
            (lines.join(" "), volumes.iter().map(|v| v.destination.clone()).collect::<Vec<_>>().join(" "))
        };
        let base =
            "/proc=proc /dev=tmpfs /dev/pts=devpts /sys=sysfs /sys/fs/cgroup=cgroup /dev/mqueue=mqueue /dev/shm=shm";
        let (mounts, made) = list("");
        assert_eq!(
            mounts,
            format!("{base} /etc/hosts=/b/hosts /a=/b/volumes/0 /data=/b/volumes/1 /a/b/c=/b/volumes/2")
        );
        assert_eq!(made, "/a /data /a/b/c");
        let (mounts, made) = list("-v /etc:/data -v /:/etc/hosts --tmpfs /a/b/c");
        assert_eq!(mounts, format!("{base} /a=/b/volumes/0 /data=/etc /etc/hosts=/ /a/b/c=tmpfs"));
        assert_eq!(made, "/a");
        let (mounts, _) = list("-v /dev:/dev --mount type=tmpfs,dst=/sys/fs/cgroup");
        assert!(mounts.starts_with("/proc=proc /sys=sysfs /etc/hosts=/b/hosts /a="), "{mounts}");
        let (mounts, _) = list("--ipc host");
        assert!(mounts.contains("/dev/mqueue=/dev/mqueue /dev/shm=/dev/shm"), "{mounts}");
        for flags in ["-v /etc:/x --tmpfs /x", "-v /no-such-thing-here:/x"] {
            let said = context(|c| super::list(&image, &options(flags), c, &Mapping::default(), &[]));
            assert!(said.is_err(), "{flags}");
        }
    }
}
