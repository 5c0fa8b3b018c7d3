//! The answer to `Stats`: the messages that containerd's cgroups package defines, one for v1 and one for v2, filled
//! from what the runtime library has read.
//!
//! Consumers look at the type's bare name to tell the two apart. What the kernel does not count is left at zero, and a
//! message within is there also when it is all zero, since not all of them ask whether it is.

use orlop::cgroup::Cgroup;
use orlop::cgroup::stats::{
    BlkioEntry, Counter, HugePages, Io, IoDevice, Memory, MemoryEvents, OomControl, Pressure, Rdma, RdmaCounts, Stall,
    Stats, UNLIMITED,
};
use orlop_sys::rustix::fs::{CWD, readlinkat};

use crate::message::any;
use crate::ttrpc::{Code, Status};
use crate::wire::Message;

/// The type of the answer on v1 and hybrid hosts.
pub const V1: &str = "io.containerd.cgroups.v1.Metrics";
/// The type of the answer on v2 hosts.
pub const V2: &str = "io.containerd.cgroups.v2.Metrics";

/// The lines of v1's memory.stat that have a field, in the order of the fields, from 1.
const MEMORY_V1: [&str; 32] = [
    "cache",
    "rss",
    "rss_huge",
    "mapped_file",
    "dirty",
    "writeback",
    "pgpgin",
    "pgpgout",
    "pgfault",
    "pgmajfault",
    "inactive_anon",
    "active_anon",
    "inactive_file",
    "active_file",
    "unevictable",
    "hierarchical_memory_limit",
    "hierarchical_memsw_limit",
    "total_cache",
    "total_rss",
    "total_rss_huge",
    "total_mapped_file",
    "total_dirty",
    "total_writeback",
    "total_pgpgin",
    "total_pgpgout",
    "total_pgfault",
    "total_pgmajfault",
    "total_inactive_anon",
    "total_active_anon",
    "total_inactive_file",
    "total_active_file",
    "total_unevictable",
];

/// The lines of v2's memory.stat that have a field, in the order of the fields, from 1.
const MEMORY_V2: [&str; 31] = [
    "anon",
    "file",
    "kernel_stack",
    "slab",
    "sock",
    "shmem",
    "file_mapped",
    "file_dirty",
    "file_writeback",
    "anon_thp",
    "inactive_anon",
    "active_anon",
    "inactive_file",
    "active_file",
    "unevictable",
    "slab_reclaimable",
    "slab_unreclaimable",
    "pgfault",
    "pgmajfault",
    "workingset_refault",
    "workingset_activate",
    "workingset_nodereclaim",
    "pgrefill",
    "pgscan",
    "pgsteal",
    "pgactivate",
    "pgdeactivate",
    "pglazyfree",
    "pglazyfreed",
    "thp_fault_alloc",
    "thp_collapse_alloc",
];

/// `StatsResponse`: the statistics of a container's cgroup, in an Any.
///
/// # Errors
/// `NotFound` when the container has no cgroup of its own, or has it no more.
pub fn response(cgroup: Option<&Cgroup>) -> Result<Message, Status> {
    let none = || Status::new(Code::NotFound, "cgroup does not exist");
    let stats = cgroup.ok_or_else(none)?.stats().map_err(|e| Status::new(Code::Unknown, e.to_string()))?;
    let (kind, metrics) = metrics(&stats.ok_or_else(none)?);
    Ok(Message::new().message(1, &any(kind, &metrics.0)))
}

/// The message and its type's name.
pub fn metrics(stats: &Stats) -> (&'static str, Message) {
    if stats.unified { (V2, v2(stats)) } else { (V1, v1(stats, &mut device_name)) }
}

fn v1(stats: &Stats, device_name: &mut dyn FnMut(u64, u64) -> String) -> Message {
    let cpu = &stats.cpu;
    let usage = Message::new()
        .number(1, cpu.usage)
        .number(2, cpu.system)
        .number(3, cpu.user)
        .packed(4, cpu.per_cpu.iter().map(|one| one.usage));
    let throttling =
        Message::new().number(1, cpu.periods).number(2, cpu.throttled_periods).number(3, cpu.throttled_time);
    // In v1 no limit is 0.
    let limit = Some(stats.pids.limit).filter(|limit| *limit != UNLIMITED).unwrap_or(0);

    let mut message = Message::new();
    for pages in &stats.hugetlb {
        message = message.message(1, &huge_pages_v1(pages));
    }
    let message = message
        .message(2, &Message::new().number(1, stats.pids.current).number(2, limit))
        .message(3, &Message::new().message(1, &usage).message(2, &throttling))
        .message(4, &memory_v1(&stats.memory))
        .message(5, &blkio(&stats.io, device_name))
        .message(6, &rdma(&stats.rdma));
    match &stats.memory.oom {
        Some(control) => message.message(9, &oom_control(control)),
        None => message,
    }
}

