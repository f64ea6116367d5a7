//! What goes in comes out, to the byte.

use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};
use stillpoint_contract::{Class, Kind};

use super::{
    super::Format,
    support::{FORMATS, Row, bytes_of, column, columns, decode, edges, file, kinds, tables},
};

#[test]
fn row_23_every_kind_keeps_its_edges() {
    for kind in kinds() {
        let columns = columns(std::slice::from_ref(&kind));
        let mut rows: Vec<Row> = edges(&kind).into_iter().map(|value| vec![Some(value)]).collect();
        rows.extend([vec![None], vec![None]]);
        for format in FORMATS {
            let bytes = file(*format, &columns, &rows);
            let read = decode(&bytes, &columns, *format).unwrap();
            assert_eq!(read, bytes_of(&rows), "{format:?} {kind:?}");
        }
    }
}

#[test]
fn no_rows_are_a_file_too() {
    for format in FORMATS {
        for kind in kinds() {
            let columns = columns(&[kind]);
            let bytes = file(*format, &columns, &[]);
            assert_eq!(decode(&bytes, &columns, *format).unwrap(), Vec::<Vec<u8>>::new());
        }
    }
}

#[test]
fn names_may_look_like_each_other() {
    let names = ["a", "A", "a__offset", "A__OFFSET", "a__offset_", "x.y", "\"", "é", "", "list"];
    let columns: Vec<_> =
        names.iter().zip(1..).map(|(name, id)| column(name, id, Kind::TimeTz)).collect();
    let value = edges(&Kind::TimeTz).pop();
    let rows = [vec![value; names.len()], vec![None; names.len()]];
    for format in FORMATS {
        let bytes = file(*format, &columns, &rows);
        assert_eq!(decode(&bytes, &columns, *format).unwrap(), bytes_of(&rows), "{format:?}");
    }
}

/// More rows than are written or read at once, and longer ones than are kept at once.
#[test]
fn many_and_long_rows_come_back() {
    let columns = columns(&[Kind::Int32, Kind::Text, Kind::Dynamic { declared: Class::Any }]);
    let row = |number: i32| -> Row {
        let length = if number % 5000 == 0 { 3_000_000 } else { number as usize % 40 };
        let text = "abc\"\n".bytes().cycle().take(length).collect();
        let number = number.to_be_bytes().to_vec();
        vec![Some(number.clone()), Some(text), Some([vec![b'b'], number].concat())]
    };
    let rows: Vec<_> = (0..20_001).map(row).collect();
    for format in FORMATS {
        let bytes = file(*format, &columns, &rows);
        assert!(decode(&bytes, &columns, *format).unwrap() == bytes_of(&rows), "{format:?}");
    }
}

#[test]
fn text_is_what_other_programs_expect() {
    let columns = columns(&[
        Kind::Text,
        Kind::Bytes,
        Kind::Float64,
        Kind::Decimal { precision: 9, scale: 2 },
    ]);
    let decimal = edges(&columns[3].kind).swap_remove(1);
    let rows = [
        vec![
            Some(b"a\"\nb".to_vec()),
            Some(vec![0, 255]),
            Some(1.5_f64.to_be_bytes().to_vec()),
            None,
        ],
        vec![Some(Vec::new()), None, Some(f64::INFINITY.to_be_bytes().to_vec()), Some(decimal)],
    ];
    let text = |format| {
        let bytes = file(format, &columns, &rows);
        // Also that decompressors skip what stands behind the text.
        String::from_utf8(zstd::decode_all(&*bytes).unwrap()).unwrap()
    };
    let csv = "\"c0\",\"c1\",\"c2\",\"c3\"\r\n\"a\"\"\nb\",\"\\x00ff\",\"1.5\",\r\n\
               \"\",,\"Infinity\",\"-0.01\"\r\n";
    assert_eq!(text(Format::Csv), csv);
    let jsonl = r#"{"c0":"a\"\nb","c1":"\\x00ff","c2":1.5,"c3":null}
{"c0":"","c1":null,"c2":"Infinity","c3":"-0.01"}
"#;
    assert_eq!(text(Format::Jsonl), jsonl);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn row_23_whatever_fits_comes_back((columns, rows) in tables()) {
        for format in FORMATS {
            let bytes = file(*format, &columns, &rows);
            let read = decode(&bytes, &columns, *format).unwrap();
            prop_assert_eq!(read, bytes_of(&rows), "{:?} {:?}", format, columns);
        }
    }
}
