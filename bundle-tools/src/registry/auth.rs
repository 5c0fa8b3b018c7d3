//! What a registry wants to see before it answers: Basic credentials, or a token of the server that it names
//! (distribution's "Token Authentication").

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::http::{Method, Uri, header};

use crate::error::{Error, ErrorKind, Result};
use crate::json;

use super::credentials::Credentials;
use super::http::{Http, Payload, Request, host_of};

/// The most that a token server's answer may have, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// One way in that a 401 offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The challenges of a `WWW-Authenticate` header (RFC 9110, 11.6.1) that are understood.
pub(crate) fn challenges(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = header.trim_start();
    while !rest.is_empty() {
        let (scheme, after) = rest.split_at(rest.find([' ', ',']).unwrap_or(rest.len()));
        let (parameters, after) = parameters(after.trim_start_matches(' '));
        let value = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = value("realm")
        {
            found.push(Challenge::Bearer { realm, service: value("service"), scope: value("scope") });
        }
        rest = after.trim_start_matches([' ', ',']);
    }
    found
}

/// `name=value, name="value"`, up to what is none: the next challenge.
fn parameters(mut text: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    loop {
        let start = text.trim_start_matches([' ', ',']);
        let Some((name, after)) = start.split_once('=') else { return (found, start) };
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) {
            return (found, start);
        }
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted_string(quoted),
            None => {
                let (value, after) = after.split_at(after.find([',', ' ']).unwrap_or(after.len()));
                (value.to_owned(), after)
            }
        };
        found.push((name.to_ascii_lowercase(), value));
        text = after;
    }
}

/// The text up to the closing quote, and what is behind it.
fn quoted_string(text: &str) -> (String, &str) {
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, text.get(at + 1..).unwrap_or_default()),
            c => value.push(c),
        }
    }
    (value, "")
}

/// The credentials for one registry's repository, and what was got for them.
#[derive(Debug)]
pub(crate) struct Gate {
    credentials: Option<Credentials>,
    /// The value of `Authorization` that was good last, by scope.
    granted: Mutex<HashMap<String, String>>,
}

impl Gate {
    pub(crate) fn new(credentials: Option<Credentials>) -> Self {
        Self { credentials, granted: Mutex::default() }
    }

    /// What to send with the first attempt of a request that needs `scope`.
    pub(crate) fn ready(&self, scope: &str) -> Option<String> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner).get(scope).cloned()
    }

    /// What to send after a 401 with `offered` to a request that had `used` as its authorization. Threads that were
    /// refused at the same time get one token among them.
    pub(crate) fn open(
        &self,
        http: &Http,
        registry: &Uri,
        offered: &[Challenge],
        scope: &str,
        used: Option<&String>,
    ) -> Result<String> {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = granted.get(scope).filter(|other| Some(*other) != used) {
            return Ok(other.clone());
        }
        let bearer = offered.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        let value = match (bearer.or(offered.first()), &self.credentials) {
            (Some(Challenge::Bearer { .. }), Some(Credentials::Registry(token))) => bearer_value(token)?,
            (Some(Challenge::Bearer { realm, service, scope: asked }), credentials) => {
                // What the registry asks for is what this request needs; what is known to be needed besides (the other
                // repository of a mount) is only known here.
                let scopes = if scope.is_empty() { asked.as_deref().unwrap_or_default() } else { scope };
                let token = fetch(http, registry, realm, service.as_deref(), scopes, credentials.as_ref())?;
                bearer_value(&token)?
            }
            (Some(Challenge::Basic), Some(Credentials::Basic { user, password })) => basic_value(user, password),
            (Some(Challenge::Basic), Some(_)) => {
                return Err(denied("takes a name and a password, and there is only a token"));
            }
            (Some(Challenge::Basic), None) => return Err(denied("wants a name and a password; see login")),
            (None, _) => return Err(denied("offers no known way to log in")),
        };
        if used == Some(&value) {
            return Err(denied("does not take these credentials"));
        }
        granted.insert(scope.to_owned(), value.clone());
        Ok(value)
    }
}

fn denied(why: &str) -> Error {
    Error::new(ErrorKind::Denied, why)
}

