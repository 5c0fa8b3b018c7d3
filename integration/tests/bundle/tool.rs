//! The program, a store and a folder for a test; and other programs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use orlop_images::tree::Tree;
use orlop_integration::{Ran, long, program, skip};

/// How long any command may take, in seconds, before it counts as hanging.
fn patience() -> &'static str {
    // GNU tar takes two seconds for 50,000 files on a quiet disk, and minutes on a busy one.
    if long() { "900" } else { "120" }
}

/// How a bundle's root file system comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Mounted from the store.
    Mount,
    /// Written out.
    Directory,
}

impl Backend {
    pub(crate) const BOTH: [Self; 2] = [Self::Mount, Self::Directory];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mount => "mount",
            Self::Directory => "directory",
        }
    }
}

/// A store and a folder of one test, in a mount namespace of its thread.
#[derive(Debug, Clone)]
pub(crate) struct Tool {
    /// The test's folder.
    pub(crate) dir: PathBuf,
    /// The store in it.
    pub(crate) store: PathBuf,
    program: PathBuf,
    _scratch: Rc<Scratch>,
}

/// A folder that goes with the last that uses it.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Tool {
    /// A new one, or `None`, said aloud, where there is no privilege or no program for it.
    pub(crate) fn new(topic: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            skip(&format!("{topic}: needs root"));
            return None;
        }
        let program = program("ORLOP_BUNDLE", "orlop-bundle", topic)?;
        // Mounts end with the thread of the test, whatever happens.
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = scratch().join(format!("{topic}-{}-{count}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Some(Self { store: dir.join("store"), program, _scratch: Rc::new(Scratch(dir.clone())), dir })
    }

    /// The same with another store.
    pub(crate) fn with_store(&self, store: impl Into<PathBuf>) -> Self {
        Self { store: self.dir.join(store.into()), ..self.clone() }
    }

    /// The program with its store; nothing from the environment that would change what it does.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", patience()]).arg(&self.program).arg("--store").arg(&self.store).args(args);
        command
            .env_remove("ORLOP_STORE")
            .env("HOME", &self.dir)
            .env("XDG_RUNTIME_DIR", &self.dir)
            .current_dir(&self.dir);
        command
    }

    /// Runs the program to its end. One that hangs or crashes ends the test.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        let ran = self.ran(self.command(args));
        let code = ran.status.code();
        assert!(code.is_some_and(|code| code < 100), "orlop-bundle {args:?}: {}: {}{}", ran.status, ran.out, ran.err);
        ran
    }

    /// The same, which must succeed. What it printed.
    #[track_caller]
    pub(crate) fn must(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert!(ran.ok(), "orlop-bundle {args:?}: {}: {}{}", ran.status, ran.out, ran.err);
        ran.out
    }

    /// The same, which must be refused with one line.
    #[track_caller]
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert!(!ran.ok(), "orlop-bundle {args:?} succeeded: {}{}", ran.out, ran.err);
        assert!(!ran.err.trim().is_empty(), "orlop-bundle {args:?} says nothing");
        assert!(!ran.err.contains("panicked"), "orlop-bundle {args:?}: {}", ran.err);
        ran.err
    }

    /// Any program of this test, to its end.
    pub(crate) fn ran(&self, mut command: Command) -> Ran {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        // Files, since a server that lives on would hold the other end of a pipe.
        let (out, err) = (self.dir.join(format!("out.{n}")), self.dir.join(format!("err.{n}")));
        let null = File::open("/dev/null").unwrap();
        command.stdin(null).stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        let status = command.status().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let text = |path: &Path| {
            let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
            fs::remove_file(path).unwrap();
            text
        };
        Ran { status, out: text(&out), err: text(&err) }
    }

    /// Another program, which must succeed.
    #[track_caller]
    pub(crate) fn other(&self, argv: &[&str]) -> String {
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", patience()]).args(argv).current_dir(&self.dir);
        let ran = self.ran(command);
        assert!(ran.ok(), "{argv:?}: {}: {}{}", ran.status, ran.out, ran.err);
        ran.out
    }

    /// A path in the test's folder, as an argument.
    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.join(name).into_os_string().into_string().unwrap()
    }

    /// What a bundle of `image` has in its root file system. The bundle is gone again.
    #[track_caller]
    pub(crate) fn tree(&self, image: &str, backend: Backend) -> Tree {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let bundle = self.path(&format!("bundle{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        self.must(&["create", "--backend", backend.name(), image, &bundle]);
        let tree = Tree::of(&Path::new(&bundle).join("rootfs"));
        self.must(&["rm", &bundle]);
        assert!(!Path::new(&bundle).exists(), "rm left the bundle");
        tree
    }

    /// Ends the test unless everything in the store is what its digest says.
    #[track_caller]
    pub(crate) fn assert_sound(&self) {
        self.must(&["verify"]);
    }

    /// Ids of all images.
    #[track_caller]
    pub(crate) fn images(&self) -> Vec<String> {
        self.must(&["images", "--quiet", "--no-trunc"]).lines().map(str::to_owned).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("ORLOP_KEEP").is_some() {
            eprintln!("kept: {}", self.0.display());
            return;
        }
        let _ = Command::new("rm").args(["-rf", "--one-file-system"]).arg(&self.0).status();
    }
}

/// Where the tests keep what they make, below cargo's target folder: not in memory, nor on an overlay.
pub(crate) fn scratch() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    here.ancestors().nth(3).unwrap().join("orlop-bundle-tests")
}

/// Whether all of these programs are there; if not, it is said.
pub(crate) fn have(topic: &str, programs: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let there = |name: &str| path.split(':').any(|dir| Path::new(dir).join(name).is_file());
    let missing: Vec<_> = programs.iter().copied().filter(|name| !there(name)).collect();
    if missing.is_empty() {
        return true;
    }
    skip(&format!("{topic}: no {}", missing.join(", no ")));
    false
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < end, "{what}: not in 20 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}
