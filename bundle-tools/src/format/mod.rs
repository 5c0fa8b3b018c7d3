//! What is shown to people and programs: Go's templates with Docker's functions, tables, sizes and ages.
//!
//! `--format` takes what `docker ... --format` takes: `json`, `table`, `table {{.Repository}}\t{{.Size}}`, or a template.

pub mod documents;
mod execute;
mod functions;
mod parse;
mod table;
#[cfg(test)]
mod tests;
pub mod units;
mod value;

use std::borrow::Cow;

pub use table::align;
pub use value::Value;

use crate::error::Result;

/// A template of text/template: all of the language but `define`, `template` and `block`, and of the functions all but
/// `call` and `js`; with Docker's `json`, `join`, `split`, `lower`, `upper`, `title`, `pad` and `truncate`.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    source: String,
    nodes: Vec<parse::Node>,
}

/// What the functions do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Functions {
    /// What they are called.
    Values,
    /// Those that change a text leave it, as the head of a table is made of names.
    Headings,
}

impl Template {
    /// Reads a template. An error has line and column, and so have those of a run.
    pub fn parse(source: &str) -> Result<Self> {
        Ok(Self { source: source.to_owned(), nodes: parse::template(source)? })
    }

    /// What the template prints for `value`.
    pub fn render(&self, value: &Value) -> Result<String> {
        self.run(value, Functions::Values)
    }

    fn run(&self, value: &Value, functions: Functions) -> Result<String> {
        let dot = Cow::Borrowed(value);
        let variables = vec![(String::new(), dot.clone())];
        let mut run = execute::Run { source: &self.source, functions, variables, out: String::new() };
        run.nodes(&self.nodes, &dot)?;
        Ok(run.out)
    }
}

/// How a list is shown.
#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    /// One line of JSON for each.
    Json,
    /// Columns, with a head.
    Table(Template),
    /// One line for each.
    Lines(Template),
}

impl Format {
    /// What `--format` says; `columns` is the template of the table `table`.
    pub fn parse(text: &str, columns: &str) -> Result<Self> {
        match text.trim_matches(' ') {
            "json" => Ok(Self::Json),
            "" | "table" => Ok(Self::Table(Template::parse(columns)?)),
            text => match text.strip_prefix("table ") {
                Some(template) => Ok(Self::Table(Template::parse(template.trim_start_matches(' '))?)),
                None => Ok(Self::Lines(Template::parse(text)?)),
            },
        }
    }

    /// The whole text of `rows`, each line with its end; `headings` names the columns.
    pub fn render(&self, rows: &[Value], headings: &[(&str, &str)]) -> Result<String> {
        let mut out = String::new();
        match self {
            Self::Json => {
                for row in rows {
                    out.push_str(&row.json());
                    out.push('\n');
                }
            }
            Self::Lines(template) => {
                for row in rows {
                    out.push_str(&template.render(row)?);
                    out.push('\n');
                }
            }
            Self::Table(template) => {
                let head = headings.iter().map(|(name, heading)| ((*name).to_owned(), (*heading).into())).collect();
                out.push_str(&template.run(&Value::Map(head), Functions::Headings)?);
                out.push('\n');
                for row in rows {
                    out.push_str(&template.render(row)?);
                    out.push('\n');
                }
                return Ok(align(&out));
            }
        }
        Ok(out)
    }
}
