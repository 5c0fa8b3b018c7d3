//! Reading a template: text and actions become nodes.

use super::value::Value;
use crate::error::{Error, Result};

/// How deep blocks and parentheses may nest.
const MAX_DEPTH: usize = 64;

/// The longest template, in bytes.
const MAX_TEMPLATE: usize = 1 << 20;

/// Where something stands in the template: a byte offset.
pub(super) type At = usize;

/// A part of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// Copied as it is.
    Text(String),
    /// `{{pipeline}}`: printed, unless it sets a variable.
    Print(Pipeline),
    /// `{{if}}`, with the nodes for yes and for no.
    If(Pipeline, Vec<Node>, Vec<Node>),
    /// `{{with}}`.
    With(Pipeline, Vec<Node>, Vec<Node>),
    /// `{{range}}`.
    Range(Pipeline, Vec<Node>, Vec<Node>),
    /// `{{break}}`.
    Break,
    /// `{{continue}}`.
    Continue,
}

/// Commands that hand their value on, and what becomes of the last one's.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pipeline {
    /// Variables that take the value: `$x`, or `$i, $x` in a range.
    pub(super) variables: Vec<String>,
    /// True for `:=`, false for `=`.
    pub(super) declares: bool,
    /// From left to right; never empty.
    pub(super) commands: Vec<Command>,
}

/// An operand, or a function with its arguments.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Command {
    pub(super) at: At,
    pub(super) head: Head,
    pub(super) arguments: Vec<Operand>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Head {
    Function(String),
    Operand(Operand),
}

/// A value to be found, and the fields to follow from it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Operand {
    pub(super) at: At,
    pub(super) start: Start,
    pub(super) fields: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Start {
    /// `.`
    Dot,
    /// `$x`; `$` alone is the variable with the empty name.
    Variable(String),
    Constant(Value),
    /// `(pipeline)`
    Group(Box<Pipeline>),
    /// A function without arguments among the arguments of another.
    Call(String),
}

/// The error at an offset of `source`: `format: 1:7: …`, line and column counted from 1.
pub(super) fn error(source: &str, at: At, what: impl std::fmt::Display) -> Error {
    let before = source.get(..at).unwrap_or(source);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Error::invalid(format!("format: {line}:{column}: {what}"))
}

/// Reads a whole template.
pub(super) fn template(source: &str) -> Result<Vec<Node>> {
    if source.len() > MAX_TEMPLATE {
        return Err(Error::invalid(format!("format: longer than {MAX_TEMPLATE} bytes")));
    }
    let mut parser = Parser {
        source,
        pieces: pieces(source)?.into_iter().peekable(),
        depth: 0,
        ranges: 0,
        scope: vec![String::new()],
    };
    let (nodes, end) = parser.list()?;
    let stray = match end {
        None => return Ok(nodes),
        Some(End::End(at)) => (at, "end"),
        Some(End::Else(at, _)) => (at, "else"),
    };
    Err(error(source, stray.0, format_args!("{} without a block to which it belongs", stray.1)))
}

/// Text, or the tokens of an action.
enum Piece {
    Text(String),
    Action(At, Vec<(At, Token)>),
}

