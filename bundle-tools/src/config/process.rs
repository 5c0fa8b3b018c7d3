//! `process` but for the user: arguments, environment and working directory.

use std::collections::HashMap;
use std::path::Path;
use std::str::FromStr;

use crate::config::{Context, Options};
use crate::dir::read_limited;
use crate::error::{At, Error, Result};
use crate::image::RunConfig;

/// The search path of a container whose image has none, as Docker's.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The most bytes of a file of variables.
const MAX_ENV_FILE: u64 = 8 << 20;

/// `NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Before the first `=`, not empty.
    pub name: String,
    /// Behind it.
    pub value: String,
}

impl FromStr for Pair {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Self { name: name.to_owned(), value: value.to_owned() }),
            _ => Err(Error::invalid("not NAME=VALUE")),
        }
    }
}

/// `NAME=VALUE`, or `NAME` for the caller's own value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvFlag {
    /// Not empty, without `=`.
    pub name: String,
    /// None: the caller's, and if the caller has none the variable is not set at all, whatever the image says.
    pub value: Option<String>,
}

impl FromStr for EnvFlag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        if name.is_empty() || text.contains('\0') {
            return Err(Error::invalid("a variable has a name, and no NUL"));
        }
        Ok(Self { name: name.to_owned(), value })
    }
}

/// `process.args`: the entrypoint and the command. A new entrypoint loses the image's command, as it was meant for the
/// old one.
pub(super) fn args(image: &RunConfig, options: &Options) -> Result<Vec<String>> {
    let (entrypoint, inherited): (Vec<String>, &[String]) = match options.entrypoint.as_deref() {
        None => (image.entrypoint.clone(), &image.cmd),
        Some("") => (Vec::new(), &[]),
        Some(program) => (vec![program.to_owned()], &[]),
    };
    let command = if options.command.is_empty() { inherited } else { &options.command };
    let args: Vec<String> = entrypoint.into_iter().chain(command.iter().cloned()).collect();
    if args.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("the image has no command: give one"));
    }
    if args.iter().any(|arg| arg.contains('\0')) {
        return Err(Error::invalid("image configuration: config.Cmd: an argument has a NUL"));
    }
    Ok(args)
}

/// Variables in the order in which they were first set.
#[derive(Debug, Default)]
struct Env {
    entries: Vec<Option<(String, String)>>,
    index: HashMap<String, usize>,
}

impl Env {
    fn has(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    fn set(&mut self, name: &str, value: String) {
        let pair = Some((name.to_owned(), value));
        if let Some(slot) = self.index.get(name).and_then(|at| self.entries.get_mut(*at)) {
            *slot = pair;
            return;
        }
        self.index.insert(name.to_owned(), self.entries.len());
        self.entries.push(pair);
    }

    fn unset(&mut self, name: &str) {
        if let Some(slot) = self.index.remove(name).and_then(|at| self.entries.get_mut(at)) {
            *slot = None;
        }
    }
}

/// `process.env`: what Docker sets (`PATH`, `HOSTNAME`, `TERM` with a terminal), the image's over it, the caller's over
/// that, and `HOME` if none of them has it. A name is there once.
pub(super) fn env(
    image: &RunConfig,
    options: &Options,
    context: &Context,
    hostname: &str,
    home: &str,
) -> Result<Vec<String>> {
    let mut env = Env::default();
    env.set("PATH", DEFAULT_PATH.to_owned());
    if !hostname.is_empty() {
        env.set("HOSTNAME", hostname.to_owned());
    }
    if options.tty {
        env.set("TERM", "xterm".to_owned());
    }
    for entry in &image.env {
        let wrong = |why: &str| Error::invalid(format!("image configuration: config.Env: {entry:?} {why}"));
        let (name, value) = entry.split_once('=').ok_or_else(|| wrong("has no ="))?;
        if name.is_empty() {
            return Err(wrong("has no name"));
        }
        if entry.contains('\0') {
            return Err(wrong("has a NUL"));
        }
        env.set(name, value.to_owned());
    }
    let mut given = Vec::new();
    for path in &options.env_file {
        given.extend(read_env_file(path)?);
    }
    for flag in given.iter().chain(&options.env) {
        match flag.value.clone().or_else(|| (context.variable)(&flag.name)) {
            Some(value) => env.set(&flag.name, value),
            None => env.unset(&flag.name),
        }
    }
    if !env.has("HOME") {
        env.set("HOME", home.to_owned());
    }
    Ok(env.entries.into_iter().flatten().map(|(name, value)| format!("{name}={value}")).collect())
}

#[allow(clippy::disallowed_methods, reason = "a path of the user's own")]
fn read_env_file(path: &Path) -> Result<Vec<EnvFlag>> {
    let name = path.display();
    let file = std::fs::File::open(path).at(|| format!("--env-file {name}"))?;
    let bytes = read_limited(file, &format!("--env-file {name}"), MAX_ENV_FILE)?;
    let text = String::from_utf8(bytes).map_err(|_| Error::invalid(format!("--env-file {name}: is not UTF-8")))?;
    env_lines(&text).map_err(|e| e.context(format!("--env-file {name}")))
}

/// Docker's rules: blank lines and those that begin with `#` are comments, blanks before a name are dropped, a name has
/// none inside, a value is taken as it is, quotes included.
fn env_lines(text: &str) -> Result<Vec<EnvFlag>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut flags = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let flag: EnvFlag = line.parse().map_err(|e: Error| e.context(format!("line {}", i + 1)))?;
        if flag.name.contains(char::is_whitespace) {
            return Err(Error::invalid(format!("line {}: blank in the name {:?}", i + 1, flag.name)));
        }
        flags.push(flag);
    }
    Ok(flags)
}

