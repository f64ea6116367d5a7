//! Definitions as SQLite keeps them: another name for an index, and no references to tables that
//! stay behind. Whatever else there is to rewrite, SQLite rewrites itself.
//!
//! Source: <https://www.sqlite.org/lang_createtable.html>, foreign-key-clause.

use std::ops::Range;

/// A piece of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    at: Range<usize>,
    /// A word in small letters, a name without its quotes, or a sign.
    text: String,
    is_quoted: bool,
    depth: usize,
}

impl Token {
    fn is(&self, word: &str) -> bool {
        !self.is_quoted && self.text == word
    }
}

fn tokens(sql: &str) -> Vec<Token> {
    let bytes = sql.as_bytes();
    let (mut at, mut depth, mut found) = (0, 0_usize, Vec::new());
    while at < bytes.len() {
        let rest = &sql[at..];
        let byte = bytes[at];
        if byte.is_ascii_whitespace() {
            at += 1;
            continue;
        }
        if rest.starts_with("--") {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        }
        if rest.starts_with("/*") {
            at += rest.find("*/").map_or(rest.len(), |end| end + 2);
            continue;
        }
        if let b'\'' | b'"' | b'`' | b'[' = byte {
            let (length, text) = quoted_text(rest);
            found.push(Token { at: at..at + length, text, is_quoted: true, depth });
            at += length;
            continue;
        }
        let is_letter = |c: char| c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii();
        let length = rest.find(|c| !is_letter(c)).unwrap_or(rest.len());
        let length =
            if length == 0 { rest.chars().next().map_or(1, char::len_utf8) } else { length };
        let text = rest[..length].to_lowercase();
        depth = if text == ")" { depth.saturating_sub(1) } else { depth };
        found.push(Token { at: at..at + length, text: text.clone(), is_quoted: false, depth });
        depth += usize::from(text == "(");
        at += length;
    }
    found
}

/// How long what is quoted is, and what it says.
fn quoted_text(rest: &str) -> (usize, String) {
    let open = rest.chars().next().unwrap_or('"');
    let close = if open == '[' { ']' } else { open };
    let (mut text, mut at) = (String::new(), 1);
    while let Some(end) = rest[at..].find(close) {
        text.push_str(&rest[at..at + end]);
        at += end + 1;
        if open == '[' || !rest[at..].starts_with(close) {
            return (at, text);
        }
        text.push(close);
        at += 1;
    }
    (rest.len(), text)
}

/// The same definition of an index under another name; `None` when it is no such definition.
pub(super) fn named(sql: &str, name: &str) -> Option<String> {
    let tokens = tokens(sql);
    let place = tokens.iter().position(|token| token.is("index"))?;
    let own = tokens.get(place + 1).filter(|_| place <= 2)?;
    Some(format!("{}{}{}", &sql[..own.at.start], quoted(name), &sql[own.at.end..]))
}

/// A definition without references to tables that `stays` tells; and those tables.
pub(super) fn untied(sql: &str, stays: impl Fn(&str) -> bool) -> (String, Vec<String>) {
    let tokens = tokens(sql);
    let (mut cuts, mut removed) = (Vec::<Range<usize>>::new(), Vec::new());
    let mut at = 0;
    while at + 1 < tokens.len() {
        let is_reference = tokens[at].is("references") && tokens[at].depth == 1;
        if is_reference && stays(&tokens[at + 1].text) {
            removed.push(tokens[at + 1].text.clone());
            let (first, last) = (start_of_reference(&tokens, at), end_of_reference(&tokens, at));
            match cuts.last_mut() {
                // No comma need be between constraints of a table.
                Some(before) if before.end == first => before.end = last + 1,
                _ => cuts.push(first..last + 1),
            }
            at = last;
        }
        at += 1;
    }
    let mut text = sql.to_owned();
    for Range { start, end } in cuts.into_iter().rev() {
        let is = |place: usize, sign: &str| tokens.get(place).is_some_and(|token| token.is(sign));
        let ends = is(end, ",") || is(end, ")");
        let start = if ends && start > 0 && is(start - 1, ",") { start - 1 } else { start };
        text.replace_range(tokens[start].at.start..tokens[end - 1].at.end, "");
    }
    (text, removed)
}

/// Where a constraint begins that refers to another table: with its name if it has one.
fn start_of_reference(tokens: &[Token], at: usize) -> usize {
    if tokens[..at].last().is_some_and(|token| token.is(")") && token.depth == 1) {
        let opens = tokens[..at].iter().rposition(|token| token.is("(") && token.depth == 1);
        let opens = opens.unwrap_or(at);
        let is_key = opens >= 2 && tokens[opens - 1].is("key") && tokens[opens - 2].is("foreign");
        if is_key {
            return before_name(tokens, opens - 2);
        }
    }
    before_name(tokens, at)
}

