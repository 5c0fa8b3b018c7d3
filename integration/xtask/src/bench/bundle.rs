//! What the benchmark runs: programs of a few instructions, so that nothing but the runtime's work is measured, in the
//! container that `runc spec` describes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde_json::{Value, json};

/// The names that the docker-like profile allows: those of x86, of both word sizes, that need no privilege.
const ALLOWED: &str = include_str!("../../data/seccomp-names.txt");

/// How much `pour` writes.
pub(super) const POURED: u64 = 16384 << 16;

/// The bundles of one view, which share a rootfs.
#[derive(Debug)]
pub(crate) struct Bundles {
    dir: PathBuf,
}

impl Bundles {
    /// Writes the rootfs and all bundles below `dir`.
    pub(crate) fn write(dir: &Path) -> Result<Self> {
        let rootfs = dir.join("rootfs");
        for name in ["bin", "proc", "dev", "sys"] {
            fs::create_dir_all(rootfs.join(name))?;
        }
        for (name, code) in programs()? {
            let path = rootfs.join("bin").join(name);
            // What `pour` writes is itself.
            fs::write(&path, elf(code, if name == "pour" { 1 << 16 } else { 0 }))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        let bundles = Self { dir: dir.to_owned() };
        bundles.config("true", &config(&rootfs, "/bin/true"))?;
        bundles.config("pause", &config(&rootfs, "/bin/pause"))?;
        let mut seccomp = config(&rootfs, "/bin/true");
        if let Some(linux) = seccomp.get_mut("linux").and_then(Value::as_object_mut) {
            linux.insert("seccomp".to_owned(), profile());
        }
        bundles.config("seccomp", &seccomp)?;
        Ok(bundles)
    }

    /// The folder of a bundle.
    pub(crate) fn get(&self, name: &str) -> PathBuf {
        self.dir.join("bundles").join(name)
    }

    /// The rootfs of all bundles.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// Writes the bundle of a container that runs a program, in a cgroup below `cgroups`, and returns its folder.
    pub(super) fn container(&self, id: &str, program: &str, cgroups: &str) -> Result<PathBuf> {
        let mut config = config(&self.rootfs(), program);
        if let Some(linux) = config.get_mut("linux").and_then(Value::as_object_mut) {
            linux.insert("cgroupsPath".to_owned(), json!(format!("{cgroups}/{id}")));
        }
        self.config(id, &config)?;
        Ok(self.get(id))
    }

    /// The process of these containers, with another program.
    pub(super) fn process(&self, program: &str) -> Value {
        config(&self.rootfs(), program).get("process").cloned().unwrap_or_default()
    }

    /// Writes the bundle of a container with /bin/true and a memory limit, and returns its folder.
    pub(crate) fn limited(&self, bytes: u64) -> Result<PathBuf> {
        let mut config = config(&self.rootfs(), "/bin/true");
        if let Some(linux) = config.get_mut("linux").and_then(Value::as_object_mut) {
            linux.insert("resources".to_owned(), json!({"memory": {"limit": bytes}}));
        }
        self.config("memory", &config)?;
        Ok(self.get("memory"))
    }

    fn config(&self, name: &str, config: &Value) -> Result<()> {
        let dir = self.get(name);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("config.json"), serde_json::to_vec_pretty(config)?)?;
        Ok(())
    }
}

