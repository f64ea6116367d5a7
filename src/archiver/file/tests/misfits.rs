//! Values that a file does not hold exactly are refused, and fit once their column is promoted.

use proptest::prelude::{any, prop_assert_eq, proptest};
use stillpoint_contract::{Class, Column, ErrorKind, Kind};

use super::{
    super::{Encoded, Encoder, Format, Layout, Origin, SliceHash},
    support::{
        DAY, EPOCH, FORMATS, Row, array, batch, bytes_of, columns, decode, edges, encode, kinds,
        list,
    },
};

/// Values that do not fit, although an engine may have them.
fn misfits(kind: &Kind) -> Vec<Vec<u8>> {
    let be = |value: i64| value.to_be_bytes().to_vec();
    let words = |words: &[i32]| words.iter().flat_map(|word| word.to_be_bytes()).collect();
    let dynamic = |class: Class, value: &[u8]| [&[class as u8], value].concat();
    match kind {
        Kind::Bool => vec![vec![2], vec![255]],
        Kind::Decimal { precision: 5, scale: 2 } => vec![
            // NaN, infinity, another scale, zeros in front and behind, six digits.
            vec![0, 0, 0, 0, 0xc0, 0, 0, 2],
            vec![0, 0, 0, 0, 0xd0, 0, 0, 0],
            vec![0, 1, 0, 0, 0, 0, 0, 1, 0, 1],
            vec![0, 2, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1],
            vec![0, 2, 0, 0, 0, 0, 0, 2, 0, 1, 0, 0],
            vec![0, 1, 0, 0, 0, 0, 0, 2, 4, 0],
        ],
        Kind::Text | Kind::Enum { .. } | Kind::Json => {
            vec![vec![0xff], vec![0xc0, 0x80], vec![0xed, 0xa0, 0x80], b"a\xc3".to_vec()]
        }
        Kind::Jsonb => vec![b"{}".to_vec(), b"\x02{}".to_vec(), b"\x01\xff".to_vec()],
        Kind::Uuid => vec![vec![0; 15], vec![0; 17]],
        Kind::Date => {
            let days = [i32::MIN, i32::MAX, i32::MAX - 10_956, i32::MAX - 10_957];
            days.map(|days| days.to_be_bytes().to_vec()).to_vec()
        }
        Kind::Time => vec![be(-1), be(DAY), be(i64::MAX), vec![0; 4]],
        Kind::TimeTz => vec![
            [be(DAY), vec![0; 4]].concat(),
            [be(-1), vec![0; 4]].concat(),
            [be(0), i32::MIN.to_be_bytes().to_vec()].concat(),
        ],
        Kind::Timestamp | Kind::TimestampTz => {
            [i64::MIN, i64::MAX, i64::MAX - EPOCH + 1, i64::MAX - EPOCH].map(be).to_vec()
        }
        Kind::List { element, .. } if **element == Kind::Int32 => vec![
            // Two dimensions, no dimension with elements, another lowest index, another type,
            // NULLs that are said and not there, and there and not said, an empty dimension.
            words(&[2, 0, 1043, 1, 1, 1, 1, 4, 7]),
            words(&[0, 0, 1043, 4, 7]),
            words(&[1, 0, 1043, 1, 0, 4, 7]),
            words(&[1, 0, 1042, 1, 1, 4, 7]),
            words(&[1, 1, 1043, 1, 1, 4, 7]),
            words(&[1, 0, 1043, 1, 1, -1]),
            words(&[1, 0, 1043, 0, 1]),
            words(&[0, 1, 1043]),
            words(&[1, 0, 1043, -1, 1]),
            words(&[1, 0, 1043, 1, 1, -2]),
            words(&[1, 0, 1043, 2, 1, 4, 7]),
            words(&[1, 0, 1043, 1, 1, 4, 7, 7]),
            array(&[Some(vec![1])]),
        ],
        Kind::List { element, .. } => {
            misfits(element).into_iter().map(|value| array(&[None, Some(value)])).collect()
        }
        Kind::Dynamic { declared: Class::Any } => vec![vec![], vec![b'x'], vec![b'i', 1]],
        Kind::Dynamic { declared } => {
            let all = [
                dynamic(Class::Integer, &[0; 8]),
                dynamic(Class::Real, &[0; 8]),
                dynamic(Class::Text, b"a"),
                dynamic(Class::Blob, b"a"),
            ];
            let others = all.into_iter().filter(|value| value[0] != *declared as u8);
            others.chain([vec![], vec![b'?'], dynamic(Class::Text, b"\xff")]).collect()
        }
        _ => vec![vec![0; 3]],
    }
}

