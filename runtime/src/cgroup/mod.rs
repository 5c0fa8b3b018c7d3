//! Control groups, through the file system (the `cgroupfs` driver).
//!
//! [`Layout`] says how this host has its cgroups, [`Plan`] decides (purely) where a container's are and what is written
//! into them, [`Cgroup`] is the living thing. Three layouts exist: one v2 tree; v1 hierarchies, one for each controller
//! or group of them; and v1 with a v2 tree beside it (hybrid), where the container gets a directory in every hierarchy,
//! limits are v1's, and the v2 directory serves to start processes in, to kill them and to learn that none is left.
//!
//! Relative paths are taken as runc's cgroupfs driver takes them: on v1 below the caller's own cgroup of each
//! hierarchy; on v2 beside it, because a v2 cgroup that has processes cannot have children with controllers.

mod devices;
mod live;
mod oom;
pub mod stats;
mod undo;
mod v1;
mod v2;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt::Display;

use orlop_sys::bpf::Insn;
use orlop_sys::rustix::fs::{CWD, statfs};
use serde::{Deserialize, Serialize};

use crate::config::{self, Resources};
use crate::error::{At, Error, ErrorKind, Result};
use crate::path::clean;

pub use devices::Devices;
pub use live::{Cgroup, CpuMax, Join, SubCgroup};
pub use oom::Oom;
pub use stats::Stats;
pub use v2::weight_of_shares;

/// Where cgroups are looked for.
const ROOT: &str = "/sys/fs/cgroup";
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// How this host has its cgroups. A plain value, so that a test can make any host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// The v1 hierarchies, in the order of their numbers from high to low (as /proc/self/cgroup lists them).
    pub v1: Vec<Hierarchy>,
    /// The v2 tree: alone, or beside v1 (hybrid).
    pub unified: Option<Hierarchy>,
}

/// A mounted cgroup tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hierarchy {
    /// `cpu,cpuacct` or `name=systemd`; empty for v2.
    pub controllers: String,
    /// Where it is mounted.
    pub mount: String,
    /// The caller's own cgroup, as a path below `mount`; `/` at its top.
    pub own: String,
}

impl Layout {
    /// Asks the kernel. On a pure v2 host this costs a statfs and the reading of /proc/self/cgroup.
    pub fn probe() -> Result<Self> {
        let pure = statfs(ROOT).is_ok_and(|s| s.f_type == CGROUP2_SUPER_MAGIC);
        let own = live::read_one(CWD, "/proc/self/cgroup").at(|| "read /proc/self/cgroup")?;
        if pure {
            return Ok(Self::pure_v2(ROOT, &own));
        }
        let mounts = live::read(CWD, "/proc/self/mountinfo").at(|| "read /proc/self/mountinfo")?;
        Ok(Self::parse(&mounts, &own))
    }

    /// A host whose only cgroup tree is v2's at `mount`, from the text of /proc/self/cgroup.
    pub fn pure_v2(mount: &str, own: &str) -> Self {
        let path = own.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("/");
        Self {
            v1: Vec::new(),
            unified: Some(Hierarchy { controllers: String::new(), mount: mount.into(), own: clean(path) }),
        }
    }

    /// A host from the texts of /proc/self/mountinfo and /proc/self/cgroup. Hierarchies that are not mounted are left
    /// out, as they cannot be used.
    pub fn parse(mountinfo: &str, own: &str) -> Self {
        struct Mount<'a> {
            root: Cow<'a, str>,
            point: Cow<'a, str>,
            v2: bool,
            options: &'a str,
        }
        let mounts: Vec<Mount<'_>> = mountinfo
            .lines()
            .filter_map(|line| {
                let (front, back) = line.split_once(" - ")?;
                let mut back = back.split(' ');
                let v2 = match back.next()? {
                    "cgroup" => false,
                    "cgroup2" => true,
                    _ => return None,
                };
                let mut front = front.split(' ').skip(3);
                let (root, point) = (unescape(front.next()?), unescape(front.next()?));
                // The same trees may be mounted for others, such as below a container's root.
                if !below_root(&point) {
                    return None;
                }
                Some(Mount { root, point, v2, options: back.nth(1).unwrap_or_default() })
            })
            .collect();
        let mut layout = Self::default();
        for line in own.lines() {
            let Some((controllers, path)) = line.split_once(':').and_then(|(_, rest)| rest.split_once(':')) else {
                continue;
            };
            let v2 = controllers.is_empty();
            let mount = mounts.iter().find(|m| {
                m.v2 == v2 && (v2 || controllers.split(',').all(|c| m.options.split(',').any(|option| option == c)))
            });
            let Some(mount) = mount else { continue };
            // Inside a container the mount shows a part of the tree, and /proc tells the path from the host's top.
            let below = match path.strip_prefix(mount.root.as_ref()) {
                Some(rest) if mount.root != "/" && (rest.is_empty() || rest.starts_with('/')) => rest,
                _ => path,
            };
            let found =
                Hierarchy { controllers: controllers.into(), mount: mount.point.clone().into(), own: clean(below) };
            if v2 { layout.unified = Some(found) } else { layout.v1.push(found) }
        }
        layout
    }

    /// Whether v2 is all there is.
    pub fn is_v2(&self) -> bool {
        self.v1.is_empty() && self.unified.is_some()
    }

    fn hierarchies(&self) -> impl Iterator<Item = &Hierarchy> {
        self.v1.iter().chain(&self.unified)
    }
}

