//! Object container files of Apache Avro: as much of them as manifests need, and no compression.
//! Source: Apache Avro 1.12, Specification, "Binary Encoding" and "Object Container Files".

/// How many bytes of records stand between two marks, about.
const BLOCK_BYTES: usize = 64 << 10;

const MARK_BYTES: usize = 16;

/// A file as it grows.
pub(super) struct Container {
    head: Record,
    /// How many records, and their bytes.
    blocks: Vec<(i64, Record)>,
}

/// Values, one behind the other; those of a structure are its fields in their order.
#[derive(Default)]
pub(super) struct Record(Vec<u8>);

impl Container {
    /// A file of records with such a schema, and what else is said of them.
    pub(super) fn new(schema: &str, about: &[(&str, &str)]) -> Self {
        let mut head = Record(b"Obj\x01".to_vec());
        head.length(about.len() + 2);
        for (name, value) in [("avro.schema", schema), ("avro.codec", "null")].iter().chain(about) {
            head.string(name).string(value);
        }
        head.long(0);
        Self { head, blocks: Vec::new() }
    }

    /// Where the next record goes.
    pub(super) fn next(&mut self) -> &mut Record {
        if self.blocks.last().is_none_or(|(_, block)| block.0.len() >= BLOCK_BYTES) {
            self.blocks.push((0, Record::default()));
        }
        let (records, block) = self.blocks.last_mut().expect("there is one");
        *records += 1;
        block
    }

    /// The bytes of the file: the same for the same records. Marks are made of all of them, so that
    /// no file has the mark of another one.
    pub(super) fn finish(self) -> Vec<u8> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.head.0);
        for (_, block) in &self.blocks {
            hasher.update(&block.0);
        }
        let mark = hasher.finalize();
        let mark = &mark.as_bytes()[..MARK_BYTES];
        let mut out = self.head;
        out.0.extend_from_slice(mark);
        for (records, block) in &self.blocks {
            out.long(*records).length(block.0.len());
            out.0.extend_from_slice(&block.0);
            out.0.extend_from_slice(mark);
        }
        out.0
    }
}

impl Record {
    /// An `int` or a `long`; also which member of a union follows.
    pub(super) fn long(&mut self, value: i64) -> &mut Self {
        let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
        while rest >= 0x80 {
            self.0.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
        self
    }

    /// How many bytes or members follow; no memory has more than fit in.
    pub(super) fn length(&mut self, count: usize) -> &mut Self {
        self.long((count as u64).cast_signed())
    }

    /// A `string`, or `bytes`.
    pub(super) fn string(&mut self, text: &str) -> &mut Self {
        self.length(text.len());
        self.0.extend_from_slice(text.as_bytes());
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::{BLOCK_BYTES, Container, MARK_BYTES};

    /// Reads what stands in a file, and nothing of how it was written.
    struct Reader<'a>(&'a [u8]);

    impl<'a> Reader<'a> {
        fn take(&mut self, bytes: usize) -> &'a [u8] {
            let (taken, rest) = self.0.split_at(bytes);
            self.0 = rest;
            taken
        }

        fn long(&mut self) -> i64 {
            let (mut value, mut shift) = (0_u64, 0);
            loop {
                let byte = self.take(1)[0];
                value |= u64::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    let half = (value >> 1).cast_signed();
                    return if value & 1 == 0 { half } else { -half - 1 };
                }
                shift += 7;
            }
        }

        fn string(&mut self) -> String {
            let bytes = usize::try_from(self.long()).expect("a length");
            String::from_utf8(self.take(bytes).to_vec()).expect("text")
        }
    }

    proptest! {
        #[test]
        fn another_decoder_reads_every_record(
            schema in ".*",
            about in prop::collection::vec((".*", ".*"), 0..4),
            rows in prop::collection::vec((any::<i64>(), ".*"), 0..50),
            times in 1..40_usize,
        ) {
            let pairs: Vec<(&str, &str)> = about.iter().map(|(a, b)| (&**a, &**b)).collect();
            let written: Vec<_> = rows.iter().cycle().take(rows.len() * times).collect();
            let mut container = Container::new(&schema, &pairs);
            for (number, text) in &written {
                container.next().long(*number).string(text);
            }
            let bytes = container.finish();

            let mut reader = Reader(&bytes);
            assert_eq!(reader.take(4), b"Obj\x01");
            let pairs = reader.long();
            let said = (0..pairs).map(|_| (reader.string(), reader.string()));
            let said: Vec<_> = said.collect();
            assert_eq!(reader.long(), 0);
            let codec = ("avro.codec".to_owned(), "null".to_owned());
            let own = [("avro.schema".to_owned(), schema), codec];
            assert_eq!(said, [&own[..], &about].concat());
            let mark = reader.take(MARK_BYTES);
            let mut read = Vec::new();
            while !reader.0.is_empty() {
                let records = reader.long();
                let bytes = usize::try_from(reader.long()).expect("a length");
                let mut block = Reader(reader.take(bytes));
                read.extend((0..records).map(|_| (block.long(), block.string())));
                assert!(block.0.is_empty(), "a block is as long as it says");
                assert_eq!(reader.take(MARK_BYTES), mark);
            }
            assert_eq!(read.iter().collect::<Vec<_>>(), written);
        }
    }

    #[test]
    fn extremes_are_written_as_others_write_them() {
        let mut container = Container::new("{}", &[]);
        let values = [0, -1, 1, -64, 64, i64::MAX, i64::MIN];
        for value in values {
            container.next().long(value);
        }
        let written = container.finish();
        let first = b"\x00\x01\x02\x7f\x80\x01";
        assert!(written.windows(first.len()).any(|bytes| bytes == first), "{written:?}");
        let mut long = Container::new("{}", &[]);
        for _ in 0..3 {
            long.next().string(&"x".repeat(BLOCK_BYTES));
        }
        assert_eq!(long.blocks.len(), 3);
    }
}
