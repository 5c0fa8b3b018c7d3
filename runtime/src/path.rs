//! Absolute paths as text: what a configuration says, before the kernel is asked.

/// An absolute path without `.`, `..` and empty components, as Go's `filepath.Clean` of "/" + path: `..` at the root
/// stays there.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    let mut clean = String::with_capacity(path.len() + 1);
    for part in &parts {
        clean.push('/');
        clean.push_str(part);
    }
    if clean.is_empty() {
        clean.push('/');
    }
    clean
}

/// The directory and the name of a clean path.
pub(crate) fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some(parts) => parts,
        None => ("/", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_cleaned_below_the_root() {
        for (path, want) in [
            ("", "/"),
            ("/", "/"),
            ("a", "/a"),
            ("//a//b/", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("../../etc", "/etc"),
            ("/..", "/"),
        ] {
            assert_eq!(clean(path), want, "{path:?}");
        }
        assert_eq!(split("/dev/null"), ("/dev", "null"));
        assert_eq!(split("/null"), ("/", "null"));
    }
}