fn below_root(mount: &str) -> bool {
    mount.strip_prefix(ROOT).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        match after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if byte.is_ascii() => {
                out.push(byte.into());
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out.into()
}

/// A container's directory in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dir {
    /// `cpu,cpuacct` or `name=systemd`; empty for v2.
    pub controllers: String,
    /// Where the hierarchy is mounted.
    pub mount: String,
    /// The path below `mount`, clean, with a leading slash, never the top itself.
    pub path: String,
}

impl Dir {
    /// The whole path.
    pub fn full(&self) -> String {
        format!("{}{}", self.mount, self.path)
    }

    fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.split(',').any(|c| c == controller)
    }
}

/// What the container's record keeps, so that a later process finds its cgroups without asking the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Record(pub Vec<Dir>);

/// A file and what is written to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// The name of the file in the cgroup's directory.
    pub file: Cow<'static, str>,
    /// The text.
    pub value: String,
}

impl Set {
    fn new(file: impl Into<Cow<'static, str>>, value: impl ToString) -> Self {
        Self { file: file.into(), value: value.to_string() }
    }
}

/// One planned write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Which of the plan's directories.
    dir: usize,
    set: Set,
    /// What is written instead where the kernel has no such file.
    or: Option<Set>,
    /// Whether a missing file (and `or`'s) is as good as written.
    optional: bool,
    /// The field of config.json, for messages.
    field: String,
}

