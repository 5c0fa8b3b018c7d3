//! `process.user`: a user and a group by number, or by name in the image's own /etc/passwd and /etc/group.
//!
//! Both files are the image's, so hostile: a link leads nowhere outside of the root, nothing but a regular file is
//! opened, and it is read in pieces (CVE-2024-9676, CVE-2026-47262).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::dir::Dir;
use crate::error::{At, Error, Result};

/// The most that is read of a database, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// The longest line of one: a group of some fifty thousand members.
const MAX_LINE: u64 = 1 << 20;

/// The most supplementary groups that a process can have (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;

/// Who the process is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
    /// All its groups, the primary one among them: a file that takes rights away from a group takes them also from a
    /// process that changed its primary group (CVE-2022-36109, CVE-2023-25173).
    pub groups: Vec<u32>,
    /// Its home, `/` if the image doesn't say.
    pub home: String,
}

/// One side of `USER[:GROUP]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who<'a> {
    Id(u32),
    Name(&'a str),
}

impl<'a> Who<'a> {
    /// What looks like a number is one, or an error: it is never looked up as a name, and never wraps around
    /// (CVE-2024-40635, CVE-2026-46680).
    fn parse(text: &'a str) -> std::result::Result<Self, &'static str> {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        if text.is_empty() {
            return Err("is empty");
        }
        if text.contains(['\0', '\n', ':']) {
            return Err("is no name");
        }
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(Self::Name(text));
        }
        // Docker's bound: the largest number that is the same with and without a sign.
        let id = if digits.len() == text.len() { text.parse::<u32>().ok() } else { None };
        id.filter(|id| *id <= 0x7fff_ffff).map(Self::Id).ok_or("is a number, but not one of 0 to 2147483647")
    }
}

/// Looks up `spec`, which `what` names in an error, and the `added` groups, in the image's files below `root`.
///
/// An empty `spec` is root. A user by name, and root if nothing is said, has the groups in which /etc/group lists it; a
/// user by number, or one with a group given, has no further groups.
///
/// # Errors
/// A number out of range, an unknown name, a file that is not regular or larger than 64 MiB, more than 65536 groups.
pub fn look_up(root: &Dir, what: &str, spec: &str, added: &[String]) -> Result<User> {
    let wrong = |part: &str, why: &str| Error::invalid(format!("{what} {spec:?}: {part} {why}"));
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let who = match user {
        "" if group.is_none() => Who::Id(0),
        _ => Who::parse(user).map_err(|why| wrong("user", why))?,
    };
    let group = group.map(Who::parse).transpose().map_err(|why| wrong("group", why))?;

    let found = find_user(root, who)?;
    let (uid, name) = match (who, &found) {
        (Who::Id(id), _) => (id, spec.is_empty().then(|| found.as_ref().map_or("root", |f| f.name.as_str()))),
        (Who::Name(name), Some(found)) => (found.uid, Some(name)),
        (Who::Name(name), None) => {
            return Err(Error::not_found(format!("{what} {spec:?}: no user {name:?} in the image's /etc/passwd")));
        }
    };
    let own = found.as_ref().map_or(0, |found| found.gid);
    let member = name.filter(|_| group.is_none());
    let mut wanted =
        added.iter().map(|text| Who::parse(text).map_err(|why| Error::invalid(format!("--group-add {text:?}: {why}"))));
    let wanted: Vec<Who<'_>> = wanted.by_ref().collect::<Result<_>>()?;
    let names = wanted.iter().chain(&group).filter_map(|who| match who {
        Who::Name(name) => Some(*name),
        Who::Id(_) => None,
    });
    let known = Groups::read(root, member, names.collect())?;
    let id = |who: Who<'_>, flag: &str, text: &str| match who {
        Who::Id(id) => Ok(id),
        Who::Name(name) => {
            known.named.iter().find(|(known, _)| known == name).map(|(_, gid)| *gid).ok_or_else(|| {
                Error::not_found(format!("{flag} {text:?}: no group {name:?} in the image's /etc/group"))
            })
        }
    };
    let gid = group.map_or(Ok(own), |who| id(who, what, spec))?;
    let mut groups = known.member_of.clone();
    groups.insert(gid);
    for (who, text) in wanted.iter().zip(added) {
        groups.insert(id(*who, "--group-add", text)?);
    }
    let home = found.map(|found| found.home).filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned());
    Ok(User { uid, gid, groups: groups.into_iter().collect(), home })
}