fn before_name(tokens: &[Token], first: usize) -> usize {
    let is_named = first >= 2 && tokens[first - 2].is("constraint");
    if is_named { first - 2 } else { first }
}

/// The last piece of what begins with `REFERENCES`.
fn end_of_reference(tokens: &[Token], at: usize) -> usize {
    let mut last = at + 1;
    let is = |place: usize, word: &str| tokens.get(place).is_some_and(|token| token.is(word));
    if is(last + 1, "(") {
        let closes = tokens[last + 2..].iter().position(|t| t.is(")") && t.depth == 1);
        last += closes.map_or(0, |closes| closes + 2);
    }
    loop {
        if is(last + 1, "on") && (is(last + 2, "delete") || is(last + 2, "update")) {
            let is_long = is(last + 3, "set") || is(last + 3, "no");
            last += if is_long { 4 } else { 3 };
        } else if is(last + 1, "deferrable") {
            last += 1;
        } else if is(last + 1, "match")
            || is(last + 1, "initially")
            || (is(last + 1, "not") && is(last + 2, "deferrable"))
        {
            last += 2;
        } else {
            return last.min(tokens.len() - 1);
        }
    }
}

/// A name in a statement.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_references_to_what_stays_are_cut() {
        for (sql, cut) in [
            ("CREATE TABLE t (a REFERENCES p, b)", "CREATE TABLE t (a , b)"),
            (
                "CREATE TABLE t (a INT CONSTRAINT x REFERENCES \"p\"(\"i)d\") ON DELETE SET NULL \
                 ON UPDATE CASCADE NOT DEFERRABLE INITIALLY DEFERRED NOT NULL, b)",
                "CREATE TABLE t (a INT  NOT NULL, b)",
            ),
            (
                "CREATE TABLE t (a, b, CONSTRAINT f FOREIGN KEY (a, b) REFERENCES p (c, d) MATCH \
                 FULL, FOREIGN KEY(a) REFERENCES [keep], CHECK (a <> 'REFERENCES p'))",
                "CREATE TABLE t (a, b, FOREIGN KEY(a) REFERENCES [keep], \
                 CHECK (a <> 'REFERENCES p'))",
            ),
            (
                "CREATE TABLE t (a, -- REFERENCES p\n b REFERENCES keep, FOREIGN KEY (a) \
                 REFERENCES `p` ON DELETE NO ACTION) WITHOUT ROWID",
                "CREATE TABLE t (a, -- REFERENCES p\n b REFERENCES keep) WITHOUT ROWID",
            ),
            (
                "CREATE TABLE t (a, FOREIGN KEY (a) REFERENCES p FOREIGN KEY (a) REFERENCES keep)",
                "CREATE TABLE t (a,  FOREIGN KEY (a) REFERENCES keep)",
            ),
            (
                "CREATE TABLE t (a, FOREIGN KEY (a) REFERENCES p CONSTRAINT f FOREIGN KEY (a) \
                 REFERENCES p(b) UNIQUE (a), FOREIGN KEY (a) REFERENCES p)",
                "CREATE TABLE t (a,  UNIQUE (a))",
            ),
            (
                "CREATE TABLE t (a, FOREIGN KEY (a) REFERENCES p FOREIGN KEY (a) REFERENCES p(b))",
                "CREATE TABLE t (a)",
            ),
            (
                "CREATE TABLE t (a, FOREIGN KEY (a) REFERENCES p, FOREIGN KEY (a) REFERENCES p(b),
                 CHECK (a > 0) FOREIGN KEY (a) REFERENCES p(c))",
                "CREATE TABLE t (a,
                 CHECK (a > 0) )",
            ),
        ] {
            assert_eq!(untied(sql, |name| name == "p").0, cut, "{sql}");
        }
    }

    #[test]
    fn an_index_gets_its_name() {
        let name = |sql| named(sql, "n").unwrap();
        assert_eq!(name("CREATE INDEX i ON t (a)"), "CREATE INDEX \"n\" ON t (a)");
        assert_eq!(
            name("CREATE UNIQUE INDEX \"index on\" ON t (\"index\")"),
            "CREATE UNIQUE INDEX \"n\" ON t (\"index\")"
        );
        assert_eq!(named("CREATE TABLE t (\"index\")", "n"), None);
    }
}
