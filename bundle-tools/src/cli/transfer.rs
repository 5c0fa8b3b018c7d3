//! Commands that move images: `pull`, `import`, `load`, `push`, `save`, `login`, `logout`.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use orlop_bundle::dir::{Dir, read_limited};
use orlop_bundle::error::{At, Error, ErrorKind, Result};
use orlop_bundle::format::Value;
use orlop_bundle::image::Descriptor;
use orlop_bundle::layer::Time;
use orlop_bundle::platform::{self, Wanted};
use orlop_bundle::progress::{self, Direction};
use orlop_bundle::pull::{self, Made, Options, Pulled};
use orlop_bundle::push;
use orlop_bundle::reference::{Location, Reference};
use orlop_bundle::registry::Access;
use orlop_bundle::store::{Found, Ref, Store};
use orlop_bundle::transfer::{JOBS, Progress};
use orlop_bundle::transport::{self, Saved};
use rustix::fs::{Mode, OFlags};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};

use super::Global;
use super::screen::{Screen, tell};
use super::stored::{new_name, source_date_epoch};

/// How to talk to a registry.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Registry")]
pub(crate) struct Wire {
    /// Talk plain HTTP to every registry (to those on loopback that is done anyway)
    #[arg(long)]
    pub(crate) plain_http: bool,
}

/// `pull IMAGE...`
#[derive(Debug, Args)]
#[command(after_help = "\
Where from:
  registry.example/team/app:1.2      a registry; a name without one is looked up as registries.toml says
  registry.example/app@sha256:...    exactly this content
  oci:DIR[:TAG]                      an OCI layout
  oci-archive:FILE[:TAG]             a tar of one
  docker-archive:FILE[:NAME]         what `docker save` writes
  dir:DIR                            what `skopeo copy ... dir:` writes
  ./FILE.tar, ./FOLDER               a root file system: an image of one layer

Examples:
  orlop-bundle pull 127.0.0.1:5000/app
  orlop-bundle pull --platform linux/arm64 registry.example/app:1.2
  orlop-bundle pull oci:build:latest --name app:dev")]
pub(crate) struct Pull {
    /// Which image of a multi-platform one: OS/ARCH[/VARIANT]
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// The images of all other platforms too, as they are, so that `push --all-platforms` can send the whole index
    #[arg(long, visible_alias = "all")]
    pub(crate) all_platforms: bool,
    /// How many layers at a time
    #[arg(long, value_name = "NUMBER", default_value_t = JOBS)]
    pub(crate) jobs: usize,
    /// What it is called here, if not as it is there
    #[arg(long, value_name = "NAME[:TAG]")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) wire: Wire,
    /// What to fetch
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
}

/// `import SOURCE NAME`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mmdebstrap --variant=minbase bookworm base.tar && orlop-bundle import base.tar debian:bookworm
  orlop-bundle import -c 'CMD [\"/app\"]' -c 'ENV MODE=prod' ./folder app:1")]
pub(crate) struct Import {
    /// Set something of the image's configuration, as a Dockerfile says it: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub(crate) change: Vec<String>,
    /// What the history says of it
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) message: Option<String>,
    /// What it runs on: OS/ARCH[/VARIANT], else this machine's
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// A tar (plain, gzip or zstd), a folder, or - for standard input
    pub(crate) source: String,
    /// The image's name
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) name: Option<String>,
}

/// `load`
#[derive(Debug, Args)]
#[command(after_help = "\
What `docker save`, `podman save` and `orlop-bundle save` write is understood, and so is an OCI layout, packed or not.

Example:
  orlop-bundle load -i images.tar")]
pub(crate) struct Load {
    /// The images of all other platforms too, as they are, as `pull --all-platforms` does
    #[arg(long, visible_alias = "all")]
    pub(crate) all_platforms: bool,
    /// The archive or folder; else standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<String>,
}

/// `push IMAGE [DESTINATION]`
#[derive(Debug, Args)]
#[command(after_help = "\
Only layers that the destination lacks are sent, as the bytes that were received or made: digests stay the same.

Examples:
  orlop-bundle push 127.0.0.1:5000/mine:2.0
  orlop-bundle push mine:2.0 registry.example/team/mine:2.0
  orlop-bundle push mine:2.0 oci:layout:2.0")]
