//! What a monitor, or a command, does with the container itself: calls into the runtime's library.

use std::path::Path;

use orlop::config::{self, IdMapping, Spec};
use orlop::container::Container;
use orlop::error::{At, Error, ErrorKind, Result};
use orlop::kill::{self, Whom};
use orlop::store::{ContainerId, Store};
use orlop::{create, delete, pause, request, start};
use orlop_sys::signal::number_of;
use orlop_sys::tty::{Winsize, tcsetwinsize};

use serde_json::Value;

use super::notify;
use super::state::Options;
use crate::job::{self, Done, Outcome};
use crate::start::read_file;

/// What an image says about the signal that ends its program, as `orlop-bundle` and others write it down.
const STOP_SIGNAL: &str = "org.opencontainers.image.stopSignal";
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// The container's config.json.
pub fn document(bundle: &str) -> Result<Vec<u8>> {
    let path = format!("{bundle}/config.json");
    read_file(&path).map_err(|e| Error::os(path, e))
}

/// What of config.json matters to who keeps the container.
pub fn read(options: &mut Options) -> Result<()> {
    let spec: Spec = config::parse("config.json", &document(&options.bundle)?)?;
    let Some(process) = &spec.process else { return Err(Error::invalid("config.json: process", "is required")) };
    options.add_terminal &= !process.terminal;
    options.terminal = process.terminal || options.add_terminal;
    options.command.clone_from(&process.args);
    options.owner =
        (on_host(&spec.linux.uid_mappings, process.user.uid), on_host(&spec.linux.gid_mappings, process.user.gid));
    options.own_network = spec.linux.namespaces.iter().any(|n| n.r#type == "network" && n.path.is_empty());
    if options.stop_signal == 0 {
        options.stop_signal = match spec.annotations.0.get(STOP_SIGNAL).map(String::as_str) {
            None | Some("") => SIGTERM,
            Some(text) => kill::parse_signal(text).map_err(|e| e.context(STOP_SIGNAL))?,
        };
    }
    Ok(())
}

/// The host's id behind one of the container's.
fn on_host(mappings: &[IdMapping], id: u32) -> u32 {
    let within = |m: &&IdMapping| id >= m.container_id && id - m.container_id < m.size;
    mappings.iter().find(within).map_or(id, |m| m.host_id.saturating_add(id - m.container_id))
}

/// A signal by its number or name.
pub fn parse_signal(text: &str) -> std::result::Result<i32, String> {
    let number = text.parse().ok().or_else(|| number_of(text));
    number.filter(|number| (1..=64).contains(number)).ok_or_else(|| format!("unknown signal {text:?}"))
}

/// A container, and where the runtime keeps its own record of it.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// What was said of it.
    pub options: &'a Options,
    /// Its id.
    pub id: &'a ContainerId,
    /// The path of its folder.
    pub folder: &'a str,
}

