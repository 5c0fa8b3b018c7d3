//! The runtime behind a container: our own, which is a library, or another program with runc's command line
//! (`BinaryName`). All but [`Runtime::cgroup`] and [`Runtime::pids`] is work for a job.

use std::path::Path;
use std::process::Command;

use orlop::cgroup::{Cgroup, Dir, Layout, Record};
use orlop::config::{self, Resources, Spec};
use orlop::container::Container;
use orlop::store::{ContainerId, Store};
use orlop::{create, delete, exec, kill, pause, ps, request, start, update};
use orlop_sys::rustix::fs::{AtFlags, CWD, Mode, mkdirat, unlinkat};
use orlop_sys::rustix::io::IoSliceMut;
use orlop_sys::rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags, SocketType,
    accept_with, bind, listen, recvmsg, socket_with,
};
use orlop_sys::rustix::process::{getpid, set_child_subreaper};
use orlop_sys::{Errno, OwnedFd};
use serde::Deserialize;

use crate::io::{self, Owner, Stdio};
use crate::job::{self, Done, Outcome};
use crate::mounts::{self, Mount};
use crate::options::{self, Options};
use crate::start::{read_file, write_file};
use crate::task;
use crate::ttrpc::{Code, Status};

/// See the [module](self).
#[derive(Debug, Clone, Copy)]
pub struct Runtime<'a> {
    /// Which, and how.
    pub options: &'a Options,
    /// containerd's namespace.
    pub namespace: &'a str,
    /// The container.
    pub id: &'a str,
    /// Its bundle.
    pub bundle: &'a str,
}

fn library(prefix: &'static str) -> impl Fn(orlop::Error) -> Status {
    move |error| {
        let status = job::status(&error);
        Status::new(status.code, format!("{prefix}{}", status.message))
    }
}

fn failed(what: &str) -> impl Fn(Errno) -> Status {
    move |errno| Status::new(Code::Unknown, format!("{what}: {}", orlop::error::describe(errno)))
}

fn finished(why: &str) -> Status {
    Status::new(Code::NotFound, format!("{why}: process already finished: not found"))
}

