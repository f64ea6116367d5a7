//! How Parquet files are laid out, as the crate `parquet` reads them.

use std::collections::HashSet;

use bytes::Bytes;
use parquet::{
    basic::{Compression, LogicalType, Type},
    file::{
        metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData},
        reader::{FileReader, SerializedFileReader},
    },
};
use stillpoint_contract::{Class, Column, ErrorKind, Kind};

use super::{
    super::{Decoder, Encoded, Encoder, Format, Layout, Origin, may_hold},
    support::{Row, batch, bytes_of, columns, decode, kinds},
};

const ROWS: i64 = 250_000;

fn number(value: i64) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

fn table() -> Vec<Column> {
    columns(&[Kind::Interval, Kind::Int64, Kind::Text, Kind::Uuid, Kind::Int16])
}

/// A key of a number and a text, and a column to look up.
fn row(at: i64) -> Row {
    let text = format!("customer {at} {}", "x".repeat(100 * usize::from(at % 1000 == 0)));
    let uuid = blake3::hash(&at.to_be_bytes()).as_bytes()[..16].to_vec();
    vec![Some(vec![1; 16]), Some(number(at * 2)), Some(text.into_bytes()), Some(uuid), None]
}

/// A file, and the most that was guessed of its length.
fn push_all(columns: &[Column], rows: impl Iterator<Item = Row>, is_sorted: bool) -> (Bytes, u64) {
    let origin = Origin { set: "orders".to_owned(), ..Origin::default() };
    let (lookup, key, format) = (["c3".to_owned()], [1, 2], Format::Parquet);
    let layout = Layout { columns, key: &key, is_sorted, lookup: &lookup, format, origin: &origin };
    let mut encoder = Encoder::new(&layout).unwrap();
    let mut longest = 0;
    for row in rows {
        encoder.push(&batch(&[row])).unwrap();
        longest = longest.max(encoder.len_bytes());
    }
    let Encoded::File { bytes, .. } = encoder.finish().unwrap() else { panic!() };
    (bytes, longest)
}

fn metadata(bytes: &Bytes) -> ParquetMetaData {
    ParquetMetaDataReader::new().parse_and_finish(bytes).unwrap()
}

#[test]
fn files_are_laid_out_for_query_engines() {
    let columns = table();
    let (bytes, guessed) = push_all(&columns, (0..ROWS).map(row), true);
    let length = bytes.len() as u64;
    assert!(guessed > length / 2 && guessed < length * 2, "{guessed} is not about {length}");
    let metadata = metadata(&bytes);
    let groups: Vec<_> = metadata.row_groups().iter().map(RowGroupMetaData::num_rows).collect();
    assert_eq!(groups, [122_880, 122_880, 4240]);
    for group in metadata.row_groups() {
        let sorting = group.sorting_columns().unwrap();
        // The text behind the number is in an order that only the engine knows.
        let sorting: Vec<_> = sorting.iter().map(|column| column.column_idx).collect();
        assert_eq!(sorting, [3]);
        for (leaf, chunk) in group.columns().iter().enumerate() {
            assert!(matches!(chunk.compression(), Compression::ZSTD(_)));
            assert_eq!(chunk.bloom_filter_offset().is_some(), (3..=5).contains(&leaf), "{leaf}");
            assert!(chunk.offset_index_offset().is_some() && chunk.statistics().is_some());
            let bound = chunk.statistics().unwrap().max_bytes_opt().map_or(0, <[u8]>::len);
            assert!(bound <= 64, "{bound}");
        }
    }
    let file = metadata.file_metadata();
    assert_eq!(file.version(), 1);
    let pairs = file.key_value_metadata().unwrap();
    let about = |name: &str| {
        let mut pairs = pairs.iter().filter(|pair| pair.key == name);
        pairs.next().and_then(|pair| pair.value.clone()).unwrap()
    };
    let origin: Origin = serde_json::from_str(&about("stillpoint.origin")).unwrap();
    assert_eq!(origin.set, "orders");
    let said: Vec<Column> = serde_json::from_str(&about("stillpoint.columns")).unwrap();
    assert_eq!(said, columns);

    // What is there is found; most of what is not there, is not.
    for at in [0, 1, 122_879, 122_880, ROWS - 1] {
        for column in [1, 2, 3] {
            let value = row(at)[column].clone().unwrap();
            assert!(may_hold(&bytes, &columns, column, &value).unwrap(), "{at} {column}");
        }
    }
    for (column, least) in [(1, 95), (2, 90), (3, 90)] {
        let mut absent = 0;
        for at in 0..100 {
            let value = match column {
                1 => Some(number(at * 2 + 1)),
                _ => row(ROWS + at)[column].clone(),
            };
            absent += i32::from(!may_hold(&bytes, &columns, column, &value.unwrap()).unwrap());
        }
        assert!(absent >= least, "{column}: {absent}");
    }
    assert!(may_hold(&bytes, &columns, 0, &[9; 16]).unwrap(), "nothing is known of it");
    assert!(!may_hold(&bytes, &columns, 1, b"no number").unwrap());
    assert_eq!(may_hold(&bytes, &columns, 9, &[]).unwrap_err().kind(), ErrorKind::Invalid);
    let other = may_hold(&bytes, &columns[..2], 1, &[0; 8]).unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Corrupt);
}

