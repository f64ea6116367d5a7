//! Another program reads our Parquet files, and finds in them what was in the rows.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{fs, path::PathBuf};

use stillpoint::archiver::file::{Encoded, Encoder, Format, Layout, Origin};
use stillpoint_contract::{Class, Column, Kind, RowWriter};
use stillpoint_testcontainers::DuckDb;

fn column(name: &str, id: i32, kind: Kind) -> Column {
    Column {
        name: name.to_owned(),
        id,
        engine_type: "any".to_owned(),
        kind,
        is_cast: false,
        is_nullable: true,
        is_generated: false,
    }
}

fn write(columns: &[Column], rows: &[Vec<Option<Vec<u8>>>]) -> (tempfile::TempDir, PathBuf) {
    let mut writer = RowWriter::default();
    for row in rows {
        writer.begin(row.len());
        for value in row {
            match value {
                Some(value) => writer.value(&[value]),
                None => writer.null(),
            }
        }
        writer.end().unwrap();
    }
    let origin = Origin { set: "orders".to_owned(), run: "r1".to_owned(), ..Origin::default() };
    let format = Format::Parquet;
    let layout =
        Layout { columns, key: &[0], is_sorted: true, lookup: &[], format, origin: &origin };
    let mut encoder = Encoder::new(&layout).unwrap();
    encoder.push(&writer.take()).unwrap();
    let Encoded::File { bytes, .. } = encoder.finish().unwrap() else { panic!("misfits") };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("rows.{}", format.extension()));
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn ask(duckdb: &DuckDb, sql: &str) -> Vec<Vec<Option<String>>> {
    let answer = duckdb.query(sql).unwrap_or_else(|error| panic!("{sql}\n{error}"));
    answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn array(values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let has_null = u32::from(values.iter().any(Option::is_none));
    for word in [1, has_null, 25, values.len() as u32, 1] {
        bytes.extend(word.to_be_bytes());
    }
    for value in values {
        bytes.extend(value.map_or(u32::MAX, |value| value.len() as u32).to_be_bytes());
        bytes.extend(value.unwrap_or_default());
    }
    bytes
}

/// A kind, what DuckDB calls it, and two values with DuckDB's text of them.
type Case = (Kind, &'static str, [(Vec<u8>, &'static str); 2]);

const DAY: i64 = 86_400_000_000;

fn be<const N: usize>(bytes: [u8; N]) -> Vec<u8> {
    bytes.to_vec()
}

fn long(value: i64) -> Vec<u8> {
    be(value.to_be_bytes())
}

fn cases() -> Vec<Case> {
    [numbers(), texts_and_bytes(), times(), composites()].concat()
}

fn numbers() -> Vec<Case> {
    vec![
        (Kind::Int64, "BIGINT", [(long(i64::MIN), "-9223372036854775808"), (long(7), "7")]),
        (Kind::Bool, "BOOLEAN", [(vec![0], "false"), (vec![1], "true")]),
        (
            Kind::Int16,
            "SMALLINT",
            [(be(i16::MIN.to_be_bytes()), "-32768"), (be(i16::MAX.to_be_bytes()), "32767")],
        ),
        (
            Kind::Int32,
            "INTEGER",
            [(be(i32::MIN.to_be_bytes()), "-2147483648"), (be(7_i32.to_be_bytes()), "7")],
        ),
        (
            Kind::Float32,
            "FLOAT",
            [
                (be(16_777_216_f32.to_be_bytes()), "16777216.0"),
                (be(f32::NEG_INFINITY.to_be_bytes()), "-inf"),
            ],
        ),
        (
            Kind::Float64,
            "DOUBLE",
            [
                (be(f64::MAX.to_be_bytes()), "1.7976931348623157e+308"),
                (be(f64::NAN.to_be_bytes()), "nan"),
            ],
        ),
        (
            Kind::Decimal { precision: 12, scale: 2 },
            "DECIMAL(12,2)",
            [
                (vec![0, 1, 255, 255, 0x40, 0, 0, 2, 0, 100], "-0.01"),
                (vec![0, 3, 0, 1, 0, 0, 0, 2, 0, 12, 13, 128, 30, 120], "123456.78"),
            ],
        ),
        (
            Kind::Decimal { precision: 38, scale: 0 },
            "DECIMAL(38,0)",
            [
                (
                    [&[0, 1, 0, 9, 0, 0, 0, 0][..], &[0, 99]].concat(),
                    "99000000000000000000000000000000000000",
                ),
                (vec![0, 0, 0, 0, 0, 0, 0, 0], "0"),
            ],
        ),
    ]
}