fn v2(stats: &Stats) -> Message {
    let mut message = Message::new()
        .message(1, &Message::new().number(1, stats.pids.current).number(2, stats.pids.limit))
        .message(2, &cpu_v2(stats))
        .message(4, &memory_v2(&stats.memory))
        .message(5, &rdma(&stats.rdma))
        .message(6, &io_v2(&stats.io));
    for pages in &stats.hugetlb {
        let used = Message::new().number(1, pages.used.usage).number(2, pages.used.limit).text(3, &pages.size);
        message = message.message(7, &used);
    }
    match &stats.memory.events {
        Some(events) => message.message(8, &memory_events(events)),
        None => message,
    }
}

/// Times in microseconds.
fn cpu_v2(stats: &Stats) -> Message {
    let cpu = &stats.cpu;
    let message = Message::new()
        .number(1, cpu.usage / 1000)
        .number(2, cpu.user / 1000)
        .number(3, cpu.system / 1000)
        .number(4, cpu.periods)
        .number(5, cpu.throttled_periods)
        .number(6, cpu.throttled_time / 1000);
    with_pressure(message, 7, cpu.pressure)
}

fn memory_v1(memory: &Memory) -> Message {
    let mut message = Message::new();
    for (field, name) in (1..).zip(MEMORY_V1) {
        message = message.number(field, memory.stat.get(name));
    }
    message
        .message(33, &counter(&memory.usage))
        .message(34, &counter(&memory.swap))
        .message(35, &counter(&memory.kernel))
        .message(36, &counter(&memory.kernel_tcp))
}

fn memory_v2(memory: &Memory) -> Message {
    let stat = &memory.stat;
    let mut message = Message::new();
    for (field, name) in (1..).zip(MEMORY_V2) {
        let value = match name {
            // Since 5.9 in two, for anonymous pages and for those of files.
            "workingset_refault" | "workingset_activate" => ["", "_anon", "_file"]
                .iter()
                .fold(0, |sum: u64, kind| sum.saturating_add(stat.get(&format!("{name}{kind}")))),
            name => stat.get(name),
        };
        message = message.number(field, value);
    }
    let message = message
        .number(32, memory.usage.usage)
        .number(33, memory.usage.limit)
        .number(34, memory.swap.usage)
        .number(35, memory.swap.limit)
        .number(36, memory.usage.max_usage)
        .number(37, memory.swap.max_usage);
    with_pressure(message, 38, memory.pressure)
}

fn counter(counter: &Counter) -> Message {
    Message::new()
        .number(1, counter.limit)
        .number(2, counter.usage)
        .number(3, counter.max_usage)
        .number(4, counter.failures)
}

fn memory_events(events: &MemoryEvents) -> Message {
    Message::new()
        .number(1, events.low)
        .number(2, events.high)
        .number(3, events.max)
        .number(4, events.oom)
        .number(5, events.oom_kill)
}

fn oom_control(control: &OomControl) -> Message {
    Message::new().flag(1, control.kill_disabled).flag(2, control.under_oom).number(3, control.oom_kill)
}

fn huge_pages_v1(pages: &HugePages) -> Message {
    Message::new()
        .number(1, pages.used.usage)
        .number(2, pages.used.max_usage)
        .number(3, pages.used.failures)
        .text(4, &pages.size)
}

fn io_v2(io: &Io) -> Message {
    let mut message = Message::new();
    for device in &io.devices {
        message = message.message(1, &io_device(device));
    }
    with_pressure(message, 2, io.pressure)
}

fn io_device(device: &IoDevice) -> Message {
    Message::new()
        .number(1, device.major)
        .number(2, device.minor)
        .number(3, device.read_bytes)
        .number(4, device.written_bytes)
        .number(5, device.reads)
        .number(6, device.writes)
}

