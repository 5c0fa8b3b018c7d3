//! `--change`: a line of a Dockerfile, applied to the configuration of the new image.
//!
//! The instructions are those that `docker commit` takes, with the Dockerfile's own rules for words, quotes, JSON lists
//! and variables (Dockerfile reference, "Parser", "Environment replacement"). Two things are better than there, on purpose:
//! `$PATH` means the image's own `PATH`, where `docker commit` has an empty environment, and `ENTRYPOINT []` takes the
//! entry point away, where `docker commit` leaves it.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// The most that all changes together may have, in bytes.
const MAX_TEXT: usize = 1 << 20;
/// The most that the values of all changes together may have after variables were replaced, in bytes.
const MAX_EXPANDED: usize = 4 << 20;

/// Applies `changes`, one or several lines each, in their order, to the `config` object of an image's configuration.
/// What they don't speak of stays as it is.
pub fn apply(config: &mut Map<String, Value>, changes: &[String]) -> Result<()> {
    let text = changes.join("\n");
    if text.len() > MAX_TEXT {
        return Err(Error::invalid(format!("changes: longer than {} KiB", MAX_TEXT >> 10)));
    }
    let mut state = State { config, budget: MAX_EXPANDED, command_was_set: false };
    for line in logical_lines(&text) {
        state.apply(&line).map_err(|e| e.context(format!("change {:?}", shown(&line))))?;
    }
    Ok(())
}

/// What is quoted of a line.
fn shown(line: &str) -> String {
    line.chars().take(60).collect()
}

/// The lines of a Dockerfile: without comments and empty lines, with continued ones put together. A line is continued if
/// it ends in one backslash, spaces aside; comments and empty lines within it are left out.
fn logical_lines(text: &str) -> Vec<String> {
    let (mut lines, mut open) = (Vec::new(), String::new());
    for line in text.lines() {
        let start = line.trim_start();
        if start.starts_with('#') || start.is_empty() {
            continue;
        }
        let line = if open.is_empty() { start } else { line };
        match line.trim_end_matches([' ', '\t']).strip_suffix('\\').filter(|rest| !rest.ends_with('\\')) {
            Some(rest) => open.push_str(rest),
            None => {
                open.push_str(line.trim_end());
                lines.push(std::mem::take(&mut open));
            }
        }
    }
    lines.extend(Some(open).filter(|open| !open.trim().is_empty()));
    lines
}

struct State<'a> {
    config: &'a mut Map<String, Value>,
    /// How many bytes may still come out of replacing variables.
    budget: usize,
    command_was_set: bool,
}

