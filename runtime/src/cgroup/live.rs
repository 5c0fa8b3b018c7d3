//! The living cgroup: made, limited, frozen, killed, waited for, removed.
//!
//! Paths here are host paths on the cgroup file systems, which have no symbolic links and no foreign writers, so a
//! whole path in one call is as safe as a descriptor and cheaper than opening ten of them.

use std::thread::sleep;
use std::time::{Duration, Instant};

use orlop_sys::bpf;
use orlop_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use orlop_sys::rustix::fs::{self as rfs, AtFlags, CWD, Mode, OFlags};
use orlop_sys::rustix::io::{pread, write};
use orlop_sys::rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use orlop_sys::{AsFd, BorrowedFd, Errno, OwnedFd};

use super::undo::former;
use super::{Dir, Filter, Plan, Record, Set, Write, below_root};
use crate::error::{At, Error, ErrorKind, Result};
use crate::path::clean;

/// The largest file that is read from /proc or a cgroup; a cgroup.procs of 100,000 pids has 0.8 MiB.
const MAX_FILE: usize = 64 << 20;
/// How deep sub-cgroups are followed.
pub(super) const MAX_DEPTH: usize = 64;
/// How long a v1 freezer may take.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);

type Sys<T> = std::result::Result<T, Errno>;

/// A container's cgroup in every hierarchy.
#[derive(Debug)]
pub struct Cgroup {
    dirs: Vec<Dir>,
    /// The v2 directory, opened (O_PATH) when first made or asked for.
    v2: Option<OwnedFd>,
    /// What `create` made, in order: removed again if it is dropped before [`Cgroup::keep`].
    made: Vec<String>,
    kept: bool,
}

/// The limit on processor time of a v2 cgroup: so much in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuMax {
    /// In microseconds; -1 is unlimited.
    pub quota: i64,
    /// In microseconds.
    pub period: u64,
}

impl CpuMax {
    /// `max 100000` or `50000 100000`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (quota, period) = text.trim().split_once(' ')?;
        let quota = if quota == "max" { -1 } else { quota.parse().ok()? };
        Some(Self { quota, period: period.parse().ok()? })
    }
}

/// What a process has to do to enter a cgroup: be cloned into `v2`, and write `0` to each of `tasks`.
///
/// A thread that moves itself through v1's `tasks` does not take the lock that moving a whole process through
/// `cgroup.procs` takes, and that every fork and exit of the machine waits for.
#[derive(Debug)]
pub struct Join {
    /// For clone3's CLONE_INTO_CGROUP.
    pub v2: Option<OwnedFd>,
    /// Open for writing, close-on-exec.
    pub tasks: Vec<OwnedFd>,
}

/// `exec --cgroup`: a path below the container's cgroup, for all controllers or for some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubCgroup {
    controllers: Vec<String>,
    path: String,
}

impl SubCgroup {
    /// `PATH` or `CONTROLLER[,CONTROLLER…]:PATH`.
    ///
    /// # Errors
    /// `InvalidSpec` for a path that leads above the container's cgroup.
    pub fn parse(text: &str) -> Result<Self> {
        let (controllers, path) = match text.split_once(':') {
            Some((list, path)) => (list.split(',').map(str::to_owned).collect(), path),
            None => (Vec::new(), text),
        };
        if path.split('/').any(|part| part == "..") {
            return Err(Error::invalid("cgroup", format_args!("{path:?} is not a sub cgroup path")));
        }
        Ok(Self { controllers, path: clean(path) })
    }
}

impl Cgroup {
    /// Makes the directories. Dropping the value takes them away again, until [`keep`](Self::keep) is called.
    ///
    /// # Errors
    /// `Os`; `WrongStatus` when there is such a cgroup already and it has processes or is frozen.
    pub fn create(plan: &Plan) -> Result<Self> {
        let mut cgroup = Self { dirs: plan.dirs.clone(), v2: None, made: Vec::new(), kept: false };
        let mut existed = false;
        for dir in &plan.dirs {
            existed |= make(dir, &mut cgroup.made)?;
        }
        if existed {
            if let count @ 1.. = cgroup.pids()?.len() {
                let text = format!("container's cgroup is not empty: {count} process(es) found");
                return Err(Error::new(ErrorKind::WrongStatus, text));
            }
            if cgroup.is_frozen()? {
                return Err(Error::new(ErrorKind::WrongStatus, "container's cgroup unexpectedly frozen"));
            }
        }
        if let Some(dir) = plan.dirs.iter().find(|d| d.has("cpuset")) {
            fill_cpuset(dir, &plan.cpus, &plan.mems)?;
        }
        if let Some(dir) = plan.dirs.iter().find(|d| d.is_v2()) {
            let fd = open_dir(&dir.full())?;
            if plan.is_v2() {
                enable_controllers(dir, &fd, plan)?;
                if let Some(uid) = plan.delegate_to {
                    delegate(&fd, uid).at(|| format!("chown {} to {uid}", dir.full()))?;
                }
            }
            cgroup.v2 = Some(fd);
        }
        Ok(cgroup)
    }

