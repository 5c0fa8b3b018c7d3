//! `mounts`: which file systems and which parts of the host appear where.

use std::ffi::CStr;

use orlop_init::{Mount, Operation, What};
use orlop_sys::fs::Links;
use orlop_sys::mount::{Attr, attr, ms};

use super::mount_options::{self, Options};
use super::namespaces::map;
use super::{Context, IdMap, Ids, Maps, Source};
use crate::cgroup;
use crate::config;
use crate::error::{Error, Result};
use crate::path::{clean, split};

/// What may be mounted inside /proc: files that lxcfs and CRI-O put there, none of which a security label or a
/// kernel parameter is written through (CVE-2019-16884).
const ON_PROC: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// File systems whose superblock is made for the mount or shared by all of them: being read-only is the mount's
/// affair. For others (a disk) it is the file system's.
const VIRTUAL: [&str; 16] = [
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "proc",
    "pstore",
    "securityfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];

/// A value longer than this does not pass fsconfig(2).
const LONGEST_VALUE: usize = 255;

/// All options together, where mount(2) has to take them: a page, with the NUL.
const LONGEST_DATA: usize = 4095;

/// The operations and sources of a plan while they are collected.
#[derive(Debug)]
pub(super) struct Mounts<'a> {
    /// In order, for the child.
    pub operations: Vec<Operation<'a>>,
    /// In order, for the parent: the sources of those operations that have one.
    pub sources: Vec<Source<'a>>,
    /// The maps that sources are mapped by, each once.
    pub id_maps: Vec<Maps>,
    /// Attributes that become true when everything is in place.
    pub late: Vec<Operation<'a>>,
    /// Something of the host is bound on /dev, which is then left as it is.
    pub dev_is_bound: bool,
}

/// Plans `mounts`.
pub(super) fn plan<'a>(cx: &Context<'a, '_>, mounts: &[config::Mount]) -> Result<Mounts<'a>> {
    let mut planned = Mounts {
        operations: Vec::new(),
        sources: Vec::new(),
        id_maps: Vec::new(),
        late: Vec::new(),
        dev_is_bound: false,
    };
    for (i, mount) in mounts.iter().enumerate() {
        one(cx, &mut planned, mount, &format!("mounts[{i}]"))?;
    }
    Ok(planned)
}

