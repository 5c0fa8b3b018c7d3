//! A pod, as Kubernetes describes it to an engine that leaves pods to the shim: a process that does nothing but hold the
//! pod's namespaces, and the files that its containers share. Neither needs an image.

use std::path::Path;

use orlop::config::{self, Spec};
use orlop::features;
use orlop::store::ContainerId;
use orlop_sys::process::user_namespace_of;
use orlop_sys::rustix::event::{PollFd, PollFlags, poll};
use orlop_sys::rustix::fs::{CWD, Mode, OFlags, chmod, fstat, mkdirat, openat};
use orlop_sys::rustix::process::{WaitId, WaitIdOptions, waitid};
use orlop_sys::signalfd::Signals;
use orlop_sys::{AsRawFd, Errno, OwnedFd};
use serde_json::{Value, json};

use crate::message::{
    CreateSandbox, Entry, IdRange, PodConfig, PodDns, PodLinux, PodMetadata, PodNamespaces, PodSecurity, PodUsers, Time,
};
use crate::mounts::{Mount, mount_all, unmount_all};
use crate::start::{read_file, write_file};
use crate::ttrpc::{Code, Status};
use crate::wire;

/// The program of the pod's process, which is this one: by its name it knows what to do.
pub const PROGRAM: &str = "/pause";

/// Its root file system, in the pod's bundle. Not `rootfs`: containerd wants that to be empty in the end.
const ROOT: &str = "root";

/// Who it runs as: nobody who is anybody in an image.
const NOBODY: u32 = 65535;

/// `NamespaceMode`: the host's.
const NODE: u32 = 2;

/// What each container of the pod is given, unless it has something there: the name in the pod's bundle, and where.
const FILES: [(&str, &str); 3] =
    [("hostname", "/etc/hostname"), ("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf")];

/// Where shared memory is.
const SHM: &str = "/dev/shm";

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

/// See the [module](self).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its id, which is its process's too.
    pub id: String,
    /// When its process was started.
    pub started: Option<Time>,
    bundle: String,
    names: [String; 3],
    hostname: String,
    /// `None` for the host's network; an empty path for one that nobody has made yet.
    network: Option<String>,
    has_pids: bool,
    has_ipc: bool,
    /// Of users and of groups: inside, outside, length.
    users: Option<[Vec<[u32; 3]>; 2]>,
    sysctls: Vec<(String, String)>,
    cgroup_parent: String,
    /// Lines of resolv.conf; empty for the host's.
    resolv_conf: String,
}

fn failed(what: impl std::fmt::Display) -> impl Fn(Errno) -> Status {
    move |errno| Status::new(Code::Unknown, format!("{what}: {}", orlop::error::describe(errno)))
}

impl Pod {
    /// Reads what an engine wants.
    ///
    /// # Errors
    /// A message that can't be read, or an id or a path that can't be.
    pub fn of(request: &CreateSandbox<'_>) -> Result<Self, Status> {
        ContainerId::parse(request.sandbox_id).map_err(|e| crate::job::status(&e))?;
        if !request.bundle_path.starts_with('/') {
            return Err(Status::new(Code::InvalidArgument, "bundle_path: not an absolute path"));
        }
        if !request.rootfs.is_empty() {
            return Err(Status::new(Code::Unimplemented, "rootfs: a pod has none"));
        }
        let config = PodConfig::read(request.options.as_ref().map(|any| any.value).unwrap_or_default())?;
        let metadata = PodMetadata::read(config.metadata)?;
        let linux = PodLinux::read(config.linux)?;
        let namespaces = PodNamespaces::read(PodSecurity::read(linux.security_context)?.namespace_options)?;
        let users = PodUsers::read(namespaces.userns_options)?;
        let has_users = users.mode != NODE && !users.uids.is_empty();
        let sysctl = |entry: &&[u8]| Entry::read(entry).map(|e| (e.key.to_owned(), e.value.to_owned()));
        Ok(Self {
            id: request.sandbox_id.to_owned(),
            started: None,
            bundle: request.bundle_path.to_owned(),
            names: [metadata.name, metadata.namespace, metadata.uid].map(str::to_owned),
            hostname: config.hostname.to_owned(),
            network: (namespaces.network != NODE).then(|| request.netns_path.to_owned()),
            has_pids: namespaces.pid != NODE,
            has_ipc: namespaces.ipc != NODE,
            users: if has_users { Some([ranges(&users.uids)?, ranges(&users.gids)?]) } else { None },
            sysctls: linux.sysctls.iter().map(sysctl).collect::<wire::Result<_>>()?,
            cgroup_parent: linux.cgroup_parent.to_owned(),
            resolv_conf: resolv_conf(&PodDns::read(config.dns_config)?),
        })
    }

