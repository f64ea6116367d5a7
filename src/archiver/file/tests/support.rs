//! Columns of every kind, and values for them.

use bytes::Bytes;
use proptest::prelude::{Just, Strategy, any};
use proptest::{collection, option, strategy::BoxedStrategy};
use stillpoint_contract::{Class, Column, Kind, Result, RowBatch, RowWriter};

use super::super::{Decoder, Encoded, Encoder, Format, Layout, Origin, decimal};

pub(super) const FORMATS: &[Format] = &[
    #[cfg(feature = "parquet")]
    Format::Parquet,
    Format::Csv,
    Format::Jsonl,
];

/// The values of a row, `None` for NULL.
pub(super) type Row = Vec<Option<Vec<u8>>>;

pub(super) fn column(name: &str, id: i32, kind: Kind) -> Column {
    Column {
        name: name.to_owned(),
        id,
        engine_type: String::new(),
        kind,
        is_cast: false,
        is_nullable: true,
        is_generated: false,
    }
}

pub(super) fn columns(kinds: &[Kind]) -> Vec<Column> {
    let named = |(kind, id): (&Kind, i32)| column(&format!("c{id}"), id, kind.clone());
    kinds.iter().zip(0..).map(named).collect()
}

pub(super) fn list(element: Kind) -> Kind {
    Kind::List { element: Box::new(element), element_type: 1043 }
}

fn scalars() -> Vec<Kind> {
    let decimal = |precision, scale| Kind::Decimal { precision, scale };
    let dynamic = |declared| Kind::Dynamic { declared };
    vec![
        Kind::Bool,
        Kind::Int16,
        Kind::Int32,
        Kind::Int64,
        Kind::Float32,
        Kind::Float64,
        decimal(5, 2),
        decimal(18, 0),
        decimal(30, 7),
        decimal(38, 38),
        decimal(2, 5),
        Kind::Text,
        Kind::Enum { labels: vec!["a".to_owned()] },
        Kind::Json,
        Kind::Jsonb,
        Kind::Bytes,
        Kind::Uuid,
        Kind::Date,
        Kind::Time,
        Kind::TimeTz,
        Kind::Timestamp,
        Kind::TimestampTz,
        Kind::Interval,
        dynamic(Class::Integer),
        dynamic(Class::Real),
        dynamic(Class::Text),
        dynamic(Class::Blob),
        dynamic(Class::Any),
    ]
}

/// Every kind, and lists of each.
pub(super) fn kinds() -> Vec<Kind> {
    let mut kinds = scalars();
    kinds.extend(scalars().into_iter().map(list));
    kinds
}

pub(super) fn batch(rows: &[Row]) -> RowBatch {
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
    writer.take()
}

/// Writes rows, in several batches.
pub(super) fn encode(format: Format, columns: &[Column], rows: &[Row]) -> Encoded {
    let origin = Origin { set: "orders".to_owned(), batch: 7, ..Origin::default() };
    let layout =
        Layout { columns, key: &[0], is_sorted: false, lookup: &[], format, origin: &origin };
    let mut encoder = Encoder::new(&layout).unwrap();
    for some in rows.chunks(7) {
        encoder.push(&batch(some)).unwrap();
    }
    assert_eq!(encoder.rows(), rows.len() as u64);
    encoder.finish().unwrap()
}

/// The file, where the rows fit.
pub(super) fn file(format: Format, columns: &[Column], rows: &[Row]) -> Bytes {
    match encode(format, columns, rows) {
        Encoded::File { bytes, rows: count } => {
            assert_eq!(count, rows.len() as u64);
            bytes
        }
        Encoded::Misfits(misfits) => panic!("{misfits:?} of {columns:?} do not fit: {rows:?}"),
    }
}

/// Reads all rows, as bytes.
pub(super) fn decode(bytes: &Bytes, columns: &[Column], format: Format) -> Result<Vec<Vec<u8>>> {
    let mut decoder = Decoder::new(bytes, columns, format)?;
    let mut read = Vec::new();
    while let Some(rows) = decoder.next()? {
        assert!(!rows.is_empty());
        read.extend(rows.rows().map(<[u8]>::to_vec));
    }
    assert_eq!(decoder.rows(), read.len() as u64);
    assert_eq!(decoder.next()?, None);
    Ok(read)
}

/// What is expected to be read.
pub(super) fn bytes_of(rows: &[Row]) -> Vec<Vec<u8>> {
    batch(rows).rows().map(<[u8]>::to_vec).collect()
}

