//! Terminals: the console socket, the foreground, sizes, and what is refused.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::termios::{OptionalActions, Winsize};
use serde_json::{Value, json};

use crate::check::{eq, holds};
use crate::command::{Running, answers};
use crate::scene::{Live, Scene, text};
use crate::socket::Listener;

cases! {
    "runc --console-socket (containerd, conmon)" => [
        the_socket_gets_the_other_end_of_the_terminal,
        all_three_streams_are_the_terminal,
        the_process_has_it_as_controlling_terminal,
        what_is_typed_reaches_the_process,
        the_terminal_belongs_to_the_user,
        the_console_is_the_terminal,
        exec_gets_a_terminal_of_its_own,
        a_long_path_of_a_socket_works,
    ],
    "config.md, Process: consoleSize" => [
        the_terminal_has_the_configured_size,
        a_size_without_a_terminal_is_ignored,
    ],
    "runc: terminals that can't be" => [
        create_with_a_terminal_needs_a_socket,
        a_socket_without_a_terminal_is_refused,
        a_socket_that_nobody_listens_to_is_refused,
        a_socket_that_is_missing_is_refused,
        a_detached_run_with_a_terminal_needs_a_socket,
    ],
    "runc run in the foreground" => [
        the_callers_terminal_is_connected,
        a_change_of_size_is_passed_on,
        the_callers_terminal_is_raw_meanwhile_and_restored,
        exec_with_tty_connects_the_callers_terminal,
    ],
    "config.md, Process: terminal" => [without_a_terminal_there_is_none],
}

/// The end of a terminal that the engine keeps, with what has been read from it.
struct Screen {
    terminal: OwnedFd,
    seen: String,
}

impl Screen {
    fn new(terminal: OwnedFd) -> Self {
        Self { terminal, seen: String::new() }
    }

    /// Reads until something fits.
    fn shows<T>(&mut self, what: &str, fits: impl Fn(&str) -> Option<T>) -> Result<T> {
        let end = std::time::Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(found) = fits(&self.seen) {
                return Ok(found);
            }
            ensure!(std::time::Instant::now() < end, "expected {what} on the terminal, saw {:?}", self.seen);
            let mut polled = [PollFd::new(&self.terminal, PollFlags::IN)];
            rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 }))?;
            let events = polled[0].revents();
            if events.contains(PollFlags::IN) {
                let mut buffer = vec![0_u8; 1 << 16];
                // EIO when the last process has closed its end; what it wrote before is still read.
                let count = rustix::io::read(&self.terminal, &mut *buffer).unwrap_or(0);
                self.seen.push_str(&String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()));
            }
        }
    }

    /// Reads until the probe gives an answer that fits.
    fn hears(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        self.shows(what, |seen| answers(seen).into_iter().find(|answer| fits(answer)))
    }

    fn types(&self, text: &str) -> Result<()> {
        rustix::io::write(&self.terminal, text.as_bytes())?;
        Ok(())
    }
}

/// A started container with a terminal, and the screen that came through the console socket.
fn on_a_terminal(scene: &mut Scene, args: &[&str]) -> Result<(Live, Screen)> {
    let path = scene.path("console");
    let listener = Listener::bind(&path)?;
    scene.set("/process/terminal", true).probes(args);
    let live = scene.create_with(&["--console-socket", &text(&path)])?;
    let (_, mut fds) = listener.accept()?;
    eq("number of fds", fds.len(), 1)?;
    scene.start()?;
    Ok((live, Screen::new(fds.pop().context("no fd")?)))
}

fn facts(scene: &mut Scene) -> Result<Value> {
    let (_live, mut screen) = on_a_terminal(scene, &["facts", "then", "wait"])?;
    screen.hears("the facts", |answer| answer["verb"] == "facts")
}

fn the_socket_gets_the_other_end_of_the_terminal(scene: &mut Scene) -> Result<()> {
    let (live, mut screen) = on_a_terminal(scene, &["print", "hello from inside\n", "then", "exit", "0"])?;
    ensure!(rustix::termios::isatty(&screen.terminal), "what came is no terminal");
    // A terminal in its usual state turns a line feed into two characters.
    screen.shows("the line", |seen| seen.contains("hello from inside\r\n").then_some(()))?;
    eq("end", live.ends()?, 0)
}

fn all_three_streams_are_the_terminal(scene: &mut Scene) -> Result<()> {
    let facts = facts(scene)?;
    for stream in ["stdin", "stdout", "stderr"] {
        eq(stream, &facts["tty"][stream], true)?;
    }
    for fd in ["0", "1", "2"] {
        let target = facts["fds"][fd].as_str().unwrap_or_default();
        ensure!(target.starts_with("/dev/pts/") || target == "/dev/console", "fd {fd} is {target:?}");
    }
    eq("number of fds", facts["fds"].as_object().map(serde_json::Map::len), 3)
}

