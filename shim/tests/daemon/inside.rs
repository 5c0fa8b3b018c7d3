//! What of the shim can be reached from inside a container.

use std::fs;

use orlop_sys::rustix::fs::{StatVfsMountFlags, fstatvfs};
use serde_json::{Value as Json, json};

use orlop_shim::client::number;

use crate::{Place, SHIM, skipped};

/// Lists a shell's descriptors, but the one by which it is done.
const LIST: &str = "cd /proc/$$/fd; for fd in *; do test -e $fd && echo -n \"$fd \"; done; echo";

fn terminal(config: &mut Json) {
    config["process"]["terminal"] = json!(true);
}

#[test]
fn no_descriptor_of_the_shim_reaches_a_container() {
    if skipped() {
        return;
    }
    for has_terminal in [false, true] {
        let change = |config: &mut Json| {
            if has_terminal {
                terminal(config)
            }
        };
        let mut place = Place::with(&["sh", "-c", &format!("{LIST}; sleep 1000")], change);
        place.listen();
        let mut client = place.start();
        // Others that are open meanwhile: more clients, events, streams, the memory's watch, a log.
        let others: Vec<_> = (0..3).map(|_| place.connect()).collect();
        let output = place.reader("out");
        let request = place.create().flag(4, has_terminal).text(5, &place.path("in"));
        client.call("Create", &request).unwrap();
        client.process("Start", "").unwrap();
        for name in ["e1", "e2"] {
            let errors = place.reader("err");
            client.exec(name, &["sh", "-c", LIST], &place.path("err")).unwrap();
            client.process("Start", name).unwrap();
            assert_eq!(number(&client.process("Wait", name).unwrap(), 1), 0);
            assert_eq!(String::from_utf8(errors.join().unwrap()).unwrap(), "0 1 2 \n", "exec {name}");
            if name == "e1" {
                client.process("Delete", name).unwrap();
            }
        }
        client.end();
        let output = String::from_utf8(output.join().unwrap()).unwrap();
        // A shell on a terminal has it open once more.
        assert!(["0 1 2", "0 1 2 10"].contains(&output.trim()), "init: {output:?}");
        drop(others);
    }
}

#[test]
fn a_container_can_not_write_to_the_shims_program() {
    if skipped() {
        return;
    }
    let before = fs::metadata(SHIM).unwrap();
    // Root among the host's processes, with all that root may.
    let mut place = Place::with(&["sleep", "1000"], |config| {
        config["linux"]["namespaces"] = json!([{"type": "mount"}]);
        config["process"]["capabilities"] = json!({
            "bounding": ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"],
            "effective": ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"],
            "permitted": ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"],
        });
    });
    let mut client = place.start();
    let shim = place.shim();
    let exe = fs::File::open(format!("/proc/{shim}/exe")).unwrap();
    assert!(fstatvfs(&exe).unwrap().f_flag.contains(StatVfsMountFlags::RDONLY));
    let pid = number(&client.call("Create", &place.create()).unwrap(), 1);
    // The shim itself, and init, which is of the same program until it is started.
    for pid in [u64::from(shim), pid] {
        let errors = place.reader("err");
        let script = format!("cat /proc/{pid}/exe | busybox wc -c; echo x >> /proc/{pid}/exe; echo $?");
        client.exec("e", &["sh", "-c", &format!("({script}) 2>&1")], &place.path("err")).unwrap();
        client.process("Start", "e").unwrap();
        client.process("Wait", "e").unwrap();
        client.process("Delete", "e").unwrap();
        let said = String::from_utf8(errors.join().unwrap()).unwrap();
        assert!(said.contains("Read-only file system") || said.contains("Text file busy"), "{said}");
        assert!(said.starts_with(&before.len().to_string()) && said.ends_with("\n1\n"), "{said}");
    }
    client.end();
    let after = fs::metadata(SHIM).unwrap();
    assert_eq!((before.len(), before.modified().unwrap()), (after.len(), after.modified().unwrap()));
}