/// An array as PostgreSQL sends it.
pub(super) fn array(values: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let has_null = values.iter().any(Option::is_none);
    for word in [i32::from(!values.is_empty()), i32::from(has_null), 1043] {
        bytes.extend(word.to_be_bytes());
    }
    if !values.is_empty() {
        bytes.extend((values.len() as u32).to_be_bytes());
        bytes.extend(1_i32.to_be_bytes());
    }
    for value in values {
        match value {
            None => bytes.extend((-1_i32).to_be_bytes()),
            Some(value) => {
                bytes.extend((value.len() as u32).to_be_bytes());
                bytes.extend(value);
            }
        }
    }
    bytes
}

pub(super) const DAY: i64 = 86_400_000_000;
/// From 1970 to 2000.
pub(super) const EPOCH: i64 = 10_957 * DAY;

fn be(value: i64) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

fn numeric(number: i128, scale: u8) -> Vec<u8> {
    let mut out = Vec::new();
    decimal::put(number, scale, &mut out);
    out
}

fn tagged(class: Class, value: &[u8]) -> Vec<u8> {
    [&[class as u8], value].concat()
}

/// Texts that some file format or reader has stumbled over.
const TEXTS: &[&str] = &[
    "",
    "\"",
    "\"\"",
    ",",
    "a,b",
    "\r\n",
    "\n",
    "\r",
    "\\",
    "\\n",
    "\\N",
    "\\.",
    "null",
    "NULL",
    "\0",
    "\u{1f}\u{7f}",
    "é\u{2028}😀",
    "'",
    "1",
    " 1 ",
    "\t",
    "{}",
    "[null]",
    "NaN",
    "true",
    "\u{feff}",
    "\\u0041",
    "}",
];

/// The values at the edges of what fits.
pub(in super::super) fn edges(kind: &Kind) -> Vec<Vec<u8>> {
    let texts = || TEXTS.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
    let floats = [
        0,
        1 << 63,
        1,
        f64::MAX.to_bits(),
        f64::MIN_POSITIVE.to_bits(),
        f64::INFINITY.to_bits(),
        f64::NEG_INFINITY.to_bits(),
        f64::NAN.to_bits(),
        f64::NAN.to_bits() | 1,
        0xfff8_0000_0000_0000,
        0x7ff0_0000_0000_0001,
        0.1_f64.to_bits(),
        1e23_f64.to_bits(),
        9_007_199_254_740_993.0_f64.to_bits(),
    ];
    match kind {
        Kind::Bool => vec![vec![0], vec![1]],
        Kind::Int16 => [i16::MIN, -1, 0, i16::MAX].map(|v| v.to_be_bytes().to_vec()).to_vec(),
        Kind::Int32 => [i32::MIN, -1, 0, i32::MAX].map(|v| v.to_be_bytes().to_vec()).to_vec(),
        Kind::Int64 => [i64::MIN, -1, 0, (1 << 53) + 1, i64::MAX].map(be).to_vec(),
        Kind::Float32 => [
            0,
            1 << 31,
            1,
            f32::MAX.to_bits(),
            f32::INFINITY.to_bits(),
            f32::NAN.to_bits(),
            0x7f80_0001,
            0xffc0_0001,
            0.1_f32.to_bits(),
            16_777_216_f32.to_bits(),
        ]
        .map(|bits: u32| bits.to_be_bytes().to_vec())
        .to_vec(),
        Kind::Float64 => floats.map(|bits: u64| bits.to_be_bytes().to_vec()).to_vec(),
        Kind::Decimal { precision, scale } => {
            let most = 10_i128.pow(u32::from(*precision.max(scale))) - 1;
            [-most, -1, 0, 1, 9, most].map(|number| numeric(number, *scale)).to_vec()
        }
        Kind::Text | Kind::Enum { .. } | Kind::Json => texts(),
        Kind::Jsonb => texts().into_iter().map(|text| [&[1][..], &text].concat()).collect(),
        Kind::Bytes => [texts(), vec![vec![0xff, 0], (0..=255).collect()]].concat(),
        Kind::Uuid => vec![vec![0; 16], vec![255; 16], (0..16).collect()],
        Kind::Date => [i32::MIN + 1, -10_958, -10_957, 0, i32::MAX - 10_958]
            .map(|days| days.to_be_bytes().to_vec())
            .to_vec(),
        Kind::Time => [0, 1, DAY - 1, 43_200_000_000].map(be).to_vec(),
        Kind::TimeTz => [(0, 0), (0, 1), (DAY - 1, -57_599), (1, i32::MIN + 1), (5, i32::MAX)]
            .map(|(time, west): (i64, i32)| [be(time), west.to_be_bytes().to_vec()].concat())
            .to_vec(),
        Kind::Timestamp | Kind::TimestampTz => {
            [i64::MIN + 1, -EPOCH - 1, -EPOCH, -1, 0, i64::MAX - EPOCH - 1].map(be).to_vec()
        }
        Kind::Interval => {
            [(0, 0, 0), (i64::MIN, i32::MIN, i32::MAX), (i64::MAX, -1, 1), (-1, 0, 0)]
                .map(|(microseconds, days, months)| {
                    let rest: [[u8; 4]; 2] = [i32::to_be_bytes(days), i32::to_be_bytes(months)];
                    [be(microseconds), rest.concat()].concat()
                })
                .to_vec()
        }
        Kind::List { element, .. } => {
            let values: Vec<_> = edges(element).into_iter().map(Some).collect();
            let with_null = [&[None], values.as_slice(), &[None]].concat();
            vec![array(&[]), array(&[None]), array(&values), array(&with_null)]
        }
        Kind::Dynamic { declared } => {
            let of = |class: Class| match class {
                Class::Integer => edges(&Kind::Int64),
                Class::Real => edges(&Kind::Float64),
                Class::Text => edges(&Kind::Text),
                _ => edges(&Kind::Bytes),
            };
            let all = |class: Class| of(class).into_iter().map(move |value| tagged(class, &value));
            if *declared != Class::Any {
                return all(*declared).collect();
            }
            let classes = [Class::Integer, Class::Real, Class::Text, Class::Blob];
            let mut values: Vec<_> = classes.into_iter().flat_map(all).collect();
            values.extend([tagged(Class::Text, b"\xff"), tagged(Class::Text, b"a\xc3")]);
            values
        }
    }
}

