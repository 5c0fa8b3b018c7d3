//! What registries are told about who asks: docker's `config.json`, podman's `auth.json`, and credential helpers.
#![allow(clippy::disallowed_methods, reason = "the files are the user's own, at the host's paths")]

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::dir::{Dir, read_limited};
use crate::error::{At, Error, ErrorKind, Result};
use crate::json;

/// The most that a file of credentials, or the answer of a helper, may have, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// The user name by which a helper says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// Credentials of one registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password.
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// A token that the token server takes for others (OAuth 2 refresh token).
    Identity(String),
    /// A token that the registry itself takes.
    Registry(String),
}

impl fmt::Debug for Credentials {
    /// Secrets are in no log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Credentials::Basic",
            Self::Identity(_) => "Credentials::Identity",
            Self::Registry(_) => "Credentials::Registry",
        })
    }
}

/// Where credentials are kept.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// Read in this order; the first that knows the registry is taken. The first is also the one that is written.
    paths: Vec<PathBuf>,
}

/// Docker's configuration, as far as it is about credentials.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: Option<BTreeMap<String, Auth>>,
    cred_helpers: Option<BTreeMap<String, String>>,
    creds_store: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

impl Files {
    /// Those of the environment: `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`, and
    /// podman's `$XDG_RUNTIME_DIR/containers/auth.json` and `$XDG_CONFIG_HOME/containers/auth.json`.
    pub fn of_environment() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = variable("HOME");
        let docker = variable("DOCKER_CONFIG").or_else(|| home.as_ref().map(|home| home.join(".docker")));
        let config = variable("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
        let paths = [
            variable("REGISTRY_AUTH_FILE"),
            docker.map(|dir| dir.join("config.json")),
            variable("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
            config.map(|dir| dir.join("containers/auth.json")),
        ];
        Self { paths: paths.into_iter().flatten().collect() }
    }

    /// These files, in this order.
    pub fn at(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { paths: paths.into_iter().collect() }
    }

    /// The credentials for `repository` of `registry`: those of the longest name that has some, so that a repository
    /// may have its own.
    pub fn find(&self, registry: &str, repository: &str) -> Result<Option<Credentials>> {
        for path in &self.paths {
            let Some(config) = read(path)? else { continue };
            let config: Config = json::parse(&path.display().to_string(), &config)?;
            if let Some(found) = config.find(registry, repository).map_err(|e| e.context(path.display()))? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Keeps name and password for `registry`: with the helper that the file names, or in the file. Returns where.
    pub fn store(&self, registry: &str, user: &str, password: &str) -> Result<String> {
        let (path, mut config) = self.writable()?;
        if let Some(helper) = helper_of(&config, registry) {
            let request = serde_json::json!({ "ServerURL": registry, "Username": user, "Secret": password });
            run_helper(&helper, "store", &request.to_string())?;
            return Ok(format!("docker-credential-{helper}"));
        }
        let auth = serde_json::json!({ "auth": STANDARD.encode(format!("{user}:{password}")) });
        let auths = config.entry("auths").or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(auths) = auths else {
            return Err(Error::invalid(format!("{}: auths is not an object", path.display())));
        };
        auths.insert(registry.to_owned(), auth);
        write(path, &config)?;
        Ok(path.display().to_string())
    }

    /// Forgets the credentials for `registry`. False if there were none.
    pub fn erase(&self, registry: &str) -> Result<bool> {
        let (path, mut config) = self.writable()?;
        if let Some(helper) = helper_of(&config, registry) {
            return Ok(run_helper(&helper, "erase", registry)?.is_some());
        }
        let Some(Value::Object(auths)) = config.get_mut("auths") else { return Ok(false) };
        let before = auths.len();
        auths.retain(|key, _| !names(key, registry));
        let changed = auths.len() < before;
        if changed {
            write(path, &config)?;
        }
        Ok(changed)
    }

    fn writable(&self) -> Result<(&Path, Map<String, Value>)> {
        let path = self.paths.first().ok_or_else(|| Error::not_found("no file for credentials: HOME is not set"))?;
        let config = match read(path)? {
            Some(bytes) => json::parse(&path.display().to_string(), &bytes)?,
            None => Map::new(),
        };
        Ok((path, config))
    }
}

impl Config {
    fn find(&self, registry: &str, repository: &str) -> Result<Option<Credentials>> {
        let helpers = self.cred_helpers.iter().flatten();
        if let Some((key, helper)) = helpers.into_iter().find(|(key, _)| names(key, registry)) {
            return ask(helper, key);
        }
        let mut name = format!("{registry}/{repository}");
        loop {
            if let Some(auth) = self.auths.iter().flatten().find(|(key, _)| **key == name).map(|(_, auth)| auth)
                && let Some(found) = auth.read(&name)?
            {
                return Ok(Some(found));
            }
            match name.rsplit_once('/') {
                Some((shorter, _)) => name = shorter.to_owned(),
                None => break,
            }
        }
        for (key, auth) in self.auths.iter().flatten().filter(|(key, _)| names(key, registry)) {
            if let Some(found) = auth.read(key)? {
                return Ok(Some(found));
            }
        }
        let Some(store) = self.creds_store.as_deref().filter(|store| !store.is_empty()) else { return Ok(None) };
        // What docker calls the registry, if it has been seen: a URL, perhaps.
        let key = self.auths.iter().flatten().map(|(key, _)| key.as_str()).find(|key| names(key, registry));
        ask(store, key.unwrap_or(registry))
    }
}

impl Auth {
    fn read(&self, key: &str) -> Result<Option<Credentials>> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = given(&self.identitytoken) {
            return Ok(Some(Credentials::Identity(token)));
        }
        if let Some(token) = given(&self.registrytoken) {
            return Ok(Some(Credentials::Registry(token)));
        }
        if let Some(auth) = given(&self.auth) {
            let wrong = || Error::invalid(format!("auths.{key}: auth is not USER:PASSWORD in base64"));
            let text = STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let text = text.ok_or_else(wrong)?;
            let (user, password) = text.split_once(':').ok_or_else(wrong)?;
            // Docker pads passwords with NULs in old files.
            let password = password.trim_end_matches('\0');
            return Ok(Some(Credentials::Basic { user: user.to_owned(), password: password.to_owned() }));
        }
        match (given(&self.username), given(&self.password)) {
            (Some(user), Some(password)) => Ok(Some(Credentials::Basic { user, password })),
            _ => Ok(None),
        }
    }
}

/// True if the `key` of a file means `registry`: the name, or a URL of it with or without a version, or (as docker has
/// it for its own registry) `index.` in front.
fn names(key: &str, registry: &str) -> bool {
    let host = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let host = ["/v1/", "/v2/", "/v1", "/v2", "/"].iter().find_map(|end| host.strip_suffix(end)).unwrap_or(host);
    host == registry || host.strip_prefix("index.").is_some_and(|rest| rest == registry)
}

fn helper_of(config: &Map<String, Value>, registry: &str) -> Option<String> {
    let own = config.get("credHelpers").and_then(Value::as_object);
    let own = own.and_then(|helpers| helpers.iter().find(|(key, _)| names(key, registry)));
    let store = config.get("credsStore").and_then(Value::as_str);
    own.and_then(|(_, helper)| helper.as_str()).or(store).filter(|name| !name.is_empty()).map(str::to_owned)
}

fn ask(helper: &str, key: &str) -> Result<Option<Credentials>> {
    let Some(answer) = run_helper(helper, "get", key)? else { return Ok(None) };
    let answer: Answer = json::parse(&format!("answer of docker-credential-{helper}"), &answer)?;
    Ok(match answer {
        Answer { username, secret } if username == TOKEN_USER => Some(Credentials::Identity(secret)),
        Answer { username, secret } if username.is_empty() && secret.is_empty() => None,
        Answer { username, secret } => Some(Credentials::Basic { user: username, password: secret }),
    })
}

/// What `docker-credential-HELPER VERB` answers to `input`; `None` if it has no such credentials.
fn run_helper(helper: &str, verb: &str, input: &str) -> Result<Option<Vec<u8>>> {
    let program = format!("docker-credential-{helper}");
    // The name is looked up in PATH, so it may not lead elsewhere.
    if !helper.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err(Error::invalid(format!("credential helper {helper:?}: not a name")));
    }
    let mut command = Command::new(&program);
    command.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().at(|| format!("run {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that ends before it has read everything says more by its status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let answer = match child.stdout.take() {
        Some(stdout) => read_limited(stdout, &program, MAX_FILE),
        None => Ok(Vec::new()),
    };
    let status = child.wait().at(|| format!("wait for {program}"))?;
    let answer = answer?;
    if status.success() {
        return Ok(Some(answer));
    }
    let said = String::from_utf8_lossy(&answer);
    // The protocol has no code for it, only this text.
    if said.contains("credentials not found") {
        return Ok(None);
    }
    let said: String = said.trim().chars().filter(|c| !c.is_control()).take(200).collect();
    Err(Error::new(ErrorKind::Denied, format!("{program} {verb}: {said}")))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::File::open(path).at(|| format!("open {}", path.display())) {
        Ok(file) => {
            let bytes = read_limited(file, &path.display().to_string(), MAX_FILE)?;
            // `touch`ed files are common.
            Ok(Some(bytes).filter(|bytes| !bytes.trim_ascii().is_empty()))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Puts `config` in the place of the file at once, readable by its owner only.
fn write(path: &Path, config: &Map<String, Value>) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(Error::invalid(format!("{}: not the path of a file", path.display())));
    };
    let text = serde_json::to_vec_pretty(config).map_err(|e| Error::invalid(e.to_string()))?;
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    Dir::make(parent)?.replace(name, &text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn basic(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Basic { user: user.into(), password: password.into() })
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("orlop-credentials-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn credentials_are_those_of_the_longest_name() {
        let encode = |text: &str| STANDARD.encode(text);
        let text = format!(
            r#"{{"auths": {{
                "r.example": {{"auth": "{}"}},
                "r.example/team": {{"auth": "{}"}},
                "https://index.hub.example/v1/": {{"username": "u", "password": "p"}},
                "t.example": {{"identitytoken": "id"}},
                "x.example": {{"registrytoken": "reg"}},
                "empty.example": {{}},
                "bad.example": {{"auth": "!!"}}
            }}, "other": 1}}"#,
            encode("a:b:c\0"),
            encode("team:secret"),
        );
        let config: Config = serde_json::from_str(&text).unwrap();
        for (registry, repository, expected) in [
            ("r.example", "app", basic("a", "b:c")),
            ("r.example", "team", basic("team", "secret")),
            ("r.example", "team/app", basic("team", "secret")),
            ("r.example", "teams/app", basic("a", "b:c")),
            ("hub.example", "a", basic("u", "p")),
            ("t.example", "a", Some(Credentials::Identity("id".into()))),
            ("x.example", "a", Some(Credentials::Registry("reg".into()))),
            ("empty.example", "a", None),
            ("r.example:5000", "a", None),
            ("ample", "a", None),
        ] {
            assert_eq!(config.find(registry, repository).unwrap(), expected, "{registry}/{repository}");
        }
        assert!(config.find("bad.example", "a").is_err());
        assert!(!format!("{:?}", basic("a", "secret")).contains("secret"));
    }

