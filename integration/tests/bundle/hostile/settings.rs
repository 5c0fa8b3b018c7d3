//! Configurations that ask for what an image has no say in.

use orlop_images::layout::Packing;
use orlop_images::tar::{Header, Tar, flag};
use serde_json::{Value, json};

use super::{Cases, Want, listings};

/// An image with a passwd and a group, and these settings.
fn with(cases: &mut Cases<'_>, name: String, want: Want, run: Value) {
    cases.layout(name, want, move |layout| {
        let mut tar = Tar::new();
        tar.file("etc/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/var/www:/bin/sh\n4294967296:x:0:0::/:/\n");
        tar.file("etc/group", "root:x:0:\nweb:x:33:\n");
        let layer = layout.layer_of(Packing::Plain, &tar.end());
        let mut run = run.clone();
        if run["Cmd"].is_null() {
            run["Cmd"] = json!(["/bin/sh"]);
        }
        layout.image("t", &[layer], run);
    });
}

fn fine() -> Want {
    listings(&[&["d etc", "f etc/group 20", "f etc/passwd 78"]])
}

pub(super) fn all(cases: &mut Cases<'_>) {
    for user in ["", "0", "web", "web:web", "33:33", "web:0", "1000", "1000:1000", "2147483647"] {
        with(cases, format!("T56: the user {user:?}"), fine(), json!({"User": user}));
    }
    for user in [
        "4294967296",
        "4294967295",
        "18446744073709551616",
        "-1",
        "+0",
        "0x0",
        "nobody-here",
        "web:nobody-here",
        "web:-1",
        "0:4294967296",
        "web:web:web",
        "../root",
        "web\nroot",
    ] {
        with(cases, format!("T56 CVE-2024-40635: the user {user:?}"), Want::NotCreated, json!({"User": user}));
    }
    for dir in ["relative/../..", "a", "/proc/self/fd/7/../.."] {
        with(cases, format!("T58: the working directory {dir:?}"), Want::Survived, json!({"WorkingDir": dir}));
    }
    for env in [json!(["NAME"]), json!(["=x"]), json!(["A=b\0c"]), json!([""])] {
        with(cases, format!("T59: the environment {env}"), Want::Survived, json!({"Env": env}));
    }
    for volume in ["../../", "/", "/proc", "/etc/../../..", "relative", ""] {
        let run = json!({"Volumes": {volume: {}}});
        with(cases, format!("T60 CVE-2022-23648: the volume {volume:?}"), Want::Survived, run);
    }
    with(cases, "a command with a NUL".to_owned(), Want::Survived, json!({"Cmd": ["a\0b"]}));

    let canary = cases.canary();
    let passwds: [(&str, Header); 3] = [
        ("a link to what is outside", Header::new(flag::SYMLINK, "etc/passwd").link(format!("{canary}/secret"))),
        ("a FIFO", Header::new(flag::FIFO, "etc/passwd")),
        ("a folder", Header::new(flag::DIRECTORY, "etc/passwd")),
    ];
    for (what, header) in passwds {
        let mut tar = Tar::new();
        tar.bare(header);
        let tar = tar.end();
        cases.layout(format!("T57 CVE-2024-9676: /etc/passwd is {what}"), Want::NotCreated, move |layout| {
            let layer = layout.layer_of(Packing::Plain, &tar);
            layout.image("t", &[layer], json!({"User": "web", "Cmd": ["/bin/sh"]}));
        });
    }
    cases.layout("T57 CVE-2026-47262: a group file of 64 MiB", Want::Survived, |layout| {
        let layer = layout.layer(Packing::Gzip, |tar| {
            tar.file("etc/passwd", "web:x:33:33::/:/\n").file("etc/group", "g:x:1:web\n".repeat(6 << 20));
        });
        layout.image("t", &[layer], json!({"User": "web", "Cmd": ["/bin/sh"]}));
    });
}
