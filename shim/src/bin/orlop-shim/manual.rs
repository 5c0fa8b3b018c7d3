//! `completion` and `man`: what the command table says, for shells and for man(1).

#![allow(clippy::disallowed_methods, reason = "the folder is the user's, who says where manual pages go")]

use clap::CommandFactory;
use orlop::error::{At, Result};

use crate::cli::{Cli, Completion, Man};

/// The script.
pub(crate) fn completion(args: &Completion) -> String {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "orlop-shim", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The pages: file names and texts.
fn pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut whole = Cli::command();
    whole.build();
    // Built, each command knows its whole name: orlop-shim-run.
    let commands: Vec<_> = whole.get_subcommands().cloned().collect();
    std::iter::once(whole)
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
    for (name, page) in pages()? {
        let path = format!("{}/{name}", args.folder);
        std::fs::write(&path, page).at(|| path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap_complete::Shell;

    #[test]
    fn every_shell_gets_a_script_and_every_command_a_page() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = completion(&Completion { shell });
            for word in ["orlop-shim", "reattach", "no-stream", "no-trunc"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
        let pages = pages().unwrap();
        assert_eq!(pages.len(), Cli::command().get_subcommands().count() + 1);
        for (name, page) in &pages {
            let page = String::from_utf8(page.clone()).unwrap();
            assert!(page.contains(".TH") && page.contains(".SH SYNOPSIS"), "{name}: {page}");
        }
    }
}
