//! The ways to a registry that is not next door: TLS with an authority of one's own, tokens, a proxy, a helper that knows
//! the password. The registry is Debian's docker-registry; the rest is a page each.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use orlop_images::layout::{Layout, Packing};
use orlop_images::recipes;
use orlop_integration::Ran;
use serde_json::json;

use crate::registry::{Registry, USER};
use crate::tool::{Backend, Tool, have};

/// A store with an image of one file under `name`.
fn image(tool: &Tool, name: &str) {
    let mut layout = Layout::new(tool.dir.join("layout"));
    let layer = layout.layer(Packing::Gzip, |tar| {
        tar.file("a", "content");
    });
    layout.image("t", &[layer], recipes::shell());
    tool.must(&["pull", "--name", name, &layout.name("t")]);
}

/// Runs the program with these variables set.
fn run_with(tool: &Tool, variables: &[(&str, &str)], args: &[&str]) -> Ran {
    let mut command = tool.command(args);
    command.envs(variables.iter().copied());
    tool.ran(command)
}

/// An authority, and a key and a certificate for `registry.example` and 127.0.0.1 that it has signed: `authority.crt`,
/// `server.crt`, `server.key`, and the same for a client.
fn certificates(tool: &Tool) {
    let openssl = |line: &str| tool.other(&[&["openssl"], &line.split(' ').collect::<Vec<_>>()[..]].concat());
    fs::write(tool.dir.join("names"), "subjectAltName=DNS:registry.example,IP:127.0.0.1\n").unwrap();
    openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout authority.key -out authority.crt");
    for name in ["server", "client"] {
        openssl(&format!("req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        let signed = "-CA authority.crt -CAkey authority.key -CAcreateserial -days 2 -extfile names";
        openssl(&format!("x509 -req -in {name}.csr {signed} -out {name}.crt"));
    }
}

/// The folder of certificates for `host`, for the user of this test.
fn trusted(tool: &Tool, host: &str) -> std::path::PathBuf {
    let folder = tool.dir.join(".config/orlop/certs.d").join(host);
    fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn a_registry_with_a_certificate_of_ones_own_authority_is_trusted_when_that_is_there() {
    let Some(tool) = Tool::new("tls") else { return };
    if !have("TLS", &["openssl"]) {
        return;
    }
    certificates(&tool);
    let (path, client) = (tool.dir.display(), tool.path("authority.crt"));
    let tls = format!("certificate: {path}/server.crt, key: {path}/server.key");
    let Some(open) = Registry::with(&tool, "tls", &format!(", tls: {{{tls}}}"), "") else { return };
    let name = format!("{}/x:1", open.host);
    image(&tool, &name);
    let said = tool.refused(&["push", &name]);
    assert!(said.contains(&open.host) && said.to_lowercase().contains("certificate"), "{said}");
    let folder = trusted(&tool, &open.host);
    fs::copy(tool.dir.join("authority.crt"), folder.join("ca.crt")).unwrap();
    tool.must(&["push", &name]);
    let second = tool.with_store("second");
    second.must(&["pull", &name]);
    assert_eq!(second.images(), tool.images());

    // What many make is its own authority, and is believed where that very file is.
    let names = "subjectAltName=IP:127.0.0.1";
    let openssl =
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=own -keyout own.key -out own.crt -addext";
    tool.other(&openssl.split(' ').chain([names]).collect::<Vec<_>>());
    let own = format!(", tls: {{certificate: {path}/own.crt, key: {path}/own.key}}");
    let own = Registry::with(&tool, "own", &own, "").unwrap();
    let (folder, other) = (trusted(&tool, &own.host), format!("{}/x:1", own.host));
    fs::copy(tool.dir.join("authority.crt"), folder.join("ca.crt")).unwrap();
    assert!(tool.refused(&["push", &name, &other]).contains("CA:TRUE"));
    fs::copy(tool.dir.join("own.crt"), folder.join("own.crt")).unwrap();
    tool.must(&["push", &name, &other]);
    tool.with_store("third").must(&["pull", &other]);

    // One that wants to know who asks.
    let both = format!(", tls: {{{tls}, clientcas: [{client}]}}");
    let closed = Registry::with(&tool, "mutual", &both, "").unwrap();
    let other = format!("{}/x:1", closed.host);
    let folder = trusted(&tool, &closed.host);
    fs::copy(tool.dir.join("authority.crt"), folder.join("ca.crt")).unwrap();
    tool.refused(&["push", &name, &other]);
    fs::copy(tool.dir.join("client.crt"), folder.join("client.cert")).unwrap();
    let said = tool.refused(&["push", &name, &other]);
    assert!(said.contains("client.key"), "{said}");
    fs::copy(tool.dir.join("client.key"), folder.join("client.key")).unwrap();
    tool.must(&["push", &name, &other]);
}

/// A proxy that connects `registry.example` with `to`, and nothing else with anything. What it was asked.
fn proxy(to: &str) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (asked, to) = (Arc::new(Mutex::new(Vec::new())), to.to_owned());
    let log = Arc::clone(&asked);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (to, log) = (to.clone(), Arc::clone(&log));
            thread::spawn(move || {
                let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
                let first = lines.next().unwrap().unwrap();
                let _ = lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).count();
                log.lock().unwrap().push(first.clone());
                let mut client = client;
                if !first.starts_with("CONNECT registry.example:") {
                    return client.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").unwrap();
                }
                let server = TcpStream::connect(&to).unwrap();
                client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
                let (mut up, mut down) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let back = thread::spawn(move || {
                    let _ = std::io::copy(&mut &server, &mut down);
                    let _ = down.shutdown(Shutdown::Write);
                });
                let _ = std::io::copy(&mut client, &mut up);
                let _ = up.shutdown(Shutdown::Write);
                let _ = back.join();
            });
        }
    });
    (address, asked)
}

