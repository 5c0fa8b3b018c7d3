//! The commands and their options: everything that is known about them, once.

/// One option.
#[derive(Debug)]
pub(super) struct Flag {
    /// The long name, without dashes.
    pub(super) name: &'static str,
    /// The name of one letter.
    pub(super) short: Option<&'static str>,
    /// What follows it.
    pub(super) takes: Takes,
    /// What it does, for people.
    pub(super) help: &'static str,
    /// Accepted, but not shown.
    pub(super) hidden: bool,
}

/// What follows an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing, or `=true` or `=false`.
    Nothing,
    /// A value; the last one counts.
    Value(Value),
    /// A value each time it is given.
    Values(Value),
}

/// The kind of a value: what the help calls it, what a shell completes, and what is checked while parsing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    /// The path of a file.
    File,
    /// The path of a directory.
    Dir,
    /// A number from 0 to 2³¹-1.
    Number,
    /// A span of time: `5s`, `1m30s`.
    Duration,
    /// One of these.
    Choice(&'static [&'static str]),
    /// Something else, by its name.
    Text(&'static str),
}

impl Value {
    /// Its place holder in help texts.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "dir",
            Self::Number => "n",
            Self::Duration => "time",
            Self::Choice(_) => "value",
            Self::Text(name) => name,
        }
    }
}

impl Flag {
    /// Whether this option is called `name`, long or short.
    pub(super) fn is(&self, name: &str) -> bool {
        self.name == name || self.short == Some(name)
    }
    /// The kind of its value, if it has one.
    pub(super) fn value(&self) -> Option<Value> {
        match self.takes {
            Takes::Nothing => None,
            Takes::Value(value) | Takes::Values(value) => Some(value),
        }
    }
}

/// What may stand beside the options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arguments {
    /// Exactly that many.
    Exactly(usize),
    /// From the first number to the second.
    Between(usize, usize),
    /// The container id, and then words that are not ours: a command, or options of another program.
    IdAndCommand,
}

/// What the first argument is, for completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// There is none, or it can't be known.
    Nothing,
    /// A container that exists.
    Container,
}

/// One command.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its name.
    pub(super) name: &'static str,
    /// A line for the list of commands.
    pub(super) about: &'static str,
    /// The arguments, as the help shows them.
    pub(super) usage: &'static str,
    /// How many arguments there may be.
    pub(super) arguments: Arguments,
    /// What the first one is.
    pub(super) first: First,
    /// Paragraphs, separated by an empty line.
    pub(super) description: &'static str,
    /// Command lines to try, each with a line that says what it does.
    pub(super) examples: &'static [(&'static str, &'static str)],
    /// Its options.
    pub(super) flags: &'static [&'static Flag],
    /// Works, but is not in the list of commands.
    pub(super) hidden: bool,
}

const fn switch(name: &'static str, help: &'static str) -> Flag {
    Flag { name, short: None, takes: Takes::Nothing, help, hidden: false }
}

const fn value(name: &'static str, value: Value, help: &'static str) -> Flag {
    Flag { name, short: None, takes: Takes::Value(value), help, hidden: false }
}

const fn values(name: &'static str, value: Value, help: &'static str) -> Flag {
    Flag { name, short: None, takes: Takes::Values(value), help, hidden: false }
}

impl Flag {
    const fn short(mut self, short: &'static str) -> Self {
        self.short = Some(short);
        self
    }
    const fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }
}

pub(super) static HELP: Flag = switch("help", "show this help").short("h");
pub(super) static VERSION: Flag = switch("version", "print the version").short("v");

pub(super) static ROOT: Flag = value(
    "root",
    Value::Dir,
    "keep the containers' state below this directory, which should be a tmpfs (default: /run/orlop, or \
     $XDG_RUNTIME_DIR/orlop when not root)",
);
pub(super) static LOG: Flag = value("log", Value::File, "append errors to this file (default: stderr)");
pub(super) static LOG_FORMAT: Flag =
    value("log-format", Value::Choice(&["text", "json"]), "how a line of the log looks: text or json (default: text)");