    #[test]
    fn login_and_logout_keep_what_else_is_in_the_file() {
        let dir = scratch("login");
        let path = dir.join("config.json");
        std::fs::write(&path, r#"{"psFormat": "x", "auths": {"a.example": {"auth": "YTpi"}}}"#).unwrap();
        let files = Files::at([path.clone()]);
        assert_eq!(files.store("b.example:5000", "me", "pass:word").unwrap(), path.display().to_string());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(files.find("b.example:5000", "x").unwrap(), basic("me", "pass:word"));
        assert_eq!(files.find("a.example", "x").unwrap(), basic("a", "b"));
        assert!(files.erase("b.example:5000").unwrap());
        assert!(!files.erase("b.example:5000").unwrap());
        assert_eq!(files.find("b.example:5000", "x").unwrap(), None);
        assert!(std::fs::read_to_string(&path).unwrap().contains("psFormat"));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_new_file_is_made_with_its_directory() {
        let dir = scratch("new");
        let files = Files::at([dir.join("a/config.json")]);
        assert_eq!(files.find("r.example", "x").unwrap(), None);
        files.store("r.example", "u", "p").unwrap();
        assert_eq!(files.find("r.example", "x").unwrap(), basic("u", "p"));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_name_of_a_helper_leads_nowhere_else() {
        for wrong in ["../x", "a/b", "a b", "x;y"] {
            assert!(run_helper(wrong, "get", "r").unwrap_err().to_string().contains("not a name"), "{wrong}");
        }
        assert_eq!(run_helper("there-is-none", "get", "r").unwrap_err().kind(), ErrorKind::NotFound);
    }
}
