//! `orlop completion SHELL`: scripts made from the [`table`](super::table).

use std::fmt::Write as _;

use super::help::shown;
use super::signal;
use super::table::{self, Arguments, COMMANDS, Entry, First, Flag, GLOBAL, Value};

/// A shell that a script can be written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shell {
    /// GNU bash 4 or later; needs nothing of the package bash-completion.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

impl Shell {
    /// By its name.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "bash" => Some(Self::Bash),
            "zsh" => Some(Self::Zsh),
            "fish" => Some(Self::Fish),
            _ => None,
        }
    }
}

/// The script.
pub(crate) fn script(shell: Shell) -> String {
    match shell {
        Shell::Bash => bash(),
        Shell::Zsh => zsh(),
        Shell::Fish => fish(),
    }
}

fn commands() -> impl Iterator<Item = &'static Entry> {
    COMMANDS.iter().filter(|entry| !entry.hidden)
}

/// `--name`, `-n`.
fn spellings(flag: &Flag) -> impl Iterator<Item = String> {
    [Some(format!("--{}", flag.name)), flag.short.map(|short| format!("-{short}"))].into_iter().flatten()
}

fn words(flags: &[&'static Flag]) -> String {
    shown(flags).flat_map(spellings).collect::<Vec<_>>().join(" ")
}

fn signals() -> String {
    signal::names().collect::<Vec<_>>().join(" ")
}

fn bash() -> String {
    let mut script = String::from(
        "# bash completion of orlop\n_orlop() {\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n\
         \tlocal command= flags= first= values= root=() i id=0\n",
    );
    let takes_value = |flags: &[&'static Flag]| {
        shown(flags).filter(|flag| flag.value().is_some()).flat_map(spellings).collect::<Vec<_>>().join("|")
    };
    let _ = write!(
        script,
        "\tCOMPREPLY=()\n\tfor ((i = 1; i < COMP_CWORD; i++)); do\n\t\tcase ${{COMP_WORDS[i]}} in\n\
         \t\t--root) root=(--root \"${{COMP_WORDS[i+1]}}\"); ((i++)) ;;\n\t\t{}) ((i++)) ;;\n\t\t-*) ;;\n\
         \t\t*) command=${{COMP_WORDS[i]}}; break ;;\n\t\tesac\n\tdone\n",
        takes_value(GLOBAL)
    );
    let _ = write!(script, "\tcase $command in\n\t'') flags='{}' ;;\n", words(GLOBAL),);
    for entry in commands() {
        let first = if entry.first == First::Container { " first=container" } else { "" };
        let values = takes_value(entry.flags);
        let _ = writeln!(
            script,
            "\t{}) flags='{}'{first}{} ;;",
            entry.name,
            words(entry.flags),
            if values.is_empty() { String::new() } else { format!(" values='{values}'") },
        );
    }
    script.push_str("\tesac\n");
    // Where the cursor stands behind an option, its value is wanted. Each kind of value is one branch.
    let mut wanted: Vec<(String, Vec<String>)> = Vec::new();
    let all = commands().map(|entry| (entry.name, entry.flags));
    for (command, flags) in std::iter::once(("", GLOBAL)).chain(all) {
        for flag in shown(flags) {
            let reply = match flag.value() {
                None => continue,
                Some(Value::File) => {
                    "compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")".to_owned()
                }
                Some(Value::Dir) => "compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- \"$cur\")".to_owned(),
                Some(Value::Choice(words)) => {
                    format!("mapfile -t COMPREPLY < <(compgen -W '{}' -- \"$cur\")", words.join(" "))
                }
                Some(Value::Number | Value::Duration | Value::Text(_)) => ":".to_owned(),
            };
            let patterns = spellings(flag).map(|spelling| format!("{command}:{spelling}"));
            match wanted.iter_mut().find(|(known, _)| *known == reply) {
                Some((_, known)) => known.extend(patterns),
                None => wanted.push((reply, patterns.collect())),
            }
        }
    }
    script.push_str("\tcase $command:$prev in\n");
    for (reply, patterns) in wanted {
        let _ = writeln!(script, "\t{})\n\t\t{reply}\n\t\treturn ;;", patterns.join("|"));
    }
    script.push_str("\tesac\n");
    let names: Vec<_> = commands().map(|entry| entry.name).collect();
    let _ = write!(
        script,
        "\tif [[ $cur == -* ]]; then\n\t\tmapfile -t COMPREPLY < <(compgen -W \"$flags\" -- \"$cur\")\n\t\treturn\n\tfi\n\
         \tif [[ -z $command ]]; then\n\t\tmapfile -t COMPREPLY < <(compgen -W '{} help' -- \"$cur\")\n\t\treturn\n\tfi\n\
         \tfor ((i++; i < COMP_CWORD; i++)); do\n\t\tcase ${{COMP_WORDS[i]}} in\n\t\t-*) [[ \"|$values|\" == *\"|${{COMP_WORDS[i]}}|\"* ]] && ((i++)) ;;\n\
         \t\t*) ((id++)) ;;\n\t\tesac\n\tdone\n\
         \tcase $command:$id in\n\thelp:0) mapfile -t COMPREPLY < <(compgen -W '{}' -- \"$cur\") ;;\n\
         \tkill:1) mapfile -t COMPREPLY < <(compgen -W '{}' -- \"$cur\") ;;\n\
         \t*:0) [[ $first == container ]] && mapfile -t COMPREPLY < <(compgen -W \"$(orlop \"${{root[@]}}\" list -q 2>/dev/null)\" -- \"$cur\") ;;\n\
         \tesac\n\treturn 0\n}}\ncomplete -F _orlop orlop\n",
        names.join(" "),
        names.join(" "),
        signals(),
    );
    script
}

