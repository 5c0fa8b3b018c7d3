//! The flags that say how a container is run: `docker run`'s names and forms.

use std::path::PathBuf;

use crate::config::devices::DeviceFlag;
use crate::config::mounts::{MountFlag, TmpfsFlag, VolumeFlag};
use crate::config::namespaces::{IdMap, Join, Userns};
use crate::config::process::{EnvFlag, Pair};
use crate::config::resources::{Bytes, Cpus, DeviceRule, IdList, SwapLimit, Ulimit};
use crate::config::security::SecurityFlag;

/// How a container is run, where the image's configuration does not say it or shall not have the say.
///
/// A value that cannot be meant is refused while the command line is read, with the flag's name and the value.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
#[command(next_help_heading = "How the container is run")]
pub struct Options {
    /// Set a variable; without a value, hand on the caller's own
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<EnvFlag>,
    /// Read variables from a file, one NAME[=VALUE] a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Run this program in place of the image's entrypoint, without the image's command; empty: no entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Run as this user, and group, by name (in the image's own files) or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Add a group, by name or number
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// Start in this directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Give the process a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Accepted for `-it`: the process always has the standard input that the runtime is given
    #[arg(short, long)]
    pub interactive: bool,
    /// The signal that stops the container politely
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,

    /// Mount a path of the host, or, with a path in the container alone, a new volume filled from the image
    #[arg(short, long, value_name = "[HOST:]PATH[:OPTIONS]")]
    pub volume: Vec<VolumeFlag>,
    /// Mount: type=bind|tmpfs|volume,src=,dst=,readonly,bind-propagation=,tmpfs-size=,tmpfs-mode=
    #[arg(long, value_name = "KEY=VALUE,...")]
    pub mount: Vec<MountFlag>,
    /// Mount an empty tmpfs
    #[arg(long, value_name = "PATH[:OPTIONS]")]
    pub tmpfs: Vec<TmpfsFlag>,
    /// Size of /dev/shm (64m)
    #[arg(long, value_name = "BYTES")]
    pub shm_size: Option<Bytes>,
    /// Make the root read-only
    #[arg(long)]
    pub read_only: bool,
    /// Give the container a device of the host
    #[arg(long, value_name = "HOST[:PATH][:rwm]")]
    pub device: Vec<DeviceFlag>,
    /// Allow a kind of device: `c 1:3 rwm`
    #[arg(long, value_name = "RULE")]
    pub device_cgroup_rule: Vec<DeviceRule>,

    /// Limit of memory
    #[arg(short, long, value_name = "BYTES")]
    pub memory: Option<Bytes>,
    /// Limit of memory and swap together; -1: no limit (twice --memory)
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<SwapLimit>,
    /// Memory that is left to the container when the host runs short
    #[arg(long, value_name = "BYTES")]
    pub memory_reservation: Option<Bytes>,
    /// Limit of processor time, in processors: 1.5
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["cpu_quota", "cpu_period"])]
    pub cpus: Option<Cpus>,
    /// Share of processor time beside others (1024)
    #[arg(short, long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(2..=262_144))]
    pub cpu_shares: Option<u64>,
    /// Microseconds of processor time in a period; -1: no limit
    #[arg(long, value_name = "US", allow_hyphen_values = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub cpu_quota: Option<i64>,
    /// Length of a period in microseconds
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(u64).range(1_000..=1_000_000))]
    pub cpu_period: Option<u64>,
    /// Processors to run on: 0-3,7
    #[arg(long, visible_alias = "cpuset", value_name = "LIST")]
    pub cpuset_cpus: Option<IdList>,
    /// Memory nodes to use: 0-1
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<IdList>,
    /// Limit of processes; 0 or -1: no limit
    #[arg(long, visible_alias = "pids", value_name = "NUMBER", allow_hyphen_values = true,
          value_parser = clap::value_parser!(i64).range(-1..))]
    pub pids_limit: Option<i64>,
    /// Share of block input and output (10 to 1000)
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(10..=1000))]
    pub blkio_weight: Option<u16>,
    /// A limit of setrlimit(2): nofile=1024:4096
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<Ulimit>,
    /// How gladly the kernel kills it when memory is short (-1000 to 1000)
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true,
          value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    pub oom_score_adj: Option<i32>,
    /// Where its cgroup is
    #[arg(long, value_name = "PATH", conflicts_with = "cgroup_parent")]
    pub cgroups_path: Option<String>,
    /// The cgroup in which its cgroup is made, with the bundle's name
    #[arg(long, value_name = "PATH")]
    pub cgroup_parent: Option<String>,

    /// Add a capability, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// Take a capability away, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// All capabilities and devices, no filter, no masked or read-only paths
    #[arg(long)]
    pub privileged: bool,
    /// seccomp=FILE|builtin|unconfined, no-new-privileges, apparmor=PROFILE|unconfined, label=disable, systempaths=unconfined
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<SecurityFlag>,
    /// A kernel parameter of the container's own namespaces
    #[arg(long, value_name = "NAME=VALUE")]
    pub sysctl: Vec<Pair>,

    /// Name of the machine as the container sees it
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// NIS domain name
    #[arg(long, value_name = "NAME")]
    pub domainname: Option<String>,
    /// none: loopback alone; host: the host's; or the path of a network namespace
    #[arg(long, visible_alias = "net", value_name = "none|host|PATH", default_value = "none")]
    pub network: Join,
    /// private, host, or the path of a PID namespace
    #[arg(long, value_name = "private|host|PATH", default_value = "private")]
    pub pid: Join,
    /// private, host, or the path of an IPC namespace
    #[arg(long, value_name = "private|host|PATH", default_value = "private")]
    pub ipc: Join,
    /// private, host, or the path of a UTS namespace
    #[arg(long, value_name = "private|host|PATH", default_value = "private")]
    pub uts: Join,
    /// private, host, or the path of a cgroup namespace (private with cgroup v2 alone, else host)
    #[arg(long, value_name = "private|host|PATH")]
    pub cgroupns: Option<Join>,
    /// host, or map (with --uid-map and --gid-map)
    #[arg(long, value_name = "host|map")]
    pub userns: Option<Userns>,
    /// Users of the container: its first, the host's first, how many
    #[arg(long, value_name = "CONTAINER:HOST:SIZE")]
    pub uid_map: Vec<IdMap>,
    /// Groups of the container, in the same form (as --uid-map)
    #[arg(long, value_name = "CONTAINER:HOST:SIZE")]
    pub gid_map: Vec<IdMap>,
    /// A line of /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<super::files::HostFlag>,
    /// A name server, in place of the host's
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<std::net::IpAddr>,
    /// A domain to look names up in
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// An option of resolv.conf(5)
    #[arg(long, value_name = "OPTION")]
    pub dns_option: Vec<String>,

    /// An annotation of the bundle, and nothing but that
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub label: Vec<Pair>,
    /// An annotation of the bundle, also one that the runtime acts on
    #[arg(long, value_name = "NAME=VALUE")]
    pub annotation: Vec<Pair>,
    /// Let labels of the image with this name, or this prefix if it ends in *, become annotations too
    #[arg(long, value_name = "NAME")]
    pub allow_label: Vec<String>,
    /// Remove the bundle when the container is deleted
    #[arg(long)]
    pub rm_on_delete: bool,

    /// What is run in place of the image's command; after `--` if its first word begins with a dash
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}