/// What is done about devices.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    None,
    V1 { dir: usize, writes: Vec<(&'static str, String)> },
    V2 { program: Vec<Insn>, rules_allow_all: bool },
}

/// Everything decided about a container's cgroups: where they are and what is written into them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    dirs: Vec<Dir>,
    writes: Vec<Write>,
    filter: Filter,
    /// v2: refuse a memory limit below the usage, instead of letting the kernel reclaim and kill.
    check_usage: Option<u64>,
    cpus: String,
    mems: String,
    delegate_to: Option<u32>,
    /// Fields that mean nothing in this layout: worth a line in a debug log, no reason to fail.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Decides. `cgroups_path` is `linux.cgroupsPath`, empty when absent; `delegate_to` is the host uid that gets the
    /// cgroup's files (see [`delegation`]).
    ///
    /// # Errors
    /// `InvalidSpec` for values that cannot be meant, `Unsupported` for limits whose controller is not there.
    pub fn new(
        id: &str,
        cgroups_path: &str,
        resources: Option<&Resources>,
        layout: &Layout,
        delegate_to: Option<u32>,
    ) -> Result<Self> {
        let dirs = layout
            .hierarchies()
            .map(|h| {
                Ok(Dir {
                    controllers: h.controllers.clone(),
                    mount: h.mount.clone(),
                    path: place(id, cgroups_path, h)?,
                })
            })
            .collect::<Result<Vec<Dir>>>()?;
        if dirs.is_empty() {
            return Err(Error::new(ErrorKind::Unsupported, "no cgroup file system is mounted below /sys/fs/cgroup"));
        }
        let mut plan = Self {
            dirs,
            writes: Vec::new(),
            filter: Filter::None,
            check_usage: None,
            cpus: String::new(),
            mems: String::new(),
            delegate_to: delegate_to.filter(|_| layout.is_v2()),
            warnings: Vec::new(),
        };
        plan.set_resources(resources)?;
        // What runc does too: no rules at all still mean the implicit ones over a refusal.
        plan.set_devices(resources.map_or(&[], |r| &r.devices))?;
        Ok(plan)
    }

    /// The plan of a change to a container that exists: `resources` alone, in the directories of its record. Device
    /// rules are left as they are unless some are given.
    pub fn update(record: &Record, resources: &Resources) -> Result<Self> {
        let mut plan = Self {
            dirs: record.0.clone(),
            writes: Vec::new(),
            filter: Filter::None,
            check_usage: None,
            cpus: String::new(),
            mems: String::new(),
            delegate_to: None,
            warnings: Vec::new(),
        };
        plan.set_resources(Some(resources))?;
        if !resources.devices.is_empty() {
            plan.set_devices(&resources.devices)?;
        }
        Ok(plan)
    }

    /// What to write down before anything is made.
    pub fn record(&self) -> Record {
        Record(self.dirs.clone())
    }

    fn is_v2(&self) -> bool {
        matches!(self.dirs.as_slice(), [only] if only.is_v2())
    }

    fn set_resources(&mut self, resources: Option<&Resources>) -> Result<()> {
        let Some(r) = resources else { return Ok(()) };
        let v2 = self.is_v2();
        let mut writes = Writes {
            dirs: &self.dirs,
            list: Vec::new(),
            dir: None,
            controller: "",
            field: "",
            check_usage: None,
            warnings: Vec::new(),
        };
        if r.memory.as_ref().is_some_and(|m| m.kernel.is_some() || m.kernel_tcp.is_some()) {
            writes.warn("linux.resources.memory.kernel and .kernelTCP are ignored: kernels have given these limits up");
        }
        if v2 {
            v2::plan(r, &mut writes)?
        } else {
            v1::plan(r, &mut writes)?
        }
        let Writes { list, check_usage, warnings, .. } = writes;
        (self.writes, self.check_usage, self.warnings) = (list, check_usage, warnings);
        if let Some(cpu) = &r.cpu {
            (self.cpus, self.mems) = (cpu.cpus.clone(), cpu.mems.clone());
        }
        Ok(())
    }

    fn set_devices(&mut self, rules: &[config::DeviceRule]) -> Result<()> {
        let devices = Devices::new(rules)?;
        self.filter = if self.is_v2() {
            Filter::V2 { program: devices.program(), rules_allow_all: devices.unrestricted() }
        } else if let Some(dir) = self.dirs.iter().position(|d| d.has("devices")) {
            Filter::V1 { dir, writes: devices.v1()? }
        } else if devices.unrestricted() {
            Filter::None
        } else {
            return Err(Error::unsupported("linux.resources.devices", "the cgroup controller devices is not mounted"));
        };
        Ok(())
    }

    /// Whether a limit of a controller that works on whole processes only is asked for (v2: not in threaded mode).
    fn wants_domain_controllers(&self) -> bool {
        self.writes.iter().any(|w| ["memory.", "io.", "hugetlb.", "rdma."].iter().any(|c| w.set.file.starts_with(c)))
    }
}

/// The path of a container's cgroup below the mount point of `h`.
fn place(id: &str, cgroups_path: &str, h: &Hierarchy) -> Result<String> {
    let refuse = || Error::invalid("linux.cgroupsPath", format_args!("{cgroups_path:?} is the root cgroup itself"));
    let wanted = clean(if cgroups_path.is_empty() { id } else { cgroups_path });
    if wanted == "/" {
        return Err(refuse());
    }
    if cgroups_path.starts_with('/') {
        return Ok(wanted);
    }
    let base = match h.controllers.is_empty() {
        true => h.own.rsplit_once('/').map_or("", |(parent, _)| parent),
        false => h.own.trim_end_matches('/'),
    };
    Ok(format!("{base}{wanted}"))
}

/// Whose the container's cgroup becomes, by the specification's rule: v2, a new cgroup namespace, and a writable mount
/// at /sys/fs/cgroup; then it is the host uid of the container's root.
pub fn delegation(layout: &Layout, new_cgroup_namespace: bool, mounts: &[config::Mount], root_uid: u32) -> Option<u32> {
    let mount = mounts.iter().rev().find(|m| clean(&m.destination) == ROOT)?;
    let writable = mount.r#type.starts_with("cgroup")
        && mount.options.iter().rev().find_map(|o| match o.as_str() {
            "ro" => Some(false),
            "rw" => Some(true),
            _ => None,
        }) != Some(false);
    (layout.is_v2() && new_cgroup_namespace && writable).then_some(root_uid)
}

