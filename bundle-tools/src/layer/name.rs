//! Names of entries: how a tar's become clean, and what clean means.

/// The longest name, in bytes: the kernel's `PATH_MAX` without its NUL.
pub const MAX_PATH: usize = 4095;

/// The longest component, in bytes: the kernel's `NAME_MAX`.
pub const MAX_COMPONENT: usize = 255;

/// What a whiteout's last component begins with (layer.md, "Whiteouts"); no other component may.
pub const WHITEOUT: &[u8] = b".wh.";

/// The last component of an opaque directory's mark.
pub const OPAQUE: &[u8] = b".wh..wh..opq";

/// The name that `raw` means, relative to the layer's root. A leading slash is the root. `..` takes a component away
/// without looking at what it is, as Go's programs for images do; where nothing is left to take away it would leave the
/// root, and that is an error, though others stay at the root. Lengths, and what `.wh.` means, are looked at by
/// [`check`].
pub fn clean(raw: &[u8]) -> Result<Vec<u8>, &'static str> {
    if raw.contains(&0) {
        return Err("the name has a NUL in it");
    }
    let mut name = Vec::with_capacity(raw.len());
    for component in raw.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." if name.is_empty() => return Err("the name leaves the root by \"..\""),
            b".." => name.truncate(parent(&name).len()),
            _ => {
                if !name.is_empty() {
                    name.push(b'/');
                }
                name.extend_from_slice(component);
            }
        }
    }
    Ok(name)
}

/// Says why `name` is not one that a table may have: it must be clean, within the lengths, and without a component that
/// begins with `.wh.`, because nothing in an image can be called so.
pub fn check(name: &[u8]) -> Result<(), &'static str> {
    if name.is_empty() {
        return Ok(());
    }
    if name.len() > MAX_PATH {
        return Err("the name is longer than 4095 bytes");
    }
    if name.contains(&0) {
        return Err("the name has a NUL in it");
    }
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." | b".." => return Err("the name is not clean"),
            _ if component.len() > MAX_COMPONENT => return Err("the name has a component of more than 255 bytes"),
            _ if component.starts_with(WHITEOUT) => return Err("no file can have a name that begins with .wh."),
            _ => {}
        }
    }
    Ok(())
}

/// The directory that a clean name is in; the root is in itself.
pub fn parent(name: &[u8]) -> &[u8] {
    split(name).0
}

/// A clean name's directory and last component.
pub fn split(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (name.get(..slash).unwrap_or_default(), name.get(slash + 1..).unwrap_or_default()),
        None => (b"", name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_becomes_relative_and_clean_or_is_refused() {
        let long = [b'x'; 256];
        for (raw, clean_name, fine) in [
            (&b""[..], Some(&b""[..]), true),
            (b"/", Some(b""), true),
            (b"./", Some(b""), true),
            (b".", Some(b""), true),
            (b"/abs", Some(b"abs"), true),
            (b"./a//b/./c/", Some(b"a/b/c"), true),
            (b"a/../b", Some(b"b"), true),
            (b"a/b/../../c", Some(b"c"), true),
            (b"a/..", Some(b""), true),
            (b"...", Some(b"..."), true),
            (b"\xff\n", Some(b"\xff\n"), true),
            (b"..", None, false),
            (b"../../x", None, false),
            (b"/../x", None, false),
            (b"a/../../x", None, false),
            (b"a\0b", None, false),
            (b"a/.wh.b", Some(b"a/.wh.b"), false),
            (b".wh.a/b", Some(b".wh.a/b"), false),
            (&long, Some(&long), false),
            (&long[1..], Some(&long[1..]), true),
            (&[&b"a/"[..]; 2048].concat(), Some(&[&b"a/"[..]; 2048].concat()[..4095]), true),
            (&[&b"a/"[..]; 2049].concat(), Some(&[&b"a/"[..]; 2049].concat()[..4097]), false),
        ] {
            let cleaned = clean(raw);
            assert_eq!(cleaned.as_deref().ok(), clean_name, "{}", raw.escape_ascii());
            assert_eq!(cleaned.is_ok_and(|name| check(&name).is_ok()), fine, "{}", raw.escape_ascii());
        }
    }

    #[test]
    fn only_clean_names_pass() {
        for name in [&b"/a"[..], b"a/", b"a//b", b"a/./b", b"../a", b".", b"/", b"a\0"] {
            assert!(check(name).is_err(), "{}", name.escape_ascii());
        }
    }
}