/// Cuts the source at `{{` and `}}`.
fn pieces(source: &str) -> Result<Vec<Piece>> {
    let (mut pieces, mut at) = (Vec::new(), 0);
    // The last action was closed by ` -}}`.
    let mut trim = false;
    loop {
        let rest = source.get(at..).unwrap_or_default();
        let open = rest.find("{{");
        let mut text = rest.get(..open.unwrap_or(rest.len())).unwrap_or_default();
        if trim {
            text = text.trim_start_matches(SPACE);
        }
        let Some(open) = open else {
            if !text.is_empty() {
                pieces.push(Piece::Text(unescaped(text)));
            }
            return Ok(pieces);
        };
        let mut inside = at + open + 2;
        let after = source.get(inside..).unwrap_or_default();
        if after.starts_with('-') && after.get(1..).is_some_and(|after| after.starts_with(SPACE)) {
            text = text.trim_end_matches(SPACE);
            inside += 2;
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(unescaped(text)));
        }
        let action = source.get(inside..).unwrap_or_default();
        if action.starts_with("/*") {
            let Some(end) = action.find("*/") else { return Err(error(source, inside, "the comment has no end")) };
            at = inside + end + 2;
            let closing = source.get(at..).unwrap_or_default();
            let dash = closing.strip_prefix(SPACE).filter(|closing| closing.starts_with("-}}"));
            (trim, at) = match dash {
                Some(_) => (true, at + 4),
                None if closing.starts_with("}}") => (false, at + 2),
                None => {
                    return Err(error(
                        source,
                        at,
                        "the comment does not end its action: */ and }} must follow each other",
                    ));
                }
            };
            continue;
        }
        let action = tokens(source, inside)?;
        pieces.push(Piece::Action(at + open, action.tokens));
        (at, trim) = (action.end, action.trims);
    }
}

/// `\t` and `\n` outside of actions are a tab and an end of line: no shell makes them of what a user types.
fn unescaped(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

/// What counts as space in a template.
const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A name: a function, a keyword, a constant.
    Word(String),
    /// `.Name`, with nothing in front of it or directly behind what it is a field of.
    Field {
        name: String,
        attached: bool,
    },
    Dot,
    Variable(String),
    Constant(Value),
    Open,
    Close,
    Pipe,
    Declare,
    Assign,
    Comma,
}

/// An action that began at some offset.
struct Action {
    tokens: Vec<(At, Token)>,
    /// Where the text behind it begins.
    end: At,
    /// Whether it ends in ` -}}`.
    trims: bool,
}

/// The action whose content begins at `start`.
fn tokens(source: &str, start: At) -> Result<Action> {
    let mut tokens: Vec<(At, Token)> = Vec::new();
    let mut at = start;
    loop {
        let rest = source.get(at..).unwrap_or_default();
        let spaces = rest.len() - rest.trim_start_matches(SPACE).len();
        at += spaces;
        let rest = source.get(at..).unwrap_or_default();
        if rest.starts_with("}}") {
            return Ok(Action { tokens, end: at + 2, trims: false });
        }
        if spaces > 0 && rest.starts_with("-}}") {
            return Ok(Action { tokens, end: at + 3, trims: true });
        }
        let Some(first) = rest.chars().next() else {
            return Err(error(source, start, "the action has no end: }} is missing"));
        };
        let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        let behind = |n: usize| rest.get(n..).unwrap_or_default();
        let (token, length) = match first {
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '|' => (Token::Pipe, 1),
            ',' => (Token::Comma, 1),
            '=' => (Token::Assign, 1),
            ':' if rest.starts_with(":=") => (Token::Declare, 2),
            '$' => {
                let name = name(behind(1));
                let length = 1 + name.len();
                (Token::Variable(name), length)
            }
            '.' if !behind(1).starts_with(|c: char| c.is_ascii_digit()) => {
                let name = name(behind(1));
                let length = 1 + name.len();
                let whole = matches!(
                    tokens.last(),
                    Some((_, Token::Close | Token::Field { .. } | Token::Variable(_) | Token::Word(_)))
                );
                let attached = spaces == 0 && whole;
                (if name.is_empty() { Token::Dot } else { Token::Field { name, attached } }, length)
            }
            '"' => {
                let (text, length) = quoted(source, at)?;
                (Token::Constant(Value::Text(text)), length)
            }
            '`' => {
                let Some(end) = behind(1).find('`') else { return Err(error(source, at, "the string has no end")) };
                (Token::Constant(Value::Text(behind(1).get(..end).unwrap_or_default().to_owned())), end + 2)
            }
            '\'' => {
                let (text, length) = quoted(source, at)?;
                let mut chars = text.chars();
                let (Some(c), None) = (chars.next(), chars.next()) else {
                    return Err(error(source, at, "not one character between the quotes"));
                };
                (Token::Constant(Value::Int(i64::from(u32::from(c)))), length)
            }
            '0'..='9' | '+' | '-' | '.' => {
                let text: String =
                    rest.chars().take_while(|c| c.is_ascii_alphanumeric() || "+-._".contains(*c)).collect();
                let value = number(&text).ok_or_else(|| error(source, at, format_args!("bad number {text:?}")))?;
                (Token::Constant(value), text.len())
            }
            c if c.is_alphabetic() || c == '_' => {
                let name = name(rest);
                let length = name.len();
                (Token::Word(name), length)
            }
            c => return Err(error(source, at, format_args!("unexpected {c:?} in an action"))),
        };
        tokens.push((at, token));
        at += length;
    }
}

