//! The pages that `--help` prints, laid out as runc's.

use std::fmt::Write as _;

use super::table::{self, COMMANDS, Entry, Flag, GLOBAL};

/// How wide a page is, in columns.
const WIDTH: usize = 100;

/// `orlop --help`.
pub(crate) fn overview() -> String {
    let mut page = String::from(
        "NAME:\n   orlop - a low-level OCI runtime\n\nUSAGE:\n   orlop [global options] command [command options] [arguments...]\n",
    );
    let _ = write!(page, "\nVERSION:\n   {}\n\nCOMMANDS:\n", env!("CARGO_PKG_VERSION"));
    let commands = || COMMANDS.iter().filter(|entry| !entry.hidden).map(|entry| (entry.name, entry.about));
    let width = commands().map(|(name, _)| name.len()).max().unwrap_or_default();
    for (name, about) in commands() {
        let _ = writeln!(page, "   {name:width$}  {about}");
    }
    let _ = writeln!(page, "   {:width$}  show this page, or that of a command", "help");
    page.push_str("\nGLOBAL OPTIONS:\n");
    options(&mut page, GLOBAL);
    page.push_str("\nEXAMPLE:\n");
    examples(
        &mut page,
        &[
            ("mkdir -p box/rootfs && cd box", "a bundle; put a root file system into rootfs"),
            ("orlop spec", "write a config.json that runs a shell"),
            ("orlop run box1", "run it"),
        ],
    );
    page
}

/// `orlop COMMAND --help`.
pub(super) fn page(entry: &Entry) -> String {
    let mut page = format!("NAME:\n   orlop {} - {}\n\nUSAGE:\n", entry.name, entry.about);
    let options_word = if shown(entry.flags).any(|flag| !std::ptr::eq(flag, &table::HELP)) { " [options]" } else { "" };
    for usage in entry.usage.split("  |  ") {
        let space = if usage.is_empty() { "" } else { " " };
        let _ = writeln!(page, "   orlop [global options] {}{options_word}{space}{usage}", entry.name);
    }
    page.push_str("\nDESCRIPTION:\n");
    for (at, paragraph) in entry.description.split("\n\n").enumerate() {
        if at > 0 {
            page.push('\n');
        }
        page.push_str("   ");
        wrap(&mut page, paragraph, 3);
    }
    if !entry.examples.is_empty() {
        page.push_str(if entry.examples.len() == 1 { "\nEXAMPLE:\n" } else { "\nEXAMPLES:\n" });
        examples(&mut page, entry.examples);
    }
    page.push_str("\nOPTIONS:\n");
    options(&mut page, entry.flags);
    page
}

/// The options that people are shown.
pub(super) fn shown(flags: &[&'static Flag]) -> impl Iterator<Item = &'static Flag> {
    flags.iter().copied().filter(|flag| !flag.hidden)
}

fn examples(page: &mut String, examples: &[(&str, &str)]) {
    for (line, what) in examples {
        let _ = writeln!(page, "   # {what}\n   {line}");
    }
}

fn options(page: &mut String, flags: &[&'static Flag]) {
    let heads: Vec<_> = shown(flags)
        .map(|flag| {
            let value = flag.value().map(|value| format!(" <{}>", value.name())).unwrap_or_default();
            let short = flag.short.map(|short| format!(", -{short}{value}")).unwrap_or_default();
            (format!("--{}{value}{short}", flag.name), flag.help)
        })
        .collect();
    let width = heads.iter().map(|(head, _)| head.len()).max().unwrap_or_default();
    for (head, help) in heads {
        let _ = write!(page, "   {head:width$}  ");
        wrap(page, help, 3 + width + 2);
    }
}

/// Appends `text`, broken into lines; the first begins where the page ends, the others at column `indent`.
fn wrap(page: &mut String, text: &str, indent: usize) {
    let mut column = indent;
    for (at, word) in text.split_whitespace().enumerate() {
        let length = word.chars().count();
        if at > 0 && column + 1 + length > WIDTH {
            let _ = write!(page, "\n{:indent$}", "");
            column = indent;
        } else if at > 0 {
            page.push(' ');
            column += 1;
        }
        page.push_str(word);
        column += length;
    }
    page.push('\n');
}
