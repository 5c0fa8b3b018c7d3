//! One case's stage: a bundle, a state directory, an id, and the runtime's commands on them.

use std::cell::{Cell, RefCell};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::{Value, json};

use crate::check::skip;
use crate::command::{self, Cmd, Done, wait_until};
use crate::world;

/// The runtime under test.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    /// The executable.
    pub(crate) path: PathBuf,
    /// First word of `--version`.
    pub(crate) name: String,
    /// What follows "version" there.
    pub(crate) version: String,
}

impl Runtime {
    /// Asks the runtime for its name and version; an unusual answer gives the file's name and an empty version.
    pub(crate) fn ask(path: &Path, dir: &Path) -> Result<Self> {
        let said = Cmd::new(path, dir).args(["--version"]).run()?.ok()?.stdout;
        let (name, version) = name_and_version(&said);
        let fallback = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { path: path.to_owned(), name: name.map_or_else(fallback, str::to_owned), version: version.to_owned() })
    }
}

fn name_and_version(said: &str) -> (Option<&str>, &str) {
    let line = said.lines().next().unwrap_or_default();
    match line.split_once("version") {
        Some((name, version)) => (
            name.split_whitespace().next(),
            version.trim_start_matches(':').split_whitespace().next().unwrap_or_default(),
        ),
        None => (None, ""),
    }
}

/// What a case works with. The bundle has a root of directories and the probe alone; `config` is written out before each
/// `create` and `run`.
pub(crate) struct Scene {
    /// The runtime under test.
    pub(crate) runtime: Runtime,
    /// Scratch space of this case alone.
    pub(crate) dir: PathBuf,
    /// The bundle.
    pub(crate) bundle: PathBuf,
    /// The container's id; unique on this machine while the suite runs.
    pub(crate) id: String,
    /// What will be in `config.json`.
    pub(crate) config: Value,
    /// The probe on the host, for hooks.
    pub(crate) probe: PathBuf,
    /// Ids that were used and have to be deleted at the end.
    ids: RefCell<Vec<String>>,
    /// What the case itself mounted on the host.
    mounted: RefCell<Vec<PathBuf>>,
    ended: Cell<bool>,
}

/// A container that was created; its output goes to a file.
#[derive(Debug)]
pub(crate) struct Live {
    /// The first process, as the host numbers it.
    pub(crate) pid: i32,
    output: PathBuf,
}

impl Live {
    /// What the probe has said so far.
    pub(crate) fn answers(&self) -> Vec<Value> {
        command::answers(&fs::read_to_string(&self.output).unwrap_or_default())
    }

    /// Waits for the probe to say something that fits, and gives it.
    pub(crate) fn hears(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        let heard = wait_until(Duration::from_secs(10), || Ok(self.answers().into_iter().find(|answer| fits(answer))))?;
        heard.with_context(|| format!("expected the container to say {what}; it said {:?}", self.answers()))
    }

    /// Waits for the first process to end: its exit status, or 128 and the number of the signal that ended it.
    pub(crate) fn ends(&self) -> Result<i32> {
        world::wait_for(self.pid, Duration::from_secs(10))
    }

    /// The directory of the container in a v1 controller's hierarchy, or with an empty name in the v2 one.
    pub(crate) fn cgroup(&self, controller: &str) -> Result<Option<PathBuf>> {
        world::cgroup_of(self.pid, controller)
    }
}

/// A path as text; those of the scratch directory are plain.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Whether a features document says that the runtime lacks what is described at the pointer.
fn denies(features: &Value, pointer: &str, since: (u32, u32)) -> bool {
    let version = || {
        let mut parts = features["ociVersionMax"].as_str()?.split('.');
        Some((parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u32>().ok()?))
    };
    match features.pointer(pointer) {
        Some(Value::Bool(enabled)) => !enabled,
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Null) | None => version().is_some_and(|version| version >= since),
        Some(_) => false,
    }
}