/// `process.cwd`: absolute, without `.`, `..` and doubled slashes. The runtime makes it, inside of the container, if
/// the image has no such directory; nothing is made on the host (CVE-2026-55686). Below /proc is what belongs to
/// processes, the runtime's own open directories among it (CVE-2024-21626): refused.
pub(super) fn cwd(image: &RunConfig, options: &Options) -> Result<String> {
    let (what, path) = match &options.workdir {
        Some(path) => ("--workdir", path.as_str()),
        None => ("image configuration: config.WorkingDir", image.working_dir.as_str()),
    };
    let wrong = |why: &str| Error::invalid(format!("{what}: {path:?} {why}"));
    if path.is_empty() && options.workdir.is_none() {
        return Ok("/".to_owned());
    }
    let clean = clean(path).map_err(|e| wrong(&e))?;
    if clean.starts_with("/proc/") {
        return Err(wrong("is below /proc"));
    }
    Ok(clean)
}

/// The absolute `path` without `.`, `..`, and doubled or trailing slashes; or what is wrong with it. `..` is taken by
/// the letter, before any link is looked at.
pub(super) fn clean(path: &str) -> std::result::Result<String, String> {
    if !path.starts_with('/') {
        return Err("is not an absolute path".to_owned());
    }
    if path.contains('\0') {
        return Err("has a NUL".to_owned());
    }
    if path.len() > 4095 {
        return Err("is longer than 4095 bytes".to_owned());
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{context, options};

    fn strings(words: &str) -> Vec<String> {
        words.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_command_line_is_the_entrypoint_and_the_command() {
        for (entrypoint, cmd, flags, meant) in [
            ("", "sh", "", Some("sh")),
            ("tini --", "sh -l", "", Some("tini -- sh -l")),
            ("tini --", "sh -l", "ls -a", Some("tini -- ls -a")),
            ("tini --", "sh", "--entrypoint env", Some("env")),
            ("tini --", "sh", "--entrypoint env -- -i ls", Some("env -i ls")),
            ("tini --", "sh", "--entrypoint= ls", Some("ls")),
            ("tini --", "sh", "--entrypoint=", None),
            ("", "", "", None),
        ] {
            let image = RunConfig { entrypoint: strings(entrypoint), cmd: strings(cmd), ..RunConfig::default() };
            let made = args(&image, &options(flags)).ok().map(|args| args.join(" "));
            assert_eq!(made.as_deref(), meant, "{entrypoint} | {cmd} | {flags}");
        }
    }

    #[test]
    fn the_environment_is_dockers_then_the_images_then_the_callers() {
        let path = format!("PATH={DEFAULT_PATH}");
        for (image, flags, meant) in [
            ("", "", format!("{path} HOSTNAME=h HOME=/root")),
            ("PATH=/bin A=1 A=2 B==", "", "PATH=/bin HOSTNAME=h A=2 B== HOME=/root".to_owned()),
            ("TERM=vt A=", "-t", format!("{path} HOSTNAME=h TERM=vt A= HOME=/root")),
            ("HOME=/h", "-t", format!("{path} HOSTNAME=h TERM=xterm HOME=/h")),
            ("A=1 B=2", "-e B=3 -e CALLER -e A -e C=", format!("{path} HOSTNAME=h B=3 CALLER=mine C= HOME=/root")),
            ("A=1", "-e PATH -e A=1 -e HOME=", "HOSTNAME=h A=1 HOME=".to_owned()),
        ] {
            let config = RunConfig { env: strings(image), ..RunConfig::default() };
            let made = context(|context| env(&config, &options(flags), context, "h", "/root")).unwrap();
            assert_eq!(made.join(" "), meant, "{image} | {flags}");
        }
        for (entry, word) in [("A", "no ="), ("=x", "no name"), ("A=\0", "NUL"), ("", "no =")] {
            let config = RunConfig { env: vec![entry.to_owned()], ..RunConfig::default() };
            let said = context(|context| env(&config, &options(""), context, "h", "/")).unwrap_err().to_string();
            assert!(said.contains(word), "{said}");
        }
    }

    #[test]
    fn a_file_of_variables_has_one_a_line() {
        let lines = env_lines("\u{feff}# c\n\n  A=1 \nB\nC=\"x # y\"\r\n").unwrap();
        let text: Vec<_> = lines.iter().map(|f| format!("{}:{:?}", f.name, f.value)).collect();
        assert_eq!(text, ["A:Some(\"1 \")", "B:None", "C:Some(\"\\\"x # y\\\"\")"]);
        assert!(env_lines("A B=1").unwrap_err().to_string().contains("line 1: blank"));
        assert!(env_lines("A=1\n=1").unwrap_err().to_string().contains("line 2"));
    }

    #[test]
    fn a_working_directory_is_absolute_and_not_below_proc() {
        for (image, flags, meant) in [
            ("", "", Some("/")),
            ("/a//b/./c/", "", Some("/a/b/c")),
            ("/a/../../b", "", Some("/b")),
            ("a", "", None),
            ("/proc/self/fd/7", "", None),
            ("/a/../proc/self/fd/7", "", None),
            ("/proc", "", Some("/proc")),
            ("/a", "-w /b", Some("/b")),
            ("a", "-w /b", Some("/b")),
            ("/a", "-w b", None),
            ("/a", "--workdir=", None),
            ("/a\0", "", None),
        ] {
            let config = RunConfig { working_dir: image.to_owned(), ..RunConfig::default() };
            assert_eq!(cwd(&config, &options(flags)).ok().as_deref(), meant, "{image:?} | {flags}");
        }
    }
}
