//! A registry, by the distribution specification 1.1: manifests and blobs of one repository, both ways.
//!
//! What comes in is bounded, and documents are verified here; a blob's digest is verified by who stores it.

mod auth;
mod certificates;
pub mod credentials;
mod download;
mod http;
pub mod settings;
#[cfg(test)]
pub(crate) mod stub;
#[cfg(test)]
mod tests;
mod tls;
mod upload;

use ureq::http::{Method, StatusCode, Uri, header};

use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Descriptor, media};
use crate::json;
use crate::reference::Reference;

pub use download::Download;
pub use http::Patience;
pub use upload::Uploaded;

use auth::{Gate, challenges};
use credentials::{Credentials, Files};
use http::{Http, Payload, Request, Response, host_of, is_loopback_host};
use settings::{Place, Settings};

/// The most that a manifest or an index may have, in bytes: what registries take.
pub const MAX_MANIFEST: u64 = 4 << 20;

/// The most tags of a repository that are listed.
const MAX_TAGS: usize = 100_000;

/// The most that a page of tags may have, in bytes.
const MAX_PAGE: u64 = 8 << 20;

/// What can be read, for `Accept`.
const ACCEPTED: [&str; 4] = [media::MANIFEST, media::INDEX, media::DOCKER_MANIFEST, media::DOCKER_LIST];

/// How registries are reached: what the user has set, and the credentials.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Short names, mirrors, plain HTTP.
    pub settings: Settings,
    /// Names and passwords.
    pub credentials: Files,
    /// Talk plain HTTP to every registry: `--plain-http`.
    pub plain_http: bool,
    /// Time limits and retries.
    pub patience: Patience,
}

impl Access {
    /// What the environment and the files of settings say.
    pub fn of_environment() -> Result<Self> {
        Ok(Self { settings: Settings::load()?, credentials: Files::of_environment(), ..Self::default() })
    }

    /// The repository of `name` in its own registry.
    pub fn repository(&self, name: &Reference) -> Result<Repository> {
        let place = self.settings.places(name, false).pop();
        self.open(place.ok_or_else(|| Error::invalid(format!("{name}: no registry")))?)
    }

    /// The repository of `name` in the mirrors of its registry, and then in the registry itself.
    pub(crate) fn places(&self, name: &Reference) -> Vec<Place> {
        self.settings.places(name, true)
    }

    /// The repository at `place`.
    pub(crate) fn open(&self, place: Place) -> Result<Repository> {
        let credentials = self.credentials.find(&place.registry, &place.repository)?;
        self.open_with(place, credentials)
    }

    fn open_with(&self, mut place: Place, credentials: Option<Credentials>) -> Result<Repository> {
        place.plain |= self.plain_http;
        let name = format!("{}/{}", place.registry, place.repository);
        let (http, base) = connect(&place.host, place.plain, self.patience).map_err(|e| e.context(&name))?;
        Ok(Repository { name, http, gate: Gate::new(credentials), base, place })
    }

    /// Tries name and password at `registry`, and keeps them if they are good. Returns where they are kept.
    pub fn login(&self, registry: &str, user: &str, password: &str) -> Result<String> {
        let place = self.place(registry)?;
        let credentials = Credentials::Basic { user: user.to_owned(), password: password.to_owned() };
        self.open_with(place, Some(credentials))?.ping().map_err(|e| e.context(registry))?;
        self.credentials.store(registry, user, password)
    }

    /// Forgets the credentials for `registry`. False if there were none.
    pub fn logout(&self, registry: &str) -> Result<bool> {
        self.place(registry)?;
        self.credentials.erase(registry)
    }

    fn place(&self, registry: &str) -> Result<Place> {
        if !crate::reference::valid_registry(registry) {
            return Err(Error::invalid(format!("{registry:?} is not HOST[:PORT]")));
        }
        let any = Reference { registry: Some(registry.to_owned()), repository: "a".into(), tag: None, digest: None };
        let mut place = self.settings.places(&any, false).pop();
        if let Some(place) = &mut place {
            place.repository.clear();
        }
        place.ok_or_else(|| Error::invalid(format!("{registry:?} is not a registry")))
    }
}

/// A client for `host`, and the root of its URLs: with TLS, but for what the user has said and for this machine, where
/// either may be found.
fn connect(host: &str, plain: bool, patience: Patience) -> Result<(Http, Uri)> {
    let url = |scheme: &str, path: &str| -> Result<Uri> {
        format!("{scheme}://{host}{path}").parse().map_err(|_| Error::invalid(format!("{host:?} is not HOST[:PORT]")))
    };
    if plain {
        return Ok((Http::new(host, true, patience)?, url("http", "/")?));
    }
    if is_loopback_host(host) {
        let http = Http::new(host, true, patience)?;
        // A server with TLS answers this with an alert, or with 400 as Go's does.
        let answer = http.exchange(&Request::new(Method::GET, url("http", "/v2/")?));
        if answer.is_ok_and(|response| response.status != StatusCode::BAD_REQUEST) {
            return Ok((http, url("http", "/")?));
        }
    }
    Ok((Http::new(host, false, patience)?, url("https", "/")?))
}