fn one<'a>(cx: &Context<'a, '_>, planned: &mut Mounts<'a>, mount: &config::Mount, field: &str) -> Result<()> {
    if mount.destination.is_empty() {
        return Err(Error::invalid(format_args!("{field}.destination"), "must not be empty"));
    }
    let options = mount_options::parse(mount.options.iter().map(String::as_str));
    let destination = clean(&mount.destination);
    if destination == "/" {
        return Err(Error::invalid(format_args!("{field}.destination"), "is the root itself"));
    }
    let bind = options.bind.or((mount.r#type == "bind").then_some(false));
    let on_proc = check_proc(&destination, mount, bind.is_some())?;

    if mount.r#type == "cgroup" && bind.is_none() && !options.remount {
        return cgroups(cx, planned, mount, &options, &destination, field);
    }
    let arena = cx.arena;
    let target = arena.cstr(field, &destination)?;
    // A proc or sysfs behind a symlink of the image would not be where labels and masks are looked for
    // (CVE-2019-19921).
    let strict = matches!(mount.r#type.as_str(), "proc" | "sysfs");
    let links = if strict { Links::Refuse } else { Links::Follow };
    let base = Mount {
        target,
        links,
        on_proc,
        what: What::Remount { options: &[] },
        attr: options.attr,
        recursive: options.recursive,
        copy_up: options.copy_up,
        copy_mode: false,
    };
    let id_map = id_map(cx, planned, mount, &options, field)?;
    if id_map.is_some() && (bind.is_none() || options.remount) {
        let what = "id-mapped mounts are supported for bind mounts only";
        return Err(Error::unsupported(format_args!("{field}.uidMappings"), what));
    }
    if options.remount {
        let changes = bind.is_none() && !(options.data.is_empty() && options.flags.is_empty());
        let what = match changes {
            true => What::Remount { options: file_system_options(cx, mount, &options, field)? },
            false => What::Remount { options: &[] },
        };
        planned.operations.push(Operation::Mount(Mount { what, on_proc: true, copy_up: false, ..base }));
        return Ok(());
    }
    if let Some(recursive) = bind {
        if let Some((key, _)) = options.data.first() {
            let what = format_args!("`{key}` means nothing on a bind mount");
            return Err(Error::invalid(format_args!("{field}.options"), what));
        }
        if destination == "/dev" {
            planned.dev_is_bound = true;
        }
        let mut base = base;
        set_default_propagation(cx, recursive, &mut base.attr, &mut base.recursive);
        planned.operations.push(Operation::Mount(Mount { what: What::Source, copy_up: false, ..base }));
        planned.sources.push(Source::Path {
            path: cx.host_path(&format!("{field}.source"), &mount.source)?,
            recursive,
            must_be_proc: destination == "/proc",
            id_map,
            field: arena.cstr(field, field)?,
        });
        return Ok(());
    }
    if mount.r#type.is_empty() {
        return Err(Error::invalid(format_args!("{field}.type"), "must not be empty unless it is a bind mount"));
    }
    if options.copy_up && mount.r#type != "tmpfs" {
        return Err(Error::invalid(format_args!("{field}.options"), "tmpcopyup is for a tmpfs"));
    }
    let has_mode = options.data.iter().any(|(key, _)| *key == "mode");
    let is_tmpfs = mount.r#type == "tmpfs";
    // Device nodes and symlinks are made in it first.
    let late = (is_tmpfs || destination == "/dev") && base.attr.set & attr::RDONLY != 0;
    let mut attr = base.attr;
    if late {
        attr.set &= !attr::RDONLY;
        let attr = Attr { set: attr::RDONLY, ..Attr::default() };
        planned.late.push(Operation::Attributes { path: target, attr });
    }
    let (fstype, source) = (arena.cstr(field, &mount.r#type)?, arena.cstr(field, &mount.source)?);
    let options = file_system_options(cx, mount, &options, field)?;
    let is_long = |value: &Option<&CStr>| value.is_some_and(|value| value.count_bytes() > LONGEST_VALUE);
    let what = if !is_tmpfs && options.iter().any(|(_, value)| is_long(value)) {
        What::Classic { fstype, source, data: joined(cx, options, field)? }
    } else {
        What::New { fstype, source, options }
    };
    planned.operations.push(Operation::Mount(Mount { what, attr, copy_mode: is_tmpfs && !has_mode, ..base }));
    Ok(())
}

/// By whose ids the mount shows owners, if not by the host's. Without maps of its own, by the container's.
fn id_map(
    cx: &Context<'_, '_>,
    planned: &mut Mounts<'_>,
    mount: &config::Mount,
    options: &Options<'_>,
    field: &str,
) -> Result<Option<IdMap>> {
    let recursive = options.id_map == Some(true);
    let by = match (mount.uid_mappings.is_empty(), mount.gid_mappings.is_empty()) {
        (true, true) if options.id_map.is_none() => return Ok(None),
        (true, true) if cx.has_user_namespace => Ids::Container,
        (true, true) => {
            let what = "an id-mapped mount needs mappings, or a user namespace that has them";
            return Err(Error::invalid(format_args!("{field}.options"), what));
        }
        (false, false) => {
            let maps = Maps {
                uid: map(&format!("{field}.uidMappings"), &mount.uid_mappings)?,
                gid: map(&format!("{field}.gidMappings"), &mount.gid_mappings)?,
            };
            let at = planned.id_maps.iter().position(|known| *known == maps).unwrap_or_else(|| {
                planned.id_maps.push(maps);
                planned.id_maps.len() - 1
            });
            Ids::Own(at)
        }
        (without_users, _) => {
            let (with, without) = if without_users { ("gid", "uid") } else { ("uid", "gid") };
            return Err(Error::invalid(
                format_args!("{field}.{with}Mappings"),
                format_args!("without {without}Mappings"),
            ));
        }
    };
    Ok(Some(IdMap { by, recursive }))
}

/// A clone of a shared mount is shared with the host; it becomes what all mounts of the container are.
fn set_default_propagation(cx: &Context<'_, '_>, recursive: bool, attr: &mut Attr, all: &mut Attr) {
    let propagation = match cx.propagation {
        flags if flags & ms::SHARED != 0 => return,
        flags if flags & ms::PRIVATE != 0 => ms::PRIVATE,
        _ => ms::SLAVE,
    };
    if recursive && all.propagation == 0 {
        all.propagation = propagation;
    } else if attr.propagation == 0 && all.propagation == 0 {
        attr.propagation = propagation;
    }
}

fn file_system_options<'a>(
    cx: &Context<'a, '_>,
    mount: &config::Mount,
    options: &Options<'_>,
    field: &str,
) -> Result<&'a [(&'a CStr, Option<&'a CStr>)]> {
    let field = format_args!("{field}.options");
    let mut list = Vec::with_capacity(options.data.len() + 2);
    for (key, value) in &options.data {
        list.push((cx.arena.cstr(field, key)?, value.map(|v| cx.arena.cstr(field, v)).transpose()?));
    }
    for flag in &options.flags {
        list.push((cx.arena.cstr(field, flag)?, None));
    }
    let fstype = mount.r#type.as_str();
    if options.attr.set & attr::RDONLY != 0 && !VIRTUAL.contains(&fstype) {
        list.push((c"ro", None));
    }
    if !cx.spec.linux.mount_label.is_empty() && !matches!(fstype, "proc" | "sysfs" | "mqueue") {
        list.push((c"context", Some(cx.arena.cstr("linux.mountLabel", &cx.spec.linux.mount_label)?)));
    }
    Ok(cx.arena.list(list))
}

