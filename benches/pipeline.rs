//! How fast one thread takes chunks in and gives them back.
//!
//! `cargo bench --bench pipeline`. The data are pages of a real SQLite database, the figures are
//! bytes of plaintext per second of processor time, so that a busy machine does not blur them.
//!
//! To reach: 3 GB/s for `unchanged`, 300 MB/s for `new, verified`.

#[path = "../src/pipeline/testing.rs"]
mod testing;

use std::{fs, hint::black_box, time::Duration};

use bytes::Bytes;
use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main,
    measurement::{Measurement, ValueFormatter, WallTime},
};
use stillpoint::{
    pipeline::{
        compress::{Base, Effort, Level, Scratch},
        id::{ChunkSize, RepositoryId},
        keys::{Domain, RepositoryKey},
        seal::{BlobKind, Sealer},
    },
    repository::pack::{PackBuilder, PackKind, SealedBlob},
};
use testing::{Seeded, Shop};

const ROWS: u64 = 150_000;

/// Processor time of the measuring thread.
/// Source: `Documentation/scheduler/sched-stats.rst`, `/proc/<pid>/schedstat`, first field.
struct ProcessorTime;

impl Measurement for ProcessorTime {
    type Intermediate = u64;
    type Value = Duration;

    fn start(&self) -> u64 {
        let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has procfs");
        text.split(' ').next().and_then(|n| n.parse().ok()).expect("the first field is a number")
    }

    fn end(&self, start: u64) -> Duration {
        // The kernel accounts in ticks; a sample too short for one still took some time.
        Duration::from_nanos((self.start() - start).max(1))
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// The same places of a database before and after a small change.
struct Pages {
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Pages {
    fn new() -> Self {
        let mut shop = Shop::new(ROWS, 1);
        let before = shop.pages();
        shop.update(ROWS / 500);
        Self { before, after: shop.pages() }
    }

    fn chunks(&self, size: usize) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        self.before.chunks_exact(size).zip(self.after.chunks_exact(size))
    }
}

fn domain() -> Domain {
    let key = RepositoryKey::generate(&Seeded::new(1));
    Domain::encrypted(RepositoryId::new([1; 16]), Domain::EPOCH_FIRST, &key)
}

fn make(
    (domain, sealer, scratch): (&Domain, &Sealer, &mut Scratch),
    plain: &[u8],
    base: Option<Base<'_>>,
    effort: Effort,
) -> SealedBlob {
    let base = base.map(|base| (domain.chunk_id(base.plain), base));
    let id = domain.chunk_id(plain);
    SealedBlob::make((BlobKind::Data, id, plain), base, effort, sealer, scratch)
        .expect("the chunk is valid")
}

fn full(parts: (&Domain, &Sealer, &mut Scratch), plain: &[u8]) -> SealedBlob {
    make(parts, plain, None, Effort::default())
}

fn group<'a>(
    criterion: &'a mut Criterion<ProcessorTime>,
    name: &str,
    bytes: usize,
) -> BenchmarkGroup<'a, ProcessorTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::BytesDecimal(bytes as u64)).sample_size(20);
    group
}