struct Entry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// The first line of /etc/passwd for `who`. A line that is none is passed over, as the C library does.
fn find_user(root: &Dir, who: Who<'_>) -> Result<Option<Entry>> {
    let mut found = None;
    each_line(root, "etc/passwd", |line| {
        let mut fields = line.split(|b| *b == b':');
        let (Some(name), Some(_), Some(uid), Some(gid)) = (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Ok(true);
        };
        let (Some(uid), Some(gid)) = (number(uid), number(gid)) else { return Ok(true) };
        let is = match who {
            Who::Id(id) => id == uid,
            Who::Name(wanted) => wanted.as_bytes() == name,
        };
        if is {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap_or_default();
            let home = fields.nth(1).map(text).filter(|home| home.starts_with('/') && !home.contains('\0'));
            found = Some(Entry { name: text(name), uid, gid, home: home.unwrap_or_default() });
        }
        Ok(!is)
    })?;
    Ok(found)
}

#[derive(Debug, Default)]
struct Groups {
    /// Those in which the user is listed.
    member_of: BTreeSet<u32>,
    /// Those that were asked for by name.
    named: Vec<(String, u32)>,
}

impl Groups {
    fn read(root: &Dir, member: Option<&str>, names: Vec<&str>) -> Result<Self> {
        let mut groups = Self::default();
        if member.is_none() && names.is_empty() {
            return Ok(groups);
        }
        each_line(root, "etc/group", |line| {
            let mut fields = line.split(|b| *b == b':');
            let (Some(name), Some(_), Some(gid)) = (fields.next(), fields.next(), fields.next()) else {
                return Ok(true);
            };
            let Some(gid) = number(gid) else { return Ok(true) };
            let asked = names.iter().find(|wanted| wanted.as_bytes() == name);
            if let Some(asked) = asked.filter(|asked| !groups.named.iter().any(|(known, _)| known == **asked)) {
                groups.named.push(((*asked).to_owned(), gid));
            }
            let mut members = fields.next().unwrap_or_default().split(|b| *b == b',');
            if let Some(member) = member
                && members.any(|listed| listed == member.as_bytes())
            {
                groups.member_of.insert(gid);
                if groups.member_of.len() >= MAX_GROUPS {
                    return Err(Error::invalid(format!("/etc/group: {member:?} is in {MAX_GROUPS} groups or more")));
                }
            }
            Ok(true)
        })?;
        Ok(groups)
    }
}

fn number(field: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(field).ok()?;
    super::namespaces::decimal(text).filter(|id| *id <= 0x7fff_ffff)
}

/// Calls `line` with each line of the file `name` until it returns false; a file that isn't there has none.
fn each_line(root: &Dir, name: &str, mut line: impl FnMut(&[u8]) -> Result<bool>) -> Result<()> {
    let Some(file) = open(root, name)? else { return Ok(()) };
    let mut from = BufReader::new(file.take(MAX_FILE + 1));
    let mut bytes = Vec::new();
    let mut total = 0_u64;
    loop {
        bytes.clear();
        let read = from.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut bytes).at(|| format!("read /{name}"))?;
        total = total.saturating_add(read as u64);
        if total > MAX_FILE {
            return Err(Error::invalid(format!("/{name}: larger than {} MiB", MAX_FILE >> 20)));
        }
        if read as u64 > MAX_LINE {
            return Err(Error::invalid(format!("/{name}: a line longer than {} MiB", MAX_LINE >> 20)));
        }
        if read == 0 || !line(bytes.strip_suffix(b"\n").unwrap_or(&bytes))? {
            return Ok(());
        }
    }
}

