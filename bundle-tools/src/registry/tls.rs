//! TLS, with what a registry on one's own network often has: a certificate that is its own authority.
//!
//! `openssl req -x509` makes such a certificate (`CA:TRUE`) unless told otherwise, and people put the same file at the
//! server and into the folder of its clients. What verifies certificates here takes an authority's for no server's, and
//! has no setting for it; ureq has none for what verifies. So this is ureq's own way to TLS, with a verifier of ours.

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    ALL_VERSIONS, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme, StreamOwned,
};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use super::certificates::Trust;
use crate::error::{Error, Result};

/// Makes the connections of an agent, which are made already, secure.
#[derive(Debug)]
pub(super) struct Tls(Arc<ClientConfig>);

impl Tls {
    /// By what the user says of a host.
    pub(super) fn new(trust: Trust) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let wrong = |e: rustls::Error| Error::invalid(format!("certificates: {e}"));
        let verifier = Verifier::new(&trust, &provider)?;
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(ALL_VERSIONS);
        let builder = builder.map_err(wrong)?.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let config = match trust.client {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(wrong)?,
            None => builder.with_no_client_auth(),
        };
        Ok(Self(Arc::new(config)))
    }
}

impl<In: Transport> Connector<In> for Tls {
    type Out = Either<In, Secure>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> std::result::Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| ureq::Error::Tls("not the name of a server"))?;
        let mut connection = ClientConnection::new(Arc::clone(&self.0), name)?;
        let mut under = TransportAdapter::new(transport.boxed(), Arc::clone(&details.current_time));
        under.set_timeout(details.timeout);
        connection.complete_io(&mut under)?;
        let (input, output) = (details.config.input_buffer_size(), details.config.output_buffer_size());
        let stream = StreamOwned::new(connection, under);
        Ok(Some(Either::B(Secure { buffers: LazyBuffers::new(input, output), stream })))
    }
}

/// A connection.
pub(super) struct Secure {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for Secure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secure")
    }
}

