//! Shells in terminals.

use serde_json::json;

use crate::bundle::{Bundle, until};
use crate::debian;
use crate::pty::Terminal;
use crate::sockets::Listener;

/// Until the prompt: bash with a terminal, as `orlop spec` would start sh.
fn shell(name: &str) -> Option<Bundle> {
    let bundle = Bundle::new(name, debian::root()?, &["bash", "--norc"], |c| c["process"]["terminal"] = json!(true));
    Some(bundle)
}

/// What one does with a shell; ends with its exit status 3.
fn session(terminal: &mut Terminal) {
    terminal.expect("# ");
    terminal.type_in("tty; echo A$((40+2))B\n");
    let said = terminal.expect("A42B");
    assert!(said.contains("/dev/pts/0"), "{said}");

    // Whoever says so has the terminal already; what is typed is not what is said.
    let asleep = "sh -c 'echo as''leep; exec sleep 100'";
    terminal.type_in(&format!("{asleep}; echo status=$?\n"));
    terminal.expect("asleep");
    terminal.type_in("\x03");
    terminal.expect("^C");
    terminal.type_in("echo status=$?.\n");
    terminal.expect("status=130.");

    // Job control needs a controlling terminal.
    terminal.type_in(&format!("{asleep}\n"));
    terminal.expect("asleep");
    terminal.type_in("\x1a");
    terminal.expect("Stopped");
    terminal.type_in("kill %1; fg; echo gone=$?.\n");
    terminal.expect("gone=143.");
}

#[test]
fn a_shell_in_a_terminal_behaves_as_at_home() {
    let Some(bundle) = shell("shell") else { return };
    let mut terminal = Terminal::run(bundle.command().args(["run", "--bundle", &bundle.path(""), &bundle.id]));
    session(&mut terminal);
    assert_ne!(terminal.mode(), terminal.mode_before);
    terminal.type_in("stty size; echo end$?.\n");
    assert!(terminal.expect("end0.").contains("30 100"));
    terminal.resize(50, 120);
    terminal.type_in("until stty size | grep '50 120'; do sleep 0.1; done; echo end$?.\n");
    terminal.expect("end0.");
    terminal.type_in("exit 3\n");
    assert_eq!(terminal.wait(), 3);
    assert_eq!(terminal.mode(), terminal.mode_before);
}

#[test]
fn the_end_of_the_input_ends_a_shell() {
    let Some(bundle) = shell("eof") else { return };
    let typed = bundle.path("typed");
    for (shell, lines) in [("bash", ""), ("bash", "echo A$((40+2))B\n"), ("sh", "echo A$((40+2))B\n")] {
        bundle.change(|c| c["process"]["args"] = json!([shell]));
        std::fs::write(&typed, lines).unwrap();
        let input = std::fs::File::open(&typed).unwrap();
        let done = bundle.finish(bundle.command().args(["run", "-b", &bundle.path(""), &bundle.id]).stdin(input));
        assert_eq!((done.code, done.out.contains("A42B")), (0, !lines.is_empty()), "{shell} {lines:?} {done:?}");
    }
}

#[test]
fn a_terminal_that_is_closed_ends_its_container() {
    let Some(bundle) = shell("hangup") else { return };
    let mut terminal = Terminal::run(bundle.command().args(["run", "--bundle", &bundle.path(""), &bundle.id]));
    terminal.expect("# ");
    terminal.close();
    // Bash ends with the signal that the closing sends, unless it has seen the end of its input first.
    let code = terminal.wait();
    assert!([0, 1, 129].contains(&code), "{code}");
    assert!(!bundle.orlop(&["list", "--quiet"]).ok().contains(&bundle.id));
}

#[test]
fn the_whole_output_of_a_terminal_arrives() {
    let Some(bundle) = shell("flood") else { return };
    bundle
        .change(|c| c["process"]["args"] = json!(["bash", "-c", "for i in {1..60000}; do echo line $i; done; exit 9"]));
    let done = bundle.run();
    assert_eq!(done.code, 9, "{}", done.err);
    assert_eq!(done.out.lines().count(), 60_000);
    assert!(done.out.ends_with("line 60000\r\n"));
}

#[test]
fn a_shell_is_executed_in_a_running_container() {
    let Some(root) = debian::root() else { return };
    let bundle = Bundle::new("exec", root, &["sleep", "1000"], |_| ());
    bundle.detach();
    let mut terminal = Terminal::run(bundle.command().args(["exec", "--tty", &bundle.id, "bash", "--norc"]));
    session(&mut terminal);
    terminal.type_in("ps -o pid,args -p 1; exit 5\n");
    terminal.expect("sleep 1000");
    assert_eq!(terminal.wait(), 5);
    assert_eq!(terminal.mode(), terminal.mode_before);

    let done = bundle.exec(&["bash", "-c", "tty; echo error >&2; kill -USR1 $$"]);
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (138, "not a tty\n", "error\n"));
}

#[test]
fn a_console_socket_gets_the_terminal_of_a_detached_shell() {
    let Some(bundle) = shell("console") else { return };
    bundle.change(|c| c["process"]["consoleSize"] = json!({ "height": 33, "width": 77 }));
    let listener = Listener::new(&bundle);
    bundle.orlop(&["create", "--bundle", &bundle.path(""), "--console-socket", &listener.path, &bundle.id]).ok();
    let (_, mut fds) = listener.receive();
    assert_eq!(fds.len(), 1);
    bundle.orlop(&["start", &bundle.id]).ok();
    let mut terminal = Terminal::over(fds.remove(0));
    session(&mut terminal);
    terminal.type_in("stty size; echo end$?.\n");
    assert!(terminal.expect("end0.").contains("33 77"));
    terminal.type_in("exit\n");
    until("the end", || (bundle.state()["status"] == "stopped").then_some(()));
}

#[test]
fn a_foreground_that_has_nothing_to_do_takes_no_time() {
    let Some(bundle) = shell("idle") else { return };
    // Its input has ended, then its terminal has no side in the container any more.
    let script = "sleep 0.5; exec <&- >&- 2>&-; sleep 1";
    bundle.change(|c| c["process"]["args"] = json!(["bash", "-c", script]));
    let mut time = std::process::Command::new("bash");
    let command = bundle.command();
    time.args(["-c", "TIMEFORMAT='%U %S'; time \"$@\"", "_"]).arg(command.get_program()).args(command.get_args());
    let done =
        bundle.finish(time.args(["run", "--bundle", &bundle.path(""), &bundle.id]).stdin(std::process::Stdio::null()));
    let seconds: f64 = done.err.split_whitespace().map(|n| n.parse::<f64>().unwrap()).sum();
    assert!(done.code == 0 && seconds < 0.3, "{done:?}");
}
