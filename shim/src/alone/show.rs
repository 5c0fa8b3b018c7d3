//! What `ps` and `inspect` print.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::restart::Policy;
use super::state::Condition;
use super::stop::Found;
use super::time::Time;

/// The longest command that a table shows, in characters.
const COMMAND: usize = 30;

/// A table as Docker sets it: a column is three characters wider than its longest cell, and at least ten; the last is as
/// it is.
pub fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let width = |cell: &str| (cell.chars().count() + 3).max(10);
    let mut widths = head.map(width);
    for row in rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = (*widest).max(width(cell));
        }
    }
    let mut text = String::new();
    let mut line = |cells: [&str; N]| {
        let mut row = String::new();
        for (width, cell) in widths.iter().zip(cells) {
            // Writing to a string does not fail.
            let _ = write!(row, "{cell:<width$}");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    };
    line(head);
    for row in rows {
        line(row.each_ref().map(String::as_str));
    }
    text
}

/// What is not to be printed as it is does not move anybody's cursor.
fn plain(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn command(found: &Found, whole: bool) -> String {
    let text = plain(&found.options.command.join(" "));
    if whole || text.chars().count() <= COMMAND {
        return format!("\"{text}\"");
    }
    let cut: String = text.chars().take(COMMAND - 1).collect();
    format!("\"{cut}\u{2026}\"")
}

fn ago(text: &str, now: Time) -> String {
    let seconds = Time::parse(text).map_or(0, |then| now.seconds_since(then));
    format!("{} ago", super::time::words(seconds))
}

/// The table of `ps`.
pub fn ps(all: &[Found], whole: bool, now: Time) -> String {
    let rows: Vec<_> = all
        .iter()
        .map(|found| {
            let (state, options) = (&found.state, &found.options);
            let pid = if found.condition.is_alive() { state.init.pid.to_string() } else { String::new() };
            [
                found.folder.id().to_string(),
                command(found, whole),
                ago(&state.created_at, now),
                found.condition.words(state, now),
                state.restarts.to_string(),
                pid,
                plain(&options.bundle),
            ]
        })
        .collect();
    table(["CONTAINER ID", "COMMAND", "CREATED", "STATUS", "RESTARTS", "PID", "BUNDLE"], &rows)
}

/// All that is known of a container, in the names that Docker has for it.
pub fn document(found: &Found, now: Time) -> Value {
    let (state, options, condition) = (&found.state, &found.options, found.condition);
    let (name, most) = match options.restart {
        Policy::OnFailure(most) => ("on-failure".to_owned(), most),
        policy => (policy.to_string(), 0),
    };
    let alive = condition.is_alive();
    let monitor = found.monitor().map_or(0, |_| state.monitor.pid);
    json!({
        "Id": found.folder.id().as_str(),
        "Bundle": options.bundle,
        "Command": options.command,
        "Created": state.created_at,
        "Status": condition.words(state, now),
        "State": {
            "Status": condition.word(),
            "Running": alive,
            "Paused": condition == Condition::Paused,
            "Restarting": condition == Condition::Restarting,
            "Watched": condition != Condition::Unwatched,
            "OOMKilled": state.oom_killed,
            "Dead": condition == Condition::Lost,
            "Pid": if alive { state.init.pid } else { 0 },
            "MonitorPid": monitor,
            "ExitCode": if alive { 0 } else { state.exit_code },
            "Error": state.error,
            "StartedAt": state.started_at,
            "FinishedAt": state.finished_at,
        },
        "RestartCount": state.restarts,
        "LogPath": options.log_path(&found.folder),
        "Config": {
            "Tty": options.terminal,
            "OpenStdin": options.interactive,
            "StdinOnce": options.once,
            "StopSignal": orlop_sys::signal::name_of(options.stop_signal),
            "StopTimeout": if options.stop_timeout == u32::MAX { -1 } else { i64::from(options.stop_timeout / 1000) },
        },
        "HostConfig": {
            "RestartPolicy": { "Name": name, "MaximumRetryCount": most },
            "AutoRemove": options.remove,
            "LogConfig": {
                "Type": options.log_format,
                "Config": { "max-size": options.log_max_size, "max-file": options.log_max_files },
            },
        },
        "Root": options.root,
        "StatePath": found.folder.path(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_what_is_in_it() {
        let row = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        let rows = [row("web", "x"), row("db", "")];
        assert_eq!(table(["ID", "STATUS"], &rows), "ID        STATUS\nweb       x\ndb\n");
        assert_eq!(table(["ID", "STATUS"], &[row("a-long-name", "x")]), "ID            STATUS\na-long-name   x\n");
    }

    #[test]
    fn what_a_container_is_called_moves_no_cursor() {
        assert_eq!(plain("a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }
}
