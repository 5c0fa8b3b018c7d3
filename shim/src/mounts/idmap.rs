//! User namespaces that exist for their maps: a mount that has one shows the owners of its files through them.

use orlop::idmap;
use orlop::plan::Maps;
use orlop_sys::OwnedFd;

use super::Why;

/// As many lines as the kernel takes.
const MAX_LINES: usize = 340;

/// A user namespace with the maps `uid` and `gid`: `INSIDE:OUTSIDE:SIZE`, more of them after commas.
pub(super) fn user_namespace(uid: &str, gid: &str) -> Result<OwnedFd, Why> {
    let (uid, gid) = (lines(uid).ok_or_else(|| bad("uidmap", uid))?, lines(gid).ok_or_else(|| bad("gidmap", gid))?);
    idmap::namespace(&Maps { uid, gid }).map_err(|e| Why(format!("id maps: {e}")))
}

fn bad(key: &str, map: &str) -> Why {
    Why(format!("{key}={map}: not a map"))
}

/// The text of /proc/PID/uid_map.
fn lines(map: &str) -> Option<String> {
    let mut text = String::new();
    let entries = || map.split(',');
    if entries().count() > MAX_LINES {
        return None;
    }
    for entry in entries() {
        let mut numbers = entry.split(':').map(str::parse::<u32>);
        let (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(size @ 1..)), None) =
            (numbers.next(), numbers.next(), numbers.next(), numbers.next())
        else {
            return None;
        };
        text.push_str(&format!("{inside} {outside} {size}\n"));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_three_numbers_and_maybe_more_of_them() {
        for (map, want) in [
            ("0:100000:65536", Some("0 100000 65536\n")),
            ("0:1:1,5:7:9", Some("0 1 1\n5 7 9\n")),
            ("", None),
            ("0:1", None),
            ("0:1:0", None),
            ("0:1:2:3", None),
            ("0:-1:2", None),
            ("0:1:2,", None),
            ("0:4294967296:1", None),
        ] {
            assert_eq!(lines(map).as_deref(), want, "{map}");
        }
        assert_eq!(lines(&["0:1:1"; 400].join(",")), None);
    }
}
