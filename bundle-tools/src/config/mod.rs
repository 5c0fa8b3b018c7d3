//! `config.json`: an image's configuration and the caller's wishes as a runtime's configuration, by the image
//! specification's conversion rules (conversion.md) and, where they are silent, as Docker has it.
//!
//! [`convert`] decides, from what it reads in the image's root and on the host, and writes nothing.
//! [`Converted::publish`] writes the files, the volumes and, last, `config.json`.

pub mod capabilities;
pub mod devices;
pub mod files;
pub mod labels;
pub mod mounts;
pub mod namespaces;
mod options;
pub mod process;
pub mod resources;
pub mod seccomp;
pub mod security;
pub mod user;
pub mod volumes;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use rustix::fs::{Gid, Mode, Uid};
use serde_json::{Map, Value, json};

pub use self::options::Options;

use self::mounts::Volume;
use self::namespaces::{Join, Mapping};
use self::process::Pair;
use self::seccomp::Facts;
use self::security::{Seccomp, Security};
use crate::dir::{Dir, read_limited};
use crate::error::{At, Error, ErrorKind, Result};
use crate::image::ImageConfig;

/// The version of the runtime specification that is written: the newest whose fields are used (`rro` and others are of
/// 1.1), so that older runtimes take it.
pub const OCI_VERSION: &str = "1.1.0";

/// What of /proc and /sys a container does not see, as Docker's.
const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/kernel/debug",
];

/// What of /proc it sees and does not write, as Docker's.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The version of cgroups that the host has its controllers on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    /// Version 1, also beside a version 2 without controllers.
    V1,
    /// Version 2 alone: a container gets a cgroup namespace.
    V2,
}

/// A program that the runtime runs on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Its absolute path.
    pub path: String,
    /// Its arguments, the first its name.
    pub args: Vec<String>,
}

/// Where a bundle is made, and for whom.
pub struct Context<'a> {
    /// The bundle's name: the container is named after it, and so is its cgroup.
    pub id: &'a str,
    /// The bundle's absolute path: files and volumes of it are mounted from there.
    pub bundle: &'a str,
    /// The root's path, absolute or relative to the bundle: `rootfs`.
    pub rootfs: &'a str,
    /// The host's cgroups.
    pub cgroups: Cgroups,
    /// The caller's user and group, if these are not root's: the container then has a user namespace of the two alone,
    /// unless other ids are given, and no limits that take root's rights.
    pub rootless: Option<(u32, u32)>,
    /// The kernel's version: 6 and 18.
    pub kernel: (u32, u32),
    /// The value of a variable of the caller's.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// The host's file of that name in /etc.
    pub etc: &'a dyn Fn(&str) -> Option<String>,
    /// What removes the bundle (`--rm-on-delete`).
    pub remove: Option<Hook>,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("id", &self.id).field("bundle", &self.bundle).finish_non_exhaustive()
    }
}

/// Why not `std::env::var` itself: a value that is not Unicode is none that JSON could hold.
fn variable_of_the_caller(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[allow(clippy::disallowed_methods, reason = "the host's own files")]
fn file_of_the_host(name: &str) -> Option<String> {
    let file = File::open(Path::new("/etc").join(name)).ok()?;
    String::from_utf8(read_limited(file, name, 1 << 20).ok()?).ok()
}

impl<'a> Context<'a> {
    /// The bundle `id` at the absolute path `bundle`, whose root is `rootfs` in it, made by the caller of this program on
    /// this host.
    pub fn here(id: &'a str, bundle: &'a str, rootfs: &'a str) -> Self {
        let version = rustix::system::uname();
        let version = version.release().to_string_lossy();
        let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or_default());
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        // Its controllers are listed there if the whole tree is of version 2.
        let unified = std::fs::metadata("/sys/fs/cgroup/cgroup.controllers").is_ok();
        Self {
            id,
            bundle,
            rootfs,
            cgroups: if unified { Cgroups::V2 } else { Cgroups::V1 },
            rootless: (!uid.is_root()).then(|| (uid.as_raw(), gid.as_raw())),
            kernel: (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default()),
            variable: &variable_of_the_caller,
            etc: &file_of_the_host,
            remove: None,
        }
    }

    fn bundle_path(&self) -> &str {
        self.bundle.trim_end_matches('/')
    }
}