impl Scene {
    /// Makes the bundle below `dir`, which must be empty and the case's own.
    pub(crate) fn new(runtime: Runtime, probe: &Path, dir: &Path, id: &str) -> Result<Self> {
        let bundle = dir.join("bundle");
        let rootfs = bundle.join("rootfs");
        for name in ["bin", "dev", "etc", "home", "opt", "proc", "root", "run", "sys", "tmp", "usr/bin", "var"] {
            fs::create_dir_all(rootfs.join(name))?;
        }
        // The path to a bundle is open to mapped users, as engines make it.
        for open in [dir, &bundle, &rootfs] {
            fs::set_permissions(open, fs::Permissions::from_mode(0o755))?;
        }
        fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        fs::hard_link(probe, rootfs.join("probe")).context("put the probe into the root")?;
        symlink("/probe", rootfs.join("usr/bin/found-by-path"))?;
        fs::write(
            rootfs.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nalice:x:1234:1235::/home/alice:/bin/sh\n",
        )?;
        fs::write(rootfs.join("etc/group"), "root:x:0:\nalice:x:1235:\nextra:x:2345:alice\n")?;
        fs::create_dir(dir.join("root"))?;
        let mut config: Value = serde_json::from_str(include_str!("base.json")).context("base.json")?;
        set(&mut config, "/linux/cgroupsPath", json!(format!("/{id}")));
        Ok(Self {
            runtime,
            dir: dir.to_owned(),
            bundle,
            id: id.to_owned(),
            config,
            probe: probe.to_owned(),
            ids: RefCell::new(Vec::new()),
            mounted: RefCell::new(Vec::new()),
            ended: Cell::new(false),
        })
    }

    /// The root of the container, seen from outside.
    pub(crate) fn rootfs(&self, below: &str) -> PathBuf {
        self.bundle.join("rootfs").join(below.trim_start_matches('/'))
    }

    /// A path in the case's scratch space.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    // -- config.json -------------------------------------------------------------------------------------------------

    /// Sets the field that a JSON pointer names, making the objects on the way.
    pub(crate) fn set(&mut self, pointer: &str, value: impl Into<Value>) -> &mut Self {
        set(&mut self.config, pointer, value.into());
        self
    }

    /// Appends to the list that a JSON pointer names, making it if need be.
    pub(crate) fn push(&mut self, pointer: &str, value: impl Into<Value>) -> &mut Self {
        let mut list = self.config.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
        list.push(value.into());
        self.set(pointer, list)
    }

    /// Removes the field that a JSON pointer names.
    pub(crate) fn unset(&mut self, pointer: &str) -> &mut Self {
        if let Some((parent, field)) = pointer.rsplit_once('/')
            && let Some(Value::Object(parent)) = self.config.pointer_mut(parent)
        {
            parent.remove(field);
        }
        self
    }

    /// Lets the container run the probe with these arguments.
    pub(crate) fn probes(&mut self, args: &[&str]) -> &mut Self {
        let mut all = vec!["/probe"];
        all.extend(args);
        self.set("/process/args", json!(all))
    }

    /// Adds a mount.
    pub(crate) fn mounts(&mut self, at: &str, kind: &str, source: &str, options: &[&str]) -> &mut Self {
        self.push("/mounts", json!({ "destination": at, "type": kind, "source": source, "options": options }))
    }

    /// Removes the mount at a destination.
    pub(crate) fn unmounts(&mut self, at: &str) -> &mut Self {
        if let Some(mounts) = self.config.pointer_mut("/mounts").and_then(Value::as_array_mut) {
            mounts.retain(|mount| mount["destination"] != at);
        }
        self
    }