/// A repository of a registry.
#[derive(Debug)]
pub struct Repository {
    place: Place,
    /// Registry and repository, for errors.
    name: String,
    http: Http,
    gate: Gate,
    base: Uri,
}

impl Repository {
    /// Registry and repository.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn url(&self, rest: &str) -> Result<Uri> {
        let text = format!("{}v2/{}/{rest}", self.base, self.place.repository);
        text.parse().map_err(|_| Error::invalid(format!("{text:?} is not a URL")))
    }

    fn pull_scope(&self) -> String {
        format!("repository:{}:pull", self.place.repository)
    }

    fn push_scope(&self) -> String {
        format!("repository:{}:pull,push", self.place.repository)
    }

    /// Adds what was asked for to an error: `registry.example/a: manifest 1.0: 404 (manifest unknown)`.
    fn said(&self, what: &str, e: Error) -> Error {
        e.context(format!("{}: {what}", self.name))
    }

    /// Makes a request that needs `scope`, with retries.
    fn call(&self, scope: &str, request: Request<'_>) -> Result<Response> {
        self.authorized(scope, request, Http::send)
    }

    /// The same, once: for what can't be made again as it is.
    fn call_once(&self, scope: &str, request: Request<'_>) -> Result<Response> {
        self.authorized(scope, request, Http::follow)
    }

    fn authorized(
        &self,
        scope: &str,
        mut request: Request<'_>,
        exchange: impl Fn(&Http, &Request<'_>) -> Result<Response>,
    ) -> Result<Response> {
        // An upload may be at another host, which is not to see what is for this one.
        let at_home = host_of(&request.url) == host_of(&self.base) && request.url.scheme() == self.base.scheme();
        request.authorization = if at_home { self.gate.ready(scope) } else { None };
        let response = exchange(&self.http, &request)?;
        if response.status != StatusCode::UNAUTHORIZED || host_of(&response.url) != host_of(&self.base) {
            return Ok(response);
        }
        let offered: Vec<_> = response.headers.get_all(header::WWW_AUTHENTICATE).iter().collect();
        let offered: Vec<_> = offered.iter().filter_map(|v| v.to_str().ok()).flat_map(challenges).collect();
        let used = request.authorization.take();
        request.authorization = Some(self.gate.open(&self.http, &self.base, &offered, scope, used.as_ref())?);
        exchange(&self.http, &request)
    }

    /// Asks whether the registry is one, and takes the credentials.
    fn ping(&self) -> Result<()> {
        let url = format!("{}v2/", self.base).parse().map_err(|_| Error::invalid("not a URL"))?;
        let response = self.call("", Request::new(Method::GET, url))?;
        if response.status.is_success() { Ok(()) } else { Err(response.error()) }
    }

    /// The manifest or index that `selector`, a tag or a digest, names. `expected` is what is known of it already: its
    /// digest and size must be so, and its media type is then what counts (the registry's `Content-Type` may differ).
    pub fn manifest(&self, selector: &str, expected: Option<&Descriptor>) -> Result<(Descriptor, Vec<u8>)> {
        let what = format!("manifest {selector}");
        let fetch = || -> Result<(Descriptor, Vec<u8>)> {
            let mut request = Request::new(Method::GET, self.url(&format!("manifests/{selector}"))?);
            for accepted in ACCEPTED {
                request = request.header(header::ACCEPT, accepted);
            }
            let response = self.call(&self.pull_scope(), request)?;
            if response.status != StatusCode::OK {
                return Err(response.error());
            }
            let announced = response.header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
            let content_type = response.header(header::CONTENT_TYPE).map(|text| media_type(text).to_owned());
            let bytes = response.bytes(expected.map_or(MAX_MANIFEST, |expected| expected.size.min(MAX_MANIFEST)))?;
            let digest = Digest::of(&bytes);
            let by_digest = if selector.contains(':') { Some(selector.parse::<Digest>()?) } else { None };
            let named = expected.map(|expected| expected.digest).or(by_digest).or(announced);
            if let Some(named) = named.filter(|named| *named != digest) {
                return Err(Error::invalid(format!("content has digest {digest}, not {named}")));
            }
            if expected.is_some_and(|expected| expected.size != bytes.len() as u64) {
                return Err(Error::invalid(format!("content has {} bytes, which is not its size", bytes.len())));
            }
            let kind = match (expected, content_type) {
                (Some(expected), _) => expected.media_type.clone(),
                (None, Some(kind)) if ACCEPTED.contains(&kind.as_str()) => kind,
                (None, kind) => own_type(&bytes)?.or(kind).unwrap_or_default(),
            };
            Ok((Descriptor::new(&kind, digest, bytes.len() as u64), bytes))
        };
        fetch().map_err(|e| self.said(&what, e))
    }

    /// True if the registry has the blob `digest` in this repository.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool> {
        self.has(&self.pull_scope(), &format!("blobs/{digest}")).map_err(|e| self.said(&format!("blob {digest}"), e))
    }

    /// True if the registry has the manifest that `selector` names.
    pub fn has_manifest(&self, selector: &str) -> Result<bool> {
        let has = self.has(&self.pull_scope(), &format!("manifests/{selector}"));
        has.map_err(|e| self.said(&format!("manifest {selector}"), e))
    }

    fn has(&self, scope: &str, what: &str) -> Result<bool> {
        let mut request = Request::new(Method::HEAD, self.url(what)?);
        for accepted in ACCEPTED {
            request = request.header(header::ACCEPT, accepted);
        }
        let response = self.call(scope, request)?;
        match response.status {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(response.error()),
        }
    }

    /// A small blob, verified: a configuration. `limit` is the most that it may have.
    pub fn document(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        let what = format!("blob {}", descriptor.digest);
        if descriptor.size > limit {
            return Err(self.said(&what, Error::invalid(format!("larger than {limit} bytes"))));
        }
        let mut download = self.blob(descriptor, 0);
        let mut bytes = vec![0; usize::try_from(descriptor.size).unwrap_or(usize::MAX)];
        let mut at = 0;
        while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
            match download.read(rest)? {
                0 => break,
                n => at += n,
            }
        }
        if at < bytes.len() || Digest::of(&bytes) != descriptor.digest {
            return Err(self.said(&what, Error::invalid("content is not what its digest says")));
        }
        Ok(bytes)
    }

    /// Makes `bytes` known as `selector`, a tag or their digest.
    pub fn put_manifest(&self, selector: &str, media_type: &str, bytes: &[u8]) -> Result<()> {
        let put = || -> Result<()> {
            let request = Request::new(Method::PUT, self.url(&format!("manifests/{selector}"))?)
                .header(header::CONTENT_TYPE, media_type)
                .payload(Payload::Bytes(bytes));
            let response = self.call(&self.push_scope(), request)?;
            if response.status.is_success() { Ok(()) } else { Err(response.error()) }
        };
        put().map_err(|e| self.said(&format!("put manifest {selector}"), e))
    }

    /// The tags of the repository, in the registry's order.
    pub fn tags(&self) -> Result<Vec<String>> {
        #[derive(serde::Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let list = || -> Result<Vec<String>> {
            let (mut url, mut all) = (self.url("tags/list?n=1000")?, Vec::new());
            loop {
                let response = self.call(&self.pull_scope(), Request::new(Method::GET, url.clone()))?;
                if response.status != StatusCode::OK {
                    return Err(response.error());
                }
                let next = response.header(header::LINK).and_then(next_page).map(str::to_owned);
                let page: Page = json::parse("tags", &response.bytes(MAX_PAGE)?)?;
                let before = all.len();
                all.extend(page.tags.unwrap_or_default());
                match next {
                    // A page with nothing in it would lead on for ever.
                    Some(next) if all.len() > before => url = self.http.target(&url, &next)?,
                    _ => return Ok(all),
                }
                if all.len() > MAX_TAGS {
                    return Err(Error::new(ErrorKind::Network, format!("more than {MAX_TAGS} tags")));
                }
            }
        };
        list().map_err(|e| self.said("tags", e))
    }
}

/// The target of `<URL>; rel="next"` (RFC 8288).
fn next_page(link: &str) -> Option<&str> {
    let (url, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    rest.replace('"', "").contains("rel=next").then_some(url)
}

/// A `Content-Type` without its parameters.
fn media_type(text: &str) -> &str {
    text.split(';').next().unwrap_or_default().trim()
}

/// What a document says that it is, or what its members mean. For documents that come without a type.
pub(crate) fn own_type(bytes: &[u8]) -> Result<Option<String>> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
    }
    let shape: Shape = json::parse("manifest", bytes)?;
    Ok(match shape {
        Shape { media_type: Some(own), .. } if !own.is_empty() => Some(own),
        Shape { manifests: Some(_), .. } => Some(media::INDEX.to_owned()),
        Shape { config: Some(_), .. } => Some(media::MANIFEST.to_owned()),
        _ => None,
    })
}
