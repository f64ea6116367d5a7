//! A value that is written down before anybody knows what type it has, or that is to be found in
//! whatever form it is kept.
//!
//! Nobody reads in it which one that is: it is there as salted hashes, one for each way in which
//! the text may be read. Those ways are [`Sense`]'s.

use std::collections::BTreeSet;

use super::meaning::Sense;

/// That a text is understood in some way.
const READ: &str = "read as";
/// Texts, whatever their cases, and whether or not they are padded.
const LIKE_TEXT: &str = "like a text";
/// Whatever else: the letters and digits of it.
const LIKE_WORD: &str = "like a word";

/// What hashes of a value are made with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forms<'a> {
    pub(super) salt: &'a str,
    /// The column that the value is, or may be, of.
    pub(super) column: &'a str,
}

impl Forms<'_> {
    /// Everything that a text means to one type or another.
    pub(super) fn all(self, text: &str) -> BTreeSet<String> {
        let ways = Sense::READING.into_iter().chain([Sense::Text]);
        ways.map(|sense| self.of(sense, text)).collect()
    }

    /// What a text means to one type.
    pub(super) fn of(self, sense: Sense, text: &str) -> String {
        let (way, meant) = sense.form(text);
        self.hash(way, &meant)
    }

    /// Everything that a text means, and what values are like that may be the same.
    pub(super) fn wide(self, text: &str) -> BTreeSet<String> {
        let mut forms = self.all(text);
        forms.insert(self.hash(LIKE_TEXT, &like_text(text)));
        forms.insert(self.hash(LIKE_WORD, &like_word(text)));
        let read = Sense::READING.into_iter().filter(|sense| sense.reads(text));
        forms.extend(read.map(|sense| self.hash(READ, sense.name())));
        forms
    }

    /// Whether a value of a row is, or may be, the one that has such forms: the database alone
    /// knows the collation of a column, and how types are compared that are not told here.
    pub(super) fn may_be(self, wide: &BTreeSet<String>, sense: Sense, text: &str) -> bool {
        let has = |sense: Sense| wide.contains(&self.of(sense, text));
        if has(sense) {
            return true;
        }
        match sense {
            Sense::Text | Sense::Padded | Sense::Folded => {
                wide.contains(&self.hash(LIKE_TEXT, &like_text(text)))
            }
            // To some columns `007` is a number.
            Sense::Mixed => has(Sense::Number),
            Sense::Exact => {
                Sense::READING.into_iter().any(has)
                    || wide.contains(&self.hash(LIKE_WORD, &like_word(text)))
            }
            // One of the two is written in a way that nobody here understands.
            _ => !sense.reads(text) || !wide.contains(&self.hash(READ, sense.name())),
        }
    }

    fn hash(self, way: &str, meant: &str) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("stillpoint 2026-11 v1 form of a subject");
        for part in [self.salt, self.column, way, meant] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

fn like_text(text: &str) -> String {
    text.trim_end_matches(' ').to_lowercase()
}

fn like_word(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMS: Forms<'static> = Forms { salt: "s", column: "c" };

    #[test]
    fn a_value_is_found_as_its_type_has_it_and_as_no_other_one() {
        let is = |written: &str, sense: Sense, row: &str| {
            FORMS.all(written).contains(&FORMS.of(sense, row))
        };
        let id = "550e8400-e29b-41d4-a716-446655440000";
        assert!(is("550E8400E29B41D4A716446655440000", Sense::Uuid, id));
        assert!(!is("550E8400E29B41D4A716446655440000", Sense::Text, id));
        assert!(is("1.0", Sense::Number, "1") && is("1e0", Sense::Number, "1.00"));
        assert!(!is("1.0", Sense::Text, "1") && is("1.0", Sense::Text, "1.0"));
        assert!(is("AB", Sense::Padded, "AB      ") && !is("AB", Sense::Text, "AB      "));
        assert!(is("Ann@X.org", Sense::Folded, "ann@x.ORG"));
        assert!(!is("Ann@X.org", Sense::Text, "ann@x.ORG"));
        assert!(is("007", Sense::Text, "007") && !is("007", Sense::Mixed, "7"));
        // What two types mean by a text is not the same because it is written so.
        assert!(!is("true", Sense::Text, "t") && is("true", Sense::Flag, "t"));
        let other = Forms { column: "d", ..FORMS };
        assert!(!FORMS.all("7").contains(&other.of(Sense::Number, "7")));
    }

    #[test]
    fn whatever_may_be_the_same_is_taken_for_it_and_what_is_not_is_not() {
        let may =
            |written: &str, sense: Sense, row: &str| FORMS.may_be(&FORMS.wide(written), sense, row);
        // A collation, a domain, or a type of an extension.
        assert!(may("Ann", Sense::Text, "ANN ") && !may("Ann", Sense::Text, "Anna"));
        assert!(may("08:00:2B:01:02:03", Sense::Exact, "08-00-2b-01-02-03"));
        assert!(may("10.5", Sense::Exact, "10.50") && !may("10.5", Sense::Exact, "10.51"));
        assert!(may("007", Sense::Mixed, "7") && !may("C-7", Sense::Mixed, "7"));
        // What is known is known.
        assert!(may("7.0", Sense::Number, "7") && !may("7.0", Sense::Number, "70"));
        assert!(!may("1.0", Sense::Text, "1"));
        // It is no number, or none that anybody here reads.
        assert!(may("seven", Sense::Number, "7") && may("7", Sense::Instant, "44 BC"));
    }
}
