//! The whole configuration, and what the tests of its parts share.

use std::path::PathBuf;

use clap::Parser;

use super::*;

/// The options that these words mean.
pub(crate) fn options(words: &str) -> Options {
    parse(words).unwrap_or_else(|e| panic!("{words}: {e}"))
}

fn parse(words: &str) -> std::result::Result<Options, clap::Error> {
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }
    let words = std::iter::once("x").chain(words.split_whitespace());
    Line::try_parse_from(words).map(|line| line.options)
}

/// Calls `with` with a host where the caller has the variable CALLER=mine.
pub(crate) fn context<T>(with: impl FnOnce(&Context<'_>) -> T) -> T {
    let variable = |name: &str| (name == "CALLER").then(|| "mine".to_owned());
    with(&Context {
        id: "web-1",
        bundle: "/b/",
        rootfs: "rootfs",
        cgroups: Cgroups::V2,
        rootless: None,
        kernel: (6, 18),
        variable: &variable,
        etc: &|_| None,
        remove: None,
    })
}

/// A directory for a test, removed with it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("orlop-bundle-config-{}-{n}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn dir(&self) -> Dir {
        Dir::at(&self.0).unwrap()
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.at(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
