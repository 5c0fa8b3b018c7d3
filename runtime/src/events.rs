//! `events`: what a container uses, and that it had too little memory, as lines of JSON.
//!
//! The lines are runc's, field by field, since tools read them: zero is left out where runc leaves it out, and v2's
//! numbers appear under v1's names. What runc does not say stays out of them; one thing is added: `psi` also on hybrid
//! hosts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use orlop_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use orlop_sys::{AsFd, Errno};

use crate::cgroup::stats::{BlkioEntry, Counter, Cpuset, HugePages, Io, IoDevice, Memory, Pressure, Stall, UNLIMITED};
use crate::cgroup::{Cgroup, Oom, Stats};
use crate::container::{Container, Status};
use crate::error::{Error, ErrorKind, Result};
use crate::pause::own_cgroup;
use crate::state::Object;
use crate::store::{ContainerId, Store};

/// How soon to look again for a kill that was announced.
const SOON: Duration = Duration::from_millis(20);

/// The statistics as they are now: one line.
///
/// # Errors
/// `WrongStatus` ("container with id ... is not running") when it has stopped.
pub fn stats(store: &Store, id: &ContainerId) -> Result<String> {
    let container = open(store, id)?;
    line(id, &own_cgroup(&container)?)?.ok_or_else(|| not_running(id))
}

/// Hands each line to `print` until the container has ended: its statistics after every `interval`, and a line of the
/// type `oom` for each time that processes were killed for want of memory. It also ends when `print` returns false, as
/// when nobody reads any more.
///
/// # Errors
/// As [`stats`].
pub fn follow(store: &Store, id: &ContainerId, interval: Duration, print: &mut dyn FnMut(&str) -> bool) -> Result<()> {
    let container = open(store, id)?;
    let init = container.pidfd()?.ok_or_else(|| not_running(id))?;
    let cgroup = own_cgroup(&container)?;
    let mut oom = match Oom::new(&cgroup) {
        Ok(oom) => Some(oom),
        // Then nothing is killed on the container's account.
        Err(e) if e.kind() == ErrorKind::Unsupported => None,
        Err(e) => return Err(e),
    };
    let mut next = Instant::now() + interval;
    loop {
        let mut wait = next.saturating_duration_since(Instant::now());
        if oom.as_ref().is_some_and(Oom::expects_more) {
            wait = wait.min(SOON);
        }
        let ended = wait_for(&init, oom.as_ref(), wait)?;
        if let Some(watch) = &mut oom {
            match watch.count()? {
                Some(0) => {}
                Some(_) if print(&oom_line(id)) => {}
                Some(_) => return Ok(()),
                None => oom = None,
            }
        }
        if ended {
            return Ok(());
        }
        if Instant::now() >= next {
            // Not `next + interval`: after a suspension of this process there is nothing to catch up with.
            next = Instant::now() + interval;
            match line(id, &cgroup)? {
                Some(line) if print(&line) => {}
                _ => return Ok(()),
            }
        }
    }
}

/// Waits for the end of init, an announcement, or the time; true for the end.
fn wait_for(init: &impl AsFd, oom: Option<&Oom>, time: Duration) -> Result<bool> {
    let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
    let mut fds = vec![PollFd::new(init, PollFlags::IN)];
    fds.extend(oom.map(|oom| PollFd::new(oom, oom.interest())));
    match poll(&mut fds, Some(&time)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(Error::os("poll", errno)),
    }
    Ok(fds.first().is_some_and(|init| !init.revents().is_empty()))
}

fn open(store: &Store, id: &ContainerId) -> Result<Container> {
    let container = Container::open(store, id)?;
    container.dir().check_owner()?;
    if container.status()? == Status::Stopped { Err(not_running(id)) } else { Ok(container) }
}

fn not_running(id: &ContainerId) -> Error {
    Error::new(ErrorKind::WrongStatus, format!("container with id {id} is not running"))
}

fn oom_line(id: &ContainerId) -> String {
    let mut event = Object::new(None);
    event.string("type", "oom");
    event.string("id", id.as_str());
    event.end() + "\n"
}

/// The line of a cgroup; `None` when it is gone.
fn line(id: &ContainerId, cgroup: &Cgroup) -> Result<Option<String>> {
    let Some(stats) = cgroup.stats()? else { return Ok(None) };
    let cpuset = cgroup.cpuset()?;
    let mut event = Object::new(None);
    event.string("type", "stats");
    event.string("id", id.as_str());
    event.raw("data", &data(&stats, &cpuset));
    Ok(Some(event.end() + "\n"))
}

