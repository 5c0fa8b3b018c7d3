//! What a plan names, in hand: nothing is made yet, so everything that is missing is found out before there is
//! anything to undo.

use std::ffi::CStr;

use orlop_sys::fs::{PROC_SUPER_MAGIC, fstatfs};
use orlop_sys::mount::{OpenTreeFlags, mount_idmap, open_tree};
use orlop_sys::process::namespace_type;
use orlop_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use orlop_sys::rustix::process::Pid;
use orlop_sys::{AsFd, Errno, OwnedFd};

use crate::error::{At, Error, ErrorKind, Result};
use crate::plan::{Ids, Join, NAMESPACES, Namespaces, Plan, Source};
use crate::request;
use crate::{host, idmap, socket};

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Opened {
    /// The host's /proc.
    pub(crate) proc: OwnedFd,
    /// A detached clone of the rootfs with all that is mounted in it.
    pub(crate) tree: Option<OwnedFd>,
    /// The namespaces to join and their flags.
    pub(crate) joins: Vec<(OwnedFd, u64)>,
    /// The user namespace to join.
    pub(crate) join_user: Option<OwnedFd>,
    /// The user namespaces that show the owners of sources.
    pub(crate) id_maps: Vec<OwnedFd>,
    /// Connected, for the terminal's master.
    pub(crate) console: Option<OwnedFd>,
    /// Connected, for init's pidfd.
    pub(crate) pidfd_socket: Option<OwnedFd>,
}

impl Opened {
    /// Opens.
    pub(crate) fn new(plan: &Plan<'_>, request: &request::Create) -> Result<Self> {
        let (joins, join_user) = namespaces(&plan.namespaces)?;
        Ok(Self {
            proc: host::proc()?,
            tree: rootfs(plan)?,
            joins,
            join_user,
            id_maps: plan.id_maps.iter().map(idmap::namespace).collect::<Result<_>>()?,
            console: request
                .console_socket
                .as_deref()
                .map(|path| socket::connect_to("console socket", path))
                .transpose()?,
            pidfd_socket: request
                .pidfd_socket
                .as_deref()
                .map(|path| socket::connect_to("pidfd socket", path))
                .transpose()?,
        })
    }
}

fn rootfs(plan: &Plan<'_>) -> Result<Option<OwnedFd>> {
    let what = || format!("invalid rootfs {}", text(plan.rootfs));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if !plan.has_mount_namespace {
        return openat(CWD, plan.rootfs, flags, Mode::empty()).at(what).map(|_| None);
    }
    // That it is a directory, the child finds out when it opens the place where this goes.
    open_tree(CWD, plan.rootfs, clone_flags(true)).at(what).map(Some)
}

fn clone_flags(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive { flags | OpenTreeFlags::AT_RECURSIVE } else { flags }
}

type Joins = (Vec<(OwnedFd, u64)>, Option<OwnedFd>);

fn namespaces(planned: &Namespaces<'_>) -> Result<Joins> {
    let joins = planned.joins.iter().map(|join| Ok((namespace(join)?, join.flag))).collect::<Result<_>>()?;
    Ok((joins, planned.join_user.as_ref().map(namespace).transpose()?))
}

/// Opens a namespace and sees that it is one of the type that was said.
fn namespace(join: &Join<'_>) -> Result<OwnedFd> {
    let what = || format!("linux.namespaces[{}].path: {}", join.index, text(join.path));
    // A FIFO in its place must not make us wait.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = openat(CWD, join.path, flags, Mode::empty()).at(what)?;
    let name = |flag| NAMESPACES.iter().find(|(_, f, _)| *f == flag).map_or("?", |(name, ..)| name);
    match namespace_type(&fd) {
        Ok(found) if found == join.flag => Ok(fd),
        Ok(found) => {
            let why = format!("is a namespace of type {}, not {}", name(found), name(join.flag));
            Err(Error::invalid(what(), why))
        }
        Err(_) => Err(Error::invalid(what(), "is no namespace")),
    }
}

/// A detached clone of what a mount shows, for the child `init`. Opened one at a time, when the child is about to need it,
/// so that any number of mounts needs a handful of fds.
pub(crate) fn source(source: &Source<'_>, opened: &Opened, init: Pid) -> Result<OwnedFd> {
    let (path, recursive, must_be_proc, id_map, field) = match source {
        Source::Path { path, recursive, must_be_proc, id_map, field } => {
            (*path, *recursive, *must_be_proc, *id_map, *field)
        }
        Source::Cgroup { path, field } => (*path, false, false, None, *field),
    };
    let what = || format!("{}: mount source {}", text(field), text(path));
    let tree = open_tree(CWD, path, clone_flags(recursive)).at(what)?;
    if must_be_proc && fstatfs(&tree).at(what)?.f_type != PROC_SUPER_MAGIC {
        let why = format!("{}: \"/proc\" cannot be mounted because it is not of type proc", text(field));
        return Err(Error::new(ErrorKind::InvalidSpec, why));
    }
    if let Some(id_map) = id_map {
        let of_init;
        let namespace = match id_map.by {
            Ids::Own(at) => opened.id_maps.get(at).ok_or(Errno::BADF).at(what)?,
            Ids::Container => {
                of_init = idmap::of(opened.proc.as_fd(), init)?;
                &of_init
            }
        };
        mount_idmap(&tree, id_map.recursive, namespace).at(|| format!("{}: map ids", what()))?;
    }
    Ok(tree)
}

/// A C string for a message.
pub(crate) fn text(text: &CStr) -> std::borrow::Cow<'_, str> {
    text.to_string_lossy()
}