/// A bundle's configuration, and what it needs beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted {
    /// `config.json`.
    pub spec: Value,
    /// Files of the bundle, to be mounted into the container's /etc.
    pub files: Vec<files::File>,
    /// Directories of the bundle's `volumes`.
    pub volumes: Vec<Volume>,
    /// Labels of the image that became no annotations, as something may act on them, or as nobody asked for them.
    pub labels_left: Vec<String>,
    /// The ids of the container.
    pub mapping: Mapping,
}

/// The configuration of a container of `image`, whose root is mounted at `root`, as `options` want it.
///
/// # Errors
/// What in the image's configuration or in `options` cannot be meant, by the field's or the flag's name and value; an
/// unknown user; a source of a mount that isn't there. The same input gives the same result, byte for byte.
pub fn convert(image: &ImageConfig, options: &Options, root: &Dir, context: &Context<'_>) -> Result<Converted> {
    let run = &image.config;
    if !matches!(image.platform.os.as_str(), "" | "linux") {
        return Err(Error::unsupported(format!("image configuration: os is {:?}", image.platform.os)));
    }
    check(context)?;
    let mapping = Mapping::of(options, context)?;
    let (what, spec) = match &options.user {
        Some(user) => ("--user", user.as_str()),
        None => ("image configuration: config.User", run.user.as_str()),
    };
    let user = user::look_up(root, what, spec, &options.group_add)?;
    if mapping.host(user.uid, user.gid).is_none() {
        let (uid, gid) = (user.uid, user.gid);
        return Err(Error::invalid(format!("{what} {spec:?}: {uid}:{gid} is not among the mapped ids")));
    }
    let hostname = files::hostname(options, context)?;
    let name = hostname.clone().or_else(|| (context.variable)("HOSTNAME")).unwrap_or_default();
    let stop_signal = stop_signal(image, options)?;
    let (annotations, labels_left) = labels::annotations(image, options, &stop_signal)?;
    let security = Security::of(&options.security_opt, options.privileged);
    let capabilities = capabilities::set(&options.cap_add, &options.cap_drop, options.privileged)?;
    let files = files::files(options, hostname.as_deref(), context.etc)?;
    let names: Vec<_> = files.iter().map(|file| file.name).collect();
    let (mounts, volumes) = mounts::list(run, options, context, &mapping, &names)?;
    let (devices, rules) = devices::devices(options, context.rootless.is_some())?;

    // A group that is not mapped cannot be had; setgroups would fail for it.
    let groups: Vec<_> = user.groups.iter().filter(|gid| mapping.host(0, **gid).is_some()).collect();
    let groups = if context.rootless.is_some() && options.gid_map.is_empty() && options.uid_map.is_empty() {
        // setgroups(2) is forbidden where ids were mapped without root's rights.
        Vec::new()
    } else {
        groups
    };
    let mut process = object(json!({
        "user": {"uid": user.uid, "gid": user.gid},
        "args": process::args(run, options)?,
        "env": process::env(run, options, context, &name, &user.home)?,
        "cwd": process::cwd(run, options)?,
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "noNewPrivileges": security.no_new_privileges,
    }));
    if !groups.is_empty() {
        process.insert("user".to_owned(), json!({"uid": user.uid, "gid": user.gid, "additionalGids": groups}));
    }
    if options.tty {
        process.insert("terminal".to_owned(), true.into());
    }
    if !options.ulimit.is_empty() {
        process.insert("rlimits".to_owned(), resources::rlimits(options));
    }
    if let Some(profile) = &security.apparmor {
        process.insert("apparmorProfile".to_owned(), profile.clone().into());
    }
    if let Some(score) = options.oom_score_adj {
        process.insert("oomScoreAdj".to_owned(), score.into());
    }

    let mut linux = object(json!({"namespaces": namespaces::list(options, context, &mapping)}));
    if mapping.is_some() {
        linux.insert("uidMappings".to_owned(), namespaces::maps(&mapping.uids));
        linux.insert("gidMappings".to_owned(), namespaces::maps(&mapping.gids));
    }
    if let Some(resources) = resources::resources(options, rules)? {
        linux.insert("resources".to_owned(), resources);
    }
    if !devices.is_empty() {
        linux.insert("devices".to_owned(), devices.into());
    }
    if let Some(path) = cgroups_path(options, context)? {
        linux.insert("cgroupsPath".to_owned(), path.into());
    }
    let sysctl = sysctl(options, &mapping)?;
    if !sysctl.is_empty() {
        linux.insert("sysctl".to_owned(), json!(sysctl));
    }
    let facts = Facts { capabilities: &capabilities, arch: seccomp::native(), kernel: context.kernel };
    match &security.seccomp {
        Seccomp::Builtin => _ = linux.insert("seccomp".to_owned(), seccomp::builtin(&facts)?),
        Seccomp::File(path) => _ = linux.insert("seccomp".to_owned(), seccomp::from_file(path, &facts)?),
        Seccomp::Unconfined => {}
    }
    if !security.open_system_paths {
        linux.insert("maskedPaths".to_owned(), json!(MASKED));
        linux.insert("readonlyPaths".to_owned(), json!(READ_ONLY));
    }
    if let Some(propagation) = root_propagation(options) {
        linux.insert("rootfsPropagation".to_owned(), propagation.into());
    }

    let mut spec = object(json!({
        "ociVersion": OCI_VERSION,
        "process": process,
        "root": {"path": context.rootfs, "readonly": options.read_only},
        "mounts": mounts,
        "linux": linux,
    }));
    if let Some(name) = hostname {
        spec.insert("hostname".to_owned(), name.into());
    }
    if let Some(name) = &options.domainname {
        if options.uts != Join::Private {
            return Err(Error::invalid("--domainname: would rename the host, as --uts is not private"));
        }
        spec.insert("domainname".to_owned(), name.clone().into());
    }
    if !annotations.is_empty() {
        spec.insert("annotations".to_owned(), json!(annotations));
    }
    if options.rm_on_delete {
        let hook =
            context.remove.as_ref().ok_or_else(|| Error::unsupported("--rm-on-delete: nothing here can do it"))?;
        spec.insert("hooks".to_owned(), json!({"poststop": [{"path": hook.path, "args": hook.args}]}));
    }
    Ok(Converted { spec: spec.into(), files, volumes, labels_left, mapping })
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// A bundle's path and name stand in config.json, so they have to be text that means what it says.
fn check(context: &Context<'_>) -> Result<()> {
    if !context.bundle.starts_with('/') || context.bundle.contains('\0') {
        return Err(Error::invalid(format!("bundle {:?}: is not an absolute path", context.bundle)));
    }
    Ok(())
}

/// The signal that stops the container, in the words of the image or the flag.
fn stop_signal(image: &ImageConfig, options: &Options) -> Result<String> {
    let (what, text) = match &options.stop_signal {
        Some(text) => ("--stop-signal", text),
        None if image.config.stop_signal.is_empty() => return Ok(String::new()),
        None => ("image configuration: config.StopSignal", &image.config.stop_signal),
    };
    const NAMES: &str = "HUP INT QUIT ILL TRAP ABRT IOT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CLD CONT \
                         STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO POLL PWR SYS UNUSED";
    let name = text.strip_prefix("SIG").unwrap_or(text);
    let realtime = |name: &str| {
        let (base, offset) = match name.find(['+', '-']) {
            Some(at) => name.split_at(at),
            None => (name, ""),
        };
        let offset = offset.get(1..).unwrap_or_default();
        let sign_fits = matches!((base, name.contains('+')), ("RTMIN", true) | ("RTMAX", false)) || offset.is_empty();
        let small = offset.is_empty() || namespaces::decimal(offset).is_some_and(|n| n <= 30);
        matches!(base, "RTMIN" | "RTMAX") && sign_fits && small
    };
    let number = namespaces::decimal(text).is_some_and(|n| (1..=64).contains(&n));
    if number || NAMES.split_whitespace().any(|known| known == name) || realtime(name) {
        return Ok(text.clone());
    }
    Err(Error::invalid(format!("{what}: {text:?} is no signal")))
}

fn cgroups_path(options: &Options, context: &Context<'_>) -> Result<Option<String>> {
    let whole = options.cgroups_path.clone();
    let below = options.cgroup_parent.as_ref().map(|parent| format!("{}/{}", parent.trim_end_matches('/'), context.id));
    let path = whole.or(below);
    if let Some(path) = &path
        && (path.is_empty() || path.contains('\0') || path.split('/').any(|part| part == ".."))
    {
        return Err(Error::invalid(format!("the path of a cgroup: {path:?}")));
    }
    Ok(path)
}

/// A mount that passes on what is mounted needs a root that does so too, as Docker's.
fn root_propagation(options: &Options) -> Option<&'static str> {
    let binds = || options.volume.iter().map(|v| &v.0).chain(options.mount.iter().map(|m| &m.0));
    let any = |word: &str| binds().flat_map(|bind| &bind.options).any(|o| o.strip_prefix('r').unwrap_or(o) == word);
    match (any("shared"), any("slave")) {
        (true, _) => Some("rshared"),
        (false, true) => Some("rslave"),
        (false, false) => None,
    }
}