fn blkio(io: &Io, device_name: &mut dyn FnMut(u64, u64) -> String) -> Message {
    let tables = &io.blkio;
    let mut message = Message::new();
    // The lines of a device follow each other.
    let mut known: Option<((u64, u64), String)> = None;
    for (field, table) in (1..).zip([
        &tables.service_bytes,
        &tables.serviced,
        &tables.queued,
        &tables.service_time,
        &tables.wait_time,
        &tables.merged,
        &tables.time,
        &tables.sectors,
    ]) {
        for entry in table {
            let numbers = (entry.major, entry.minor);
            let (_, name) = match known.take() {
                Some(same) if same.0 == numbers => known.insert(same),
                _ => known.insert((numbers, device_name(entry.major, entry.minor))),
            };
            message = message.message(field, &blkio_entry(entry, name));
        }
    }
    message
}

fn blkio_entry(entry: &BlkioEntry, device: &str) -> Message {
    Message::new()
        .text(1, &entry.op)
        .text(2, device)
        .number(3, entry.major)
        .number(4, entry.minor)
        .number(5, entry.value)
}

/// `/dev/vda`; empty when the device is gone.
fn device_name(major: u64, minor: u64) -> String {
    let target = readlinkat(CWD, format!("/sys/dev/block/{major}:{minor}"), Vec::new()).unwrap_or_default();
    match target.to_string_lossy().rsplit_once('/') {
        Some((_, name)) => format!("/dev/{name}"),
        None => String::new(),
    }
}

fn rdma(devices: &[Rdma]) -> Message {
    let entry = |device: &Rdma, counts: &RdmaCounts| {
        Message::new().text(1, &device.device).number(2, counts.handles).number(3, counts.objects)
    };
    let mut message = Message::new();
    for device in devices {
        message = message.message(1, &entry(device, &device.current)).message(2, &entry(device, &device.limit));
    }
    message
}

/// Left out where it is not measured.
fn with_pressure(message: Message, field: u32, pressure: Option<Pressure>) -> Message {
    match pressure {
        Some(pressure) => {
            let both = Message::new().message(1, &stall(&pressure.some)).message(2, &stall(&pressure.full));
            message.message(field, &both)
        }
        None => message,
    }
}

