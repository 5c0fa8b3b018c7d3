//! What the kernel shows of an image that was merged and mounted is what GNU tar makes of the same layers, byte for byte.
//! Needs root, an EROFS that mounts from files (Linux 6.12), and tar.

// Scratch directories of the test's own, and helpers that fail a test as the test would.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr)]
// A table has private parts: it can't be made in one expression.
#![allow(clippy::field_reassign_with_default)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use orlop_bundle::dir::Dir;
use orlop_bundle::layer::{Extent, Kind, Layer, Meta, Time};
use orlop_bundle::tar::{Limits, Scanner};
use orlop_bundle::tree::Tree;
use orlop_bundle::{erofs, mount};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags};

/// A directory that goes away with the value.
struct Scratch(PathBuf);

impl Scratch {
    /// `None`, and a word on it, if the kernel can't do what these tests are about.
    fn new(name: &str) -> Option<Self> {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let scratch = Self(path);
        match mount::probe(&scratch.dir()) {
            Ok(()) => Some(scratch),
            Err(e) => {
                eprintln!("SKIP: {e}");
                None
            }
        }
    }

    fn dir(&self) -> Dir {
        Dir::at(&self.0).unwrap()
    }

    fn make(&self, name: &str) -> Dir {
        self.dir().make_dir(name).unwrap()
    }

    /// Runs a script here, which must succeed.
    fn sh(&self, script: &str) {
        let status = Command::new("sh").args(["-euc", script]).current_dir(&self.0).status().unwrap();
        assert!(status.success(), "{script}");
    }

    /// The table of a tar here.
    fn scan(&self, tar: &str) -> (Layer, File) {
        let mut file = File::open(self.0.join(tar)).unwrap();
        let (mut scanner, mut bytes) = (Scanner::new(Limits::default()), vec![0; 1 << 20]);
        loop {
            let length = file.read(&mut bytes).unwrap();
            if length == 0 {
                break;
            }
            scanner.feed(&bytes[..length]).unwrap();
        }
        (scanner.finish().unwrap(), file)
    }

    /// The image of these layers, mounted.
    fn image(&self, layers: &[Layer], tars: &[File]) -> OwnedFd {
        let tree = Tree::merge(layers).unwrap();
        let mut index =
            File::options().create(true).truncate(true).read(true).write(true).open(self.0.join("index")).unwrap();
        erofs::write(&tree, tars, &mut index).unwrap();
        mount::image(&index, tars).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = Command::new("rm").args(["-rf", "--one-file-system"]).arg(&self.0).status();
    }
}

