//! `linux.resources` as writes to the files of the v1 controllers. Pure.

use super::{Set, Writes, check_weight, huge_page_size, rdma_line};
use crate::config::Resources;
use crate::error::{Error, Result};

/// Adds what `r` asks for, in the order in which a fresh cgroup takes it.
pub(super) fn plan(r: &Resources, w: &mut Writes<'_>) -> Result<()> {
    if let Some(key) = r.unified.0.keys().next() {
        return Err(Error::invalid(
            format_args!("linux.resources.unified.{key}"),
            "unified resources cannot be set on cgroup v1",
        ));
    }
    if let Some(m) = &r.memory {
        w.field("memory", "linux.resources.memory");
        let limit = super::limit("linux.resources.memory.limit", m.limit)?;
        let mut swap = super::limit("linux.resources.memory.swap", m.swap)?;
        // An unlimited memory lifts the limit on both, unless one was asked for; without swap accounting the file is
        // missing, and nothing is to be lifted.
        let implied = limit == -1 && swap == 0;
        if implied {
            swap = -1;
        }
        if limit > 0 && swap > 0 && swap < limit {
            return Err(Error::invalid("linux.resources.memory.swap", "memory+swap limit is below the memory limit"));
        }
        if limit != 0 {
            w.add("limit", "memory.limit_in_bytes", limit)?;
        }
        match swap {
            0 => {}
            _ if implied => w.add_optional("swap", "memory.memsw.limit_in_bytes", swap)?,
            _ => w.add("swap", "memory.memsw.limit_in_bytes", swap)?,
        }
        if let Some(n) = m.reservation.filter(|n| *n != 0) {
            w.add("reservation", "memory.soft_limit_in_bytes", n)?;
        }
        if m.disable_oom_killer == Some(true) {
            w.add("disableOOMKiller", "memory.oom_control", 1)?;
        }
        if let Some(n) = m.swappiness {
            if n > 100 {
                return Err(Error::invalid("linux.resources.memory.swappiness", format_args!("{n} is not in 0-100")));
            }
            w.add("swappiness", "memory.swappiness", n)?;
        }
    }
    if let Some(c) = &r.cpu {
        w.field("cpu", "linux.resources.cpu");
        if let Some(n) = c.shares.filter(|n| *n != 0) {
            w.add("shares", "cpu.shares", n)?;
        }
        if let Some(n) = c.period.filter(|n| *n != 0) {
            w.add("period", "cpu.cfs_period_us", n)?;
        }
        if let Some(n) = c.quota.filter(|n| *n != 0) {
            w.add("quota", "cpu.cfs_quota_us", n.max(-1))?;
        }
        if let Some(n) = c.burst {
            w.add("burst", "cpu.cfs_burst_us", n)?;
        }
        if let Some(n) = c.realtime_period.filter(|n| *n != 0) {
            w.add("realtimePeriod", "cpu.rt_period_us", n)?;
        }
        if let Some(n) = c.realtime_runtime.filter(|n| *n != 0) {
            w.add("realtimeRuntime", "cpu.rt_runtime_us", n)?;
        }
        if let Some(n) = c.idle {
            w.add("idle", "cpu.idle", n)?;
        }
        // Written again by `apply`, since `create` only fills what is empty.
        w.cpuset(c)?;
    }
    w.pids(r)?;
    if let Some(b) = &r.block_io {
        w.field("blkio", "linux.resources.blockIO");
        if let Some(n) = check_weight("weight", b.weight)? {
            w.add_either("weight", Set::new("blkio.weight", n), Set::new("blkio.bfq.weight", n))?;
        }
        if let Some(n) = check_weight("leafWeight", b.leaf_weight)? {
            w.add("leafWeight", "blkio.leaf_weight", n)?;
        }
        for d in &b.weight_device {
            if let Some(n) = check_weight("weightDevice", d.weight)? {
                let line = format!("{}:{} {n}", d.major, d.minor);
                w.add_either(
                    "weightDevice",
                    Set::new("blkio.weight_device", &line),
                    Set::new("blkio.bfq.weight_device", &line),
                )?;
            }
            if let Some(n) = check_weight("weightDevice", d.leaf_weight)? {
                w.add("weightDevice", "blkio.leaf_weight_device", format_args!("{}:{} {n}", d.major, d.minor))?;
            }
        }
        for (field, file, list) in [
            ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", &b.throttle_read_bps_device),
            ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", &b.throttle_write_bps_device),
            ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", &b.throttle_read_iops_device),
            ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", &b.throttle_write_iops_device),
        ] {
            for d in list {
                w.add(field, file, format_args!("{}:{} {}", d.major, d.minor, d.rate))?;
            }
        }
    }
    w.field("hugetlb", "linux.resources.hugepageLimits");
    for h in &r.hugepage_limits {
        let size = huge_page_size(&h.page_size)?;
        w.add("limit", format!("hugetlb.{size}.limit_in_bytes"), h.limit)?;
        // Reservations are limited since kernel 5.7.
        w.add_optional("limit", format!("hugetlb.{size}.rsvd.limit_in_bytes"), h.limit)?;
    }
    if let Some(n) = &r.network {
        if let Some(id) = n.class_id.filter(|n| *n != 0) {
            w.field("net_cls", "linux.resources.network");
            w.add("classID", "net_cls.classid", id)?;
        }
        w.field("net_prio", "linux.resources.network");
        for p in &n.priorities {
            w.add("priorities", "net_prio.ifpriomap", format_args!("{} {}", p.name, p.priority))?;
        }
    }
    w.field("rdma", "linux.resources.rdma");
    for (device, limits) in &r.rdma {
        w.add(device, "rdma.max", rdma_line(device, limits)?)?;
    }
    Ok(())
}
