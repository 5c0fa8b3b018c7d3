//! A supervisor that answers for system calls.

use std::os::fd::AsRawFd;

use libseccomp::{ScmpNotifReq, ScmpNotifResp, ScmpNotifRespFlags};
use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::debian;
use crate::sockets::Listener;

#[test]
fn a_supervisor_answers_for_the_system_calls_of_init_and_of_exec() {
    let Some(root) = debian::root() else { return };
    let bundle = Bundle::new("notify", root, &["sleep", "1000"], |_| ());
    let listener = Listener::new(&bundle);
    bundle.change(|c| {
        c["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": listener.path,
            "listenerMetadata": "the metadata",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }],
        });
        c["process"]["noNewPrivileges"] = json!(false);
    });
    // Two listeners come: one for init, one for what is executed later. Each answers one call with an errno that no
    // kernel would give.
    let supervisor = std::thread::spawn(move || {
        let serve = |calls: usize| {
            let (message, fds) = listener.receive();
            for _ in 0..calls {
                let request = ScmpNotifReq::receive(fds[0].as_raw_fd()).unwrap();
                let answer = ScmpNotifResp::new_error(request.id, -77, ScmpNotifRespFlags::empty());
                answer.respond(fds[0].as_raw_fd()).unwrap();
            }
            (serde_json::from_slice::<Value>(&message).unwrap(), fds)
        };
        [serve(0), serve(1)]
    });
    bundle.detach();
    let pid = bundle.pid();
    let done = bundle.exec(&["mkdir", "/tmp/x"]);
    assert!(done.err.contains("File descriptor in bad state") && done.code == 1, "{done:?}");
    let messages = supervisor.join().unwrap();
    for ((message, fds), status) in messages.iter().zip(["creating", "running"]) {
        assert_eq!(fds.len(), 1);
        assert_eq!(message["fds"], json!(["seccompFd"]));
        assert_eq!(message["metadata"], "the metadata");
        assert_eq!(message["state"]["id"], bundle.id);
        assert_eq!(message["state"]["status"], status);
        assert_eq!(message["state"]["pid"], pid);
    }
    assert_eq!(messages[0].0["pid"], pid);
    assert_ne!(messages[1].0["pid"], pid);
}

/// A profile like Docker's: what is not listed is refused, clone may make no namespaces, clone3 is said to be missing.
#[test]
fn a_distribution_works_under_a_profile_of_four_hundred_names() {
    let Some(root) = debian::root() else { return };
    let names = include_str!("../../xtask/data/seccomp-names.txt").lines().filter(|l| !l.starts_with('#'));
    let names: Vec<_> = names.map(str::trim).filter(|l| !l.is_empty()).collect();
    assert!(names.len() > 300);
    let script = r#"
        python3 -c "import subprocess, threading
t = threading.Thread(target=print, args=('thread',), kwargs={'flush': True}); t.start(); t.join()
print(subprocess.check_output(['echo', 'child']).decode(), end='')"
        grep Seccomp: /proc/self/status; unshare --net true || echo refused; dpkg-query --show bash | wc -l"#;
    let bundle = Bundle::new("profile", root, &["bash", "-c", script], |c| {
        let namespaces = 0x7e02_0000;
        c["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 1,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [
                { "names": names, "action": "SCMP_ACT_ALLOW" },
                { "names": ["clone"], "action": "SCMP_ACT_ALLOW",
                  "args": [{ "index": 0, "value": namespaces, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }] },
                { "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 },
            ],
        });
        // Allowed by the capabilities, so that it is the profile that refuses.
        for set in ["bounding", "effective", "permitted"] {
            c["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
        }
    });
    assert_eq!(bundle.run().ok(), "thread\nchild\nSeccomp:\t2\nrefused\n1\n");
}