    /// Removes a namespace from the list, so that the container shares the runtime's.
    pub(crate) fn shares(&mut self, kind: &str) -> &mut Self {
        if let Some(list) = self.config.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut) {
            list.retain(|namespace| namespace["type"] != kind);
        }
        self
    }

    /// Adds a new user namespace that maps 65536 ids from 100000, and opens the root to them.
    pub(crate) fn maps_users(&mut self) -> Result<&mut Self> {
        self.push("/linux/namespaces", json!({ "type": "user" }));
        let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
        self.set("/linux/uidMappings", map.clone());
        self.set("/linux/gidMappings", map);
        // The root belongs to the container's root, as an engine would have it.
        for dir in
            ["", "bin", "dev", "etc", "home", "opt", "proc", "root", "run", "sys", "tmp", "usr", "usr/bin", "var"]
        {
            std::os::unix::fs::chown(self.rootfs(dir), Some(100_000), Some(100_000))?;
        }
        Ok(self)
    }

    /// Writes `config.json`.
    pub(crate) fn save(&self) -> Result<()> {
        Ok(fs::write(self.bundle.join("config.json"), serde_json::to_vec_pretty(&self.config)?)?)
    }

    /// Ends the case without a verdict if the runtime's own features document says that it can't do `what`: the value at
    /// the JSON pointer is false or an empty list, or it is absent although the document is of the version that
    /// brought it. A runtime that says nothing is put to the test.
    pub(crate) fn needs(&self, what: &str, pointer: &str, since: (u32, u32)) -> Result<()> {
        let done = self.bare(&["features"]).run()?;
        match done.json() {
            Ok(features) if done.status == 0 && denies(&features, pointer, since) => {
                skip(format!("the runtime's features document has no {what}"))
            }
            _ => Ok(()),
        }
    }

    // -- commands ----------------------------------------------------------------------------------------------------

    /// The runtime with the case's own `--root` and these arguments.
    pub(crate) fn runtime(&self, args: &[&str]) -> Cmd {
        Cmd::new(&self.runtime.path, &self.dir).args(["--root", &text(&self.path("root"))]).args(args)
    }

    /// The runtime with these arguments and nothing before them.
    pub(crate) fn bare(&self, args: &[&str]) -> Cmd {
        Cmd::new(&self.runtime.path, &self.dir).args(args)
    }

    /// Remembers an id other than [`Scene::id`] that has to be deleted at the end.
    pub(crate) fn uses(&self, id: &str) {
        self.ids.borrow_mut().push(id.to_owned());
    }

    /// `run` in the foreground: writes the config and waits for the end, whatever that is.
    pub(crate) fn run(&self) -> Result<Done> {
        self.run_with(&[])
    }

    /// `run` with more options.
    pub(crate) fn run_with(&self, options: &[&str]) -> Result<Done> {
        self.save()?;
        self.uses(&self.id);
        let bundle = text(&self.bundle);
        self.runtime(&["run", "--bundle", &bundle]).args(options).args([&self.id]).run()
    }

    /// Runs the probe with these arguments in the foreground and gives its answers, one for each verb.
    pub(crate) fn asks(&mut self, args: &[&str]) -> Result<Vec<Value>> {
        let verbs = args.split(|arg| *arg == "then").count();
        let done = self.probes(args).run()?.ok()?;
        let answers = done.answers();
        ensure!(answers.len() == verbs, "expected {verbs} answers of the probe, saw {:?}", done.stdout);
        Ok(answers)
    }

    /// Runs the probe for a single verb and gives its answer.
    pub(crate) fn ask(&mut self, args: &[&str]) -> Result<Value> {
        self.asks(args)?.pop().context("the probe said nothing")
    }

    /// Runs the container for the facts about its process.
    pub(crate) fn facts(&mut self) -> Result<Value> {
        self.ask(&["facts"])
    }

    /// `create` with more options; the pid comes from the pid file.
    pub(crate) fn create_with(&self, options: &[&str]) -> Result<Live> {
        self.save()?;
        self.uses(&self.id);
        let (bundle, pid_file) = (text(&self.bundle), self.path("pid"));
        let running = self
            .runtime(&["create", "--bundle", &bundle, "--pid-file", &text(&pid_file)])
            .args(options)
            .args([&self.id])
            .spawn()?;
        let output = running.stdout.clone();
        running.finish()?.ok()?;
        let pid = fs::read_to_string(&pid_file).context("read the pid file")?;
        Ok(Live { pid: pid.parse().with_context(|| format!("pid file {pid:?}"))?, output })
    }

    /// `create`.
    pub(crate) fn create(&self) -> Result<Live> {
        self.create_with(&[])
    }

    /// `create` that may be refused.
    pub(crate) fn try_create(&self) -> Result<Done> {
        self.save()?;
        self.uses(&self.id);
        self.runtime(&["create", "--bundle", &text(&self.bundle), &self.id]).run()
    }

    /// `start`.
    pub(crate) fn start(&self) -> Result<Done> {
        self.runtime(&["start", &self.id]).run()?.ok()
    }

    /// A running container that waits for signals.
    pub(crate) fn live(&mut self) -> Result<Live> {
        self.probes(&["wait"]);
        let live = self.create()?;
        self.start()?;
        live.hears("ready", |answer| answer["ready"] == true)?;
        Ok(live)
    }

    /// The document that `state` prints.
    pub(crate) fn state(&self) -> Result<Value> {
        self.runtime(&["state", &self.id]).run()?.ok()?.json()
    }

    /// The status that `state` gives.
    pub(crate) fn status(&self) -> Result<String> {
        Ok(self.state()?.get("status").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// Waits until `state` gives this status.
    pub(crate) fn becomes(&self, status: &str) -> Result<()> {
        let mut seen = String::new();
        let reached = wait_until(Duration::from_secs(5), || {
            seen = self.status()?;
            Ok((seen == status).then_some(()))
        })?;
        reached.with_context(|| format!("status: expected {status:?}, saw {seen:?}"))
    }

    /// `kill` with a signal.
    pub(crate) fn kill(&self, signal: &str) -> Result<Done> {
        self.runtime(&["kill", &self.id, signal]).run()
    }

    /// `delete`.
    pub(crate) fn delete(&self) -> Result<Done> {
        self.runtime(&["delete", &self.id]).run()
    }

    /// `delete --force`.
    pub(crate) fn force_delete(&self) -> Result<Done> {
        self.runtime(&["delete", "--force", &self.id]).run()
    }

    /// `exec` of the probe with more options, in the foreground.
    pub(crate) fn exec_with(&self, options: &[&str], args: &[&str]) -> Result<Done> {
        self.runtime(&["exec"]).args(options).args([self.id.as_str(), "/probe"]).args(args).run()
    }

    /// The facts about a process that `exec` starts.
    pub(crate) fn exec_facts(&self, options: &[&str]) -> Result<Value> {
        self.exec_with(options, &["facts"])?.ok()?.answers().pop().context("the probe said nothing")
    }

    /// `exec --process` with this process object; args default to the probe's facts.
    pub(crate) fn exec_process(&self, process: &Value) -> Result<Done> {
        let file = self.path("process.json");
        fs::write(&file, process.to_string())?;
        self.runtime(&["exec", "--process", &text(&file), &self.id]).run()
    }

    /// A process object for [`Scene::exec_process`] with the probe's arguments.
    pub(crate) fn process(&self, args: &[&str]) -> Value {
        let mut process = self.config.get("process").cloned().unwrap_or_default();
        let mut all = vec!["/probe"];
        all.extend(args);
        set(&mut process, "/args", json!(all));
        process
    }

    /// A hook that runs the probe, which appends what it sees to a file of the case; see the probe's verb `hook`.
    pub(crate) fn hook(&self, file: &str, options: &[&str]) -> Value {
        let (probe, out) = (text(&self.probe), text(&self.path(file)));
        let mut args = vec!["probe", "hook", &out];
        args.extend(options);
        json!({ "path": probe, "args": args })
    }

    /// What the hooks that write to this file have seen, in their order.
    pub(crate) fn seen_by_hooks(&self, file: &str) -> Vec<Value> {
        command::answers(&fs::read_to_string(self.path(file)).unwrap_or_default())
    }

    /// Mounts a tmpfs on a new directory of the case, on the host's side; it is unmounted at the end.
    pub(crate) fn mount_tmpfs(&self, name: &str) -> Result<PathBuf> {
        let at = self.path(name);
        fs::create_dir_all(&at)?;
        rustix::mount::mount("tmpfs", &at, "tmpfs", MountFlags::empty(), None)?;
        self.mounted.borrow_mut().push(at.clone());
        Ok(at)
    }

    /// Binds a path of the case on itself, so that it is a mount of its own; it is unmounted at the end.
    pub(crate) fn bind_to_itself(&self, at: &Path) -> Result<()> {
        rustix::mount::mount_bind_recursive(at, at)?;
        self.mounted.borrow_mut().push(at.to_owned());
        Ok(())
    }

    /// True when the state directory knows the id.
    pub(crate) fn is_known(&self, id: &str) -> bool {
        self.path("root").join(id).symlink_metadata().is_ok()
    }

    // -- the end -----------------------------------------------------------------------------------------------------

    /// Deletes every container of the case and says what the runtime left behind: cgroups, processes.
    pub(crate) fn end(&self) -> Result<()> {
        self.ended.set(true);
        let ids: Vec<String> = self.ids.take();
        let mut deleted = Ok(());
        for id in &ids {
            if self.is_known(id) {
                let done = self.runtime(&["delete", "--force", id]).run();
                deleted = deleted.and(done.and_then(Done::ok).map(drop));
            }
        }
        for at in self.mounted.take().iter().rev() {
            rustix::mount::unmount(at, UnmountFlags::DETACH)?;
        }
        // What was killed a moment ago may take another to go.
        let settled = wait_until(Duration::from_secs(2), || {
            world::reap();
            Ok((world::children().is_empty() && world::cgroups_named(&self.id)?.is_empty()).then_some(()))
        })?;
        if settled.is_some() {
            return deleted;
        }
        let (processes, cgroups) = (world::children(), world::cgroups_named(&self.id)?);
        world::remove_cgroups(&cgroups);
        world::kill_children();
        deleted?;
        bail!("left behind: processes {processes:?}, cgroups {cgroups:?}")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if !self.ended.get() {
            // The case has failed already, with a better reason than what is found here.
            let _ = self.end();
        }
    }
}

/// Sets the field that a JSON pointer names, making the objects on the way.
fn set(document: &mut Value, pointer: &str, value: Value) {
    let mut place = document;
    for field in pointer.split('/').skip(1) {
        place = match field.parse::<usize>() {
            Ok(index) if place.get(index).is_some() => &mut place[index],
            _ => {
                if !place.is_object() {
                    *place = json!({});
                }
                &mut place[field]
            }
        };
    }
    *place = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_reaches_into_lists_and_makes_missing_objects() {
        let mut document = json!({ "mounts": [{}, { "type": "proc" }] });
        set(&mut document, "/mounts/1/type", json!("tmpfs"));
        set(&mut document, "/linux/seccomp/defaultAction", json!("SCMP_ACT_ALLOW"));
        assert_eq!(document["mounts"][1]["type"], "tmpfs");
        assert_eq!(document["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ALLOW");
    }

    #[test]
    fn only_what_a_features_document_denies_is_taken_for_missing() {
        for (features, denied) in [
            (json!({ "a": { "enabled": false } }), true),
            (json!({ "a": { "enabled": true } }), false),
            (json!({ "a": { "enabled": [] } }), true),
            (json!({ "a": { "enabled": ["x"] } }), false),
            (json!({ "ociVersionMax": "1.3.0" }), true),
            (json!({ "ociVersionMax": "1.10.0-dev", "a": null }), true),
            (json!({ "ociVersionMax": "1.2.1" }), false),
            (json!({ "ociVersionMax": "1.1.0+dev" }), false),
            (json!({}), false),
            (json!({ "ociVersionMax": "1.3.0", "a": { "enabled": true } }), false),
        ] {
            assert_eq!(denies(&features, "/a/enabled", (1, 3)), denied, "{features}");
        }
    }

    #[test]
    fn names_and_versions_are_read_from_the_usual_first_lines() {
        assert_eq!(name_and_version("runc version 1.1.5+ds1\ncommit: x\n"), (Some("runc"), "1.1.5+ds1"));
        assert_eq!(name_and_version("youki version: 0.7.0\n"), (Some("youki"), "0.7.0"));
        assert_eq!(name_and_version("something else\n"), (None, ""));
    }
}