#[test]
fn a_proxy_is_asked_for_what_is_elsewhere_and_never_for_this_machine() {
    let Some(tool) = Tool::new("proxy") else { return };
    if !have("TLS", &["openssl"]) {
        return;
    }
    certificates(&tool);
    let path = tool.dir.display();
    let tls = format!(", tls: {{certificate: {path}/server.crt, key: {path}/server.key}}");
    let Some(registry) = Registry::with(&tool, "tls", &tls, "") else { return };
    let Some(near) = Registry::with(&tool, "near", "", "") else { return };
    let (address, asked) = proxy(&registry.host);
    let proxy = format!("http://{address}");
    fs::copy(tool.dir.join("authority.crt"), trusted(&tool, "registry.example").join("ca.crt")).unwrap();
    let name = "registry.example/x:1";
    image(&tool, name);
    run_with(&tool, &[("HTTPS_PROXY", &proxy)], &["push", name]).must();
    let second = tool.with_store("second");
    run_with(&second, &[("https_proxy", &proxy)], &["pull", name]).must();
    let before = asked.lock().unwrap().clone();
    assert!(!before.is_empty() && before.iter().all(|line| line.starts_with("CONNECT registry.example:443 ")));
    let other = format!("{}/x:1", near.host);
    run_with(&tool, &[("HTTPS_PROXY", &proxy), ("HTTP_PROXY", &proxy), ("ALL_PROXY", &proxy)], &["push", name, &other])
        .must();
    assert_eq!(*asked.lock().unwrap(), before, "the proxy was asked for 127.0.0.1");
    let refused = run_with(&tool, &[("HTTPS_PROXY", &proxy)], &["pull", "elsewhere.example/x:1"]);
    assert!(!refused.ok() && refused.err.contains("elsewhere.example"), "{}", refused.err);
}

/// What a token server was asked, and whether with the right password.
type Asked = Arc<Mutex<Vec<(String, bool)>>>;