pub(crate) struct Push {
    /// The whole index that the image was chosen from, as `pull --all-platforms` has fetched it
    #[arg(long, visible_alias = "all")]
    pub(crate) all_platforms: bool,
    /// How many layers at a time
    #[arg(long, value_name = "NUMBER", default_value_t = JOBS)]
    pub(crate) jobs: usize,
    #[command(flatten)]
    pub(crate) wire: Wire,
    /// Name, id, the beginning of an id, or digest
    pub(crate) image: String,
    /// Where to, in the forms of pull; else the image's own name
    pub(crate) destination: Option<String>,
}

/// What `save` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Archive {
    /// A tar of an OCI layout that also has Docker's manifest.json.
    #[value(alias = "docker")]
    DockerArchive,
    /// A tar of an OCI layout.
    #[value(alias = "oci")]
    OciArchive,
}

/// `save IMAGE...`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  orlop-bundle save -o images.tar mine:1.0 mine:2.0
  orlop-bundle save -o all.tar --format oci-archive --all-platforms registry.example/app:1.2")]
pub(crate) struct Save {
    /// The whole index that each image was chosen from, as `pull --all-platforms` has fetched it; not as a docker-archive
    #[arg(long, visible_alias = "all")]
    pub(crate) all_platforms: bool,
    /// The archive; else standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// The form
    #[arg(long, value_enum, default_value = "docker-archive")]
    pub(crate) format: Archive,
    /// Name, id, the beginning of an id, or digest
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
}

/// `login REGISTRY`
#[derive(Debug, Args)]
#[command(after_help = "\
They are kept in Docker's config.json, or by the credential helper that it names.

Example:
  pass registry | orlop-bundle login -u me --password-stdin registry.example")]
pub(crate) struct Login {
    /// The name
    #[arg(short, long, value_name = "NAME")]
    pub(crate) username: Option<String>,
    /// The password; others may see it in the list of processes
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    pub(crate) password: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    pub(crate) password_stdin: bool,
    /// Host, and port if it is not the usual one
    pub(crate) registry: String,
}

/// `logout REGISTRY`
#[derive(Debug, Args)]
pub(crate) struct Logout {
    /// Host, and port if it is not the usual one
    pub(crate) registry: String,
}

impl Wire {
    fn access(&self) -> Result<Access> {
        Ok(Access { plain_http: self.plain_http, ..Access::of_environment()? })
    }
}

fn watch(global: &Global, direction: Direction) -> Box<dyn Progress> {
    if global.quiet { Box::new(()) } else { progress::watch(direction) }
}

fn wanted(platform: Option<&String>) -> Result<Option<Wanted>> {
    platform.map(|platform| platform.parse()).transpose()
}

/// Fetches images.
pub(crate) fn pull(args: &Pull, global: &Global, store: &Store, screen: &mut Screen) -> Result<()> {
    let name = args.name.as_ref().map(|name| new_name(name)?.parse()).transpose()?;
    if name.is_some() && args.images.len() > 1 {
        return Err(Error::invalid("one --name for several images"));
    }
    let access = args.wire.access()?;
    let (platform, all_platforms) = (wanted(args.platform.as_ref())?, args.all_platforms);
    let options = Options { platform, all_platforms, name, jobs: args.jobs, ..Options::default() };
    let mut all = Vec::new();
    for image in &args.images {
        let location: Location = image.parse()?;
        let pulled = pull::pull(store, &access, &location, &options, &*watch(global, Direction::In))?;
        if !global.json {
            pulled.iter().try_for_each(|pulled| screen.print(&arrived(pulled, global)))?;
        }
        all.extend(pulled);
    }
    if global.json {
        screen.line(&Value::List(all.iter().map(entry).collect()).json_pretty())?;
    }
    Ok(())
}

/// What is said of an image that has come.
fn arrived(pulled: &Pulled, global: &Global) -> String {
    let names = match pulled.names.as_slice() {
        [] => format!("{}\n", pulled.id),
        names => names.iter().map(|name| format!("{name}\n")).collect(),
    };
    if global.quiet { names } else { format!("Digest: {}\n{names}", pulled.manifest.digest) }
}