fn taking_in(criterion: &mut Criterion<ProcessorTime>) {
    let (domain, pages, mut scratch) = (domain(), Pages::new(), Scratch::new());
    let sealer = domain.sealer(&Seeded::new(2));
    for size in [65_536, ChunkSize::DEFAULT.bytes(), 1_048_576] {
        let mut chunks = pages.chunks(size).cycle();
        let mut next = || chunks.next().expect("the cycle has no end").0;
        let mut group = group(criterion, &format!("taking in {size}"), size);
        // What the machine can do at all: figures of machines compare by their ratio to it.
        let mut zstd = zstd::bulk::Compressor::new(1).expect("level 1 exists");
        let mut out = vec![0; zstd::zstd_safe::compress_bound(size)];
        group.bench_function("zstd -1 alone", |b| {
            b.iter(|| zstd.compress_to_buffer(next(), &mut out[..]).expect("there is room"));
        });
        group.bench_function("unchanged", |b| b.iter(|| black_box(domain.chunk_id(next()))));
        for (name, verify) in [("new, verified", true), ("new, trusted", false)] {
            let effort = Effort { level: Level::DEFAULT, verify };
            group.bench_function(name, |b| {
                b.iter(|| black_box(make((&domain, &sealer, &mut scratch), next(), None, effort)));
            });
        }
        let based: Vec<_> = pages
            .chunks(size)
            .filter(|(before, after)| before != after)
            .map(|(before, after)| {
                let stored = full((&domain, &sealer, &mut scratch), before).stored_bytes();
                (Base { plain: before, stored_bytes: stored }, after)
            })
            .collect();
        let mut changed = based.iter().cycle();
        group.bench_function("changed, verified", |b| {
            b.iter(|| {
                let (base, after) = changed.next().expect("the cycle has no end");
                let (id, effort) = (domain.chunk_id(base.plain), Effort::default());
                let chunk = (BlobKind::Data, domain.chunk_id(after), *after);
                SealedBlob::make(chunk, Some((id, *base)), effort, &sealer, &mut scratch)
            });
        });
    }
}

fn giving_back(criterion: &mut Criterion<ProcessorTime>) {
    let (domain, pages, mut scratch) = (domain(), Pages::new(), Scratch::new());
    let sealer = domain.sealer(&Seeded::new(2));
    let size = ChunkSize::DEFAULT.bytes();
    let changed: Vec<_> = pages.chunks(size).filter(|(before, after)| before != after).collect();
    let fulls: Vec<_> =
        changed.iter().map(|(before, _)| full((&domain, &sealer, &mut scratch), before)).collect();
    let deltas: Vec<_> = changed
        .iter()
        .zip(&fulls)
        .map(|((plain, after), full)| {
            let base = Base { plain, stored_bytes: full.stored_bytes() };
            (make((&domain, &sealer, &mut scratch), after, Some(base), Effort::default()), *plain)
        })
        .collect();

    let mut group = group(criterion, &format!("giving back {size}"), size);
    let mut blobs = fulls.iter().cycle();
    group.bench_function("full", |b| {
        b.iter(|| {
            let blob = blobs.next().expect("the cycle has no end");
            blob.open(&blob.label().id, None, &domain, &mut scratch).expect("it was just sealed")
        });
    });
    let mut blobs = deltas.iter().cycle();
    group.bench_function("delta, base at hand", |b| {
        b.iter(|| {
            let (blob, base) = blobs.next().expect("the cycle has no end");
            let base = blob.label().base.map(|_| *base);
            blob.open(&blob.label().id, base, &domain, &mut scratch).expect("it was just sealed")
        });
    });
}

fn packing(criterion: &mut Criterion<ProcessorTime>) {
    let (domain, pages, mut scratch) = (domain(), Pages::new(), Scratch::new());
    let sealer = domain.sealer(&Seeded::new(2));
    let blobs: Vec<SealedBlob> = pages
        .chunks(ChunkSize::DEFAULT.bytes())
        .map(|(plain, _)| full((&domain, &sealer, &mut scratch), plain))
        .collect();
    let build = || -> Bytes {
        let mut pack = PackBuilder::new(PackKind::Data, &domain, &Seeded::new(3));
        let mut next = blobs.iter().cycle();
        while pack.file_bytes() < PackBuilder::DATA_TARGET_BYTES - ChunkSize::DEFAULT.bytes() {
            pack.push(next.next().expect("the cycle has no end")).expect("there is room");
        }
        pack.finish().bytes
    };
    let mut group = group(criterion, "packing", build().len());
    group.bench_function("fill and name", |b| b.iter(build));
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(ProcessorTime);
    targets = taking_in, giving_back, packing
}
criterion_main!(benches);
