//! Images that mean harm. Each is pulled; what is refused leaves nothing behind, what is accepted becomes exactly the
//! tree that it should, in both backends. A folder outside, whose name the images know, never changes.

mod archives;
mod documents;
mod packing;
mod settings;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use orlop_images::layout::{Layout, Packing};
use orlop_images::recipes;
use orlop_images::tree::{Rules, Tree};

use crate::tool::{Backend, Tool};

type Judge = Box<dyn Fn(&[String]) -> bool>;

/// What must come of an image.
enum Want {
    /// `pull` says no.
    Refused,
    /// `pull` takes it, and `create` says no.
    NotCreated,
    /// Bundles with one of these listings.
    Tree(Vec<Vec<String>>),
    /// Bundles with a listing that passes.
    Check(Judge),
    /// An end in time, whatever it is.
    Survived,
}

struct Case {
    name: String,
    /// Makes an image with the tag `t`.
    build: Box<dyn Fn(&mut Layout)>,
    want: Want,
}

/// A list of images in the making.
struct Cases<'a> {
    tool: &'a Tool,
    list: Vec<Case>,
}

impl Cases<'_> {
    /// The folder outside that images are after.
    fn canary(&self) -> String {
        self.tool.path("canary")
    }

    fn layers(&mut self, name: impl Into<String>, layers: &[Vec<u8>], want: Want) {
        let layers = layers.to_vec();
        let build = move |layout: &mut Layout| {
            let layers: Vec<_> = layers.iter().map(|tar| layout.layer_of(Packing::Plain, tar)).collect();
            layout.image("t", &layers, recipes::shell());
        };
        self.layout(name, want, build);
    }

    fn refused(&mut self, name: impl Into<String>, layers: &[Vec<u8>]) {
        self.layers(name, layers, Want::Refused);
    }

    fn tree(&mut self, name: impl Into<String>, layers: &[Vec<u8>], tree: &[&str]) {
        self.either(name, layers, &[tree]);
    }

    fn either(&mut self, name: impl Into<String>, layers: &[Vec<u8>], trees: &[&[&str]]) {
        self.layers(name, layers, listings(trees));
    }

    fn check(&mut self, name: impl Into<String>, layers: &[Vec<u8>], judge: impl Fn(&[String]) -> bool + 'static) {
        self.layers(name, layers, Want::Check(Box::new(judge)));
    }

    fn survived(&mut self, name: impl Into<String>, layers: &[Vec<u8>]) {
        self.layers(name, layers, Want::Survived);
    }

    /// Any layout.
    fn layout(&mut self, name: impl Into<String>, want: Want, build: impl Fn(&mut Layout) + 'static) {
        self.list.push(Case { name: name.into(), build: Box::new(build), want });
    }
}

/// One of these listings, in any order of lines.
fn listings(trees: &[&[&str]]) -> Want {
    let sorted = |tree: &&[&str]| {
        let mut lines: Vec<_> = tree.iter().map(|line| (*line).to_owned()).collect();
        lines.sort();
        lines
    };
    Want::Tree(trees.iter().map(sorted).collect())
}

