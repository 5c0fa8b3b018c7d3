//! The messages of containerd's task service, versions 2 and 3 (which differ in their package's name only), of its events
//! and of what `start` is told. Only what the shim reads or writes of them is here; unknown fields are passed over.

use crate::wire::{Fields, Message, Result};

/// Declares messages that are read: a struct of borrowed fields, and how each number is read.
macro_rules! read {
    ($( $(#[$doc:meta])* $name:ident { $( $(#[$field_doc:meta])* $number:literal $field:ident: $kind:ident, )* } )*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $name<'a> {
            $( $(#[$field_doc])* pub $field: read!(@type $kind), )*
            /// Borrowed from the frame.
            _from: std::marker::PhantomData<&'a [u8]>,
        }

        impl<'a> $name<'a> {
            /// Reads the message.
            pub fn read(message: &'a [u8]) -> Result<Self> {
                let mut read = Self::default();
                for field in Fields::of(message) {
                    match field? {
                        $( ($number, value) => read!(@set $kind, read.$field, value), )*
                        _ => {}
                    }
                }
                Ok(read)
            }
        }
    )* };
    (@type text) => { &'a str };
    (@type texts) => { Vec<&'a str> };
    (@type number) => { u32 };
    (@type flag) => { bool };
    (@type any) => { Option<Any<'a>> };
    (@type anys) => { Vec<Any<'a>> };
    (@type bytes) => { &'a [u8] };
    (@type list) => { Vec<&'a [u8]> };
    (@type mounts) => { Vec<Mount<'a>> };
    (@set text, $place:expr, $value:ident) => { $place = $value.text()? };
    (@set texts, $place:expr, $value:ident) => { $place.push($value.text()?) };
    (@set number, $place:expr, $value:ident) => { $place = $value.small()? };
    (@set flag, $place:expr, $value:ident) => { $place = $value.flag()? };
    (@set bytes, $place:expr, $value:ident) => { $place = $value.bytes()? };
    (@set list, $place:expr, $value:ident) => { $place.push($value.bytes()?) };
    (@set any, $place:expr, $value:ident) => { $place = Some(Any::read($value.bytes()?)?) };
    (@set anys, $place:expr, $value:ident) => {
        // Each is an object with the Any as its first field.
        for field in Fields::of($value.bytes()?) {
            if let (1, any) = field? {
                $place.push(Any::read(any.bytes()?)?);
            }
        }
    };
    (@set mounts, $place:expr, $value:ident) => { $place.push(Mount::read($value.bytes()?)?) };
}

read! {
    /// `google.protobuf.Any`.
    Any {
        /// What the value is; the part before the last slash is of no importance.
        1 type_url: text,
        /// A message, or JSON.
        2 value: bytes,
    }

    /// `containerd.types.Mount`.
    Mount {
        /// The file system.
        1 kind: text,
        /// What is mounted.
        2 source: text,
        /// Where below the root file system, if not on it.
        3 target: text,
        /// Options as mount(8) has them.
        4 options: texts,
    }

    /// `CreateTaskRequest`.
    Create {
        /// The container.
        1 id: text,
        /// Its bundle's absolute path.
        2 bundle: text,
        /// What to mount on the bundle's `rootfs`; nothing if the caller has done so.
        3 rootfs: mounts,
        /// A terminal is wanted.
        4 terminal: flag,
        /// Where input comes from: a FIFO's path or a URI; empty for none.
        5 stdin: text,
        /// Where output goes.
        6 stdout: text,
        /// Where errors go; unused with a terminal.
        7 stderr: text,
        /// A checkpoint to restore.
        8 checkpoint: text,
        /// The one that it builds on.
        9 parent_checkpoint: text,
        /// The runtime's options.
        10 options: any,
    }

    /// The requests that name a container, or one of its processes.
    Process {
        /// The container.
        1 id: text,
        /// The process that was added by `Exec`; empty for the first.
        2 exec_id: text,
    }

    /// `ShutdownRequest`. Its other field says "at once", which makes no difference.
    Shutdown {
        /// The container.
        1 id: text,
    }

    /// `ExecProcessRequest`.
    Exec {
        /// The container.
        1 id: text,
        /// What the process will be called.
        2 exec_id: text,
        /// A terminal is wanted.
        3 terminal: flag,
        /// As in [`Create`].
        4 stdin: text,
        /// As in [`Create`].
        5 stdout: text,
        /// As in [`Create`].
        6 stderr: text,
        /// The process in JSON, as in config.json.
        7 spec: any,
    }

    /// `ResizePtyRequest`.
    Resize {
        /// The container.
        1 id: text,
        /// The process.
        2 exec_id: text,
        /// Columns.
        3 width: number,
        /// Rows.
        4 height: number,
    }

    /// `KillRequest`.
    Kill {
        /// The container.
        1 id: text,
        /// The process.
        2 exec_id: text,
        /// The signal's number.
        3 signal: number,
        /// To all processes of the container.
        4 all: flag,
    }

    /// `CloseIORequest`.
    CloseIo {
        /// The container.
        1 id: text,
        /// The process.
        2 exec_id: text,
        /// Its input.
        3 stdin: flag,
    }

    /// `UpdateTaskRequest`.
    Update {
        /// The container.
        1 id: text,
        /// The resources in JSON, as in config.json.
        2 resources: any,
    }

    /// `containerd.runc.v1.Options`.
    RuncOptions {
        /// Don't pivot_root.
        1 no_pivot_root: flag,
        /// Don't make a session keyring.
        2 no_new_keyring: flag,
        /// A cgroup for the shim itself.
        3 shim_cgroup: text,
        /// The owner of the pipes of the container's streams.
        4 io_uid: number,
        /// Their group.
        5 io_gid: number,
        /// Another runtime than this one.
        6 binary_name: text,
        /// The directory of the runtime's state.
        7 root: text,
        /// The systemd cgroup driver.
        9 systemd_cgroup: flag,
    }

    /// `runtimeoptions.v1.Options`.
    GenericOptions {
        /// What the options are of.
        1 type_url: text,
        /// A file with them.
        2 config_path: text,
        /// Themselves, in TOML.
        3 config_body: bytes,
    }

    /// `CreateSandboxRequest`.
    CreateSandbox {
        /// The pod.
        1 sandbox_id: text,
        /// Its bundle's absolute path. containerd makes it, and nothing in it.
        2 bundle_path: text,
        /// A root file system for the pod; containerd has none to give.
        3 rootfs: mounts,
        /// The pod in Kubernetes' words: [`PodConfig`].
        4 options: any,
        /// Its network namespace; empty for the host's.
        5 netns_path: text,
    }

    /// The requests of the sandbox service that name a pod, and maybe more.
    Sandbox {
        /// The pod.
        1 sandbox_id: text,
    }

    /// `PodSandboxConfig` of Kubernetes' Container Runtime Interface.
    PodConfig {
        /// [`PodMetadata`].
        1 metadata: bytes,
        /// The host name; empty for the host's.
        2 hostname: text,
        /// [`PodDns`].
        4 dns_config: bytes,
        /// [`PodLinux`].
        8 linux: bytes,
    }

    /// `PodSandboxMetadata`.
    PodMetadata {
        /// Its name, as the user knows it.
        1 name: text,
        /// Unlike any other's.
        2 uid: text,
        /// Kubernetes' namespace.
        3 namespace: text,
    }

    /// `DNSConfig`.
    PodDns {
        /// Addresses.
        1 servers: texts,
        /// Domains.
        2 searches: texts,
        /// As resolv.conf has them.
        3 options: texts,
    }

    /// `LinuxPodSandboxConfig`.
    PodLinux {
        /// The cgroup above all cgroups of the pod.
        1 cgroup_parent: text,
        /// [`PodSecurity`].
        2 security_context: bytes,
        /// Kernel parameters: [`Entry`].
        3 sysctls: list,
    }

    /// `LinuxSandboxSecurityContext`.
    PodSecurity {
        /// [`PodNamespaces`].
        1 namespace_options: bytes,
    }

    /// `NamespaceOption`. 0 is the pod's namespace, 1 the container's, 2 the host's.
    PodNamespaces {
        /// Network, and host name.
        1 network: number,
        /// Processes.
        2 pid: number,
        /// Shared memory, queues and semaphores.
        3 ipc: number,
        /// [`PodUsers`].
        5 userns_options: bytes,
    }

    /// `UserNamespace`.
    PodUsers {
        /// 0 for one of its own, 2 for the host's.
        1 mode: number,
        /// [`IdRange`].
        2 uids: list,
        /// [`IdRange`].
        3 gids: list,
    }

    /// `IDMapping`.
    IdRange {
        /// The first id outside.
        1 host_id: number,
        /// The first id inside.
        2 container_id: number,
        /// How many.
        3 length: number,
    }

    /// An entry of a map from text to text.
    Entry {
        /// The key.
        1 key: text,
        /// The value.
        2 value: text,
    }

    /// `BootstrapParams`: what containerd 2.3 and later tell `start`.
    Bootstrap {
        /// As `-id`.
        1 instance_id: text,
        /// As `-namespace`.
        2 namespace: text,
        /// 0 is info; -4 debug, -8 trace, in 64-bit two's complement.
        3 log_level: number,
        /// containerd's version.
        4 containerd_version: text,
        /// Where events go.
        5 ttrpc_address: text,
        /// Where containerd is.
        6 grpc_address: text,
        /// Its program.
        7 binary: text,
        /// The runtime's options, among others.
        8 extensions: anys,
        /// Where sockets may be made.
        9 socket_dir: text,
    }
}

/// What a process is doing (`containerd.v1.types.Status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskStatus {
    /// Made, not started.
    Created = 1,
    /// Started.
    Running = 2,
    /// At its end.
    Stopped = 3,
    /// Frozen.
    Paused = 4,
    /// Being frozen.
    Pausing = 5,
}

/// A moment, since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Time {
    /// Seconds.
    pub seconds: u64,
    /// Nanoseconds below a second.
    pub nanos: u32,
}

impl Time {
    /// This moment.
    pub fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { seconds: since.as_secs(), nanos: since.subsec_nanos() }
    }

    /// `google.protobuf.Timestamp`.
    pub fn message(self) -> Message {
        Message::new().number(1, self.seconds).number(2, self.nanos)
    }
}

/// An `Any` that is written.
pub fn any(type_url: &str, value: &[u8]) -> Message {
    Message::new().text(1, type_url).bytes(2, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_create_request_is_read() {
        let mount = Message::new().text(1, "overlay").text(2, "overlay").text(4, "ro").text(4, "lowerdir=/a");
        let options = Message::new().flag(1, true).text(7, "/run/x");
        let any = any("containerd.runc.v1.Options", &options.0);
        let request = Message::new().text(1, "c1").text(2, "/b").message(3, &mount).flag(4, true).text(6, "/out");
        let request = request.message(10, &any).number(99, 1u32);
        let read = Create::read(&request.0).unwrap();
        assert_eq!((read.id, read.bundle, read.terminal, read.stdout), ("c1", "/b", true, "/out"));
        assert_eq!(read.rootfs[0].options, ["ro", "lowerdir=/a"]);
        let options = read.options.unwrap();
        assert_eq!(options.type_url, "containerd.runc.v1.Options");
        let options = RuncOptions::read(options.value).unwrap();
        assert!(options.no_pivot_root && options.root == "/run/x");
    }

    #[test]
    fn what_is_not_utf_8_is_refused() {
        assert!(Process::read(b"\x0a\x01\xff").is_err());
    }
}