impl State<'_> {
    fn apply(&mut self, line: &str) -> Result<()> {
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match name.to_ascii_uppercase().as_str() {
            "CMD" => {
                let command = self.command(rest)?;
                self.config.insert("Cmd".into(), command.into());
                self.command_was_set = true;
            }
            "ENTRYPOINT" => {
                let entrypoint = self.command(rest)?;
                self.set_or_remove("Entrypoint", entrypoint);
                // The image's command was written for the image's entry point.
                if !self.command_was_set {
                    self.config.remove("Cmd");
                }
            }
            "ENV" => {
                for (name, value) in self.pairs(rest)? {
                    self.set_env(&name, &value);
                }
            }
            "LABEL" => {
                for (name, value) in self.pairs(rest)? {
                    self.object("Labels")?.insert(name, value.into());
                }
            }
            "EXPOSE" => {
                for word in self.words(rest)? {
                    for port in ports(&word)? {
                        self.object("ExposedPorts")?.insert(port, json!({}));
                    }
                }
            }
            "VOLUME" => {
                let volumes = match json_list(rest)? {
                    Some(list) => list.iter().map(|item| self.expand(item)).collect::<Result<Vec<_>>>()?,
                    None => self.words(rest)?,
                };
                if volumes.is_empty() || volumes.iter().any(|volume| volume.trim().is_empty()) {
                    return Err(Error::invalid("wants one path or more"));
                }
                for volume in volumes {
                    self.object("Volumes")?.insert(volume.trim().into(), json!({}));
                }
            }
            "USER" => {
                let user = self.one(rest)?;
                self.config.insert("User".into(), user.into());
            }
            "WORKDIR" => {
                let path = self.one(rest)?;
                let before = self.config.get("WorkingDir").and_then(Value::as_str).unwrap_or_default();
                let path = clean_path(if path.starts_with('/') { "" } else { before }, &path);
                self.config.insert("WorkingDir".into(), path.into());
            }
            "STOPSIGNAL" => {
                let signal = self.one(rest)?;
                if !is_signal(&signal) {
                    return Err(Error::invalid(format!("no signal is called {:?}", shown(&signal))));
                }
                self.config.insert("StopSignal".into(), signal.into());
            }
            "HEALTHCHECK" => {
                let check = healthcheck(rest)?;
                self.config.insert("Healthcheck".into(), check);
            }
            "ONBUILD" => {
                let trigger = rest.split(char::is_whitespace).next().unwrap_or_default().to_ascii_uppercase();
                if matches!(trigger.as_str(), "" | "ONBUILD" | "FROM" | "MAINTAINER") {
                    return Err(Error::invalid(format!("{trigger:?} is no trigger")));
                }
                match self.config.entry("OnBuild").or_insert(Value::Null) {
                    Value::Array(list) => list.push(rest.into()),
                    other => *other = json!([rest]),
                }
            }
            _ => {
                return Err(Error::unsupported(
                    "a commit takes CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME \
                     and WORKDIR",
                ));
            }
        }
        Ok(())
    }

    /// The arguments of CMD or ENTRYPOINT: a JSON list as it is, anything else for the image's shell.
    fn command(&self, rest: &str) -> Result<Vec<String>> {
        if let Some(list) = json_list(rest)? {
            return Ok(list);
        }
        if rest.is_empty() {
            return Ok(Vec::new());
        }
        let shell = self.config.get("Shell").and_then(Value::as_array).filter(|shell| !shell.is_empty());
        let mut command: Vec<String> = match shell {
            Some(shell) => shell.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            None => vec!["/bin/sh".into(), "-c".into()],
        };
        command.push(rest.to_owned());
        Ok(command)
    }

    /// `a=b c="d e"`, or the old form `a everything behind it`.
    fn pairs(&mut self, rest: &str) -> Result<Vec<(String, String)>> {
        let words = split_words(rest);
        let Some(first) = words.first() else { return Err(Error::invalid("wants NAME=VALUE")) };
        let pairs: Vec<(&str, &str)> = if first.contains('=') {
            let wrong = |word: &str| Error::invalid(format!("{:?} is not NAME=VALUE", shown(word)));
            words.iter().map(|word| word.split_once('=').ok_or_else(|| wrong(word))).collect::<Result<_>>()?
        } else {
            let Some((name, value)) = rest.split_once(char::is_whitespace) else {
                return Err(Error::invalid("wants a name and a value"));
            };
            vec![(name, value.trim_start())]
        };
        let mut expanded = Vec::with_capacity(pairs.len());
        for (name, value) in pairs {
            let (name, value) = (self.expand(name)?, self.expand(value)?);
            if name.is_empty() || name.contains('\0') || value.contains('\0') {
                return Err(Error::invalid("a name is empty, or there is a NUL"));
            }
            expanded.push((name, value));
        }
        Ok(expanded)
    }

    /// Words between spaces; a variable may become several.
    fn words(&mut self, rest: &str) -> Result<Vec<String>> {
        let mut words = Vec::new();
        for word in split_words(rest) {
            words.extend(self.expand(&word)?.split_whitespace().map(str::to_owned));
        }
        if words.is_empty() { Err(Error::invalid("wants an argument")) } else { Ok(words) }
    }

    /// The rest of the line as one value.
    fn one(&mut self, rest: &str) -> Result<String> {
        let value = self.expand(rest)?;
        if value.is_empty() || value.contains('\0') {
            return Err(Error::invalid("wants one argument"));
        }
        Ok(value)
    }

    fn set_or_remove(&mut self, name: &str, list: Vec<String>) {
        if list.is_empty() {
            self.config.remove(name);
        } else {
            self.config.insert(name.into(), list.into());
        }
    }

    fn object(&mut self, name: &str) -> Result<&mut Map<String, Value>> {
        let value = self.config.entry(name).or_insert(Value::Null);
        if value.is_null() {
            *value = json!({});
        }
        value.as_object_mut().ok_or_else(|| Error::invalid(format!("the image's {name} is not an object")))
    }

    fn env(&self, name: &str) -> Option<&str> {
        let list = self.config.get("Env")?.as_array()?;
        list.iter().rev().filter_map(Value::as_str).find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }

    fn set_env(&mut self, name: &str, value: &str) {
        let pair = Value::from(format!("{name}={value}"));
        let env = self.config.entry("Env").or_insert(Value::Null);
        let Value::Array(list) = env else {
            *env = json!([pair]);
            return;
        };
        let is_it =
            |old: &Value| old.as_str().is_some_and(|old| old.split_once('=').map_or(old, |(key, _)| key) == name);
        match list.iter_mut().find(|old| is_it(old)) {
            Some(old) => *old = pair,
            None => list.push(pair),
        }
    }

    /// One word without its quotes and with its variables replaced.
    fn expand(&mut self, word: &str) -> Result<String> {
        let mut lexer = Lexer { rest: word, state: self, depth: 0 };
        let value = lexer.until(None)?;
        self.budget = self
            .budget
            .checked_sub(value.len())
            .ok_or_else(|| Error::invalid(format!("values longer than {} MiB", MAX_EXPANDED >> 20)))?;
        Ok(value)
    }
}