    /// config.json of the pod's process, which is executed from `program`. `users` is the path of a user namespace, if it
    /// is there already.
    fn document(&self, namespace: &str, program: &str, users: Option<&str>) -> Value {
        let mut namespaces = vec![json!({"type": "mount"})];
        if let Some(path) = &self.network {
            namespaces.push(json!({"type": "uts"}));
            namespaces.push(json!({"type": "network", "path": path}));
        }
        for (kind, wanted) in [("pid", self.has_pids), ("ipc", self.has_ipc)] {
            if wanted {
                namespaces.push(json!({"type": kind}));
            }
        }
        if self.users.is_some() {
            namespaces.push(json!({"type": "user", "path": users.unwrap_or_default()}));
        }
        let sysctls: serde_json::Map<_, _> = self.sysctls.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        let [users, groups] = self.users.clone().unwrap_or_default().map(|ranges| {
            let range =
                |[inside, outside, length]: [u32; 3]| json!({"containerID": inside, "hostID": outside, "size": length});
            ranges.into_iter().map(range).collect::<Vec<_>>()
        });
        let [name, kubernetes_namespace, uid] = &self.names;
        json!({
            "ociVersion": features::SPEC_VERSION,
            "process": {
                "args": [PROGRAM], "cwd": "/", "env": [], "user": {"uid": NOBODY, "gid": NOBODY},
                "noNewPrivileges": true, "capabilities": {},
            },
            "root": {"path": ROOT, "readonly": true},
            "hostname": if self.network.is_some() { self.hostname.as_str() } else { "" },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "noexec", "mode=755", "size=64k"]},
                // Else a container that sees its process could write to our own program (CVE-2019-5736).
                {"destination": PROGRAM, "type": "bind", "source": program, "options": ["bind", "ro", "nosuid", "nodev"]},
            ],
            "annotations": {
                "io.kubernetes.cri.container-type": "sandbox",
                "io.kubernetes.cri.sandbox-id": self.id,
                "io.kubernetes.cri.sandbox-name": name,
                "io.kubernetes.cri.sandbox-namespace": kubernetes_namespace,
                "io.kubernetes.cri.sandbox-uid": uid,
            },
            "linux": {
                "namespaces": namespaces,
                "uidMappings": users,
                "gidMappings": groups,
                "sysctl": sysctls,
                "cgroupsPath": self.cgroup(namespace),
                "resources": {"cpu": {"shares": 2}},
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        })
    }

    /// As containerd names the cgroups of its containers.
    fn cgroup(&self, namespace: &str) -> String {
        let parent = self.cgroup_parent.trim_end_matches('/');
        let last = parent.rsplit('/').next().unwrap_or_default();
        match parent {
            "" => format!("/{namespace}/{}", self.id),
            _ if last.ends_with(".slice") => format!("{last}:cri-containerd:{}", self.id),
            _ => format!("{parent}/{}", self.id),
        }
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.bundle)
    }

    /// The user namespace to which the pod's network belongs, if it is not ours: only its own users have power over it,
    /// and see it in /sys. containerd makes both before it asks for the pod.
    fn users_of_the_network(&self) -> Result<Option<OwnedFd>, Status> {
        let Some(path) = self.network.as_deref().filter(|path| self.users.is_some() && !path.is_empty()) else {
            return Ok(None);
        };
        let open = |path| openat(CWD, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        let owner = || {
            let (owner, ours) = (user_namespace_of(open(path)?)?, open("/proc/self/ns/user")?);
            Ok((fstat(&owner)?.st_ino != fstat(&ours)?.st_ino).then_some(owner))
        };
        owner().map_err(failed(path))
    }

    /// Puts everything into the bundle from which the pod's process is created, and what containers will share. To be
    /// undone by [`Pod::dissolve`]. What has to stay open until it is created.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn prepare(&self, namespace: &str, program: &str) -> Result<Option<OwnedFd>, Status> {
        if !program.starts_with('/') {
            return Err(Status::new(Code::FailedPrecondition, format!("{program:?}: not an absolute path")));
        }
        let root = self.path(ROOT);
        for path in [root.clone(), format!("{root}/proc"), format!("{root}/dev"), self.path("shm")] {
            make_directory(&path)?;
        }
        // A mount's place, where those can't make it who may not write here.
        let place = format!("{root}{PROGRAM}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(CWD, place.as_str(), flags, Mode::from_raw_mode(0o644)).map_err(failed(&place))?;

        let host = |path| read_file(path).unwrap_or_default();
        let hostname = match &self.network {
            Some(_) if !self.hostname.is_empty() => format!("{}\n", self.hostname).into_bytes(),
            _ => host("/proc/sys/kernel/hostname"),
        };
        let resolv_conf = match self.resolv_conf.as_str() {
            "" => host("/etc/resolv.conf"),
            lines => lines.as_bytes().to_vec(),
        };
        let users = self.users_of_the_network()?;
        let path = users.as_ref().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let document = self.document(namespace, program, path.as_deref()).to_string().into_bytes();
        let hosts = host("/etc/hosts");
        for (name, content) in
            [("hostname", &hostname), ("hosts", &hosts), ("resolv.conf", &resolv_conf), ("config.json", &document)]
        {
            let path = self.path(name);
            write_file(&path, content).map_err(failed(&path))?;
            chmod(path.as_str(), Mode::from_raw_mode(0o644)).map_err(failed(&path))?;
        }
        let options = ["nosuid", "nodev", "noexec", "mode=1777", "size=65536k"];
        let shm = Mount {
            kind: "tmpfs".to_owned(),
            source: "shm".to_owned(),
            target: String::new(),
            options: options.map(str::to_owned).to_vec(),
        };
        mount_all(&[shm], &self.path("shm"))?;
        Ok(users)
    }

    /// Takes away what outlives processes.
    pub fn dissolve(&self) {
        unmount_all(&self.path("shm"));
    }

    /// Adds what the pod's containers share to the config.json of one of them.
    ///
    /// # Errors
    /// A file that can't be read or written, or is no configuration.
    pub fn share(&self, bundle: &str) -> Result<(), Status> {
        let path = format!("{bundle}/config.json");
        let text = read_file(&path).map_err(failed(&path))?;
        let refused = |e: &dyn std::fmt::Display| Status::new(Code::Unknown, format!("OCI runtime create failed: {e}"));
        // With the checks for what a rewritten one would hide.
        config::parse::<Spec>("config.json", &text).map_err(|e| refused(&e))?;
        let mut config: Value = serde_json::from_slice(&text).map_err(|e| refused(&e))?;
        self.add_shared(&mut config);
        write_file(&path, config.to_string().as_bytes()).map_err(failed(&path))
    }

    fn add_shared(&self, config: &mut Value) {
        let readonly = config.pointer("/root/readonly") == Some(&Value::Bool(true));
        let Some(object) = config.as_object_mut() else { return };
        let mounts = object.entry("mounts").or_insert_with(|| json!([]));
        let Some(mounts) = mounts.as_array_mut() else { return };
        let at = |mounts: &[Value], to: &str| {
            let is_it = |mount: &Value| mount["destination"].as_str().is_some_and(|d| orlop::path::clean(d) == to);
            mounts.iter().rposition(is_it)
        };
        let bind = |source: String, to: &str, access: &str| {
            let mut options = vec!["rbind", "rprivate", access];
            if self.users.is_some() {
                // By the container's own ids, which are the pod's.
                options.push("idmap");
            }
            json!({"destination": to, "type": "bind", "source": source, "options": options})
        };
        for (name, to) in FILES {
            if at(mounts, to).is_none() {
                mounts.push(bind(self.path(name), to, if readonly { "ro" } else { "rw" }));
            }
        }
        let shm = match self.has_ipc {
            true => bind(self.path("shm"), SHM, "rw"),
            false => json!({"destination": SHM, "type": "bind", "source": SHM, "options": ["rbind", "rprivate"]}),
        };
        match at(mounts, SHM).and_then(|at| mounts.get_mut(at)) {
            // The volume of somebody who wants another one.
            Some(mount) if mount["type"] == "bind" => {}
            Some(mount) => *mount = shm,
            None => mounts.push(shm),
        }
    }
}