/// Options as mount(2) takes them (an overlay's many layers, say).
fn joined<'a>(cx: &Context<'a, '_>, options: &[(&CStr, Option<&CStr>)], field: &str) -> Result<&'a CStr> {
    let field = format_args!("{field}.options");
    let mut data = String::new();
    for (key, value) in options {
        if !data.is_empty() {
            data.push(',');
        }
        data.push_str(&key.to_string_lossy());
        if let Some(value) = value {
            data.push('=');
            data.push_str(&value.to_string_lossy());
        }
    }
    if data.len() > LONGEST_DATA {
        let what = format_args!("longer than the {LONGEST_DATA} bytes that the kernel takes");
        return Err(Error::unsupported(field, what));
    }
    cx.arena.cstr(field, &data)
}

/// Whether the destination is one of the files that may be covered inside /proc. The wording is runc's.
fn check_proc(destination: &str, mount: &config::Mount, bind: bool) -> Result<bool> {
    let refuse = |why: &str| {
        let text = format!("\"{destination}\" cannot be mounted because it {why}");
        Err(Error::new(crate::ErrorKind::InvalidSpec, text))
    };
    match destination.strip_prefix("/proc") {
        // A root that has a proc there already, as the host's own has, gets a new one on top.
        Some("") if mount.r#type == "proc" => Ok(true),
        Some("") if bind => Ok(false),
        Some("") => refuse("is not of type proc"),
        Some(below) if below.starts_with('/') => {
            if ON_PROC.contains(&destination) {
                Ok(true)
            } else {
                refuse("is inside /proc")
            }
        }
        _ => Ok(false),
    }
}

