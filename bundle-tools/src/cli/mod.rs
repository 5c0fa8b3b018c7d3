//! The command line: what there is to say, and who does it.

pub(crate) mod bundles;
pub(crate) mod manual;
pub(crate) mod screen;
pub(crate) mod shown;
pub(crate) mod stored;
pub(crate) mod transfer;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use orlop_bundle::error::Error;

/// Container images become bundles for OCI runtimes, and bundles become images.
#[derive(Debug, Parser)]
#[command(name = "orlop-bundle", version, max_term_width = 110, disable_help_subcommand = true, after_help = START)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const START: &str = "\
A first round:
  orlop-bundle pull registry.example/debian:bookworm
  orlop-bundle create registry.example/debian:bookworm web
  orlop run -b web c1
  orlop-bundle commit web mine:2.0
  orlop-bundle push mine:2.0 127.0.0.1:5000/mine:2.0";

/// What every command understands.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The store; else $ORLOP_STORE, /var/lib/orlop for root, $XDG_DATA_HOME/orlop for others
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) store: Option<PathBuf>,
    /// Say what is done, on standard error
    #[arg(long, global = true)]
    pub(crate) debug: bool,
    /// Print JSON for programs: whole ids, bytes, RFC 3339
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Show no progress; of what is listed, print the ids alone
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Fetch images into the store
    Pull(transfer::Pull),
    /// Make an image of one layer from a root file system: a tar or a folder
    Import(transfer::Import),
    /// Take all images of an archive or a layout into the store
    Load(transfer::Load),
    /// Make a bundle of an image: config.json and a root file system
    Create(Box<bundles::Create>),
    /// Write an image's files into a folder
    Unpack(bundles::Unpack),
    /// Make an image of a bundle's changes
    Commit(bundles::Commit),
    /// Send an image to a registry, or write it as a layout or an archive
    Push(transfer::Push),
    /// List images
    #[command(visible_alias = "ls")]
    Images(shown::Images),
    /// Show what an image was made of
    History(shown::History),
    /// Show all that is known of images
    Inspect(shown::Inspect),
    /// Give an image another name
    Tag(stored::Tag),
    /// Remove names of images, and images that have no other name
    Rmi(stored::Rmi),
    /// Show what was added (A), changed (C) and deleted (D) in a bundle
    Diff(bundles::Diff),
    /// Show what the store takes, and what of it could be free
    Df(shown::Df),
    /// Remove what nothing needs
    Prune(stored::Prune),
    /// Mount a bundle's root again, after the machine was restarted or the bundle unmounted
    Mount(bundles::Mount),
    /// Unmount a bundle's root, and keep the bundle
    #[command(visible_alias = "umount")]
    Unmount(bundles::Unmount),
    /// Remove bundles
    Rm(bundles::Rm),
    /// Keep a name and a password for a registry
    Login(transfer::Login),
    /// Forget them
    Logout(transfer::Logout),
    /// Write images into an archive
    Save(transfer::Save),
    /// Read and hash everything in the store
    Verify(stored::Verify),
    /// Print a completion script for a shell
    Completion(manual::Completion),
    /// Write the manual pages into a folder
    Man(manual::Man),
}

impl Command {
    /// Its name, and what it is about.
    fn subject(&self) -> (&'static str, &[String]) {
        let one = std::slice::from_ref;
        match self {
            Self::Pull(args) => ("pull", &args.images),
            Self::Import(args) => ("import", one(&args.source)),
            Self::Load(args) => ("load", args.input.as_slice()),
            Self::Create(args) => ("create", one(&args.bundle)),
            Self::Unpack(args) => ("unpack", one(&args.image)),
            Self::Commit(args) => ("commit", one(&args.bundle)),
            Self::Push(args) => ("push", one(&args.image)),
            Self::Images(_) => ("images", &[]),
            Self::History(args) => ("history", one(&args.image)),
            Self::Inspect(args) => ("inspect", &args.images),
            Self::Tag(args) => ("tag", one(&args.image)),
            Self::Rmi(args) => ("rmi", &args.images),
            Self::Diff(args) => ("diff", one(&args.bundle)),
            Self::Df(_) => ("df", &[]),
            Self::Prune(_) => ("prune", &[]),
            Self::Mount(args) => ("mount", &args.bundles),
            Self::Unmount(args) => ("unmount", &args.bundles),
            Self::Rm(args) => ("rm", &args.bundles),
            Self::Login(args) => ("login", one(&args.registry)),
            Self::Logout(args) => ("logout", one(&args.registry)),
            Self::Save(args) => ("save", &args.images),
            Self::Verify(_) => ("verify", &[]),
            Self::Completion(_) => ("completion", &[]),
            Self::Man(args) => ("man", one(&args.folder)),
        }
    }