/// What can be seen of each path below a directory: type, mode, owner, links, size, device, time, target, content's
/// checksum, extended attributes. A directory's size and its links are its file system's own, as is the root's time.
fn seen(root: impl AsFd) -> BTreeMap<Vec<u8>, String> {
    fn walk(dir: &OwnedFd, path: &[u8], inodes: &mut BTreeMap<(u64, u32), usize>, out: &mut BTreeMap<Vec<u8>, String>) {
        let mut names: Vec<Vec<u8>> =
            rustix::fs::Dir::read_from(dir).unwrap().map(|e| e.unwrap().file_name().to_bytes().to_vec()).collect();
        names.sort();
        for name in names.into_iter().filter(|name| name != b"." && name != b"..") {
            let path = [path, b"/", &name].concat();
            let of = StatxFlags::BASIC_STATS;
            let stat = rustix::fs::statx(dir, &*name, AtFlags::SYMLINK_NOFOLLOW, of).unwrap();
            let kind = FileType::from_raw_mode(stat.stx_mode.into());
            let inner = |flags| rustix::fs::openat(dir, &*name, flags | OFlags::NOFOLLOW, Mode::empty()).unwrap();
            let (mut size, mut more) = (stat.stx_size, String::new());
            match kind {
                FileType::Directory => {
                    size = 0;
                    let below = inner(OFlags::RDONLY | OFlags::DIRECTORY);
                    walk(&below, &path, inodes, out);
                }
                FileType::Symlink => more = format!("{:?}", rustix::fs::readlinkat(dir, &*name, vec![]).unwrap()),
                FileType::RegularFile => {
                    let file = File::from(inner(OFlags::RDONLY));
                    let mut bytes = Vec::new();
                    if size < 64 << 20 {
                        (&file).read_to_end(&mut bytes).unwrap();
                    } else {
                        // Large ones are sparse: the ends and the middle will do.
                        for at in [0, size / 2, size - 4096] {
                            let mut part = [0; 4096];
                            file.read_exact_at(&mut part, at).unwrap();
                            bytes.extend_from_slice(&part);
                        }
                    }
                    more = orlop_bundle::digest::Digest::of(&bytes).short();
                }
                _ => {}
            }
            // The first path of an inode stands for it.
            let next = inodes.len();
            let first = *inodes.entry((stat.stx_ino, stat.stx_dev_minor)).or_insert(next);
            let links = if kind == FileType::Directory { 0 } else { stat.stx_nlink };
            let of = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(dir));
            let at = Path::new(&of).join(std::ffi::OsStr::from_bytes(&name));
            let mut list = vec![0; 65536];
            let length = rustix::fs::llistxattr(&at, &mut list).unwrap_or(0);
            let mut xattrs: Vec<_> = list[..length].split(|b| *b == 0).filter(|name| !name.is_empty()).collect();
            xattrs.sort();
            for xattr in xattrs {
                let mut value = vec![0; 65536];
                let length = rustix::fs::lgetxattr(&at, xattr, &mut value).unwrap();
                more += &format!(" {}={}", xattr.escape_ascii(), value[..length].escape_ascii());
            }
            let line = format!(
                "{kind:?} {:o} {}:{} x{links} {size} {}:{} {}.{:09} #{first} {more}",
                stat.stx_mode & 0o7777,
                stat.stx_uid,
                stat.stx_gid,
                stat.stx_rdev_major,
                stat.stx_rdev_minor,
                stat.stx_mtime.tv_sec,
                stat.stx_mtime.tv_nsec,
            );
            out.insert(path, line);
        }
    }
    use std::os::unix::ffi::OsStrExt;
    let mut out = BTreeMap::new();
    let root = rustix::fs::openat(root, ".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    walk(&root, b"", &mut BTreeMap::new(), &mut out);
    out
}

#[track_caller]
fn assert_same(what: &str, left: &BTreeMap<Vec<u8>, String>, right: &BTreeMap<Vec<u8>, String>) {
    for path in left.keys().chain(right.keys()) {
        assert_eq!(left.get(path), right.get(path), "{what}: {}", path.escape_ascii());
    }
}

/// All that a file can be, in a tree and in a second one to be laid upon it.
const TREES: &str = r#"
    umask 022; rm -rf a b; mkdir -p a/dir/sub a/many a/gone/x a/opaque/x b/dir b/opaque b/new
    printf one >a/dir/one; printf two >a/dir/two; : >a/empty; printf 'kept' >a/opaque/hidden
    head -c 512 /dev/urandom >a/block; head -c 100000 /dev/urandom >a/large; head -c 4097 /dev/urandom >a/page
    ln a/large a/dir/linked; ln a/large a/z; ln -s ../one a/dir/sub/link; ln -s /etc/passwd a/absolute
    ln -s "$(head -c 4000 /dev/zero | tr '\0' x)" a/long-link; ln -s "$(head -c 440 /dev/zero | tr '\0' y)" a/middle-link
    for i in $(seq 1 700); do : >"a/many/a file with a rather long name, so that a block holds few of them: $i"; done
    mknod a/null c 1 3; mknod a/disk b 259 70000; mkfifo a/fifo; chmod 4755 a/dir/one; chmod 2711 a/dir; chmod 1777 a/many
    chown 12345:54321 a/dir/two; chown 4000000000:3000000000 a/block; chown -h 1:2 a/absolute
    setfattr -n user.note -v 'a value' a/dir/one; setfattr -n user.t -v x a/dir; setfattr -n user.big -v "$(head -c 3000 /dev/zero | tr '\0' v)" a/page
    setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 a/dir/two
    setfattr -n user.empty a/block; setfattr -n system.posix_acl_access -v 0x0200000001000600ffffffff02000600e903000004000400ffffffff10000600ffffffff20000400ffffffff a/block
    truncate -s 3000000000 a/sparse; printf middle | dd of=a/sparse bs=1 seek=1500000000 conv=notrunc status=none; printf end | dd of=a/sparse bs=1 seek=2999999990 conv=notrunc status=none
    truncate -s 1000000 a/hole; truncate -s 6000000000 a/over4g; printf x | dd of=a/over4g bs=1 seek=5999999999 conv=notrunc status=none
    printf 'odd' >"$(printf 'a/new\nline\377')"; printf x >'a/!'; printf x >'a/+'; printf x >a/..x
    touch -d '1969-12-31 23:59:58.123456789Z' a/dir/one; touch -d '2040-02-03 04:05:06.000000007Z' a/block; touch -h -d '2001-01-01 00:00:00.5Z' a/absolute
    printf replaced >b/dir/two; printf fresh >b/opaque/shown; : >b/opaque/.wh..wh..opq; : >b/.wh.gone; : >b/dir/.wh.sub; printf n >b/new/n; : >b/.wh.z
    touch -d '2010-01-01 00:00:00.25Z' a/dir a/dir/sub a/many b/dir b/opaque b/new
