//! Every decision about a container, made before anything is done: from what was said ([`Spec`]), what was asked
//! ([`request::Create`]) and what the machine can do ([`Host`]). Pure: no system call is made here, so a test can plan
//! for any machine.
//!
//! What the child needs is written down in the child's own types, ready for the kernel; what the parent has to open
//! first is named.

mod arena;
mod devices;
pub mod fields;
pub mod mount_options;
mod mounts;
mod namespaces;
mod paths;
mod process;

use std::ffi::CStr;

use orlop_init::{Filter, Keyring, Operation, Process, Root, Terminal};
use orlop_sys::clone::flag;

pub use arena::Arena;
pub use namespaces::{Join, Maps, Namespaces, TYPES as NAMESPACES};
pub use process::{Planned as PlannedProcess, Surroundings, plan as plan_process, rlimit_name};

use crate::bpf;
use crate::cgroup::{self, Layout};
use crate::config::{self, Spec};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::request::{self, Cgroups};

/// See the [module](self). Borrows from the arena and nothing else.
#[derive(Debug)]
pub struct Plan<'a> {
    /// New and joined namespaces.
    pub namespaces: Namespaces<'a>,
    /// `CLONE_*` of the first process, and of the second if the first is only in between.
    pub clone_flags: (u64, Option<u64>),
    /// Its cgroups; `None` to stay in the caller's.
    pub cgroup: Option<cgroup::Plan>,
    /// The rootfs's absolute path on the host.
    pub rootfs: &'a CStr,
    /// The rootfs is cloned and attached; without a mount namespace it is used as it is.
    pub has_mount_namespace: bool,
    /// `MS_*` for all mounts at the start.
    pub propagation: u64,
    /// `MS_*` for the root in the end.
    pub final_propagation: u64,
    /// What is done in the rootfs, in order.
    pub operations: &'a [Operation<'a>],
    /// What the parent opens for it, in order.
    pub sources: Vec<Source<'a>>,
    /// The maps by which sources show owners, each once.
    pub id_maps: Vec<Maps>,
    /// How the root changes.
    pub root: Root,
    /// The root becomes read-only.
    pub readonly: bool,
    /// Paths that become read-only.
    pub readonly_paths: &'a [&'a CStr],
    /// Paths that become empty.
    pub masked_paths: &'a [&'a CStr],
    /// The host name; empty to leave it.
    pub hostname: &'a [u8],
    /// The NIS domain name; empty to leave it.
    pub domainname: &'a [u8],
    /// Kernel parameters.
    pub sysctls: &'a [(&'a CStr, &'a [u8])],
    /// The session keyring: its name and permissions.
    pub keyring: Option<(&'a CStr, u32)>,
    /// The terminal.
    pub terminal: Option<Terminal>,
    /// There are hooks between the mounts and the change of root.
    pub hooks: bool,
    /// The first process.
    pub process: Process<'a>,
    /// Its program as it was named.
    pub program: &'a CStr,
    /// Its resource limits: resource, soft, hard.
    pub rlimits: Vec<(u32, u64, u64)>,
    /// Its OOM score adjustment.
    pub oom_score_adj: Option<i32>,
    /// What was asked for and can't be, without being an error.
    pub warnings: Vec<String>,
}

/// What the parent opens for a mount, with the field that asks for it.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A file or directory of the host, for a bind mount.
    Path {
        /// Absolute.
        path: &'a CStr,
        /// With all that is mounted below it.
        recursive: bool,
        /// It is mounted on /proc, so it must be a proc file system.
        must_be_proc: bool,
        /// It is id-mapped.
        id_map: Option<IdMap>,
        /// For messages.
        field: &'a CStr,
    },
    /// The container's own directory in a cgroup hierarchy, which exists by then.
    Cgroup {
        /// Absolute.
        path: &'a CStr,
        /// For messages.
        field: &'a CStr,
    },
}

/// How a mount shows the owners of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    /// By whose ids.
    pub by: Ids,
    /// What is mounted below shows them so too.
    pub recursive: bool,
}

/// A user namespace whose maps are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// The container's.
    Container,
    /// One that is made for it: the place in [`Plan::id_maps`].
    Own(usize),
}