/// The same for programs.
fn entry(pulled: &Pulled) -> Value {
    Value::record([
        ("Id", pulled.id.to_string().into()),
        ("Digest", pulled.manifest.digest.to_string().into()),
        ("Names", Value::list(pulled.names.iter().map(String::as_str))),
        ("Platform", pulled.platform.as_ref().map(platform::shown).into()),
        ("Runnable", pulled.runnable.into()),
    ])
}

/// The file that standard input is, or has been written to: archives are read at many places.
fn spooled(store: &Store) -> Result<(File, PathBuf)> {
    let mut input = File::from(rustix::io::dup(io::stdin()).at(|| "standard input")?);
    if input.is_terminal() {
        return Err(Error::invalid("standard input is a terminal; name a file"));
    }
    let file = if input.metadata().at(|| "standard input")?.is_file() {
        input
    } else {
        // Without a name, so that nothing is left of it whatever happens.
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let spool = rustix::fs::open(store.path(), flags, Mode::RUSR | Mode::WUSR).at(|| "make a temporary file")?;
        let mut spool = File::from(spool);
        io::copy(&mut input, &mut spool).at(|| "standard input")?;
        spool
    };
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok((file, path.into()))
}

/// Makes an image of a root file system.
pub(crate) fn import(args: &Import, global: &Global, store: &Store, screen: &mut Screen) -> Result<()> {
    let name = args.name.as_ref().map(|name| new_name(name)?.parse::<Reference>()).transpose()?;
    let (_spool, path) = match args.source.as_str() {
        "-" if name.is_none() => return Err(Error::invalid("standard input has no name; give one")),
        "-" => spooled(store).map(|(file, path)| (Some(file), path))?,
        source => (None, source.into()),
    };
    let created = source_date_epoch()?.unwrap_or_else(Time::now);
    let from = (args.source == "-").then(|| "Imported from -".to_owned());
    let made = Made { created, changes: args.change.clone(), message: args.message.clone().or(from) };
    let options = Options { platform: wanted(args.platform.as_ref())?, name, made, ..Options::default() };
    let access = Access::default();
    let pulled = pull::pull(store, &access, &Location::Rootfs(path), &options, &*watch(global, Direction::In))?;
    for image in pulled {
        match global.json {
            true => screen.line(&entry(&image).json_pretty())?,
            false => screen.line(&image.id.to_string())?,
        }
    }
    Ok(())
}

/// Takes in all images of an archive or layout.
pub(crate) fn load(args: &Load, global: &Global, store: &Store, screen: &mut Screen) -> Result<()> {
    let (_spool, path) = match args.input.as_deref() {
        None | Some("-") => spooled(store).map(|(file, path)| (Some(file), path))?,
        Some(input) => (None, input.into()),
    };
    let location = match args.input.as_deref().and_then(|input| input.parse().ok()) {
        // As pull has it: oci:DIR:TAG, docker-archive:FILE:NAME.
        Some(named @ (Location::Layout(..) | Location::LayoutArchive(..))) => named,
        Some(named @ (Location::DockerArchive(..) | Location::Flat(..))) => named,
        _ if std::fs::metadata(&path).is_ok_and(|found| found.is_dir()) => Location::Layout(path, None),
        _ => Location::DockerArchive(path, None),
    };
    let access = Access::default();
    let options = Options { all_platforms: args.all_platforms, ..Options::default() };
    let watch = watch(global, Direction::In);
    let pulled = match pull::pull(store, &access, &location, &options, &*watch) {
        // No manifest.json in it: then it can still be a layout.
        Err(e) if e.kind() != ErrorKind::Os => match location {
            Location::DockerArchive(path, None) => {
                let layout = Location::LayoutArchive(path, None);
                pull::pull(store, &access, &layout, &options, &*watch).map_err(|_| e)?
            }
            _ => return Err(e),
        },
        other => other?,
    };
    drop(watch);
    if global.json {
        return screen.line(&Value::List(pulled.iter().map(entry).collect()).json_pretty());
    }
    for image in &pulled {
        if image.names.is_empty() {
            screen.line(&format!("Loaded image ID: {}", image.id))?;
        }
        for name in &image.names {
            screen.line(&format!("Loaded image: {name}"))?;
        }
    }
    Ok(())
}