fn texts_and_bytes() -> Vec<Case> {
    vec![
        (Kind::Text, "VARCHAR", [(vec![], ""), ("é\n\"😀".into(), "é\n\"😀")]),
        (
            Kind::Enum { labels: vec!["new".to_owned()] },
            "VARCHAR",
            [("new".into(), "new"), ("old".into(), "old")],
        ),
        (
            Kind::Json,
            "JSON",
            [(r#"{"a": 1,"a":  2}"#.into(), r#"{"a": 1,"a":  2}"#), ("[]".into(), "[]")],
        ),
        (Kind::Jsonb, "JSON", [(b"\x01{}".to_vec(), "{}"), (b"\x01null".to_vec(), "null")]),
        (Kind::Bytes, "BLOB", [(vec![], ""), (vec![0, 255, b'a'], r"\x00\xFFa")]),
        (
            Kind::Uuid,
            "UUID",
            [
                ((0..16).collect(), "00010203-0405-0607-0809-0a0b0c0d0e0f"),
                (vec![255; 16], "ffffffff-ffff-ffff-ffff-ffffffffffff"),
            ],
        ),
    ]
}

fn times() -> Vec<Case> {
    vec![
        (
            Kind::Date,
            "DATE",
            [
                (be((-10_957_i32).to_be_bytes()), "1970-01-01"),
                (be((-800_000_i32).to_be_bytes()), "0192-09-04 (BC)"),
            ],
        ),
        (Kind::Time, "TIME", [(long(0), "00:00:00"), (long(DAY - 1), "23:59:59.999999")]),
        (
            Kind::TimeTz,
            "TIME WITH TIME ZONE",
            [
                ([long(3_600_000_000), be((-7200_i32).to_be_bytes())].concat(), "23:00:00+00"),
                ([long(0), be(0_i32.to_be_bytes())].concat(), "00:00:00+00"),
            ],
        ),
        (
            Kind::Timestamp,
            "TIMESTAMP",
            [(long(0), "2000-01-01 00:00:00"), (long(-1), "1999-12-31 23:59:59.999999")],
        ),
        (
            Kind::TimestampTz,
            "TIMESTAMP WITH TIME ZONE",
            [(long(0), "2000-01-01 00:00:00+00"), (long(1), "2000-01-01 00:00:00.000001+00")],
        ),
        (
            Kind::Interval,
            "STRUCT(months INTEGER, days INTEGER, microseconds BIGINT)",
            [
                (
                    [long(-1), be(2_i32.to_be_bytes()), be((-3_i32).to_be_bytes())].concat(),
                    "{'months': -3, 'days': 2, 'microseconds': -1}",
                ),
                (vec![0; 16], "{'months': 0, 'days': 0, 'microseconds': 0}"),
            ],
        ),
    ]
}

fn composites() -> Vec<Case> {
    let list = |element| Kind::List { element: Box::new(element), element_type: 25 };
    let dynamic = |declared| Kind::Dynamic { declared };
    vec![
        (
            list(Kind::Text),
            "VARCHAR[]",
            [
                (array(&[Some(b"a"), None, Some(b"")]), "[a, NULL, '']"),
                ([[0; 8].to_vec(), be(25_i32.to_be_bytes())].concat(), "[]"),
            ],
        ),
        (
            list(Kind::Int16),
            "SMALLINT[]",
            [(array(&[Some(&[0, 7]), None]), "[7, NULL]"), (array(&[None]), "[NULL]")],
        ),
        (
            dynamic(Class::Integer),
            "BIGINT",
            [([vec![b'i'], long(-1)].concat(), "-1"), ([vec![b'i'], long(1)].concat(), "1")],
        ),
        (
            dynamic(Class::Real),
            "DOUBLE",
            [
                ([vec![b'r'], be(0.1_f64.to_be_bytes())].concat(), "0.1"),
                ([vec![b'r'], be((-0.0_f64).to_be_bytes())].concat(), "-0.0"),
            ],
        ),
        (dynamic(Class::Text), "VARCHAR", [(b"t".to_vec(), ""), (b"tx".to_vec(), "x")]),
        (dynamic(Class::Blob), "BLOB", [(b"b".to_vec(), ""), (b"b\xff".to_vec(), r"\xFF")]),
        (
            dynamic(Class::Any),
            "STRUCT(integer BIGINT, real DOUBLE, text VARCHAR, blob BLOB, raw_text BLOB)",
            [
                (
                    [vec![b'i'], long(5)].concat(),
                    "{'integer': 5, 'real': NULL, 'text': NULL, 'blob': NULL, 'raw_text': NULL}",
                ),
                (
                    b"t\xfe".to_vec(),
                    concat!(
                        "{'integer': NULL, 'real': NULL, 'text': NULL, 'blob': NULL, ",
                        r"'raw_text': '\\xFE'}"
                    ),
                ),
            ],
        ),
    ]
}

#[test]
fn duckdb_finds_what_was_written() {
    let Some(duckdb) = DuckDb::required() else { return };
    let cases = cases();
    let named = |((kind, ..), id): (&Case, i32)| column(&format!("c{}", id - 1), id, kind.clone());
    let columns: Vec<_> = cases.iter().zip(1..).map(named).collect();
    let values = |which: usize| -> Vec<_> {
        cases.iter().map(|(_, _, values)| Some(values[which].0.clone())).collect()
    };
    let mut nulls = vec![None; cases.len()];
    nulls[0] = Some(9_i64.to_be_bytes().to_vec());
    let (_folder, path) = write(&columns, &[values(0), values(1), nulls]);
    let from = format!("read_parquet('{}')", path.display());

    let mut described = ask(&duckdb, &format!("DESCRIBE SELECT * FROM {from}"));
    // Which names are in quotes is a matter of its version.
    let unquoted =
        |row: &mut Vec<Option<String>>| row[1] = row[1].take().map(|s| s.replace('"', ""));
    described.iter_mut().for_each(unquoted);
    let mut described = described.iter().map(|row| (row[0].as_deref(), row[1].as_deref()));
    for (column, (kind, name, _)) in columns.iter().zip(&cases) {
        let said = described.next().unwrap();
        assert_eq!(said, (Some(column.name.as_str()), Some(*name)), "{kind:?}");
        if *kind == Kind::TimeTz {
            let offset = format!("{}__offset", column.name);
            assert_eq!(described.next(), Some((Some(offset.as_str()), Some("INTEGER"))));
        }
    }
    assert_eq!(described.next(), None);

    let texts = columns.iter().map(|column| format!("CAST({} AS VARCHAR)", column.name));
    let texts = texts.collect::<Vec<_>>().join(", ");
    let found = ask(&duckdb, &format!("SELECT {texts} FROM {from} ORDER BY c0"));
    assert_eq!(found.len(), 3);
    for (at, (kind, _, values)) in cases.iter().enumerate() {
        for (row, (_, text)) in values.iter().enumerate() {
            assert_eq!(found[row][at].as_deref(), Some(*text), "{kind:?}");
        }
        let null = if at == 0 { Some("9") } else { None };
        assert_eq!(found[2][at].as_deref(), null, "{kind:?}");
    }

    let times = columns.iter().find(|column| column.kind == Kind::TimeTz).unwrap();
    let offsets = format!("SELECT {}__offset FROM {from} ORDER BY c0", times.name);
    let offsets = ask(&duckdb, &offsets).concat();
    assert_eq!(offsets, [Some("7200".to_owned()), Some("0".to_owned()), None]);
}

#[test]
fn duckdb_tells_nothing_from_empty_and_finds_what_the_file_is_about() {
    let Some(duckdb) = DuckDb::required() else { return };
    let columns = [column("id", 1, Kind::Int64), column("note", 7, Kind::Text)];
    let row = |at: i64| {
        let note = match at % 3 {
            0 => None,
            1 => Some(Vec::new()),
            _ => Some(b"x".to_vec()),
        };
        vec![Some(at.to_be_bytes().to_vec()), note]
    };
    let rows: Vec<_> = (0..3000).map(row).collect();
    let (_folder, path) = write(&columns, &rows);
    let path = path.display();
    let counts = ask(
        &duckdb,
        &format!(
            "SELECT count(*), count(note), count(*) FILTER (note = ''), sum(id), \
             count(*) FILTER (id = 2999) FROM read_parquet('{path}')"
        ),
    );
    let expected = ["3000", "2000", "1000", "4498500", "1"].map(|text| Some(text.to_owned()));
    assert_eq!(counts, [expected.to_vec()]);

    let ids = format!("SELECT name, field_id FROM parquet_schema('{path}') WHERE field_id > 0");
    let said = |name: &str, id: &str| vec![Some(name.to_owned()), Some(id.to_owned())];
    assert_eq!(ask(&duckdb, &ids), [said("id", "1"), said("note", "7")]);
    let about = format!(
        "SELECT decode(value) FROM parquet_kv_metadata('{path}') \
         WHERE decode(key) = 'stillpoint.origin'"
    );
    let about = ask(&duckdb, &about).concat().into_iter().flatten().collect::<String>();
    assert!(about.contains(r#""set":"orders""#) && about.contains(r#""run":"r1""#), "{about}");
}

#[test]
fn duckdb_reads_columns_whose_names_look_alike() {
    let Some(duckdb) = DuckDb::required() else { return };
    let names = ["a", "A", "a__offset", "x.y", "\"q\""];
    let kinds = [Kind::TimeTz, Kind::Text, Kind::Text, Kind::Text, Kind::Text];
    let named = names.iter().zip(kinds).zip(1..);
    let columns: Vec<_> = named.map(|((name, kind), id)| column(name, id, kind)).collect();
    let mut row: Vec<_> = names.iter().map(|name| Some(name.as_bytes().to_vec())).collect();
    row[0] = Some(vec![0; 12]);
    let (_folder, path) = write(&columns, &[row]);
    let found = ask(&duckdb, &format!("SELECT * FROM read_parquet('{}')", path.display()));
    let expected = ["00:00:00+00:00", "0", "A", "a__offset", "x.y", "\"q\""];
    assert_eq!(found, [expected.map(|text| Some(text.to_owned())).to_vec()]);
}

/// More values than a dictionary takes, so that they are written in another encoding.
#[test]
fn duckdb_finds_values_that_come_once() {
    const EVEN: i64 = 271_000_000_007;
    const ODD: i64 = -37_325_961_279_403;
    let Some(duckdb) = DuckDb::required() else { return };
    let kinds = [
        Kind::Int64,
        Kind::Int32,
        Kind::Int64,
        Kind::Date,
        Kind::Time,
        Kind::Timestamp,
        Kind::Decimal { precision: 12, scale: 2 },
        Kind::Dynamic { declared: Class::Integer },
        Kind::Text,
        Kind::Bytes,
    ];
    let named = (0..).zip(&kinds);
    let columns: Vec<_> =
        named.map(|(at, kind)| column(&format!("c{at}"), at + 1, kind.clone())).collect();
    let row = |id: i64| {
        let spread = (id * 1_664_525 + 1_013_904_223) % 2_147_483_647;
        let int32 = i32::try_from(spread).unwrap().to_be_bytes();
        let wide = id * if id % 2 == 0 { EVEN } else { ODD };
        let days = i32::try_from(id * 7 % 50_000).unwrap() - 10_957;
        let epoch = 10_957 * DAY;
        let (whole, hundredths) = (1 + id % 9973, 1 + id % 89);
        let digits = [2, 0, 0, 2, whole as u16, (hundredths * 100) as u16];
        let decimal = digits.iter().flat_map(|digit| digit.to_be_bytes()).collect();
        vec![
            Some(long(id)),
            Some(be(int32)),
            Some(long(wide)),
            Some(be(days.to_be_bytes())),
            Some(long(id * 1_000_003 % DAY)),
            Some(long(spread * 1_000_003 - epoch)),
            (id % 1000 != 0).then_some(decimal),
            Some([vec![b'i'], long(-spread)].concat()),
            Some(format!("{}{spread}", "é".repeat(id as usize % 30)).into_bytes()),
            (id % 7 != 0).then(|| spread.to_string().into_bytes()),
        ]
    };
    let rows: Vec<_> = (0..130_000).map(row).collect();
    let (_folder, path) = write(&columns, &rows);
    let wrong = format!(
        "WITH rows AS (SELECT *, (c0 * 1664525 + 1013904223) % 2147483647 AS spread
             FROM read_parquet('{}'))
         SELECT count(*), count(*) FILTER (c1 <> spread),
             count(*) FILTER (c2 <> c0 * CASE WHEN c0 % 2 = 0 THEN {EVEN} ELSE {ODD} END),
             count(*) FILTER (c3 <> DATE '1970-01-01' + CAST(c0 * 7 % 50000 AS INTEGER)),
             count(*) FILTER (c4 <> make_time(0, 0, 0) + to_microseconds(c0 * 1000003 % {DAY})),
             count(*) FILTER (c5 <> make_timestamp(spread * 1000003)),
             count(*) FILTER (c6 * 100 <> (1 + c0 % 9973) * 100 + 1 + c0 % 89),
             count(c6), count(*) FILTER (c7 <> -spread),
             count(*) FILTER (c8 <> repeat('é', c0 % 30) || spread),
             count(c9), count(*) FILTER (c9 <> encode(CAST(spread AS VARCHAR))) FROM rows",
        path.display()
    );
    let expected = ["130000", "0", "0", "0", "0", "0", "0", "129870", "0", "0", "111428", "0"];
    assert_eq!(ask(&duckdb, &wrong), [expected.map(|text| Some(text.to_owned())).to_vec()]);
    let encodings = format!(
        "SELECT string_agg(path_in_schema, ' ' ORDER BY path_in_schema) FROM parquet_metadata('{}')
         WHERE row_group_id = 0 AND encodings LIKE '%DELTA_%'",
        path.display()
    );
    let expected = "c0 c1 c2 c3 c4 c5 c6 c7 c8 c9".to_owned();
    assert_eq!(ask(&duckdb, &encodings), [[Some(expected)]]);
}