fn number(pid: orlop_sys::rustix::process::Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

impl Runtime<'_> {
    /// Where the root file system is mounted, if it is ours to mount.
    pub fn rootfs(&self) -> String {
        format!("{}/rootfs", self.bundle)
    }

    fn root(&self) -> String {
        self.options.root(self.namespace)
    }

    fn open(&self) -> orlop::Result<(Store, ContainerId)> {
        Ok((Store::open(Path::new(&self.root()))?, ContainerId::parse(self.id)?))
    }

    /// Makes the container, with its root file system.
    pub fn create(&self, mounts: &[Mount], stdio: &Stdio, terminal: bool) -> Outcome {
        // For `delete`, should we be killed.
        let kept = serde_json::to_vec(self.options).unwrap_or_default();
        let file = format!("{}/{}", self.bundle, options::FILE);
        write_file(&file, &kept).map_err(failed(&file))?;
        // Of an earlier container in the same bundle, if there is one.
        let _ = unlinkat(CWD, format!("{}/{}", self.bundle, task::EXIT_FILE), AtFlags::empty());
        let rootfs = self.rootfs();
        mounts::mount_all(mounts, &rootfs)?;
        let created = self.create_on(stdio, terminal);
        if created.is_err() && !mounts.is_empty() {
            mounts::unmount_all(&rootfs);
        }
        created
    }

    fn create_on(&self, stdio: &Stdio, terminal: bool) -> Outcome {
        let path = format!("{}/config.json", self.bundle);
        let config = read_file(&path).map_err(failed(&path))?;
        self.own_pipes(&config);
        let logger = self.start_logger(stdio)?;
        let pid_file = format!("{}/init.pid", self.bundle);
        if let Some(other) = self.other() {
            let spec: Spec = config::parse("config.json", &config).map_err(library("OCI runtime create failed: "))?;
            let mut arguments = vec!["--bundle", self.bundle, "--pid-file", &pid_file];
            if self.options.no_pivot_root {
                arguments.push("--no-pivot");
            }
            if self.options.no_new_keyring {
                arguments.push("--no-new-keyring");
            }
            let terminal = other.with_terminal("create", &arguments, self.id, terminal)?;
            let own = spec.linux.namespaces.iter().any(|n| n.r#type == "pid" && n.path.is_empty());
            return Ok(Done { pid: read_pid(&pid_file)?, logger, terminal, flag: own, notes: Vec::new() });
        }
        let make = || {
            let request = request::Create {
                id: ContainerId::parse(self.id)?,
                bundle: self.bundle.to_owned(),
                console_socket: None,
                pidfd_socket: None,
                pid_file: Some(pid_file),
                no_pivot: self.options.no_pivot_root,
                no_new_keyring: self.options.no_new_keyring,
                preserve_fds: 0,
                listen_fds: 0,
                foreground: terminal,
                cgroups: request::Cgroups::Cgroupfs,
            };
            let store = Store::create(Path::new(&self.root()))?;
            let created = create::create(&store, &request, &config)?;
            let own = Container::open(&store, &request.id)?.record().has_own_pid_namespace();
            Ok((created, own))
        };
        let (created, own) = make().map_err(library("OCI runtime create failed: "))?;
        let (pid, terminal, notes) = (number(created.pid), created.terminal, created.warnings);
        Ok(Done { pid, logger, terminal, flag: own, notes })
    }

    /// Gives the pipes to the root of the container's user namespace if the engine named no owner: from inside, where
    /// the host's root has no id, they can't be given to the user. Best effort: without, only /dev/stdout and the like
    /// can't be opened again.
    fn own_pipes(&self, config: &[u8]) {
        const FIELD: &[u8] = b"\"uidMappings\"";
        // Most containers have none, and need not be read twice.
        if self.options.owner() != Owner::default() || !config.windows(FIELD.len()).any(|bytes| bytes == FIELD) {
            return;
        }
        let Ok(spec) = config::parse::<Spec>("config.json", config) else { return };
        let root = |maps: &[config::IdMapping]| maps.iter().find(|map| map.container_id == 0).map(|map| map.host_id);
        if let (Some(uid), Some(gid)) = (root(&spec.linux.uid_mappings), root(&spec.linux.gid_mappings)) {
            let _ = io::give_own(Owner { uid, gid });
        }
    }

    fn start_logger(&self, stdio: &Stdio) -> Result<u32, Status> {
        stdio.logger().map_or(Ok(0), |logger| logger.start(self.id, self.namespace))
    }

    /// Starts init.
    pub fn start(&self) -> Outcome {
        if let Some(other) = self.other() {
            return other.run("start", &[], self.id);
        }
        let started = self.open().and_then(|(store, id)| start::start(&store, &id));
        started.map(|()| Done::default()).map_err(library("OCI runtime start failed: "))
    }

    /// Starts one more process.
    pub fn exec(&self, document: &[u8], stdio: &Stdio, terminal: bool) -> Outcome {
        self.own_pipes(&read_file(&format!("{}/config.json", self.bundle)).unwrap_or_default());
        let logger = self.start_logger(stdio)?;
        if let Some(other) = self.other() {
            let unique = format!("{}/.exec-{}", self.bundle, getpid().as_raw_nonzero());
            let (file, pid_file) = (format!("{unique}.json"), format!("{unique}.pid"));
            write_file(&file, document).map_err(failed(&file))?;
            let arguments = ["--process", &file, "--detach", "--pid-file", &pid_file];
            let ran = other.with_terminal("exec", &arguments, self.id, terminal);
            let pid = read_pid(&pid_file);
            for path in [&file, &pid_file] {
                // The one that was not made is not missed.
                let _ = unlinkat(CWD, path, AtFlags::empty());
            }
            return Ok(Done { terminal: ran?, pid: pid?, logger, ..Done::default() });
        }
        let executed = self.open().and_then(|(store, id)| {
            let process = exec::What::Document(config::parse("process", document)?);
            exec::exec(&store, &id, &exec::Request { process, ..exec::Request::default() })
        });
        let executed = executed.map_err(library("OCI runtime exec failed: exec failed: "))?;
        let (pid, terminal, notes) = (number(executed.pid), executed.terminal, executed.warnings);
        Ok(Done { pid, logger, terminal, flag: false, notes })
    }

    /// Ends what is left of the container and forgets it.
    pub fn delete(&self) -> Outcome {
        if let Some(other) = self.other() {
            return other.run("delete", &["--force"], self.id);
        }
        let deleted = self.open().and_then(|(store, id)| delete::delete(&store, &id, delete::Force::Yes));
        deleted.map(|notes| Done { notes, ..Done::default() }).map_err(library(""))
    }

    /// Sends a signal.
    pub fn kill(&self, signal: i32, whom: kill::Whom) -> Outcome {
        if let Some(other) = self.other() {
            let signal = signal.to_string();
            let all: &[&str] = if whom == kill::Whom::All { &["--all"] } else { &[] };
            return other.run_with("kill", all, self.id, &[&signal]).map_err(|status| {
                let gone = ["not running", "process already finished", "does not exist"];
                if gone.iter().any(|words| status.message.contains(words)) { finished(&status.message) } else { status }
            });
        }
        match self.open().and_then(|(store, id)| kill::kill(&store, &id, signal, whom)) {
            Ok(()) => Ok(Done::default()),
            Err(e) if e.kind() == orlop::ErrorKind::WrongStatus => Err(finished(&e.to_string())),
            Err(e) => Err(job::status(&e)),
        }
    }

    /// Freezes.
    pub fn pause(&self) -> Outcome {
        if let Some(other) = self.other() {
            return other.run("pause", &[], self.id);
        }
        let paused = self.open().and_then(|(store, id)| pause::pause(&store, &id));
        paused.map(|()| Done::default()).map_err(library("OCI runtime pause failed: "))
    }

    /// Thaws.
    pub fn resume(&self) -> Outcome {
        if let Some(other) = self.other() {
            return other.run("resume", &[], self.id);
        }
        let resumed = self.open().and_then(|(store, id)| pause::resume(&store, &id));
        resumed.map(|()| Done::default()).map_err(library("OCI runtime resume failed: "))
    }

    /// Changes limits, given in JSON.
    pub fn update(&self, document: &[u8]) -> Outcome {
        if let Some(other) = self.other() {
            let file = format!("{}/.update-{}.json", self.bundle, getpid().as_raw_nonzero());
            write_file(&file, document).map_err(failed(&file))?;
            let updated = other.run("update", &["--resources", &file], self.id);
            let _ = unlinkat(CWD, &file, AtFlags::empty());
            return updated;
        }
        let updated = self.open().and_then(|(store, id)| {
            let resources: Resources = config::parse("resources", document)?;
            update::update(&store, &id, resources)
        });
        updated.map(|notes| Done { notes, ..Done::default() }).map_err(library("OCI runtime update failed: "))
    }

    /// Its cgroup, whose first process is `pid`; with another runtime, where that process is.
    pub fn cgroup(&self, pid: u32) -> orlop::Result<Option<Cgroup>> {
        if self.other().is_none() {
            let (store, id) = self.open()?;
            return Container::open(&store, &id)?.cgroup();
        }
        let read = |path: &str| Some(String::from_utf8_lossy(&read_file(path).ok()?).into_owned());
        let (Some(mounts), Some(own)) = (read("/proc/self/mountinfo"), read(&format!("/proc/{pid}/cgroup"))) else {
            return Ok(None);
        };
        let layout = Layout::parse(&mounts, &own);
        let all = layout.v1.into_iter().chain(layout.unified);
        // At the top are all the others, too.
        let dirs = all.filter(|h| h.own != "/");
        let dirs: Vec<_> = dirs.map(|h| Dir { controllers: h.controllers, mount: h.mount, path: h.own }).collect();
        if dirs.is_empty() { Ok(None) } else { Cgroup::open(&Record(dirs)).map(Some) }
    }

    /// The pids of all its processes, of which `pid` is the first.
    pub fn pids(&self, pid: u32) -> Result<Vec<u32>, Status> {
        let pids = || match self.other() {
            Some(_) => self.cgroup(pid)?.map_or_else(|| Ok(vec![pid]), |cgroup| cgroup.pids()),
            None => self.open().and_then(|(store, id)| ps::pids(&store, &id)),
        };
        pids().map_err(library(""))
    }

    fn other(&self) -> Option<Other> {
        let name = self.options.other_binary()?;
        let mut globals = vec!["--root".to_owned(), self.root(), "--log".to_owned(), self.log()];
        globals.extend(["--log-format".to_owned(), "json".to_owned()]);
        if self.options.systemd_cgroup {
            globals.push("--systemd-cgroup".to_owned());
        }
        Some(Other { name: name.to_owned(), globals, log: self.log() })
    }

    fn log(&self) -> String {
        format!("{}/log.json", self.bundle)
    }
}

/// Another runtime.
struct Other {
    name: String,
    globals: Vec<String>,
    log: String,
}

/// A line of its log.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Line {
    level: String,
    msg: String,
}

