//! As much of TOML as a list of settings needs: keys before any table, with strings, booleans and integers. The rest of
//! the language is read over.

use std::iter::Peekable;
use std::str::Chars;

/// What a key is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A string.
    Text(String),
    /// A boolean.
    Flag(bool),
    /// An integer, in decimal.
    Number(i64),
    /// Anything else.
    Other,
}

/// The keys of a document that are in no table, in their order.
///
/// # Errors
/// The number of the line that is no TOML, from 1.
pub fn settings(text: &str) -> Result<Vec<(String, Value)>, usize> {
    let mut reader = Reader { rest: text.chars().peekable(), line: 1 };
    reader.settings().ok_or(reader.line)
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
}

impl Reader<'_> {
    fn settings(&mut self) -> Option<Vec<(String, Value)>> {
        let mut settings = Vec::new();
        loop {
            self.skip_lines();
            // What follows a table's header is the table's.
            if matches!(self.rest.peek(), None | Some('[')) {
                return Some(settings);
            }
            let key = self.key()?;
            self.skip_blanks();
            if self.rest.peek() == Some(&'.') {
                // A part of a table, too.
                self.rest.find(|character| *character == '=')?;
                self.value()?;
            } else {
                self.expect('=')?;
                settings.push((key, self.value()?));
            }
            self.skip_blanks();
            self.skip_comment();
            if self.rest.peek().is_some_and(|next| *next != '\n') {
                return None;
            }
        }
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    fn expect(&mut self, wanted: char) -> Option<()> {
        self.rest.next_if_eq(&wanted).map(drop)
    }

    fn skip_blanks(&mut self) {
        while self.rest.next_if(|next| matches!(next, ' ' | '\t' | '\r')).is_some() {}
    }

    fn skip_comment(&mut self) {
        if self.rest.peek() == Some(&'#') {
            while self.rest.next_if(|next| *next != '\n').is_some() {}
        }
    }

    fn skip_lines(&mut self) {
        loop {
            self.skip_blanks();
            self.skip_comment();
            if self.rest.peek() != Some(&'\n') {
                return;
            }
            self.next();
        }
    }

    fn key(&mut self) -> Option<String> {
        if let Some(quote) = self.rest.next_if(|next| matches!(next, '"' | '\'')) {
            return self.line_of_text(quote);
        }
        let mut key = String::new();
        while let Some(next) = self.rest.next_if(|next| next.is_ascii_alphanumeric() || matches!(next, '_' | '-')) {
            key.push(next);
        }
        (!key.is_empty()).then_some(key)
    }

    fn value(&mut self) -> Option<Value> {
        self.skip_blanks();
        match *self.rest.peek()? {
            quote @ ('"' | '\'') => {
                self.next();
                self.text(quote)
            }
            '[' | '{' => self.brackets(),
            _ => {
                let mut word = String::new();
                while let Some(next) = self.rest.next_if(|next| !matches!(next, '\n' | '#' | ',' | ']' | '}')) {
                    word.push(next);
                }
                match word.trim_end() {
                    "" => None,
                    "true" => Some(Value::Flag(true)),
                    "false" => Some(Value::Flag(false)),
                    word => Some(word.replace('_', "").parse().map_or(Value::Other, Value::Number)),
                }
            }
        }
    }

    /// A string, after its first quote.
    fn text(&mut self, quote: char) -> Option<Value> {
        if self.rest.next_if_eq(&quote).is_none() {
            return self.line_of_text(quote).map(Value::Text);
        }
        if self.rest.next_if_eq(&quote).is_none() {
            return Some(Value::Text(String::new()));
        }
        // Three of them: a text of many lines, which none of the settings is.
        let mut quotes = 0;
        while quotes < 3 {
            match self.next()? {
                '\\' if quote == '"' => drop(self.next()?),
                next if next == quote => {
                    quotes += 1;
                    continue;
                }
                _ => {}
            }
            quotes = 0;
        }
        while self.rest.next_if_eq(&quote).is_some() {}
        Some(Value::Other)
    }

    fn line_of_text(&mut self, quote: char) -> Option<String> {
        let mut text = String::new();
        loop {
            text.push(match self.next()? {
                next if next == quote => return Some(text),
                '\n' => return None,
                '\\' if quote == '"' => match self.next()? {
                    'b' => '\u{8}',
                    't' => '\t',
                    'n' => '\n',
                    'f' => '\u{c}',
                    'r' => '\r',
                    'u' => self.code(4)?,
                    'U' => self.code(8)?,
                    same @ ('"' | '\\') => same,
                    _ => return None,
                },
                next => next,
            });
        }
    }

    fn code(&mut self, digits: usize) -> Option<char> {
        (0..digits).try_fold(0u32, |code, _| Some(code << 4 | self.next()?.to_digit(16)?)).and_then(char::from_u32)
    }

    /// An array or a table in a line, with whatever is in it.
    fn brackets(&mut self) -> Option<Value> {
        let mut depth = 0u32;
        loop {
            self.skip_comment();
            match self.next()? {
                '[' | '{' => depth += 1,
                ']' | '}' => depth -= 1,
                quote @ ('"' | '\'') => drop(self.text(quote)?),
                _ => {}
            }
            if depth == 0 {
                return Some(Value::Other);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_the_rest_is_read_over() {
        let text = r##"
# comment
Root = "/x" # why
  "SystemdCgroup"=true
IoUid =	1_000
Path = 'C:\new'
Escaped = "a\"b\\\u00e9\t#"
Empty = ""
list = [ 1, "]", # ]
  [2] ]
inline = { a = "}", b = { } }
long = """
Root = "/evil"
\""" """"
raw = '''
Root = "/evil"
'''
date = 1979-05-27
float = 1.5
a.Root = "/evil"
Last = false
[table]
Root = "/evil"
"##;
        let text_of = |text: &str| Value::Text(text.into());
        let want = [
            ("Root", text_of("/x")),
            ("SystemdCgroup", Value::Flag(true)),
            ("IoUid", Value::Number(1000)),
            ("Path", text_of(r"C:\new")),
            ("Escaped", text_of("a\"b\\é\t#")),
            ("Empty", text_of("")),
            ("list", Value::Other),
            ("inline", Value::Other),
            ("long", Value::Other),
            ("raw", Value::Other),
            ("date", Value::Other),
            ("float", Value::Other),
            ("Last", Value::Flag(false)),
        ];
        let want: Vec<_> = want.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        assert_eq!(settings(text), Ok(want));
        assert_eq!(settings(""), Ok(vec![]));
        assert_eq!(settings("A = 1\r\nB = true\r\n").unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_toml_is_told_with_its_line() {
        for (text, line) in [
            ("Root", 1),
            ("A = 1\nRoot = \"/x", 2),
            ("Root = \"/x\" junk", 1),
            ("\n= 1", 2),
            ("Root =\n", 1),
            ("Root = \"\\q\"", 1),
            ("Root = \"\\ud800\"", 1),
            ("a = [1", 1),
            ("a = \"\"\"\nx", 2),
        ] {
            assert_eq!(settings(text), Err(line), "{text:?}");
        }
    }
}