fn data(stats: &Stats, cpuset: &Cpuset) -> String {
    let mut data = Object::new(None);
    data.raw("cpu", &cpu(stats));
    data.raw("cpuset", &cpuset_object(cpuset));
    data.raw("memory", &memory(&stats.memory, stats.unified));
    let mut pids = Object::new(None);
    pids.some("current", stats.pids.current);
    pids.some("limit", Some(stats.pids.limit).filter(|limit| *limit != UNLIMITED).unwrap_or(0));
    data.raw("pids", &pids.end());
    data.raw("blkio", &blkio(&stats.io));
    let mut sizes = Object::new(None);
    for pages in &stats.hugetlb {
        sizes.raw(&pages.size, &huge_pages(pages, stats.unified));
    }
    data.raw("hugetlb", &sizes.end());
    data.raw("intel_rdt", "{}");
    data.raw("network_interfaces", "null");
    data.end()
}

fn cpu(stats: &Stats) -> String {
    let cpu = &stats.cpu;
    let mut usage = Object::new(None);
    usage.some("total", cpu.usage);
    usage.numbers("percpu", cpu.per_cpu.iter().map(|one| one.usage));
    usage.numbers("percpu_kernel", cpu.per_cpu.iter().map(|one| one.system));
    usage.numbers("percpu_user", cpu.per_cpu.iter().map(|one| one.user));
    usage.number("kernel", cpu.system);
    usage.number("user", cpu.user);
    let mut throttling = Object::new(None);
    throttling.some("periods", cpu.periods);
    throttling.some("throttledPeriods", cpu.throttled_periods);
    throttling.some("throttledTime", cpu.throttled_time);
    let mut object = Object::new(None);
    object.raw("usage", &usage.end());
    object.raw("throttling", &throttling.end());
    object.pressure(cpu.pressure);
    object.end()
}

fn cpuset_object(cpuset: &Cpuset) -> String {
    let mut object = Object::new(None);
    object.numbers("cpus", cpuset.cpus.iter().map(|n| u64::from(*n)));
    object.number("cpu_exclusive", cpuset.cpu_exclusive);
    object.numbers("mems", cpuset.mems.iter().map(|n| u64::from(*n)));
    object.number("mem_hardwall", cpuset.mem_hardwall);
    object.number("mem_exclusive", cpuset.mem_exclusive);
    object.number("memory_migrate", cpuset.memory_migrate);
    object.number("memory_spread_page", cpuset.memory_spread_page);
    object.number("memory_spread_slab", cpuset.memory_spread_slab);
    object.number("memory_pressure", cpuset.memory_pressure);
    object.number("sched_load_balance", cpuset.sched_load_balance);
    object.raw("sched_relax_domain_level", &cpuset.sched_relax_domain_level.to_string());
    object.end()
}

fn memory(memory: &Memory, unified: bool) -> String {
    // Go writes maps sorted.
    let raw: BTreeMap<&str, u64> = memory.stat.iter().collect();
    let mut object = Object::new(None);
    object.some("cache", memory.stat.get(if unified { "file" } else { "cache" }));
    object.raw("usage", &counter(memory.usage));
    object.raw("swap", &counter(if unified { with_memory(memory) } else { memory.swap }));
    object.raw("kernel", &counter(memory.kernel));
    object.raw("kernelTCP", &counter(memory.kernel_tcp));
    if !raw.is_empty() {
        let mut values = Object::new(None);
        raw.iter().for_each(|(name, value)| values.number(name, *value));
        object.raw("raw", &values.end());
    }
    object.pressure(memory.pressure);
    object.end()
}

/// Memory and swap together, as v1 has it. The highest of both together nobody has counted.
fn with_memory(memory: &Memory) -> Counter {
    let limit = match memory.swap.limit {
        UNLIMITED => UNLIMITED,
        swap => swap.saturating_add(memory.usage.limit),
    };
    Counter { usage: memory.swap.usage.saturating_add(memory.usage.usage), limit, ..Counter::default() }
}

fn counter(counter: Counter) -> String {
    let mut object = Object::new(None);
    object.number("limit", counter.limit);
    object.some("usage", counter.usage);
    object.some("max", counter.max_usage);
    object.number("failcnt", counter.failures);
    object.end()
}

fn huge_pages(pages: &HugePages, unified: bool) -> String {
    let counter = pages.reserved.unwrap_or(pages.used);
    let mut object = Object::new(None);
    object.some("usage", counter.usage);
    object.some("max", counter.max_usage);
    // v2 has one count of failures for both.
    object.number("failcnt", if unified { pages.used.failures } else { counter.failures });
    object.end()
}

