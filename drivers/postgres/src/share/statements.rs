//! Statements in what `pg_dump` writes, told apart as `psql` does.
//!
//! Source: PostgreSQL 18, src/fe_utils/psqlscan.l: quotes, comments, parentheses, and the bodies of
//! functions between `BEGIN ATOMIC` and `END`.

use stillpoint_contract::{Error, ErrorKind, Result, code};

/// The longest statement.
const STATEMENT_BYTES_MAX: usize = 256 << 20;

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A statement, without its semicolon.
    Statement(String),
    /// Go on in this database.
    Connect,
}

/// Reads lines, and hands out statements.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    buffer: Vec<u8>,
    /// What of the buffer has been looked at.
    place: Inside,
    depth: usize,
    body: Body,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Inside {
    #[default]
    Nothing,
    /// In quotes: which, and whether a backslash escapes.
    Quotes(u8, bool),
    /// Between tags such as `$_$`.
    Dollars(Vec<u8>),
    Line,
    Block(usize),
}

/// How deep in the body of a function, and the words that lead to one.
#[derive(Debug, Default)]
struct Body {
    words: Vec<u8>,
    depth: usize,
}

impl Body {
    fn word(&mut self, word: &[u8], is_outside: bool) {
        let word = word.to_ascii_lowercase();
        if self.words.len() < 4 {
            let known: [&[u8]; 5] = [b"create", b"or", b"replace", b"function", b"procedure"];
            self.words.push(if known.contains(&word.as_slice()) { word[0] } else { b' ' });
        }
        let is_routine = matches!(
            self.words.as_slice(),
            [b'c', b'f' | b'p', ..] | [b'c', b'o', b'r', b'f' | b'p', ..]
        );
        match word.as_slice() {
            b"begin" if is_routine && is_outside => self.depth += 1,
            b"case" if self.depth > 0 && is_outside => self.depth += 1,
            b"end" if is_outside => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

impl Splitter {
    /// Takes a line with its line feed, and returns what ends in it.
    pub(super) fn line(&mut self, line: &[u8]) -> Result<Vec<Piece>> {
        if self.buffer.is_empty() && line.first() == Some(&b'\\') {
            let is_connect = line.starts_with(b"\\connect ");
            return Ok(is_connect.then_some(Piece::Connect).into_iter().collect());
        }
        if self.buffer.len() + line.len() > STATEMENT_BYTES_MAX {
            return Err(Error::new(ErrorKind::Exhausted, code::LACKING_TARGET, "read a statement")
                .with("limit", format!("{} MiB", STATEMENT_BYTES_MAX >> 20)));
        }
        let mut found = Vec::new();
        let mut at = 0;
        while at < line.len() {
            at = self.step(line, at, &mut found)?;
        }
        if self.place == Inside::Line {
            self.place = Inside::Nothing;
        }
        Ok(found)
    }

    /// Whether everything that was begun has ended.
    pub(super) fn is_done(&self) -> bool {
        self.buffer.is_empty()
    }

    fn step(&mut self, line: &[u8], at: usize, found: &mut Vec<Piece>) -> Result<usize> {
        let (rest, byte) = (&line[at..], line[at]);
        let mut taken = 1;
        match self.place.clone() {
            Inside::Line => return Ok(line.len()),
            Inside::Block(depth) => {
                if rest.starts_with(b"*/") {
                    taken = 2;
                    self.place =
                        if depth == 1 { Inside::Nothing } else { Inside::Block(depth - 1) };
                } else if rest.starts_with(b"/*") {
                    taken = 2;
                    self.place = Inside::Block(depth + 1);
                }
                return Ok(at + taken);
            }
            Inside::Quotes(quote, escapes) => {
                if byte == b'\\' && escapes {
                    taken = rest.len().min(2);
                } else if byte == quote {
                    // Two of them end and begin again.
                    self.place = Inside::Nothing;
                }
            }
            Inside::Dollars(tag) => {
                if rest.starts_with(&tag) {
                    taken = tag.len();
                    self.place = Inside::Nothing;
                }
            }
            Inside::Nothing => return self.outside(line, at, found),
        }
        self.buffer.extend_from_slice(&rest[..taken]);
        Ok(at + taken)
    }

    fn outside(&mut self, line: &[u8], at: usize, found: &mut Vec<Piece>) -> Result<usize> {
        let (rest, byte) = (&line[at..], line[at]);
        let mut taken = 1;
        match byte {
            _ if rest.starts_with(b"--") => {
                self.place = Inside::Line;
                return Ok(line.len());
            }
            _ if rest.starts_with(b"/*") => {
                self.place = Inside::Block(1);
                return Ok(at + 2);
            }
            b';' if self.depth == 0 && self.body.depth == 0 => {
                let bytes = std::mem::take(&mut self.buffer);
                self.body = Body::default();
                let text = String::from_utf8(bytes).map_err(|cause| {
                    Error::new(ErrorKind::Unsupported, code::LACKING_TARGET, "read a statement")
                        .caused_by(cause)
                })?;
                found.push(Piece::Statement(text.trim_end().to_owned()));
                return Ok(at + 1);
            }
            _ if self.buffer.is_empty() && byte.is_ascii_whitespace() => return Ok(at + 1),
            b'\'' | b'"' => {
                let before = self.buffer.as_slice();
                let marks = before.last().is_some_and(|b| matches!(b, b'e' | b'E'));
                let is_alone = before.len() < 2 || !is_letter(before[before.len() - 2]);
                self.place = Inside::Quotes(byte, byte == b'\'' && marks && is_alone);
            }
            b'(' => self.depth += 1,
            b')' => self.depth = self.depth.saturating_sub(1),
            b'$' => {
                if let Some(tag) = dollar_tag(rest) {
                    taken = tag.len();
                    self.place = Inside::Dollars(tag.to_vec());
                }
            }
            _ if is_letter(byte) => {
                taken = rest.iter().position(|b| !is_letter(*b)).unwrap_or(rest.len());
                self.body.word(&rest[..taken], self.depth == 0);
            }
            _ => {}
        }
        self.buffer.extend_from_slice(&rest[..taken]);
        Ok(at + taken)
    }
}

/// `$$` or `$tag$`.
fn dollar_tag(rest: &[u8]) -> Option<&[u8]> {
    let end = rest[1..].iter().position(|byte| *byte == b'$')? + 2;
    let tag = &rest[1..end - 1];
    let is_tag = tag.iter().all(|b| is_letter(*b) && *b != b'$')
        && !tag.first().is_some_and(u8::is_ascii_digit);
    is_tag.then_some(&rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<String> {
        let mut splitter = Splitter::default();
        let lines = text.split_inclusive('\n');
        let found = lines.flat_map(|line| splitter.line(line.as_bytes()).unwrap());
        let found = found.map(|piece| match piece {
            Piece::Statement(text) => text,
            Piece::Connect => "CONNECT".to_owned(),
        });
        let found = found.collect();
        assert!(splitter.is_done(), "{splitter:?}");
        found
    }

    #[test]
    fn statements_end_where_psql_ends_them() {
        for (text, statements) in [
            ("\\restrict x\n--\n-- Name: a; Type: b\n--\n\nSET a = 1;\n", vec!["SET a = 1"]),
            ("COMMENT ON t IS 'a;\n-- b''c;';\nX;\n", vec!["COMMENT ON t IS 'a;\n-- b''c;'", "X"]),
            ("A E'\\';' ;B 'x\\';\n", vec!["A E'\\';'", "B 'x\\'"]),
            ("T \"a;\"\"b\" (d DEFAULT ';');\n", vec!["T \"a;\"\"b\" (d DEFAULT ';')"]),
            (
                "CREATE FUNCTION f() AS $_$ a; $$ b; $$ $_$;\n\\connect x\nB;\n",
                vec!["CREATE FUNCTION f() AS $_$ a; $$ b; $$ $_$", "CONNECT", "B"],
            ),
            ("CREATE RULE r DO ( A; B );\nC;\n", vec!["CREATE RULE r DO ( A; B )", "C"]),
            (
                "CREATE OR REPLACE FUNCTION f()\n BEGIN ATOMIC\n SELECT CASE WHEN a THEN b END;\n\
                 SELECT 2;\nEND;\nD;\n",
                vec![
                    "CREATE OR REPLACE FUNCTION f()\n BEGIN ATOMIC\n SELECT CASE WHEN a THEN b \
                     END;\nSELECT 2;\nEND",
                    "D",
                ],
            ),
            ("A /* ; /* ' */ ; */ B;\n", vec!["A  B"]),
            ("A $1 a$b$c;\nB;\n", vec!["A $1 a$b$c", "B"]),
        ] {
            assert_eq!(split(text), statements, "{text}");
        }
    }
}
