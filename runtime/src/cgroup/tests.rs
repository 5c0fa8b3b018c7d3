//! Tables: where cgroups are, and what each field of `linux.resources` writes.

use super::*;

const V1_MOUNTS: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
30 27 0:33 / /var/lib/root/sys/fs/cgroup/devices rw - cgroup cgroup rw,devices
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:3 - cgroup cgroup rw,cpu,cpuacct
33 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
34 31 0:32 /docker/abc /sys/fs/cgroup/mem\\040ory rw - cgroup cgroup rw,memory
35 31 0:33 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices
36 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
37 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
38 31 0:39 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio
39 31 0:40 / /sys/fs/cgroup/hugetlb rw - cgroup cgroup rw,hugetlb
40 31 0:41 / /sys/fs/cgroup/net_cls,net_prio rw - cgroup cgroup rw,net_cls,net_prio
41 31 0:42 / /sys/fs/cgroup/rdma rw - cgroup cgroup rw,rdma
42 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
const V1_OWN: &str = "\
12:rdma:/
11:net_cls,net_prio:/
10:hugetlb:/
9:name=systemd:/user.slice
8:pids:/user.slice
7:blkio:/
6:freezer:/
5:devices:/
4:memory:/docker/abc/inner
3:cpuset:/
2:cpu,cpuacct:/
0::/user.slice/session
";

fn v1() -> Layout {
    Layout::parse(V1_MOUNTS, V1_OWN)
}

fn v2() -> Layout {
    Layout::pure_v2("/sys/fs/cgroup", "0::/system.slice/engine.service\n")
}

fn resources(json: &str) -> Resources {
    config::parse("resources", json.as_bytes()).unwrap()
}

fn plan(layout: &Layout, json: &str) -> Result<Plan> {
    Plan::new("web1", "/web1", Some(&resources(json)), layout, None)
}

/// `file=value` of each write; `|` before an alternative, `?` after what may be missing.
fn writes(layout: &Layout, json: &str) -> Vec<String> {
    let show = |w: &Write| {
        let or = w.or.as_ref().map(|or| format!("|{}={}", or.file, or.value)).unwrap_or_default();
        format!("{}={}{or}{}", w.set.file, w.set.value, if w.optional { "?" } else { "" })
    };
    plan(layout, json).unwrap().writes.iter().map(show).collect()
}

#[test]
fn hierarchies_are_found_with_their_mounts_and_the_callers_own_place() {
    let layout = v1();
    assert!(!layout.is_v2());
    let of = |name: &str| layout.v1.iter().find(|h| h.controllers == name).map(|h| (h.mount.as_str(), h.own.as_str()));
    for (name, want) in [
        ("cpu,cpuacct", Some(("/sys/fs/cgroup/cpu,cpuacct", "/"))),
        ("name=systemd", Some(("/sys/fs/cgroup/systemd", "/user.slice"))),
        ("memory", Some(("/sys/fs/cgroup/mem ory", "/inner"))),
        ("devices", Some(("/sys/fs/cgroup/devices", "/"))),
        ("freezer", None),
    ] {
        assert_eq!(of(name), want, "{name}");
    }
    let unified = layout.unified.unwrap();
    assert_eq!((unified.mount.as_str(), unified.own.as_str()), ("/sys/fs/cgroup/unified", "/user.slice/session"));
    assert!(v2().is_v2());
    assert_eq!(Layout::parse("", V1_OWN), Layout::default());
}

#[test]
fn paths_are_resolved_as_runcs_cgroupfs_driver_does() {
    for (path, memory, pids, unified) in [
        ("", "/inner/web1", "/user.slice/web1", "/system.slice/web1"),
        ("/a/b", "/a/b", "/a/b", "/a/b"),
        ("a/b", "/inner/a/b", "/user.slice/a/b", "/system.slice/a/b"),
        ("../a/../../b", "/inner/b", "/user.slice/b", "/system.slice/b"),
        ("/../x/./y//", "/x/y", "/x/y", "/x/y"),
    ] {
        let hybrid = Plan::new("web1", path, None, &v1(), None).unwrap();
        let of = |name: &str| hybrid.dirs.iter().find(|d| d.controllers == name).unwrap().path.clone();
        assert_eq!((of("memory").as_str(), of("pids").as_str()), (memory, pids), "{path:?}");
        let pure = Plan::new("web1", path, None, &v2(), None).unwrap();
        assert_eq!(pure.dirs[0].full(), format!("/sys/fs/cgroup{unified}"), "{path:?}");
    }
    for path in ["/", "/..", "..", "//."] {
        let e = Plan::new("web1", path, None, &v2(), None).unwrap_err().to_string();
        assert!(e.starts_with("linux.cgroupsPath: "), "{e}");
    }
    assert!(Plan::new("web1", "", None, &Layout::default(), None).is_err());
}