/// `linux.sysctl`. In a network namespace of its own a container may use low ports and ping without rights, as
/// Docker's; the kernel takes the group range only where all of it is mapped.
fn sysctl(options: &Options, mapping: &Mapping) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    if options.network == Join::Private {
        all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        if !mapping.is_some() {
            all.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
        }
    }
    for Pair { name, value } in &options.sysctl {
        let dotted = name.replace('/', ".");
        let belongs = match dotted.split('.').next() {
            Some("net") => options.network != Join::Host,
            Some("fs") => dotted.starts_with("fs.mqueue.") && options.ipc != Join::Host,
            Some("kernel") if dotted == "kernel.domainname" => options.uts != Join::Host,
            Some("kernel") => {
                const IPC: &str = "kernel.msgmax kernel.msgmnb kernel.msgmni kernel.sem kernel.shmall kernel.shmmax \
                                   kernel.shmmni kernel.shm_rmid_forced";
                IPC.split_whitespace().any(|known| known == dotted) && options.ipc != Join::Host
            }
            Some("user") => mapping.is_some(),
            _ => false,
        };
        if !belongs || dotted.contains("..") || name.contains('\0') {
            return Err(Error::invalid(format!("--sysctl {name}: is not of a namespace that is the container's own")));
        }
        all.insert(name.clone(), value.clone());
    }
    Ok(all)
}