    /// The cgroup of a record. Nothing is opened or looked at; it need not exist.
    ///
    /// # Errors
    /// `InvalidSpec` for a record that does not name directories below a cgroup mount.
    pub fn open(record: &Record) -> Result<Self> {
        for dir in &record.0 {
            // A record is a file: whoever damages it must not get the host's own processes killed.
            let clean = |path: &str| path != "/" && clean(path) == path;
            if !clean(&dir.path) || !clean(&dir.mount) || !below_root(&dir.mount) {
                return Err(Error::invalid("state", format_args!("no cgroup directory: {}", dir.full())));
            }
        }
        Ok(Self { dirs: record.0.clone(), v2: None, made: Vec::new(), kept: true })
    }

    /// The container lives: from now on only [`remove`](Self::remove) takes the directories away.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// What finds this cgroup again.
    pub fn record(&self) -> Record {
        Record(self.dirs.clone())
    }

    /// The v2 directory for clone3's CLONE_INTO_CGROUP; also on hybrid hosts.
    pub fn dir_v2(&self) -> Option<BorrowedFd<'_>> {
        self.v2.as_ref().map(AsFd::as_fd)
    }

    /// The v1 `tasks` files, open for writing: the child writes `0` to each. See [`Join`].
    pub fn tasks(&self) -> Result<Vec<OwnedFd>> {
        self.dirs.iter().filter(|d| !d.is_v2()).map(|d| open_tasks(&d.full())).collect()
    }

    /// How a further process enters: the container's cgroup, or cgroups below it, the first that fits each hierarchy.
    pub fn join(&self, sub: &[SubCgroup]) -> Result<Join> {
        let mut controllers = sub.iter().flat_map(|s| &s.controllers);
        if let Some(unknown) = controllers.find(|c| !self.dirs.iter().any(|d| d.has(c) && !d.is_v2())) {
            return Err(Error::invalid("cgroup", format_args!("unknown controller {unknown}")));
        }
        let mut join = Join { v2: None, tasks: Vec::with_capacity(self.dirs.len()) };
        for dir in &self.dirs {
            let mut path = dir.full();
            let fits = |s: &&SubCgroup| s.controllers.is_empty() || s.controllers.iter().any(|c| dir.has(c));
            if let Some(sub) = sub.iter().find(fits).filter(|s| s.path != "/") {
                path.push_str(&sub.path);
            }
            match dir.is_v2() {
                true => join.v2 = Some(open_dir(&path)?),
                false => join.tasks.push(open_tasks(&path)?),
            }
        }
        Ok(join)
    }

    /// The v2 cgroup that process `pid` is in, for when the container's own answers EBUSY because its init has moved
    /// everything below it (systemd in a container). The answer is checked to be inside this cgroup.
    pub fn join_beside(&self, pid: u32) -> Result<Join> {
        let [dir] = self.dirs.as_slice() else {
            return self.join(&[]);
        };
        let text = read(CWD, &format!("/proc/{pid}/cgroup")).at(|| format!("read /proc/{pid}/cgroup"))?;
        let path = text.lines().find_map(|l| l.strip_prefix("0::")).map(clean).unwrap_or_default();
        let below = path.strip_prefix(&dir.path).filter(|b| b.is_empty() || b.starts_with('/'));
        let below =
            below.ok_or_else(|| Error::new(ErrorKind::Os, format!("process {pid} is not in {}", dir.full())))?;
        Ok(Join { v2: Some(open_dir(&format!("{}{below}", dir.full()))?), tasks: Vec::new() })
    }

    /// Writes the limits and puts the device filter in force.
    ///
    /// Some limits bound each other (memory and swap, quota, period and burst), and which has to be written first
    /// depends on what is in force: what the kernel finds invalid is tried again after the rest.
    ///
    /// # Errors
    /// `Os`, naming the field of config.json and the file.
    pub fn apply(&mut self, plan: &Plan) -> Result<()> {
        self.apply_devices(&plan.filter)?;
        if let Some(limit) = plan.check_usage {
            self.check_usage(limit)?;
        }
        self.write_all(&plan.writes, |errno| errno == Errno::INVAL)
    }

    /// As [`apply`](Self::apply), but all or nothing: when the kernel refuses a limit, those that were written before
    /// it are put back, as far as their files tell what was in force (all but a few that `unified` may name). Device
    /// rules are not.
    ///
    /// # Errors
    /// As `apply`; the text says so if the kernel refuses a former limit, as it does one below what is used by now.
    pub fn change(&mut self, plan: &Plan) -> Result<()> {
        let before: Vec<Option<Set>> = plan.writes.iter().map(|w| self.in_force(w)).collect();
        let Err(refused) = self.apply(plan) else { return Ok(()) };
        let changed = plan.writes.iter().zip(before).rev().filter_map(|(w, before)| {
            let before = before.filter(|before| self.in_force(w).as_ref() != Some(before))?;
            Some(Write { set: before, or: None, ..w.clone() })
        });
        let back: Vec<Write> = changed.collect();
        // Whatever the reason, the others are to be put back all the same.
        match self.write_all(&back, |_| true) {
            Ok(()) => Err(refused),
            Err(left) => Err(Error::new(refused.kind(), format!("{refused}; not put back as it was: {left}"))),
        }
    }

    /// What would have to be written to have again what is in force now; `None` when that can't be told.
    fn in_force(&self, w: &Write) -> Option<Set> {
        let dir = self.dirs.get(w.dir).map(Dir::full)?;
        let text = |set: &Set| read(CWD, &format!("{dir}/{}", set.file));
        let (set, text) = match (text(&w.set), &w.or) {
            (Err(Errno::NOENT), Some(or)) => (or, text(or)),
            (text, _) => (&w.set, text),
        };
        let value = former(&set.file, &set.value, &text.ok()?)?;
        Some(Set { file: set.file.clone(), value })
    }

    /// Writes in order. What fails with an errno that `is_order` takes for a matter of the order is tried again after
    /// the rest, as long as that gets further.
    fn write_all(&self, writes: &[Write], is_order: impl Fn(Errno) -> bool) -> Result<()> {
        let mut pending: Vec<&Write> = writes.iter().collect();
        while !pending.is_empty() {
            let before = pending.len();
            let mut refused = Vec::new();
            for w in pending {
                match self.write(w) {
                    Ok(()) => {}
                    Err(errno) if is_order(errno) => refused.push((w, errno)),
                    Err(errno) => return Err(self.explain(w, errno)),
                }
            }
            if let Some((first, errno)) = refused.first().filter(|_| refused.len() == before) {
                return Err(self.explain(first, *errno));
            }
            pending = refused.into_iter().map(|(w, _)| w).collect();
        }
        Ok(())
    }

    fn write(&self, w: &Write) -> Sys<()> {
        let dir = self.dirs.get(w.dir).map(Dir::full).unwrap_or_default();
        let put = |set: &Set| put(CWD, &format!("{dir}/{}", set.file), set.value.as_bytes());
        let mut result = put(&w.set);
        if let (Err(Errno::NOENT), Some(or)) = (result, &w.or) {
            result = put(or);
        }
        match result {
            Err(Errno::NOENT) if w.optional => Ok(()),
            result => result,
        }
    }

    fn explain(&self, w: &Write, errno: Errno) -> Error {
        let dir = self.dirs.get(w.dir).map(Dir::full).unwrap_or_default();
        let file = w.set.file.as_ref();
        if errno == Errno::BUSY && matches!(file, "memory.limit_in_bytes" | "memory.memsw.limit_in_bytes") {
            let stem = file.trim_end_matches("limit_in_bytes");
            let number = |name: &str| read(CWD, &format!("{dir}/{stem}{name}")).unwrap_or_default();
            let text = format!(
                "{}: unable to set memory limit to {} (current usage: {}, peak usage: {})",
                w.field,
                w.set.value,
                number("usage_in_bytes").trim(),
                number("max_usage_in_bytes").trim()
            );
            return Error::new(ErrorKind::Os, text);
        }
        if errno == Errno::NOENT && self.dirs.get(w.dir).is_some_and(Dir::is_v2) {
            let controller = file.split('.').next().unwrap_or_default();
            let there = read(CWD, &format!("{dir}/cgroup.controllers")).unwrap_or_default();
            if !there.split_whitespace().any(|c| c == controller) {
                return Error::unsupported(
                    &w.field,
                    format_args!("the cgroup controller {controller} is not available"),
                );
            }
        }
        Error::os(format_args!("{}: write {:?} to {dir}/{file}", w.field, w.set.value), errno)
    }

    /// The kernel would first reclaim and then kill; the configuration asked for a refusal (`checkBeforeUpdate`).
    fn check_usage(&self, limit: u64) -> Result<()> {
        let Some(dir) = self.dirs.first() else { return Ok(()) };
        let usage = match read(CWD, &format!("{}/memory.current", dir.full())) {
            Ok(text) => text.trim().parse::<u64>().unwrap_or(0),
            Err(Errno::NOENT) => 0,
            Err(errno) => return Err(Error::os(format_args!("read {}/memory.current", dir.full()), errno)),
        };
        if usage > limit {
            let text = format!("rejecting memory limit {limit} < usage {usage}");
            return Err(Error::new(ErrorKind::Os, text).context("linux.resources.memory.limit"));
        }
        Ok(())
    }

    fn apply_devices(&mut self, filter: &Filter) -> Result<()> {
        match filter {
            Filter::None => Ok(()),
            Filter::V1 { dir, writes } => {
                let dir = self.dirs.get(*dir).map(Dir::full).unwrap_or_default();
                let mut open: Option<(&str, OwnedFd)> = None;
                for (file, entry) in writes {
                    let fd = match open.take() {
                        Some((same, fd)) if same == *file => fd,
                        _ => open_for_writing(CWD, &format!("{dir}/{file}")).at(|| format!("open {dir}/{file}"))?,
                    };
                    write(&fd, entry.as_bytes())
                        .at(|| format!("linux.resources.devices: write {entry:?} to {dir}/{file}"))?;
                    open = Some((file, fd));
                }
                Ok(())
            }
            Filter::V2 { program, rules_allow_all } => {
                let fresh = !self.made.is_empty();
                let dir = self.v2_fd()?;
                let mut old = Vec::new();
                if !fresh {
                    let mut ids = [0; bpf::MAX_PROGRAMS];
                    let count = bpf::query_device_filters(dir, &mut ids).at(|| "list the cgroup's device filters")?;
                    old = ids.iter().take(count).filter_map(|id| bpf::program_by_id(*id).ok()).collect();
                }
                if *rules_allow_all && old.is_empty() {
                    return Ok(());
                }
                let new = match bpf::load_device_filter(program) {
                    // Who may not load programs is in a user namespace, and may not make device nodes either.
                    Err(Errno::PERM) if in_user_namespace() => return Ok(()),
                    loaded => loaded.at(|| "linux.resources.devices: load the eBPF device filter")?,
                };
                let replace = match old.as_slice() {
                    [only] => Some(only),
                    _ => None,
                };
                bpf::attach_device_filter(dir, &new, replace)
                    .at(|| "linux.resources.devices: attach the eBPF device filter")?;
                if replace.is_none() {
                    for program in &old {
                        bpf::detach_device_filter(dir, program).at(|| "detach the former device filter")?;
                    }
                }
                Ok(())
            }
        }
    }

    fn v2_fd(&mut self) -> Result<&OwnedFd> {
        if self.v2.is_none() {
            let dir = self.dirs.iter().find(|d| d.is_v2()).map(Dir::full).unwrap_or_default();
            self.v2 = Some(open_dir(&dir)?);
        }
        self.v2.as_ref().ok_or_else(|| Error::new(ErrorKind::Unsupported, "no cgroup v2"))
    }

    pub(super) fn v2_path(&self) -> Option<String> {
        self.dirs.iter().find(|d| d.is_v2()).map(Dir::full)
    }

    pub(super) fn v1_path(&self, controller: &str) -> Option<String> {
        self.dirs.iter().find(|d| !d.is_v2() && d.has(controller)).map(Dir::full)
    }

    /// Whether its only directory is a v2 one.
    pub(super) fn is_v2(&self) -> bool {
        matches!(self.dirs.as_slice(), [only] if only.is_v2())
    }

    /// The hierarchy in which the container's processes are counted.
    pub(super) fn main(&self) -> Option<String> {
        let v1 = || self.v1_path("devices").or_else(|| self.v1_path("freezer")).or_else(|| self.v1_path("pids"));
        match self.dirs.as_slice() {
            [only] if only.is_v2() => Some(only.full()),
            dirs => v1().or_else(|| dirs.first().map(Dir::full)),
        }
    }

    /// Every process in the cgroup and below it; empty when it does not exist.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        if let Some(dir) = self.main() {
            collect_pids(&dir, MAX_DEPTH, &mut pids).at(|| format!("read the processes of {dir}"))?;
        }
        Ok(pids)
    }

    /// Stops every process until [`thaw`](Self::thaw), and waits until they have stopped.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true)
    }

    /// Lets frozen processes run.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        let deadline = Instant::now() + FREEZE_LIMIT;
        if let Some(dir) = self.v1_path("freezer") {
            let (file, want) = (format!("{dir}/freezer.state"), if frozen { "FROZEN" } else { "THAWED" });
            let mut pause = Duration::from_micros(50);
            loop {
                // A process that forks meanwhile can leave the freezer half-way; writing again makes it go on.
                put(CWD, &file, want.as_bytes()).at(|| format!("write {want} to {file}"))?;
                if read_one(CWD, &file).at(|| format!("read {file}"))?.trim() == want {
                    return Ok(());
                }
                if Instant::now() >= deadline {
                    // Half-frozen is worse than either.
                    let _ = put(CWD, &file, b"THAWED");
                    return Err(Error::new(ErrorKind::Os, format!("{file} does not become {want}")));
                }
                sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(10));
            }
        }
        let Some(dir) = self.v2_path() else {
            return Err(Error::new(ErrorKind::Unsupported, "the cgroup controller freezer is not mounted"));
        };
        let file = format!("{dir}/cgroup.freeze");
        put(CWD, &file, if frozen { b"1" } else { b"0" }).at(|| format!("write to {file}"))?;
        let want = if frozen { "frozen 1" } else { "frozen 0" };
        match wait_event(&dir, want, deadline).at(|| format!("read {dir}/cgroup.events"))? {
            true => Ok(()),
            false => {
                let _ = put(CWD, &file, b"0");
                Err(Error::new(ErrorKind::Os, format!("{dir} does not become {want}")))
            }
        }
    }

    /// Whether the processes are stopped, or being stopped; false when there is no such cgroup.
    pub fn is_frozen(&self) -> Result<bool> {
        let file = match (self.v1_path("freezer"), self.v2_path()) {
            (Some(dir), _) => format!("{dir}/freezer.state"),
            (None, Some(dir)) => format!("{dir}/cgroup.freeze"),
            (None, None) => return Ok(false),
        };
        match read_one(CWD, &file) {
            Ok(state) => Ok(matches!(state.trim(), "1" | "FROZEN" | "FREEZING")),
            Err(Errno::NOENT | Errno::NODEV) => Ok(false),
            Err(errno) => Err(Error::os(format_args!("read {file}"), errno)),
        }
    }

    /// Sends `signal` to every process, none of which can fork away meanwhile.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        if signal == Signal::KILL {
            return self.kill_all();
        }
        let was_frozen = self.is_frozen()?;
        let freeze = || if was_frozen { Ok(()) } else { self.freeze() };
        let sent = freeze().and_then(|()| self.signal_each(signal));
        if !was_frozen {
            // Also after a failure: nothing may stay frozen because of us.
            self.thaw()?;
        }
        sent
    }

    fn signal_each(&self, signal: Signal) -> Result<()> {
        for pid in self.pids()? {
            let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
            match pidfd_open(pid, PidfdFlags::empty()).and_then(|fd| pidfd_send_signal(fd, signal)) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(Error::os(format_args!("signal process {}", pid.as_raw_nonzero()), errno)),
            }
        }
        Ok(())
    }

    /// Kills every process, frozen ones and those of a fork bomb too; does not wait. A missing cgroup is a success.
    ///
    /// With a v2 directory this is one write to cgroup.kill (5.14), which no fork escapes. Else the cgroup is frozen,
    /// so that nothing forks while its processes are killed one by one.
    pub fn kill_all(&self) -> Result<()> {
        if let Some(dir) = self.v2_path() {
            match put(CWD, &format!("{dir}/cgroup.kill"), b"1") {
                // cgroup.kill reaches what a v2 freezer holds, but not what a v1 one does.
                Ok(()) if self.dirs.len() == 1 => return Ok(()),
                // And who was moved in the v1 trees alone is not in it.
                Ok(()) if self.all_in(&dir)? => return self.thaw_if_frozen(),
                Ok(()) => {}
                // Gone, or a kernel that is older; or a threaded cgroup.
                Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(Error::os(format_args!("write to {dir}/cgroup.kill"), errno)),
            }
        }
        if self.pids()?.is_empty() {
            return self.thaw_if_frozen();
        }
        match self.freeze().and_then(|()| self.signal_each(Signal::KILL)) {
            Ok(()) => self.thaw(),
            // Without a freezer, faster than a fork bomb is the best that can be done.
            Err(_) => {
                for _ in 0..1000 {
                    self.signal_each(Signal::KILL)?;
                    if self.pids()?.is_empty() {
                        break;
                    }
                }
                self.thaw_if_frozen()
            }
        }
    }

    /// Whether the v2 directory of a hybrid host has every process that the v1 trees count.
    fn all_in(&self, v2: &str) -> Result<bool> {
        let mut unified = Vec::new();
        collect_pids(v2, MAX_DEPTH, &mut unified).at(|| format!("read the processes of {v2}"))?;
        Ok(self.pids()?.iter().all(|pid| unified.contains(pid)))
    }

    fn thaw_if_frozen(&self) -> Result<()> {
        if self.is_frozen()? { self.thaw() } else { Ok(()) }
    }

    /// Waits until no process is left; false if some are at `deadline`. A missing cgroup is empty.
    pub fn wait_empty(&self, deadline: Instant) -> Result<bool> {
        if let Some(dir) = self.v2_path() {
            let empty = wait_event(&dir, "populated 0", deadline).at(|| format!("read {dir}/cgroup.events"))?;
            if !empty || self.dirs.len() == 1 {
                return Ok(empty);
            }
        }
        // v1 tells nobody; and on a hybrid host a process may have been moved in one tree alone.
        let mut pause = Duration::from_micros(50);
        while !self.pids()?.is_empty() {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
        Ok(true)
    }

    /// Removes the cgroup and those below it; missing ones are a success. A dying process holds its cgroup a little
    /// longer (EBUSY), so this tries until `deadline`.
    ///
    /// # Errors
    /// `Os`, naming the processes that are left.
    pub fn remove(&self, deadline: Instant) -> Result<()> {
        for dir in &self.dirs {
            let path = dir.full();
            let mut pause = Duration::from_micros(50);
            loop {
                match remove_tree(&path, MAX_DEPTH) {
                    Ok(()) => break,
                    Err(Errno::BUSY) if Instant::now() < deadline => {
                        sleep(pause);
                        pause = (pause * 2).min(Duration::from_millis(10));
                    }
                    Err(errno) => {
                        let mut pids = Vec::new();
                        let _ = collect_pids(&path, MAX_DEPTH, &mut pids);
                        pids.truncate(20);
                        let left = if pids.is_empty() { String::new() } else { format!(" (processes left: {pids:?})") };
                        return Err(Error::os(format_args!("remove cgroup {path}{left}"), errno));
                    }
                }
            }
        }
        Ok(())
    }

    /// The limit on processor time in force; `None` where v1 keeps it, in two files, or where it is not limited at all
    /// for want of the controller.
    pub fn cpu_max(&self) -> Result<Option<CpuMax>> {
        let [only] = self.dirs.as_slice() else { return Ok(None) };
        if !only.is_v2() {
            return Ok(None);
        }
        let file = format!("{}/cpu.max", only.full());
        match read_one(CWD, &file) {
            Ok(text) => match CpuMax::parse(&text) {
                Some(found) => Ok(Some(found)),
                None => Err(Error::new(ErrorKind::Os, format!("{file}: not a quota and a period: {:?}", text.trim()))),
            },
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::os(format_args!("read {file}"), errno)),
        }
    }

    /// How many processes the kernel has killed for want of memory in this cgroup; 0 when it does not say.
    pub fn oom_kills(&self) -> u64 {
        let file = match self.v1_path("memory") {
            Some(dir) => format!("{dir}/memory.oom_control"),
            None => format!("{}/memory.events", self.v2_path().unwrap_or_default()),
        };
        let text = read(CWD, &file).unwrap_or_default();
        text.lines().find_map(|l| l.strip_prefix("oom_kill ")).and_then(|n| n.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let deadline = Instant::now() + Duration::from_millis(100);
        for path in self.made.iter().rev() {
            // A child that was killed a moment ago may still be on its way out. What stays in use, as a parent that
            // others have begun to use, stays; the leaf is also found by a `delete` through the record.
            let ours = self.dirs.iter().any(|d| d.full() == *path);
            while rfs::unlinkat(CWD, path, AtFlags::REMOVEDIR) == Err(Errno::BUSY) && ours && Instant::now() < deadline
            {
                sleep(Duration::from_micros(200));
            }
        }
    }
}

