//! `completion` and `man`: what the command table says, for shells and for man(1).

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use orlop_bundle::dir::Dir;
use orlop_bundle::error::{At, Result};

use super::Cli;

/// `completion SHELL`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  orlop-bundle completion bash > /etc/bash_completion.d/orlop-bundle")]
pub(crate) struct Completion {
    /// For which shell
    pub(crate) shell: Shell,
}

/// `man DIR`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  orlop-bundle man /usr/local/share/man/man8")]
pub(crate) struct Man {
    /// Where the pages are put: orlop-bundle.8 and one for each command
    #[arg(value_name = "DIR")]
    pub(crate) folder: String,
}

/// The script.
pub(crate) fn completion(args: &Completion) -> String {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "orlop-bundle", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The pages: file names and texts.
pub(crate) fn pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut whole = Cli::command();
    whole.build();
    // Built, each command knows its whole name: orlop-bundle-pull.
    let commands = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    std::iter::once(whole.clone())
        .chain(commands)
        .map(|command| {
            let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
            let mut page = Vec::new();
            let man = clap_mangen::Man::new(command).title(name.to_uppercase()).section("8").manual("orlop");
            man.render(&mut page).at(|| format!("manual page {name}"))?;
            Ok((format!("{name}.8"), page))
        })
        .collect()
}

/// Writes the pages into the folder, in the place of those that are there.
pub(crate) fn man(args: &Man) -> Result<()> {
    let folder = Dir::at(Path::new(&args.folder))?;
    for (name, page) in pages()? {
        folder.write(&name, &page)?;
        // `replace` makes files for their owner alone; these are for all who read manuals.
        rustix::fs::chmodat(&folder, &name, 0o644.into(), rustix::fs::AtFlags::empty()).at(|| name.clone())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_gets_a_script_and_every_command_a_page() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let script = completion(&Completion { shell });
            for word in ["orlop-bundle", "history", "no-trunc", "unmount"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
        let pages = pages().unwrap();
        let commands = Cli::command();
        assert_eq!(pages.len(), commands.get_subcommands().count() + 1);
        for (name, page) in &pages {
            let page = String::from_utf8(page.clone()).unwrap();
            assert!(page.contains(".TH") && page.contains(".SH SYNOPSIS"), "{name}: {page}");
        }
        for command in commands.get_subcommands() {
            let name = format!("orlop-bundle-{}.8", command.get_name());
            assert!(pages.iter().any(|(have, _)| *have == name), "{name}");
        }
    }
}
