//! Values that are one to an engine, although their bytes are not the same: each has one form here.

use stillpoint_contract::{Class, Column, Kind, Likeness};

use super::{file::value_text, meaning::Sense};

/// The least number that no `i64` is; the largest one is as far from zero.
const WHOLE_END: f64 = 9_223_372_036_854_775_808.0;

/// A value in the form that it has in common with those that a link takes for the same one. Where
/// nothing is known of the link, those are what is written the same.
pub(super) fn linked(
    likeness: Option<&Likeness>,
    (columns, planned): (&[Column], &[Column]),
    values: &[Option<&[u8]>],
    place: usize,
) -> Option<Vec<u8>> {
    let (column, value) = (columns.get(place)?, values.get(place).copied().flatten()?);
    if let (Some(likeness), Kind::Dynamic { .. }) = (likeness, &column.kind) {
        return formed(*likeness, value);
    }
    let are_numbers = likeness.is_some_and(|likeness| likeness.becomes == Some(Class::Integer));
    let sense = if are_numbers { Sense::Number } else { Sense::of(column, planned, Some(value)) };
    let text = sense.meant(&value_text(&column.kind, value)?);
    let alike = likeness.map(|likeness| likeness.alike).unwrap_or_default();
    Some(alike.form(text.as_bytes()).into_owned())
}

/// A value that says its class: a letter for what it is compared as, and the rest of it.
fn formed(likeness: Likeness, value: &[u8]) -> Option<Vec<u8>> {
    let (class, bytes) = value.split_first()?;
    let is_text = likeness.becomes == Some(Class::Text);
    let text = |text: &[u8]| tagged(Class::Text, &likeness.alike.form(text));
    Some(match Class::of(*class)? {
        Class::Integer => {
            let number = i64::from_be_bytes(bytes.try_into().ok()?);
            if is_text { text(number.to_string().as_bytes()) } else { whole(number) }
        }
        Class::Real => {
            let number = f64::from_be_bytes(bytes.try_into().ok()?);
            if is_text { text(format!("{number:?}").as_bytes()) } else { real(number) }
        }
        Class::Text if likeness.becomes == Some(Class::Integer) => {
            number(bytes).unwrap_or_else(|| text(bytes))
        }
        Class::Text => text(bytes),
        Class::Blob => tagged(Class::Blob, bytes),
        Class::Any => return None,
    })
}

fn tagged(class: Class, bytes: &[u8]) -> Vec<u8> {
    [&[class as u8][..], bytes].concat()
}

fn whole(number: i64) -> Vec<u8> {
    tagged(Class::Integer, &number.to_be_bytes())
}

/// Numbers of both kinds are compared exactly.
fn real(number: f64) -> Vec<u8> {
    let is_whole = number.fract() == 0.0 && (-WHOLE_END..WHOLE_END).contains(&number);
    if is_whole { whole(number as i64) } else { tagged(Class::Real, &number.to_be_bytes()) }
}

/// The number that a text looks like. Source: <https://www.sqlite.org/datatype3.html>, 3;
/// <https://www.sqlite.org/lang_expr.html>, "Literal Values".
fn number(text: &[u8]) -> Option<Vec<u8>> {
    let text = str::from_utf8(text).ok()?;
    let text = text.trim_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let unsigned = |text: &str| text.strip_prefix(['+', '-']).unwrap_or(text).to_owned();
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let bare = unsigned(text);
    let (mantissa, exponent) = match bare.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(unsigned(exponent))),
        None => (&*bare, None),
    };
    let (before, behind) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_number = before.len() + behind.len() > 0
        && are_digits(before)
        && are_digits(behind)
        && exponent.is_none_or(|digits| !digits.is_empty() && are_digits(&digits));
    if !is_number {
        return None;
    }
    text.parse().map(whole).ok().or_else(|| text.parse().map(real).ok())
}

#[cfg(test)]
mod tests {
    use stillpoint_contract::Alike;

    use super::*;

    fn form(becomes: Option<Class>, alike: Alike, class: Class, bytes: &[u8]) -> Vec<u8> {
        let likeness = Likeness { becomes, alike, is_untold: false };
        formed(likeness, &tagged(class, bytes)).unwrap()
    }