/// `true` (exit 0), `pause` (pause for ever) and `pour` ([`POURED`] bytes to its output, 64 KiB at a time), in the
/// machine's code.
fn programs() -> Result<[(&'static str, &'static [u8]); 3]> {
    Ok(match std::env::consts::ARCH {
        "x86_64" => [
            // mov eax, 60 (exit); xor edi, edi; syscall
            ("true", &[0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05]),
            // mov eax, 34 (pause); syscall; jmp to the start
            ("pause", &[0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7]),
            // mov ebx, 16384; 5: mov eax, 1 (write); mov edi, 1; mov esi, the file; mov edx, 65536; syscall; dec ebx;
            // jnz 5; mov eax, 60; xor edi, edi; syscall
            (
                "pour",
                &[
                    0xbb, 0, 0x40, 0, 0, 0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0, 0xbe, 0, 0, 0x40, 0, 0xba, 0, 0, 1, 0,
                    0x0f, 0x05, 0xff, 0xcb, 0x75, 0xe6, 0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05,
                ],
            ),
        ],
        "aarch64" => [
            // mov x8, #93 (exit); mov x0, #0; svc #0
            ("true", &[0xa8, 0x0b, 0x80, 0xd2, 0, 0, 0x80, 0xd2, 0x01, 0, 0, 0xd4]),
            // mov x0..x4, #0; mov x8, #73 (ppoll); svc #0; branch to the start
            (
                "pause",
                &[
                    0, 0, 0x80, 0xd2, 0x01, 0, 0x80, 0xd2, 0x02, 0, 0x80, 0xd2, 0x03, 0, 0x80, 0xd2, 0x04, 0, 0x80,
                    0xd2, 0x28, 0x09, 0x80, 0xd2, 0x01, 0, 0, 0xd4, 0xf9, 0xff, 0xff, 0x17,
                ],
            ),
            // mov x19, #16384; 4: mov x8, #64 (write); mov x0, #1; mov x1, the file; mov x2, #65536; svc #0;
            // subs x19, x19, #1; b.ne 4; mov x8, #93; mov x0, #0; svc #0
            (
                "pour",
                &[
                    0x13, 0, 0x88, 0xd2, 0x08, 0x08, 0x80, 0xd2, 0x20, 0, 0x80, 0xd2, 0x01, 0x08, 0xa0, 0xd2, 0x22, 0,
                    0xa0, 0xd2, 0x01, 0, 0, 0xd4, 0x73, 0x06, 0, 0xf1, 0x41, 0xff, 0xff, 0x54, 0xa8, 0x0b, 0x80, 0xd2,
                    0, 0, 0x80, 0xd2, 0x01, 0, 0, 0xd4,
                ],
            ),
        ],
        other => bail!("the benchmark has no programs for {other}"),
    })
}

/// A static executable of one segment with `code` right after its headers, and zeros up to `length`.
fn elf(code: &[u8], length: usize) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let machine: u16 = if std::env::consts::ARCH == "aarch64" { 183 } else { 62 };
    let size = (HEADERS + code.len() as u64).max(length as u64);
    let mut file = Vec::new();
    // e_ident: 64-bit, little endian, version 1.
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2u16, machine] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    file.extend_from_slice(&1u32.to_le_bytes());
    // Entry, program headers' place, no sections.
    for word in [BASE + HEADERS, 64, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    // PT_LOAD, readable and executable; offset, addresses, sizes, alignment.
    for word in [1u32, 5] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for word in [0, BASE, BASE, size, size, 0x1000] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(code);
    file.resize(length.max(file.len()), 0);
    file
}

/// What `runc spec` writes on a cgroup v2 machine, without a terminal, device rules and rlimits.
fn config(rootfs: &Path, program: &str) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": [program],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "noNewPrivileges": true,
        },
        "root": {"path": rootfs, "readonly": true},
        "hostname": "runc",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "cgroup"},
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// A profile of the shape that engines ship: refuse, allow some 400 names, and a few by their arguments.
fn profile() -> Value {
    let architectures = if std::env::consts::ARCH == "aarch64" {
        json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"])
    } else {
        json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"])
    };
    let mut syscalls = vec![json!({"names": ALLOWED.lines().collect::<Vec<_>>(), "action": "SCMP_ACT_ALLOW"})];
    // The persona values that programs ask for, sockets of every family but AF_VSOCK, threads but no namespaces.
    for persona in [0u64, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        syscalls.push(json!({"names": ["personality"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": persona, "op": "SCMP_CMP_EQ"}]}));
    }
    syscalls.push(json!({"names": ["socket"], "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]}));
    syscalls.push(json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": 0x7e02_0000u64, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}));
    syscalls.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}));
    json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": architectures,
        "syscalls": syscalls})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_run() {
        let dir = std::env::temp_dir().join(format!("xtask-elf-{}", std::process::id()));
        let bundles = Bundles::write(&dir).unwrap();
        let status = std::process::Command::new(bundles.rootfs().join("bin/true")).status().unwrap();
        assert!(status.success(), "{status}");
        let mut pause = std::process::Command::new(bundles.rootfs().join("bin/pause")).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(pause.try_wait().unwrap().is_none(), "pause ended");
        pause.kill().unwrap();
        pause.wait().unwrap();
        let mut pour = std::process::Command::new(bundles.rootfs().join("bin/pour"));
        let mut pour = pour.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let poured = std::io::copy(&mut pour.stdout.take().unwrap(), &mut std::io::sink()).unwrap();
        assert!(pour.wait().unwrap().success() && poured == POURED, "{poured}");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_profile_is_of_the_size_of_an_engines() {
        let names = ALLOWED.lines().count();
        assert!((350..450).contains(&names), "{names}");
    }
}
