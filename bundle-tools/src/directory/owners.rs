//! Who owns on disk what belongs to whom in the image.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The attribute in which a tree without real owners keeps those of the image: a protobuf message `{1: uid, 2: gid}`,
/// which umoci writes and proot-like tools read (rootlesscontainers-proto). What belongs to root has none.
pub const ROOTLESS_XATTR: &str = "user.rootlesscontainers";

/// A range of ids, as in uid_map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first id in the image.
    pub image: u32,
    /// The first id on disk.
    pub disk: u32,
    /// How many.
    pub count: u32,
}

/// How ids of the image become those on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owners {
    /// They are the same.
    #[default]
    Keep,
    /// They are mapped; one that no range has is an error.
    Map {
        /// For users.
        uids: Vec<IdRange>,
        /// For groups.
        gids: Vec<IdRange>,
    },
    /// Everything belongs to the one who writes, devices are empty files, and the real owner is in [`ROOTLESS_XATTR`].
    Rootless,
}

impl Owners {
    /// The owner on disk; `None` for whoever writes.
    pub fn on_disk(&self, uid: u32, gid: u32) -> Result<Option<(u32, u32)>> {
        match self {
            Self::Keep => Ok(Some((uid, gid))),
            Self::Map { uids, gids } => Ok(Some((
                mapped(uids, uid, |range| (range.image, range.disk)).ok_or_else(|| unmapped("user", uid))?,
                mapped(gids, gid, |range| (range.image, range.disk)).ok_or_else(|| unmapped("group", gid))?,
            ))),
            Self::Rootless => Ok(None),
        }
    }

    /// The owner in the image of what belongs to `uid` and `gid` on disk; `recorded` is the value of [`ROOTLESS_XATTR`].
    pub fn in_image(&self, uid: u32, gid: u32, recorded: Option<&[u8]>) -> Result<(u32, u32)> {
        match self {
            Self::Keep => Ok((uid, gid)),
            Self::Map { uids, gids } => Ok((
                mapped(uids, uid, |range| (range.disk, range.image)).ok_or_else(|| unmapped("user", uid))?,
                mapped(gids, gid, |range| (range.disk, range.image)).ok_or_else(|| unmapped("group", gid))?,
            )),
            Self::Rootless => recorded.map_or(Ok((0, 0)), decoded),
        }
    }
}

fn unmapped(what: &str, id: u32) -> Error {
    Error::invalid(format!("{what} {id} is not in the id map"))
}

fn mapped(ranges: &[IdRange], id: u32, ends: impl Fn(&IdRange) -> (u32, u32)) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let (from, to) = ends(range);
        let offset = id.checked_sub(from).filter(|offset| *offset < range.count)?;
        to.checked_add(offset)
    })
}

/// The value of [`ROOTLESS_XATTR`]; `None` if none is needed.
pub(super) fn encoded(uid: u32, gid: u32) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    for (tag, id) in [(0x08, uid), (0x10, gid)] {
        if id == 0 {
            continue;
        }
        message.push(tag);
        let mut rest = id;
        while rest >= 0x80 {
            message.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        message.push((rest & 0x7f) as u8);
    }
    (!message.is_empty()).then_some(message)
}

fn decoded(message: &[u8]) -> Result<(u32, u32)> {
    let wrong = || Error::invalid(format!("{ROOTLESS_XATTR}: is not an owner"));
    let (mut uid, mut gid) = (0, 0);
    let mut bytes = message.iter();
    while let Some(tag) = bytes.next() {
        let mut id = 0u64;
        for shift in (0..=28).step_by(7) {
            let byte = bytes.next().ok_or_else(wrong)?;
            id |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            if shift == 28 {
                return Err(wrong());
            }
        }
        let id = u32::try_from(id).map_err(|_| wrong())?;
        // The largest id means that this one of the two was not changed.
        let id = if id == u32::MAX { 0 } else { id };
        match tag {
            0x08 => uid = id,
            0x10 => gid = id,
            _ => return Err(wrong()),
        }
    }
    Ok((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_in_an_attribute_is_read_back() {
        for (uid, gid, bytes) in [
            (0, 0, None),
            (1, 0, Some(&b"\x08\x01"[..])),
            (0, 300, Some(b"\x10\xac\x02")),
            (1000, 4_294_967_294, Some(b"\x08\xe8\x07\x10\xfe\xff\xff\xff\x0f")),
        ] {
            assert_eq!(encoded(uid, gid).as_deref(), bytes);
            assert_eq!(Owners::Rootless.in_image(5, 5, bytes).unwrap(), (uid, gid));
        }
        for wrong in
            [&b"\x08"[..], b"\x08\x80", b"\x18\x01", b"\x08\xff\xff\xff\xff\x1f", b"\x08\x80\x80\x80\x80\x80\x01"]
        {
            assert!(Owners::Rootless.in_image(0, 0, Some(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn ids_are_mapped_there_and_back_or_refused() {
        let range = |image, disk, count| IdRange { image, disk, count };
        let owners = Owners::Map {
            uids: vec![range(0, 1000, 1), range(1, 100_000, 65_535)],
            gids: vec![range(0, 4_294_967_290, 100)],
        };
        for (uid, gid, there) in [
            (0, 0, Some((1000, 4_294_967_290))),
            (1, 5, Some((100_000, 4_294_967_295))),
            (65_535, 0, Some((165_534, 4_294_967_290))),
            (65_536, 0, None),
            (0, 6, None),
            (0, 100, None),
        ] {
            assert_eq!(owners.on_disk(uid, gid).ok().flatten(), there, "{uid}:{gid}");
            if let Some((u, g)) = there {
                assert_eq!(owners.in_image(u, g, None).unwrap(), (uid, gid));
            }
        }
    }
}
