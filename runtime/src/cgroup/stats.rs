//! What the kernel has counted for a container.
//!
//! Two readers, for v1 and for v2, fill one set of structs. Times are in nanoseconds, sizes in bytes, whatever the file
//! has. What the kernel doesn't count, for want of a controller or in an older version, is 0, empty or `None`; a limit
//! that does not bind is [`UNLIMITED`] where the kernel says `max`.

use orlop_sys::Errno;
use orlop_sys::rustix::fs::{self as rfs, Access, CWD, OFlags};

use super::Cgroup;
use super::live::read_one;
use crate::error::{At, Error, Result};

/// A limit that is none.
pub const UNLIMITED: u64 = u64::MAX;

/// The unit of cpuacct.stat, USER_HZ, is 100 in a second on every architecture that orlop runs on.
const TICK: u64 = 10_000_000;
/// Where the kernel lists the sizes of its huge pages.
const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages";

/// The statistics of one cgroup and those below it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// Whether v2 is all there is. What differs between the versions says so below.
    pub unified: bool,
    /// Processes and threads.
    pub pids: Pids,
    /// Processor time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Block devices.
    pub io: Io,
    /// Huge pages, by their size.
    pub hugetlb: Vec<HugePages>,
    /// RDMA devices.
    pub rdma: Vec<Rdma>,
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pids {
    /// How many there are; without the controller, how many processes.
    pub current: u64,
    /// How many there may be.
    pub limit: u64,
}

/// Processor time, in nanoseconds since the cgroup was made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cpu {
    /// All of it.
    pub usage: u64,
    /// In user mode.
    pub user: u64,
    /// In kernel mode.
    pub system: u64,
    /// By processor; v1 only.
    pub per_cpu: Vec<CpuTime>,
    /// Periods in which there was a quota and something to run.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// How long something waited for the next period.
    pub throttled_time: u64,
    /// Waiting for a processor.
    pub pressure: Option<Pressure>,
}

/// The time of one processor, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// All of it.
    pub usage: u64,
    /// In user mode.
    pub user: u64,
    /// In kernel mode.
    pub system: u64,
}

/// Memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// All memory.
    pub usage: Counter,
    /// v1: memory and swap together. v2: swap alone.
    pub swap: Counter,
    /// The kernel's, on behalf of the cgroup; v1 only.
    pub kernel: Counter,
    /// Buffers of TCP; v1 only.
    pub kernel_tcp: Counter,
    /// memory.stat, whole.
    pub stat: Keyed,
    /// How often limits were met; v2 only.
    pub events: Option<MemoryEvents>,
    /// What happens when there is none left; v1 only.
    pub oom: Option<OomControl>,
    /// Waiting for memory.
    pub pressure: Option<Pressure>,
}

/// Something that is counted against a limit; in bytes, but for the failures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counter {
    /// Now.
    pub usage: u64,
    /// At most, ever.
    pub max_usage: u64,
    /// How much there may be.
    pub limit: u64,
    /// How often more was wanted; in v2 for huge pages only.
    pub failures: u64,
}

/// memory.events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryEvents {
    /// Reclaimed below memory.low.
    pub low: u64,
    /// Throttled above memory.high.
    pub high: u64,
    /// About to pass memory.max.
    pub max: u64,
    /// Found no memory to reclaim.
    pub oom: u64,
    /// Processes killed for that.
    pub oom_kill: u64,
}

/// memory.oom_control.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OomControl {
    /// Processes wait for memory instead of being killed.
    pub kill_disabled: bool,
    /// Some do just now.
    pub under_oom: bool,
    /// Processes killed.
    pub oom_kill: u64,
}

/// How long work waited for a resource (Documentation/accounting/psi.rst).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// Some of it.
    pub some: Stall,
    /// All of it at once.
    pub full: Stall,
}

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Share of the last ten seconds, in percent.
    pub avg10: f64,
    /// Share of the last minute.
    pub avg60: f64,
    /// Share of the last five minutes.
    pub avg300: f64,
    /// Microseconds, ever.
    pub total: u64,
}

/// Block devices.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Io {
    /// By device; v2 only.
    pub devices: Vec<IoDevice>,
    /// By device and operation; v1 only.
    pub blkio: Blkio,
    /// Waiting for a device.
    pub pressure: Option<Pressure>,
}

/// A line of io.stat.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoDevice {
    /// The device's numbers.
    pub major: u64,
    /// See `major`.
    pub minor: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// The tables of v1's blkio controller, those below the cgroup included. Which there are depends on the scheduler of