pub(super) static DEBUG: Flag = switch("debug", "log warnings and debugging lines too");
pub(super) static SYSTEMD_CGROUP: Flag =
    switch("systemd-cgroup", "the same as --cgroup-manager systemd; cgroupsPath is then slice:prefix:name");
pub(super) static CGROUP_MANAGER: Flag = value(
    "cgroup-manager",
    Value::Choice(&["cgroupfs", "systemd", "disabled"]),
    "who makes the container's cgroup: cgroupfs, systemd or disabled (default: cgroupfs)",
);
pub(super) static ROOTLESS: Flag = value(
    "rootless",
    Value::Choice(&["auto", "true", "false"]),
    "forgive cgroup permission errors: auto, true or false (default: auto)",
);

/// The options before the command.
pub(super) static GLOBAL: &[&Flag] =
    &[&ROOT, &LOG, &LOG_FORMAT, &DEBUG, &SYSTEMD_CGROUP, &CGROUP_MANAGER, &ROOTLESS, &HELP, &VERSION];

pub(super) static BUNDLE: Flag = value("bundle", Value::Dir, "the bundle (default: the current directory)").short("b");
pub(super) static CONFIG: Flag =
    value("config", Value::File, "the configuration (default: config.json in the bundle)").short("f");
pub(super) static CONSOLE_SOCKET: Flag =
    value("console-socket", Value::File, "send the master end of the process' terminal to this unix socket");
pub(super) static PIDFD_SOCKET: Flag =
    value("pidfd-socket", Value::File, "send a pidfd of the process to this unix socket");
pub(super) static PID_FILE: Flag = value("pid-file", Value::File, "write the process id to this file");
pub(super) static NO_PIVOT: Flag = switch(
    "no-pivot",
    "move the root file system over / instead of pivoting, for a root on the initial ramdisk; it is less safe",
);
pub(super) static NO_NEW_KEYRING: Flag =
    switch("no-new-keyring", "let the container have the caller's session keyring instead of a new one");
pub(super) static PRESERVE_FDS: Flag = value(
    "preserve-fds",
    Value::Number,
    "let the process inherit this many file descriptors after stdio and $LISTEN_FDS (default: 0)",
);
pub(super) static DETACH: Flag = switch("detach", "return as soon as the process runs").short("d");
pub(super) static KEEP: Flag = switch("keep", "do not delete the container when it has ended");
pub(super) static NO_SUBREAPER: Flag = switch("no-subreaper", "do not adopt and reap the container's orphans");
static NO_SUBREAPER_IGNORED: Flag =
    switch("no-subreaper", "accepted and ignored: create never is a subreaper").hidden();

pub(super) static PROCESS: Flag =
    value("process", Value::File, "run the process that this JSON file describes").short("p");
pub(super) static TTY: Flag = switch("tty", "give the process a terminal").short("t");
pub(super) static CWD: Flag = value("cwd", Value::Text("dir"), "the working directory in the container");
pub(super) static ENV: Flag = values("env", Value::Text("name=value"), "add to the environment; repeatable").short("e");
pub(super) static USER: Flag = value("user", Value::Text("uid[:gid]"), "run as this user").short("u");
pub(super) static ADDITIONAL_GIDS: Flag =
    values("additional-gids", Value::Text("gid"), "add a supplementary group; repeatable").short("g");
pub(super) static CAP: Flag =
    values("cap", Value::Text("capability"), "add a capability, such as CAP_SYS_PTRACE; repeatable").short("c");
pub(super) static NO_NEW_PRIVS: Flag = switch("no-new-privs", "let the process gain no privileges by execve");
pub(super) static APPARMOR: Flag =
    value("apparmor", Value::Text("profile"), "confine the process by this AppArmor profile");