impl Place<'_> {
    /// The runtime's store.
    pub fn store(&self) -> Result<Store> {
        Store::open(Path::new(&self.options.root))
    }

    /// The container.
    pub fn open(&self) -> Result<Container> {
        Container::open(&self.store()?, self.id)
    }

    /// Makes it and starts it, in a job that has its streams; `size` is for its terminal.
    pub fn make(&self, size: Option<Winsize>) -> Outcome {
        self.try_make(size).map_err(|error| job::status(&error))
    }

    fn try_make(&self, size: Option<Winsize>) -> Result<Done> {
        let store = Store::create(Path::new(&self.options.root))?;
        let request = request::Create {
            id: self.id.clone(),
            bundle: self.options.bundle.clone(),
            console_socket: None,
            pidfd_socket: None,
            pid_file: Some(&self.options.pid_file).filter(|path| !path.is_empty()).cloned(),
            no_pivot: false,
            no_new_keyring: false,
            preserve_fds: 0,
            listen_fds: 0,
            foreground: self.options.terminal,
            cgroups: request::Cgroups::Cgroupfs,
        };
        let created = create::create(&store, &request, &self.document()?)?;
        if let (Some(terminal), Some(size)) = (&created.terminal, size) {
            tcsetwinsize(terminal, size).at(|| "the terminal's size")?;
        }
        if let Err(error) = start::start(&store, self.id) {
            // Nobody would start it again; if it can't be removed either, that is not what the user asked about.
            let _ = delete::delete(&store, self.id, delete::Force::Yes);
            return Err(error);
        }
        let pid = created.pid.as_raw_nonzero().get().unsigned_abs();
        Ok(Done { pid, terminal: created.terminal, notes: created.warnings, ..Done::default() })
    }

    /// config.json, with what the command line has added to it.
    fn document(&self) -> Result<Vec<u8>> {
        let bytes = document(&self.options.bundle)?;
        if !self.options.notify && !self.options.add_terminal {
            return Ok(bytes);
        }
        // What is wrong with it is to be said of what the user has written.
        config::parse::<Spec>("config.json", &bytes)?;
        let odd = |e: serde_json::Error| Error::invalid("config.json", e);
        let mut document: Value = serde_json::from_slice(&bytes).map_err(odd)?;
        if self.options.add_terminal
            && let Some(process) = document.get_mut("process").and_then(Value::as_object_mut)
        {
            process.insert("terminal".to_owned(), true.into());
        }
        if self.options.notify {
            notify::add_socket(&mut document, self.folder)?;
        }
        serde_json::to_vec(&document).map_err(odd)
    }

    /// Removes what is left of it, after killing what still runs.
    pub fn delete(&self) -> Result<Vec<String>> {
        delete::delete(&self.store()?, self.id, delete::Force::Yes)
    }

    /// Sends a signal to its first process, which hears of it even if it stands still.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let store = self.store()?;
        kill::kill(&store, self.id, signal, Whom::Init)?;
        match pause::resume(&store, self.id) {
            Err(e) if e.kind() != ErrorKind::WrongStatus && e.kind() != ErrorKind::Unsupported => Err(e),
            _ => Ok(()),
        }
    }

    /// Kills all of it.
    pub fn kill(&self) -> Result<()> {
        let store = self.store()?;
        kill::kill(&store, self.id, SIGKILL, Whom::All)?;
        match kill::kill(&store, self.id, SIGKILL, Whom::Init) {
            Err(e) if e.kind() != ErrorKind::WrongStatus => Err(e),
            _ => Ok(()),
        }
    }
}

/// The exit status for a container that could not be started, as Docker and shells have it: 127 if there is no such
/// program, 126 if it can't be run, 125 for all else.
pub fn failure_status(text: &str) -> u8 {
    let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
    if says(&["executable file not found", "no such file or directory"]) {
        127
    } else if says(&["permission denied", "exec format error", "is a directory"]) {
        126
    } else {
        125
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_mapped_to_those_of_the_host() {
        let map = |container_id, host_id, size| IdMapping { container_id, host_id, size };
        let mappings = [map(0, 100_000, 1000), map(1000, 5, 1)];
        for (id, want) in [(0, 100_000), (999, 100_999), (1000, 5), (1001, 1001)] {
            assert_eq!(on_host(&mappings, id), want);
        }
        assert_eq!(on_host(&[], 33), 33);
    }

    #[test]
    fn a_failure_has_the_status_that_docker_gives_it() {
        for (text, want) in [
            ("exec: \"nope\": executable file not found in $PATH", 127),
            ("exec: \"/nope\": stat /nope: no such file or directory", 127),
            ("exec: \"/etc\": permission denied", 126),
            ("mounts[2]: mount tmpfs on /dev: EPERM (operation not permitted)", 125),
        ] {
            assert_eq!(failure_status(text), want);
        }
    }

    #[test]
    fn a_signal_has_a_number_or_a_name() {
        assert_eq!(parse_signal("TERM"), Ok(15));
        assert_eq!(parse_signal("SIGKILL"), Ok(9));
        assert_eq!(parse_signal("3"), Ok(3));
        for bad in ["", "0", "65", "-1", "NOPE"] {
            assert!(parse_signal(bad).is_err(), "{bad}");
        }
    }
}