#[test]
fn what_does_not_fit_is_named_and_not_written() {
    for kind in kinds() {
        let good = edges(&kind).swap_remove(0);
        let columns = columns(&[Kind::Int16, kind.clone(), Kind::Bytes, kind.clone()]);
        for bad in misfits(&kind) {
            if kind == Kind::Bytes || kind == list(Kind::Bytes) {
                continue;
            }
            let number = Some(vec![0, 1]);
            let row = |last: &[u8]| -> Row {
                vec![number.clone(), Some(good.clone()), Some(vec![255]), Some(last.to_vec())]
            };
            // Among good ones; then both columns, one behind the other.
            let other = vec![number.clone(), Some(bad.clone()), None, None];
            for format in FORMATS {
                let one = encode(*format, &columns, &[row(&good), row(&bad), row(&good)]);
                assert_eq!(one, Encoded::Misfits(vec![3]), "{format:?} {kind:?} {bad:?}");
                let both = encode(*format, &columns, &[row(&bad), other.clone()]);
                assert_eq!(both, Encoded::Misfits(vec![1, 3]), "{format:?} {kind:?} {bad:?}");
            }
        }
    }
}

#[test]
fn promoted_columns_hold_what_did_not_fit() {
    for kind in kinds() {
        let columns = columns(std::slice::from_ref(&kind));
        let promoted = columns[0].promoted();
        let Some(promoted) = promoted else { continue };
        // An engine sends the text of values instead where it has to; any will do here.
        let values = if promoted.is_cast { vec![b"infinity".to_vec()] } else { misfits(&kind) };
        let values = values.into_iter().filter(|value| {
            promoted.kind == Kind::Bytes || {
                let known = matches!(value.first(), Some(b'i' | b'r' | b't' | b'b'));
                promoted.is_cast || (known && value.len() != 1)
            }
        });
        let rows: Vec<Row> = values.map(|value| vec![Some(value)]).chain([vec![None]]).collect();
        let columns = [promoted];
        for format in FORMATS {
            let Encoded::File { bytes, .. } = encode(*format, &columns, &rows) else {
                panic!("{format:?} {kind:?}");
            };
            assert_eq!(decode(&bytes, &columns, *format).unwrap(), bytes_of(&rows));
        }
    }
}

fn begin(columns: &[Column], format: Format) -> stillpoint_contract::Result<Encoder> {
    let origin = Origin::default();
    let layout =
        Layout { columns, key: &[0], is_sorted: true, lookup: &[], format, origin: &origin };
    Encoder::new(&layout)
}

#[test]
fn tables_that_no_file_holds_are_refused() {
    let of = |kind| columns(&[kind]);
    let mut twice = columns(&[Kind::Bool, Kind::Int16]);
    twice[1].name = twice[0].name.clone();
    let mut same_id = columns(&[Kind::Bool, Kind::Int16]);
    same_id[1].id = 0;
    let mut negative = of(Kind::Bool);
    negative[0].id = -1;
    for columns in [
        vec![],
        twice,
        same_id,
        negative,
        of(Kind::Decimal { precision: 39, scale: 0 }),
        of(Kind::Decimal { precision: 0, scale: 0 }),
        of(Kind::Decimal { precision: 38, scale: 39 }),
        of(list(list(Kind::Bool))),
    ] {
        for format in FORMATS {
            let error = begin(&columns, *format).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{columns:?}");
        }
    }
}

#[test]
fn rows_of_another_width_are_refused() {
    let columns = columns(&[Kind::Bool, Kind::Bool]);
    for format in FORMATS {
        for width in [0, 1, 3] {
            let mut encoder = begin(&columns, *format).unwrap();
            let error = encoder.push(&batch(&[vec![None; width]])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }
}

proptest! {
    /// Whatever the bytes are, they come back or are refused.
    #[test]
    fn nothing_is_written_as_something_else(
        which: proptest::sample::Index, value: Vec<u8>, edge: proptest::sample::Index,
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..3),
    ) {
        let kinds = kinds();
        let kind = which.get(&kinds);
        let mut edge = edge.get(&edges(kind)).clone();
        for (at, byte) in changes {
            if let Some(place) = at.checked_rem(edge.len()).and_then(|at| edge.get_mut(at)) {
                *place = byte;
            }
        }
        let columns = columns(std::slice::from_ref(kind));
        for value in [value, edge] {
            let rows = [vec![Some(value)]];
            let mut fits = Vec::new();
            for format in FORMATS {
                let encoded = encode(*format, &columns, &rows);
                fits.push(matches!(encoded, Encoded::File { .. }));
                if let Encoded::File { bytes, .. } = encoded {
                    let read = decode(&bytes, &columns, *format).unwrap();
                    prop_assert_eq!(read, bytes_of(&rows), "{:?} {:?}", format, kind);
                }
            }
            fits.dedup();
            prop_assert_eq!(fits.len(), 1, "formats differ in what they hold");
        }
    }
}

#[test]
fn a_file_and_its_rows_have_the_same_slice_hash() {
    let columns = columns(&[Kind::Int16]);
    let rows: Vec<Row> = (0..50_i16).map(|n| vec![Some(n.to_be_bytes().to_vec())]).collect();
    let sum = |rows: &[Vec<u8>]| {
        let mut hash = SliceHash::default();
        rows.iter().rev().for_each(|row| hash.add(row));
        hash
    };
    for format in FORMATS {
        let Encoded::File { bytes, .. } = encode(*format, &columns, &rows) else { panic!() };
        let read = decode(&bytes, &columns, *format).unwrap();
        assert_eq!(sum(&read), sum(&bytes_of(&rows)));
    }
}