    #[test]
    fn what_is_said_to_be_numbers_is_read_so_whatever_its_type_is_called() {
        let column = |kind: Kind, engine_type: &str, is_cast: bool| Column {
            name: "k".to_owned(),
            id: 1,
            engine_type: engine_type.to_owned(),
            kind,
            is_cast,
            is_nullable: false,
            is_generated: false,
        };
        let amount = [column(Kind::Text, "public.amount", true)];
        let whole = [column(Kind::Int64, "bigint", false)];
        let numbers = Likeness { becomes: Some(Class::Integer), ..Likeness::default() };
        let of = |likeness: Option<&Likeness>, columns: &[Column], value: &[u8]| {
            linked(likeness, (columns, columns), &[Some(value)], 0).unwrap()
        };
        let seven = of(Some(&numbers), &whole, &7_i64.to_be_bytes());
        for same in ["7", "7.0", "7.00"] {
            assert_eq!(of(Some(&numbers), &amount, same.as_bytes()), seven, "{same}");
        }
        assert_ne!(of(Some(&numbers), &amount, b"7.01"), seven);
        assert_ne!(of(None, &amount, b"7.0"), of(None, &amount, b"7"));
    }

    #[test]
    fn numbers_are_one_however_they_are_written() {
        let number = Some(Class::Integer);
        let of = |class, bytes: &[u8]| form(number, Alike::Same, class, bytes);
        let text = |text: &str| of(Class::Text, text.as_bytes());
        let one = of(Class::Integer, &1_i64.to_be_bytes());
        assert_eq!(one, of(Class::Real, &1_f64.to_be_bytes()));
        for same in ["1", "01", " 1\t", "1.0", "+1", "1.", "10e-1", "0.1E+1"] {
            assert_eq!(text(same), one, "{same}");
        }
        for other in ["", ".", "1e", "e1", "+ 1", "0x1", "1_0", "1 0", "inf", "١", "--1"] {
            assert_eq!(text(other), tagged(Class::Text, other.as_bytes()), "{other}");
        }
        assert_eq!(text("-0.0"), of(Class::Integer, &0_i64.to_be_bytes()));
        assert_eq!(text(".5"), of(Class::Real, &0.5_f64.to_be_bytes()));
        assert_eq!(text("9223372036854775807"), of(Class::Integer, &i64::MAX.to_be_bytes()));
        let far = of(Class::Real, &WHOLE_END.to_be_bytes());
        assert_eq!(text("9223372036854775808"), far);
        assert_ne!(far, of(Class::Integer, &i64::MAX.to_be_bytes()));
        assert_ne!(of(Class::Blob, b"1"), text("1"));
    }

    #[test]
    fn texts_are_one_as_the_engine_says() {
        let seven = 7_i64.to_be_bytes();
        let text = Some(Class::Text);
        assert_eq!(
            form(text, Alike::Same, Class::Integer, &seven),
            form(text, Alike::Same, Class::Text, b"7")
        );
        assert_ne!(
            form(text, Alike::Same, Class::Integer, &seven),
            form(text, Alike::Same, Class::Text, b"07")
        );
        assert_ne!(
            form(None, Alike::Same, Class::Integer, &seven),
            form(None, Alike::Same, Class::Text, b"7")
        );
        for becomes in [None, text, Some(Class::Integer)] {
            let of = |alike, bytes: &[u8]| form(becomes, alike, Class::Text, bytes);
            assert_eq!(of(Alike::Case, b"BOB\xff"), of(Alike::Case, b"bob\xff"), "{becomes:?}");
            assert_ne!(of(Alike::Same, b"BOB"), of(Alike::Same, b"bob"), "{becomes:?}");
            assert_eq!(of(Alike::Spaces, b"bob  "), of(Alike::Spaces, b"bob"), "{becomes:?}");
            assert_ne!(of(Alike::Spaces, b" bob"), of(Alike::Spaces, b"bob"), "{becomes:?}");
        }
    }
}
