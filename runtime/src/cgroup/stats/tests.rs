//! Recorded files, and cgroups of this machine.

#![allow(clippy::disallowed_methods, reason = "the recordings are put into a directory of the test's own")]

use super::*;
use crate::cgroup::{Dir, Record};

/// A directory with recorded files, removed at the end.
struct Recorded(String);

impl Recorded {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let dir = format!("{}/orlop-stats-{name}-{}", std::env::temp_dir().display(), std::process::id());
        std::fs::create_dir_all(&dir).unwrap();
        files.iter().for_each(|(file, text)| std::fs::write(format!("{dir}/{file}"), text).unwrap());
        Self(dir)
    }

    fn v1(&self) -> Files {
        Files { dir: Some(self.0.clone()), unified: false }
    }

    fn v2(&self) -> Files {
        Files { dir: Some(self.0.clone()), unified: true }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn processor_time_is_in_nanoseconds_on_v1_and_v2() {
    let dir = Recorded::new(
        "cpu",
        &[
            ("cpuacct.usage", "10032979\n"),
            ("cpuacct.stat", "user 3\nsystem 1\n"),
            ("cpuacct.usage_percpu", "341769 9691210 \n"),
            ("cpuacct.usage_all", "cpu user system\n0 200 100\n1 9000000 8000\n"),
            ("cpu.stat", "nr_periods 12\nnr_throttled 2\nthrottled_time 52000123\nnr_bursts 0\nburst_time 0\n"),
        ],
    );
    let want = Cpu {
        usage: 10_032_979,
        user: 30_000_000,
        system: 10_000_000,
        per_cpu: vec![
            CpuTime { usage: 341_769, user: 200, system: 100 },
            CpuTime { usage: 9_691_210, user: 9_000_000, system: 8000 },
        ],
        periods: 12,
        throttled_periods: 2,
        throttled_time: 52_000_123,
        pressure: None,
    };
    assert_eq!(cpu_v1(&dir.v1(), &dir.v1()).unwrap(), want);

    let dir = Recorded::new(
        "cpu2",
        &[(
            "cpu.stat",
            "usage_usec 9040\nuser_usec 3013\nsystem_usec 6027\nnice_usec 0\ncore_sched.force_idle_usec 0\n\
             nr_periods 5\nnr_throttled 1\nthrottled_usec 7\nnr_bursts 0\nburst_usec 0\n",
        )],
    );
    let want = Cpu {
        usage: 9_040_000,
        user: 3_013_000,
        system: 6_027_000,
        periods: 5,
        throttled_periods: 1,
        throttled_time: 7_000,
        ..Cpu::default()
    };
    assert_eq!(cpu_v2(&dir.v2()).unwrap(), want);
}

#[test]
fn memory_has_its_four_counters_on_v1_and_its_events_on_v2() {
    let dir = Recorded::new(
        "memory",
        &[
            ("memory.stat", "cache 5156864\nrss 53248\nhierarchical_memory_limit 67108864\n"),
            ("memory.usage_in_bytes", "5599232\n"),
            ("memory.max_usage_in_bytes", "7286784\n"),
            ("memory.limit_in_bytes", "67108864\n"),
            ("memory.failcnt", "3\n"),
            ("memory.memsw.limit_in_bytes", "9223372036854771712\n"),
            ("memory.kmem.usage_in_bytes", "274432\n"),
            ("memory.oom_control", "oom_kill_disable 1\nunder_oom 0\noom_kill 2\n"),
        ],
    );
    let found = memory(&dir.v1()).unwrap();
    assert_eq!(found.usage, Counter { usage: 5_599_232, max_usage: 7_286_784, limit: 67_108_864, failures: 3 });
    assert_eq!(found.swap, Counter { limit: 9_223_372_036_854_771_712, ..Counter::default() });
    assert_eq!((found.kernel.usage, found.kernel_tcp), (274_432, Counter::default()));
    assert_eq!(found.oom, Some(OomControl { kill_disabled: true, under_oom: false, oom_kill: 2 }));
    assert_eq!(found.events, None);
    let lines: Vec<_> = found.stat.iter().collect();
    assert_eq!(lines, [("cache", 5_156_864), ("rss", 53_248), ("hierarchical_memory_limit", 67_108_864)]);
    assert_eq!((found.stat.get("rss"), found.stat.get("swap")), (53_248, 0));

    let dir = Recorded::new(
        "memory2",
        &[
            ("memory.stat", "anon 53248\nfile 3145728\n"),
            ("memory.current", "3854336\n"),
            ("memory.max", "max\n"),
            ("memory.peak", "5279744\n"),
            ("memory.swap.current", "4096\n"),
            ("memory.swap.max", "1048576\n"),
            ("memory.events", "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n"),
        ],
    );
    let found = memory(&dir.v2()).unwrap();
    assert_eq!(found.usage, Counter { usage: 3_854_336, max_usage: 5_279_744, limit: UNLIMITED, failures: 0 });
    assert_eq!(found.swap, Counter { usage: 4096, max_usage: 0, limit: 1_048_576, failures: 0 });
    assert_eq!(found.events, Some(MemoryEvents { low: 1, high: 2, max: 3, oom: 4, oom_kill: 5 }));
    assert_eq!(found.oom, None);
    assert_eq!(found.stat.get("file"), 3_145_728);
}

#[test]
fn the_pressure_has_two_lines_or_one() {
    let some = Stall { avg10: 33.16, avg60: 29.92, avg300: 56.68, total: 5_555_794_389 };
    let full = Stall { avg10: 0.5, avg60: 0.0, avg300: 0.0, total: 12 };
    let first = "some avg10=33.16 avg60=29.92 avg300=56.68 total=5555794389\n";
    for (text, want) in [
        (format!("{first}full avg10=0.50 avg60=0.00 avg300=0.00 total=12\n"), Pressure { some, full }),
        (first.to_owned(), Pressure { some, full: Stall::default() }),
        ("some avg10=inf avg60=NaN avg300=x total=-1\nelse avg10=1\n\n".to_owned(), Pressure::default()),
        (String::new(), Pressure::default()),
    ] {
        assert_eq!(parse_pressure(&text), want, "{text:?}");
    }
}

#[test]
fn the_first_tables_of_block_devices_with_a_line_count() {
    let table = |value| format!("254:0 Read {value}\n254:0 Total {value}\nTotal {value}\n");
    let none = "Total 0\n".to_owned();
    let entry = |op: &str, value| BlkioEntry { major: 254, minor: 0, op: op.to_owned(), value };
    let of = |value| vec![entry("Read", value), entry("Total", value)];
    let files = [
        ("blkio.throttle.io_serviced", table(1)),
        ("blkio.throttle.io_service_bytes", table(2)),
        ("blkio.throttle.io_serviced_recursive", table(3)),
        ("blkio.throttle.io_service_bytes_recursive", table(4)),
        ("blkio.io_serviced_recursive", table(5)),
        ("blkio.io_service_bytes_recursive", table(6)),
        ("blkio.sectors_recursive", "254:0 9\n8:16 0\n".to_owned()),
        ("blkio.bfq.io_serviced_recursive", table(7)),
        ("blkio.bfq.io_service_bytes_recursive", table(8)),
        ("blkio.bfq.io_queued_recursive", table(0)),
    ];
    let sectors = vec![entry("", 9), BlkioEntry { major: 8, minor: 16, op: String::new(), value: 0 }];
    let two = |serviced, service_bytes| Blkio {
        serviced: of(serviced),
        service_bytes: of(service_bytes),
        ..Blkio::default()
    };
    for (empty, want) in [
        (&[][..], Blkio { queued: of(0), ..two(7, 8) }),
        (&["blkio.bfq.io_serviced_recursive"], Blkio { sectors, ..two(5, 6) }),
        (&["blkio.bfq.io_serviced_recursive", "blkio.io_serviced_recursive"], two(3, 4)),
        (
            &[
                "blkio.bfq.io_serviced_recursive",
                "blkio.io_serviced_recursive",
                "blkio.throttle.io_serviced_recursive",
                "blkio.throttle.io_service_bytes_recursive",
            ],
            two(1, 2),
        ),
    ] {
        let files: Vec<_> =
            files.iter().map(|(name, text)| (*name, if empty.contains(name) { none.as_str() } else { text })).collect();
        let dir = Recorded::new(&format!("blkio{}", empty.len()), &files);
        assert_eq!(io(&dir.v1()).unwrap().blkio, want, "without {empty:?}");
    }
}

#[test]
fn a_device_of_v2_without_numbers_is_left_out() {
    let dir = Recorded::new(
        "io",
        &[("io.stat", "8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0\n252:0 \n7:0\nx y=1\n")],
    );
    let device =
        IoDevice { major: 8, minor: 16, read_bytes: 1_459_200, written_bytes: 314_773_504, reads: 192, writes: 353 };
    assert_eq!(io(&dir.v2()).unwrap().devices, [device]);
}

#[test]
fn huge_pages_are_counted_as_used_and_as_reserved() {
    for (name, want) in [
        ("hugepages-64kB", Some("64KB")),
        ("hugepages-2048kB", Some("2MB")),
        ("hugepages-1048576kB", Some("1GB")),
        ("hugepages-16777216kB", Some("16GB")),
        ("hugepages-kB", None),
        ("..", None),
    ] {
        assert_eq!(huge_page_size(name).as_deref(), want);
    }
    let sizes = ["2MB".to_owned(), "1GB".to_owned()];
    let dir = Recorded::new(
        "hugetlb",
        &[
            ("hugetlb.2MB.usage_in_bytes", "2097152\n"),
            ("hugetlb.2MB.max_usage_in_bytes", "4194304\n"),
            ("hugetlb.2MB.limit_in_bytes", "8388608\n"),
            ("hugetlb.2MB.failcnt", "1\n"),
            ("hugetlb.2MB.rsvd.usage_in_bytes", "6291456\n"),
        ],
    );
    let used = Counter { usage: 2_097_152, max_usage: 4_194_304, limit: 8_388_608, failures: 1 };
    let reserved = Some(Counter { usage: 6_291_456, ..Counter::default() });
    assert_eq!(hugetlb(&dir.v1(), &sizes).unwrap(), [HugePages { size: "2MB".into(), used, reserved }]);
    let dir = Recorded::new(
        "hugetlb2",
        &[("hugetlb.1GB.current", "0\n"), ("hugetlb.1GB.max", "max\n"), ("hugetlb.1GB.events", "max 4\n")],
    );
    let used = Counter { limit: UNLIMITED, failures: 4, ..Counter::default() };
    assert_eq!(hugetlb(&dir.v2(), &sizes).unwrap(), [HugePages { size: "1GB".into(), used, reserved: None }]);
}

#[test]
fn rdma_devices_have_counts_and_limits() {
    let dir = Recorded::new(
        "rdma",
        &[
            ("rdma.current", "mlx4_0 hca_handle=1 hca_object=20\nocrdma1 hca_handle=0 hca_object=0\n"),
            ("rdma.max", "ocrdma1 hca_handle=3 hca_object=max\n"),
        ],
    );
    let counts = |handles, objects| RdmaCounts { handles, objects };
    assert_eq!(
        rdma(&dir.v1()).unwrap(),
        [
            Rdma { device: "mlx4_0".into(), current: counts(1, 20), limit: counts(0, 0) },
            Rdma { device: "ocrdma1".into(), current: counts(0, 0), limit: counts(3, u32::MAX) },
        ]
    );
}

#[test]
fn lists_of_numbers_are_spelled_out() {
    for (text, want) in [
        ("0-2,7\n", &[0, 1, 2, 7][..]),
        ("5\n", &[5]),
        ("\n", &[]),
        ("2-1", &[]),
        ("a,1-b,3", &[3]),
        ("65536", &[]),
        ("65535", &[65535]),
    ] {
        assert_eq!(list(text), want, "{text:?}");
    }
}

#[test]
fn what_is_not_there_is_zero() {
    let dir = Recorded::new("none", &[]);
    let nowhere = Files { dir: None, unified: true };
    for files in [dir.v1(), dir.v2(), nowhere] {
        assert_eq!(pids(&files).unwrap(), Pids::default());
        assert_eq!(cpu_v1(&files, &files).unwrap(), Cpu::default());
        assert_eq!(cpu_v2(&files).unwrap(), Cpu::default());
        assert_eq!(memory(&files).unwrap(), Memory::default());
        assert_eq!(io(&files).unwrap(), Io::default());
        assert_eq!(hugetlb(&files, &["2MB".to_owned()]).unwrap(), []);
        assert_eq!(rdma(&files).unwrap(), []);
        assert_eq!(pressure(&files, "cpu.pressure").unwrap(), None);
    }
}

/// A cgroup in each of some hierarchies of this machine, with one process; removed at the end.
struct Living {
    cgroup: Cgroup,
    child: std::process::Child,
}

impl Living {
    /// None, with a word why, where it can't be made.
    fn new(hierarchies: &[(&str, &str)], name: &str) -> Option<Self> {
        let path = format!("/orlop-{name}-{}", std::process::id());
        let child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let mut made = Self { cgroup: Cgroup::open(&Record::default()).unwrap(), child };
        let mut dirs = Vec::new();
        for (controllers, mount) in hierarchies {
            let dir = Dir { controllers: (*controllers).into(), mount: (*mount).into(), path: path.clone() };
            if let Err(error) = std::fs::create_dir(dir.full()) {
                println!("SKIP: mkdir {}: {error}", dir.full());
                return None;
            }
            let full = dir.full();
            dirs.push(dir);
            made.cgroup = Cgroup::open(&Record(dirs.clone())).unwrap();
            std::fs::write(format!("{full}/cgroup.procs"), made.child.id().to_string()).unwrap();
        }
        Some(made)
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.cgroup.remove(std::time::Instant::now() + std::time::Duration::from_secs(1));
    }
}

#[test]
fn a_living_cgroup_of_v1_is_read() {
    let hierarchies = [
        ("memory", "/sys/fs/cgroup/memory"),
        ("pids", "/sys/fs/cgroup/pids"),
        ("cpuacct", "/sys/fs/cgroup/cpuacct"),
        ("", "/sys/fs/cgroup/unified"),
    ];
    let Some(living) = Living::new(&hierarchies, "stats") else { return };
    let stats = living.cgroup.stats().unwrap().unwrap();
    assert!(!stats.unified);
    assert_eq!(stats.pids, Pids { current: 1, limit: UNLIMITED });
    assert!(!stats.cpu.per_cpu.is_empty());
    assert!(stats.memory.usage.limit > 1 << 40);
    assert!(stats.memory.stat.iter().count() > 20);
    assert_eq!(stats.memory.oom, Some(OomControl::default()));
    assert_eq!(stats.memory.events, None);
    assert_eq!(living.cgroup.cpuset().unwrap(), Cpuset::default());

    living.cgroup.kill_all().unwrap();
    living.cgroup.remove(std::time::Instant::now() + std::time::Duration::from_secs(2)).unwrap();
    assert_eq!(living.cgroup.stats().unwrap(), None);
}

#[test]
fn a_living_cgroup_of_v2_is_read_with_or_without_controllers() {
    let alone = rfs::access("/sys/fs/cgroup/cgroup.controllers", Access::EXISTS).is_ok();
    let mount = if alone { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/unified" };
    let Some(living) = Living::new(&[("", mount)], "stats2") else { return };
    let stats = living.cgroup.stats().unwrap().unwrap();
    assert!(stats.unified);
    assert_eq!(stats.pids.current, 1);
    assert_eq!(stats.memory.oom, None);
    assert_eq!(stats.cpu.pressure.is_some(), rfs::access("/proc/pressure/cpu", Access::EXISTS).is_ok());
}