/// What bounds find has a filter only where somebody asks for one.
#[test]
fn a_key_that_rows_are_in_the_order_of_needs_no_filter() {
    let columns = columns(&[Kind::Int64]);
    let (origin, format, asked) = (Origin::default(), Format::Parquet, [columns[0].name.clone()]);
    for (key, is_sorted, lookup, expected) in [
        (&[0][..], true, &[][..], false),
        (&[0], false, &[], true),
        (&[0], true, &asked, true),
        (&[], true, &asked, true),
    ] {
        let layout = Layout { columns: &columns, key, is_sorted, lookup, format, origin: &origin };
        let mut encoder = Encoder::new(&layout).unwrap();
        encoder.push(&batch(&[vec![Some(number(1))], vec![Some(number(3))]])).unwrap();
        let Encoded::File { bytes, .. } = encoder.finish().unwrap() else { panic!() };
        let metadata = metadata(&bytes);
        let filter = metadata.row_group(0).column(0).bloom_filter_offset();
        assert_eq!(filter.is_some(), expected, "{key:?} {is_sorted} {lookup:?}");
        for (value, is_there) in [(1, true), (2, !expected), (3, true), (4, false)] {
            let found = may_hold(&bytes, &columns, 0, &number(value)).unwrap();
            assert_eq!(found, is_there, "{value}: {key:?} {is_sorted} {lookup:?}");
        }
    }
}

/// What compresses to nothing is as long as ever for whoever reads it.
#[test]
fn long_rows_are_read_a_few_at_a_time() {
    const LONG: usize = 1 << 20;
    let columns = columns(&[Kind::Int16, Kind::Bytes, Kind::Int64]);
    let row = |at: u8| vec![Some(vec![0, at]), Some(vec![at; LONG]), None];
    let (bytes, _) = push_all(&columns, (0..200).map(row), false);
    assert!(bytes.len() < LONG, "{}", bytes.len());
    let groups = metadata(&bytes).num_row_groups();
    assert!(groups >= 2, "{groups}");
    let mut decoder = Decoder::new(&bytes, &columns, Format::Parquet).unwrap();
    let mut rows = 0;
    while let Some(batch) = decoder.next().unwrap() {
        assert!(batch.len() <= 8, "{}", batch.len());
        rows += batch.len();
    }
    assert_eq!(rows, 200);
}

#[test]
fn rows_out_of_order_are_noticed_where_an_order_is_said() {
    let columns = table();
    let order = [0, 2, 1];
    let (bytes, _) = push_all(&columns, order.into_iter().map(row), false);
    assert!(metadata(&bytes).row_group(0).sorting_columns().is_none());
    let rows: Vec<_> = order.into_iter().map(row).collect();
    assert_eq!(decode(&bytes, &columns, Format::Parquet).unwrap(), bytes_of(&rows));

    let (key, origin) = ([1], Origin::default());
    let (columns, format) = (&columns[..], Format::Parquet);
    let layout =
        Layout { columns, key: &key, is_sorted: true, lookup: &[], format, origin: &origin };
    let mut encoder = Encoder::new(&layout).unwrap();
    encoder.push(&batch(&[row(1), row(1), row(2)])).unwrap();
    assert_eq!(encoder.push(&batch(&[row(1)])).unwrap_err().kind(), ErrorKind::Bug);
}

#[test]
fn every_field_has_its_own_number_and_type() {
    let mut columns = columns(&kinds());
    for column in &mut columns {
        column.id += (1 << 27) - 100;
    }
    let origin = Origin::default();
    let (format, columns) = (Format::Parquet, &columns[..]);
    let layout =
        Layout { columns, key: &[], is_sorted: false, lookup: &[], format, origin: &origin };
    let Encoded::File { bytes, .. } = Encoder::new(&layout).unwrap().finish().unwrap() else {
        panic!()
    };
    let file = SerializedFileReader::new(bytes).unwrap();
    let schema = file.metadata().file_metadata().schema_descr();
    let mut ids = HashSet::new();
    let mut pending: Vec<_> = schema.root_schema().get_fields().to_vec();
    let top: Vec<_> = pending.iter().map(|field| field.get_basic_info().id()).collect();
    for (column, id) in columns.iter().zip(top.iter().filter(|id| **id < 1 << 30)) {
        assert_eq!(column.id, *id);
    }
    while let Some(field) = pending.pop() {
        let basic = field.get_basic_info();
        // The group that Parquet puts between a list and its elements has none.
        if basic.name() != "list" {
            assert!(basic.has_id() && ids.insert(basic.id()), "{field:?}");
        }
        if field.is_group() {
            pending.extend(field.get_fields().iter().cloned());
        }
    }
    let leaf = |kind: &Kind| {
        let at = columns.iter().position(|column| column.kind == *kind).unwrap();
        let name = columns[at].name.as_str();
        let mut leaves = schema.columns().iter();
        leaves.find(|leaf| leaf.path().parts() == [name]).unwrap()
    };
    for (kind, physical, logical) in [
        (Kind::Uuid, Type::FIXED_LEN_BYTE_ARRAY, Some(LogicalType::Uuid)),
        (Kind::Jsonb, Type::BYTE_ARRAY, Some(LogicalType::Json)),
        (Kind::Text, Type::BYTE_ARRAY, Some(LogicalType::String)),
        (Kind::Bytes, Type::BYTE_ARRAY, None),
        (Kind::Dynamic { declared: Class::Integer }, Type::INT64, None),
    ] {
        let leaf = leaf(&kind);
        assert_eq!((leaf.physical_type(), leaf.logical_type_ref()), (physical, logical.as_ref()));
    }
    let in_utc = [
        (Kind::Time, false),
        (Kind::TimeTz, true),
        (Kind::Timestamp, false),
        (Kind::TimestampTz, true),
    ];
    for (kind, expected) in in_utc {
        let is_adjusted = match leaf(&kind).logical_type_ref().unwrap() {
            LogicalType::Time(time) | LogicalType::Timestamp(time) => time.is_adjusted_to_u_t_c,
            other => panic!("{other:?}"),
        };
        assert_eq!(is_adjusted, expected, "{kind:?}");
    }
}