"#;

const TAR: &str = "tar --sort=name --numeric-owner --format=pax --xattrs --xattrs-include='*' --sparse";

#[test]
fn a_mounted_image_is_what_gnu_tar_unpacks() {
    let Some(scratch) = Scratch::new("one") else { return };
    scratch.sh(&format!("{TREES} {TAR} -C a -cf 0.tar ."));
    scratch.sh("mkdir out; tar -C out --xattrs --xattrs-include='*' --numeric-owner -xpf 0.tar");
    let (layer, tar) = scratch.scan("0.tar");
    let (layers, tars) = ([layer], [tar]);
    let image = scratch.image(&layers, &tars);
    let (upper, work) = (scratch.make("upper"), scratch.make("work"));
    let overlay = mount::overlay(&image, &upper, &work).unwrap();
    let wanted = seen(File::open(scratch.0.join("out")).unwrap());
    assert!(wanted.len() > 720, "{}", wanted.len());
    assert_same("EROFS", &wanted, &seen(&image));
    assert_same("overlay", &wanted, &seen(&overlay));
    // What is written goes into the upper directory, and the kernel agrees that it's a file system to write to.
    let made = rustix::fs::openat(&overlay, "dir/one", OFlags::WRONLY | OFlags::APPEND, Mode::empty()).unwrap();
    rustix::io::write(&made, b"!").unwrap();
    assert_eq!(upper.dir("dir").unwrap().read("one", 10).unwrap(), b"one!");
    assert!(rustix::fs::openat(&image, "x", OFlags::WRONLY | OFlags::CREATE, Mode::RUSR).is_err());
}

#[test]
fn layers_are_laid_upon_each_other() {
    let Some(scratch) = Scratch::new("two") else { return };
    scratch.sh(&format!("{TREES} {TAR} -C a -cf 0.tar .; {TAR} -C b -cf 1.tar ."));
    scratch.sh("mkdir out; tar -C out --xattrs --xattrs-include='*' --numeric-owner -xpf 0.tar
         rm -r out/gone out/dir/sub out/opaque out/z
         # tar adds to what a directory has; a layer's entry replaces it.
         setfattr -x user.t out/dir
         tar -C out --xattrs --xattrs-include='*' --numeric-owner --exclude='.wh.*' -xpf 1.tar");
    let (layers, tars): (Vec<_>, Vec<_>) = ["0.tar", "1.tar"].iter().map(|tar| scratch.scan(tar)).unzip();
    let image = scratch.image(&layers, &tars);
    assert_same("EROFS", &seen(File::open(scratch.0.join("out")).unwrap()), &seen(&image));
}

#[test]
fn the_same_layers_make_the_same_bytes() {
    let Some(scratch) = Scratch::new("same") else { return };
    scratch.sh(&format!("{TREES} {TAR} -C a -cf 0.tar ."));
    let mut made = Vec::new();
    for _ in 0..2 {
        let (layer, tar) = scratch.scan("0.tar");
        scratch.image(&[layer], &[tar]);
        made.push(std::fs::read(scratch.0.join("index")).unwrap());
    }
    assert!(made[0] == made[1] && made[0].len() > 64 * 700);
}

#[test]
fn content_that_is_not_in_whole_blocks_of_its_tar_is_copied() {
    let Some(scratch) = Scratch::new("odd") else { return };
    let bytes: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8 + 1).collect();
    std::fs::write(scratch.0.join("0.tar"), &bytes).unwrap();
    let files: [(&str, u64, Vec<Extent>); 6] = [
        ("odd", 1000, vec![Extent { at: 0, len: 1000, from: 700 }]),
        ("hole", 5000, vec![Extent { at: 100, len: 50, from: 3 }, Extent { at: 4000, len: 1000, from: 53 }]),
        ("aligned", 9000, vec![Extent { at: 0, len: 512, from: 512 }, Extent { at: 4096, len: 4096, from: 1024 }]),
        ("mixed", 70_000, vec![Extent { at: 0, len: 65_536, from: 512 }, Extent { at: 66_000, len: 10, from: 99_999 }]),
        ("neighbours", 1024, vec![Extent { at: 0, len: 256, from: 512 }, Extent { at: 256, len: 768, from: 5000 }]),
        ("large", 100_001, vec![Extent { at: 1, len: 100_000, from: 99_000 }]),
    ];
    let mut layer = Layer::default();
    layer.tar_size = bytes.len() as u64;
    for (name, size, extents) in &files {
        let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: Time::default() };
        layer.push(name.as_bytes(), Kind::File { size: *size, extents }, meta, []).unwrap();
    }
    let image = scratch.image(&[layer], &[File::open(scratch.0.join("0.tar")).unwrap()]);
    for (name, size, extents) in &files {
        let mut wanted = vec![0; *size as usize];
        for Extent { at, len, from } in extents {
            wanted[*at as usize..][..*len as usize].copy_from_slice(&bytes[*from as usize..][..*len as usize]);
        }
        let mut found = Vec::new();
        let file = rustix::fs::openat(&image, *name, OFlags::RDONLY, Mode::empty()).unwrap();
        File::from(file).read_to_end(&mut found).unwrap();
        assert!(found == wanted, "{name}");
    }
}

