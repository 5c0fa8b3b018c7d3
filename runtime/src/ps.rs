//! `ps`: which processes a container has, by their numbers on the host.

use std::process::{Command, Stdio};

use crate::container::Container;
use crate::error::{At, Error, ErrorKind, Result};
use crate::store::{ContainerId, Store};

/// The pids of every process in the container's cgroup and below it; of init alone, when it has no cgroup of its own.
/// A container that has ended may still have some, if it shares its pid namespace.
pub fn pids(store: &Store, id: &ContainerId) -> Result<Vec<u32>> {
    let container = Container::open(store, id)?;
    container.dir().check_owner()?;
    if !container.is_of_this_boot()? {
        return Ok(Vec::new());
    }
    match container.cgroup()? {
        Some(cgroup) => cgroup.pids(),
        None => Ok(container.pidfd()?.map(|_| container.record().pid.unsigned_abs()).into_iter().collect()),
    }
}

/// What the host's ps(1) prints with `arguments` (`-ef` if there are none), less the rows of all other processes.
///
/// # Errors
/// `Os` when ps can't be run or fails; `InvalidSpec` when `arguments` leave the column PID out.
pub fn table(pids: &[u32], arguments: &[String]) -> Result<String> {
    let mut ps = Command::new("ps");
    match arguments {
        [] => ps.arg("-ef"),
        given => ps.args(given),
    };
    let output = ps.stdin(Stdio::null()).output().at(|| "ps")?;
    let printed = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let text = format!("ps: {}: {}", output.status, format!("{printed}{complaint}").trim());
        return Err(Error::new(ErrorKind::Os, text));
    }
    rows_of(pids, &printed)
}

/// The head, and the rows of `pids`.
fn rows_of(pids: &[u32], printed: &str) -> Result<String> {
    let (head, rows) = printed.split_once('\n').unwrap_or((printed, ""));
    let column = head.split_whitespace().position(|title| title == "PID");
    let column = column.ok_or_else(|| Error::new(ErrorKind::InvalidSpec, "couldn't find PID field in ps output"))?;
    let mut kept = format!("{head}\n");
    for row in rows.lines() {
        let Some(cell) = row.split_whitespace().nth(column) else { continue };
        let pid = cell.parse::<u32>();
        let pid = pid.map_err(|_| Error::new(ErrorKind::InvalidSpec, format!("unable to parse pid {cell:?}")))?;
        if pids.contains(&pid) {
            kept.push_str(row);
            kept.push('\n');
        }
    }
    Ok(kept)
}

/// The JSON array; `null` when there are none, as runc has it.
pub fn json(pids: &[u32]) -> String {
    match pids {
        [] => "null\n".to_owned(),
        pids => format!("[{}]\n", pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_rows_of_the_container_stay_as_they_were_printed() {
        let printed = "UID  PID  PPID CMD\nroot 1 0 init\nroot   12  1 sh -c \"echo 1\"\n\nroot 121 1 sleep\n";
        for (pids, want) in [
            (&[12][..], "UID  PID  PPID CMD\nroot   12  1 sh -c \"echo 1\"\n"),
            (&[121, 1], "UID  PID  PPID CMD\nroot 1 0 init\nroot 121 1 sleep\n"),
            (&[0, 2], "UID  PID  PPID CMD\n"),
            (&[], "UID  PID  PPID CMD\n"),
        ] {
            assert_eq!(rows_of(pids, printed).unwrap(), want);
        }
    }

    #[test]
    fn a_table_whose_pids_can_not_be_read_is_refused() {
        for (printed, want) in [
            ("", "couldn't find PID field in ps output"),
            ("COMMAND\ninit\n", "couldn't find PID field in ps output"),
            ("STARTED PID\nSat Nov 21 1\n", "unable to parse pid \"Nov\""),
        ] {
            assert_eq!(rows_of(&[1], printed).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn an_array_of_nothing_is_null() {
        assert_eq!((json(&[]), json(&[7]), json(&[7, 8])), ("null\n".into(), "[7]\n".into(), "[7,8]\n".into()));
    }
}