fn blkio(io: &Io) -> String {
    let tables = &io.blkio;
    let of_devices = |counts: fn(&IoDevice) -> [(&'static str, u64); 2]| {
        let entries = io.devices.iter().flat_map(move |device| {
            let entry = |(op, value): (&str, u64)| BlkioEntry {
                major: device.major,
                minor: device.minor,
                op: op.to_owned(),
                value,
            };
            counts(device).map(entry)
        });
        entries.collect::<Vec<_>>()
    };
    let bytes = of_devices(|device| [("Read", device.read_bytes), ("Write", device.written_bytes)]);
    let requests = of_devices(|device| [("Read", device.reads), ("Write", device.writes)]);
    let mut object = Object::new(None);
    for (name, table) in [
        ("ioServiceBytesRecursive", if bytes.is_empty() { &tables.service_bytes } else { &bytes }),
        ("ioServicedRecursive", if requests.is_empty() { &tables.serviced } else { &requests }),
        ("ioQueueRecursive", &tables.queued),
        ("ioServiceTimeRecursive", &tables.service_time),
        ("ioWaitTimeRecursive", &tables.wait_time),
        ("ioMergedRecursive", &tables.merged),
        ("ioTimeRecursive", &tables.time),
        ("sectorsRecursive", &tables.sectors),
    ] {
        if !table.is_empty() {
            object.raw(name, &format!("[{}]", table.iter().map(blkio_entry).collect::<Vec<_>>().join(",")));
        }
    }
    object.pressure(io.pressure);
    object.end()
}

fn blkio_entry(entry: &BlkioEntry) -> String {
    let mut object = Object::new(None);
    object.some("major", entry.major);
    object.some("minor", entry.minor);
    if !entry.op.is_empty() {
        object.string("op", &entry.op);
    }
    object.some("value", entry.value);
    object.end()
}

impl Object<'_> {
    fn number(&mut self, key: &str, value: u64) {
        self.raw(key, &value.to_string());
    }

    /// Left out when it is 0.
    fn some(&mut self, key: &str, value: u64) {
        if value != 0 {
            self.number(key, value);
        }
    }

    /// Left out when there are none.
    fn numbers(&mut self, key: &str, values: impl Iterator<Item = u64>) {
        let values: Vec<String> = values.map(|value| value.to_string()).collect();
        if !values.is_empty() {
            self.raw(key, &format!("[{}]", values.join(",")));
        }
    }

    /// Left out when it is not measured.
    fn pressure(&mut self, pressure: Option<Pressure>) {
        let Some(pressure) = pressure else { return };
        let mut object = Object::new(None);
        object.raw("some", &stall(pressure.some));
        object.raw("full", &stall(pressure.full));
        self.raw("psi", &object.end());
    }
}

