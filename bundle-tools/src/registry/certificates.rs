//! Which authorities vouch for a registry, and what this client shows of itself.
//!
//! Authorities are the system's (or, where there are none, Mozilla's as of this build), and for one registry those in a
//! folder of its name, as Docker and Podman have them:
//!
//! ```text
//! /etc/orlop/certs.d/HOST[:PORT]/NAME.crt         an authority, or several
//!                                NAME.cert, .key  a certificate of the client's, and its key
//! ```
//!
//! An authority there may also be the registry's own certificate ([`super::tls`]).
//!
//! The user's folders, `$XDG_CONFIG_HOME/orlop/certs.d` (or `~/.config/...`), and Docker's and Podman's,
//! `/etc/docker/certs.d` and `/etc/containers/certs.d`, count as well.
#![allow(
    clippy::disallowed_methods,
    reason = "the files are the user's own or the administrator's, at the host's paths"
)]

use std::fs::File;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::dir::{Dir, read_limited};
use crate::error::{Error, ErrorKind, Result};

/// The most that a file of certificates may have, in bytes.
const MAX_BUNDLE: u64 = 16 << 20;

/// Where systems have the authorities that they trust. A static binary can't ask the system's TLS library.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Who is believed, and what is shown.
#[derive(Debug, Default)]
pub(super) struct Trust {
    /// The authorities of the system; `None` for Mozilla's, if there are none of the host's own either.
    pub(super) system: Option<Vec<CertificateDer<'static>>>,
    /// Those that the user has named for the host.
    pub(super) own: Vec<CertificateDer<'static>>,
    /// This client's certificates, and their key.
    pub(super) client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

/// What counts for `host`, which may have a port.
pub(super) fn trust(host: &str) -> Result<Trust> {
    let mut trust = Trust { system: system(), ..Trust::default() };
    for folder in folders() {
        trust.read(&folder, host)?;
    }
    Ok(trust)
}

/// The authorities of the system, if there are any.
fn system() -> Option<Vec<CertificateDer<'static>>> {
    let chosen = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let read = |path: PathBuf| read_limited(File::open(path).ok()?, "certificates", MAX_BUNDLE).ok();
    let found = chosen.into_iter().chain(BUNDLES.map(Into::into)).filter_map(read);
    found.map(|pem| certificates(&pem)).find(|found| !found.is_empty())
}

/// The folders of the module's description, the first that count first.
fn folders() -> Vec<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| home.join(".config")));
    let user = config.map(|config| config.join("orlop/certs.d"));
    user.into_iter()
        .chain(["/etc/orlop", "/etc/docker", "/etc/containers"].map(|all| Path::new(all).join("certs.d")))
        .collect()
}

fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(std::result::Result::ok).collect()
}

impl Trust {
    /// Adds what is in the folder for `host` in `all`. A file that can't be used is an error: without it, what fails
    /// later would not say why.
    fn read(&mut self, all: &Path, host: &str) -> Result<()> {
        let shown = |name: &str| format!("{}/{host}/{name}", all.display());
        let folder = match Dir::at(all).and_then(|all| all.dir(host)) {
            Ok(folder) => folder,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e.context(all.display())),
        };
        let read = |name: &str| -> Result<Vec<u8>> {
            folder.read(name, MAX_BUNDLE).map_err(|e| e.context(format!("{}/{host}", all.display())))
        };
        let chain = |name: &str| match certificates(&read(name)?) {
            found if found.is_empty() => Err(Error::invalid(format!("{}: no certificate in it", shown(name)))),
            found => Ok(found),
        };
        for name in folder.names().map_err(|e| e.context(all.display()))? {
            if name.ends_with(".crt") {
                self.own.extend(chain(&name)?);
            } else if let Some(stem) = name.strip_suffix(".cert").filter(|_| self.client.is_none()) {
                let key = format!("{stem}.key");
                let secret = PrivateKeyDer::from_pem_slice(&read(&key)?);
                let secret = secret.map_err(|_| Error::invalid(format!("{}: no key in it", shown(&key))))?;
                self.client = Some((chain(&name)?, secret));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::scratch::Scratch;

    /// Nothing looks into it before it is used.
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";

    #[test]
    fn a_registrys_folder_has_authorities_and_the_clients_own_certificate() {
        for (files, expected) in [
            (&[][..], Ok((0, false))),
            (&[("ca.crt", CERTIFICATE), ("more.crt", CERTIFICATE), ("notes.txt", "x")], Ok((2, false))),
            (&[("ca.crt", &CERTIFICATE.repeat(3))], Ok((3, false))),
            (&[("a.cert", CERTIFICATE), ("a.key", KEY), ("b.cert", "taken once")], Ok((0, true))),
            (&[("ca.crt", "nothing")], Err("no certificate")),
            (&[("a.cert", CERTIFICATE)], Err("a.key")),
            (&[("a.cert", CERTIFICATE), ("a.key", "nothing")], Err("no key")),
        ] {
            let scratch = Scratch::new();
            let folder = scratch.dir().make_dir("h.example:5000").unwrap();
            for (name, content) in files {
                folder.write(name, content.as_bytes()).unwrap();
            }
            let mut trust = Trust::default();
            let read = trust.read(&scratch.0, "h.example:5000");
            match expected {
                Ok(expected) => {
                    read.unwrap();
                    assert_eq!((trust.own.len(), trust.client.is_some()), expected, "{files:?}");
                }
                Err(why) => assert!(read.unwrap_err().to_string().contains(why), "{files:?}"),
            }
            Trust::default().read(&scratch.0, "other.example").unwrap();
        }
    }
}