/// Makes the directory and what is missing above it; true if it was there already.
fn make(dir: &Dir, made: &mut Vec<String>) -> Result<bool> {
    let full = dir.full();
    match rfs::mkdirat(CWD, &full, Mode::from_raw_mode(0o755)) {
        Ok(()) => {
            made.push(full);
            return Ok(false);
        }
        Err(Errno::EXIST) => return Ok(true),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(Error::os(format_args!("mkdir {full}"), errno)),
    }
    let mut path = dir.mount.clone();
    let mut existed = false;
    for part in dir.path.split('/').skip(1) {
        path.push('/');
        path.push_str(part);
        existed = match rfs::mkdirat(CWD, &path, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                made.push(path.clone());
                false
            }
            Err(Errno::EXIST) => true,
            Err(errno) => return Err(Error::os(format_args!("mkdir {path}"), errno)),
        };
    }
    Ok(existed)
}

/// A fresh v1 cpuset has no CPUs and no memory nodes, and takes no process until it has: the configuration's, or its
/// parent's.
fn fill_cpuset(dir: &Dir, cpus: &str, mems: &str) -> Result<()> {
    for (file, value) in [("cpuset.cpus", cpus), ("cpuset.mems", mems)] {
        let (parent, _) = dir.path.rsplit_once('/').unwrap_or_default();
        let inherited = inherited_cpuset(&dir.mount, parent, file)?;
        let value = if value.is_empty() { &inherited } else { value };
        let path = format!("{}/{file}", dir.full());
        put(CWD, &path, value.as_bytes()).at(|| format!("write {value:?} to {path}"))?;
    }
    Ok(())
}