impl Converted {
    /// The text of `config.json`.
    pub fn text(&self) -> String {
        // A tree of strings and numbers is always text.
        let mut text = serde_json::to_string_pretty(&self.spec).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Writes the bundle's files, its volumes, filled from the image's `root`, and then `config.json`, into the
    /// directory of the bundle.
    pub fn publish(&self, root: &Dir, bundle: &Dir) -> Result<()> {
        let owner = self.mapping.host(0, 0).unwrap_or_default();
        for file in &self.files {
            let made = write(bundle, file.name, &file.text)?;
            rustix::fs::fchmod(&made, Mode::from_raw_mode(0o644)).at(|| format!("chmod {}", file.name))?;
            // Without root's rights the file is the caller's, which is the container's root.
            if owner != (0, 0) && rustix::process::geteuid().is_root() {
                let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
                rustix::fs::fchown(&made, Some(uid), Some(gid)).at(|| format!("chown {}", file.name))?;
            }
        }
        if !self.volumes.is_empty() {
            let all = bundle.make_dir("volumes")?;
            // The container's users pass through its mount, not through here.
            for volume in &self.volumes {
                volumes::seed(root, &volume.destination, &all.make_dir(&volume.name)?, owner)?;
            }
        }
        write(bundle, "config.json", &self.text()).map(drop)
    }
}

/// A file of the bundle, in place of what has its name. It is seen whole or not at all, but not forced to disk: a bundle
/// that a crash has hit is made again, and waiting for the disk would be most of the time that making one takes.
fn write(bundle: &Dir, name: &str, text: &str) -> Result<File> {
    let temporary = format!(".{name}.new");
    match bundle.unlink(&temporary) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = bundle.create(&temporary)?;
    file.write_all(text.as_bytes()).at(|| format!("write {name}"))?;
    bundle.rename(&temporary, name)?;
    Ok(file)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "paths of the test's own")]
#[path = "tests.rs"]
pub(crate) mod tests;
