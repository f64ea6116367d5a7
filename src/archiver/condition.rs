//! What has to be so of rows that are looked for, as people write it.

use std::cmp::Ordering;

use stillpoint_contract::{Column, Error, ErrorKind, Result, code, values};

use super::{file::value_text, meaning::Sense, read::Wanted};

/// Something that has to be so of a row: a column compared with texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// The column.
    pub column: String,
    /// How.
    pub compares: Compares,
    /// With what, as the engine writes it: one value, each of a list, or none.
    pub values: Vec<String>,
}

/// How values are compared: as what their column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compares {
    /// `=` a value, or `IN` a list.
    Equal,
    /// `!=` a value, or `NOT IN` a list.
    Unequal,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    More,
    /// `>=`
    AtLeast,
    /// `IS NULL`
    Null,
    /// `IS NOT NULL`
    NotNull,
}

/// What a condition may look like.
const FORMS: &str = "id = 7; city = 'Bonn' and created_at < 2024-01-01; !=, <=, > and >=; \
                     note is null; note is not null; id in (7, 8); city not in ('Bonn', 'Ulm')";

impl Wanted {
    /// Reads conditions such as `id >= 7 and city in ('Bonn', 'Ulm') and note is null`.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) when it is none.
    pub fn terms_of(text: &str) -> Result<Vec<Term>> {
        let mut terms = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let (term, behind) = term(rest).ok_or_else(|| {
                Error::new(ErrorKind::Invalid, code::USAGE, "understand a condition")
                    .with("given", text)
                    .with("at", rest)
                    .with("forms", FORMS)
                    .why("all of a condition has to be so: there is no or, and nothing = NULL")
            })?;
            terms.push(term);
            rest = behind;
        }
        Ok(terms)
    }
}

/// The first term of a text, and what follows the `and` behind it.
fn term(text: &str) -> Option<(Term, &str)> {
    let (column, rest) = word(text, "=<>!")?;
    let (compares, values, rest) = comparison(rest.trim_start())?;
    let rest = rest.trim_start();
    let behind = if rest.is_empty() {
        rest
    } else {
        keyword(rest, "and").filter(|behind| !behind.is_empty())?
    };
    Some((Term { column, compares, values }, behind))
}

/// How something is compared, with what, and what follows.
fn comparison(text: &str) -> Option<(Compares, Vec<String>, &str)> {
    const SIGNS: [(&str, Compares); 7] = [
        ("!=", Compares::Unequal),
        ("<>", Compares::Unequal),
        ("<=", Compares::AtMost),
        (">=", Compares::AtLeast),
        ("=", Compares::Equal),
        ("<", Compares::Less),
        (">", Compares::More),
    ];
    if let Some(rest) = keyword(text, "is") {
        let (compares, rest) = match keyword(rest, "not") {
            Some(rest) => (Compares::NotNull, rest),
            None => (Compares::Null, rest),
        };
        return Some((compares, Vec::new(), keyword(rest, "null")?));
    }
    let (compares, in_list) = match keyword(text, "not") {
        Some(rest) => (Compares::Unequal, Some(keyword(rest, "in")?)),
        None => (Compares::Equal, keyword(text, "in")),
    };
    if let Some(rest) = in_list {
        let (values, rest) = list(rest)?;
        return Some((compares, values, rest));
    }
    let (sign, compares) = SIGNS.iter().find(|(sign, _)| text.starts_with(sign))?;
    let (value, rest) = value(text[sign.len()..].trim_start(), "=<>!")?;
    Some((*compares, vec![value], rest))
}

/// What follows a word of the grammar, in upper or lower case.
fn keyword<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (found, rest) = text.split_at_checked(word.len())?;
    let is_longer = rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    (found.eq_ignore_ascii_case(word) && !is_longer).then(|| rest.trim_start())
}

/// Values in parentheses, and what follows.
fn list(text: &str) -> Option<(Vec<String>, &str)> {
    let mut values = Vec::new();
    let mut rest = text.strip_prefix('(')?;
    loop {
        let (value, behind) = value(rest.trim_start(), ",()")?;
        values.push(value);
        let behind = behind.trim_start();
        match behind.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Some((values, behind.strip_prefix(')')?)),
        }
    }
}

/// A value. NULL is none: nothing is equal to it, and the text is to be in quotes.
fn value<'a>(text: &'a str, ends: &str) -> Option<(String, &'a str)> {
    let is_quoted = text.starts_with(['\'', '"']);
    word(text, ends).filter(|(word, _)| is_quoted || !word.eq_ignore_ascii_case("null"))
}

/// The first word of a text, up to a space or what ends words there, or what stands in quotes,
/// doubled quotes in it once.
fn word<'a>(text: &'a str, ends: &str) -> Option<(String, &'a str)> {
    let quote = text.chars().next().filter(|c| "'\"".contains(*c));
    let Some(quote) = quote else {
        let end = text.find(|c: char| c.is_whitespace() || ends.contains(c));
        let (word, rest) = text.split_at(end.unwrap_or(text.len()));
        return (!word.is_empty()).then(|| (word.to_owned(), rest));
    };
    let mut word = String::new();
    let mut rest = &text[1..];
    loop {
        let end = rest.find(quote)?;
        word.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix(quote) {
            Some(behind) => {
                word.push(quote);
                rest = behind;
            }
            None => return Some((word, rest)),
        }
    }
}

