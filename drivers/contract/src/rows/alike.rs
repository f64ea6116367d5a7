//! Values that an engine takes for one, although their bytes are not the same.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::column::Class;

/// Which texts are one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Alike {
    /// Those of the same bytes.
    #[default]
    Same,
    /// Also those that differ in which letters of ASCII are capital ones.
    Case,
    /// Also those that differ in how many spaces are at their ends.
    Spaces,
}

impl Alike {
    /// Whether only texts of the same bytes are one.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "so asks serde")]
    pub fn is_same(&self) -> bool {
        *self == Self::Same
    }

    /// The form that all texts have which are one.
    pub fn form(self, text: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Self::Same => Cow::Borrowed(text),
            Self::Case => Cow::Owned(text.to_ascii_lowercase()),
            Self::Spaces => {
                let end = text.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
                Cow::Borrowed(&text[..end])
            }
        }
    }

    /// The same of a value that says its own class: what is no text is what it is.
    pub fn form_of(self, value: &[u8]) -> Cow<'_, [u8]> {
        match value {
            [class @ b't', text @ ..] if !self.is_same() => {
                Cow::Owned([&[*class][..], &self.form(text)].concat())
            }
            _ => Cow::Borrowed(value),
        }
    }
}

/// What a finding is about that tells of a reference of which [`Likeness::is_untold`].
pub const UNTOLD_REFERENCE: &str = "reference in files";

/// How an engine compares a column that refers with the one that is referred to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Likeness {
    /// What values become before, where each says its class and it can become that:
    /// [`Class::Integer`] for numbers of both kinds, [`Class::Text`] for texts. They stay what they
    /// are where nothing is said. Where values do not say their class, [`Class::Integer`] says that
    /// all of them are numbers, whatever their columns are called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub becomes: Option<Class>,
    /// Which texts are one then.
    #[serde(default, skip_serializing_if = "Alike::is_same")]
    pub alike: Alike,
    /// Whether only the engine knows which values are one: what is in files does not tell.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_untold: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_are_one_have_one_form() {
        let form = |alike: Alike, text: &str| {
            String::from_utf8(alike.form(text.as_bytes()).into_owned()).unwrap()
        };
        for (alike, text, expected) in [
            (Alike::Same, "Bob ", "Bob "),
            (Alike::Case, "BoB Ä ", "bob Ä "),
            (Alike::Spaces, "Bob  ", "Bob"),
            (Alike::Spaces, "  ", ""),
            (Alike::Spaces, " Bob\t ", " Bob\t"),
        ] {
            assert_eq!(form(alike, text), expected, "{alike:?} {text}");
        }
    }

    #[test]
    fn only_texts_have_another_form() {
        let form = |alike: Alike, value: &[u8]| alike.form_of(value).into_owned();
        assert_eq!(form(Alike::Case, b"tBob "), b"tbob ");
        assert_eq!(form(Alike::Spaces, b"tBob "), b"tBob");
        assert_eq!(form(Alike::Case, b"bBob"), b"bBob", "bytes are what they are");
        assert_eq!(form(Alike::Spaces, b"b "), b"b ");
        assert_eq!(form(Alike::Same, b"tBob "), b"tBob ");
    }
}