fn stall(stall: Stall) -> String {
    let mut object = Object::new(None);
    object.raw("avg10", &stall.avg10.to_string());
    object.raw("avg60", &stall.avg60.to_string());
    object.raw("avg300", &stall.avg300.to_string());
    object.number("total", stall.total);
    object.end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::stats::{Blkio, Cpu, CpuTime, Keyed, Pids};

    fn pressure() -> Pressure {
        let some = Stall { avg10: 0.0, avg60: 33.16, avg300: 1.5, total: 7 };
        Pressure { some, full: Stall::default() }
    }

    #[test]
    fn v1_is_written_as_runc_writes_it() {
        let entry = |op: &str, value| BlkioEntry { major: 254, minor: 0, op: op.to_owned(), value };
        let limit = 9_223_372_036_854_771_712;
        let stats = Stats {
            unified: false,
            pids: Pids { current: 1, limit: 50 },
            cpu: Cpu {
                usage: 14_732_288,
                user: 0,
                system: 10_000_000,
                per_cpu: vec![CpuTime { usage: 10, user: 4, system: 6 }, CpuTime { usage: 4, user: 0, system: 4 }],
                periods: 3,
                ..Cpu::default()
            },
            memory: Memory {
                usage: Counter { usage: 5, max_usage: 7, limit: 64, failures: 0 },
                swap: Counter { usage: 5, max_usage: 7, limit, failures: 1 },
                kernel_tcp: Counter { limit, ..Counter::default() },
                stat: Keyed::new("rss 53248\ncache 5156864\nswap 0\n"),
                ..Memory::default()
            },
            io: Io {
                blkio: Blkio {
                    service_bytes: vec![entry("Read", 1_998_848), entry("Write", 0)],
                    sectors: vec![entry("", 3)],
                    ..Blkio::default()
                },
                ..Io::default()
            },
            hugetlb: vec![HugePages { size: "2MB".into(), ..HugePages::default() }],
            rdma: Vec::new(),
        };
        let cpuset = Cpuset {
            cpus: vec![0, 1],
            mems: vec![0],
            sched_load_balance: 1,
            sched_relax_domain_level: -1,
            ..Cpuset::default()
        };
        assert_eq!(
            data(&stats, &cpuset),
            r#"{"cpu":{"usage":{"total":14732288,"percpu":[10,4],"percpu_kernel":[6,4],"percpu_user":[4,0],"kernel":10000000,"user":0},"throttling":{"periods":3}},"cpuset":{"cpus":[0,1],"cpu_exclusive":0,"mems":[0],"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,"memory_spread_page":0,"memory_spread_slab":0,"memory_pressure":0,"sched_load_balance":1,"sched_relax_domain_level":-1},"memory":{"cache":5156864,"usage":{"limit":64,"usage":5,"max":7,"failcnt":0},"swap":{"limit":9223372036854771712,"usage":5,"max":7,"failcnt":1},"kernel":{"limit":0,"failcnt":0},"kernelTCP":{"limit":9223372036854771712,"failcnt":0},"raw":{"cache":5156864,"rss":53248,"swap":0}},"pids":{"current":1,"limit":50},"blkio":{"ioServiceBytesRecursive":[{"major":254,"op":"Read","value":1998848},{"major":254,"op":"Write"}],"sectorsRecursive":[{"major":254,"value":3}]},"hugetlb":{"2MB":{"failcnt":0}},"intel_rdt":{},"network_interfaces":null}"#
        );
    }

    #[test]
    fn v2_is_written_under_the_names_of_v1() {
        let stats = Stats {
            unified: true,
            pids: Pids { current: 1, limit: UNLIMITED },
            cpu: Cpu { pressure: Some(pressure()), ..Cpu::default() },
            memory: Memory {
                usage: Counter { usage: 5, max_usage: 7, limit: 64, failures: 0 },
                swap: Counter { usage: 1, max_usage: 3, limit: 10, failures: 0 },
                stat: Keyed::new("file 9\nanon 8\n"),
                ..Memory::default()
            },
            io: Io {
                devices: vec![IoDevice { major: 8, minor: 1, read_bytes: 1, written_bytes: 2, reads: 3, writes: 4 }],
                ..Io::default()
            },
            hugetlb: vec![HugePages {
                size: "2MB".into(),
                used: Counter { failures: 2, ..Counter::default() },
                reserved: Some(Counter { usage: 4, ..Counter::default() }),
            }],
            rdma: Vec::new(),
        };
        assert_eq!(
            data(&stats, &Cpuset::default()),
            r#"{"cpu":{"usage":{"kernel":0,"user":0},"throttling":{},"psi":{"some":{"avg10":0,"avg60":33.16,"avg300":1.5,"total":7},"full":{"avg10":0,"avg60":0,"avg300":0,"total":0}}},"cpuset":{"cpu_exclusive":0,"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,"memory_spread_page":0,"memory_spread_slab":0,"memory_pressure":0,"sched_load_balance":0,"sched_relax_domain_level":0},"memory":{"cache":9,"usage":{"limit":64,"usage":5,"max":7,"failcnt":0},"swap":{"limit":74,"usage":6,"failcnt":0},"kernel":{"limit":0,"failcnt":0},"kernelTCP":{"limit":0,"failcnt":0},"raw":{"anon":8,"file":9}},"pids":{"current":1},"blkio":{"ioServiceBytesRecursive":[{"major":8,"minor":1,"op":"Read","value":1},{"major":8,"minor":1,"op":"Write","value":2}],"ioServicedRecursive":[{"major":8,"minor":1,"op":"Read","value":3},{"major":8,"minor":1,"op":"Write","value":4}]},"hugetlb":{"2MB":{"usage":4,"failcnt":2}},"intel_rdt":{},"network_interfaces":null}"#
        );
    }

    #[test]
    fn memory_and_swap_together_have_no_limit_when_swap_has_none() {
        for (memory, swap, want) in
            [(64, 10, 74), (64, UNLIMITED, UNLIMITED), (UNLIMITED, 10, UNLIMITED), (UNLIMITED, 0, UNLIMITED)]
        {
            let counter = |limit| Counter { limit, ..Counter::default() };
            let memory = Memory { usage: counter(memory), swap: counter(swap), ..Memory::default() };
            assert_eq!(with_memory(&memory).limit, want);
        }
    }

    #[test]
    fn a_kill_is_a_line_of_its_own() {
        let id = ContainerId::parse("web1").unwrap();
        assert_eq!(oom_line(&id), "{\"type\":\"oom\",\"id\":\"web1\"}\n");
    }
}