pub(super) static PROCESS_LABEL: Flag =
    value("process-label", Value::Text("label"), "give the process this SELinux label");
pub(super) static CGROUP: Flag = values(
    "cgroup",
    Value::Text("[controller:]path"),
    "run in this existing cgroup below the container's; with cgroup v1 once per controller",
);
pub(super) static IGNORE_PAUSED: Flag =
    switch("ignore-paused", "also into a paused container: the process starts when it is resumed");

pub(super) static ALL: Flag = switch("all", "signal every process of the container").short("a");
pub(super) static FORCE: Flag =
    switch("force", "kill the container first if it runs; one that does not exist is no error").short("f");
pub(super) static FORMAT: Flag =
    value("format", Value::Choice(&["table", "json"]), "table or json (default: table)").short("f");
pub(super) static INTERVAL: Flag =
    value("interval", Value::Duration, "how often the statistics are printed, such as 500ms or 1m (default: 5s)");
pub(super) static STATS: Flag = switch("stats", "print the statistics once, and no more");
pub(super) static QUIET: Flag = switch("quiet", "print only the container ids").short("q");
pub(super) static SPEC_ROOTLESS: Flag =
    switch("rootless", "write a configuration for a container of the calling user, without root's rights");

pub(super) static RESOURCES: Flag = value(
    "resources",
    Value::File,
    "read the limits from this JSON file, or from stdin if it is -; the options below don't matter then",
)
.short("r");
pub(super) static MEMORY: Flag = value("memory", Value::Text("size"), "most memory, such as 512m; -1 is unlimited");
pub(super) static MEMORY_RESERVATION: Flag =
    value("memory-reservation", Value::Text("size"), "memory that is reclaimed last");
pub(super) static MEMORY_SWAP: Flag =
    value("memory-swap", Value::Text("size"), "most memory and swap together; -1 is unlimited");
pub(super) static KERNEL_MEMORY: Flag = value("kernel-memory", Value::Text("size"), "accepted and ignored").hidden();
pub(super) static KERNEL_MEMORY_TCP: Flag =
    value("kernel-memory-tcp", Value::Text("size"), "accepted and ignored").hidden();
pub(super) static CPU_SHARE: Flag =
    value("cpu-share", Value::Text("n"), "share of the processors' time, relative to other containers'");
pub(super) static CPU_QUOTA: Flag =
    value("cpu-quota", Value::Text("us"), "most processor time in each period, in microseconds; -1 is unlimited");
pub(super) static CPU_PERIOD: Flag = value("cpu-period", Value::Text("us"), "the period, in microseconds");
pub(super) static CPU_BURST: Flag =
    value("cpu-burst", Value::Text("us"), "unused time that may be kept for a later period, in microseconds");
pub(super) static CPU_IDLE: Flag =
    value("cpu-idle", Value::Text("0|1"), "1: run only when nothing else wants to; 0: as usual");
pub(super) static CPU_RT_RUNTIME: Flag =
    value("cpu-rt-runtime", Value::Text("us"), "most real-time processor time in each period; cgroup v1 only");
pub(super) static CPU_RT_PERIOD: Flag =
    value("cpu-rt-period", Value::Text("us"), "the period of --cpu-rt-runtime; cgroup v1 only");
pub(super) static CPUSET_CPUS: Flag = value("cpuset-cpus", Value::Text("list"), "processors to run on, such as 0-3,7");
pub(super) static CPUSET_MEMS: Flag = value("cpuset-mems", Value::Text("list"), "memory nodes to use, such as 0");
pub(super) static BLKIO_WEIGHT: Flag =
    value("blkio-weight", Value::Text("n"), "share of the disks' time, from 10 to 1000");
pub(super) static PIDS_LIMIT: Flag =
    value("pids-limit", Value::Text("n"), "most processes and threads; -1 is unlimited");