impl Other {
    fn run(&self, command: &str, arguments: &[&str], id: &str) -> Outcome {
        self.run_with(command, arguments, id, &[])
    }

    /// Runs it to its end, with the job's own streams.
    fn run_with(&self, command: &str, arguments: &[&str], id: &str, more: &[&str]) -> Outcome {
        // What it said before is no news.
        let _ = unlinkat(CWD, &self.log, AtFlags::empty());
        let mut program = Command::new(&self.name);
        program.args(&self.globals).arg(command).args(arguments).arg(id).args(more).env_remove("NOTIFY_SOCKET");
        let failed = |why: String| Status::new(Code::Unknown, format!("OCI runtime {command} failed: {why}"));
        // What it leaves behind becomes the job's first, and the daemon's when the job has said what it is.
        set_child_subreaper(Some(getpid())).map_err(|e| failed(orlop::error::describe(e)))?;
        match program.status() {
            Ok(status) if status.success() => Ok(Done::default()),
            Ok(status) => Err(failed(self.last_error().unwrap_or_else(|| format!("{}: {status}", self.name)))),
            Err(e) => Err(failed(format!("{}: {e}", self.name))),
        }
    }

    fn last_error(&self) -> Option<String> {
        let log = read_file(&self.log).ok()?;
        let mut lines = log.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Line>(line).ok());
        lines.rfind(|line| line.level == "error").map(|line| line.msg)
    }

    /// The same, and the terminal that it sends.
    fn with_terminal(
        &self,
        command: &str,
        arguments: &[&str],
        id: &str,
        terminal: bool,
    ) -> Result<Option<OwnedFd>, Status> {
        if !terminal {
            return self.run(command, arguments, id).map(|_| None);
        }
        // Short, as a socket's path has to be.
        let directory = format!("/run/orlop-terminal-{}", getpid().as_raw_nonzero());
        let path = format!("{directory}/s");
        let socket = console_socket(&directory, &path);
        let received = socket.map_err(failed(&path)).and_then(|socket| {
            let mut all = arguments.to_vec();
            all.extend(["--console-socket", &path]);
            self.run(command, &all, id)?;
            receive_terminal(&socket).map_err(failed("console socket"))
        });
        let _ = unlinkat(CWD, &path, AtFlags::empty());
        let _ = unlinkat(CWD, &directory, AtFlags::REMOVEDIR);
        received.map(Some)
    }
}

fn console_socket(directory: &str, path: &str) -> Result<OwnedFd, Errno> {
    mkdirat(CWD, directory, Mode::RWXU)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, 1)?;
    Ok(socket)
}

/// The sender has ended: what it sent is there, or will never be.
fn receive_terminal(socket: &OwnedFd) -> Result<OwnedFd, Errno> {
    let connection = accept_with(socket, SocketFlags::CLOEXEC)?;
    let mut space = [std::mem::MaybeUninit::uninit(); orlop_sys::rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 4096];
    recvmsg(&connection, &mut [IoSliceMut::new(&mut name)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fd.ok_or(Errno::BADF)
}

fn read_pid(path: &str) -> Result<u32, Status> {
    let text = read_file(path).map_err(failed(path))?;
    let pid = String::from_utf8_lossy(&text).trim().parse();
    pid.map_err(|_| Status::new(Code::Unknown, format!("{path}: not a pid")))
}
