//! /dev: the default devices of config-linux.md, `linux.devices`, and the symlinks.

use orlop_init::{Mount, Operation, What};
use orlop_sys::fs::{Links, makedev};
use orlop_sys::mount::{Attr, ms};

use super::mounts::Mounts;
use super::{Context, Source};
use crate::config;
use crate::error::{Error, Result};
use crate::path::{clean, split};

const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;
const S_IFIFO: u32 = 0o010_000;

/// Always there, with mode 0666 (config-linux.md, "Default Devices"; console and ptmx are made elsewhere).
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/random", 1, 8),
    ("/dev/full", 1, 7),
    ("/dev/tty", 5, 0),
    ("/dev/zero", 1, 5),
    ("/dev/urandom", 1, 9),
];

/// Plans the content of /dev, after `mounts`.
pub(super) fn plan<'a>(cx: &Context<'a, '_>, planned: &mut Mounts<'a>, devices: &[config::Device]) -> Result<()> {
    if planned.dev_is_bound {
        return Ok(());
    }
    let own: Vec<String> = devices.iter().map(|d| clean(&d.path)).collect();
    for (path, major, minor) in DEFAULT {
        if !own.iter().any(|p| p == path) {
            node(cx, planned, "linux.devices", path, S_IFCHR | 0o666, makedev(major, minor), (0, 0))?;
        }
    }
    for (i, (device, path)) in devices.iter().zip(&own).enumerate() {
        let field = format!("linux.devices[{i}]");
        let kind = match device.r#type.as_str() {
            "c" | "u" => S_IFCHR,
            "b" => S_IFBLK,
            "p" => S_IFIFO,
            other => {
                let what = format_args!("\"{other}\" is none of b, c, u, p");
                return Err(Error::invalid(format_args!("{field}.type"), what));
            }
        };
        if device.path.is_empty() || path == "/" {
            return Err(Error::invalid(format_args!("{field}.path"), "must not be empty"));
        }
        // It is a symlink to the container's own, below.
        if path == "/dev/ptmx" {
            continue;
        }
        let number = |name: &str, value: i64, max: i64| match value {
            _ if kind == S_IFIFO => Ok(0),
            v if (0..=max).contains(&v) => Ok(v as u32),
            v => Err(Error::invalid(format_args!("{field}.{name}"), format_args!("{v} is no device number"))),
        };
        // 12 and 20 bits (Linux's dev_t).
        let rdev = makedev(number("major", device.major, 0xfff)?, number("minor", device.minor, 0xf_ffff)?);
        let mode = kind | device.file_mode.unwrap_or(0o666) & 0o7777;
        let owner = (device.uid.unwrap_or(0), device.gid.unwrap_or(0));
        node(cx, planned, &field, path, mode, rdev, owner)?;
    }
    for (name, target, replace) in [
        (c"ptmx", c"pts/ptmx", true),
        (c"fd", c"/proc/self/fd", false),
        (c"stdin", c"/proc/self/fd/0", false),
        (c"stdout", c"/proc/self/fd/1", false),
        (c"stderr", c"/proc/self/fd/2", false),
    ] {
        planned.operations.push(Operation::Symlink { directory: c"/dev", name, target, replace });
    }
    if cx.host.has_kcore {
        let (name, target) = (c"core", c"/proc/kcore");
        planned.operations.push(Operation::Symlink { directory: c"/dev", name, target, replace: false });
    }
    Ok(())
}

fn node<'a>(
    cx: &Context<'a, '_>,
    planned: &mut Mounts<'a>,
    field: &str,
    path: &str,
    mode: u32,
    device: u64,
    (uid, gid): (u32, u32),
) -> Result<()> {
    // mknod(2) of a device is the initial user namespace's; inside another one the host's node is bound.
    if cx.has_user_namespace && mode & 0o170_000 != S_IFIFO {
        let target = cx.arena.cstr(field, path)?;
        planned.operations.push(Operation::Mount(Mount {
            target,
            links: Links::Follow,
            on_proc: false,
            what: What::Source,
            attr: Attr { propagation: ms::PRIVATE, ..Attr::default() },
            recursive: Attr::default(),
            copy_up: false,
            copy_mode: false,
        }));
        let field = cx.arena.cstr(field, field)?;
        planned.sources.push(Source::Path { path: target, recursive: false, must_be_proc: false, id_map: None, field });
        return Ok(());
    }
    let (directory, name) = split(path);
    let (directory, name) = (cx.arena.cstr(field, directory)?, cx.arena.cstr(field, name)?);
    planned.operations.push(Operation::Node { directory, name, mode, device, uid, gid });
    Ok(())
}
