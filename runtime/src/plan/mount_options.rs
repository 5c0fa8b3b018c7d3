//! The words in `mounts[].options`: the table of config.md, section "Linux mount options", and what each does.

use orlop_sys::mount::attr::{
    ATIME, NOATIME, NODEV, NODIRATIME, NOEXEC, NOSUID, NOSYMFOLLOW, RDONLY, RELATIME, STRICTATIME,
};
use orlop_sys::mount::{Attr, ms};

/// What a word does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Sets attributes of this mount.
    Set(u64),
    /// Clears attributes of this mount.
    Clear(u64),
    /// Chooses this mount's access time mode.
    Atime(u64),
    /// Sets attributes of this mount and all below it.
    SetAll(u64),
    /// Clears attributes of this mount and all below it.
    ClearAll(u64),
    /// Chooses the access time mode of this mount and all below it.
    AtimeAll(u64),
    /// Propagation of this mount.
    Propagation(u64),
    /// Propagation of this mount and all below it.
    PropagationAll(u64),
    /// A bind mount.
    Bind,
    /// A bind mount with all that is mounted below its source.
    BindAll,
    /// A change of a mount that is there.
    Remount,
    /// A flag of the file system, given to it by its name.
    Super,
    /// What is the case anyway.
    Default,
    /// tmpcopyup.
    CopyUp,
    /// An id-mapped mount.
    IdMap,
    /// With all that is mounted below it.
    IdMapAll,
}

use Effect::{
    Atime, AtimeAll, Bind, BindAll, Clear, ClearAll, CopyUp, Default as Nothing, IdMap, IdMapAll, Propagation,
    PropagationAll, Remount, Set, SetAll, Super,
};

/// Sorted by name.
const TABLE: &[(&str, Effect)] = &[
    ("async", Nothing),
    ("atime", Atime(RELATIME)),
    ("bind", Bind),
    ("defaults", Nothing),
    ("dev", Clear(NODEV)),
    ("diratime", Clear(NODIRATIME)),
    ("dirsync", Super),
    ("exec", Clear(NOEXEC)),
    ("idmap", IdMap),
    // A file system decides that itself: the flag of mount(2) has no counterpart in fsconfig(2).
    ("iversion", Nothing),
    ("lazytime", Super),
    ("loud", Nothing),
    ("mand", Super),
    ("noatime", Atime(NOATIME)),
    ("nodev", Set(NODEV)),
    ("nodiratime", Set(NODIRATIME)),
    ("noexec", Set(NOEXEC)),
    ("noiversion", Nothing),
    ("nolazytime", Nothing),
    ("nomand", Nothing),
    // The kernel chooses relatime unless told otherwise, so these two say what is the case unless `strictatime` or
    // `noatime` says otherwise too.
    ("norelatime", Nothing),
    ("nostrictatime", Nothing),
    ("nosuid", Set(NOSUID)),
    ("nosymfollow", Set(NOSYMFOLLOW)),
    ("private", Propagation(ms::PRIVATE)),
    ("ratime", AtimeAll(RELATIME)),
    ("rbind", BindAll),
    ("rdev", ClearAll(NODEV)),
    ("rdiratime", ClearAll(NODIRATIME)),
    ("relatime", Atime(RELATIME)),
    ("remount", Remount),
    ("rexec", ClearAll(NOEXEC)),
    ("ridmap", IdMapAll),
    ("rnoatime", AtimeAll(NOATIME)),
    ("rnodev", SetAll(NODEV)),
    ("rnodiratime", SetAll(NODIRATIME)),
    ("rnoexec", SetAll(NOEXEC)),
    ("rnorelatime", Nothing),
    ("rnostrictatime", Nothing),
    ("rnosuid", SetAll(NOSUID)),
    ("rnosymfollow", SetAll(NOSYMFOLLOW)),
    ("ro", Set(RDONLY)),
    ("rprivate", PropagationAll(ms::PRIVATE)),
    ("rrelatime", AtimeAll(RELATIME)),
    ("rro", SetAll(RDONLY)),
    ("rrw", ClearAll(RDONLY)),
    ("rshared", PropagationAll(ms::SHARED)),
    ("rslave", PropagationAll(ms::SLAVE)),
    ("rstrictatime", AtimeAll(STRICTATIME)),
    ("rsuid", ClearAll(NOSUID)),
    ("rsymfollow", ClearAll(NOSYMFOLLOW)),
    ("runbindable", PropagationAll(ms::UNBINDABLE)),
    ("rw", Clear(RDONLY)),
    ("shared", Propagation(ms::SHARED)),
    ("silent", Nothing),
    ("slave", Propagation(ms::SLAVE)),
    ("strictatime", Atime(STRICTATIME)),
    ("suid", Clear(NOSUID)),
    ("symfollow", Clear(NOSYMFOLLOW)),
    ("sync", Super),
    ("tmpcopyup", CopyUp),
    ("unbindable", Propagation(ms::UNBINDABLE)),
];

/// Every word of the table, sorted: what `features` announces as `mountOptions`.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(name, _)| *name)
}