impl Compares {
    pub(super) fn needs_order(self) -> bool {
        matches!(self, Self::Less | Self::AtMost | Self::More | Self::AtLeast)
    }
}

impl Term {
    /// Whether a value is as it says, by what its column holds. NULL, which is none, compares with
    /// nothing, as in SQL.
    fn holds(&self, found: Option<(&Column, &[u8])>, planned: &[Column]) -> bool {
        let Some((column, value)) = found else { return self.compares == Compares::Null };
        let sense = Sense::of(column, planned, Some(value));
        let Some(text) = value_text(&column.kind, value) else {
            return self.compares == Compares::NotNull;
        };
        let mut orders = self.values.iter().map(|wanted| sense.compared(&text, wanted));
        match self.compares {
            Compares::Equal => orders.any(Ordering::is_eq),
            Compares::Unequal => orders.all(Ordering::is_ne),
            Compares::Less => orders.any(Ordering::is_lt),
            Compares::AtMost => orders.any(Ordering::is_le),
            Compares::More => orders.any(Ordering::is_gt),
            Compares::AtLeast => orders.any(Ordering::is_ge),
            Compares::Null => false,
            Compares::NotNull => true,
        }
    }
}

/// Whether a row is as conditions say.
pub(super) fn fits(
    row: &[u8],
    columns: &[Column],
    planned: &[Column],
    terms: &[(Option<usize>, Term)],
) -> Result<bool> {
    if terms.is_empty() {
        return Ok(true);
    }
    let values = values(row).collect::<Result<Vec<_>>>()?;
    for (place, term) in terms {
        // What a file does not have is as good as NULL.
        let found = place.and_then(|at| Some((&columns[at], values.get(at).copied().flatten()?)));
        if !term.holds(found, planned) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use stillpoint_contract::Kind;

    use super::*;

    #[test]
    fn conditions_are_understood_or_refused() {
        let terms =
            Wanted::terms_of("id>=7 and \"the city\" = 'it''s' AND at < 2024-01-01").unwrap();
        let shown: Vec<_> =
            terms.iter().map(|t| (&*t.column, t.compares, t.values.join("|"))).collect();
        assert_eq!(
            shown,
            [
                ("id", Compares::AtLeast, "7".to_owned()),
                ("the city", Compares::Equal, "it's".to_owned()),
                ("at", Compares::Less, "2024-01-01".to_owned()),
            ]
        );
        assert_eq!(Wanted::terms_of("  ").unwrap(), []);
        for wrong in [
            "id",
            "id =",
            "= 7",
            "id = 7 and",
            "id = 7 or a = 8",
            "id = '7",
            "a = 1 b",
            "a = null",
            "a is 7",
            "a is not",
            "a is nullx",
            "a in 7",
            "a in ()",
            "a in (7",
            "a in (7 8)",
            "a in (7, null)",
            "a in (7, (8))",
            "a not 7",
            "a is null or b = 1",
        ] {
            assert!(Wanted::terms_of(wrong).is_err(), "{wrong}");
        }
        let told = format!("{:?}", Wanted::terms_of("a = NULL").unwrap_err());
        assert!(told.contains("note is null") && told.contains("in ("), "{told}");
    }

    #[test]
    fn lists_and_null_have_forms_of_their_own() {
        let terms = Wanted::terms_of(
            "a IN(7,'x, y' , b=8) and \"b\" Not In ( 'null' ) AND is IS NULL and c <> 1 \
             and d is not null",
        )
        .unwrap();
        let shown: Vec<_> =
            terms.iter().map(|t| (&*t.column, t.compares, t.values.join("|"))).collect();
        assert_eq!(
            shown,
            [
                ("a", Compares::Equal, "7|x, y|b=8".to_owned()),
                ("b", Compares::Unequal, "null".to_owned()),
                ("is", Compares::Null, String::new()),
                ("c", Compares::Unequal, "1".to_owned()),
                ("d", Compares::NotNull, String::new()),
            ]
        );
    }

    #[test]
    fn nothing_compares_with_null() {
        let column = Column {
            name: "a".to_owned(),
            id: 1,
            engine_type: "text".to_owned(),
            kind: Kind::Text,
            is_cast: false,
            is_nullable: true,
            is_generated: false,
        };
        let holds = |condition: &str, found: Option<&str>| {
            let found = found.map(|found| (&column, found.as_bytes()));
            Wanted::terms_of(condition).unwrap()[0].holds(found, &[])
        };
        assert!(holds("a != y", Some("x")) && !holds("a != y", None));
        assert!(holds("a <= y", Some("y")) && !holds("a < y", Some("y")));
        assert!(holds("a in (x, y)", Some("y")) && !holds("a in (x, y)", Some("z")));
        assert!(holds("a not in (x, y)", Some("z")) && !holds("a not in (x, y)", Some("x")));
        assert!(!holds("a in (x, y)", None) && !holds("a not in (x, y)", None));
        assert!(holds("a is null", None) && !holds("a is null", Some("")));
        assert!(holds("a is not null", Some("")) && !holds("a is not null", None));
    }
}