/// the devices: bfq counts the first two, or all if the kernel was built to debug it; else the throttling layer counts
/// the first two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blkio {
    /// Bytes.
    pub service_bytes: Vec<BlkioEntry>,
    /// Requests.
    pub serviced: Vec<BlkioEntry>,
    /// Requests that wait now.
    pub queued: Vec<BlkioEntry>,
    /// Nanoseconds from dispatch to completion.
    pub service_time: Vec<BlkioEntry>,
    /// Nanoseconds in queues.
    pub wait_time: Vec<BlkioEntry>,
    /// Requests that became part of others.
    pub merged: Vec<BlkioEntry>,
    /// Milliseconds of the device.
    pub time: Vec<BlkioEntry>,
    /// Sectors.
    pub sectors: Vec<BlkioEntry>,
}

/// A line of a blkio table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlkioEntry {
    /// The device's numbers.
    pub major: u64,
    /// See `major`.
    pub minor: u64,
    /// `Read`, `Write`, `Sync`, `Async`, `Discard`, `Total`; empty in tables that tell none apart.
    pub op: String,
    /// How much.
    pub value: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugePages {
    /// As the files have it: `2MB`.
    pub size: String,
    /// Pages in use.
    pub used: Counter,
    /// Pages reserved or in use (`rsvd`), where the kernel counts them (5.7).
    pub reserved: Option<Counter>,
}

/// An RDMA device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rdma {
    /// Its name.
    pub device: String,
    /// Handles and objects in use.
    pub current: RdmaCounts,
    /// How many there may be.
    pub limit: RdmaCounts,
}

/// What is counted of an RDMA device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RdmaCounts {
    /// Handles; `u32::MAX` is unlimited.
    pub handles: u32,
    /// Objects; `u32::MAX` is unlimited.
    pub objects: u32,
}

/// v1's cpuset, of which v2 has but the two lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpuset {
    /// Processors.
    pub cpus: Vec<u16>,
    /// Memory nodes.
    pub mems: Vec<u16>,
    /// No other cpuset has its processors.
    pub cpu_exclusive: u64,
    /// Nor its memory nodes.
    pub mem_exclusive: u64,
    /// The kernel's own allocations stay in its memory nodes too.
    pub mem_hardwall: u64,
    /// Pages follow a change of the nodes.
    pub memory_migrate: u64,
    /// The page cache is spread over the nodes.
    pub memory_spread_page: u64,
    /// Slabs are.
    pub memory_spread_slab: u64,
    /// How often memory was reclaimed, a running average.
    pub memory_pressure: u64,
    /// Whether its processors are balanced.
    pub sched_load_balance: u64,
    /// How far an idle processor looks for work; -1 is the system's default.
    pub sched_relax_domain_level: i64,
}

/// A file of lines `name number`, kept as it is and read on demand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keyed(String);

impl Keyed {
    /// From the text of the file.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The lines, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.lines().filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name, value.trim().parse().ok()?))
        })
    }

    /// The number of that name; 0 if there is none.
    pub fn get(&self, name: &str) -> u64 {
        self.iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| value)
    }
}

