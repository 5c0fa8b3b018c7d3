//! One HTTP exchange, with what a registry's client must not get wrong: time limits, retries, and where a redirect may
//! lead.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use ureq::http::{Method, StatusCode, Uri, header};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, TcpConnector};
use ureq::{Agent, BodyReader, SendBody};

use super::certificates::{self, Trust};
use super::tls::Tls;
use crate::error::{Error, ErrorKind, Result};

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;

/// The longest that a server is obeyed when it says how long to wait.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// What `openssl req -x509` makes by itself.
const OWN_AUTHORITY: &str = "its certificate is an authority's (CA:TRUE), and taken for a server's only if the same is \
    among the .crt of the registry's folder in certs.d; or make one with -addext basicConstraints=CA:FALSE";

/// The most that the description of an error may have, in bytes.
const MAX_EXPLANATION: u64 = 64 << 10;

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the next byte in either direction.
    pub idle: Duration,
    /// How often a request is made, at most.
    pub attempts: u32,
    /// Before the second attempt; doubles with each further one.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            idle: Duration::from_secs(60),
            attempts: 5,
            pause: Duration::from_millis(300),
        }
    }
}

impl Patience {
    /// How long to wait after the failure number `failed`, counted from 1; `said` is the server's `Retry-After`.
    pub(crate) fn after(&self, failed: u32, said: Option<Duration>) -> Duration {
        let own = self.pause.saturating_mul(1 << failed.saturating_sub(1).min(10));
        said.unwrap_or(own).min(MAX_WAIT)
    }
}

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Payload<'a> {
    Nothing,
    Bytes(&'a [u8]),
    /// `len` bytes of the file from `from`, which are read anew for each attempt; `sent` is told of each piece.
    Piece {
        file: &'a File,
        from: u64,
        len: u64,
        sent: Sent<'a>,
    },
}

/// Is told of bytes that have gone out.
#[derive(Clone, Copy)]
pub(crate) struct Sent<'a>(pub(crate) &'a (dyn Fn(u64) + Sync));

impl std::fmt::Debug for Sent<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sent")
    }
}

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    pub(crate) url: Uri,
    pub(crate) headers: Vec<(header::HeaderName, String)>,
    /// Sent to this host only, never to where it redirects.
    pub(crate) authorization: Option<String>,
    pub(crate) payload: Payload<'a>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(method: Method, url: Uri) -> Self {
        Self { method, url, headers: Vec::new(), authorization: None, payload: Payload::Nothing }
    }

    pub(crate) fn header(mut self, name: header::HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn payload(mut self, payload: Payload<'a>) -> Self {
        self.payload = payload;
        self
    }
}

/// What came back; the body is still on its way.
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: header::HeaderMap,
    /// Where it came from, after redirects.
    pub(crate) url: Uri,
    pub(crate) body: BodyReader<'static>,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Response({})", self.status)
    }
}

impl Response {
    /// The value of a header, if it is text.
    pub(crate) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The length that the server announces.
    pub(crate) fn length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH).and_then(|length| length.parse().ok())
    }

    /// The whole body, of at most `limit` bytes. A body that breaks off is a network error.
    pub(crate) fn bytes(self, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let limited = limit.saturating_add(1);
        self.body.take(limited).read_to_end(&mut bytes).map_err(|e| broken(&self.url, &e))?;
        if bytes.len() as u64 > limit {
            return Err(Error::invalid(format!("answer larger than {limit} bytes")));
        }
        Ok(bytes)
    }

    /// The error that the status means, with what the registry says about it.
    pub(crate) fn error(self) -> Error {
        let status = self.status;
        let kind = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorKind::Denied,
            StatusCode::NOT_FOUND => ErrorKind::NotFound,
            _ => ErrorKind::Network,
        };
        let mut text = Vec::new();
        let _ = self.body.take(MAX_EXPLANATION).read_to_end(&mut text); // The status says enough.
        let reason = match explanation(&text) {
            Some(said) => said,
            None => status.canonical_reason().unwrap_or("unknown status").to_lowercase(),
        };
        Error::new(kind, format!("{} ({reason})", status.as_u16()))
    }
}

