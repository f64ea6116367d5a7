//! Rows as people read them.

use stillpoint_contract::{Class, ErrorKind, Kind};

use super::{
    super::{Format, csv_header, csv_record, json_line, value_text},
    support::{bytes_of, columns, edges, file, kinds, list},
};

#[test]
fn rows_look_as_they_do_in_files() {
    let kinds = kinds();
    let columns = columns(&kinds);
    let value = |kind: &Kind, at: usize| edges(kind).into_iter().nth(at);
    let rows: Vec<Vec<_>> =
        (0..9).map(|at| kinds.iter().map(|kind| value(kind, at)).collect()).collect();
    let (mut csv, mut jsonl) = (Vec::new(), Vec::new());
    csv_header(&columns, &mut csv);
    let fields: Vec<_> = (0..columns.len()).map(Some).collect();
    for row in bytes_of(&rows) {
        csv_record(&row, &columns, &fields, &mut csv).unwrap();
        json_line(&row, &columns, &mut jsonl).unwrap();
    }
    let text = |format| zstd::decode_all(&*file(format, &columns, &rows)).unwrap();
    assert_eq!(String::from_utf8(csv), String::from_utf8(text(Format::Csv)));
    assert_eq!(String::from_utf8(jsonl.clone()), String::from_utf8(text(Format::Jsonl)));
    // What another program takes for JSON.
    for line in str::from_utf8(&jsonl).unwrap().lines() {
        let object: serde_json::Map<_, _> = serde_json::from_str(line).unwrap();
        assert_eq!(object.len(), columns.len());
    }
}

#[test]
fn values_have_the_text_that_people_expect() {
    let array = super::support::array(&[Some(b"a\"".to_vec()), None]);
    let decimal = Kind::Decimal { precision: 9, scale: 3 };
    for (kind, value, text) in [
        (Kind::Bool, vec![1], "true"),
        (Kind::Int16, vec![255, 254], "-2"),
        (Kind::Float64, (-0.0_f64).to_be_bytes().to_vec(), "-0.0"),
        (Kind::Float64, 1e300_f64.to_be_bytes().to_vec(), "1e300"),
        (Kind::Float32, 0x7fc0_0001_u32.to_be_bytes().to_vec(), "NaN(7fc00001)"),
        (decimal, vec![0, 1, 255, 255, 0x40, 0, 0, 3, 0, 50], "-0.005"),
        (Kind::Text, b"a\"".to_vec(), "a\""),
        (Kind::Bytes, vec![0, 255], "\\x00ff"),
        (Kind::Uuid, (0..16).collect(), "00010203-0405-0607-0809-0a0b0c0d0e0f"),
        (Kind::Date, vec![0; 4], "2000-01-01"),
        (Kind::Time, 3_600_000_001_i64.to_be_bytes().to_vec(), "01:00:00.000001"),
        (
            Kind::TimeTz,
            [[0; 8].to_vec(), (-7200_i32).to_be_bytes().to_vec()].concat(),
            "00:00:00+02:00",
        ),
        (Kind::Timestamp, vec![0; 8], "2000-01-01T00:00:00"),
        (Kind::TimestampTz, (-1_i64).to_be_bytes().to_vec(), "1999-12-31T23:59:59.999999Z"),
        (Kind::Interval, vec![0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3], "P3M2DT0.000001S"),
        (list(Kind::Text), array, r#"["a\"",null]"#),
        (Kind::Dynamic { declared: Class::Any }, b"ta".to_vec(), "a"),
        (Kind::Dynamic { declared: Class::Any }, b"t\xff".to_vec(), r#"{"raw_text":"\\xff"}"#),
        (Kind::Dynamic { declared: Class::Blob }, b"b\xff".to_vec(), "\\xff"),
    ] {
        assert_eq!(value_text(&kind, &value).as_deref(), Some(text), "{kind:?}");
    }
    assert_eq!(value_text(&Kind::Bool, &[2]), None);
}

#[test]
fn what_is_no_row_is_not_shown() {
    let columns = columns(&[Kind::Bool]);
    for row in
        [&b""[..], b"\0\0", b"\0\x01\0\0\0\x01\x02", b"\0\x02\xff\xff\xff\xff\xff\xff\xff\xff"]
    {
        let error = json_line(row, &columns, &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(csv_record(row, &columns, &[], &mut Vec::new()).is_err());
    }
}

#[test]
fn a_record_has_the_fields_of_its_heading() {
    let columns = columns(&[Kind::Text, Kind::Text]);
    let rows = bytes_of(&[vec![Some(b"a".to_vec()), Some(b"b,".to_vec())]]);
    let mut csv = Vec::new();
    let row = rows.first().unwrap();
    csv_record(row, &columns, &[Some(1), None, Some(0), Some(9)], &mut csv).unwrap();
    assert_eq!(String::from_utf8(csv).unwrap(), "\"b,\",,\"a\",\r\n");
}