/// The value of `file` in the cgroup `path`; an empty one, as a parent that was just made has, is filled first.
fn inherited_cpuset(mount: &str, path: &str, file: &str) -> Result<String> {
    let full = format!("{mount}{path}/{file}");
    let mut value = read_one(CWD, &full).at(|| format!("read {full}"))?;
    value.truncate(value.trim_end().len());
    if let (true, Some((parent, _))) = (value.is_empty(), path.rsplit_once('/')) {
        value = inherited_cpuset(mount, parent, file)?;
        put(CWD, &full, value.as_bytes()).at(|| format!("write {value:?} to {full}"))?;
    }
    Ok(value)
}

/// Hands every controller that the top has down to the cgroup, so that statistics and later limits work. Those that
/// cannot be handed down are noticed when a limit needs them.
fn enable_controllers(dir: &Dir, fd: &OwnedFd, plan: &Plan) -> Result<()> {
    let top = format!("{}/cgroup.controllers", dir.mount);
    let available = read_one(CWD, &top).at(|| format!("read {top}"))?;
    if available.trim().is_empty() {
        return Ok(());
    }
    let here = read_one(fd, "cgroup.controllers").at(|| format!("read {}/cgroup.controllers", dir.full()))?;
    let missing = |c: &&str| !here.split_whitespace().any(|h| h == *c);
    if !available.split_whitespace().any(|c| missing(&c)) {
        return Ok(());
    }
    let all: Vec<String> = available.split_whitespace().map(|c| format!("+{c}")).collect();
    let mut path = dir.mount.clone();
    let parts: Vec<&str> = dir.path.split('/').collect();
    for (i, part) in parts.iter().enumerate().take(parts.len() - 1) {
        if i > 0 {
            path.push('/');
            path.push_str(part);
        }
        let file = format!("{path}/cgroup.subtree_control");
        // One refused controller refuses the whole line; each alone gives what can be had.
        if put(CWD, &file, all.join(" ").as_bytes()).is_err() {
            for one in &all {
                let _ = put(CWD, &file, one.as_bytes());
            }
        }
    }
    let kind = read(fd, "cgroup.type").unwrap_or_default();
    let kind = kind.trim();
    if kind.starts_with("domain invalid") || kind.ends_with("threaded") {
        if plan.wants_domain_controllers() {
            let text = format!("cannot enter cgroup {} with domain controllers: it is in state {kind:?}", dir.full());
            return Err(Error::new(ErrorKind::Os, text));
        }
        if kind == "domain invalid" {
            put(fd, "cgroup.type", b"threaded").at(|| format!("write threaded to {}/cgroup.type", dir.full()))?;
        }
    }
    Ok(())
}