/// The first error of a registry's JSON (distribution-spec, "Error Codes").
fn explanation(text: &[u8]) -> Option<String> {
    let value: serde_json::Value = crate::json::parse("error", text).ok()?;
    let error = value.get("errors")?.get(0)?;
    let part = |name: &str| error.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
    let said = match (part("code"), part("message")) {
        ("", "") => return None,
        ("", message) => message.to_owned(),
        (code, "") => code.to_lowercase(),
        (code, message) => format!("{}: {message}", code.to_lowercase()),
    };
    Some(said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect())
}

fn broken(url: &Uri, e: &io::Error) -> Error {
    Error::new(ErrorKind::Network, format!("{}: {e}", host_of(url)))
}

/// `HOST[:PORT]` of a URL.
pub(crate) fn host_of(url: &Uri) -> String {
    url.authority()
        .map(|authority| authority.as_str().rsplit('@').next().unwrap_or_default().to_owned())
        .unwrap_or_default()
}

/// Talks to the hosts of one registry.
#[derive(Debug)]
pub(crate) struct Http {
    agent: Agent,
    pub(crate) patience: Patience,
    /// The host (and port) that may be reached by plain HTTP though it is not this machine.
    plain: Option<String>,
}

impl Http {
    /// A client for `host`, which may be talked to without TLS if `plain`.
    pub(crate) fn new(host: &str, plain: bool, patience: Patience) -> Result<Self> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("orlop-bundle/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(patience.connect))
            .timeout_per_read(Some(patience.idle))
            .timeout_per_write(Some(patience.idle))
            // A body that is as it was stored, so that its digest is.
            .accept_encoding("identity")
            .input_buffer_size(256 << 10)
            .output_buffer_size(256 << 10)
            .max_idle_connections_per_host(8);
        // Reading some 150 certificates takes longer than a whole exchange on this machine.
        let trust = if plain { Trust::default() } else { certificates::trust(host)? };
        // As everywhere else, a proxy is not for this machine itself.
        let config = if is_loopback_host(host) { config.proxy(None) } else { config };
        // What ureq has by default, but for TLS.
        let connector =
            ().chain(ConnectProxyConnector::default()).chain(TcpConnector::default()).chain(Tls::new(trust)?);
        let agent = Agent::with_parts(config.build(), connector, DefaultResolver::default());
        Ok(Self { agent, patience, plain: plain.then(|| host.to_owned()) })
    }

    /// True if `url` may be talked to without TLS.
    pub(crate) fn allows_plain(&self, url: &Uri) -> bool {
        let host = host_of(url);
        is_loopback_host(&host) || self.plain.as_ref() == Some(&host)
    }

    /// Makes the request, again if the network or the server fails in a way that may pass, and follows redirects of
    /// what is only asked for. Any status that remains is an answer.
    pub(crate) fn send(&self, request: &Request<'_>) -> Result<Response> {
        let mut failed = 0;
        loop {
            let answer = self.follow(request);
            failed += 1;
            let wait = match &answer {
                Ok(response) if passing(response.status) => retry_after(response.header(header::RETRY_AFTER)),
                Err(e) if e.kind() == ErrorKind::Network => None,
                _ => return answer,
            };
            if failed >= self.patience.attempts {
                return answer;
            }
            std::thread::sleep(self.patience.after(failed, wait));
        }
    }

    /// The same, once.
    pub(crate) fn follow(&self, request: &Request<'_>) -> Result<Response> {
        let mut response = self.exchange(request)?;
        let asks = matches!(request.method, Method::GET | Method::HEAD);
        for _ in 0..MAX_REDIRECTS {
            let moved = matches!(response.status.as_u16(), 301 | 302 | 303 | 307 | 308);
            let Some(location) = response.header(header::LOCATION).filter(|_| moved && asks) else {
                return Ok(response);
            };
            let url = self.target(&response.url, location)?;
            let mut next = request.clone();
            if host_of(&url) != host_of(&request.url) || url.scheme() != request.url.scheme() {
                next.authorization = None;
            }
            next.url = url;
            response = self.exchange(&next)?;
        }
        match response.status.is_redirection() && asks && response.header(header::LOCATION).is_some() {
            true => Err(Error::new(
                ErrorKind::Network,
                format!("{}: more than {MAX_REDIRECTS} redirects", host_of(&request.url)),
            )),
            false => Ok(response),
        }
    }