pub(super) static L3_CACHE_SCHEMA: Flag =
    value("l3-cache-schema", Value::Text("schema"), "refused: Intel RDT is not supported").hidden();
pub(super) static MEM_BW_SCHEMA: Flag =
    value("mem-bw-schema", Value::Text("schema"), "refused: Intel RDT is not supported").hidden();

const ID: &str = "<container-id>";

/// The commands, in the order of the help.
pub(super) static COMMANDS: &[Entry] = &[
    Entry {
        name: "create",
        about: "create a container",
        usage: ID,
        arguments: Arguments::Exactly(1),
        first: First::Nothing,
        description: "Makes the container that the bundle describes, up to the point where its process would begin: \
                      \"start\" lets it begin.\n\nA bundle is a directory with a config.json and, as that file \
                      says, a root file system. \"orlop spec\" writes a config.json to begin with. The id is yours to \
                      choose; it must be new on this host.",
        examples: &[("orlop create --bundle /srv/web web1", "create web1 from the bundle /srv/web")],
        flags: &[
            &BUNDLE,
            &CONFIG,
            &CONSOLE_SOCKET,
            &PIDFD_SOCKET,
            &PID_FILE,
            &NO_PIVOT,
            &NO_NEW_KEYRING,
            &PRESERVE_FDS,
            &NO_SUBREAPER_IGNORED,
            &HELP,
        ],
        hidden: false,
    },
    Entry {
        name: "start",
        about: "let the process of a created container begin",
        usage: ID,
        arguments: Arguments::Exactly(1),
        first: First::Container,
        description: "Lets the user's process begin, in a container that \"create\" has made.",
        examples: &[("orlop start web1", "start web1")],
        flags: &[&HELP],
        hidden: false,
    },
    Entry {
        name: "run",
        about: "create a container, start it and wait for it",
        usage: ID,
        arguments: Arguments::Exactly(1),
        first: First::Nothing,
        description: "Creates and starts the container that the bundle describes, waits until it has ended, deletes it \
                      and exits with its exit code, or with 128 and the number of the signal that ended it.\n\nIf the \
                      configuration asks for a terminal, the caller's terminal is connected to it. Signals that orlop \
                      gets are passed on. With --detach orlop returns once the process runs.",
        examples: &[
            ("orlop run shell", "run the bundle in the current directory"),
            ("orlop run --detach --bundle /srv/web --pid-file /run/web1.pid web1", "run /srv/web in the background"),
        ],
        flags: &[
            &BUNDLE,
            &CONFIG,
            &DETACH,
            &KEEP,
            &CONSOLE_SOCKET,
            &PIDFD_SOCKET,
            &PID_FILE,
            &NO_SUBREAPER,
            &NO_PIVOT,
            &NO_NEW_KEYRING,
            &PRESERVE_FDS,
            &HELP,
        ],
        hidden: false,
    },
    Entry {
        name: "exec",
        about: "run another process in a running container",
        usage: "<container-id> <command> [arguments...]  |  --process <file> <container-id>",
        arguments: Arguments::IdAndCommand,
        first: First::Container,
        description: "Runs the command in the container's namespaces and cgroup, with the user, environment and \
                      restrictions of the container's own process where the options say nothing else. Everything \
                      after the command belongs to it.\n\nThe exit code is the command's, or 128 and the number of the \
                      signal that ended it; 255 if orlop could not run it.",
        examples: &[
            ("orlop exec web1 ps -ef", "list the processes that web1 sees"),
            ("orlop exec --tty --user 1000:1000 web1 sh", "a shell in web1 as user 1000"),
        ],
        flags: &[
            &PROCESS,
            &TTY,
            &CWD,
            &ENV,
            &USER,
            &ADDITIONAL_GIDS,
            &CAP,
            &NO_NEW_PRIVS,
            &APPARMOR,
            &PROCESS_LABEL,
            &DETACH,
            &CONSOLE_SOCKET,
            &PIDFD_SOCKET,
            &PID_FILE,
            &PRESERVE_FDS,
            &CGROUP,
            &IGNORE_PAUSED,
            &HELP,
        ],
        hidden: false,
    },
    Entry {
        name: "state",
        about: "print the state of a container as JSON",
        usage: ID,
        arguments: Arguments::Exactly(1),
        first: First::Container,
        description: "Prints the container's state: its status (creating, created, running, paused or stopped), the \
                      process id of its init process, its bundle and annotations.",
        examples: &[("orlop state web1", "the state of web1")],
        flags: &[&HELP],
        hidden: false,
    },
    Entry {
        name: "kill",
        about: "send a signal to a container",
        usage: "<container-id> [signal]",
        arguments: Arguments::Between(1, 2),
        first: First::Container,
        description: "Sends the signal to the container's init process. A signal is a number (9), a name (KILL) or its \
                      full name (SIGKILL); without one it is SIGTERM. With 0 nothing is sent, but an error says if \
                      it could not have been.",
        examples: &[("orlop kill web1", "ask web1 to end"), ("orlop kill --all web1 KILL", "end all of web1 at once")],
        flags: &[&ALL, &HELP],
        hidden: false,
    },
    Entry {
        name: "delete",
        about: "delete a container and what it holds",
        usage: ID,
        arguments: Arguments::Exactly(1),
        first: First::Container,
        description: "Removes a container that has ended or was never started: its cgroup, its state, and the mounts and \
                      processes that are left of it. --force also removes one that runs, or one that was left half made.",
        examples: &[
            ("orlop delete web1", "delete web1"),
            ("orlop delete --force web1", "delete web1, whatever it is doing"),
        ],
        flags: &[&FORCE, &HELP],
        hidden: false,
    },
    Entry {
        name: "pause",
        about: "stop all processes of a container for a while",
        usage: ID,
        arguments: Arguments::Exactly(1),
        first: First::Container,
        description: "Stops every process of a created or running container, where it stands, until \"resume\".",
        examples: &[("orlop pause web1", "stop web1")],
        flags: &[&HELP],
        hidden: false,
    },
    Entry {
        name: "resume",
        about: "let a paused container go on",
        usage: ID,
        arguments: Arguments::Exactly(1),
        first: First::Container,
        description: "Lets the processes go on that \"pause\" has stopped.",
        examples: &[("orlop resume web1", "let web1 go on")],
        flags: &[&HELP],
        hidden: false,
    },
    Entry {
        name: "update",
        about: "change the limits of a container",
        usage: ID,
        arguments: Arguments::Exactly(1),
        first: First::Container,
        description: "Changes limits of a container that is created, running or paused; what is not mentioned stays \
                      as it is, and so does everything if one limit is refused. Device rules can't be changed.\n\nThe file has the form of linux.resources in \
                      config.json.",
        examples: &[
            ("orlop update --memory 512m --memory-swap 1g web1", "half a gigabyte of memory, as much swap"),
            ("echo '{\"pids\":{\"limit\":100}}' | orlop update --resources - web1", "at most a hundred processes"),
        ],
        flags: &[
            &RESOURCES,
            &MEMORY,
            &MEMORY_RESERVATION,
            &MEMORY_SWAP,
            &KERNEL_MEMORY,
            &KERNEL_MEMORY_TCP,
            &CPU_SHARE,
            &CPU_QUOTA,
            &CPU_PERIOD,
            &CPU_BURST,
            &CPU_IDLE,
            &CPU_RT_RUNTIME,
            &CPU_RT_PERIOD,
            &CPUSET_CPUS,
            &CPUSET_MEMS,
            &BLKIO_WEIGHT,
            &PIDS_LIMIT,
            &L3_CACHE_SCHEMA,
            &MEM_BW_SCHEMA,
            &HELP,
        ],
        hidden: false,
    },
    Entry {
        name: "ps",
        about: "list the processes of a container",
        usage: "<container-id> [options of ps...]",
        arguments: Arguments::IdAndCommand,
        first: First::Container,
        description: "Runs the host's ps, with -ef or the options after the container id, and prints the head and the \
                      rows of the container's processes; the column PID must be among them. With --format json: the \
                      process ids alone, as an array.",
        examples: &[
            ("orlop ps web1", "the processes of web1"),
            ("orlop ps web1 -o pid,rss,args", "how much memory each of them has"),
        ],
        flags: &[&FORMAT, &HELP],
        hidden: false,
    },
    Entry {
        name: "events",
        about: "show what a container uses, and when it has too little memory",
        usage: ID,
        arguments: Arguments::Exactly(1),
        first: First::Container,
        description: "Prints a line of JSON with the statistics of the container's cgroups every five seconds, and one of \
                      the type \"oom\" when the kernel has killed a process of the container for want of memory, \
                      until the container ends.",
        examples: &[
            ("orlop events --stats web1 | jq .data.memory.usage", "how much memory web1 uses now"),
            ("orlop events --interval 1s web1", "its statistics every second"),
        ],
        flags: &[&INTERVAL, &STATS, &HELP],
        hidden: false,
    },
    Entry {
        name: "list",
        about: "list the containers",
        usage: "",
        arguments: Arguments::Exactly(0),
        first: First::Nothing,
        description: "Lists the containers below the root directory (see the global option --root).",
        examples: &[("orlop list", "a table"), ("orlop --root /run/other list --format json", "another root, as JSON")],
        flags: &[&FORMAT, &QUIET, &HELP],
        hidden: false,
    },
    Entry {
        name: "spec",
        about: "write a config.json to begin with",
        usage: "",
        arguments: Arguments::Exactly(0),
        first: First::Nothing,
        description: "Writes a config.json for a shell (process.args is [\"sh\"]) in the root file system rootfs beside it. A \
                      config.json that is there already is left alone, and an error.",
        examples: &[
            ("mkdir -p box/rootfs && orlop spec --bundle box", "write box/config.json"),
            ("orlop spec --rootless", "for a container without root's rights"),
        ],
        flags: &[&BUNDLE, &SPEC_ROOTLESS, &HELP],
        hidden: false,
    },
    Entry {
        name: "features",
        about: "print what this runtime can do as JSON",
        usage: "",
        arguments: Arguments::Exactly(0),
        first: First::Nothing,
        description: "Prints the features document of the OCI runtime specification: the mount options, namespaces, \
                      capabilities, seccomp actions and annotations that this runtime knows.",
        examples: &[],
        flags: &[&HELP],
        hidden: false,
    },
    Entry {
        name: "completion",
        about: "print the completion script of a shell",
        usage: "bash|zsh|fish",
        arguments: Arguments::Exactly(1),
        first: First::Nothing,
        description: "Prints a script that teaches the shell to complete orlop's commands, options and container ids.",
        examples: &[(
            "orlop completion bash > /usr/share/bash-completion/completions/orlop",
            "for bash, for all users",
        )],
        flags: &[&HELP],
        hidden: true,
    },
    Entry {
        name: "man",
        about: "write the manual pages",
        usage: "<dir>",
        arguments: Arguments::Exactly(1),
        first: First::Nothing,
        description: "Writes orlop.8 and a page for each command into the directory.",
        examples: &[("orlop man /usr/local/share/man/man8", "install them")],
        flags: &[&HELP],
        hidden: true,
    },
];

/// Commands of runc that this version does not have. Even their `--help` fails: an engine takes its success as the
/// promise that the command works (Podman asks `checkpoint --help`).
pub(super) static UNSUPPORTED: &[&str] = &["checkpoint", "restore"];

/// The command of that name.
pub(super) fn find(name: &str) -> Option<&'static Entry> {
    COMMANDS.iter().find(|entry| entry.name == name)
}
