//! The client against registries that misbehave.
#![allow(clippy::disallowed_methods, reason = "a test's own files")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::stub::{Answer, Asked, Stub};
use super::*;

const QUICK: Patience = Patience {
    connect: Duration::from_secs(2),
    idle: Duration::from_secs(2),
    attempts: 4,
    pause: Duration::from_millis(1),
};

fn access() -> Access {
    Access { patience: QUICK, ..Access::default() }
}

fn with_credentials(credentials: Option<Credentials>, host: &str) -> Repository {
    let place = Place { registry: host.to_owned(), host: host.to_owned(), repository: "team/app".into(), plain: false };
    access().open_with(place, credentials).unwrap()
}

fn repository(stub: &Stub) -> Repository {
    with_credentials(None, &stub.host)
}

fn basic() -> Option<Credentials> {
    Some(Credentials::Basic { user: "me".into(), password: "pw".into() })
}

const MANIFEST: &str = r#"{"schemaVersion": 2, "config": {}, "layers": []}"#;

fn manifest() -> Answer {
    Answer::new(200, MANIFEST).with("content-type", media::MANIFEST)
}

fn read(repository: &Repository, descriptor: &Descriptor, from: u64) -> Result<Vec<u8>> {
    let mut download = repository.blob(descriptor, from);
    let (mut all, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        match download.read(&mut buffer)? {
            0 => return Ok(all),
            n => all.extend_from_slice(&buffer[..n]),
        }
    }
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn blob(content: &[u8]) -> Descriptor {
    Descriptor::of(media::LAYER, content)
}

#[test]
fn a_name_and_password_are_sent_where_they_are_asked_for() {
    let stub = Stub::new(|asked| match asked.header("authorization") {
        Some("Basic bWU6cHc=") => manifest(),
        _ => Answer::new(401, "").with("www-authenticate", "Basic realm=\"x\""),
    });
    let repository = with_credentials(basic(), &stub.host);
    repository.manifest("1.0", None).unwrap();
    repository.manifest("1.0", None).unwrap();
    // Once without, twice with.
    assert_eq!(stub.count("GET", "/v2/team/app/manifests/1.0"), 3);
    let said = with_credentials(None, &stub.host).manifest("1.0", None).unwrap_err();
    assert_eq!(said.kind(), ErrorKind::Denied);
    assert!(said.to_string().contains(&format!("{}/team/app: manifest 1.0: ", stub.host)), "{said}");
    let wrong = Some(Credentials::Basic { user: "me".into(), password: "other".into() });
    assert_eq!(with_credentials(wrong, &stub.host).manifest("1.0", None).unwrap_err().kind(), ErrorKind::Denied);
}

/// A registry and its token server in one; the first token runs out at once.
fn token_registry() -> Stub {
    let issued = AtomicUsize::new(0);
    Stub::new(move |asked| {
        let host = asked.header("host").unwrap_or_default().to_owned();
        let token = |n: usize| Answer::new(200, format!(r#"{{"token": "t{n}", "expires_in": 60}}"#));
        match (asked.path.starts_with("/token"), asked.header("authorization")) {
            (true, Some("Basic bWU6cHc=")) => token(issued.fetch_add(1, Ordering::SeqCst)),
            (true, None) if asked.method == "POST" => token(issued.fetch_add(1, Ordering::SeqCst)),
            (true, _) => Answer::new(401, ""),
            (false, Some("Bearer t1")) if asked.method == "POST" => Answer::new(201, ""),
            (false, Some("Bearer t1")) => manifest(),
            (false, _) => Answer::new(401, "").with(
                "www-authenticate",
                format!("Bearer realm=\"http://{host}/token\",service=\"s&1\",scope=\"repository:team/app:pull\""),
            ),
        }
    })
}

#[test]
fn a_token_is_fetched_for_the_scope_and_again_when_it_has_run_out() {
    let stub = token_registry();
    let repository = with_credentials(basic(), &stub.host);
    assert_eq!(repository.manifest("1.0", None).unwrap_err().kind(), ErrorKind::Denied);
    repository.manifest("1.0", None).unwrap();
    repository.manifest("1.0", None).unwrap();
    assert_eq!(stub.count("GET", "/token?service=s%261&scope=repository%3Ateam%2Fapp%3Apull"), 2);
    // The name and password are for the token server alone.
    let leaked = stub.log().iter().any(|asked| {
        !asked.path.starts_with("/token") && asked.header("authorization").is_some_and(|a| a.starts_with("Basic"))
    });
    assert!(!leaked);
}

#[test]
fn an_identity_token_is_exchanged() {
    let stub = token_registry();
    let repository = with_credentials(Some(Credentials::Identity("id/1".into())), &stub.host);
    let _ = repository.manifest("1.0", None);
    repository.manifest("1.0", None).unwrap();
    let exchange = stub.log().into_iter().find(|asked| asked.method == "POST").unwrap();
    let form = String::from_utf8(exchange.body).unwrap();
    assert!(form.contains("grant_type=refresh_token&refresh_token=id%2F1"), "{form}");
}

#[test]
fn a_token_server_that_would_be_without_tls_is_not_asked() {
    let stub = Stub::new(|_| Answer::new(401, "").with("www-authenticate", "Bearer realm=\"http://token.example/\""));
    let said = with_credentials(basic(), &stub.host).manifest("1", None).unwrap_err().to_string();
    assert!(said.contains("without TLS"), "{said}");
}

#[test]
fn what_may_pass_is_tried_again_and_the_server_says_when() {
    let n = AtomicUsize::new(0);
    let stub = Stub::new(move |asked| match (asked.path.as_str(), n.fetch_add(1, Ordering::SeqCst)) {
        ("/v2/", _) => {
            n.store(0, Ordering::SeqCst);
            Answer::new(200, "{}")
        }
        (_, 0) => Answer::new(429, "").with("retry-after", 1),
        (_, 1) => Answer::new(503, ""),
        _ => manifest(),
    });
    let repository = repository(&stub);
    let start = Instant::now();
    repository.manifest("1", None).unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(stub.count("GET", "manifests/1"), 3);
}

#[test]
fn a_registry_that_stays_broken_is_given_up() {
    let stub = Stub::new(|_| Answer::new(500, r#"{"errors":[{"code":"UNKNOWN","message":"disk on fire"}]}"#));
    let said = repository(&stub).manifest("1", None).unwrap_err();
    assert_eq!(said.kind(), ErrorKind::Network);
    assert!(said.to_string().ends_with("manifest 1: 500 (unknown: disk on fire)"), "{said}");
    assert_eq!(stub.count("GET", "manifests/1"), 4);
}

#[test]
fn what_is_not_there_is_not_found_at_once() {
    let stub = Stub::new(|_| Answer::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no"}]}"#));
    let repository = repository(&stub);
    assert_eq!(repository.manifest("1", None).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(stub.count("GET", "manifests/1"), 1);
    assert!(!repository.has_blob(&Digest::of(b"")).unwrap());
    let nobody = with_credentials(None, "127.0.0.1:1");
    assert_eq!(nobody.manifest("1", None).unwrap_err().kind(), ErrorKind::Network);
}

#[test]
fn a_redirect_is_followed_without_the_authorization() {
    let content = bytes(1000);
    let elsewhere = Stub::new({
        let content = content.clone();
        move |_| Answer::new(200, content.clone())
    });
    let target = format!("http://{}/store/x?sig=1", elsewhere.host);
    let stub = Stub::new(move |asked| match asked.header("authorization") {
        None => Answer::new(401, "").with("www-authenticate", "Basic"),
        Some(_) => Answer::new(307, "").with("location", &target),
    });
    let repository = with_credentials(basic(), &stub.host);
    assert_eq!(read(&repository, &blob(&content), 0).unwrap(), content);
    let log = elsewhere.log();
    assert_eq!(log.len(), 1);
    assert_eq!(log[0].path, "/store/x?sig=1");
    assert_eq!(log[0].header("authorization"), None);
}

#[test]
fn a_redirect_to_a_file_or_round_and_round_is_an_error() {
    for location in ["file:///etc/passwd", "http://registry.example/x", "gopher://x/"] {
        let stub = Stub::new(move |_| Answer::new(307, "").with("location", location));
        assert_eq!(repository(&stub).manifest("1", None).unwrap_err().kind(), ErrorKind::Network, "{location}");
    }
    let stub = Stub::new(|_| Answer::new(302, "").with("location", "/v2/again"));
    let said = repository(&stub).manifest("1", None).unwrap_err().to_string();
    assert!(said.contains("redirects"), "{said}");
}

#[test]
fn a_short_body_is_taken_up_where_it_ended() {
    let content = bytes(300_000);
    let stub = Stub::new({
        let content = content.clone();
        move |asked: &Asked| {
            let from: usize = asked.header("range").map_or(0, |r| r[6..r.len() - 1].parse().unwrap());
            let end = content.len().min(from + 100_000);
            let answer = Answer::new(if from > 0 { 206 } else { 200 }, &content[from..end])
                .with("content-length", content.len() - from);
            match from {
                0 => answer,
                from => answer.with("content-range", format!("bytes {from}-{}/{}", content.len() - 1, content.len())),
            }
        }
    });
    let repository = repository(&stub);
    assert_eq!(read(&repository, &blob(&content), 0).unwrap(), content);
    let ranges: Vec<_> = stub.log().iter().filter_map(|a| a.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, ["bytes=100000-", "bytes=200000-"]);
    assert_eq!(read(&repository, &blob(&content), 250_000).unwrap(), content[250_000..]);
}

#[test]
fn a_server_without_ranges_sends_all_again() {
    let content = bytes(10_000);
    let stub = Stub::new({
        let content = content.clone();
        move |_| Answer::new(200, content.clone())
    });
    assert_eq!(read(&repository(&stub), &blob(&content), 9_000).unwrap(), content[9_000..]);
}

#[test]
fn another_part_than_the_one_asked_for_is_refused() {
    let content = bytes(100);
    for range in ["bytes 0-99/100", "bytes 50-99/200", "nonsense"] {
        let stub = Stub::new(move |_| Answer::new(206, vec![0; 50]).with("content-range", range));
        let said = read(&repository(&stub), &blob(&content), 50).unwrap_err();
        assert_eq!(said.kind(), ErrorKind::Invalid, "{range}: {said}");
    }
}

#[test]
fn a_body_that_never_comes_to_its_end_is_given_up() {
    let content = bytes(5_000_000);
    let stub = Stub::new(|asked| match asked.header("range") {
        None => Answer::new(200, "x").with("content-length", 5_000_000),
        Some(_) => Answer::new(206, "").with("content-range", "bytes 1-4999999/5000000"),
    });
    let said = read(&repository(&stub), &blob(&content), 0).unwrap_err();
    assert_eq!(said.kind(), ErrorKind::Network);
    assert!(said.to_string().contains("1 of 5000000 bytes"), "{said}");
}

#[test]
fn an_endless_body_ends_where_the_descriptor_says() {
    let content = bytes(100_000);
    let mut endless = Answer::new(200, content.clone()).with("transfer-encoding", "identity");
    endless.times = 100_000;
    let stub = Stub::new(move |_| endless.clone());
    assert_eq!(read(&repository(&stub), &blob(&content), 0).unwrap(), content);
    let mut endless = manifest().with("transfer-encoding", "identity");
    endless.times = 1_000_000;
    let stub = Stub::new(move |_| endless.clone());
    let said = repository(&stub).manifest("1", None).unwrap_err().to_string();
    assert!(said.contains("larger than"), "{said}");
}

#[test]
fn a_length_that_is_not_the_descriptors_is_refused_before_the_first_byte() {
    let content = bytes(100);
    let stub = Stub::new(|_| Answer::new(200, vec![0; 200]));
    let said = read(&repository(&stub), &blob(&content), 0).unwrap_err();
    assert_eq!(said.kind(), ErrorKind::Invalid);
    assert!(said.to_string().contains("has 200 bytes"), "{said}");
}

#[test]
fn a_manifest_is_what_its_digest_says() {
    let stub = Stub::new(|_| manifest().with("docker-content-digest", Digest::of(b"other")));
    let repository = repository(&stub);
    let (right, other) = (Descriptor::of(media::MANIFEST, MANIFEST.as_bytes()), Digest::of(b"other"));
    assert_eq!(repository.manifest(&right.digest.to_string(), None).unwrap().0, right);
    assert_eq!(repository.manifest(&right.digest.to_string(), Some(&right)).unwrap().0, right);
    for (selector, expected) in [
        ("1.0".to_owned(), None),
        (other.to_string(), None),
        (right.digest.to_string(), Some(Descriptor::new(media::MANIFEST, other, right.size))),
        (right.digest.to_string(), Some(Descriptor::new(media::MANIFEST, right.digest, right.size + 1))),
        (right.digest.to_string(), Some(Descriptor::new(media::MANIFEST, right.digest, right.size - 1))),
    ] {
        let said = repository.manifest(&selector, expected.as_ref()).unwrap_err();
        assert_eq!(said.kind(), ErrorKind::Invalid, "{said}");
    }
}

#[test]
fn the_descriptors_type_counts_if_the_digest_is_right() {
    for content_type in ["text/plain", "", media::INDEX, "application/json; charset=utf-8"] {
        let stub = Stub::new(move |_| Answer::new(200, MANIFEST).with("content-type", content_type));
        let repository = repository(&stub);
        let expected = Descriptor::of(media::DOCKER_MANIFEST, MANIFEST.as_bytes());
        let known = repository.manifest(&expected.digest.to_string(), Some(&expected)).unwrap().0;
        assert_eq!(known.media_type, media::DOCKER_MANIFEST);
        let announced = repository.manifest("1", None).unwrap().0.media_type;
        assert_eq!(announced, if content_type == media::INDEX { media::INDEX } else { media::MANIFEST });
    }
}

#[test]
fn a_manifest_has_a_bound() {
    let stub = Stub::new(|_| Answer::new(200, vec![b' '; (MAX_MANIFEST + 1) as usize]));
    let repository = repository(&stub);
    assert_eq!(repository.manifest("1", None).unwrap_err().kind(), ErrorKind::Invalid);
    let huge = Descriptor::new(media::CONFIG, Digest::of(b""), 1 << 30);
    assert_eq!(repository.document(&huge, json::MAX_DOCUMENT).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(stub.count("GET", "blobs"), 0);
}

#[test]
fn a_small_blob_is_verified() {
    let stub = Stub::new(|_| Answer::new(200, "{}"));
    let repository = repository(&stub);
    assert_eq!(repository.document(&Descriptor::of(media::EMPTY, b"{}"), 10).unwrap(), b"{}");
    let said = repository.document(&Descriptor::of(media::EMPTY, b"[]"), 10).unwrap_err();
    assert_eq!(said.kind(), ErrorKind::Invalid);
}

#[test]
fn tags_come_page_by_page() {
    let stub = Stub::new(|asked| match asked.path.as_str() {
        "/v2/team/app/tags/list?n=1000" => Answer::new(200, r#"{"name": "x", "tags": ["a", "b"]}"#)
            .with("link", "</v2/team/app/tags/list?last=b&n=2>; rel=\"next\""),
        "/v2/team/app/tags/list?last=b&n=2" => {
            Answer::new(200, r#"{"tags": ["c"]}"#).with("link", "</v2/team/app/tags/list?last=c>; rel=next")
        }
        _ => Answer::new(200, r#"{"tags": null}"#).with("link", "</v2/team/app/tags/list?again>; rel=next"),
    });
    assert_eq!(repository(&stub).tags().unwrap(), ["a", "b", "c"]);
}

fn file_of(content: &[u8]) -> std::fs::File {
    use std::io::Write;
    let path = std::env::temp_dir().join(format!("orlop-upload-{}-{}", std::process::id(), content.len()));
    let mut file = std::fs::File::options().create_new(true).read(true).write(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file.write_all(content).unwrap();
    file
}

#[test]
fn a_blob_is_sent_mounted_or_left_alone() {
    let content = bytes(70_001);
    let (there, elsewhere) = (Digest::of(b"there"), Digest::of(b"elsewhere"));
    let stub = Stub::new(move |asked| match (asked.method.as_str(), asked.path.as_str()) {
        ("HEAD", path) if path.ends_with(&there.to_string()) => Answer::new(200, ""),
        ("HEAD", _) => Answer::new(404, ""),
        ("POST", path) if path.contains(&elsewhere.hex()) => Answer::new(201, ""),
        ("POST", _) => Answer::new(202, "").with("location", "/up/1?_state=x%3D"),
        ("PUT", _) => Answer::new(201, ""),
        _ => Answer::new(404, ""),
    });
    let repository = repository(&stub);
    let file = file_of(&content);
    let sent = AtomicUsize::new(0);
    let count = |n: u64| {
        sent.fetch_add(n as usize, Ordering::SeqCst);
    };
    let upload = |digest, mount: &[String]| {
        let descriptor = Descriptor::new(media::LAYER, digest, content.len() as u64);
        repository.upload(&descriptor, &file, mount, &count).unwrap()
    };
    assert_eq!(upload(there, &[]), Uploaded::Present);
    assert_eq!(upload(elsewhere, &["team/base".to_owned()]), Uploaded::Mounted);
    assert_eq!(stub.count("POST", "uploads/?mount=sha256%3A"), 1);
    assert_eq!(sent.load(Ordering::SeqCst), 0);
    // The mount of what isn't there begins an upload, which is used.
    let digest = Digest::of(&content);
    assert_eq!(upload(digest, &["team/base".to_owned()]), Uploaded::Sent);
    assert_eq!(stub.count("POST", ""), 2);
    let put = stub.log().into_iter().find(|asked| asked.method == "PUT").unwrap();
    assert_eq!(put.path, format!("/up/1?_state=x%3D&digest=sha256%3A{}", digest.hex()));
    assert_eq!(put.header("content-length"), Some("70001"));
    assert_eq!(put.body, content);
    assert_eq!(sent.load(Ordering::SeqCst), content.len());
}

#[test]
fn an_upload_that_fails_begins_anew() {
    let content = bytes(100_000);
    let puts = AtomicUsize::new(0);
    let stub = Stub::new(move |asked| match asked.method.as_str() {
        "HEAD" => Answer::new(404, ""),
        "POST" => Answer::new(202, "").with("location", "up/1"),
        "PUT" if puts.fetch_add(1, Ordering::SeqCst) < 2 => Answer::new(502, ""),
        _ => Answer::new(201, ""),
    });
    let done = repository(&stub).upload(&blob(&content), &file_of(&content), &[], &|_| ()).unwrap();
    assert_eq!(done, Uploaded::Sent);
    assert_eq!(stub.count("POST", "uploads/"), 3);
    assert_eq!(stub.log().last().unwrap().body, content);
}

#[test]
fn a_blob_that_is_too_large_at_once_goes_in_chunks() {
    let content = bytes(16 << 20 | 5);
    let stub = Stub::new(|asked| match asked.method.as_str() {
        "HEAD" => Answer::new(404, ""),
        "POST" => Answer::new(202, "").with("location", "/up/0"),
        "PATCH" => Answer::new(202, "").with("location", format!("{}1", asked.path)),
        "PUT" if !asked.body.is_empty() => Answer::new(413, ""),
        _ => Answer::new(201, ""),
    });
    let done = repository(&stub).upload(&blob(&content), &file_of(&content), &[], &|_| ()).unwrap();
    assert_eq!(done, Uploaded::Sent);
    let chunks: Vec<_> = stub.log().into_iter().filter(|asked| asked.method == "PATCH").collect();
    let ranges: Vec<_> = chunks.iter().filter_map(|asked| asked.header("content-range")).collect();
    assert_eq!(ranges, ["0-16777215", "16777216-16777220"]);
    assert_eq!(chunks.iter().flat_map(|asked| asked.body.clone()).collect::<Vec<_>>(), content);
    assert!(stub.log().last().unwrap().path.starts_with("/up/011?digest="));
}

#[test]
fn login_keeps_credentials_that_are_good() {
    let stub = Stub::new(|asked| match asked.header("authorization") {
        Some("Basic bWU6cHc=") => Answer::new(200, "{}"),
        _ => Answer::new(401, "").with("www-authenticate", "Basic realm=\"x\""),
    });
    let path = std::env::temp_dir().join(format!("orlop-login-{}/config.json", std::process::id()));
    let access = Access { credentials: Files::at([path.clone()]), ..access() };
    assert_eq!(access.login(&stub.host, "me", "wrong").unwrap_err().kind(), ErrorKind::Denied);
    assert!(!path.exists());
    assert_eq!(access.login(&stub.host, "me", "pw").unwrap(), path.display().to_string());
    assert_eq!(access.credentials.find(&stub.host, "a").unwrap(), basic());
    assert!(access.logout(&stub.host).unwrap());
    assert!(access.login("not a host", "me", "pw").is_err());
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn a_registry_elsewhere_is_not_talked_to_without_tls() {
    let request = Request::new(Method::GET, "http://registry.example/v2/".parse().unwrap());
    let said = Http::new("registry.example", false, QUICK).unwrap().follow(&request).unwrap_err().to_string();
    assert!(said.contains("without TLS"), "{said}");
}