#[test]
fn five_hundred_layers_are_one_mount() {
    let Some(scratch) = Scratch::new("many") else { return };
    let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: Time::default() };
    let mut layers = Vec::new();
    for number in 0..500u32 {
        let mut tar = vec![0; 1536];
        tar[512..516].copy_from_slice(&number.to_le_bytes());
        std::fs::write(scratch.0.join(format!("{number}.tar")), &tar).unwrap();
        let mut layer = Layer::default();
        layer.tar_size = 1536;
        let extents = [Extent { at: 0, len: 4, from: 512 }];
        for name in [format!("own/{number}"), "all".into()] {
            layer.push(name.as_bytes(), Kind::File { size: 4, extents: &extents }, meta, []).unwrap();
        }
        if let Some(before) = number.checked_sub(1).filter(|before| before % 2 == 0) {
            layer.push(format!("own/{before}").as_bytes(), Kind::Whiteout, Meta::default(), []).unwrap();
        }
        layers.push(layer);
    }
    let tars: Vec<_> = (0..500).map(|number| File::open(scratch.0.join(format!("{number}.tar"))).unwrap()).collect();
    let image = scratch.image(&layers, &tars);
    let mut files = 0;
    for number in 0..500u32 {
        let Ok(file) = rustix::fs::openat(&image, format!("own/{number}"), OFlags::RDONLY, Mode::empty()) else {
            assert_eq!(number % 2, 0);
            continue;
        };
        let mut bytes = [0; 4];
        File::from(file).read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), number);
        files += 1;
    }
    assert_eq!(files, 250);
}

#[test]
fn a_mount_is_attached_and_taken_away_again() {
    let Some(scratch) = Scratch::new("attach") else { return };
    let image = scratch.image(
        &[Layer::default()],
        &[File::open("/dev/null")
            .and_then(|_| {
                std::fs::write(scratch.0.join("0.tar"), [0; 1024])?;
                File::open(scratch.0.join("0.tar"))
            })
            .unwrap()],
    );
    let (upper, work, target) = (scratch.make("upper"), scratch.make("work"), scratch.make("rootfs"));
    let overlay = mount::overlay(&image, &upper, &work).unwrap();
    drop(image);
    mount::attach(&overlay, &target).unwrap();
    let file =
        rustix::fs::openat(CWD, scratch.0.join("rootfs/x"), OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    drop(overlay);
    let busy = mount::detach(&scratch.dir(), "rootfs").unwrap_err();
    assert_eq!(busy.kind(), orlop_bundle::error::ErrorKind::InUse);
    drop(file);
    // A child of another test's has the file too, until it executes its program.
    let detached = (0..100).find_map(|_| {
        let done = mount::detach(&scratch.dir(), "rootfs").ok();
        done.or_else(|| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            None
        })
    });
    assert_eq!(detached, Some(true));
    assert!(!mount::detach(&scratch.dir(), "rootfs").unwrap());
    assert!(mount::detach(&scratch.dir(), "../rootfs").is_err());
    assert_eq!(upper.names().unwrap(), ["x"]);
}