/// What the parts of the planning share.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a, 's> {
    arena: &'a Arena,
    spec: &'s Spec,
    host: &'s Host,
    layout: &'s Layout,
    bundle: &'s str,
    /// `MS_*` for all mounts at the start.
    propagation: u64,
    has_user_namespace: bool,
    new_cgroup_namespace: bool,
    cgroup: Option<&'s cgroup::Record>,
}

impl<'a> Context<'a, '_> {
    /// A path of the host: absolute, or relative to the bundle.
    fn host_path(&self, field: &str, path: &str) -> Result<&'a CStr> {
        match path {
            "" => Err(Error::invalid(field, "must not be empty")),
            path if path.starts_with('/') => self.arena.cstr(field, path),
            path => self.arena.concat(field, &[self.bundle, "/", path]),
        }
    }
}

/// Permissions of the session keyring: everything for its possessor; view, read and link for its user; and search for
/// who else is to find it: the user, or others where the user is another one inside a user namespace.
const KEY_POSSESSOR_ALL: u32 = 0x3f13_0000;
const KEY_USER_SEARCH: u32 = 0x08_0000;
const KEY_OTHER_SEARCH: u32 = 0x8;

/// The longest host name (`__NEW_UTS_LEN`).
const LONGEST_NAME: usize = 64;

impl<'a> Plan<'a> {
    /// Decides.
    ///
    /// # Errors
    /// `InvalidSpec` with the path of the field; `Unsupported` likewise.
    pub fn new(arena: &'a Arena, spec: &Spec, request: &request::Create, host: &Host) -> Result<Self> {
        fields::check(spec)?;
        let linux = &spec.linux;
        let Some(process) = &spec.process else {
            return Err(Error::invalid("process", "process property must not be empty"));
        };
        let Some(root) = spec.root.as_ref().filter(|root| !root.path.is_empty()) else {
            return Err(Error::invalid("root.path", "must not be empty"));
        };
        let (propagation, final_propagation) = paths::propagation(&linux.rootfs_propagation)?;
        let mut cx = Context {
            arena,
            spec,
            host,
            layout: &host.layout,
            bundle: &request.bundle,
            propagation,
            has_user_namespace: false,
            new_cgroup_namespace: false,
            cgroup: None,
        };
        let namespaces = namespaces::plan(&cx, linux)?;
        let has = |flag: u64| namespaces.own & flag != 0;
        let new = |flag: u64| namespaces.new & flag != 0;
        cx.has_user_namespace = has(flag::NEWUSER);
        cx.new_cgroup_namespace = new(flag::NEWCGROUP);
        check_needs(spec, &namespaces)?;

        let cgroup = match request.cgroups {
            Cgroups::Disabled => None,
            Cgroups::Cgroupfs => Some(cgroup(&cx, request)?),
        };
        let record = cgroup.as_ref().map(cgroup::Plan::record);
        cx.cgroup = record.as_ref();

        let mut mounts = mounts::plan(&cx, &spec.mounts)?;
        if has(flag::NEWNS) {
            devices::plan(&cx, &mut mounts, &linux.devices)?;
        }
        mounts.operations.append(&mut mounts.late);

        let seccomp = match &linux.seccomp {
            Some(seccomp) => bpf::compile(seccomp, "linux.seccomp", host.arch)?,
            None => None,
        };
        let mut warnings = Vec::new();
        let filter = seccomp.map(|compiled| {
            warnings.extend(compiled.warnings);
            Filter { program: arena.list(compiled.program), flags: compiled.flags }
        });
        let around = Surroundings {
            grantable: if cx.has_user_namespace { u64::MAX } else { host.permitted },
            has_user_namespace: cx.has_user_namespace,
            no_setgroups: false,
            personality: linux.personality.as_ref(),
            preserve_fds: request.listen_fds.saturating_add(request.preserve_fds),
            listen_fds: request.listen_fds,
        };
        let planned = process::plan(arena, "process", process, &around, filter)?;
        warnings.extend(planned.warnings);
        if let Some(cgroup) = &cgroup {
            warnings.extend(cgroup.warnings.iter().cloned());
        }

        Ok(Self {
            clone_flags: namespaces.clone_flags(),
            rootfs: cx.host_path("root.path", &root.path)?,
            has_mount_namespace: has(flag::NEWNS),
            propagation: if has(flag::NEWNS) { propagation } else { 0 },
            final_propagation: if has(flag::NEWNS) { final_propagation } else { 0 },
            operations: arena.list(mounts.operations),
            sources: mounts.sources,
            id_maps: mounts.id_maps,
            root: match has(flag::NEWNS) {
                false => Root::Chroot,
                true if request.no_pivot => Root::Move,
                true => Root::Pivot,
            },
            readonly: root.readonly,
            readonly_paths: paths::paths(&cx, "linux.readonlyPaths", &linux.readonly_paths)?,
            masked_paths: paths::paths(&cx, "linux.maskedPaths", &linux.masked_paths)?,
            hostname: arena.bytes(spec.hostname.as_bytes()),
            domainname: arena.bytes(spec.domainname.as_bytes()),
            sysctls: paths::sysctls(&cx, &namespaces)?,
            keyring: (!request.no_new_keyring)
                .then(|| keyring(arena, request.id.as_str(), cx.has_user_namespace))
                .transpose()?,
            terminal: terminal(process, has(flag::NEWNS)),
            hooks: !(spec.hooks.prestart.is_empty()
                && spec.hooks.create_runtime.is_empty()
                && spec.hooks.create_container.is_empty()),
            process: planned.process,
            program: planned.program,
            rlimits: planned.rlimits,
            oom_score_adj: planned.oom_score_adj,
            cgroup,
            namespaces,
            warnings,
        })
    }