#[test]
fn every_field_has_its_v1_writes() {
    for (json, want) in [
        (r#"{"memory":{"limit":100}}"#, &["memory.limit_in_bytes=100"][..]),
        (r#"{"memory":{"limit":0,"swap":0,"reservation":0}}"#, &[]),
        (
            r#"{"memory":{"limit":100,"swap":200,"reservation":50}}"#,
            &["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=200", "memory.soft_limit_in_bytes=50"],
        ),
        (r#"{"memory":{"limit":-1}}"#, &["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1?"]),
        (r#"{"memory":{"swap":-1}}"#, &["memory.memsw.limit_in_bytes=-1"]),
        (
            r#"{"memory":{"swappiness":0,"disableOOMKiller":true,"useHierarchy":true,"checkBeforeUpdate":true}}"#,
            &["memory.oom_control=1", "memory.swappiness=0"],
        ),
        (r#"{"memory":{"disableOOMKiller":false,"kernel":5,"kernelTCP":6}}"#, &[]),
        (
            r#"{"cpu":{"shares":1024,"quota":5000,"period":10000,"burst":100,"idle":1}}"#,
            &[
                "cpu.shares=1024",
                "cpu.cfs_period_us=10000",
                "cpu.cfs_quota_us=5000",
                "cpu.cfs_burst_us=100",
                "cpu.idle=1",
            ],
        ),
        (r#"{"cpu":{"quota":-1}}"#, &["cpu.cfs_quota_us=-1"]),
        (
            r#"{"cpu":{"realtimeRuntime":950000,"realtimePeriod":1000000}}"#,
            &["cpu.rt_period_us=1000000", "cpu.rt_runtime_us=950000"],
        ),
        (r#"{"cpu":{"cpus":"0-1","mems":"0"}}"#, &["cpuset.cpus=0-1", "cpuset.mems=0"]),
        (r#"{"pids":{"limit":0}}"#, &["pids.max=0"]),
        (r#"{"pids":{"limit":-1}}"#, &["pids.max=max"]),
        (r#"{"pids":{}}"#, &[]),
        (
            r#"{"blockIO":{"weight":500,"leafWeight":300}}"#,
            &["blkio.weight=500|blkio.bfq.weight=500", "blkio.leaf_weight=300"],
        ),
        (
            r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":10,"leafWeight":1000}]}}"#,
            &["blkio.weight_device=8:0 10|blkio.bfq.weight_device=8:0 10", "blkio.leaf_weight_device=8:0 1000"],
        ),
        (
            r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1}],
                "throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":2}],
                "throttleReadIOPSDevice":[{"major":8,"minor":0,"rate":3}],
                "throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":0}]}}"#,
            &[
                "blkio.throttle.read_bps_device=8:0 1",
                "blkio.throttle.write_bps_device=8:0 2",
                "blkio.throttle.read_iops_device=8:0 3",
                "blkio.throttle.write_iops_device=8:0 0",
            ],
        ),
        (
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":9}]}"#,
            &["hugetlb.2MB.limit_in_bytes=9", "hugetlb.2MB.rsvd.limit_in_bytes=9?"],
        ),
        (
            r#"{"network":{"classID":1048577,"priorities":[{"name":"eth0","priority":5}]}}"#,
            &["net_cls.classid=1048577", "net_prio.ifpriomap=eth0 5"],
        ),
        (r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":100}}}"#, &["rdma.max=mlx5_1 hca_handle=3 hca_object=100"]),
    ] {
        assert_eq!(writes(&v1(), json), want, "{json}");
    }
}

#[test]
fn every_field_has_its_v2_writes() {
    for (json, want) in [
        (r#"{"memory":{"limit":100}}"#, &["memory.max=100"][..]),
        (r#"{"memory":{"limit":0,"swap":0,"reservation":0}}"#, &[]),
        (
            r#"{"memory":{"limit":100,"swap":300,"reservation":50}}"#,
            &["memory.swap.max=200", "memory.max=100", "memory.low=50"],
        ),
        (r#"{"memory":{"limit":100,"swap":100}}"#, &["memory.swap.max=0?", "memory.max=100"]),
        (r#"{"memory":{"limit":100,"swap":-1}}"#, &["memory.swap.max=max?", "memory.max=100"]),
        (r#"{"memory":{"limit":-1}}"#, &["memory.swap.max=max?", "memory.max=max"]),
        (r#"{"memory":{"reservation":-1}}"#, &["memory.low=max"]),
        (r#"{"cpu":{"shares":1024}}"#, &["cpu.weight=100"]),
        (r#"{"cpu":{"shares":0}}"#, &[]),
        (r#"{"cpu":{"shares":1024,"idle":1}}"#, &["cpu.idle=1"]),
        (r#"{"cpu":{"shares":2,"idle":0}}"#, &["cpu.idle=0", "cpu.weight=1"]),
        (r#"{"cpu":{"quota":5000,"burst":100}}"#, &["cpu.max=5000 100000", "cpu.max.burst=100"]),
        (r#"{"cpu":{"quota":5000,"period":10000}}"#, &["cpu.max=5000 10000"]),
        (r#"{"cpu":{"period":10000}}"#, &["cpu.max=max 10000"]),
        (r#"{"cpu":{"quota":-1}}"#, &["cpu.max=max 100000"]),
        (r#"{"cpu":{"cpus":"0-1","mems":"0"}}"#, &["cpuset.cpus=0-1", "cpuset.mems=0"]),
        (r#"{"pids":{"limit":0}}"#, &["pids.max=0"]),
        (r#"{"pids":{"limit":-1}}"#, &["pids.max=max"]),
        (
            r#"{"blockIO":{"weight":10,"weightDevice":[{"major":8,"minor":0,"weight":1000}]}}"#,
            &["io.bfq.weight=10|io.weight=1", "io.bfq.weight=8:0 1000|io.weight=8:0 10000"],
        ),
        (
            r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1}],
                "throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":2}],
                "throttleReadIOPSDevice":[{"major":8,"minor":0,"rate":3}],
                "throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":0}]}}"#,
            &["io.max=8:0 rbps=1", "io.max=8:0 wbps=2", "io.max=8:0 riops=3", "io.max=8:0 wiops=max"],
        ),
        (r#"{"hugepageLimits":[{"pageSize":"64KB","limit":9}]}"#, &["hugetlb.64KB.max=9", "hugetlb.64KB.rsvd.max=9?"]),
        (r#"{"rdma":{"mlx5_1":{"hcaObjects":100}}}"#, &["rdma.max=mlx5_1 hca_object=100"]),
        (
            r#"{"pids":{"limit":5},"unified":{"memory.high":"1000","io.max":"8:0 rbps=1\n8:16 rbps=2\n"}}"#,
            &["pids.max=5", "io.max=8:0 rbps=1", "io.max=8:16 rbps=2", "memory.high=1000"],
        ),
    ] {
        assert_eq!(writes(&v2(), json), want, "{json}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_field() {
    let (v1, v2, mut bare) = (v1(), v2(), v1());
    bare.v1.retain(|h| h.controllers == "devices");
    for (layout, json, want) in [
        (
            &v1,
            r#"{"unified":{"memory.high":"1"}}"#,
            "linux.resources.unified.memory.high: unified resources cannot be set",
        ),
        (&v2, r#"{"unified":{"a/b.c":"1"}}"#, "linux.resources.unified.a/b.c: must be a file name"),
        (&v2, r#"{"unified":{"memory":"1"}}"#, "linux.resources.unified.memory: must be in the form"),
        (&v1, r#"{"memory":{"limit":-2}}"#, "linux.resources.memory.limit: -2 is neither"),
        (&v1, r#"{"memory":{"limit":2,"swap":1}}"#, "linux.resources.memory.swap: memory+swap limit is below"),
        (&v2, r#"{"memory":{"limit":2,"swap":1}}"#, "linux.resources.memory.swap: memory+swap limit is below"),
        (&v2, r#"{"memory":{"swap":1}}"#, "linux.resources.memory.swap: unable to set swap limit without memory limit"),
        (&v1, r#"{"memory":{"swappiness":101}}"#, "linux.resources.memory.swappiness: 101 is not in 0-100"),
        (&v2, r#"{"blockIO":{"weight":9}}"#, "linux.resources.blockIO.weight: 9 is not in 10-1000"),
        (
            &v2,
            r#"{"hugepageLimits":[{"pageSize":"../x2MB","limit":1}]}"#,
            "linux.resources.hugepageLimits.pageSize: no page size",
        ),
        (&v1, r#"{"rdma":{"a b":{"hcaHandles":1}}}"#, "linux.resources.rdma: no device name"),
        (&bare, r#"{"pids":{"limit":1}}"#, "linux.resources.pids.limit: the cgroup controller pids is not mounted"),
    ] {
        let e = plan(layout, json).unwrap_err().to_string();
        assert!(e.starts_with(want), "{json}: {e}");
    }
}

#[test]
fn what_means_nothing_in_a_layout_is_a_warning() {
    for (layout, json, want) in [
        (v2(), r#"{"memory":{"swappiness":5,"disableOOMKiller":true,"kernel":1}}"#, 3),
        (v2(), r#"{"cpu":{"realtimeRuntime":1},"network":{"classID":1},"blockIO":{"leafWeight":10}}"#, 3),
        (v2(), r#"{"memory":{"disableOOMKiller":false},"cpu":{"realtimeRuntime":0},"network":{"classID":0}}"#, 0),
        (v1(), r#"{"memory":{"kernelTCP":1}}"#, 1),
    ] {
        assert_eq!(plan(&layout, json).unwrap().warnings.len(), want, "{json}");
    }
}

#[test]
fn shares_become_weights_by_the_curve_through_the_defaults() {
    for (shares, weight) in [
        (0, 0),
        (1, 1),
        (2, 1),
        (3, 2),
        (512, 59),
        (1024, 100),
        (2048, 174),
        (262_143, 10_000),
        (262_144, 10_000),
        (u64::MAX, 10_000),
    ] {
        assert_eq!(weight_of_shares(shares), weight, "{shares}");
    }
}

#[test]
fn a_cgroup_is_delegated_only_by_the_specifications_rule() {
    let mount = |options: &str| {
        let json =
            format!(r#"{{"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":[{options}]}}"#);
        config::parse::<config::Mount>("mount", json.as_bytes()).unwrap()
    };
    let (rw, ro) = (mount(r#""nosuid","rw""#), mount(r#""ro""#));
    for (layout, namespace, mounts, want) in [
        (v2(), true, vec![rw.clone()], Some(1000)),
        (v2(), true, vec![mount("")], Some(1000)),
        (v2(), true, vec![ro], None),
        (v2(), false, vec![rw.clone()], None),
        (v2(), true, vec![], None),
        (v1(), true, vec![rw], None),
    ] {
        assert_eq!(delegation(&layout, namespace, &mounts, 1000), want);
    }
}

#[test]
fn a_record_survives_json_and_a_damaged_one_is_refused() {
    let record = Plan::new("web1", "", None, &v1(), None).unwrap().record();
    let json = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
    let with = |mount: &str, path: &str| {
        Record(vec![Dir { controllers: String::new(), mount: mount.into(), path: path.into() }])
    };
    assert!(Cgroup::open(&with("/sys/fs/cgroup", "/web1")).is_ok());
    for (mount, path) in [
        ("/sys/fs/cgroup", "/"),
        ("/sys/fs/cgroup", ""),
        ("/sys/fs/cgroup", "/../x"),
        ("/etc", "/x"),
        ("/sys/fs/cgroup/..", "/x"),
    ] {
        assert!(Cgroup::open(&with(mount, path)).is_err(), "{mount}{path}");
    }
}

#[test]
fn a_sub_cgroup_stays_inside() {
    for (text, ok) in
        [("a", true), ("/a/b", true), ("cpu,memory:/a", true), ("/", true), ("../a", false), ("cpu:a/../..", false)]
    {
        assert_eq!(SubCgroup::parse(text).is_ok(), ok, "{text}");
    }
}

#[test]
fn a_quota_and_its_period_are_read_as_the_kernel_writes_them() {
    for (text, want) in [
        ("max 100000\n", Some((-1, 100_000))),
        ("20000 50000\n", Some((20_000, 50_000))),
        ("", None),
        ("20000", None),
        ("max max", None),
    ] {
        assert_eq!(CpuMax::parse(text).map(|found| (found.quota, found.period)), want, "{text:?}");
    }
}
