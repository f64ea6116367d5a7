//! Files that are not what was written.

use bytes::Bytes;
use proptest::prelude::{any, proptest};
use stillpoint_contract::{Class, Column, ErrorKind, Kind};

use super::{
    super::{Decoder, Format},
    support::{FORMATS, Row, bytes_of, columns, decode, edges, file, list},
};

fn example() -> (Vec<Column>, Vec<Row>) {
    let kinds = [Kind::Int32, Kind::Text, list(Kind::Text), Kind::Dynamic { declared: Class::Any }];
    let value = |kind: &Kind, at: usize| edges(kind).into_iter().cycle().nth(at);
    let row = |at| kinds.iter().map(|kind| value(kind, at)).collect();
    let mut rows: Vec<Row> = (0..12).map(row).collect();
    rows.push(vec![None; kinds.len()]);
    (columns(&kinds), rows)
}

#[test]
fn a_shorter_or_longer_file_is_refused() {
    let (columns, rows) = example();
    for format in FORMATS {
        let whole = file(*format, &columns, &rows);
        for length in 0..whole.len() {
            let error = decode(&whole.slice(..length), &columns, *format).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{format:?} {length}");
        }
        for more in [&b"\0"[..], b"\n", &whole[..], &whole[whole.len() - 48..]] {
            let longer = Bytes::from([&whole[..], more].concat());
            let error = decode(&longer, &columns, *format).err();
            // A Parquet file begins at its end: what stands before it is nobody's.
            let kind = error.map(|error| error.kind());
            assert!(kind == Some(ErrorKind::Corrupt) || more.len() == whole.len(), "{format:?}");
        }
    }
}

/// Each bit of a file, or each of a part of them where it is long.
#[test]
fn a_changed_bit_never_changes_a_row() {
    let (columns, rows) = example();
    let good = bytes_of(&rows);
    for format in FORMATS {
        let whole = file(*format, &columns, &rows);
        let mut refused = 0;
        for at in 0..whole.len() {
            let mut changed = whole.to_vec();
            changed[at] ^= 1 << (at % 8);
            match decode(&changed.into(), &columns, *format) {
                Ok(read) => assert!(read == good, "{format:?} {at}"),
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{format:?} {at}: {error:?}");
                }
            }
        }
        // Bounds of values and the like may change without notice.
        let least = if *format == Format::Csv || *format == Format::Jsonl { 9 } else { 3 };
        assert!(refused * 10 > whole.len() * least, "{format:?} {refused} of {}", whole.len());
    }
}

#[test]
fn a_file_of_other_columns_is_refused() {
    let (columns, rows) = example();
    let mut renamed = columns.clone();
    renamed[1].name.push('x');
    let mut swapped = columns.clone();
    swapped.swap(0, 1);
    let mut other_kind = columns.clone();
    other_kind[0].kind = Kind::Int64;
    let mut wider = columns.clone();
    wider.push(super::support::column("more", 9, Kind::Bool));
    let narrower = columns[..3].to_vec();
    for format in FORMATS {
        let whole = file(*format, &columns, &rows);
        for other in [&renamed, &swapped, &other_kind, &wider, &narrower] {
            assert!(decode(&whole, other, *format).is_err(), "{format:?} {other:?}");
        }
        for other in FORMATS.iter().filter(|other| *other != format) {
            assert!(decode(&whole, &columns, *other).is_err(), "{format:?} {other:?}");
        }
    }
}

/// Text that says the same in another way is not what was written.
#[test]
fn text_that_somebody_wrote_anew_is_refused() {
    let (columns, rows) = (columns(&[Kind::Int32]), [vec![Some(vec![0, 0, 0, 7])], vec![None]]);
    for (format, was, is) in [
        (Format::Csv, "\"7\"", "\"8\""),
        (Format::Csv, "\"7\"", "7"),
        (Format::Csv, "\"7\"", ""),
        (Format::Csv, "\"7\"\r\n", ""),
        (Format::Csv, "\r\n", "\n"),
        (Format::Csv, "\"c0\"", "\"c1\""),
        (Format::Jsonl, ":7", ":8"),
        (Format::Jsonl, ":7", ":null"),
        (Format::Jsonl, ":7", ": 7"),
        (Format::Jsonl, "{\"c0\":7}\n", ""),
        (Format::Jsonl, "{\"c0\":7}\n", "{\"c0\":7}\n{\"c0\":7}\n"),
        (Format::Jsonl, "}\n{", "}\n\n{"),
    ] {
        let whole = file(format, &columns, &rows);
        let text = String::from_utf8(zstd::decode_all(&*whole).unwrap()).unwrap();
        let again = |text: &str| {
            let text = zstd::encode_all(text.as_bytes(), 1).unwrap();
            Bytes::from([&text, &whole[whole.len() - 48..]].concat())
        };
        assert_eq!(decode(&again(&text), &columns, format).unwrap(), bytes_of(&rows));
        let changed = text.replacen(was, is, 1);
        assert_ne!(changed, text);
        let error = decode(&again(&changed), &columns, format).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{was} {is}");
    }
}

#[test]
fn whoever_asks_again_after_an_error_is_not_told_that_all_is_well() {
    let (columns, rows) = (columns(&[Kind::Int32]), [vec![Some(vec![0, 0, 0, 7])]]);
    let mut whole = file(Format::Csv, &columns, &rows).to_vec();
    *whole.last_mut().unwrap() ^= 1;
    let mut decoder = Decoder::new(&whole.into(), &columns, Format::Csv).unwrap();
    assert_eq!(decoder.next().unwrap().unwrap().len(), 1);
    assert!(decoder.next().is_err());
    assert!(decoder.next().is_err());
}

proptest! {
    #[test]
    fn noise_is_survived(
        noise: Vec<u8>, changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..9),
    ) {
        let (columns, rows) = example();
        let good = bytes_of(&rows);
        for format in FORMATS {
            assert!(decode(&Bytes::from(noise.clone()), &columns, *format).is_err());
            let mut changed = file(*format, &columns, &rows).to_vec();
            for (at, byte) in &changes {
                let at = at % changed.len();
                changed[at] = *byte;
            }
            if let Ok(read) = decode(&changed.into(), &columns, *format) {
                assert!(read == good, "{format:?}");
            }
        }
    }
}
