//! The files of the bundle that a container sees in /etc: its name, the names of hosts, and how names are resolved.
//! As Docker's, they are mounted over the image's own, so that these don't enter a commit.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::str::FromStr;

use crate::config::namespaces::Join;
use crate::config::{Context, Options};
use crate::error::{Error, Result};

/// `--add-host`: a line of /etc/hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFlag {
    /// The name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
}

impl FromStr for HostFlag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::invalid("not NAME:ADDRESS");
        let (name, address) = text.split_once(['=', ':']).ok_or_else(wrong)?;
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        check_name(name)?;
        Ok(Self { name: name.to_owned(), address: bare.parse().map_err(|_| wrong())? })
    }
}

/// A name of a host or a domain: what can stand in these files without being read as something else.
fn check_name(name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if name.is_empty() || name.len() > 253 || !name.chars().all(fits) || name.starts_with(['-', '.']) {
        return Err(Error::invalid(format!("{name:?} is no name of a host")));
    }
    Ok(())
}

/// The name that the container has: the caller's, the host's if it has the host's UTS namespace, otherwise the
/// bundle's, as far as the kernel (64 bytes) and the grammar of names take it.
pub(super) fn hostname(options: &Options, context: &Context) -> Result<Option<String>> {
    match (&options.hostname, &options.uts) {
        (Some(name), Join::Private) => {
            check_name(name).map_err(|e| e.context("--hostname"))?;
            if name.len() > 64 {
                return Err(Error::invalid("--hostname: longer than the kernel's 64 bytes"));
            }
            Ok(Some(name.clone()))
        }
        (Some(_), _) => Err(Error::invalid("--hostname: would rename the host, as --uts is not private")),
        (None, Join::Private) => {
            let fits = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
            let name: String = context.id.chars().filter(fits).take(63).collect();
            let name = name.trim_matches('-');
            Ok(Some(if name.is_empty() { "container" } else { name }.to_owned()))
        }
        (None, _) => Ok(None),
    }
}

/// A file of the bundle, to be mounted at `/etc/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its name in the bundle and in /etc.
    pub name: &'static str,
    /// Its content.
    pub text: String,
}

/// The files of a container named `hostname`. `host` gives the host's own file of that name in /etc, if it has one.
pub(super) fn files(
    options: &Options,
    hostname: Option<&str>,
    host: impl Fn(&str) -> Option<String>,
) -> Result<Vec<File>> {
    let mut all = Vec::new();
    if let Some(name) = hostname {
        all.push(File { name: "hostname", text: format!("{name}\n") });
    }
    let shared = if options.network == Join::Host { host("hosts") } else { None };
    let mut hosts = shared.unwrap_or_else(|| {
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
            .to_owned()
    });
    if !hosts.is_empty() && !hosts.ends_with('\n') {
        hosts.push('\n');
    }
    for line in &options.add_host {
        // Writing to a String cannot fail.
        let _ = writeln!(hosts, "{}\t{}", line.address, line.name);
    }
    if let Some(name) = hostname.filter(|_| options.network == Join::Private) {
        let _ = writeln!(hosts, "127.0.1.1\t{name}");
    }
    all.push(File { name: "hosts", text: hosts });

    for (flag, words) in [("--dns-search", &options.dns_search), ("--dns-option", &options.dns_option)] {
        for word in words {
            if word.is_empty() || word.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err(Error::invalid(format!("{flag} {word:?}: is no word")));
            }
        }
    }
    let base = host("resolv.conf").unwrap_or_default();
    let mut text = String::new();
    for line in base.lines() {
        let replaced = match line.split_whitespace().next() {
            Some("nameserver") => !options.dns.is_empty(),
            Some("search" | "domain") => !options.dns_search.is_empty(),
            Some("options") => !options.dns_option.is_empty(),
            _ => false,
        };
        if !replaced {
            let _ = writeln!(text, "{line}");
        }
    }
    for address in &options.dns {
        let _ = writeln!(text, "nameserver {address}");
    }
    for (word, values) in [("search", &options.dns_search), ("options", &options.dns_option)] {
        if !values.is_empty() {
            let _ = writeln!(text, "{word} {}", values.join(" "));
        }
    }
    all.push(File { name: "resolv.conf", text });
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{context, options};

    #[test]
    fn a_host_is_a_name_and_an_address() {
        for (text, fits) in [
            ("db:10.0.0.1", true),
            ("db=10.0.0.1", true),
            ("db:::1", true),
            ("db:[::1]", true),
            ("db", false),
            ("db:x", false),
            (":1.2.3.4", false),
            ("a b:1.2.3.4", false),
            ("a\nb:1.2.3.4", false),
        ] {
            assert_eq!(text.parse::<HostFlag>().is_ok(), fits, "{text}");
        }
    }

    #[test]
    fn a_container_is_named_after_its_bundle() {
        for (flags, meant) in [
            ("", Some(Some("web-1"))),
            ("--hostname a.example", Some(Some("a.example"))),
            ("--uts host", Some(None)),
            ("--uts host --hostname a", None),
            ("--hostname -a", None),
            ("--hostname a/b", None),
        ] {
            let made = context(|context| hostname(&options(flags), context)).ok();
            assert_eq!(made.as_ref().map(Option::as_deref), meant, "{flags}");
        }
    }

    #[test]
    fn names_are_resolved_as_on_the_host_unless_told_otherwise() {
        let host = |name: &str| {
            Some(match name {
                "hosts" => "1.1.1.1 host".to_owned(),
                _ => "# mine\nnameserver 9.9.9.9\nsearch a.example\noptions rotate\n".to_owned(),
            })
        };
        let made = |flags: &str| files(&options(flags), Some("web"), host).unwrap();
        let all = made("--add-host db:10.0.0.1");
        assert_eq!(all.iter().map(|f| f.name).collect::<Vec<_>>(), ["hostname", "hosts", "resolv.conf"]);
        assert_eq!(all[0].text, "web\n");
        assert!(all[1].text.starts_with("127.0.0.1\tlocalhost\n"), "{}", all[1].text);
        assert!(all[1].text.ends_with("10.0.0.1\tdb\n127.0.1.1\tweb\n"), "{}", all[1].text);
        assert_eq!(all[2].text, "# mine\nnameserver 9.9.9.9\nsearch a.example\noptions rotate\n");
        assert_eq!(made("--network host --add-host db:::1")[1].text, "1.1.1.1 host\n::1\tdb\n");
        let text = &made("--dns 1.2.3.4 --dns ::1 --dns-search b.example --dns-option ndots:2")[2].text;
        assert_eq!(text, "# mine\nnameserver 1.2.3.4\nnameserver ::1\nsearch b.example\noptions ndots:2\n");
        let hostile = Options { dns_search: vec!["a\nnameserver 1.2.3.4".to_owned()], ..Options::default() };
        assert!(files(&hostile, None, host).is_err());
        assert_eq!(files(&options(""), None, |_| None).unwrap().len(), 2);
    }
}
