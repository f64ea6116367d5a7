//! One entry per decoder of foreign bytes, for fuzzers: none may panic or use memory out of
//! proportion, and what is decoded must agree with itself.

use bytes::Bytes;
use stillpoint_contract::{Class, Column, Kind, RowBatch};

use super::{Decoder, Encoded, Encoder, Format, Layout, Origin, cell, text};

const FORMATS: &[Format] = &[
    #[cfg(feature = "parquet")]
    Format::Parquet,
    Format::Csv,
    Format::Jsonl,
];

fn kinds() -> Vec<Kind> {
    let list = |element| Kind::List { element: Box::new(element), element_type: 1043 };
    vec![
        Kind::Int32,
        Kind::Bool,
        Kind::Float64,
        Kind::Decimal { precision: 20, scale: 3 },
        Kind::Text,
        Kind::Jsonb,
        Kind::Bytes,
        Kind::Uuid,
        Kind::Date,
        Kind::Time,
        Kind::TimeTz,
        Kind::TimestampTz,
        Kind::Interval,
        list(Kind::Text),
        list(Kind::TimeTz),
        Kind::Dynamic { declared: Class::Integer },
        Kind::Dynamic { declared: Class::Any },
    ]
}

fn columns() -> Vec<Column> {
    let column = |(kind, id): (Kind, i32)| Column {
        name: format!("c{id}"),
        id,
        engine_type: String::new(),
        kind,
        is_cast: false,
        is_nullable: true,
        is_generated: false,
    };
    kinds().into_iter().zip(1..).map(column).collect()
}

/// A file of rows, in each format.
pub fn fuzz_file(bytes: &[u8]) {
    for format in FORMATS {
        let Some(rows) = read(bytes, *format) else { continue };
        let Some(again) = write(&rows, *format) else { panic!("what was read does not fit") };
        assert_eq!(read(&again, *format).map(joined), Some(joined(rows)));
    }
}

/// A value as an engine sends it, of each kind: what a file takes comes back, also as text.
pub fn fuzz_value(bytes: &[u8]) {
    let (mut scratch, mut plain, mut out) = (Vec::new(), Vec::new(), Vec::new());
    for kind in kinds() {
        let Some(cell) = cell::take(&kind, bytes) else { continue };
        out.clear();
        cell::put(&kind, &cell, &mut out).expect("what was taken can be written");
        assert_eq!(out, bytes, "{kind:?}");
        plain.clear();
        out.clear();
        text::json::write_plain(&kind, &cell, &mut scratch, &mut plain);
        text::json::read_plain(&kind, &plain, &mut scratch, &mut out).expect("it is such a text");
        assert_eq!(out, bytes, "{kind:?}");
    }
}

fn read(bytes: &[u8], format: Format) -> Option<Vec<RowBatch>> {
    let mut decoder = Decoder::new(&Bytes::copy_from_slice(bytes), &columns(), format).ok()?;
    let mut batches = Vec::new();
    while let Some(rows) = decoder.next().ok()? {
        batches.push(rows);
    }
    Some(batches)
}

fn write(batches: &[RowBatch], format: Format) -> Option<Bytes> {
    let (origin, columns) = (Origin::default(), columns());
    let layout = Layout {
        columns: &columns,
        key: &[0],
        is_sorted: false,
        lookup: &[],
        format,
        origin: &origin,
    };
    let mut encoder = Encoder::new(&layout).ok()?;
    for rows in batches {
        encoder.push(rows).ok()?;
    }
    match encoder.finish().ok()? {
        Encoded::File { bytes, .. } => Some(bytes),
        Encoded::Misfits(_) => None,
    }
}

fn joined(batches: Vec<RowBatch>) -> Vec<u8> {
    batches.into_iter().flat_map(|rows| rows.bytes().to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use proptest::prelude::{Strategy, any, proptest};
    use stillpoint_contract::RowWriter;

    use super::*;
    use crate::archiver::file::tests::edges;

    /// NULLs, and three values of each kind.
    fn rows() -> RowBatch {
        let mut rows = RowWriter::default();
        for at in 0..4 {
            rows.begin(kinds().len());
            for kind in kinds() {
                match edges(&kind).into_iter().cycle().nth(at) {
                    Some(value) if at > 0 => rows.value(&[&value]),
                    _ => rows.null(),
                }
            }
            rows.end().unwrap();
        }
        rows.take()
    }

    fn corpus(target: &str) -> PathBuf {
        let root = env!("CARGO_MANIFEST_DIR");
        [root, "tests", "fuzz", "corpus", target].iter().collect()
    }

    /// The files that are checked in were written by the first version, and are read for ever.
    /// With `STILLPOINT_BLESS=1` in the environment they are written.
    #[test]
    fn files_of_the_first_version_are_read() {
        for format in FORMATS {
            let file = corpus("archive_file").join(format.extension());
            if std::env::var_os("STILLPOINT_BLESS").is_some() {
                fs::create_dir_all(corpus("archive_file")).unwrap();
                fs::write(&file, write(&[rows()], *format).unwrap()).unwrap();
            }
            let stored = fs::read(&file).unwrap_or_default();
            let read = read(&stored, *format).map(joined);
            assert_eq!(read, Some(joined(vec![rows()])), "{}", file.display());
            fuzz_file(&stored);
        }
    }

    #[test]
    fn every_edge_survives() {
        for kind in kinds() {
            for value in edges(&kind) {
                fuzz_value(&value);
            }
        }
    }

    /// A few changes to a good input reach further than noise does.
    fn changes() -> impl Strategy<Value = Vec<(usize, u8)>> {
        proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6)
    }

    proptest! {
        #[test]
        fn decoders_survive_noise(bytes: Vec<u8>) {
            fuzz_file(&bytes);
            fuzz_value(&bytes);
        }

        #[test]
        fn decoders_survive_damage(changes in changes(), cut: usize) {
            for format in FORMATS {
                let mut bytes = fs::read(corpus("archive_file").join(format.extension())).unwrap();
                for (at, byte) in &changes {
                    let at = at % bytes.len();
                    bytes[at] = *byte;
                }
                fuzz_file(&bytes);
                fuzz_file(&bytes[..cut % bytes.len()]);
            }
        }
    }
}