/// `name` below the root of an image, links resolved as if it were the root of everything: a regular file, or None if
/// there is nothing of that name.
fn open(root: &Dir, name: &str) -> Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd: OwnedFd = loop {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(root, name, flags, Mode::empty(), resolve) {
            Ok(fd) => break fd,
            // A rename elsewhere made the kernel unsure (openat2(2)).
            Err(Errno::AGAIN) => {}
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(e) => return Err(e).at(|| format!("open /{name} of the image")),
        }
    };
    let stat = rustix::fs::fstat(&fd).at(|| format!("stat /{name} of the image"))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(Some(fd.into())),
        other => Err(Error::invalid(format!("/{name} of the image: is not a regular file but a {other:?}"))),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "paths of the test's own")]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::config::tests::Folder;
    use crate::error::ErrorKind;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\nnot a line\nbad:x:-1:0::/x:\nbig:x:4294967296:0::/x:\n\
                          web:x:100:101:w:/srv/web:/bin/sh\n1000:x:0:0::/evil:\n0x0:x:77:78::relative:\n\
                          nohome:x:5:6\nlast:x:7:8::/last:/bin/sh";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,web\nwww:x:101:\nextra:x:20:x,web\n\
                         fake:x:4294967296:web\nnear:x:30:webb,we,bweb\nlast:x:9:last";

    fn folder() -> Folder {
        let folder = Folder::new();
        folder.write("etc/passwd", PASSWD.as_bytes());
        folder.write("etc/group", GROUP.as_bytes());
        folder
    }

    #[test]
    fn a_user_is_found_by_name_or_number_in_the_images_own_files() {
        let folder = folder();
        for (spec, added, uid, gid, groups, home) in [
            ("", "", 0, 0, &[0, 10][..], "/root"),
            ("root", "", 0, 0, &[0, 10], "/root"),
            ("0", "", 0, 0, &[0], "/root"),
            ("web", "", 100, 101, &[10, 20, 101], "/srv/web"),
            ("web:www", "", 100, 101, &[101], "/srv/web"),
            ("web:5", "", 100, 5, &[5], "/srv/web"),
            ("100", "", 100, 101, &[101], "/srv/web"),
            ("100:wheel", "", 100, 10, &[10], "/srv/web"),
            // A number is itself, whatever line has it for a name.
            ("1000", "", 1000, 0, &[0], "/"),
            ("1000:1000", "", 1000, 1000, &[1000], "/"),
            ("2147483647:2147483647", "", 2_147_483_647, 2_147_483_647, &[2_147_483_647], "/"),
            ("0x0", "", 77, 78, &[78], "/"),
            ("nohome", "", 5, 6, &[6], "/"),
            ("last", "", 7, 8, &[8, 9], "/last"),
            ("web", "extra 44", 100, 101, &[10, 20, 44, 101], "/srv/web"),
            ("100", "wheel", 100, 101, &[10, 101], "/srv/web"),
        ] {
            let added: Vec<_> = added.split_whitespace().map(str::to_owned).collect();
            let meant = User { uid, gid, groups: groups.to_vec(), home: home.to_owned() };
            assert_eq!(look_up(&folder.dir(), "user", spec, &added).unwrap(), meant, "{spec} {added:?}");
        }
    }

    #[test]
    fn what_is_neither_a_number_in_range_nor_a_known_name_is_refused() {
        let folder = folder();
        for (spec, kind) in [
            ("4294967296", ErrorKind::Invalid),
            ("4294967295", ErrorKind::Invalid),
            ("2147483648", ErrorKind::Invalid),
            ("18446744073709551616", ErrorKind::Invalid),
            ("-1", ErrorKind::Invalid),
            ("+0", ErrorKind::Invalid),
            ("0:-1", ErrorKind::Invalid),
            ("0:4294967296", ErrorKind::Invalid),
            ("web:", ErrorKind::Invalid),
            (":www", ErrorKind::Invalid),
            (":", ErrorKind::Invalid),
            ("web:www:x", ErrorKind::Invalid),
            ("web\0", ErrorKind::Invalid),
            ("nobody", ErrorKind::NotFound),
            ("web:nogroup", ErrorKind::NotFound),
            ("bad", ErrorKind::NotFound),
            ("big", ErrorKind::NotFound),
            (" web", ErrorKind::NotFound),
        ] {
            let said = look_up(&folder.dir(), "image configuration: config.User", spec, &[]).unwrap_err();
            assert_eq!(said.kind(), kind, "{said}");
            assert!(said.to_string().starts_with(&format!("image configuration: config.User {spec:?}: ")), "{said}");
        }
        let said = look_up(&folder.dir(), "user", "0", &["nogroup".to_owned()]).unwrap_err().to_string();
        assert_eq!(said, "--group-add \"nogroup\": no group \"nogroup\" in the image's /etc/group");
    }

    #[test]
    fn a_link_in_the_image_stays_in_the_image() {
        let canary = Folder::new();
        canary.write("passwd", b"web:x:666:666::/out:\n");
        let outside = canary.path().display().to_string();
        for target in [format!("{outside}/passwd"), format!("../../../../../../..{outside}/passwd")] {
            let folder = Folder::new();
            folder.write("etc/group", b"");
            symlink(&target, folder.at("etc/passwd")).unwrap();
            let said = look_up(&folder.dir(), "user", "web", &[]).unwrap_err();
            assert_eq!(said.kind(), ErrorKind::NotFound, "{said}");
        }
        // An absolute link is absolute in the image.
        let folder = Folder::new();
        folder.write("usr/passwd", b"web:x:3:4::/h:\n");
        folder.write("etc/group", b"");
        symlink("/usr/passwd", folder.at("etc/passwd")).unwrap();
        assert_eq!(look_up(&folder.dir(), "user", "web", &[]).unwrap().uid, 3);
        let folder = Folder::new();
        folder.write("etc/group", b"");
        symlink("/etc/passwd", folder.at("etc/passwd")).unwrap();
        assert!(look_up(&folder.dir(), "user", "0", &[]).is_err());
    }

    #[test]
    fn a_database_is_a_regular_file_of_a_bearable_size() {
        let fifo = Folder::new();
        fifo.write("etc/group", b"");
        rustix::fs::mknodat(fifo.dir(), "etc/passwd", FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        let huge = folder();
        let file = File::options().write(true).open(huge.at("etc/passwd")).unwrap();
        file.set_len(1 << 30).unwrap();
        let many = folder();
        let mut lines = std::io::BufWriter::new(File::create_new(many.at("etc/many")).unwrap());
        for i in 0..70_000 {
            writeln!(lines, "g{i}:x:{i}:web").unwrap();
        }
        lines.into_inner().unwrap();
        std::fs::rename(many.at("etc/many"), many.at("etc/group")).unwrap();
        for (folder, name, word) in
            [(&fifo, "web", "Fifo"), (&huge, "nobody", "a line longer"), (&many, "web", "65536 groups")]
        {
            let said = look_up(&folder.dir(), "user", name, &[]).unwrap_err().to_string();
            assert!(said.contains(word), "{said}");
        }
        // Neither file: numbers alone, and root.
        let empty = Folder::new();
        for spec in ["", "0", "12:34"] {
            assert!(look_up(&empty.dir(), "user", spec, &[]).is_ok());
        }
        assert!(look_up(&empty.dir(), "user", "root", &[]).is_err());
    }
}