/// Tries all cases that `list` makes, and ends the test with those that did not go as they should.
#[track_caller]
fn try_all(topic: &str, at_least: usize, list: impl FnOnce(&mut Cases<'_>)) {
    let Some(tool) = Tool::new(topic) else { return };
    let canary = tool.dir.join("canary");
    lay_out(&canary);
    let before = Tree::of(&canary);
    let mut cases = Cases { tool: &tool, list: Vec::new() };
    list(&mut cases);
    let cases = cases.list;
    assert!(cases.len() >= at_least, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let dir = tool.dir.join(format!("case{number}"));
        // A name that a layer leaves it by must not find one that belongs to another case.
        fs::create_dir_all(&dir).unwrap();
        if let Err(why) = attempt(&tool, case, &dir) {
            wrong.push(format!("{}: {why}", case.name));
        }
        let changed = before.differences(&Tree::of(&canary), &Rules::default());
        assert!(changed.is_empty(), "{}: changed what is outside: {changed:?}", case.name);
        fs::remove_dir_all(&dir).unwrap();
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// What is outside: a file, its link, a folder that only root may enter.
fn lay_out(canary: &Path) {
    fs::create_dir_all(canary.join("closed")).unwrap();
    fs::write(canary.join("secret"), "secret").unwrap();
    fs::set_permissions(canary.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(canary.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(canary.join("closed/x"), "").unwrap();
    symlink("secret", canary.join("link")).unwrap();
}

fn attempt(tool: &Tool, case: &Case, dir: &Path) -> Result<(), String> {
    let mut layout = Layout::new(dir.join("layout"));
    (case.build)(&mut layout);
    let own = tool.with_store(dir.join("store"));
    let run = |args: &[&str]| {
        let ran = own.ran(own.command(args));
        match ran.status.code() {
            Some(code) if code < 100 && !ran.err.contains("panicked") => Ok(ran),
            _ => Err(format!("{args:?}: {}: {}{}", ran.status, ran.out, ran.err)),
        }
    };
    let ok = |args: &[&str]| {
        let ran = run(args)?;
        if ran.ok() { Ok(ran) } else { Err(format!("{args:?}: {}: {}", ran.status, ran.err.trim())) }
    };
    let pulled = run(&["pull", "--name", "t:1", &layout.name("t")])?;
    ok(&["verify"])?;
    if !pulled.ok() {
        if pulled.err.trim().lines().count() != 1 {
            return Err(format!("an error of other than one line: {:?}", pulled.err));
        }
        // The jail is for what nobody thought of.
        if ["system call filter", "hear the worker", "panicked"].iter().any(|word| pulled.err.contains(word)) {
            return Err(format!("refused by accident: {}", pulled.err.trim()));
        }
        let images = ok(&["images", "--quiet"])?.out;
        if !images.trim().is_empty() {
            return Err(format!("refused, but there: {images}"));
        }
        return match case.want {
            Want::Refused | Want::Survived => Ok(()),
            _ => Err(format!("refused: {}", pulled.err.trim())),
        };
    }
    if matches!(case.want, Want::Refused) {
        return Err("pulled".to_owned());
    }
    let mut trees = Vec::new();
    for backend in Backend::BOTH {
        let bundle = dir.join(backend.name());
        let path = bundle.display().to_string();
        let created = run(&["create", "--backend", backend.name(), "t:1", &path])?;
        if !created.ok() {
            if bundle.exists() {
                return Err(format!("{} backend: refused, but left {path}: {}", backend.name(), created.err.trim()));
            }
            match case.want {
                Want::NotCreated | Want::Survived => continue,
                _ => return Err(format!("{} backend: {}", backend.name(), created.err.trim())),
            }
        }
        if !matches!(case.want, Want::NotCreated | Want::Survived) {
            trees.push((backend, Tree::of(&bundle.join("rootfs"))));
        }
        ok(&["rm", &path])?;
        if matches!(case.want, Want::NotCreated) {
            return Err(format!("{} backend: created", backend.name()));
        }
    }
    for (backend, tree) in &trees {
        let mut listing = tree.listing();
        listing.sort();
        let fine = match &case.want {
            Want::Tree(trees) => trees.contains(&listing),
            Want::Check(judge) => judge(&listing),
            _ => true,
        };
        if !fine {
            let brief: Vec<_> = listing.iter().take(20).collect();
            return Err(format!("{} backend: {brief:?}", backend.name()));
        }
    }
    if let [(_, mounted), (_, written)] = &trees[..] {
        let differences = mounted.differences(written, &Rules::default());
        if !differences.is_empty() {
            return Err(format!("the directory is not what is mounted: {differences:?}"));
        }
    }
    ok(&["verify"])?;
    Ok(())
}

#[test]
fn names_that_lead_outside_are_refused_and_strange_ones_stay_below_the_root() {
    try_all("hostile-names", 80, archives::names);
}

#[test]
fn nothing_is_written_through_a_link() {
    try_all("hostile-links", 30, archives::links);
}

#[test]
fn marks_of_layers_mean_the_layers_below_in_any_order() {
    try_all("hostile-whiteouts", 30, archives::whiteouts);
}

#[test]
fn no_kind_and_no_attribute_acts_on_the_overlay() {
    try_all("hostile-kinds", 25, archives::kinds);
}

#[test]
fn what_two_readers_would_read_differently_is_refused() {
    try_all("hostile-dialects", 65, archives::dialects);
}

#[test]
fn compressed_layers_end_in_time_and_within_bounds() {
    try_all("hostile-packing", 15, packing::all);
}

#[test]
fn documents_that_lie_are_refused() {
    try_all("hostile-documents", 60, documents::all);
}

#[test]
fn what_an_image_wants_to_be_run_with_has_no_power_over_the_host() {
    try_all("hostile-settings", 20, settings::all);
}

/// A path that is in a layout.
fn inside(layout: &Layout, name: &str) -> PathBuf {
    layout.dir.join(name)
}
