//! What the daemon says to containerd's log, and how important it is: the numbers of containerd's `LogLevel`.

/// Every call.
pub const DEBUG: i32 = -4;
/// What should be known.
pub const INFO: i32 = 0;
/// Something was not done as it was asked for.
pub const WARN: i32 = 4;
/// Something failed, and nobody else is told.
pub const ERROR: i32 = 8;

/// One line, as containerd's own lines are.
pub fn line(level: i32, text: &str, namespace: &str) -> String {
    let word = match level {
        ..INFO => "debug",
        INFO..WARN => "info",
        WARN..ERROR => "warning",
        ERROR.. => "error",
    };
    let time = orlop::container::now();
    format!("time=\"{time}\" level={word} msg={text:?} namespace={namespace:?}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_level_and_stays_one_line() {
        for (level, word) in [(-8, "debug"), (DEBUG, "debug"), (INFO, "info"), (WARN, "warning"), (ERROR, "error")] {
            let line = line(level, "a\n\"b\"", "n s");
            assert!(line.contains(&format!(" level={word} msg=\"a\\n\\\"b\\\"\" namespace=\"n s\"\n")), "{line}");
            assert_eq!(line.lines().count(), 1);
        }
    }
}