fn make_directory(path: &str) -> Result<(), Status> {
    match mkdirat(CWD, path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(failed(path)(e)),
    }
}

fn ranges(list: &[&[u8]]) -> wire::Result<Vec<[u32; 3]>> {
    let range = |range: &&[u8]| IdRange::read(range).map(|range| [range.container_id, range.host_id, range.length]);
    list.iter().map(range).collect()
}

fn resolv_conf(dns: &PodDns<'_>) -> String {
    let mut lines = String::new();
    if !dns.searches.is_empty() {
        lines.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        lines.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        lines.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    lines
}

/// Whether this process is to be a pod's: by the name under which it was executed.
pub fn is_asked_for() -> bool {
    std::env::args_os().next().is_some_and(|name| Path::new(&name) == Path::new(PROGRAM))
}

/// The life of a pod's process: it buries whoever has nobody else to do so, until it is told to end.
///
/// # Errors
/// What the kernel refuses at the beginning.
pub fn pause() -> Result<(), Errno> {
    let signals = Signals::block()?;
    loop {
        match poll(&mut [PollFd::new(&signals, PollFlags::IN)], None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        while let Some(signal) = signals.next()? {
            if matches!(signal, SIGTERM | SIGINT) {
                return Ok(());
            }
        }
        while let Ok(Some(_)) = waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::any;
    use crate::wire::Message;

    /// A request, as containerd writes it.
    fn request(config: &Message, network: &str) -> Message {
        Message::new()
            .text(1, "p1")
            .text(2, "/b/p1")
            .message(4, &any("runtime.v1.PodSandboxConfig", &config.0))
            .text(5, network)
    }

    fn pod(config: &Message, network: &str) -> Pod {
        Pod::of(&CreateSandbox::read(&request(config, network).0).unwrap()).unwrap()
    }

    fn config(namespaces: &Message, linux: Message) -> Message {
        let linux = linux.message(2, &Message::new().message(1, namespaces));
        Message::new().text(2, "web").message(8, &linux)
    }

    #[test]
    fn a_pods_process_has_the_namespaces_that_are_the_pods() {
        let range = Message::new().number(1, 1000u32).number(3, 65536u32);
        let users = Message::new().message(2, &range).message(3, &range);
        let node = Message::new().number(1, 2u32).number(2, 2u32).number(3, 2u32);
        let names = |pod: &Pod| {
            let document = pod.document("k8s.io", "/bin/shim", None);
            let list = document["linux"]["namespaces"].as_array().unwrap().clone();
            list.iter().map(|n| n["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        for (namespaces, network, want) in [
            (Message::new(), "/run/netns/x", "mount uts network pid ipc"),
            (Message::new().number(2, 1u32), "/run/netns/x", "mount uts network pid ipc"),
            (Message::new().message(5, &users), "/run/netns/x", "mount uts network pid ipc user"),
            (node, "", "mount"),
        ] {
            assert_eq!(names(&pod(&config(&namespaces, Message::new()), network)), want);
        }
    }

    #[test]
    fn a_pods_cgroup_is_below_the_one_that_the_kubelet_has_made() {
        for (parent, want) in [
            ("", "/k8s.io/p1"),
            ("/kubepods/pod1", "/kubepods/pod1/p1"),
            ("/kubepods.slice/kubepods-pod1.slice", "kubepods-pod1.slice:cri-containerd:p1"),
        ] {
            let pod = pod(&config(&Message::new(), Message::new().text(1, parent)), "");
            assert_eq!(pod.document("k8s.io", "/x", None)["linux"]["cgroupsPath"], want);
        }
    }

    #[test]
    fn a_container_shares_what_it_has_not_brought_along() {
        let pod = pod(&config(&Message::new(), Message::new()), "/run/netns/x");
        let mut config = json!({"root": {"readonly": true}, "mounts": [
            {"destination": "/etc/hosts/", "type": "bind", "source": "/mine"},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm"},
        ]});
        pod.add_shared(&mut config);
        let mounts = config["mounts"].as_array().unwrap();
        let shown: Vec<_> = mounts.iter().map(|m| format!("{} {}", m["destination"], m["source"])).collect();
        assert_eq!(
            shown,
            [
                r#""/etc/hosts/" "/mine""#,
                r#""/dev/shm" "/b/p1/shm""#,
                r#""/etc/hostname" "/b/p1/hostname""#,
                r#""/etc/resolv.conf" "/b/p1/resolv.conf""#,
            ]
        );
        assert_eq!(mounts[2]["options"], json!(["rbind", "rprivate", "ro"]));
    }

    #[test]
    fn names_are_resolved_as_the_pod_wants_it() {
        let dns = Message::new().text(1, "10.0.0.1").text(2, "a").text(2, "b").text(3, "ndots:5");
        let dns = PodDns::read(&dns.0).unwrap();
        assert_eq!(resolv_conf(&dns), "search a b\nnameserver 10.0.0.1\noptions ndots:5\n");
        assert_eq!(resolv_conf(&PodDns::default()), "");
    }

    #[test]
    fn a_spoilt_request_is_read_or_refused() {
        let range = Message::new().number(1, 1000u32).number(3, 65536u32);
        let users = Message::new().message(2, &range).message(3, &range);
        let sysctl = Message::new().text(1, "net.ipv4.ip_forward").text(2, "1");
        let config = config(&Message::new().message(5, &users), Message::new().message(3, &sysctl));
        let good = request(&config.message(4, &Message::new().text(1, "192.0.2.1")), "/run/netns/x").0;
        let read = |bytes: &[u8]| match CreateSandbox::read(bytes) {
            Ok(request) => Pod::of(&request).is_ok(),
            Err(_) => false,
        };
        assert!(read(&good));
        let mut refused = 0;
        for at in 0..good.len() {
            refused += u32::from(!read(&good[..at]));
            for byte in [0, 0x7f, 0x80, 0xff] {
                let mut spoilt = good.clone();
                spoilt[at] = byte;
                refused += u32::from(!read(&spoilt));
            }
        }
        assert!(refused > 100, "{refused}");
    }

    #[test]
    fn what_no_pod_can_be_is_refused() {
        let refused = |message: &Message| Pod::of(&CreateSandbox::read(&message.0).unwrap()).unwrap_err().code;
        assert_eq!(refused(&Message::new().text(1, "../p").text(2, "/b")), Code::Unknown);
        assert_eq!(refused(&Message::new().text(1, "p").text(2, "b")), Code::InvalidArgument);
        let broken = Message::new().text(1, "p").text(2, "/b").message(4, &any("x", b"\xff"));
        assert_eq!(refused(&broken), Code::InvalidArgument);
    }
}