fn the_process_has_it_as_controlling_terminal(scene: &mut Scene) -> Result<()> {
    let facts = facts(scene)?;
    eq("/dev/tty can be opened", &facts["tty"]["controlling"], true)?;
    eq("session", &facts["sid"], &facts["pid"])
}

fn what_is_typed_reaches_the_process(scene: &mut Scene) -> Result<()> {
    let (live, screen) = on_a_terminal(scene, &["stdin", "then", "exit", "4"])?;
    // The last character ends the input.
    screen.types("typed\n\u{4}")?;
    eq("end", live.ends()?, 4)
}

fn the_terminal_belongs_to_the_user(scene: &mut Scene) -> Result<()> {
    scene.set("/process/user", json!({ "uid": 1234, "gid": 1235 }));
    let (_live, mut screen) = on_a_terminal(scene, &["stat", "/dev/pts/0", "then", "wait"])?;
    let answer = screen.hears("the terminal's owner", |answer| answer["verb"] == "stat")?;
    eq("owner", &answer["uid"], 1234)
}

fn the_console_is_the_terminal(scene: &mut Scene) -> Result<()> {
    let (_live, mut screen) = on_a_terminal(scene, &["stat", "/dev/console", "then", "wait"])?;
    let answer = screen.hears("the console", |answer| answer["verb"] == "stat")?;
    eq("major: Unix 98 terminals", &answer["major"], 136)
}

fn exec_gets_a_terminal_of_its_own(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let path = scene.path("console");
    let listener = Listener::bind(&path)?;
    let options = ["--tty", "--detach", "--console-socket", &text(&path)];
    scene.exec_with(&options, &["facts", "then", "wait"])?.ok()?;
    let (_, mut fds) = listener.accept()?;
    let mut screen = Screen::new(fds.pop().context("no fd")?);
    let facts = screen.hears("the facts", |answer| answer["verb"] == "facts")?;
    eq("stdin", &facts["tty"]["stdin"], true)?;
    eq("controlling terminal", &facts["tty"]["controlling"], true)
}

fn a_long_path_of_a_socket_works(scene: &mut Scene) -> Result<()> {
    // Close to the 108 bytes that an address holds.
    let dir = scene.dir.clone();
    let room = 106_usize.saturating_sub(text(&dir).len() + 1);
    let path = dir.join("s".repeat(room.max(1)));
    let listener = Listener::bind(&path)?;
    scene.set("/process/terminal", true);
    scene.create_with(&["--console-socket", &text(&path)])?;
    eq("number of fds", listener.accept()?.1.len(), 1)
}

fn the_terminal_has_the_configured_size(scene: &mut Scene) -> Result<()> {
    scene.set("/process/consoleSize", json!({ "height": 33, "width": 111 }));
    let facts = facts(scene)?;
    eq("rows", &facts["tty"]["rows"], 33)?;
    eq("columns", &facts["tty"]["columns"], 111)
}

fn a_size_without_a_terminal_is_ignored(scene: &mut Scene) -> Result<()> {
    scene.set("/process/consoleSize", json!({ "height": 33, "width": 111 }));
    eq("stdin is a terminal", &scene.facts()?["tty"]["stdin"], false)
}

fn create_with_a_terminal_needs_a_socket(scene: &mut Scene) -> Result<()> {
    scene.set("/process/terminal", true);
    scene.try_create()?.refused().map(drop)
}

fn refuses_socket(scene: &mut Scene, path: &str) -> Result<()> {
    scene.save()?;
    scene.uses(&scene.id);
    let create = scene.runtime(&["create", "--bundle", &text(&scene.bundle), "--console-socket", path, &scene.id]);
    create.run()?.refused()?;
    ensure!(!scene.is_known(&scene.id), "the container is still there");
    Ok(())
}

fn a_socket_without_a_terminal_is_refused(scene: &mut Scene) -> Result<()> {
    let path = scene.path("console");
    let _listener = Listener::bind(&path)?;
    refuses_socket(scene, &text(&path))
}

fn a_socket_that_nobody_listens_to_is_refused(scene: &mut Scene) -> Result<()> {
    let path = scene.path("console");
    drop(Listener::bind(&path)?);
    scene.set("/process/terminal", true);
    refuses_socket(scene, &text(&path))
}

fn a_socket_that_is_missing_is_refused(scene: &mut Scene) -> Result<()> {
    scene.set("/process/terminal", true);
    let path = text(&scene.path("missing"));
    refuses_socket(scene, &path)
}

