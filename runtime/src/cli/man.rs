//! `orlop man DIR`: manual pages made from the [`table`](super::table), in the macros of man(7).

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write as _};

use super::help::shown;
use super::table::{COMMANDS, Entry, Flag, GLOBAL};

/// The pages: file names and texts.
pub(crate) fn pages() -> impl Iterator<Item = (String, String)> {
    let commands = COMMANDS.iter().map(|entry| (format!("orlop-{}.8", entry.name), page(entry)));
    std::iter::once(("orlop.8".to_owned(), overview())).chain(commands)
}

/// Writes the pages into `dir`, over those that are there.
///
/// # Errors
/// What the kernel says about the first file that can't be written, and its path.
pub(crate) fn write(dir: &str) -> Result<(), (String, io::Error)> {
    for (name, text) in pages() {
        let path = format!("{dir}/{name}");
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| (path, error))?;
    }
    Ok(())
}

/// Text as roff wants it: no line begins with a control character, and dashes and backslashes stay what they are.
fn text(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    match escaped.chars().next() {
        Some('.' | '\'') => format!("\\&{escaped}"),
        _ => escaped,
    }
}

fn head(name: &str, about: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        ".TH {} 8 \"\" \"orlop {version}\" \"orlop\"\n.nh\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n",
        name.to_uppercase(),
        text(name),
        text(about)
    )
}

fn overview() -> String {
    let mut page = head("orlop", "a low-level OCI runtime");
    page.push_str(
        ".B orlop\n[\\fIglobal options\\fR] \\fIcommand\\fR [\\fIoptions\\fR] [\\fIarguments\\fR]\n.SH DESCRIPTION\n",
    );
    let _ = writeln!(
        page,
        "{}",
        text(
            "Makes, starts, enters, signals and deletes containers as the OCI runtime specification describes them. The \
             command line is runc's, so that engines can use orlop in its place."
        )
    );
    page.push_str(".SH COMMANDS\n");
    for entry in COMMANDS {
        let _ = write!(page, ".TP\n.BR orlop\\-{} (8)\n{}\n", entry.name, text(entry.about));
    }
    page.push_str(".SH GLOBAL OPTIONS\n");
    options(&mut page, GLOBAL);
    let _ = write!(
        page,
        ".SH EXIT STATUS\n{}\n.SH FILES\n.TP\n.I /run/orlop\n{}\n",
        text(
            "0 on success, 1 on an error, 3 for a command that does not exist. run and exec exit with the exit code of the \
             process, or with 128 and the number of the signal that ended it; exec with 255 if it could not run it."
        ),
        text("The state of the containers."),
    );
    page
}

fn page(entry: &Entry) -> String {
    let mut page = head(&format!("orlop-{}", entry.name), entry.about);
    for (at, usage) in entry.usage.split("  |  ").enumerate() {
        if at > 0 {
            page.push_str(".br\n");
        }
        let _ = writeln!(page, ".B orlop {}\n[\\fIoptions\\fR] {}", entry.name, text(usage));
    }
    page.push_str(".SH DESCRIPTION\n");
    for (at, paragraph) in entry.description.split("\n\n").enumerate() {
        if at > 0 {
            page.push_str(".PP\n");
        }
        let _ = writeln!(page, "{}", text(paragraph));
    }
    page.push_str(".SH OPTIONS\n");
    options(&mut page, entry.flags);
    if !entry.examples.is_empty() {
        page.push_str(".SH EXAMPLES\n");
        for (line, what) in entry.examples {
            let _ = write!(page, ".TP\n.B {}\n{}\n", text(line), text(what));
        }
    }
    page.push_str(".SH SEE ALSO\n.BR orlop (8)\n");
    page
}

fn options(page: &mut String, flags: &[&'static Flag]) {
    for flag in shown(flags) {
        let value = flag.value().map(|value| format!(" \\fI{}\\fR", text(value.name()))).unwrap_or_default();
        let short = flag.short.map(|short| format!(", \\fB\\-{short}\\fR{value}")).unwrap_or_default();
        let _ = write!(page, ".TP\n\\fB\\-\\-{}\\fR{value}{short}\n{}\n", text(flag.name), text(flag.help));
    }
}