/// Sends an image.
pub(crate) fn push(args: &Push, global: &Global, store: &Store, screen: &mut Screen) -> Result<()> {
    let access = args.wire.access()?;
    let image = pull::find(store, &access.settings, &args.image)?;
    // An image that came alone is all that there is.
    let whole = index(&image, &args.image).filter(|_| args.all_platforms);
    let to = args.destination.as_ref().unwrap_or(&args.image);
    let (said, manifest) = match to.parse()? {
        Location::Registry(name) => {
            // A short name is the one that it was pulled by.
            let own = image.refs.iter().filter_map(|r| r.name.as_ref()?.parse::<Reference>().ok());
            let own = own.filter(|own| own.registry.is_some() && own.repository.ends_with(&name.repository));
            let name = match name.registry {
                None if args.destination.is_none() => own.clone().next().unwrap_or(name),
                _ => name,
            };
            let name = name.tagged();
            let progress = watch(global, Direction::Out);
            let sent = match whole {
                Some(index) => push::push_whole(store, &access, index, &name, args.jobs, &*progress)?,
                None => push::push(store, &access, &image, &name, args.jobs, &*progress)?,
            };
            (name.selector(), sent)
        }
        location => {
            let sent = whole.unwrap_or(&image.descriptor).clone();
            let saved = Saved { image: &image, names: names(&image, &args.image), whole: whole.cloned() };
            transport::save(store, &[saved], &location, &*watch(global, Direction::Saved))?;
            (location.to_string(), sent)
        }
    };
    let size = manifest.size;
    if global.json {
        let document = Value::record([("Digest", manifest.digest.to_string().into()), ("Size", size.into())]);
        return screen.line(&document.json_pretty());
    }
    if global.quiet { Ok(()) } else { screen.line(&format!("{said}: digest: {} size: {size}", manifest.digest)) }
}

/// The index that an image was chosen from: under the name that it was asked for by, or else one that is here whole.
fn index<'a>(image: &'a Found, what: &str) -> Option<&'a Descriptor> {
    let asked = |r: &&Ref| r.name.as_deref().is_some_and(|name| name == what || name == format!("{what}:latest"));
    let refs = image.refs.iter().filter(|r| r.index.is_some());
    let best = refs.clone().find(asked).or_else(|| refs.max_by_key(|r| r.whole));
    best.and_then(|r| r.index.as_ref())
}

/// The names that an image has in an archive: the one that it was asked for by, or, by an id, all.
fn names(image: &Found, what: &str) -> Vec<Reference> {
    let all: Vec<Reference> = image.refs.iter().filter_map(|r| r.name.as_ref()?.parse().ok()).collect();
    let asked = what.parse::<Reference>().map(Reference::tagged);
    match asked {
        Ok(asked) if all.contains(&asked) => vec![asked],
        _ => all,
    }
}

/// Writes images into an archive.
pub(crate) fn save(args: &Save, global: &Global, store: &Store, screen: &mut Screen) -> Result<()> {
    if args.output.is_none() && io::stdout().is_terminal() {
        return Err(Error::invalid("standard output is a terminal; use -o"));
    }
    if args.all_platforms && args.format == Archive::DockerArchive {
        return Err(Error::unsupported("a docker-archive has one platform; --format oci-archive has all"));
    }
    let found = args.images.iter().map(|what| store.find(what)).collect::<Result<Vec<_>>>()?;
    let mut images: Vec<Saved<'_>> = Vec::new();
    for (image, what) in found.iter().zip(&args.images) {
        let whole = index(image, what).filter(|_| args.all_platforms).cloned();
        let next = Saved { image, names: names(image, what), whole };
        // Several names of one image are one image with several names.
        match images.iter_mut().find(|saved| saved.root().digest == next.root().digest) {
            Some(saved) => saved.names.extend(next.names),
            None => images.push(next),
        }
    }
    let at = |path: PathBuf| match args.format {
        Archive::DockerArchive => Location::DockerArchive(path, None),
        Archive::OciArchive => Location::LayoutArchive(path, None),
    };
    let watch = watch(global, Direction::Saved);
    match &args.output {
        Some(path) => transport::save(store, &images, &at(path.clone()), &*watch),
        None => {
            // Archives are written under a name and then moved. The store's own place for such files is swept after a crash.
            let _lease = store.lease()?;
            let incoming = Dir::at(store.path())?.dir("incoming")?;
            let name = format!("save-{}", std::process::id());
            let path = format!("/proc/self/fd/{}/{name}", std::os::fd::AsFd::as_fd(&incoming).as_raw_fd());
            transport::save(store, &images, &at(path.into()), &*watch)?;
            let file = incoming.file(&name)?;
            incoming.unlink(&name)?;
            screen.copy(file)
        }
    }
}