/// Options of one mount, sorted out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options<'a> {
    /// `bind` or `rbind`, and whether it was `rbind`.
    pub bind: Option<bool>,
    /// `remount`.
    pub remount: bool,
    /// `tmpcopyup`.
    pub copy_up: bool,
    /// `idmap` or `ridmap`, and whether it was `ridmap`.
    pub id_map: Option<bool>,
    /// Attributes and propagation of this mount.
    pub attr: Attr,
    /// Attributes and propagation of this mount and all below it.
    pub recursive: Attr,
    /// For the file system: a key, and a value if there was a `=`.
    pub data: Vec<(&'a str, Option<&'a str>)>,
    /// Flags that every file system takes; the kernel ignores them on a bind mount.
    pub flags: Vec<&'a str>,
}

/// Sorts options out, in order: a later word overrides an earlier one. What is not in the table is for the file system.
pub fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> Options<'a> {
    let mut o = Options::default();
    for word in options {
        let effect = TABLE.binary_search_by_key(&word, |(name, _)| name).ok().and_then(|at| TABLE.get(at));
        match effect.map(|(_, effect)| *effect) {
            Some(Set(bits)) => change(&mut o.attr, bits, bits),
            Some(Clear(bits)) => change(&mut o.attr, 0, bits),
            Some(Atime(mode)) => change(&mut o.attr, mode, ATIME),
            Some(SetAll(bits)) => change(&mut o.recursive, bits, bits),
            Some(ClearAll(bits)) => change(&mut o.recursive, 0, bits),
            Some(AtimeAll(mode)) => change(&mut o.recursive, mode, ATIME),
            Some(Propagation(kind)) => o.attr.propagation = kind,
            Some(PropagationAll(kind)) => o.recursive.propagation = kind,
            Some(Bind) => o.bind = o.bind.or(Some(false)),
            Some(BindAll) => o.bind = Some(true),
            Some(Remount) => o.remount = true,
            Some(CopyUp) => o.copy_up = true,
            Some(IdMap) => o.id_map = o.id_map.or(Some(false)),
            Some(IdMapAll) => o.id_map = Some(true),
            Some(Super) => o.flags.push(word),
            Some(Nothing) => {}
            None => match word.split_once('=') {
                _ if word.is_empty() => {}
                Some((key, value)) => o.data.push((key, Some(value))),
                None => o.data.push((word, None)),
            },
        }
    }
    o
}

/// Replaces the attributes in `mask` by `bits`. The kernel takes an access time mode only if the whole mode is cleared.
fn change(attr: &mut Attr, bits: u64, mask: u64) {
    attr.set = attr.set & !mask | bits;
    attr.clear = if mask == ATIME { attr.clear | ATIME } else { attr.clear & !mask | mask & !bits };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn later_words_override_earlier_ones() {
        let attr = |words: &[&'static str]| parse(words.iter().copied()).attr;
        for (words, set, clear) in [
            (&["ro"][..], RDONLY, 0),
            (&["ro", "rw"], 0, RDONLY),
            (&["rw", "ro"], RDONLY, 0),
            (&["nosuid", "nodev", "noexec"], NOSUID | NODEV | NOEXEC, 0),
            (&["noatime"], NOATIME, ATIME),
            (&["noatime", "strictatime"], STRICTATIME, ATIME),
            (&["noatime", "relatime"], 0, ATIME),
            (&["defaults", "async", "loud"], 0, 0),
        ] {
            assert_eq!(attr(words), Attr { set, clear, propagation: 0 }, "{words:?}");
        }
    }

    #[test]
    fn recursive_words_and_data_are_kept_apart() {
        let o =
            parse(["rbind", "bind", "rro", "rslave", "private", "mode=755", "size=65536k", "newinstance", "sync", ""]);
        assert_eq!(o.bind, Some(true));
        assert_eq!(o.recursive, Attr { set: RDONLY, clear: 0, propagation: ms::SLAVE });
        assert_eq!(o.attr.propagation, ms::PRIVATE);
        assert_eq!(o.data, [("mode", Some("755")), ("size", Some("65536k")), ("newinstance", None)]);
        assert_eq!(o.flags, ["sync"]);
        assert_eq!(parse(["ridmap", "idmap"]).id_map, Some(true));
        assert_eq!(parse(["idmap"]).id_map, Some(false));
    }

    #[test]
    fn every_word_of_the_specification_is_known() {
        // config.md: MUST, SHOULD, MAY.
        let words = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev nodiratime \
            noexec noiversion nolazytime norelatime nostrictatime nosuid private rbind relatime remount ro rprivate rshared \
            rslave runbindable rw shared silent slave strictatime suid sync unbindable nosymfollow symfollow rro rrw rnosuid \
            rsuid rnodev rdev rnoexec rexec rnoatime ratime rrelatime rnorelatime rstrictatime rnostrictatime rnodiratime \
            rdiratime rnosymfollow rsymfollow idmap ridmap mand nomand tmpcopyup";
        // What the kernel itself reads for every file system (fs_context.c, vfs_parse_sb_flag).
        let flags = ["dirsync", "lazytime", "mand", "sync"];
        for word in words.split_whitespace() {
            let parsed = parse([word]);
            assert!(parsed.data.is_empty(), "{word} would be given to the file system");
            assert_eq!(!parsed.flags.is_empty(), flags.contains(&word), "{word}");
            assert!(TABLE.iter().any(|(name, _)| *name == word), "{word}");
        }
    }
}