/// Values of all sorts that fit.
pub(super) fn fitting(kind: &Kind) -> BoxedStrategy<Vec<u8>> {
    let text = || any::<String>().prop_map(String::into_bytes);
    let long = |range: std::ops::Range<i64>| range.prop_map(be);
    let usual = match kind {
        Kind::Bool => any::<bool>().prop_map(|value| vec![u8::from(value)]).boxed(),
        Kind::Int16 => any::<[u8; 2]>().prop_map(Vec::from).boxed(),
        Kind::Int32 | Kind::Float32 => any::<[u8; 4]>().prop_map(Vec::from).boxed(),
        Kind::Int64 | Kind::Float64 => any::<[u8; 8]>().prop_map(Vec::from).boxed(),
        Kind::Decimal { precision, scale } => {
            let (most, scale) = (10_i128.pow(u32::from(*precision.max(scale))), *scale);
            (any::<i128>(), 0..127_u32)
                .prop_map(move |(number, by)| numeric((number >> by) % most, scale))
                .boxed()
        }
        Kind::Text | Kind::Enum { .. } | Kind::Json => text().boxed(),
        Kind::Jsonb => text().prop_map(|text| [&[1][..], &text].concat()).boxed(),
        Kind::Bytes => any::<Vec<u8>>().boxed(),
        Kind::Uuid | Kind::Interval => any::<[u8; 16]>().prop_map(Vec::from).boxed(),
        Kind::Date => {
            (i32::MIN + 1..i32::MAX - 10_957).prop_map(|days| days.to_be_bytes().to_vec()).boxed()
        }
        Kind::Time => long(0..DAY).boxed(),
        Kind::TimeTz => (long(0..DAY), i32::MIN + 1..=i32::MAX)
            .prop_map(|(time, west)| [time, west.to_be_bytes().to_vec()].concat())
            .boxed(),
        Kind::Timestamp | Kind::TimestampTz => long(i64::MIN + 1..i64::MAX - EPOCH).boxed(),
        Kind::List { element, .. } => collection::vec(option::of(fitting(element)), 0..5)
            .prop_map(|values| array(&values))
            .boxed(),
        Kind::Dynamic { declared } => {
            let of = |class: Class, kind: &Kind| {
                fitting(kind).prop_map(move |value| tagged(class, &value)).boxed()
            };
            match declared {
                Class::Integer => of(Class::Integer, &Kind::Int64),
                Class::Real => of(Class::Real, &Kind::Float64),
                Class::Text => of(Class::Text, &Kind::Text),
                Class::Blob => of(Class::Blob, &Kind::Bytes),
                Class::Any => proptest::prop_oneof![
                    of(Class::Integer, &Kind::Int64),
                    of(Class::Real, &Kind::Float64),
                    of(Class::Text, &Kind::Bytes),
                    of(Class::Blob, &Kind::Bytes),
                ]
                .boxed(),
            }
        }
    };
    let edge = proptest::sample::select(edges(kind));
    proptest::prop_oneof![3 => usual, 1 => edge].boxed()
}

/// Some columns, and rows that fit.
pub(super) fn tables() -> impl Strategy<Value = (Vec<Column>, Vec<Row>)> {
    let kinds = collection::vec(proptest::sample::select(kinds()), 1..6);
    kinds.prop_flat_map(|kinds| {
        let row: Vec<_> = kinds.iter().map(|kind| option::of(fitting(kind))).collect();
        (Just(columns(&kinds)), collection::vec(row, 0..30))
    })
}
