//! What other programs make of the same images.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use orlop_images::layout::Layout;
use orlop_images::tree::{Rules, Times, Tree};
use orlop_integration::skip;

use crate::tool::{Tool, have, wait_until};

/// GNU tar's reading of one archive, in a new folder; `None`, said, without GNU tar.
pub(crate) fn gnu_tar(tool: &Tool, archive: &Path) -> Option<Tree> {
    have("compared with GNU tar", &["tar"]).then_some(())?;
    let dir = fresh(tool, "gnu-tar");
    let (archive, target) = (archive.to_str().unwrap(), dir.to_str().unwrap());
    tool.other(&["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", archive, "-C", target]);
    Some(Tree::of(&dir))
}

/// umoci's unpacking of an image; `None`, said, without umoci.
pub(crate) fn umoci(tool: &Tool, layout: &Layout, tag: &str) -> Option<Tree> {
    have("compared with umoci", &["umoci"]).then_some(())?;
    let dir = fresh(tool, "umoci").join("bundle");
    let image = format!("{}:{tag}", layout.dir.display());
    tool.other(&["umoci", "--log", "error", "unpack", "--image", &image, dir.to_str().unwrap()]);
    Some(Tree::of(&dir.join("rootfs")))
}

/// What fsck.erofs extracts of an image's merged index, which it checks; `None`, said, without one that knows our blocks.
pub(crate) fn fsck_erofs(tool: &Tool, image: &str) -> Option<Tree> {
    have("checked by fsck.erofs", &["fsck.erofs"]).then_some(())?;
    let of = |field: &str| tool.must(&["inspect", "-f", &format!("{{{{.GraphDriver.Data.{field}}}}}"), image]);
    let dir = fresh(tool, "fsck").join("tree");
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "100", "fsck.erofs", "--xattrs", &format!("--extract={}", dir.display())]);
    command.args(of("Layers").trim().split(':').map(|layer| format!("--device={layer}"))).arg(of("Index").trim());
    let ran = tool.ran(command);
    if ran.err.contains("isn't supported") || ran.err.contains("unrecognized option") {
        skip("checked by fsck.erofs: it is older than 1.9");
        return None;
    }
    assert!(ran.ok(), "fsck.erofs: {}{}", ran.out, ran.err);
    Some(Tree::of(&dir))
}

/// What fsck.erofs can be compared by: it gives files away after it has set their capabilities, which takes these off.
pub(crate) fn as_fsck_erofs() -> Rules {
    Rules { without: vec!["linked-from-above", "ping"], ..Rules::default() }
}

/// What umoci can be compared by: it keeps seconds, and gives the root attributes of its own.
pub(crate) fn as_umoci() -> Rules {
    Rules { root: false, times: Times::Seconds, ..Rules::default() }
}

/// What containerd can be compared by: it passes over a layer's entry for the root, gives the times of a file before 1970
/// and of an opaque folder up, and sets a hard link's attributes, which mean nothing, on its file.
pub(crate) fn as_containerd() -> Rules {
    let without = vec!["linked-from-above", "ping", "time-before-1970", "time-of-a-folder"];
    Rules { root: false, times: Times::Seconds, without, ..Rules::default() }
}

fn fresh(tool: &Tool, name: &str) -> PathBuf {
    let dir = tool.dir.join(name);
    let _ = Command::new("rm").args(["-rf", "--one-file-system"]).arg(&dir).status();
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// A containerd of a test's own.
pub(crate) struct Containerd {
    server: Child,
    /// Where its sockets are: a path of one has at most 107 bytes.
    sockets: PathBuf,
    dir: PathBuf,
}

impl Containerd {
    /// Starts it; `None`, said, without one.
    pub(crate) fn new(tool: &Tool) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        have("compared with containerd", &["containerd", "ctr"]).then_some(())?;
        let dir = fresh(tool, "containerd");
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let sockets = PathBuf::from(format!("/tmp/orlop-containerd-{}-{count}", std::process::id()));
        fs::create_dir(&sockets).unwrap();
        let config = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
        fs::write(dir.join("config.toml"), config).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let server = Command::new("containerd")
            .arg("--config")
            .arg(dir.join("config.toml"))
            .arg("--root")
            .arg(dir.join("root"))
            .arg("--state")
            .arg(dir.join("state"))
            .arg("--address")
            .arg(sockets.join("socket"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let this = Self { server, sockets, dir };
        wait_until("containerd answers", || this.ctr(&["version"]).output().is_ok_and(|o| o.status.success()));
        Some(this)
    }

    fn ctr(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["-s", "KILL", "100", "ctr", "--address"])
            .arg(self.sockets.join("socket"))
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// One command of its client, which must succeed. What it printed.
    #[track_caller]
    pub(crate) fn must(&self, args: &[&str]) -> String {
        let output = self.ctr(args).output().unwrap();
        assert!(output.status.success(), "ctr {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What it unpacks of an image of a layout that has no other.
    pub(crate) fn tree(&self, tool: &Tool, layout: &Layout) -> Tree {
        let archive = tool.path("containerd.tar");
        tool.other(&["tar", "-C", layout.dir.to_str().unwrap(), "-cf", &archive, "."]);
        // Its overlay can't link to files of the layers below.
        self.must(&["images", "import", "--snapshotter", "native", &archive]);
        // A whole folder for each layer upon those below, numbered.
        let snapshots = self.dir.join("root/io.containerd.snapshotter.v1.native/snapshots");
        let numbers = fs::read_dir(&snapshots).unwrap().flatten();
        let top = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max().unwrap();
        Tree::of(&snapshots.join(top.to_string()))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = fs::remove_dir_all(&self.sockets);
    }
}