fn stall(stall: &Stall) -> Message {
    Message::new().double(1, stall.avg10).double(2, stall.avg60).double(3, stall.avg300).number(4, stall.total)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use orlop::cgroup::stats::{Blkio, Cpu, CpuTime, Keyed, Pids};
    use orlop::cgroup::{Dir, Record};

    use super::*;
    use crate::wire::{Fields, Value};

    /// Every number and text of a message and of those in it, by the path of its fields: `3.1.1` is usage.total.
    /// `leaves` are the paths of texts and packed numbers, which look like messages; a repeated field's come one after
    /// another.
    fn flatten(message: &[u8], path: &str, leaves: &[&str], found: &mut BTreeMap<String, Vec<String>>) {
        for field in Fields::of(message) {
            let (number, value) = field.unwrap();
            let path = if path.is_empty() { number.to_string() } else { format!("{path}.{number}") };
            match value {
                Value::Number(number) => found.entry(path).or_default().push(number.to_string()),
                Value::Bytes(bytes) if leaves.contains(&path.as_str()) => {
                    found.entry(path).or_default().push(format!("{:?}", String::from_utf8_lossy(bytes)));
                }
                Value::Bytes(bytes) => {
                    found.entry(path.clone()).or_default();
                    flatten(bytes, &path, leaves, found);
                }
            }
        }
    }

    fn flat(message: &Message, leaves: &[&str]) -> String {
        let mut found = BTreeMap::new();
        flatten(&message.0, "", leaves, &mut found);
        let lines = found.iter().map(|(path, values)| format!("{path}={}", values.join(",")));
        lines.collect::<Vec<_>>().join(" ")
    }

    /// memory.stat with the first line 1, the second 2, ...
    fn counted(names: &[&str]) -> Keyed {
        Keyed::new((1..).zip(names).map(|(n, name)| format!("{name} {n}\n")).collect::<String>())
    }

    fn bits(number: f64) -> u64 {
        number.to_bits()
    }

    #[test]
    fn v1_has_every_field_under_its_number() {
        let entry = |major, op: &str, value| BlkioEntry { major, minor: 1, op: op.into(), value };
        let pages = Counter { usage: 71, max_usage: 72, limit: 73, failures: 74 };
        let stats = Stats {
            unified: false,
            pids: Pids { current: 11, limit: 12 },
            cpu: Cpu {
                usage: 21,
                user: 22,
                system: 23,
                per_cpu: vec![
                    CpuTime { usage: 300, ..CpuTime::default() },
                    CpuTime::default(),
                    CpuTime { usage: 1, ..CpuTime::default() },
                ],
                periods: 24,
                throttled_periods: 25,
                throttled_time: 26,
                pressure: Some(Pressure::default()),
            },
            memory: Memory {
                usage: Counter { usage: 331, max_usage: 332, limit: 333, failures: 334 },
                swap: Counter { usage: 341, max_usage: 342, limit: 343, failures: 344 },
                kernel: Counter { usage: 351, max_usage: 352, limit: 353, failures: 354 },
                kernel_tcp: Counter { usage: 361, max_usage: 362, limit: 363, failures: 364 },
                stat: counted(&MEMORY_V1),
                oom: Some(OomControl { kill_disabled: true, under_oom: false, oom_kill: 91 }),
                ..Memory::default()
            },
            io: Io {
                blkio: Blkio {
                    service_bytes: vec![entry(8, "Read", 51), entry(9, "Write", 0)],
                    serviced: vec![entry(9, "Total", 52)],
                    sectors: vec![entry(8, "", 58)],
                    ..Blkio::default()
                },
                ..Io::default()
            },
            hugetlb: vec![HugePages { size: "2MB".into(), used: pages, reserved: None }],
            rdma: vec![Rdma {
                device: "mlx4".into(),
                current: RdmaCounts { handles: 61, objects: 62 },
                limit: RdmaCounts { handles: 63, objects: u32::MAX },
            }],
        };
        let mut asked = Vec::new();
        let message = v1(&stats, &mut |major, minor| {
            asked.push((major, minor));
            format!("/dev/{major}")
        });
        assert_eq!(asked, [(8, 1), (9, 1), (8, 1)]);
        let memory: Vec<String> = (1..=32).map(|n| format!("4.{n}={n}")).collect();
        let found =
            flat(&message, &["1.4", "3.1.4", "5.1.1", "5.1.2", "5.2.1", "5.2.2", "5.8.1", "5.8.2", "6.1.1", "6.2.1"]);
        let (memory_found, rest): (Vec<&str>, Vec<&str>) =
            found.split(' ').partition(|line| memory.iter().any(|wanted| wanted == line));
        assert_eq!(memory_found.len(), memory.len());
        assert_eq!(
            rest.join(" "),
            "1= 1.1=71 1.2=72 1.3=74 1.4=\"2MB\" \
             2= 2.1=11 2.2=12 \
             3= 3.1= 3.1.1=21 3.1.2=23 3.1.3=22 3.1.4=\"\u{fffd}\\u{2}\\0\\u{1}\" 3.2= 3.2.1=24 3.2.2=25 3.2.3=26 \
             4= 4.33= 4.33.1=333 4.33.2=331 4.33.3=332 4.33.4=334 4.34= 4.34.1=343 4.34.2=341 4.34.3=342 4.34.4=344 \
             4.35= 4.35.1=353 4.35.2=351 4.35.3=352 4.35.4=354 4.36= 4.36.1=363 4.36.2=361 4.36.3=362 4.36.4=364 \
             5= 5.1= 5.1.1=\"Read\",\"Write\" 5.1.2=\"/dev/8\",\"/dev/9\" 5.1.3=8,9 5.1.4=1,1 5.1.5=51 \
             5.2= 5.2.1=\"Total\" 5.2.2=\"/dev/9\" 5.2.3=9 5.2.4=1 5.2.5=52 5.8= 5.8.2=\"/dev/8\" 5.8.3=8 5.8.4=1 5.8.5=58 \
             6= 6.1= 6.1.1=\"mlx4\" 6.1.2=61 6.1.3=62 6.2= 6.2.1=\"mlx4\" 6.2.2=63 6.2.3=4294967295 \
             9= 9.1=1 9.3=91"
        );
    }

    #[test]
    fn v2_has_every_field_under_its_number() {
        let stall = |total| Stall { avg10: 0.5, avg60: 1.0, avg300: 33.16, total };
        let pressure = |total| Some(Pressure { some: stall(total), full: stall(total + 1) });
        let stats = Stats {
            unified: true,
            pids: Pids { current: 11, limit: UNLIMITED },
            cpu: Cpu {
                usage: 21_999,
                user: 22_000,
                system: 23_000,
                per_cpu: Vec::new(),
                periods: 24,
                throttled_periods: 25,
                throttled_time: 26_000,
                pressure: pressure(27),
            },
            memory: Memory {
                usage: Counter { usage: 32, max_usage: 36, limit: 33, failures: 0 },
                swap: Counter { usage: 34, max_usage: 37, limit: 35, failures: 0 },
                stat: counted(&MEMORY_V2),
                events: Some(MemoryEvents { low: 81, high: 82, max: 83, oom: 84, oom_kill: 85 }),
                pressure: pressure(38),
                ..Memory::default()
            },
            io: Io {
                devices: vec![IoDevice {
                    major: 61,
                    minor: 62,
                    read_bytes: 63,
                    written_bytes: 64,
                    reads: 65,
                    writes: 66,
                }],
                pressure: pressure(67),
                ..Io::default()
            },
            hugetlb: vec![HugePages {
                size: "2MB".into(),
                used: Counter { usage: 71, max_usage: 0, limit: 72, failures: 3 },
                reserved: Some(Counter::default()),
            }],
            rdma: Vec::new(),
        };
        let (kind, message) = metrics(&stats);
        assert_eq!(kind, "io.containerd.cgroups.v2.Metrics");
        let memory: Vec<String> = (1..=37).map(|n| format!("4.{n}={n}")).collect();
        let found = flat(&message, &["7.3"]);
        let (memory_found, rest): (Vec<&str>, Vec<&str>) =
            found.split(' ').partition(|line| memory.iter().any(|wanted| wanted == line));
        assert_eq!(memory_found.len(), memory.len());
        let psi = |at: &str, total: u64| {
            let (a, b, c) = (bits(0.5), bits(1.0), bits(33.16));
            let stall = |at: String, total| format!("{at}= {at}.1={a} {at}.2={b} {at}.3={c} {at}.4={total}");
            format!("{at}= {} {}", stall(format!("{at}.1"), total), stall(format!("{at}.2"), total + 1))
        };
        assert_eq!(
            rest.join(" "),
            [
                "1= 1.1=11 1.2=18446744073709551615",
                "2= 2.1=21 2.2=22 2.3=23 2.4=24 2.5=25 2.6=26",
                &psi("2.7", 27),
                "4=",
                &psi("4.38", 38),
                "5= 6= 6.1= 6.1.1=61 6.1.2=62 6.1.3=63 6.1.4=64 6.1.5=65 6.1.6=66",
                &psi("6.2", 67),
                "7= 7.1=71 7.2=72 7.3=\"2MB\"",
                "8= 8.1=81 8.2=82 8.3=83 8.4=84 8.5=85",
            ]
            .join(" ")
        );
    }

    #[test]
    fn what_is_not_counted_is_an_empty_message() {
        let stats = |unified| Stats { unified, ..Stats::default() };
        assert_eq!(flat(&metrics(&stats(true)).1, &[]), "1= 2= 4= 5= 6=");
        let v1 = "2= 3= 3.1= 3.2= 4= 4.33= 4.34= 4.35= 4.36= 5= 6=";
        assert_eq!(flat(&metrics(&stats(false)).1, &[]), v1);
        assert_eq!(metrics(&stats(false)).0, "io.containerd.cgroups.v1.Metrics");
        // No limit of processes.
        let mut stats = stats(false);
        stats.pids = Pids { current: 1, limit: UNLIMITED };
        assert_eq!(flat(&metrics(&stats).1, &[]).replace(" 2.1=1", ""), v1);
    }

    #[test]
    fn the_refaults_of_v2_are_added_up() {
        let lines = "workingset_refault_anon 3\nworkingset_refault_file 4\nworkingset_activate_file 5\n";
        let memory = Memory { stat: Keyed::new(lines), ..Memory::default() };
        assert_eq!(flat(&memory_v2(&memory), &[]), "20=7 21=5");
    }

    #[test]
    fn a_container_without_a_cgroup_is_not_found() {
        let gone = Dir { controllers: "".into(), mount: "/sys/fs/cgroup".into(), path: "/orlop-shim-none".into() };
        let gone = Cgroup::open(&Record(vec![gone])).unwrap();
        for cgroup in [None, Some(&gone)] {
            assert_eq!(response(cgroup).unwrap_err().code, Code::NotFound);
        }
    }

    #[test]
    fn a_device_has_the_name_that_sysfs_gives_it() {
        let entries = std::fs::read_dir("/sys/dev/block").unwrap();
        let Some(entry) = entries.flatten().next() else {
            println!("SKIP: no block device here");
            return;
        };
        let numbers = entry.file_name().into_string().unwrap();
        let (major, minor) = numbers.split_once(':').unwrap();
        let name = device_name(major.parse().unwrap(), minor.parse().unwrap());
        let target = std::fs::read_link(entry.path()).unwrap();
        assert_eq!(name, format!("/dev/{}", target.file_name().unwrap().to_str().unwrap()));
        assert_eq!(device_name(4095, 1_048_575), "");
    }
}
