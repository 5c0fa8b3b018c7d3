//! What `stats` prints: the use of processor, memory, network and disks, as `docker stats` has them.

use orlop::cgroup::stats::Stats;
use orlop_sys::rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::show::table;
use super::stop::Found;
use crate::start::read_file;

/// What was counted at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sample {
    /// When, in nanoseconds since boot.
    pub at: u64,
    /// Processor time, in nanoseconds.
    pub cpu: u64,
    /// Bytes in use, without what of files could be dropped at once.
    pub memory: u64,
    /// Bytes that there may be.
    pub limit: u64,
    /// Bytes received and sent.
    pub network: (u64, u64),
    /// Bytes read and written.
    pub block: (u64, u64),
    /// Processes and threads.
    pub pids: u64,
}

impl Sample {
    /// Counts now; `None` if there is nothing to count.
    pub fn take(found: &Found) -> Option<Self> {
        let container = found.place().open().ok()?;
        let stats = container.cgroup().ok()??.stats().ok()??;
        let own = found.options.own_network && found.condition.is_alive();
        let network = own.then(|| read_file(&format!("/proc/{}/net/dev", found.state.init.pid)).ok()).flatten();
        let now = clock_gettime(ClockId::Boottime);
        let at = now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs();
        Some(Self {
            at,
            cpu: stats.cpu.usage,
            memory: in_use(&stats),
            limit: stats.memory.usage.limit.min(machine_memory()),
            network: network.map_or((0, 0), |text| traffic(&String::from_utf8_lossy(&text))),
            block: transfers(&stats),
            pids: stats.pids.current,
        })
    }

    /// The share of one processor since `before`, in percent.
    pub fn cpu_percent(&self, before: &Self) -> f64 {
        let time = self.at.saturating_sub(before.at);
        if time == 0 { 0.0 } else { self.cpu.saturating_sub(before.cpu) as f64 / time as f64 * 100.0 }
    }

    /// The share of the limit, in percent.
    pub fn memory_percent(&self) -> f64 {
        if self.limit == 0 { 0.0 } else { self.memory as f64 / self.limit as f64 * 100.0 }
    }
}

/// Docker's count: the page cache that the kernel would give up first is not in use.
fn in_use(stats: &Stats) -> u64 {
    let cache = stats.memory.stat.get(if stats.unified { "inactive_file" } else { "total_inactive_file" });
    let usage = stats.memory.usage.usage;
    if cache < usage { usage - cache } else { usage }
}

fn machine_memory() -> u64 {
    let text = read_file("/proc/meminfo").unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).map_or(u64::MAX, |kib| kib << 10)
}

/// Bytes received and sent by all devices but the loopback, from /proc/PID/net/dev.
fn traffic(text: &str) -> (u64, u64) {
    let mut sum = (0u64, 0u64);
    for (name, counters) in text.lines().filter_map(|line| line.split_once(':')) {
        let mut counters = counters.split_whitespace().map(|number| number.parse::<u64>().unwrap_or(0));
        if name.trim() != "lo" {
            sum.0 = sum.0.saturating_add(counters.next().unwrap_or(0));
            sum.1 = sum.1.saturating_add(counters.nth(7).unwrap_or(0));
        }
    }
    sum
}

fn transfers(stats: &Stats) -> (u64, u64) {
    if stats.unified {
        let devices = &stats.io.devices;
        return (devices.iter().map(|d| d.read_bytes).sum(), devices.iter().map(|d| d.written_bytes).sum());
    }
    let of = |op: &str| {
        let entries = stats.io.blkio.service_bytes.iter();
        entries.filter(|entry| entry.op.eq_ignore_ascii_case(op)).map(|entry| entry.value).sum()
    };
    (of("read"), of("write"))
}

/// Bytes in powers of 1024, in four digits: `1.5MiB`.
fn binary(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"], 4)
}

/// Bytes in powers of 1000, in three digits: `1.84kB`.
fn decimal(bytes: u64) -> String {
    scaled(bytes as f64, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"], 3)
}

/// As C's `%.*g` without an exponent: so many significant digits, no zeros at the end.
fn scaled(mut value: f64, base: f64, units: &[&str], digits: usize) -> String {
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    while value >= base {
        let Some(next) = units.next() else { break };
        (value, unit) = (value / base, next);
    }
    let whole = if value < 10.0 {
        1
    } else if value < 100.0 {
        2
    } else if value < 1000.0 {
        3
    } else {
        4
    };
    let text = format!("{value:.*}", digits.saturating_sub(whole));
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// A row: whose it is, and the samples between which time has passed.
#[derive(Debug)]
pub struct Row {
    /// The container.
    pub id: String,
    /// Then, and now; nothing, if there was nothing to count.
    pub samples: (Sample, Sample),
}

impl Row {
    fn cells(&self) -> [String; 7] {
        let (before, now) = &self.samples;
        [
            self.id.clone(),
            format!("{:.2}%", now.cpu_percent(before)),
            format!("{} / {}", binary(now.memory), binary(now.limit)),
            format!("{:.2}%", now.memory_percent()),
            format!("{} / {}", decimal(now.network.0), decimal(now.network.1)),
            format!("{} / {}", decimal(now.block.0), decimal(now.block.1)),
            now.pids.to_string(),
        ]
    }

    /// For programs: numbers.
    pub fn document(&self) -> Value {
        let (before, now) = &self.samples;
        json!({
            "Id": self.id,
            "CPUPerc": now.cpu_percent(before),
            "MemUsage": now.memory,
            "MemLimit": now.limit,
            "MemPerc": now.memory_percent(),
            "NetInput": now.network.0,
            "NetOutput": now.network.1,
            "BlockInput": now.block.0,
            "BlockOutput": now.block.1,
            "PIDs": now.pids,
        })
    }
}

/// The table.
pub fn stats(rows: &[Row]) -> String {
    let rows: Vec<_> = rows.iter().map(Row::cells).collect();
    table(["CONTAINER ID", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_dockers_form() {
        for (bytes, want) in
            [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (512 << 20, "512MiB"), (25_000_000_000, "23.28GiB")]
        {
            assert_eq!(binary(bytes), want);
        }
        for (bytes, want) in [(0, "0B"), (1840, "1.84kB"), (999, "999B"), (12_345_678, "12.3MB")] {
            assert_eq!(decimal(bytes), want);
        }
    }

    #[test]
    fn traffic_is_that_of_all_devices_but_the_loopback() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes\n    \
                    lo:   100 1 0 0 0 0 0 0   100 1 0 0 0 0 0 0\n  \
                    eth0: 1840 1 0 0 0 0 0 0 70 1 0 0 0 0 0 0\n  eth1: 2 1 0 0 0 0 0 0 3 1 0 0 0 0 0 0\n";
        assert_eq!(traffic(text), (1842, 73));
    }

    #[test]
    fn shares_are_of_time_and_of_the_limit() {
        let before = Sample { at: 1_000, cpu: 500, ..Sample::default() };
        let now = Sample { at: 2_000, cpu: 2_000, memory: 1, limit: 4, ..Sample::default() };
        assert_eq!((now.cpu_percent(&before), now.memory_percent()), (150.0, 25.0));
        assert_eq!((now.cpu_percent(&now), Sample::default().memory_percent()), (0.0, 0.0));
        let lines = stats(&[Row { id: "web".into(), samples: (before, now) }]);
        let want = "web            150.00%   1B / 4B             25.00%    0B / 0B   0B / 0B     0";
        assert_eq!(lines.lines().last(), Some(want));
    }
}