/// Keeps a name and a password.
pub(crate) fn login(args: &Login, screen: &mut Screen) -> Result<()> {
    let access = Access::of_environment()?;
    let user = match &args.username {
        Some(user) => user.clone(),
        None => asked("Username: ", false)?,
    };
    let password = match &args.password {
        Some(password) => {
            tell("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
            password.clone()
        }
        None if args.password_stdin => {
            let bytes = read_limited(io::stdin().lock(), "standard input", 64 << 10)?;
            let text = String::from_utf8(bytes).map_err(|_| Error::invalid("standard input: not UTF-8"))?;
            text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text)).unwrap_or(&text).to_owned()
        }
        None => asked("Password: ", true)?,
    };
    if user.is_empty() || password.is_empty() {
        return Err(Error::invalid("a name and a password are needed"));
    }
    let kept = access.login(&args.registry, &user, &password)?;
    screen.line(&format!("Login Succeeded ({kept})"))
}

/// Forgets them.
pub(crate) fn logout(args: &Logout, screen: &mut Screen) -> Result<()> {
    match Access::of_environment()?.logout(&args.registry)? {
        true => screen.line(&format!("Removing login credentials for {}", args.registry)),
        false => screen.line(&format!("Not logged in to {}", args.registry)),
    }
}

/// Asks on the terminal. A secret is not shown.
fn asked(question: &str, secret: bool) -> Result<String> {
    let input = io::stdin();
    if !input.is_terminal() {
        return Err(Error::invalid("standard input is no terminal to ask on; use -u and --password-stdin"));
    }
    super::screen::ask(question);
    if !secret {
        let mut line = String::new();
        input.lock().read_line(&mut line).at(|| "standard input")?;
        return Ok(line.trim().to_owned());
    }
    // An interrupt would leave the terminal without echo, so that the keys for it are read like all others.
    let before = tcgetattr(&input).at(|| "terminal")?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    silent.special_codes[SpecialCodeIndex::VMIN] = 1;
    silent.special_codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(&input, OptionalActions::Flush, &silent).at(|| "terminal")?;
    let secret = read_secret(input.lock());
    let restored = tcsetattr(&input, OptionalActions::Now, &before).at(|| "terminal");
    tell("");
    restored.and(secret)
}

/// A line from a terminal that edits nothing itself.
fn read_secret(input: impl BufRead) -> Result<String> {
    let mut line = Vec::new();
    for byte in input.bytes() {
        match byte.at(|| "standard input")? {
            b'\r' | b'\n' | 0x04 => break,
            0x03 | 0x1c => return Err(Error::invalid("interrupted")),
            0x08 | 0x7f => {
                // All bytes of the last character.
                while line.pop().is_some_and(|byte: u8| byte & 0xc0 == 0x80) {}
            }
            0x15 => line.clear(),
            byte => line.push(byte),
        }
    }
    String::from_utf8(line).map_err(|_| Error::invalid("standard input: not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_edited_as_a_line_is() {
        for (typed, expected) in [
            ("secret\nrest", Some("secret")),
            ("secret", Some("secret")),
            ("wrong\x15right\r", Some("right")),
            ("a\u{fc}\x7fb\x04", Some("ab")),
            ("\x7f\x7fa\n", Some("a")),
            ("half\x03", None),
        ] {
            assert_eq!(read_secret(typed.as_bytes()).ok().as_deref(), expected, "{typed:?}");
        }
    }
}