    /// Where `location`, said by `from`, leads: never from TLS to none, and without TLS only where that is allowed.
    pub(crate) fn target(&self, from: &Uri, location: &str) -> Result<Uri> {
        let url = resolve(from, location)?;
        let plain = url.scheme_str() == Some("http");
        if plain && (from.scheme_str() != Some("http") || !self.allows_plain(&url)) {
            return Err(Error::new(
                ErrorKind::Network,
                format!("{} redirects to {}, which is without TLS", host_of(from), host_of(&url)),
            ));
        }
        Ok(url)
    }

    /// The same, without following redirects.
    pub(crate) fn exchange(&self, request: &Request<'_>) -> Result<Response> {
        let host = host_of(&request.url);
        let wrong = |e: ureq::http::Error| Error::invalid(format!("{host}: {e}"));
        if request.url.scheme_str() == Some("http") && !self.allows_plain(&request.url) {
            return Err(Error::new(
                ErrorKind::Network,
                format!("{host}: without TLS only this machine is talked to, or what `plain-http` names"),
            ));
        }
        let mut builder = ureq::http::Request::builder().method(request.method.clone()).uri(request.url.clone());
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        if let Some(authorization) = &request.authorization {
            builder = builder.header(header::AUTHORIZATION, authorization);
        }
        let answer = match request.payload {
            Payload::Nothing if matches!(request.method, Method::GET | Method::HEAD | Method::DELETE) => {
                self.agent.run(builder.body(()).map_err(wrong)?)
            }
            Payload::Nothing => self.agent.run(builder.body(&[][..]).map_err(wrong)?),
            Payload::Bytes(bytes) => self.agent.run(builder.body(bytes).map_err(wrong)?),
            Payload::Piece { file, from, len, sent } => {
                let mut reader = Piece { file, at: from, left: len, sent };
                let builder = builder.header(header::CONTENT_LENGTH, len);
                self.agent.run(builder.body(SendBody::from_reader(&mut reader)).map_err(wrong)?)
            }
        };
        let answer = answer.map_err(|e| transport_error(&host, &e))?;
        let (parts, body) = answer.into_parts();
        let body = body.into_with_config().reader();
        Ok(Response { status: parts.status, headers: parts.headers, url: request.url.clone(), body })
    }
}

/// Reads a piece of a file without moving its offset, which other threads may use.
struct Piece<'a> {
    file: &'a File,
    at: u64,
    left: u64,
    sent: Sent<'a>,
}

impl Read for Piece<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.file.read_at(buffer.get_mut(..most).unwrap_or_default(), self.at)?;
        self.at += n as u64;
        self.left -= n as u64;
        (self.sent.0)(n as u64);
        Ok(n)
    }
}

/// True for an answer that may be another one a moment later.
fn passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// `Retry-After` in seconds. The other form, a date, is left to the client's own pace: the clocks may differ.
fn retry_after(value: Option<&str>) -> Option<Duration> {
    value.and_then(|value| value.trim().parse().ok()).map(Duration::from_secs)
}