/// Collects writes; knows which directory the controller at hand is in.
struct Writes<'a> {
    dirs: &'a [Dir],
    list: Vec<Write>,
    dir: Option<usize>,
    controller: &'static str,
    field: &'static str,
    check_usage: Option<u64>,
    warnings: Vec<String>,
}

impl Writes<'_> {
    /// What follows belongs to `controller`, and to fields below `field`.
    fn field(&mut self, controller: &'static str, field: &'static str) {
        let v2 = matches!(self.dirs, [only] if only.is_v2());
        self.dir = self.dirs.iter().position(|d| if v2 { d.is_v2() } else { d.has(controller) });
        (self.controller, self.field) = (controller, field);
    }

    fn add(&mut self, field: &str, file: impl Into<Cow<'static, str>>, value: impl ToString) -> Result<()> {
        self.push(field, Set::new(file, value), None, false)
    }

    /// For a file that may be missing without harm.
    fn add_optional(&mut self, field: &str, file: impl Into<Cow<'static, str>>, value: impl ToString) -> Result<()> {
        self.push(field, Set::new(file, value), None, true)
    }

    /// For a limit that has one of two files, depending on the kernel.
    fn add_either(&mut self, field: &str, set: Set, or: Set) -> Result<()> {
        self.push(field, set, Some(or), false)
    }

    fn push(&mut self, field: &str, set: Set, or: Option<Set>, optional: bool) -> Result<()> {
        let field = format!("{}.{field}", self.field);
        let Some(dir) = self.dir else {
            let why = format!("the cgroup controller {} is not mounted", self.controller);
            return Err(Error::unsupported(field, why));
        };
        self.list.push(Write { dir, set, or, optional, field });
        Ok(())
    }

    /// The cpuset, whose files v1 and v2 have in common.
    fn cpuset(&mut self, cpu: &config::Cpu) -> Result<()> {
        self.field("cpuset", "linux.resources.cpu");
        if !cpu.cpus.is_empty() {
            self.add("cpus", "cpuset.cpus", &cpu.cpus)?;
        }
        if !cpu.mems.is_empty() {
            self.add("mems", "cpuset.mems", &cpu.mems)?;
        }
        Ok(())
    }

    /// The number of processes, whose file v1 and v2 have in common.
    fn pids(&mut self, resources: &Resources) -> Result<()> {
        let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit) else { return Ok(()) };
        self.field("pids", "linux.resources.pids");
        self.add("limit", "pids.max", max(limit))
    }

    fn warn(&mut self, what: impl Display) {
        self.warnings.push(what.to_string());
    }
}

/// A byte limit: absent and 0 are unset, -1 unlimited.
fn limit(field: &str, value: Option<i64>) -> Result<i64> {
    match value.unwrap_or(0) {
        n if n < -1 => Err(Error::invalid(field, format_args!("{n} is neither a size nor -1"))),
        n => Ok(n),
    }
}

/// Negative is unlimited.
fn max(value: i64) -> Cow<'static, str> {
    if value < 0 { "max".into() } else { value.to_string().into() }
}

/// A block I/O weight: 0 is unset.
fn check_weight(field: &str, weight: Option<u16>) -> Result<Option<u16>> {
    match weight {
        None | Some(0) => Ok(None),
        Some(n @ 10..=1000) => Ok(Some(n)),
        Some(n) => {
            Err(Error::invalid(format_args!("linux.resources.blockIO.{field}"), format_args!("{n} is not in 10-1000")))
        }
    }
}

/// `64KB`, `2MB`, `1GB`: it becomes a part of a file name.
fn huge_page_size(size: &str) -> Result<&str> {
    let digits = size.strip_suffix("KB").or_else(|| size.strip_suffix("MB")).or_else(|| size.strip_suffix("GB"));
    match digits {
        Some(n) if !n.is_empty() && !n.starts_with('0') && n.bytes().all(|b| b.is_ascii_digit()) => Ok(size),
        _ => Err(Error::invalid("linux.resources.hugepageLimits.pageSize", format_args!("no page size: {size:?}"))),
    }
}

/// `mlx4_0 hca_handle=3 hca_object=100`.
fn rdma_line(device: &str, limits: &config::Rdma) -> Result<String> {
    if device.is_empty() || device.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Error::invalid("linux.resources.rdma", format_args!("no device name: {device:?}")));
    }
    let mut line = device.to_owned();
    for (key, value) in [("hca_handle", limits.hca_handles), ("hca_object", limits.hca_objects)] {
        line.extend(value.map(|n| format!(" {key}={n}")));
    }
    Ok(line)
}
