//! What to write into a limit's file to have again what was in force. Pure.

use super::stats::Keyed;

/// What brings `text`, which was read from `file`, back after `written` was written into it; `None` when nothing does.
pub(super) fn former(file: &str, written: &str, text: &str) -> Option<String> {
    let line = |key: &str| text.lines().find(|line| line.split(' ').next() == Some(key));
    match (file, written.split_once(' ')) {
        ("memory.oom_control", _) => Some(Keyed::new(text).get("oom_kill_disable").to_string()),
        ("io.weight" | "io.bfq.weight", None) => line("default").or(text.lines().next()).map(str::to_owned),
        // One line with one value, or the two of cpu.max.
        ("cpu.max", _) | (_, None) => match text.trim() {
            // Nothing at all would not reach the file.
            "" => Some("\n".to_owned()),
            one if one.lines().count() == 1 => Some(one.to_owned()),
            _ => None,
        },
        // A line for each device that has a value of its own.
        (_, Some((key, _))) => line(key).map(str::to_owned).or_else(|| unset(file, key)),
    }
}

/// What takes the value of a device's own away.
fn unset(file: &str, key: &str) -> Option<String> {
    match file {
        "io.max" => Some(format!("{key} rbps=max wbps=max riops=max wiops=max")),
        "io.weight" => Some(format!("{key} default")),
        "rdma.max" => Some(format!("{key} hca_handle=max hca_object=max")),
        "io.bfq.weight" => Some(format!("{key} 0")),
        file if file.starts_with("blkio.") => Some(format!("{key} 0")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_former_value_is_the_text_or_the_devices_line_or_its_absence() {
        for (file, written, text, want) in [
            ("pids.max", "77", "max\n", Some("max")),
            ("memory.limit_in_bytes", "64", "9223372036854771712\n", Some("9223372036854771712")),
            ("cpu.max", "30000 60000", "max 100000\n", Some("max 100000")),
            ("cpuset.cpus", "0-1", "\n", Some("\n")),
            ("cpuset.cpus", "0-1", "0,2-3\n", Some("0,2-3")),
            ("memory.oom_control", "1", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", Some("0")),
            ("io.weight", "200", "default 100\n8:0 300\n", Some("default 100")),
            ("io.weight", "8:0 200", "default 100\n8:0 300\n", Some("8:0 300")),
            ("io.weight", "8:1 200", "default 100\n8:0 300\n", Some("8:1 default")),
            ("io.bfq.weight", "200", "100\n", Some("100")),
            ("io.bfq.weight", "8:0 200", "default 100\n", Some("8:0 0")),
            (
                "io.max",
                "8:0 rbps=7",
                "8:0 rbps=max wbps=5 riops=max wiops=max\n",
                Some("8:0 rbps=max wbps=5 riops=max wiops=max"),
            ),
            ("io.max", "8:0 rbps=7", "8:00 rbps=1\n", Some("8:0 rbps=max wbps=max riops=max wiops=max")),
            ("blkio.throttle.read_bps_device", "8:0 7", "8:0 9\n", Some("8:0 9")),
            ("blkio.throttle.read_bps_device", "8:0 7", "", Some("8:0 0")),
            ("net_prio.ifpriomap", "lo 3", "lo 0\neth0 1\n", Some("lo 0")),
            ("rdma.max", "a hca_handle=1", "a hca_handle=max hca_object=4\n", Some("a hca_handle=max hca_object=4")),
            ("rdma.max", "a hca_handle=1", "", Some("a hca_handle=max hca_object=max")),
            ("misc.max", "sev 3", "sev 5\n", Some("sev 5")),
            ("misc.max", "sev 3", "", None),
            ("unknown.file", "1", "a 1\nb 2\n", None),
        ] {
            assert_eq!(former(file, written, text).as_deref(), want, "{file}: {written:?} over {text:?}");
        }
    }
}