fn basic_value(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// A token goes into a header, so it has nothing but what RFC 6750 gives it.
fn bearer_value(token: &str) -> Result<String> {
    match !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(format!("Bearer {token}")),
        false => Err(Error::invalid("token: not of the characters that a token has")),
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// Asks the server at `realm` for a token for `scopes`, separated by blanks.
fn fetch(
    http: &Http,
    registry: &Uri,
    realm: &str,
    service: Option<&str>,
    scopes: &str,
    credentials: Option<&Credentials>,
) -> Result<String> {
    // The credentials go there, so it is as trusted as a redirect is: no way out of TLS.
    let url = http.target(registry, realm).map_err(|e| e.context("token server"))?;
    let mut pairs: Vec<(&str, &str)> = service.map(|service| ("service", service)).into_iter().collect();
    let request = match credentials {
        Some(Credentials::Identity(token)) => {
            pairs.extend([("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", "orlop-bundle")]);
            if !scopes.is_empty() {
                pairs.push(("scope", scopes));
            }
            let form = form(&pairs);
            let request = Request::new(Method::POST, url.clone())
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
            http.send(&request.payload(Payload::Bytes(form.as_bytes())))
        }
        credentials => {
            pairs.extend(scopes.split(' ').filter(|scope| !scope.is_empty()).map(|scope| ("scope", scope)));
            let mut request = Request::new(Method::GET, with_query(&url, &form(&pairs))?);
            if let Some(Credentials::Basic { user, password }) = credentials {
                request.authorization = Some(basic_value(user, password));
            }
            http.send(&request)
        }
    };
    let context = |e: Error| e.context(format!("token server {}", host_of(&url)));
    let response = request.map_err(context)?;
    if !response.status.is_success() {
        return Err(context(response.error()));
    }
    let answer: Token = json::parse("answer", &response.bytes(MAX_ANSWER).map_err(context)?).map_err(context)?;
    let token = answer.token.filter(|token| !token.is_empty()).or(answer.access_token);
    token.ok_or_else(|| context(Error::new(ErrorKind::Network, "no token in the answer")))
}

/// `url` with `query` behind what it has.
pub(crate) fn with_query(url: &Uri, query: &str) -> Result<Uri> {
    let text = url.to_string();
    let text = match (query.is_empty(), url.query()) {
        (true, _) => text,
        (false, None) => format!("{text}?{query}"),
        (false, Some(_)) => format!("{text}&{query}"),
    };
    text.parse().map_err(|_| Error::invalid(format!("{}: not a URL", host_of(url))))
}

/// `a=b&c=d`, with everything that is not plainly a letter, digit, `-`, `.`, `_` or `~` in percents (RFC 3986).
pub(crate) fn form(pairs: &[(&str, &str)]) -> String {
    let escape = |text: &str| -> String {
        let one = |b: u8| match b {
            b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            b if b.is_ascii_alphanumeric() => char::from(b).to_string(),
            b => format!("%{b:02X}"),
        };
        text.bytes().map(one).collect()
    };
    pairs.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value))).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.into(), service: service.map(Into::into), scope: scope.map(Into::into) }
    }

    #[test]
    fn a_challenge_is_read_in_all_its_forms() {
        for (header, expected) in [
            ("Basic realm=\"x\"", vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (
                "Bearer realm=\"https://a.example/token\",service=\"r.example\",scope=\"repository:a/b:pull,push\"",
                vec![bearer("https://a.example/token", Some("r.example"), Some("repository:a/b:pull,push"))],
            ),
            ("Bearer realm=https://a.example/t, error=\"x\"", vec![bearer("https://a.example/t", None, None)]),
            ("BEARER REALM=\"a\\\"b\"", vec![bearer("a\"b", None, None)]),
            ("Negotiate, Basic realm=\"a, b\", Bearer realm=\"c\"", vec![Challenge::Basic, bearer("c", None, None)]),
            ("Bearer service=\"x\"", vec![]),
            ("Bearer realm=\"never closed", vec![bearer("never closed", None, None)]),
            ("", vec![]),
            (",,, ===", vec![]),
            ("a=b", vec![]),
        ] {
            assert_eq!(challenges(header), expected, "{header}");
        }
    }

    #[test]
    fn a_token_with_a_line_break_is_not_sent() {
        assert!(bearer_value("abc.def_ghi-~+/=").is_ok());
        for wrong in ["", "a b", "a\r\nX: y", "ä"] {
            assert!(bearer_value(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_query_is_escaped_and_appended() {
        assert_eq!(
            form(&[("scope", "repository:a/b:pull"), ("x", "ä&")]),
            "scope=repository%3Aa%2Fb%3Apull&x=%C3%A4%26"
        );
        let url = |text: &str| with_query(&text.parse().unwrap(), "q=1").unwrap().to_string();
        assert_eq!(url("https://a.example/t"), "https://a.example/t?q=1");
        assert_eq!(url("https://a.example/t?s=%3D"), "https://a.example/t?s=%3D&q=1");
    }
}