impl Transport for Secure {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> std::result::Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        Ok(self.stream.write_all(self.buffers.output().get(..amount).unwrap_or_default())?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> std::result::Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let n = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(n);
        Ok(n > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

/// Verifies as usual, and besides takes for a server's certificate what is, byte for byte, one of the authorities that
/// the user has named for the host. That trusts nobody new: who has the key of such an authority can sign a certificate
/// for any name. All else holds: the name, the time, and that the server has the key.
#[derive(Debug)]
struct Verifier {
    usual: Arc<WebPkiServerVerifier>,
    own: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn new(trust: &Trust, provider: &Arc<CryptoProvider>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        match &trust.system {
            None if trust.own.is_empty() => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            system => {
                // What can't be read is passed over: systems have odd ones among many.
                let _ = roots.add_parsable_certificates(system.iter().flatten().chain(&trust.own).cloned());
            }
        }
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
        let usual = usual.map_err(|e| Error::invalid(format!("certificates: {e}")))?;
        Ok(Self { usual, own: trust.own.clone() })
    }
}

/// Whether a certificate, whose time it is, was refused because it is an authority's. webpki looks at the time first.
fn is_authority(e: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(e))) = e else { return false };
    matches!(e.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        match self.usual.verify_server_cert(certificate, chain, name, ocsp, now) {
            Err(e) if is_authority(&e) && self.own.iter().any(|own| own == certificate) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::pem::PemObject;

    use super::*;

    /// `openssl req -x509 -newkey ec ... -addext subjectAltName=DNS:registry.example,IP:192.0.2.1`, for 100 years from
    /// November 2026.
    const OWN: &[u8] = b"\
-----BEGIN CERTIFICATE-----\n\
MIIBlTCCATygAwIBAgIUWYSGhJ7lnEOugeAIQI3qf7cXjqwwCgYIKoZIzj0EAwIw\n\
DjEMMAoGA1UEAwwDb3duMCAXDTI2MTEyMTE4MjgzOVoYDzIxMjYxMDI4MTgyODM5\n\
WjAOMQwwCgYDVQQDDANvd24wWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARji6+3\n\
Am/51a1AKf9E0dTHe95akXXyM8NLxPzOfd2VceMTBD5TNzswsA8Iy63Z37ySpqAa\n\
s0mHFRNtJXrq2oZlo3YwdDAdBgNVHQ4EFgQUxUEcOoCjbpJ2QYAg2/QXbcbi+pww\n\
HwYDVR0jBBgwFoAUxUEcOoCjbpJ2QYAg2/QXbcbi+pwwDwYDVR0TAQH/BAUwAwEB\n\
/zAhBgNVHREEGjAYghByZWdpc3RyeS5leGFtcGxlhwTAAAIBMAoGCCqGSM49BAMC\n\
A0cAMEQCIAdzGNCZebQnopvVdRXYM+7UtPe1hEQeHiG2oAZw9+cZAiAldnaoijEM\n\
y5iihh0dPbrnzUL6rBUhM9S5Vm3Vvzd3mQ==\n\
-----END CERTIFICATE-----\n";
    /// The same with another key.
    const OTHER: &[u8] = b"\
-----BEGIN CERTIFICATE-----\n\
MIIBljCCATygAwIBAgIUaGNGFNVr2Rtc13uLWWGmtXDJx28wCgYIKoZIzj0EAwIw\n\
DjEMMAoGA1UEAwwDb3duMCAXDTI2MTEyMTE4MjgzOVoYDzIxMjYxMDI4MTgyODM5\n\
WjAOMQwwCgYDVQQDDANvd24wWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQHBTFk\n\
Nr07DeDahYVSobyyHrfOkTBE3oCq65mcV9JzCSkawAR6R72xNQeJJ0iiev++A3Ym\n\
8l2wWTscar0qow5Vo3YwdDAdBgNVHQ4EFgQUT1PBuIcyl14drfRkE7ipFGfhs5sw\n\
HwYDVR0jBBgwFoAUT1PBuIcyl14drfRkE7ipFGfhs5swDwYDVR0TAQH/BAUwAwEB\n\
/zAhBgNVHREEGjAYghByZWdpc3RyeS5leGFtcGxlhwTAAAIBMAoGCCqGSM49BAMC\n\
A0gAMEUCIQDyDnzyNV1YWDNihlrMcLamUUI/ZT+ey8MJES4F73oNXwIgZ9qKYItT\n\
cyhP0G9uMaRauKErqSucUEPKVzZMLnvpl/U=\n\
-----END CERTIFICATE-----\n";

    #[test]
    fn an_authority_is_a_server_only_where_it_is_named_itself_and_name_and_time_are_right() {
        let certificate = |pem| CertificateDer::from_pem_slice(pem).unwrap();
        let [own, other] = [OWN, OTHER].map(certificate);
        let (now, before, after) = (1_800_000_000, 1_700_000_000, 5_000_000_000);
        for (what, named, name, at, expected) in [
            ("named", &[&own][..], "registry.example", now, Ok(())),
            ("one of several", &[&other, &own], "192.0.2.1", now, Ok(())),
            ("another is named", &[&other], "registry.example", now, Err("CaUsedAsEndEntity")),
            ("none is named", &[], "registry.example", now, Err("CaUsedAsEndEntity")),
            ("another name", &[&own], "other.example", now, Err("NotValidForName")),
            ("another address", &[&own], "192.0.2.2", now, Err("NotValidForName")),
            ("its time is over", &[&own], "registry.example", after, Err("Expired")),
            ("its time has not come", &[&own], "registry.example", before, Err("NotValidYet")),
        ] {
            let trust = Trust { own: named.iter().map(|one| (*one).clone()).collect(), ..Trust::default() };
            let verifier = Verifier::new(&trust, &Arc::new(ring::default_provider())).unwrap();
            let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
            let name = ServerName::try_from(name).unwrap();
            let said = verifier.verify_server_cert(&own, &[], &name, &[], at).map(drop).map_err(|e| format!("{e:?}"));
            match expected {
                Ok(()) => assert_eq!(said, Ok(()), "{what}"),
                Err(why) => assert!(said.as_ref().is_err_and(|said| said.contains(why)), "{what}: {said:?}"),
            }
        }
    }
}