    /// The line for an error: `orlop-bundle: pull a:1: no such image`. The object is named once: by the error, if it
    /// begins with it, or here, if there is but one.
    pub(crate) fn failed(&self, error: &Error) -> String {
        let (name, objects) = self.subject();
        let text = error.to_string();
        let is_named = objects.iter().any(|o| text.strip_prefix(o.as_str()).is_some_and(|rest| rest.starts_with(':')));
        match objects {
            _ if is_named => format!("orlop-bundle: {name} {text}"),
            [object] => format!("orlop-bundle: {name} {object}: {text}"),
            _ => format!("orlop-bundle: {name}: {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// The rest of what was understood, in the form that derive(Debug) gives it.
    fn parse(line: &str) -> Result<String, String> {
        let words = std::iter::once("orlop-bundle").chain(line.split(' '));
        match Cli::try_parse_from(words) {
            Ok(cli) => Ok(format!("{:?} {:?}", cli.command, cli.global)),
            Err(e) => Err(e.to_string()),
        }
    }

    #[test]
    fn the_table_of_commands_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn dockers_command_lines_are_understood() {
        for (line, parts) in [
            ("pull debian:bookworm", vec!["images: [\"debian:bookworm\"]"]),
            ("pull -q a b", vec!["quiet: true", "\"a\", \"b\""]),
            (
                "--store /s images -aq --no-trunc",
                vec!["store: Some(\"/s\")", "all: true", "no_trunc: true", "quiet: true"],
            ),
            (
                "images --digests --filter dangling=true -f label=a=b",
                vec!["Dangling(true)", "Label(\"a\", Some(\"b\"))"],
            ),
            (
                "images --format {{.ID}} --sort size debian",
                vec!["Some(\"{{.ID}}\")", "sort: Size", "name: Some(\"debian\")"],
            ),
            ("ls --json", vec!["Images(", "json: true"]),
            ("history --no-trunc -q --human=false a", vec!["no_trunc: true", "human: false", "quiet: true"]),
            ("history -H=false --format json a", vec!["human: false", "format: Some(\"json\")"]),
            ("history a --human", vec!["human: true"]),
            ("inspect -f {{.Id}} --type image a b", vec!["format: Some(\"{{.Id}}\")", "Some(Image)"]),
            ("tag a b", vec!["image: \"a\"", "name: \"b\""]),
            ("rmi -f a b", vec!["force: true"]),
            ("prune -a -f --filter until=24h", vec!["all: true", "force: true", "until=24h"]),
            ("login -u me -p secret registry.example", vec!["username: Some(\"me\")", "password: Some(\"secret\")"]),
            ("login -u me --password-stdin registry.example", vec!["password_stdin: true"]),
            ("save -o f.tar a b", vec!["output: Some(\"f.tar\")", "DockerArchive"]),
            ("save --all-platforms --format oci-archive a", vec!["all_platforms: true", "OciArchive"]),
            ("load -i f.tar", vec!["input: Some(\"f.tar\")"]),
            ("load --all-platforms", vec!["all_platforms: true", "input: None"]),
            (
                "commit -a me -m words web mine:2.0",
                vec!["author: Some(\"me\")", "bundle: \"web\"", "Some(\"mine:2.0\")"],
            ),
            ("umount web", vec!["Unmount(", "\"web\""]),
            ("rm -f a b", vec!["Rm(", "force: true"]),
            ("df -v --debug", vec!["verbose: true", "debug: true"]),
            ("verify --repair", vec!["repair: true"]),
            ("unpack --rootfs-only a dir", vec!["rootfs_only: true"]),
            ("create --backend directory a web", vec!["Directory", "bundle: \"web\""]),
        ] {
            let understood = parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
            for part in parts {
                assert!(understood.contains(part), "{line}: {part} is not in {understood}");
            }
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_on_the_command_line() {
        for (line, word) in [
            ("", "Usage"),
            ("frobnicate", "frobnicate"),
            ("pull", "IMAGE"),
            ("tag a", "NAME"),
            ("images --filter colour=red", "dangling"),
            ("images --sort shoe-size", "shoe-size"),
            ("images --json --format x", "cannot be used with"),
            ("history --json --format x a", "cannot be used with"),
            ("inspect", "IMAGE"),
            ("login --password-stdin registry.example", "--username"),
            ("login -u a -p b --password-stdin registry.example", "cannot be used with"),
            ("commit --level 99 web", "99"),
            ("completion tcsh", "tcsh"),
        ] {
            let said = parse(line).unwrap_err();
            assert!(said.contains(word), "{line}: {said}");
        }
    }

    #[test]
    fn an_error_names_the_object_once() {
        for (line, error, expected) in [
            ("pull a:1", "a:1: no such image", "orlop-bundle: pull a:1: no such image"),
            ("pull a:1", "no space left on device", "orlop-bundle: pull a:1: no space left on device"),
            ("pull a", "about: nothing", "orlop-bundle: pull a: about: nothing"),
            ("rmi a b", "b: no such image", "orlop-bundle: rmi b: no such image"),
            ("rmi a b", "refs: permission denied", "orlop-bundle: rmi: refs: permission denied"),
            ("df", "store /x: not a store", "orlop-bundle: df: store /x: not a store"),
        ] {
            let cli = Cli::try_parse_from(std::iter::once("orlop-bundle").chain(line.split(' '))).unwrap();
            assert_eq!(cli.command.failed(&Error::invalid(error)), expected);
        }
    }

    #[test]
    fn every_command_and_flag_says_what_it_is_for_and_no_line_is_too_wide() {
        let mut command = Cli::command();
        command.build();
        for command in std::iter::once(&command).chain(command.get_subcommands()) {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name}");
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some_and(|help| !help.to_string().is_empty()), "{name} {argument}");
            }
            let help = command.clone().render_help().to_string();
            // Without a terminal clap wraps nothing, so only what is written by hand is bounded.
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.lines().all(|line| line.chars().count() <= 130), "{name}: {examples}");
            assert!(help.contains("Usage"), "{name}");
        }
    }
}