fn number(text: &str) -> Option<Value> {
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let lower = digits.to_ascii_lowercase();
    for (prefix, radix) in [("0x", 16), ("0b", 2), ("0o", 8)] {
        if let Some(digits) = lower.strip_prefix(prefix) {
            return i64::from_str_radix(&format!("{sign}{digits}"), radix).ok().map(Value::Int);
        }
    }
    if let Ok(n) = format!("{sign}{digits}").parse() {
        return Some(Value::Int(n));
    }
    // Rust also reads `inf` and `nan`, which are names here.
    let starts = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    starts.then(|| format!("{sign}{digits}").parse().ok().map(Value::Float))?
}

/// The content of the string whose quote stands at `at`, and its length in the source.
fn quoted(source: &str, at: At) -> Result<(String, usize)> {
    let rest = source.get(at..).unwrap_or_default();
    let mut chars = rest.char_indices();
    let quote = chars.next().map_or('"', |(_, quote)| quote);
    let mut text = String::new();
    while let Some((offset, c)) = chars.next() {
        match c {
            c if c == quote => return Ok((text, offset + 1)),
            '\n' => break,
            '\\' => {
                let wrong = || error(source, at + offset, "unknown escape in a string");
                let (_, escape) = chars.next().ok_or_else(wrong)?;
                let mut code = |digits: usize, radix: u32| -> Option<char> {
                    let mut code = 0u32;
                    for _ in 0..digits {
                        let (_, digit) = chars.next()?;
                        code = code.checked_mul(radix)?.checked_add(digit.to_digit(radix)?)?;
                    }
                    char::from_u32(code)
                };
                text.push(match escape {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    'a' => '\x07',
                    'b' => '\x08',
                    'f' => '\x0c',
                    'v' => '\x0b',
                    '\\' | '"' | '\'' => escape,
                    'x' => code(2, 16).ok_or_else(wrong)?,
                    'u' => code(4, 16).ok_or_else(wrong)?,
                    'U' => code(8, 16).ok_or_else(wrong)?,
                    _ => return Err(wrong()),
                });
            }
            c => text.push(c),
        }
    }
    Err(error(source, at, "the string has no end"))
}

struct Parser<'a> {
    source: &'a str,
    pieces: std::iter::Peekable<std::vec::IntoIter<Piece>>,
    depth: usize,
    /// How many ranges are open: `break` and `continue` need one.
    ranges: usize,
    /// The variables that are known here.
    scope: Vec<String>,
}

/// The keyword that ended a list of nodes: `end`, or `else` with what follows it.
enum End {
    End(At),
    Else(At, Tokens),
}

type Tokens = std::iter::Peekable<std::vec::IntoIter<(At, Token)>>;

