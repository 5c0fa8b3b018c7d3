//! The guide's walk-through, command by command, with any engine whose command line is Docker's: what a user learns of
//! containers in an afternoon, each step with what it promises.
//!
//! Base images are Debian's packages and packages come from servers on the host, since no public registry is asked;
//! all else is as the guide has it.

mod base;
mod build;
mod change;
mod clean;
mod engine;
mod follow;
pub(crate) mod registry;
mod run;
mod settings;
mod share;
mod watch;
mod workflow;

pub(crate) use base::{Base, busybox};
pub(crate) use engine::{Builder, Engine, Kind};
pub(crate) use follow::Follower;

/// What is done and asserted in a step.
type Step = fn(&Engine);

/// The steps in their order: later ones use the images that earlier ones have built.
const STEPS: [(&str, Step); 27] = [
    ("build a Node web app", build::web),
    ("build a Python app", build::api),
    ("tag an image", build::tags),
    ("build again from the cache, and what has changed anew", build::cache),
    ("build in two stages", build::stages),
    ("list images and their history with sizes", build::history),
    ("run an app and publish its port", run::published),
    ("run three containers of one image", run::three),
    ("a container's states from create to rm", run::states),
    ("exit statuses", run::statuses),
    ("change a file in a container, and lose it with the container", change::lost),
    ("commit a container after npm install", change::commit),
    ("environment variables", settings::environment),
    ("folders of the host and named volumes", settings::volumes),
    ("limits of processors and memory", settings::limits),
    ("restart after a crash", settings::restart),
    ("inspect", watch::inspect),
    ("logs, and logs that are followed", watch::logs),
    ("stats", watch::stats),
    ("a shell at a terminal", watch::terminal),
    ("log in, push and pull", share::registry),
    ("develop with a bind mount", workflow::development),
    ("release with semantic versions", workflow::production),
    ("images sorted by size", clean::sorted),
    ("prune containers", clean::containers),
    ("prune images without a name", clean::dangling),
    ("prune all images that nothing uses", clean::all),
];

/// Walks all of it. The first promise that is broken ends the test.
#[track_caller]
pub(crate) fn walk(engine: &Engine, base: &Base) {
    let started = std::time::Instant::now();
    let _packages = base.hand_over(engine);
    eprintln!("{:5.1} s: base images", started.elapsed().as_secs_f64());
    for (what, step) in STEPS {
        let started = std::time::Instant::now();
        eprintln!("         {what}");
        step(engine);
        eprintln!("{:5.1} s: {what}", started.elapsed().as_secs_f64());
    }
}