/// A mount of type `cgroup`: on version 2 that file system; on version 1 a tmpfs with one mount a hierarchy, as systemd
/// lays them out. With a cgroup namespace these are new mounts, whose root is the container's cgroup; without one, the
/// container's own cgroup is bound there on version 1, and what the host has on version 2 inside a user namespace.
fn cgroups<'a>(
    cx: &Context<'a, '_>,
    planned: &mut Mounts<'a>,
    mount: &config::Mount,
    options: &Options<'_>,
    destination: &str,
    field: &str,
) -> Result<()> {
    let arena = cx.arena;
    let target = arena.cstr(field, destination)?;
    let base = |target, what| Mount {
        target,
        links: Links::Follow,
        on_proc: false,
        what,
        attr: options.attr,
        recursive: options.recursive,
        copy_up: false,
        copy_mode: false,
    };
    let source = arena.cstr(field, if mount.source.is_empty() { "cgroup" } else { &mount.source })?;
    if let Some(host) = cx.layout.unified.as_ref().filter(|_| cx.layout.is_v2()) {
        let has_cgroup_namespace = cx.spec.linux.namespaces.iter().any(|n| n.r#type == "cgroup");
        if cx.has_user_namespace && !has_cgroup_namespace {
            // The kernel mounts it only for the owner of the cgroup namespace, which here is the host's: so what the
            // host sees is bound.
            let mut mount = base(target, What::Source);
            set_default_propagation(cx, false, &mut mount.attr, &mut mount.recursive);
            planned.operations.push(Operation::Mount(mount));
            planned.sources.push(Source::Cgroup { path: arena.cstr(field, &host.mount)?, field: target });
            return Ok(());
        }
        let what = What::New { fstype: c"cgroup2", source, options: &[] };
        planned.operations.push(Operation::Mount(base(target, what)));
        return Ok(());
    }
    if cx.layout.v1.is_empty() {
        return Err(Error::unsupported(format_args!("{field}.type"), "this host has no cgroups mounted"));
    }
    let mut tmpfs = base(
        target,
        What::New { fstype: c"tmpfs", source: c"tmpfs", options: arena.list(vec![(c"mode", Some(c"755"))]) },
    );
    tmpfs.attr.set &= !attr::RDONLY;
    planned.operations.push(Operation::Mount(tmpfs));
    for hierarchy in &cx.layout.v1 {
        let (_, name) = split(&hierarchy.mount);
        let point = arena.concat(field, &[destination, "/", name])?;
        if cx.new_cgroup_namespace {
            let mut keys = Vec::new();
            for word in hierarchy.controllers.split(',') {
                keys.push(match word.split_once('=') {
                    Some((key, value)) => (arena.cstr(field, key)?, Some(arena.cstr(field, value)?)),
                    None => (arena.cstr(field, word)?, None),
                });
            }
            let what = What::New { fstype: c"cgroup", source: c"cgroup", options: arena.list(keys) };
            planned.operations.push(Operation::Mount(base(point, what)));
        } else {
            let directory =
                cx.cgroup.and_then(|record| record.0.iter().find(|d| d.controllers == hierarchy.controllers));
            let path = directory.map_or_else(|| hierarchy.mount.clone(), cgroup::Dir::full);
            let mut mount = base(point, What::Source);
            set_default_propagation(cx, false, &mut mount.attr, &mut mount.recursive);
            planned.operations.push(Operation::Mount(mount));
            planned.sources.push(Source::Cgroup { path: arena.cstr(field, &path)?, field: point });
        }
        // `cpu,cpuacct` is also to be found as `cpu` and as `cpuacct`.
        for alias in hierarchy.controllers.split(',').filter(|alias| name.contains(',') && *alias != name) {
            planned.operations.push(Operation::Symlink {
                directory: target,
                name: arena.cstr(field, alias)?,
                target: arena.cstr(field, name)?,
                replace: false,
            });
        }
    }
    if options.attr.set & attr::RDONLY != 0 {
        let attr = Attr { set: attr::RDONLY, ..Attr::default() };
        planned.operations.push(Operation::Attributes { path: target, attr });
    }
    Ok(())
}