impl Cgroup {
    /// What has been counted so far; `None` when the cgroup is gone.
    ///
    /// On a hybrid host everything is v1's, and the pressures, which v1 does not know, are of the v2 directory.
    pub fn stats(&self) -> Result<Option<Stats>> {
        let Some(main) = self.main() else { return Ok(None) };
        match rfs::access(&main, Access::EXISTS) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::NODEV) => return Ok(None),
            Err(errno) => return Err(Error::os(format_args!("look at {main}"), errno)),
        }
        let place = |controller: &str| match self.v1_path(controller) {
            Some(dir) => Files { dir: Some(dir), unified: false },
            None => Files { dir: self.v2_path(), unified: true },
        };
        let v2 = Files { dir: self.v2_path(), unified: true };
        let mut stats = Stats {
            unified: self.is_v2(),
            pids: pids(&place("pids"))?,
            cpu: match self.is_v2() {
                true => cpu_v2(&v2)?,
                false => cpu_v1(&place("cpuacct"), &place("cpu"))?,
            },
            memory: memory(&place("memory"))?,
            io: io(&place("blkio"))?,
            hugetlb: hugetlb(&place("hugetlb"), &huge_page_sizes()?)?,
            rdma: rdma(&place("rdma"))?,
        };
        if stats.pids == Pids::default() {
            stats.pids.current = self.pids()?.len() as u64;
        }
        stats.cpu.pressure = pressure(&v2, "cpu.pressure")?;
        stats.memory.pressure = pressure(&v2, "memory.pressure")?;
        stats.io.pressure = pressure(&v2, "io.pressure")?;
        Ok(Some(stats))
    }

    /// v1's cpuset; all zero on v2.
    pub fn cpuset(&self) -> Result<Cpuset> {
        let Some(dir) = self.v1_path("cpuset") else { return Ok(Cpuset::default()) };
        let files = Files { dir: Some(dir), unified: false };
        let level = files.text("cpuset.sched_relax_domain_level")?.unwrap_or_default();
        Ok(Cpuset {
            cpus: list(&files.text("cpuset.cpus")?.unwrap_or_default()),
            mems: list(&files.text("cpuset.mems")?.unwrap_or_default()),
            cpu_exclusive: files.number("cpuset.cpu_exclusive")?,
            mem_exclusive: files.number("cpuset.mem_exclusive")?,
            mem_hardwall: files.number("cpuset.mem_hardwall")?,
            memory_migrate: files.number("cpuset.memory_migrate")?,
            memory_spread_page: files.number("cpuset.memory_spread_page")?,
            memory_spread_slab: files.number("cpuset.memory_spread_slab")?,
            memory_pressure: files.number("cpuset.memory_pressure")?,
            sched_load_balance: files.number("cpuset.sched_load_balance")?,
            sched_relax_domain_level: level.trim().parse().unwrap_or(0),
        })
    }
}

/// The files of a controller: a v1 directory's, or the v2 directory's. No directory has no files.
struct Files {
    dir: Option<String>,
    unified: bool,
}

impl Files {
    /// A file's text; `None` where there is no such file.
    fn text(&self, file: &str) -> Result<Option<String>> {
        let Some(dir) = &self.dir else { return Ok(None) };
        let path = format!("{dir}/{file}");
        match read_one(CWD, &path) {
            Ok(text) => Ok(Some(text)),
            // ENODEV: the cgroup was removed a moment ago. EOPNOTSUPP: pressure is not measured (`psi=0`).
            Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => Ok(None),
            Err(errno) => Err(Error::os(format_args!("read {path}"), errno)),
        }
    }

    /// A file that is one number; `max` is [`UNLIMITED`].
    fn number(&self, file: &str) -> Result<u64> {
        Ok(self.text(file)?.map_or(0, |text| number(text.trim())))
    }

    fn keyed(&self, file: &str) -> Result<Keyed> {
        Ok(Keyed(self.text(file)?.unwrap_or_default()))
    }

    /// v1's four files of a counter.
    fn counter_v1(&self, stem: &str) -> Result<Counter> {
        Ok(Counter {
            usage: self.number(&format!("{stem}.usage_in_bytes"))?,
            max_usage: self.number(&format!("{stem}.max_usage_in_bytes"))?,
            limit: self.number(&format!("{stem}.limit_in_bytes"))?,
            failures: self.number(&format!("{stem}.failcnt"))?,
        })
    }

    /// v2's three.
    fn counter_v2(&self, stem: &str) -> Result<Counter> {
        Ok(Counter {
            usage: self.number(&format!("{stem}.current"))?,
            max_usage: self.number(&format!("{stem}.peak"))?,
            limit: self.number(&format!("{stem}.max"))?,
            failures: 0,
        })
    }
}

fn number(text: &str) -> u64 {
    if text == "max" { UNLIMITED } else { text.parse().unwrap_or(0) }
}

fn pids(files: &Files) -> Result<Pids> {
    Ok(Pids { current: files.number("pids.current")?, limit: files.number("pids.max")? })
}

fn cpu_v1(cpuacct: &Files, cpu: &Files) -> Result<Cpu> {
    let ticks = cpuacct.keyed("cpuacct.stat")?;
    let throttling = cpu.keyed("cpu.stat")?;
    let usage = cpuacct.text("cpuacct.usage_percpu")?.unwrap_or_default();
    // A head, and for each processor its number and its time in both modes.
    let modes = cpuacct.text("cpuacct.usage_all")?.unwrap_or_default();
    let mut modes = modes.lines().skip(1).map(|line| {
        let mut fields = line.split(' ').skip(1).map(number);
        (fields.next().unwrap_or(0), fields.next().unwrap_or(0))
    });
    let per_cpu = usage.split_whitespace().map(|usage| {
        let (user, system) = modes.next().unwrap_or_default();
        CpuTime { usage: number(usage), user, system }
    });
    Ok(Cpu {
        usage: cpuacct.number("cpuacct.usage")?,
        user: ticks.get("user").saturating_mul(TICK),
        system: ticks.get("system").saturating_mul(TICK),
        per_cpu: per_cpu.collect(),
        periods: throttling.get("nr_periods"),
        throttled_periods: throttling.get("nr_throttled"),
        throttled_time: throttling.get("throttled_time"),
        pressure: None,
    })
}