impl Parser<'_> {
    fn error(&self, at: At, what: impl std::fmt::Display) -> Error {
        error(self.source, at, what)
    }

    /// The nodes up to an `end` or `else` that is not theirs, and that.
    fn list(&mut self) -> Result<(Vec<Node>, Option<End>)> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (at, tokens) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(at, tokens) => (at, tokens),
            };
            let mut tokens = tokens.into_iter().peekable();
            let keyword = match tokens.peek() {
                Some((_, Token::Word(word))) => word.clone(),
                _ => String::new(),
            };
            match keyword.as_str() {
                "end" => {
                    tokens.next();
                    self.done(tokens)?;
                    return Ok((nodes, Some(End::End(at))));
                }
                "else" => {
                    tokens.next();
                    return Ok((nodes, Some(End::Else(at, tokens))));
                }
                "if" | "with" | "range" => {
                    tokens.next();
                    nodes.push(self.block(at, &keyword, tokens)?);
                }
                "break" | "continue" => {
                    tokens.next();
                    self.done(tokens)?;
                    if self.ranges == 0 {
                        return Err(self.error(at, format_args!("{keyword} outside of a range")));
                    }
                    nodes.push(if keyword == "break" { Node::Break } else { Node::Continue });
                }
                "define" | "template" | "block" => {
                    return Err(self.error(at, format_args!("{keyword} is not supported")));
                }
                _ => nodes.push(Node::Print(self.action(at, tokens, 1)?)),
            }
        }
        Ok((nodes, None))
    }

    fn done(&self, mut tokens: Tokens) -> Result<()> {
        match tokens.next() {
            None => Ok(()),
            Some((at, _)) => Err(self.error(at, "nothing may follow here")),
        }
    }

    fn block(&mut self, at: At, keyword: &str, tokens: Tokens) -> Result<Node> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error(at, format_args!("nested deeper than {MAX_DEPTH}")));
        }
        let known = self.scope.len();
        let is_range = keyword == "range";
        let pipeline = self.action(at, tokens, if is_range { 2 } else { 1 })?;
        self.ranges += usize::from(is_range);
        let (yes, end) = self.list()?;
        self.ranges -= usize::from(is_range);
        let no = match end {
            Some(End::End(_)) => Vec::new(),
            None => return Err(self.error(at, format_args!("{keyword} without its end"))),
            Some(End::Else(_, mut tokens)) => match tokens.peek() {
                None => {
                    let (no, end) = self.list()?;
                    match end {
                        Some(End::End(_)) => no,
                        Some(End::Else(at, _)) => return Err(self.error(at, "a second else")),
                        None => return Err(self.error(at, "else without its end")),
                    }
                }
                // `else if` and `else with` end together with the block that they continue.
                Some((_, Token::Word(word))) if (word == "if" || word == "with") && word == keyword => {
                    tokens.next();
                    vec![self.block(at, keyword, tokens)?]
                }
                Some((at, _)) => return Err(self.error(*at, "nothing may follow here")),
            },
        };
        self.depth -= 1;
        self.scope.truncate(known);
        Ok(match keyword {
            "if" => Node::If(pipeline, yes, no),
            "with" => Node::With(pipeline, yes, no),
            _ => Node::Range(pipeline, yes, no),
        })
    }

    /// The pipeline that is all of an action, and may set up to `most` variables.
    fn action(&mut self, at: At, mut tokens: Tokens, most: usize) -> Result<Pipeline> {
        let pipeline = self.pipeline(at, &mut tokens, most)?;
        match tokens.next() {
            None => Ok(pipeline),
            Some((at, Token::Close)) => Err(self.error(at, "unexpected )")),
            Some((at, _)) => Err(self.error(at, "unexpected here")),
        }
    }

    fn pipeline(&mut self, at: At, tokens: &mut Tokens, most: usize) -> Result<Pipeline> {
        let mut pipeline = Pipeline { variables: Vec::new(), declares: false, commands: Vec::new() };
        let mut ahead = tokens.clone();
        while let Some((_, Token::Variable(name))) = ahead.next() {
            pipeline.variables.push(name);
            match ahead.next() {
                Some((_, Token::Comma)) if pipeline.variables.len() < most => {}
                Some((at, token @ (Token::Declare | Token::Assign))) => {
                    pipeline.declares = token == Token::Declare;
                    let unknown = |name: &&String| !self.scope.contains(name);
                    match pipeline.variables.iter().find(unknown) {
                        Some(name) if !pipeline.declares => {
                            return Err(self.error(at, format_args!("variable ${name} is not declared")));
                        }
                        _ => {}
                    }
                    *tokens = ahead;
                    break;
                }
                _ => {
                    pipeline.variables.clear();
                    break;
                }
            }
        }
        loop {
            let command = self.command(at, tokens)?;
            pipeline.commands.push(command);
            match tokens.peek() {
                Some((_, Token::Pipe)) => tokens.next(),
                _ => break,
            };
        }
        for command in pipeline.commands.iter().skip(1) {
            if !matches!(command.head, Head::Function(_)) {
                return Err(self.error(command.at, "a value is piped into what is not a function"));
            }
        }
        // Known from here on, and not in its own value.
        if pipeline.declares {
            self.scope.extend(pipeline.variables.iter().cloned());
        }
        Ok(pipeline)
    }

    fn command(&mut self, at: At, tokens: &mut Tokens) -> Result<Command> {
        let at = tokens.peek().map_or(at, |(at, _)| *at);
        let function = match tokens.peek() {
            Some((_, Token::Word(word))) if !is_constant(word) => Some(word.clone()),
            _ => None,
        };
        let head = match function {
            Some(name) => {
                tokens.next();
                if !super::functions::NAMES.contains(&name.as_str()) {
                    return Err(self.error(at, format_args!("function {name:?} is not known")));
                }
                Head::Function(name)
            }
            None => match self.operand(tokens)? {
                Some(Operand { start: Start::Constant(Value::Null(_)), .. }) => {
                    return Err(self.error(at, "nil stands alone"));
                }
                Some(operand) => Head::Operand(operand),
                None => return Err(self.error(at, "a value or a function is missing")),
            },
        };
        let mut arguments = Vec::new();
        while let Some(operand) = self.operand(tokens)? {
            arguments.push(operand);
        }
        if let (Head::Operand(_), Some(first)) = (&head, arguments.first()) {
            return Err(self.error(first.at, "what stands in front is not a function and takes no arguments"));
        }
        Ok(Command { at, head, arguments })
    }

    fn operand(&mut self, tokens: &mut Tokens) -> Result<Option<Operand>> {
        let Some((at, token)) = tokens.peek().cloned() else { return Ok(None) };
        let mut fields = Vec::new();
        let start = match token {
            Token::Dot => Start::Dot,
            Token::Field { name, .. } => {
                fields.push(name);
                Start::Dot
            }
            Token::Variable(name) => {
                if !self.scope.contains(&name) {
                    return Err(self.error(at, format_args!("variable ${name} is not declared")));
                }
                Start::Variable(name)
            }
            Token::Constant(value) => Start::Constant(value),
            Token::Word(word) => match word.as_str() {
                "true" => Start::Constant(Value::Bool(true)),
                "false" => Start::Constant(Value::Bool(false)),
                "nil" => Start::Constant(Value::Null("<nil>")),
                name if super::functions::NAMES.contains(&name) => Start::Call(word),
                _ => return Err(self.error(at, format_args!("function {word:?} is not known"))),
            },
            Token::Open => {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return Err(self.error(at, format_args!("nested deeper than {MAX_DEPTH}")));
                }
                tokens.next();
                let group = self.pipeline(at, tokens, 0)?;
                if !matches!(tokens.peek(), Some((_, Token::Close))) {
                    return Err(self.error(at, "( without its )"));
                }
                self.depth -= 1;
                Start::Group(Box::new(group))
            }
            _ => return Ok(None),
        };
        tokens.next();
        while let Some((_, Token::Field { name, attached: true })) = tokens.peek() {
            fields.push(name.clone());
            tokens.next();
        }
        Ok(Some(Operand { at, start, fields }))
    }
}

fn is_constant(word: &str) -> bool {
    matches!(word, "true" | "false" | "nil")
}
