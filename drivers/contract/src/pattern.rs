//! Which tables a person means: names, with the wildcards of shells.

use std::fmt;

use crate::{Error, ErrorKind, Result, code};

/// Names apart by dots, each exact in double quotes, or else with `*` for any letters and `?` for
/// one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    text: String,
    is_quoted: bool,
}

impl TablePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) for empty names and open quotes.
    pub fn new(text: &str) -> Result<Self> {
        let parts = read(text).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, code::BAD_NAME, "understand which tables are meant")
                .with("given", text)
                .with("forms", "orders, public.orders, 'audit.*', 'public.\"Order Items\"'")
                .next("write it as one of these, in quotes of the shell")
        })?;
        Ok(Self { text: text.to_owned(), parts })
    }

    /// Whether it is that table: its names, the outermost first. Names that the pattern does not
    /// say may be any. A name without quotes also fits when all of its letters are small.
    pub fn fits(&self, names: &[&str]) -> bool {
        self.parts.len() <= names.len()
            && self.parts.iter().rev().zip(names.iter().rev()).all(|(part, name)| part.fits(name))
    }

    /// Whether it can mean only one name.
    pub fn is_exact(&self) -> bool {
        self.parts.iter().all(Part::is_exact)
    }

    /// The names that it says, the outermost first.
    pub fn names(&self) -> Vec<&str> {
        self.parts.iter().map(|part| part.text.as_str()).collect()
    }
}

impl fmt::Display for TablePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Part {
    fn is_exact(&self) -> bool {
        self.is_quoted || !self.text.contains(['*', '?'])
    }

    fn fits(&self, name: &str) -> bool {
        if self.is_quoted {
            return self.text == name;
        }
        let small = self.text.to_lowercase();
        [&self.text, &small].into_iter().any(|wanted| {
            let (wanted, name): (Vec<_>, Vec<_>) =
                (wanted.chars().collect(), name.chars().collect());
            matches(&wanted, &name)
        })
    }
}

/// In time that is at worst the product of both lengths.
fn matches(pattern: &[char], name: &[char]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut last_star = None;
    while seen < name.len() {
        match pattern.get(at) {
            Some('*') => {
                last_star = Some((at, seen));
                at += 1;
            }
            Some(c) if *c == '?' || *c == name[seen] => (at, seen) = (at + 1, seen + 1),
            _ => {
                let Some((star, from)) = last_star else { return false };
                last_star = Some((star, from + 1));
                (at, seen) = (star + 1, from + 1);
            }
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

fn read(text: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    loop {
        let (part, after) = if let Some(quoted) = rest.strip_prefix('"') {
            read_quoted(quoted)?
        } else {
            let end = rest.find('.').unwrap_or(rest.len());
            (Part { text: rest[..end].to_owned(), is_quoted: false }, &rest[end..])
        };
        if part.text.is_empty() || (!part.is_quoted && part.text.contains('"')) {
            return None;
        }
        parts.push(part);
        rest = match after {
            "" => return Some(parts),
            after => after.strip_prefix('.')?,
        };
    }
}

fn read_quoted(quoted: &str) -> Option<(Part, &str)> {
    let (mut text, mut rest) = (String::new(), quoted);
    loop {
        let end = rest.find('"')?;
        text.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                text.push('"');
                rest = after;
            }
            None => return Some((Part { text, is_quoted: true }, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_meant_as_engines_and_shells_mean_them() {
        for (pattern, names, fits) in [
            ("public.orders", ["public", "orders"], true),
            ("Public.Orders", ["public", "orders"], true),
            ("Public.Orders", ["Public", "Orders"], true),
            ("orders", ["audit", "orders"], true),
            ("orders", ["audit", "orders_old"], false),
            ("audit.*", ["audit", "a"], true),
            ("audit.*", ["public", "a"], false),
            ("*_20??", ["public", "sales_2025"], true),
            ("*_20??", ["public", "sales_202"], false),
            ("a*b*c", ["public", "axxbyybzc"], true),
            ("a*b*c", ["public", "axxbyybz"], false),
            ("\"Order Items\"", ["public", "Order Items"], true),
            ("\"Order Items\"", ["public", "order items"], false),
            ("\"a\"\"b.*\"", ["public", "a\"b.*"], true),
            ("public.\"*\"", ["public", "x"], false),
        ] {
            assert_eq!(TablePattern::new(pattern).unwrap().fits(&names), fits, "{pattern}");
        }
        assert!(!TablePattern::new("db.public.orders").unwrap().fits(&["public", "orders"]));
    }

    #[test]
    fn what_names_nothing_is_refused() {
        for text in ["", ".", "a.", ".a", "\"a", "a\"b\"", "\"a\"b", "\"\""] {
            assert_eq!(TablePattern::new(text).unwrap_err().kind(), ErrorKind::Invalid, "{text}");
        }
    }
}