/// True if `host` (with or without a port) is this machine itself.
pub(crate) fn is_loopback_host(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The URL that `location` means as said by `from` (RFC 3986, as far as servers use it).
fn resolve(from: &Uri, location: &str) -> Result<Uri> {
    let wrong = || {
        let shown: String = location.chars().filter(|c| !c.is_control()).take(200).collect();
        Error::new(ErrorKind::Network, format!("{}: location {shown:?} leads nowhere", host_of(from)))
    };
    let (scheme, authority) = match (from.scheme_str(), from.authority()) {
        (Some(scheme), Some(authority)) => (scheme, authority.as_str()),
        _ => return Err(wrong()),
    };
    let before_query = location.split(['?', '#']).next().unwrap_or_default();
    let text = if before_query.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let text = text.split('#').next().unwrap_or_default();
    let url: Uri = text.parse().map_err(|_| wrong())?;
    let usable = matches!(url.scheme_str(), Some("http" | "https"))
        && url.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    if usable { Ok(url) } else { Err(wrong()) }
}

fn transport_error(host: &str, e: &ureq::Error) -> Error {
    let kind = match e {
        ureq::Error::Http(_) | ureq::Error::BadUri(_) => ErrorKind::Invalid,
        // Not a matter of time. TLS reports what it doesn't trust as a failure to read, too.
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) | ureq::Error::Pem(_) => ErrorKind::Denied,
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::InvalidData => ErrorKind::Denied,
        _ => ErrorKind::Network,
    };
    let text = match e {
        ureq::Error::HostNotFound => "no such host".to_owned(),
        ureq::Error::ConnectionFailed => "no connection".to_owned(),
        ureq::Error::Timeout(what) => format!("no answer in time ({what:?})").to_lowercase(),
        ureq::Error::Io(e) if e.to_string().contains("CaUsedAsEndEntity") => OWN_AUTHORITY.to_owned(),
        ureq::Error::Io(e) => e.to_string().split(" (os error").next().unwrap_or_default().to_lowercase(),
        other => other.to_string(),
    };
    Error::new(kind, format!("{host}: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_resolved_and_leads_to_http_alone() {
        let from: Uri = "https://r.example:5000/v2/a/blobs/uploads/".parse().unwrap();
        let read = |location: &str| resolve(&from, location).map(|url| url.to_string()).ok();
        for (location, expected) in [
            ("/v2/x?_state=a%3D", Some("https://r.example:5000/v2/x?_state=a%3D")),
            ("uuid?x=http://y", Some("https://r.example:5000/v2/a/blobs/uploads/uuid?x=http://y")),
            ("//cdn.example/x", Some("https://cdn.example/x")),
            ("http://cdn.example/x", Some("http://cdn.example/x")),
            ("https://cdn.example/x#part", Some("https://cdn.example/x")),
            ("file:///etc/passwd", None),
            ("ftp://x/y", None),
            ("https://user:pw@cdn.example/x", None),
            ("https://", None),
            ("/a b\n", None),
        ] {
            assert_eq!(read(location).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn a_redirect_never_leaves_tls_and_plain_http_stays_where_it_is_allowed() {
        let http = Http::new("reg.example:5000", true, Patience::default()).unwrap();
        let target = |from: &str, location: &str| http.target(&from.parse().unwrap(), location).is_ok();
        assert!(target("https://r.example/a", "https://other.example/"));
        assert!(!target("https://r.example/a", "http://other.example/"));
        assert!(!target("https://r.example/a", "http://127.0.0.1/"));
        assert!(target("http://127.0.0.1:1/a", "http://127.0.0.1:2/"));
        assert!(target("http://127.0.0.1:1/a", "http://reg.example:5000/"));
        assert!(!target("http://127.0.0.1:1/a", "http://other.example/"));
        assert!(!target("http://127.0.0.1:1/a", "http://reg.example/"));
    }

    #[test]
    fn this_machine_is_known_by_name_and_address() {
        for (host, expected) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("[::2]:5000", false),
            ("127.0.0.1.example", false),
            ("localhost.example", false),
            ("10.0.0.1", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(is_loopback_host(host), expected, "{host}");
        }
    }

    #[test]
    fn waiting_grows_and_is_bounded() {
        let patience = Patience::default();
        assert_eq!(patience.after(1, None), Duration::from_millis(300));
        assert_eq!(patience.after(3, None), Duration::from_millis(1200));
        assert_eq!(patience.after(40, None), MAX_WAIT);
        assert_eq!(patience.after(1, retry_after(Some("2"))), Duration::from_secs(2));
        assert_eq!(patience.after(1, retry_after(Some("99999999"))), MAX_WAIT);
        assert_eq!(retry_after(Some("Fri, 31 Dec 1999 23:59:59 GMT")), None);
    }

    #[test]
    fn what_a_registry_says_is_shown_without_control_characters() {
        let said = |text: &str| explanation(text.as_bytes());
        assert_eq!(said(r#"{"errors":[{"code":"DENIED","message":"no\u001b[1m"}]}"#).unwrap(), "denied: no [1m");
        assert_eq!(said(r#"{"errors":[{"code":"DENIED"}]}"#).unwrap(), "denied");
        for nothing in ["", "<html>", "{}", r#"{"errors":[]}"#, r#"{"errors":{}}"#, r#"{"errors":[{"detail":1}]}"#] {
            assert_eq!(said(nothing), None, "{nothing}");
        }
    }
}
