//! A registry with a password: Debian's, on a host's loopback.

use std::fs;
use std::process::Command;

use orlop_integration::skip;

use crate::host::{Daemon, Host, until};

/// Where it listens.
pub(crate) const REGISTRY: &str = "127.0.0.1:5000";

/// A name and a password.
pub(crate) const USER: (&str, &str) = ("deck", "a pass: word");

/// What it says, on the host.
pub(crate) const LOG: &str = "/srv/registry/log";

/// This machine's.
const PROGRAM: &str = "/usr/bin/docker-registry";

/// Starts it; `None`, said, where there is none.
pub(crate) fn serve(host: &Host) -> Option<Daemon> {
    let password = Command::new("htpasswd").args(["-Bbn", USER.0, USER.1]).output();
    let (Ok(_), Ok(password)) = (fs::copy(PROGRAM, host.path("/srv/docker-registry")), password) else {
        skip("push and pull: no docker-registry or no htpasswd");
        return None;
    };
    host.write("/srv/registry/htpasswd", String::from_utf8_lossy(&password.stdout).trim_end());
    host.write(
        "/srv/registry/config.yml",
        format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: /srv/registry/data}}}}\n\
             http: {{addr: \"{REGISTRY}\"}}\nauth: {{htpasswd: {{realm: orlop, path: /srv/registry/htpasswd}}}}\n"
        ),
    );
    let script = format!("exec /srv/docker-registry serve /srv/registry/config.yml >{LOG} 2>&1");
    let server = host.daemon("registry", &["sh", "-c", &script]);
    let (address, port) = REGISTRY.split_once(':').unwrap();
    let ask = format!("true >/dev/tcp/{address}/{port}");
    until("the registry", || host.run(&["bash", "-c", &ask]).ok().then_some(()));
    Some(server)
}