/// A server of tokens for `registry`, signed with `server.key`. Without the password a token is for pulling from `open/`.
fn tokens(tool: &Tool) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Asked::default();
    let (log, dir) = (Arc::clone(&asked), tool.dir.clone());
    let certificate = fs::read_to_string(tool.dir.join("server.crt")).unwrap();
    let certificate: String = certificate.lines().filter(|line| !line.contains("-----")).collect();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            let headers: Vec<_> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let basic = format!("authorization: Basic {}", base64(format!("{}:{}", USER.0, USER.1).as_bytes()));
            let known = headers.iter().any(|line| line.eq_ignore_ascii_case(&basic));
            let query = first.split(['?', ' ']).nth(2).unwrap_or_default();
            let scopes: Vec<_> = query.split('&').filter_map(|pair| pair.strip_prefix("scope=")).collect();
            let scopes = scopes.join(" ").replace("%3A", ":").replace("%2F", "/").replace("%2C", ",").replace('+', " ");
            let access: Vec<_> = scopes
                .split(' ')
                .filter_map(|scope| {
                    let mut parts = scope.split(':').skip(1);
                    let (name, actions) = (parts.next()?, parts.next()?.replace("%20", " "));
                    let granted: Vec<_> = actions
                        .split(',')
                        .filter(|action| known || (name.starts_with("open/") && *action == "pull"))
                        .collect();
                    Some(json!({ "type": "repository", "name": name, "actions": granted }))
                })
                .collect();
            log.lock().unwrap().push((scopes, known));
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
            let claims = json!({ "iss": "orlop", "aud": "orlop", "sub": "", "exp": now + 60, "nbf": now - 60, "iat": now, "jti": "1",
                "access": access });
            let head = json!({ "typ": "JWT", "alg": "RS256", "x5c": [certificate] });
            let part = |value: &serde_json::Value| url_base64(&serde_json::to_vec(value).unwrap());
            let signed = format!("{}.{}", part(&head), part(&claims));
            fs::write(dir.join("signed"), &signed).unwrap();
            let signature = Command::new("openssl")
                .args(["dgst", "-sha256", "-sign", "server.key", "signed"])
                .current_dir(&dir)
                .output()
                .unwrap();
            let body = json!({ "token": format!("{signed}.{}", url_base64(&signature.stdout)) }).to_string();
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            client.write_all(answer.as_bytes()).unwrap();
        }
    });
    (address, asked)
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for n in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * n)) as usize & 63];
            out.push(if n <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

fn url_base64(bytes: &[u8]) -> String {
    base64(bytes).trim_end_matches('=').replace('+', "-").replace('/', "_")
}

/// Keeps name and password, as docker's file has them.
fn log_in(tool: &Tool, host: &str) -> bool {
    let mut command = tool.command(&["login", "-u", USER.0, "--password-stdin", host]);
    let mut child = command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(USER.1.as_bytes()).unwrap();
    child.wait().unwrap().success()
}

#[test]
fn tokens_are_got_for_what_is_done_and_with_the_password_where_there_is_one() {
    let Some(tool) = Tool::new("tokens") else { return };
    if !have("tokens", &["openssl"]) {
        return;
    }
    certificates(&tool);
    let (address, asked) = tokens(&tool);
    let bundle = tool.path("authority.crt");
    let auth = format!(
        "token: {{realm: \"http://{address}/token\", service: orlop, issuer: orlop, rootcertbundle: {bundle}}}"
    );
    let Some(registry) = Registry::with(&tool, "registry", "", &auth) else { return };
    let (open, closed) = (format!("{}/open/x:1", registry.host), format!("{}/team/x:1", registry.host));
    image(&tool, &open);
    tool.must(&["tag", &open, &closed]);
    tool.refused(&["push", &open]);
    assert!(log_in(&tool, &registry.host));
    asked.lock().unwrap().clear();
    tool.must(&["push", &open]);
    assert!(asked.lock().unwrap().iter().all(|(scopes, known)| *known && scopes.contains("repository:open/x:")));
    // From a repository to another, which takes a token for both.
    asked.lock().unwrap().clear();
    tool.must(&["push", &closed]);
    let both = |scopes: &str| scopes.contains("repository:open/x:pull") && scopes.contains("repository:team/x:");
    assert!(asked.lock().unwrap().iter().any(|(scopes, _)| both(scopes)), "{:?}", asked.lock().unwrap());

    tool.must(&["logout", &registry.host]);
    let second = tool.with_store("second");
    second.must(&["pull", &open]);
    second.refused(&["pull", &closed]);
    assert_eq!(second.tree(&open, Backend::Mount).nodes[&b"a"[..]].size, 7);
}

#[test]
fn a_helper_is_asked_for_the_password_and_told_to_keep_it() {
    let Some(tool) = Tool::new("helper") else { return };
    if !have("a registry with a password", &["htpasswd"]) {
        return;
    }
    let file = tool.path("htpasswd");
    fs::write(&file, tool.other(&["htpasswd", "-Bbn", USER.0, USER.1]).trim_end()).unwrap();
    let auth = format!("htpasswd: {{realm: orlop, path: {file}}}");
    let Some(registry) = Registry::with(&tool, "registry", "", &auth) else { return };
    // It keeps what it is given as it is, and answers with it: the protocol's requests are its answers.
    let program = "#!/bin/sh\necho \"$1\" >> verbs\ncase $1 in\n\
        store) cat > kept ;;\n\
        get) read -r url; test -e kept && cat kept || { echo credentials not found in native keychain; exit 1; } ;;\n\
        erase) rm -f kept ;;\nesac\n";
    let bin = tool.dir.join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("docker-credential-test"), program).unwrap();
    fs::set_permissions(bin.join("docker-credential-test"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(tool.dir.join(".docker")).unwrap();
    let config = json!({ "credHelpers": { registry.host.as_str(): "test" } }).to_string();
    fs::write(tool.dir.join(".docker/config.json"), &config).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let run = |args: &[&str]| run_with(&tool, &[("PATH", &path)], args);

    let name = format!("{}/x:1", registry.host);
    image(&tool, &name);
    assert!(!run(&["push", &name]).ok(), "it has no password yet");
    run(&["login", "-u", USER.0, "-p", USER.1, &registry.host]).must();
    run(&["push", &name]).must();
    run(&["logout", &registry.host]).must();
    assert!(!run(&["push", &name]).ok(), "it has forgotten it");
    assert_eq!(fs::read_to_string(tool.dir.join("verbs")).unwrap(), "get\nstore\nget\nerase\nget\n");
    // The file has nothing of it.
    assert_eq!(fs::read_to_string(tool.dir.join(".docker/config.json")).unwrap(), config);
    // A helper that isn't there is said by its name.
    let said = run_with(&tool, &[("PATH", "/usr/bin:/bin")], &["push", &name]).err;
    assert!(said.contains("docker-credential-test"), "{said}");
}