fn cpu_v2(files: &Files) -> Result<Cpu> {
    let stat = files.keyed("cpu.stat")?;
    let time = |name| stat.get(name).saturating_mul(1000);
    Ok(Cpu {
        usage: time("usage_usec"),
        user: time("user_usec"),
        system: time("system_usec"),
        per_cpu: Vec::new(),
        periods: stat.get("nr_periods"),
        throttled_periods: stat.get("nr_throttled"),
        throttled_time: time("throttled_usec"),
        pressure: None,
    })
}

fn memory(files: &Files) -> Result<Memory> {
    let stat = files.keyed("memory.stat")?;
    if !files.unified {
        let control = files.text("memory.oom_control")?.map(Keyed);
        return Ok(Memory {
            usage: files.counter_v1("memory")?,
            swap: files.counter_v1("memory.memsw")?,
            kernel: files.counter_v1("memory.kmem")?,
            kernel_tcp: files.counter_v1("memory.kmem.tcp")?,
            stat,
            oom: control.map(|control| OomControl {
                kill_disabled: control.get("oom_kill_disable") != 0,
                under_oom: control.get("under_oom") != 0,
                oom_kill: control.get("oom_kill"),
            }),
            ..Memory::default()
        });
    }
    let events = files.text("memory.events")?.map(Keyed);
    Ok(Memory {
        usage: files.counter_v2("memory")?,
        swap: files.counter_v2("memory.swap")?,
        stat,
        events: events.map(|events| MemoryEvents {
            low: events.get("low"),
            high: events.get("high"),
            max: events.get("max"),
            oom: events.get("oom"),
            oom_kill: events.get("oom_kill"),
        }),
        ..Memory::default()
    })
}