/// Takes a word apart as a shell does.
struct Lexer<'a, 'b> {
    rest: &'a str,
    state: &'b State<'b>,
    depth: u32,
}

impl Lexer<'_, '_> {
    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next()?;
        self.rest = chars.as_str();
        Some(c)
    }

    fn take(&mut self, wanted: char) -> bool {
        self.rest.strip_prefix(wanted).map(|rest| self.rest = rest).is_some()
    }

    /// Up to `stop`, which is taken too, or to the end.
    fn until(&mut self, stop: Option<char>) -> Result<String> {
        let mut out = String::new();
        loop {
            match self.next() {
                None if stop.is_some() => return Err(Error::invalid("a ${ without its }")),
                None => return Ok(out),
                c if c == stop => return Ok(out),
                Some('\'') => {
                    let Some((inside, rest)) = self.rest.split_once('\'') else {
                        return Err(Error::invalid("a ' without its partner"));
                    };
                    out.push_str(inside);
                    self.rest = rest;
                }
                Some('"') => self.double_quoted(&mut out)?,
                Some('$') => self.variable(&mut out)?,
                Some('\\') => out.extend(self.next()),
                Some(c) => out.push(c),
            }
            if out.len() > MAX_EXPANDED {
                return Err(Error::invalid(format!("values longer than {} MiB", MAX_EXPANDED >> 20)));
            }
        }
    }

    fn double_quoted(&mut self, out: &mut String) -> Result<()> {
        loop {
            match self.next() {
                None => return Err(Error::invalid("a \" without its partner")),
                Some('"') => return Ok(()),
                Some('$') => self.variable(out)?,
                Some('\\') => match self.next() {
                    Some(c @ ('"' | '$' | '\\')) => out.push(c),
                    // Before any other character a backslash is one.
                    other => out.extend(['\\'].into_iter().chain(other)),
                },
                Some(c) => out.push(c),
            }
        }
    }

    fn name(&mut self) -> String {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        name.to_owned()
    }

    /// Behind a `$`.
    fn variable(&mut self, out: &mut String) -> Result<()> {
        if !self.take('{') {
            let name = self.name();
            match name.as_str() {
                "" => out.push('$'),
                name => out.push_str(self.state.env(name).unwrap_or_default()),
            }
            return Ok(());
        }
        let name = self.name();
        if name.is_empty() {
            return Err(Error::invalid("a ${ without a name"));
        }
        let value = self.state.env(&name);
        if self.take('}') {
            out.push_str(value.unwrap_or_default());
            return Ok(());
        }
        // With a colon, an empty variable is as good as none.
        let value = if self.take(':') { value.filter(|value| !value.is_empty()) } else { value };
        let how = self.next();
        self.depth += 1;
        if self.depth > 16 {
            return Err(Error::invalid("variables nested deeper than 16"));
        }
        let word = self.until(Some('}'))?;
        self.depth -= 1;
        match (how, value) {
            (Some('-'), None) | (Some('+'), Some(_)) => out.push_str(&word),
            (Some('-'), Some(value)) | (Some('?'), Some(value)) => out.push_str(value),
            (Some('+'), None) => {}
            (Some('?'), None) => return Err(Error::invalid(format!("{name}: {}", shown(&word)))),
            _ => return Err(Error::unsupported(format!("${{{name}…}}: only :- :+ and :? can follow a name"))),
        }
        Ok(())
    }
}