fn a_detached_run_with_a_terminal_needs_a_socket(scene: &mut Scene) -> Result<()> {
    scene.set("/process/terminal", true);
    scene.run_with(&["--detach"])?.refused().map(drop)
}

/// A pair of terminal ends: the screen, and what a shell would give to its programs.
fn terminal() -> Result<(Screen, OwnedFd)> {
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let peer = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    Ok((Screen::new(master), peer))
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// `run` in the foreground of a terminal of 40 rows and 100 columns.
fn foreground(scene: &mut Scene, args: &[&str]) -> Result<(Running, Screen, OwnedFd)> {
    let (screen, peer) = terminal()?;
    rustix::termios::tcsetwinsize(&screen.terminal, size(40, 100))?;
    scene.set("/process/terminal", true).probes(args).save()?;
    scene.uses(&scene.id);
    let running = scene.runtime(&["run", "--bundle", &text(&scene.bundle), &scene.id]).run_on(&peer)?;
    Ok((running, screen, peer))
}

fn the_callers_terminal_is_connected(scene: &mut Scene) -> Result<()> {
    // The size may arrive a moment after the process has started, with a SIGWINCH.
    let (running, mut screen, _peer) = foreground(scene, &["sleep", "0.3", "then", "facts", "then", "wait"])?;
    let facts = screen.hears("the facts", |answer| answer["verb"] == "facts")?;
    eq("stdin", &facts["tty"]["stdin"], true)?;
    eq("rows", &facts["tty"]["rows"], 40)?;
    eq("columns", &facts["tty"]["columns"], 100)?;
    screen.hears("ready", |answer| answer["ready"] == true)?;
    // Control-C, as the container's terminal understands it.
    screen.types("\u{3}")?;
    screen.hears("SIGINT", |answer| answer["signal"] == "SIGINT")?;
    running.finish()?.exits(0).map(drop)
}

fn a_change_of_size_is_passed_on(scene: &mut Scene) -> Result<()> {
    let (running, mut screen, _peer) = foreground(scene, &["wait"])?;
    screen.hears("ready", |answer| answer["ready"] == true)?;
    rustix::termios::tcsetwinsize(&screen.terminal, size(50, 120))?;
    running.signal(rustix::process::Signal::WINCH)?;
    screen.hears("the new size", |answer| answer["signal"] == "SIGWINCH" && answer["rows"] == 50)?;
    screen.types("\u{3}")?;
    running.finish()?.exits(0).map(drop)
}

fn the_callers_terminal_is_raw_meanwhile_and_restored(scene: &mut Scene) -> Result<()> {
    let (screen, peer) = terminal()?;
    let usual = rustix::termios::tcgetattr(&peer)?;
    rustix::termios::tcsetattr(&peer, OptionalActions::Now, &usual)?;
    scene.set("/process/terminal", true).probes(&["wait"]).save()?;
    scene.uses(&scene.id);
    let running = scene.runtime(&["run", "--bundle", &text(&scene.bundle), &scene.id]).run_on(&peer)?;
    let mut screen = screen;
    screen.hears("ready", |answer| answer["ready"] == true)?;
    let canonical = rustix::termios::LocalModes::ICANON;
    ensure!(
        !rustix::termios::tcgetattr(&peer)?.local_modes.contains(canonical),
        "the caller's terminal is not raw while the container runs"
    );
    screen.types("\u{3}")?;
    running.finish()?.exits(0)?;
    ensure!(
        rustix::termios::tcgetattr(&peer)?.local_modes == usual.local_modes,
        "the caller's terminal is not as it was before"
    );
    Ok(())
}

fn exec_with_tty_connects_the_callers_terminal(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let (mut screen, peer) = terminal()?;
    rustix::termios::tcsetwinsize(&screen.terminal, size(41, 101))?;
    let exec = scene.runtime(&["exec", "--tty", &scene.id, "/probe", "sleep", "0.3", "then", "facts", "then", "wait"]);
    let running = exec.run_on(&peer)?;
    let facts = screen.hears("the facts", |answer| answer["verb"] == "facts")?;
    eq("stdin", &facts["tty"]["stdin"], true)?;
    eq("rows", &facts["tty"]["rows"], 41)?;
    screen.hears("ready", |answer| answer["ready"] == true)?;
    screen.types("\u{3}")?;
    running.finish()?.exits(0).map(drop)
}

fn without_a_terminal_there_is_none(scene: &mut Scene) -> Result<()> {
    let facts = scene.facts()?;
    for stream in ["stdin", "stdout", "stderr"] {
        eq(stream, &facts["tty"][stream], false)?;
    }
    holds("controlling terminal", &facts["tty"]["controlling"].to_string(), "false")
}
