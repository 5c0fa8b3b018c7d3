//! `linux.resources` as writes to the files of a v2 cgroup. Pure.

use super::{Set, Writes, check_weight, huge_page_size, rdma_line};
use crate::config::Resources;
use crate::error::{Error, Result};

/// Adds what `r` asks for, in the order in which a fresh cgroup takes it.
pub(super) fn plan(r: &Resources, w: &mut Writes<'_>) -> Result<()> {
    if let Some(m) = &r.memory {
        w.field("memory", "linux.resources.memory");
        let limit = super::limit("linux.resources.memory.limit", m.limit)?;
        let total = super::limit("linux.resources.memory.swap", m.swap)?;
        if m.check_before_update == Some(true) && limit > 0 {
            w.check_usage = Some(limit.unsigned_abs());
        }
        match swap_max(limit, total)? {
            None => {}
            // Without swap there is no file, and nothing to be unlimited or forbidden.
            Some(n @ ..=0) => w.add_optional("swap", "memory.swap.max", super::max(n))?,
            Some(n) => w.add("swap", "memory.swap.max", n)?,
        }
        if limit != 0 {
            w.add("limit", "memory.max", super::max(limit))?;
        }
        if let Some(n) = m.reservation.filter(|n| *n != 0) {
            w.add("reservation", "memory.low", super::max(n))?;
        }
        for (field, set) in
            [("swappiness", m.swappiness.is_some()), ("disableOOMKiller", m.disable_oom_killer == Some(true))]
        {
            if set {
                w.warn(format_args!("linux.resources.memory.{field} means nothing on cgroup v2"));
            }
        }
    }
    if let Some(c) = &r.cpu {
        w.field("cpu", "linux.resources.cpu");
        if let Some(n) = c.idle {
            w.add("idle", "cpu.idle", n)?;
        }
        // An idle group has no weight: the kernel refuses the write.
        if let Some(n) = c.shares.filter(|n| *n != 0 && c.idle != Some(1)) {
            w.add("shares", "cpu.weight", weight_of_shares(n))?;
        }
        let (quota, period) = (c.quota.unwrap_or(0), c.period.unwrap_or(0));
        if quota != 0 || period != 0 {
            let period = if period == 0 { 100_000 } else { period };
            let field = if quota != 0 { "quota" } else { "period" };
            match quota {
                1.. => w.add(field, "cpu.max", format_args!("{quota} {period}"))?,
                _ => w.add(field, "cpu.max", format_args!("max {period}"))?,
            };
        }
        if let Some(n) = c.burst {
            w.add("burst", "cpu.max.burst", n)?;
        }
        if c.realtime_period.is_some_and(|n| n != 0) || c.realtime_runtime.is_some_and(|n| n != 0) {
            w.warn("linux.resources.cpu.realtimePeriod and .realtimeRuntime mean nothing on cgroup v2");
        }
        w.cpuset(c)?;
    }
    w.pids(r)?;
    if let Some(b) = &r.block_io {
        w.field("io", "linux.resources.blockIO");
        // bfq keeps the old range; io.weight has its own.
        if let Some(n) = check_weight("weight", b.weight)? {
            w.add_either("weight", Set::new("io.bfq.weight", n), Set::new("io.weight", io_weight(n)))?;
        }
        for d in &b.weight_device {
            let device = format_args!("{}:{}", d.major, d.minor);
            if let Some(n) = check_weight("weightDevice", d.weight)? {
                w.add_either(
                    "weightDevice",
                    Set::new("io.bfq.weight", format_args!("{device} {n}")),
                    Set::new("io.weight", format_args!("{device} {}", io_weight(n))),
                )?;
            }
        }
        if b.leaf_weight.is_some() || b.weight_device.iter().any(|d| d.leaf_weight.is_some()) {
            w.warn("linux.resources.blockIO.leafWeight means nothing on cgroup v2");
        }
        for (field, key, list) in [
            ("throttleReadBpsDevice", "rbps", &b.throttle_read_bps_device),
            ("throttleWriteBpsDevice", "wbps", &b.throttle_write_bps_device),
            ("throttleReadIOPSDevice", "riops", &b.throttle_read_iops_device),
            ("throttleWriteIOPSDevice", "wiops", &b.throttle_write_iops_device),
        ] {
            for d in list {
                // v1 took 0 for "no limit"; v2 refuses it.
                match d.rate {
                    0 => w.add(field, "io.max", format_args!("{}:{} {key}=max", d.major, d.minor))?,
                    n => w.add(field, "io.max", format_args!("{}:{} {key}={n}", d.major, d.minor))?,
                };
            }
        }
    }
    w.field("hugetlb", "linux.resources.hugepageLimits");
    for h in &r.hugepage_limits {
        let size = huge_page_size(&h.page_size)?;
        w.add("limit", format!("hugetlb.{size}.max"), h.limit)?;
        // Reservations are limited since kernel 5.7.
        w.add_optional("limit", format!("hugetlb.{size}.rsvd.max"), h.limit)?;
    }
    if r.network.as_ref().is_some_and(|n| n.class_id.is_some_and(|n| n != 0) || !n.priorities.is_empty()) {
        w.warn("linux.resources.network means nothing on cgroup v2");
    }
    w.field("rdma", "linux.resources.rdma");
    for (device, limits) in &r.rdma {
        w.add(device, "rdma.max", rdma_line(device, limits)?)?;
    }
    w.field("unified", "linux.resources.unified");
    for (key, value) in &r.unified.0 {
        let whole = |what| Err(Error::invalid(format_args!("linux.resources.unified.{key}"), what));
        if key.contains('/') {
            return whole("must be a file name (no slashes)");
        }
        if !key.split_once('.').is_some_and(|(controller, parameter)| !controller.is_empty() && !parameter.is_empty()) {
            return whole("must be in the form CONTROLLER.PARAMETER");
        }
        // Files of several keys take one in each write.
        for line in value.lines().filter(|l| !l.trim().is_empty()) {
            w.add(key, key.clone(), line)?;
        }
    }
    Ok(())
}

/// cpu.weight for v1's cpu.shares: 2 becomes 1, 1024 the default 100, 262144 the largest 10000; a parabola over the
/// logarithm in between (runc 1.3.2, crun 1.24).
pub fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

/// io.weight (1-10000) for v1's blkio.weight (10-1000).
fn io_weight(weight: u16) -> u32 {
    1 + (u32::from(weight).saturating_sub(10)) * 9999 / 990
}

/// memory.swap.max (-1 is max) for v1's limit on memory and swap together; `None` leaves it alone.
fn swap_max(limit: i64, total: i64) -> Result<Option<i64>> {
    let refuse = |what| Err(Error::invalid("linux.resources.memory.swap", what));
    match (limit, total) {
        (-1, 0) | (_, -1) => Ok(Some(-1)),
        (_, 0) => Ok(None),
        (0 | -1, _) => refuse("unable to set swap limit without memory limit"),
        (limit, total) if total < limit => refuse("memory+swap limit is below the memory limit"),
        (limit, total) => Ok(Some(total - limit)),
    }
}