/// Gives the directory and the files that the kernel names as safe to a user.
fn delegate(dir: &OwnedFd, uid: u32) -> Sys<()> {
    let owner = Some(rfs::Uid::from_raw(uid));
    rfs::chownat(dir, "", owner, None, AtFlags::EMPTY_PATH)?;
    let list = read(CWD, "/sys/kernel/cgroup/delegate");
    let list = list.as_deref().unwrap_or("cgroup.procs\ncgroup.subtree_control\ncgroup.threads");
    for file in list.lines() {
        match rfs::chownat(dir, file, owner, None, AtFlags::SYMLINK_NOFOLLOW) {
            // The list is the kernel's whole one; a controller that is off has no files.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Waits for a line of cgroup.events; false at the deadline. The kernel tells each change by POLLPRI.
fn wait_event(dir: &str, line: &str, deadline: Instant) -> Sys<bool> {
    let gone = line == "populated 0";
    let fd = match rfs::open(format!("{dir}/cgroup.events"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT | Errno::NODEV) if gone => return Ok(true),
        fd => fd?,
    };
    let mut buffer = [0; 256];
    loop {
        let text = match pread(&fd, &mut buffer, 0) {
            Ok(n) => buffer.get(..n).unwrap_or_default(),
            Err(Errno::NODEV) if gone => return Ok(true),
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        };
        if text.split(|b| *b == b'\n').any(|l| l == line.as_bytes()) {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&fd, PollFlags::PRI)], Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// The cgroups just below one, by their paths.
pub(super) fn children(path: &str) -> Sys<Vec<String>> {
    let fd = rfs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut found = Vec::new();
    for entry in rfs::Dir::new(fd)? {
        let entry = entry?;
        if entry.file_type() == rfs::FileType::Directory
            && let Ok(name) = entry.file_name().to_str()
            && name != "."
            && name != ".."
        {
            found.push(format!("{path}/{name}"));
        }
    }
    Ok(found)
}

fn collect_pids(path: &str, depth: usize, pids: &mut Vec<u32>) -> Sys<()> {
    let procs = match read(CWD, &format!("{path}/cgroup.procs")) {
        // In a threaded cgroup only threads can be listed; a signal to one reaches its process.
        Err(Errno::OPNOTSUPP) => read(CWD, &format!("{path}/cgroup.threads")),
        procs => procs,
    };
    match procs {
        Ok(text) => pids.extend(text.lines().filter_map(|l| l.parse::<u32>().ok())),
        Err(Errno::NOENT | Errno::NODEV) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    if depth > 0 {
        match children(path) {
            Ok(list) => list.iter().try_for_each(|child| collect_pids(child, depth - 1, pids))?,
            Err(Errno::NOENT | Errno::NODEV) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// rmdir, and only if that is refused, of those below first.
fn remove_tree(path: &str, depth: usize) -> Sys<()> {
    let remove = || match rfs::unlinkat(CWD, path, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    };
    match remove() {
        Err(Errno::BUSY | Errno::NOTEMPTY) if depth > 0 => {
            let below = match children(path) {
                Err(Errno::NOENT) => return Ok(()),
                below => below?,
            };
            if below.is_empty() {
                return Err(Errno::BUSY);
            }
            below.iter().try_for_each(|child| remove_tree(child, depth - 1))?;
            remove()
        }
        result => result,
    }
}

fn in_user_namespace() -> bool {
    read(CWD, "/proc/self/uid_map").is_ok_and(|map| map.split_whitespace().ne(["0", "0", "4294967295"]))
}

fn open_dir(path: &str) -> Result<OwnedFd> {
    rfs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).at(|| format!("open {path}"))
}

fn open_tasks(dir: &str) -> Result<OwnedFd> {
    let path = format!("{dir}/tasks");
    open_for_writing(CWD, &path).at(|| format!("open {path}"))
}

fn open_for_writing(dir: impl AsFd, path: &str) -> Sys<OwnedFd> {
    rfs::openat(dir, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens, writes and closes. cgroup files take a value whole, so there are no short writes to go on from.
fn put(dir: impl AsFd, path: &str, value: &[u8]) -> Sys<()> {
    let fd = open_for_writing(dir, path)?;
    loop {
        match write(&fd, value) {
            Err(Errno::INTR) => {}
            result => return result.map(drop),
        }
    }
}

/// The text of a small file of /proc or a cgroup.
pub(super) fn read(dir: impl AsFd, path: &str) -> Sys<String> {
    read_in(dir, path, Records::Many)
}

/// The text of a file that the kernel writes in one go, where a read that does not fill the buffer is the last.
pub(super) fn read_one(dir: impl AsFd, path: &str) -> Sys<String> {
    read_in(dir, path, Records::One)
}

#[derive(PartialEq)]
enum Records {
    One,
    Many,
}

fn read_in(dir: impl AsFd, path: &str, records: Records) -> Sys<String> {
    let fd = rfs::openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::new();
    // As much as these files give in one read; and what is kept is no longer than what was read.
    let mut chunk = [0; 4096];
    loop {
        match orlop_sys::rustix::io::read(&fd, &mut chunk) {
            Ok(0) => break,
            Ok(n) => {
                text.extend_from_slice(chunk.get(..n).unwrap_or_default());
                if n < chunk.len() && records == Records::One {
                    break;
                }
            }
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        }
        if text.len() >= MAX_FILE {
            return Err(Errno::FBIG);
        }
    }
    String::from_utf8(text).map_err(|_| Errno::ILSEQ)
}
