//! The command line, as containerd writes it: Go's flags, with one dash or two, and one word.

use crate::log;

/// What is to be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Action {
    /// To serve, on a socket that is open.
    #[default]
    Serve,
    /// To bind a socket, and leave a daemon behind.
    Start,
    /// To clean up after a daemon that is gone.
    Delete,
    /// To say who we are, to a program.
    Info,
    /// To say who we are, to people.
    Version,
}

/// See the [module](self).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args {
    /// What is to be done.
    pub action: Action,
    /// containerd's namespace.
    pub namespace: String,
    /// containerd's socket.
    pub address: String,
    /// The container's id.
    pub id: String,
    /// The bundle, for `delete`.
    pub bundle: String,
    /// How important the daemon's words have to be, as in [`log`](crate::log).
    pub level: i32,
}

impl Args {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// What is wrong, in a sentence.
    pub fn parse<S: AsRef<str>>(arguments: impl IntoIterator<Item = S>) -> Result<Self, String> {
        let mut args = Self::default();
        let mut level = String::new();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let argument = argument.as_ref();
            let Some(flag) = argument.strip_prefix('-').map(|flag| flag.strip_prefix('-').unwrap_or(flag)) else {
                args.action = match argument {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    other => return Err(format!("unknown command {other:?}")),
                };
                continue;
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let is_true = !matches!(value.as_deref(), Some("false" | "0"));
            let place = match name {
                "v" | "version" => {
                    args.action = Action::Version;
                    continue;
                }
                "info" => {
                    args.action = Action::Info;
                    continue;
                }
                "debug" => {
                    args.level = if is_true { log::DEBUG } else { log::INFO };
                    continue;
                }
                "namespace" => Some(&mut args.namespace),
                "address" => Some(&mut args.address),
                "id" => Some(&mut args.id),
                "bundle" => Some(&mut args.bundle),
                // Of `start` to its daemon.
                "log-level" => Some(&mut level),
                "publish-binary" | "socket" => None,
                _ => return Err(format!("flag provided but not defined: -{name}")),
            };
            let given = arguments_value(value, &mut arguments).ok_or_else(|| format!("-{name}: needs a value"))?;
            if let Some(place) = place {
                *place = given;
            }
        }
        if !level.is_empty() {
            args.level = level.parse().map_err(|_| format!("-log-level: not a number: {level:?}"))?;
        }
        Ok(args)
    }
}

fn arguments_value<S: AsRef<str>>(value: Option<String>, rest: &mut impl Iterator<Item = S>) -> Option<String> {
    value.or_else(|| rest.next().map(|next| next.as_ref().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_gos() {
        let args = Args::parse([
            "-namespace",
            "default",
            "--address=/run/c.sock",
            "-publish-binary",
            "/usr/bin/containerd",
            "-id",
            "c1",
            "-bundle",
            "/b",
            "-debug",
            "delete",
        ]);
        let want = Args {
            action: Action::Delete,
            namespace: "default".into(),
            address: "/run/c.sock".into(),
            id: "c1".into(),
            bundle: "/b".into(),
            level: log::DEBUG,
        };
        assert_eq!(args, Ok(want));
        assert_eq!(Args::parse(["-v"]).unwrap().action, Action::Version);
        assert_eq!(Args::parse(["-info"]).unwrap().action, Action::Info);
        assert_eq!(Args::parse(["-log-level=-8"]).unwrap().level, -8);
        for bad in [&["-id"][..], &["-nope", "x"], &["stop"], &["-log-level", "loud"]] {
            assert!(Args::parse(bad).is_err(), "{bad:?}");
        }
    }
}