fn pressure(files: &Files, file: &str) -> Result<Option<Pressure>> {
    Ok(files.text(file)?.map(|text| parse_pressure(&text)))
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full` (cpu: since 5.13).
fn parse_pressure(text: &str) -> Pressure {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let (name, values) = line.split_once(' ').unwrap_or_default();
        let stall = match name {
            "some" => &mut pressure.some,
            "full" => &mut pressure.full,
            _ => continue,
        };
        for (name, value) in values.split(' ').filter_map(|pair| pair.split_once('=')) {
            let share = || value.parse().ok().filter(|share: &f64| share.is_finite()).unwrap_or(0.0);
            match name {
                "avg10" => stall.avg10 = share(),
                "avg60" => stall.avg60 = share(),
                "avg300" => stall.avg300 = share(),
                "total" => stall.total = number(value),
                _ => {}
            }
        }
    }
    pressure
}

fn io(files: &Files) -> Result<Io> {
    if files.unified {
        let stat = files.text("io.stat")?.unwrap_or_default();
        return Ok(Io { devices: stat.lines().filter_map(io_device).collect(), ..Io::default() });
    }
    // The schedulers' own tables, by the names of bfq and of cfq before it; else what the throttling layer has seen.
    for scheduler in ["blkio.bfq", "blkio"] {
        let table = |name: &str| blkio_table(files, &format!("{scheduler}.{name}_recursive"));
        let serviced = table("io_serviced")?;
        if !serviced.is_empty() {
            let blkio = Blkio {
                service_bytes: table("io_service_bytes")?,
                serviced,
                queued: table("io_queued")?,
                service_time: table("io_service_time")?,
                wait_time: table("io_wait_time")?,
                merged: table("io_merged")?,
                time: table("time")?,
                sectors: table("sectors")?,
            };
            return Ok(Io { blkio, ..Io::default() });
        }
    }
    let table = |name: &str| match blkio_table(files, &format!("blkio.throttle.{name}_recursive"))? {
        none if none.is_empty() => blkio_table(files, &format!("blkio.throttle.{name}")),
        some => Ok(some),
    };
    let blkio =
        Blkio { service_bytes: table("io_service_bytes")?, serviced: table("io_serviced")?, ..Blkio::default() };
    Ok(Io { blkio, ..Io::default() })
}

/// `254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`. A device that was never used may stand there alone.
fn io_device(line: &str) -> Option<IoDevice> {
    let (device, counts) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let mut found = IoDevice { major: major.parse().ok()?, minor: minor.parse().ok()?, ..IoDevice::default() };
    let mut any = false;
    for (name, value) in counts.split(' ').filter_map(|pair| pair.split_once('=')) {
        let count = match name {
            "rbytes" => &mut found.read_bytes,
            "wbytes" => &mut found.written_bytes,
            "rios" => &mut found.reads,
            "wios" => &mut found.writes,
            _ => continue,
        };
        *count = number(value);
        any = true;
    }
    any.then_some(found)
}

fn blkio_table(files: &Files, file: &str) -> Result<Vec<BlkioEntry>> {
    let text = files.text(file)?.unwrap_or_default();
    Ok(text.lines().filter_map(blkio_entry).collect())
}

/// `254:0 Read 8`, or `254:0 8`; the last line is `Total 8`.
fn blkio_entry(line: &str) -> Option<BlkioEntry> {
    let (device, rest) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let (op, value) = rest.split_once(' ').unwrap_or(("", rest));
    Some(BlkioEntry {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        op: op.to_owned(),
        value: value.parse().ok()?,
    })
}

/// The sizes that this kernel has, as the cgroup's files have them.
fn huge_page_sizes() -> Result<Vec<String>> {
    let dir = match rfs::open(HUGE_PAGES, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, rfs::Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        dir => dir.at(|| format!("open {HUGE_PAGES}"))?,
    };
    let mut sizes = Vec::new();
    for entry in rfs::Dir::new(dir).at(|| format!("read {HUGE_PAGES}"))? {
        let entry = entry.at(|| format!("read {HUGE_PAGES}"))?;
        sizes.extend(entry.file_name().to_str().ok().and_then(huge_page_size));
    }
    sizes.sort();
    Ok(sizes)
}

/// `hugepages-2048kB` is `2MB`.
fn huge_page_size(name: &str) -> Option<String> {
    let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kib {
        1_048_576.. => format!("{}GB", kib >> 20),
        1024.. => format!("{}MB", kib >> 10),
        _ => format!("{kib}KB"),
    })
}

fn hugetlb(files: &Files, sizes: &[String]) -> Result<Vec<HugePages>> {
    let mut found = Vec::new();
    for size in sizes {
        let stem = format!("hugetlb.{size}");
        let usage = if files.unified { "current" } else { "usage_in_bytes" };
        if files.text(&format!("{stem}.{usage}"))?.is_none() {
            continue;
        }
        let reserves = files.text(&format!("{stem}.rsvd.{usage}"))?.is_some();
        let counter = |stem: &str| if files.unified { files.counter_v2(stem) } else { files.counter_v1(stem) };
        let mut used = counter(&stem)?;
        if files.unified {
            used.failures = files.keyed(&format!("{stem}.events"))?.get("max");
        }
        let reserved = if reserves { Some(counter(&format!("{stem}.rsvd"))?) } else { None };
        found.push(HugePages { size: size.clone(), used, reserved });
    }
    Ok(found)
}

fn rdma(files: &Files) -> Result<Vec<Rdma>> {
    let mut devices: Vec<Rdma> = Vec::new();
    let current = files.text("rdma.current")?.unwrap_or_default();
    let limits = files.text("rdma.max")?.unwrap_or_default();
    for (device, current) in current.lines().filter_map(rdma_counts) {
        let limit = limits.lines().filter_map(rdma_counts).find(|(name, _)| *name == device);
        let limit = limit.map(|(_, counts)| counts).unwrap_or_default();
        devices.push(Rdma { device: device.to_owned(), current, limit });
    }
    Ok(devices)
}

/// `mlx4_0 hca_handle=2 hca_object=max`.
fn rdma_counts(line: &str) -> Option<(&str, RdmaCounts)> {
    let (device, counts) = line.split_once(' ')?;
    let mut found = RdmaCounts::default();
    for (name, value) in counts.split(' ').filter_map(|pair| pair.split_once('=')) {
        let value = if value == "max" { u32::MAX } else { value.parse().unwrap_or(0) };
        match name {
            "hca_handle" => found.handles = value,
            "hca_object" => found.objects = value,
            _ => {}
        }
    }
    Some((device, found))
}

/// `0-2,7`; at most the 65,536 numbers that fit.
fn list(text: &str) -> Vec<u16> {
    let mut numbers = Vec::new();
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
            numbers.extend(first..=last);
        }
    }
    numbers
}

#[cfg(test)]
mod tests;