/// For the inside of a `'…'` of zsh's `_arguments`, where a colon and brackets have a meaning.
fn zsh_text(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\'' => out.push_str("'\\''"),
            ':' | '[' | ']' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

fn zsh_flags(script: &mut String, flags: &[&'static Flag]) {
    for flag in shown(flags) {
        let action = match flag.value() {
            None => String::new(),
            Some(value) => {
                let completes = match value {
                    Value::File => "_files".to_owned(),
                    Value::Dir => "_files -/".to_owned(),
                    Value::Choice(words) => format!("({})", words.join(" ")),
                    Value::Number | Value::Duration | Value::Text(_) => " ".to_owned(),
                };
                format!(":{}:{completes}", zsh_text(value.name()))
            }
        };
        let repeat = if matches!(flag.takes, table::Takes::Values(_)) { "*" } else { "" };
        for spelling in spellings(flag) {
            let _ = write!(script, " \\\n\t\t\t'{repeat}{spelling}[{}]{action}'", zsh_text(flag.help));
        }
    }
}

fn zsh() -> String {
    let mut script = String::from(
        "#compdef orlop\n# zsh completion of orlop\n_orlop_containers() {\n\tlocal -a ids root\n\
         \t[[ -n ${opt_args[--root]} ]] && root=(--root ${opt_args[--root]})\n\
         \tids=(${(f)\"$(orlop $root list -q 2>/dev/null)\"})\n\tcompadd -a ids\n}\n\
         _orlop() {\n\tlocal curcontext=$curcontext state line\n\ttypeset -A opt_args\n\t_arguments -C",
    );
    zsh_flags(&mut script, GLOBAL);
    script.push_str(" \\\n\t\t\t'1:command:->command' '*::argument:->argument'\n\tcase $state in\n\tcommand)\n\t\tlocal -a commands\n\t\tcommands=(");
    for entry in commands() {
        let _ = write!(script, "\n\t\t\t'{}:{}'", entry.name, zsh_text(entry.about));
    }
    script.push_str("\n\t\t\t'help:show the help of a command'\n\t\t)\n\t\t_describe command commands ;;\n\targument)\n\t\tcase $words[1] in\n");
    for entry in commands() {
        let _ = write!(script, "\t\t{})\n\t\t\t_arguments", entry.name);
        zsh_flags(&mut script, entry.flags);
        if entry.first == First::Container {
            script.push_str(" \\\n\t\t\t'1:container:_orlop_containers'");
        }
        if entry.arguments == Arguments::IdAndCommand {
            script.push_str(" \\\n\t\t\t'*::command: '");
        } else if entry.name == "kill" {
            let _ = write!(script, " \\\n\t\t\t'2:signal:({})'", signals());
        }
        script.push_str(" ;;\n");
    }
    script.push_str("\t\tesac ;;\n\tesac\n}\n_orlop \"$@\"\n");
    script
}

fn fish() -> String {
    let quote = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let names: Vec<_> = commands().map(|entry| entry.name).collect();
    let names = names.join(" ");
    let mut script = String::from("# fish completion of orlop\ncomplete -c orlop -f\n");
    let flags = |script: &mut String, condition: &str, flags: &[&'static Flag]| {
        for flag in shown(flags) {
            let _ = write!(script, "complete -c orlop -n '{condition}' -l {}", flag.name);
            if let Some(short) = flag.short {
                let _ = write!(script, " -s {short}");
            }
            match flag.value() {
                None => {}
                Some(Value::File) => script.push_str(" -r -F"),
                Some(Value::Dir) => script.push_str(" -x -a '(__fish_complete_directories)'"),
                Some(Value::Choice(words)) => {
                    let _ = write!(script, " -x -a '{}'", words.join(" "));
                }
                Some(Value::Number | Value::Duration | Value::Text(_)) => script.push_str(" -x"),
            }
            let _ = writeln!(script, " -d '{}'", quote(flag.help));
        }
    };
    let none = format!("not __fish_seen_subcommand_from {names} help");
    flags(&mut script, &none, GLOBAL);
    for entry in commands() {
        let _ = writeln!(script, "complete -c orlop -n '{none}' -a {} -d '{}'", entry.name, quote(entry.about));
    }
    let _ = writeln!(script, "complete -c orlop -n '{none}' -a help -d 'show the help of a command'");
    let _ = writeln!(script, "complete -c orlop -n '__fish_seen_subcommand_from help' -a '{names}'");
    for entry in commands() {
        let condition = format!("__fish_seen_subcommand_from {}", entry.name);
        flags(&mut script, &condition, entry.flags);
        if entry.first == First::Container {
            let _ =
                writeln!(script, "complete -c orlop -n '{condition}' -a '(orlop list -q 2>/dev/null)' -d container");
        }
        if entry.name == "kill" {
            let _ = writeln!(script, "complete -c orlop -n '{condition}' -a '{}' -d signal", signals());
        }
    }
    script
}