/// Cuts at spaces that are neither quoted nor escaped; quotes and backslashes stay.
fn split_words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                word.push(c);
                word.extend(chars.next());
            }
            c if Some(c) == quote => {
                word.push(c);
                quote = None;
            }
            '"' | '\'' if quote.is_none() => {
                word.push(c);
                quote = Some(c);
            }
            c if c.is_whitespace() && quote.is_none() => {
                words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()));
            }
            c => word.push(c),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

/// The strings of a JSON list; `None` for what is none, which is then a command for a shell.
fn json_list(text: &str) -> Result<Option<Vec<String>>> {
    if !text.starts_with('[') {
        return Ok(None);
    }
    let Ok(Value::Array(list)) = serde_json::from_str::<Value>(text) else { return Ok(None) };
    let strings: Option<Vec<String>> = list.iter().map(|item| item.as_str().map(str::to_owned)).collect();
    strings.map(Some).ok_or_else(|| Error::invalid("a list may have strings only"))
}

/// `80`, `80/udp`, `8000-8010`: the keys of `ExposedPorts`.
fn ports(word: &str) -> Result<Vec<String>> {
    let wrong = || Error::invalid(format!("{:?} is not a port, like 80, 53/udp or 8000-8010", shown(word)));
    let (range, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(wrong());
    }
    let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse::<u16>().map_err(|_| wrong()),
        false => Err(wrong()),
    };
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (number(first)?, number(last)?);
    if first == 0 || last < first {
        return Err(wrong());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// `path`, seen from `before`, without `.`, `..` and double slashes.
fn clean_path(before: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in before.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// A number from 1 to 64, or a name with or without `SIG`.
fn is_signal(text: &str) -> bool {
    const NAMES: &str = "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP \
                         SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX";
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse::<u32>().is_ok_and(|number| (1..=64).contains(&number));
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let offset = |text: &str| text.parse::<u32>().is_ok_and(|offset| (1..=15).contains(&offset));
    NAMES.split(' ').any(|known| known == name)
        || name.strip_prefix("RTMIN+").is_some_and(offset)
        || name.strip_prefix("RTMAX-").is_some_and(|text| text.parse().is_ok_and(|n: u32| (1..=14).contains(&n)))
}

/// `NONE`, or options and `CMD` with a JSON list or a line for the shell.
fn healthcheck(text: &str) -> Result<Value> {
    let (mut check, mut rest) = (Map::new(), text);
    while let Some(option) = rest.strip_prefix("--") {
        let (option, behind) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let Some((name, value)) = option.split_once('=') else {
            return Err(Error::invalid(format!("--{} wants =VALUE", shown(option))));
        };
        let member = match name {
            "interval" => "Interval",
            "timeout" => "Timeout",
            "start-period" => "StartPeriod",
            "start-interval" => "StartInterval",
            "retries" => "Retries",
            _ => return Err(Error::invalid(format!("no option is called --{}", shown(name)))),
        };
        let value = match name {
            "retries" => value.parse::<u32>().ok().map(u64::from),
            _ => nanoseconds(value).filter(|&duration| duration >= 1_000_000),
        };
        let wrong = || Error::invalid(format!("--{name}: neither a number nor a time of 1ms or more, like 1m30s"));
        if check.insert(member.into(), value.ok_or_else(wrong)?.into()).is_some() {
            return Err(Error::invalid(format!("--{name} is there twice")));
        }
        rest = behind.trim_start();
    }
    let (how, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    let test = match how.to_ascii_uppercase().as_str() {
        "NONE" if command.is_empty() && check.is_empty() => vec!["NONE".to_owned()],
        "CMD" if !command.is_empty() => match json_list(command)? {
            Some(list) if list.is_empty() => return Err(Error::invalid("CMD wants a command")),
            Some(list) => ["CMD".to_owned()].into_iter().chain(list).collect(),
            None => vec!["CMD-SHELL".to_owned(), command.to_owned()],
        },
        _ => return Err(Error::invalid("wants NONE, or CMD and a command")),
    };
    check.insert("Test".into(), test.into());
    Ok(Value::Object(check))
}

/// Go's durations, as far as they are positive: `1m30s`, `1.5h`, `300ms`.
fn nanoseconds(text: &str) -> Option<u64> {
    let (mut total, mut rest) = (0u64, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(digits);
        let end = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let unit = match unit {
            "ns" => 1u64,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
        total = total.checked_add(whole.checked_mul(unit)?)?;
        let mut place = unit;
        for digit in fraction.bytes() {
            place /= 10;
            total = total.checked_add(u64::from(digit.checked_sub(b'0').filter(|d| *d < 10)?).checked_mul(place)?)?;
        }
        rest = behind;
    }
    (!text.is_empty() && i64::try_from(total).is_ok()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(before: Value, changes: &[&str]) -> std::result::Result<Value, String> {
        let Value::Object(mut config) = before else { panic!("not an object") };
        let changes: Vec<String> = changes.iter().map(|&change| change.to_owned()).collect();
        apply(&mut config, &changes).map_err(|e| e.to_string())?;
        Ok(Value::Object(config))
    }

    #[test]
    fn each_instruction_means_what_it_means_in_a_dockerfile() {
        let sh = |text: &str| json!(["/bin/sh", "-c", text]);
        for (before, change, after) in [
            (json!({}), r#"CMD ["a", "b c"]"#, json!({"Cmd": ["a", "b c"]})),
            (json!({}), "CMD echo  $HOME 'x'", json!({"Cmd": sh("echo  $HOME 'x'")})),
            (json!({}), "cmd ['single', 'quotes']", json!({"Cmd": sh("['single', 'quotes']")})),
            (
                json!({"Shell": ["/bin/bash", "-ec"]}),
                "CMD x",
                json!({"Shell": ["/bin/bash", "-ec"], "Cmd": ["/bin/bash", "-ec", "x"]}),
            ),
            (json!({"Cmd": ["old"]}), "CMD []", json!({"Cmd": []})),
            (json!({"Cmd": ["old"]}), "ENTRYPOINT [\"e\"]", json!({"Entrypoint": ["e"]})),
            (json!({"Cmd": ["old"]}), "CMD new\nENTRYPOINT e", json!({"Cmd": sh("new"), "Entrypoint": sh("e")})),
            (json!({"Entrypoint": ["e"]}), "ENTRYPOINT []", json!({})),
            (json!({}), "ENV a=b c=\"d e\" f=g\\ h i='$a'", json!({"Env": ["a=b", "c=d e", "f=g h", "i=$a"]})),
            (json!({}), "ENV a  b   c ", json!({"Env": ["a=b   c"]})),
            (json!({}), "ENV a \"b\" 'c'", json!({"Env": ["a=b c"]})),
            (json!({"Env": ["PATH=/bin"]}), "ENV PATH=/x:$PATH", json!({"Env": ["PATH=/x:/bin"]})),
            (json!({"Env": ["A=1", "B=2"]}), "ENV A=3 C=${B}4", json!({"Env": ["A=3", "B=2", "C=24"]})),
            (json!({}), "ENV a=b c=$a", json!({"Env": ["a=b", "c="]})),
            (json!({}), "ENV a=b\nENV c=$a", json!({"Env": ["a=b", "c=b"]})),
            (
                json!({}),
                "ENV a=${x:-d} b=${x:+e} c=\\$x d=\"\\$x\\\"\\y\" e=$ f=${x-}",
                json!({"Env": ["a=d", "b=", "c=$x", "d=$x\"\\y", "e=$", "f="]}),
            ),
            (json!({"Env": ["x=1"]}), "ENV a=${x:-d} b=${x:+${x}e}", json!({"Env": ["x=1", "a=1", "b=1e"]})),
            (json!({"Env": null}), "ENV a=", json!({"Env": ["a="]})),
            (
                json!({"Env": ["x=1 2"]}),
                "LABEL \"a b\"=c d='e=f' g=$x",
                json!({"Env": ["x=1 2"], "Labels": {"a b": "c", "d": "e=f", "g": "1 2"}}),
            ),
            (json!({"Labels": {"a": "1", "k": "v"}}), "LABEL a 2 3", json!({"Labels": {"a": "2 3", "k": "v"}})),
            (
                json!({"ExposedPorts": null}),
                "EXPOSE 80 53/UDP 8000-8002/sctp",
                json!({"ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/sctp": {}, "8001/sctp": {}, "8002/sctp": {}}}),
            ),
            (
                json!({"Env": ["p=1 2"]}),
                "EXPOSE $p",
                json!({"Env": ["p=1 2"], "ExposedPorts": {"1/tcp": {}, "2/tcp": {}}}),
            ),
            (json!({}), "VOLUME [\"/a b\", \"/c\"]", json!({"Volumes": {"/a b": {}, "/c": {}}})),
            (json!({"Volumes": {"/x": {}}}), "VOLUME /a /c", json!({"Volumes": {"/x": {}, "/a": {}, "/c": {}}})),
            (json!({"User": "a"}), "USER 1000:\"1000\"", json!({"User": "1000:1000"})),
            (json!({"WorkingDir": "/a/b"}), "WORKDIR ../c/./d", json!({"WorkingDir": "/a/c/d"})),
            (json!({"WorkingDir": "/a/b"}), "WORKDIR /x y/", json!({"WorkingDir": "/x y"})),
            (json!({}), "WORKDIR ../..", json!({"WorkingDir": "/"})),
            (json!({}), "STOPSIGNAL SIGRTMIN+3", json!({"StopSignal": "SIGRTMIN+3"})),
            (json!({}), "STOPSIGNAL 9", json!({"StopSignal": "9"})),
            (
                json!({"Healthcheck": {"Test": ["CMD", "x"]}}),
                "HEALTHCHECK NONE",
                json!({"Healthcheck": {"Test": ["NONE"]}}),
            ),
            (
                json!({}),
                "HEALTHCHECK --interval=1m30s --timeout=1.5s --retries=3 CMD curl -f x || exit 1",
                json!({"Healthcheck": {"Interval": 90_000_000_000u64, "Timeout": 1_500_000_000u64, "Retries": 3, "Test": ["CMD-SHELL", "curl -f x || exit 1"]}}),
            ),
            (
                json!({}),
                "HEALTHCHECK --start-period=5s CMD [\"a\", \"b\"]",
                json!({"Healthcheck": {"StartPeriod": 5_000_000_000u64, "Test": ["CMD", "a", "b"]}}),
            ),
            (json!({"OnBuild": ["RUN a"]}), "ONBUILD  RUN b  c", json!({"OnBuild": ["RUN a", "RUN b  c"]})),
            (json!({}), "ONBUILD COPY . /x", json!({"OnBuild": ["COPY . /x"]})),
            (
                json!({}),
                "# a remark\n\n  ENV a=1 \\\n# within\n  b=2 \\  \n  c=3\nUSER x\\\\",
                json!({"Env": ["a=1", "b=2", "c=3"], "User": "x\\"}),
            ),
        ] {
            let shown = format!("{before} {change}");
            assert_eq!(changed(before, &[change]), Ok(after), "{shown}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_line() {
        for (change, word) in [
            ("RUN x", "a commit takes"),
            ("FROM x", "a commit takes"),
            ("SHELL [\"x\"]", "a commit takes"),
            ("CMD [\"a\", 1]", "strings only"),
            ("ENV", "NAME=VALUE"),
            ("ENV a", "a name and a value"),
            ("ENV a=b c", "\"c\" is not NAME=VALUE"),
            ("ENV =b", "a name is empty"),
            ("ENV a='b", "without its partner"),
            ("ENV a=\"b", "without its partner"),
            ("ENV a=${b", "without its }"),
            ("ENV a=${}", "without a name"),
            ("ENV a=${b#c}", "can follow a name"),
            ("ENV a=${b:?is-missing}", "b: is-missing"),
            ("EXPOSE", "wants an argument"),
            ("EXPOSE 0", "not a port"),
            ("EXPOSE 65536", "not a port"),
            ("EXPOSE 5-4", "not a port"),
            ("EXPOSE 80/icmp", "not a port"),
            ("EXPOSE +80", "not a port"),
            ("VOLUME []", "one path"),
            ("VOLUME [\" \"]", "one path"),
            ("USER", "one argument"),
            ("STOPSIGNAL SIGNOT", "no signal"),
            ("STOPSIGNAL 65", "no signal"),
            ("STOPSIGNAL RTMIN+16", "no signal"),
            ("HEALTHCHECK", "wants NONE"),
            ("HEALTHCHECK CMD", "wants NONE"),
            ("HEALTHCHECK CMD []", "wants a command"),
            ("HEALTHCHECK --interval=1 CMD x", "--interval: neither"),
            ("HEALTHCHECK --interval=1us CMD x", "--interval: neither"),
            ("HEALTHCHECK --interval=99999999h CMD x", "--interval: neither"),
            ("HEALTHCHECK --retries=-1 CMD x", "--retries: neither"),
            ("HEALTHCHECK --often=1 CMD x", "no option"),
            ("ONBUILD", "no trigger"),
            ("ONBUILD ONBUILD RUN x", "no trigger"),
            ("ONBUILD from x", "no trigger"),
        ] {
            let said = changed(json!({}), &[change]).unwrap_err();
            assert!(said.starts_with("change \"") && said.contains(word), "{change}: {said}");
        }
    }

    #[test]
    fn variables_that_double_each_other_meet_a_bound() {
        let mut changes = vec!["ENV a=xxxxxxxxxxxxxxxx".to_owned()];
        changes.extend((0..40).map(|_| "ENV a=$a$a".to_owned()));
        let said = apply(&mut Map::new(), &changes).unwrap_err().to_string();
        assert!(said.contains("longer than"), "{said}");
    }
}