    /// The keyring in the child's terms.
    pub fn keyring(&self) -> Option<Keyring<'a>> {
        self.keyring.map(|(name, permissions)| Keyring { name, permissions })
    }
}

/// `_ses.ID`, as runc names it, so that `exec` finds it.
pub fn keyring<'a>(arena: &'a Arena, id: &str, has_user_namespace: bool) -> Result<(&'a CStr, u32)> {
    let search = if has_user_namespace { KEY_OTHER_SEARCH } else { KEY_USER_SEARCH };
    Ok((arena.concat("id", &["_ses.", id])?, KEY_POSSESSOR_ALL | search))
}

/// The terminal that a process asks for.
pub fn terminal(process: &config::Process, console: bool) -> Option<Terminal> {
    let clamp = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let size = process.console_size.as_ref().map(|size| (clamp(size.height), clamp(size.width)));
    process.terminal.then_some(Terminal { size, console })
}

fn cgroup(cx: &Context<'_, '_>, request: &request::Create) -> Result<cgroup::Plan> {
    let linux = &cx.spec.linux;
    let root_uid = match linux.uid_mappings.iter().find(|m| m.container_id == 0) {
        Some(mapping) if cx.has_user_namespace => mapping.host_id,
        _ => 0,
    };
    let delegate = cgroup::delegation(cx.layout, cx.new_cgroup_namespace, &cx.spec.mounts, root_uid);
    let resources = linux.resources.as_ref();
    cgroup::Plan::new(request.id.as_str(), &linux.cgroups_path, resources, cx.layout, delegate)
}

/// What makes no sense without a namespace of its own.
fn check_needs(spec: &Spec, namespaces: &Namespaces<'_>) -> Result<()> {
    let has = |flag: u64| namespaces.own & flag != 0;
    for (name, field) in [(&spec.hostname, "hostname"), (&spec.domainname, "domainname")] {
        if !name.is_empty() && !has(flag::NEWUTS) {
            return Err(Error::invalid(field, format_args!("unable to set {field} without a private UTS namespace")));
        }
        if name.len() > LONGEST_NAME {
            return Err(Error::invalid(field, format_args!("longer than {LONGEST_NAME} bytes")));
        }
    }
    if has(flag::NEWNS) {
        return Ok(());
    }
    // Done in the host's mount namespace these would change the host.
    for (empty, field) in [
        (spec.mounts.is_empty(), "mounts"),
        (spec.linux.masked_paths.is_empty(), "linux.maskedPaths"),
        (spec.linux.readonly_paths.is_empty(), "linux.readonlyPaths"),
        (spec.linux.rootfs_propagation.is_empty(), "linux.rootfsPropagation"),
        (spec.linux.devices.is_empty(), "linux.devices"),
        (!spec.root.as_ref().is_some_and(|root| root.readonly), "root.readonly"),
    ] {
        if !empty {
            return Err(Error::invalid(field, "needs a private mount namespace"));
        }
    }
    Ok(())
}
