//! Running a template over a value.

#![allow(
    clippy::ptr_arg,
    reason = "`.` must be known as borrowed, so that what is taken out of it is borrowed as well"
)]

use std::borrow::Cow;

use super::parse::{self, At, Command, Head, Node, Operand, Pipeline, Start};
use super::value::Value;
use super::{Functions, functions};
use crate::error::{Error, Result};

/// What a run knows.
pub(super) struct Run<'a> {
    pub(super) source: &'a str,
    pub(super) functions: Functions,
    /// What `$x` names, the newest last; the first is `$`.
    pub(super) variables: Vec<(String, Cow<'a, Value>)>,
    pub(super) out: String,
}

/// What comes after a node.
#[derive(PartialEq)]
pub(super) enum Then {
    Next,
    Break,
    Continue,
}

impl<'a> Run<'a> {
    fn error(&self, at: At, what: impl std::fmt::Display) -> Error {
        parse::error(self.source, at, what)
    }

    /// Appends what `nodes` print when `.` is `dot`.
    pub(super) fn nodes(&mut self, nodes: &'a [Node], dot: &Cow<'a, Value>) -> Result<Then> {
        for node in nodes {
            let known = self.variables.len();
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Print(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        self.out.push_str(&functions::print(&value));
                    } else {
                        self.set(pipeline, value);
                    }
                }
                Node::If(pipeline, yes, no) | Node::With(pipeline, yes, no) => {
                    let value = self.pipeline(pipeline, dot)?;
                    self.set(pipeline, value.clone());
                    let is_with = matches!(node, Node::With(..));
                    let then = match value.truth() {
                        true if is_with => self.nodes(yes, &value)?,
                        true => self.nodes(yes, dot)?,
                        false => self.nodes(no, dot)?,
                    };
                    self.variables.truncate(known);
                    if then != Then::Next {
                        return Ok(then);
                    }
                }
                Node::Range(pipeline, body, no) => {
                    let then = self.range(pipeline, body, no, dot)?;
                    self.variables.truncate(known);
                    if then != Then::Next {
                        return Ok(then);
                    }
                }
                Node::Break => return Ok(Then::Break),
                Node::Continue => return Ok(Then::Continue),
            }
        }
        Ok(Then::Next)
    }

    fn range(
        &mut self,
        pipeline: &'a Pipeline,
        body: &'a [Node],
        no: &'a [Node],
        dot: &Cow<'a, Value>,
    ) -> Result<Then> {
        let at = pipeline.commands.first().map_or(0, |command| command.at);
        let items: Vec<(Value, Cow<'a, Value>)> = match self.pipeline(pipeline, dot)? {
            Cow::Borrowed(Value::List(items)) => {
                items.iter().enumerate().map(|(n, item)| (n.into(), Cow::Borrowed(item))).collect()
            }
            Cow::Borrowed(Value::Map(map)) => {
                map.iter().map(|(key, value)| (key.as_str().into(), Cow::Borrowed(value))).collect()
            }
            other => match other.into_owned() {
                Value::List(items) => items.into_iter().enumerate().map(|(n, v)| (n.into(), Cow::Owned(v))).collect(),
                Value::Map(map) => map.into_iter().map(|(key, v)| (key.into(), Cow::Owned(v))).collect(),
                Value::Record(fields) => fields.into_iter().map(|(key, v)| (key.into(), Cow::Owned(v))).collect(),
                Value::Null(_) | Value::Absent => Vec::new(),
                Value::Int(n) => {
                    if n > 1_000_000 {
                        return Err(self.error(at, "range over more than a million"));
                    }
                    (0..n).map(|n| (n.into(), Cow::Owned(n.into()))).collect()
                }
                other => return Err(self.error(at, format_args!("range over {}", other.kind()))),
            },
        };
        if items.is_empty() {
            return self.nodes(no, dot);
        }
        let known = self.variables.len();
        for (key, item) in items {
            match pipeline.variables.as_slice() {
                [] => {}
                [value] => self.assign(value, pipeline.declares, item.clone()),
                [index, value, ..] => {
                    self.assign(index, pipeline.declares, Cow::Owned(key));
                    self.assign(value, pipeline.declares, item.clone());
                }
            }
            let then = self.nodes(body, &item)?;
            self.variables.truncate(known);
            if then == Then::Break {
                break;
            }
        }
        Ok(Then::Next)
    }

    fn set(&mut self, pipeline: &'a Pipeline, value: Cow<'a, Value>) {
        if let Some(name) = pipeline.variables.first() {
            self.assign(name, pipeline.declares, value);
        }
    }

    fn assign(&mut self, name: &str, declares: bool, value: Cow<'a, Value>) {
        match self.variables.iter_mut().rev().find(|(have, _)| have == name) {
            Some((_, old)) if !declares => *old = value,
            _ => self.variables.push((name.to_owned(), value)),
        }
    }

    fn pipeline(&mut self, pipeline: &'a Pipeline, dot: &Cow<'a, Value>) -> Result<Cow<'a, Value>> {
        let mut piped = None;
        for command in &pipeline.commands {
            piped = Some(self.command(command, dot, piped)?);
        }
        Ok(piped.unwrap_or(Cow::Owned(Value::Absent)))
    }

    fn command(
        &mut self,
        command: &'a Command,
        dot: &Cow<'a, Value>,
        piped: Option<Cow<'a, Value>>,
    ) -> Result<Cow<'a, Value>> {
        let name = match &command.head {
            Head::Operand(operand) => return self.operand(operand, dot),
            Head::Function(name) => name,
        };
        // `and` and `or` look at no more than they need.
        if name == "and" || name == "or" {
            let mut last = None;
            for operand in &command.arguments {
                let value = self.operand(operand, dot)?;
                if value.truth() == (name == "or") {
                    return Ok(value);
                }
                last = Some(value);
            }
            let last = piped.or(last);
            return last.ok_or_else(|| self.error(command.at, format_args!("{name} has nothing to look at")));
        }
        let mut arguments = Vec::with_capacity(command.arguments.len() + 1);
        for operand in &command.arguments {
            arguments.push(self.operand(operand, dot)?.into_owned());
        }
        arguments.extend(piped.map(Cow::into_owned));
        let value = functions::call(name, arguments, self.functions);
        value.map(Cow::Owned).map_err(|what| self.error(command.at, format_args!("{name}: {what}")))
    }

    fn operand(&mut self, operand: &'a Operand, dot: &Cow<'a, Value>) -> Result<Cow<'a, Value>> {
        let mut value = match &operand.start {
            Start::Dot => dot.clone(),
            Start::Constant(value) => Cow::Borrowed(value),
            Start::Group(pipeline) => self.pipeline(pipeline, dot)?,
            Start::Variable(name) => {
                let known = self.variables.iter().rev().find(|(have, _)| have == name);
                known.map_or(Cow::Owned(Value::Absent), |(_, value)| value.clone())
            }
            Start::Call(name) => {
                let called = functions::call(name, Vec::new(), self.functions);
                Cow::Owned(called.map_err(|what| self.error(operand.at, format_args!("{name}: {what}")))?)
            }
        };
        for name in &operand.fields {
            let kind = value.kind();
            let field = match value {
                Cow::Borrowed(value) => value.field(name).map(Cow::Borrowed),
                Cow::Owned(value) => value.field(name).cloned().map(Cow::Owned),
            };
            value = field.ok_or_else(|| self.error(operand.at, format_args!("there is no .{name} in {kind}")))?;
        }
        Ok(value)
    }
}
