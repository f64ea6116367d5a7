//! I9: memory stays bounded, however many parts, chunks and writers there are.

use std::{collections::BTreeMap, process::Command, sync::Arc};

use bytes::Bytes;
use futures::future::join_all;
use stillpoint::{
    coordinator::JOB_MEMORY_BYTES,
    pipeline::{Meter, id::ChunkSize},
    repository::{
        Draft, InitOptions, Repository, WriteOptions, descriptor,
        keys::PassphraseCost,
        store::{Dice, LocalStore, RealFs, Store, Writers},
    },
    world::World,
};
use stillpoint_contract::{Entropy as _, Evidence, PartName, PartSpec, Result, Shape, Sink as _};

use crate::support::{session::intent, world::runs_or};

/// Writers at the same time.
const WRITERS: usize = 64;
/// Small parts that each of them writes, and the length of its large one. `STILLPOINT_RUNS`
/// multiplies both.
const SMALL_PARTS: u64 = 400;
const LARGE_BYTES: u64 = 12 << 20;
/// What the whole program is allowed, which is what `doctor --size` reckons with for a job.
const MEMORY_MAX_KIB: u64 = JOB_MEMORY_BYTES >> 10;

/// Set in the process whose memory is measured: it has nothing to do but that.
const MEASURED: &str = "STILLPOINT_MEASURED";

#[test]
fn i9_many_parts_chunks_and_writers_stay_within_memory() {
    let child = Command::new(std::env::current_exe().unwrap())
        .env(MEASURED, "1")
        .args(["--exact", "--nocapture", "--test-threads", "1"])
        .arg("invariants::i9_memory::i9_the_measured_process")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(child.status.success(), "{said}\n{}", String::from_utf8_lossy(&child.stderr));
    let peak = said.split("peak KiB ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let peak: u64 = peak.and_then(|peak| peak.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    println!("{peak} KiB");
    assert!(peak < MEMORY_MAX_KIB, "{peak} KiB were resident, {MEMORY_MAX_KIB} are allowed");
}

#[test]
fn i9_the_measured_process() {
    if std::env::var_os(MEASURED).is_none() {
        return;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let world = World::real(2);
        let (clock, entropy) = (&*world.clock, Arc::clone(&world.entropy));
        let root = directory.path().join("repo");
        let store = LocalStore::open(RealFs, &root, Writers::Several, clock, entropy).await;
        let store: Arc<dyn Store> = Arc::new(store.unwrap());
        let options = InitOptions {
            secret: None,
            cost: PassphraseCost::DEFAULT,
            chunk_size: ChunkSize::new(65_536).unwrap(),
            writers: descriptor::Writers::Many,
        };
        let repository = Repository::init(world.clone(), store, options).await.unwrap();
        let (meter, intent) = (Arc::new(Meter::default()), intent(&world, "many"));
        let at = intent.started_at;
        let draft = repository.begin(intent, WriteOptions::default(), meter).await.unwrap();
        for written in join_all((0..WRITERS).map(|writer| write(&draft, writer))).await {
            written.unwrap();
        }
        let evidence = Evidence {
            consistent_at: None,
            consistent_time: at,
            cursor: Bytes::new(),
            replay: None,
            incremental: false,
            method: "many".to_owned(),
            tallies: Vec::new(),
            extensions: BTreeMap::new(),
            damage: None,
        };
        let committed = draft.commit(&evidence, at).await.unwrap();
        let verified = repository.verify_backup(&committed, &Arc::default()).await.unwrap();
        assert_eq!(verified.problems, []);
        assert!(verified.objects > WRITERS as u64 * SMALL_PARTS);
        println!("peak KiB {} ", peak_kib());
    });
}

async fn write(draft: &Draft<'_>, writer: usize) -> Result<()> {
    let dice = Dice::new(writer as u64);
    let factor = runs_or(1);
    for number in 0..SMALL_PARTS * factor {
        let mut bytes = vec![0; 700];
        dice.fill(&mut bytes);
        write_part(draft, format!("{writer}/small/{number}"), bytes.into(), 1).await?;
    }
    // A MiB of its own, and then the same again and again, as free pages are.
    let mut bytes = vec![0; 1 << 20];
    dice.fill(&mut bytes);
    let times = (LARGE_BYTES * factor) >> 20;
    write_part(draft, format!("{writer}/large"), bytes.into(), times).await
}

async fn write_part(draft: &Draft<'_>, name: String, bytes: Bytes, times: u64) -> Result<()> {
    let attributes = BTreeMap::new();
    let spec = PartSpec { name: PartName::new(name)?, shape: Shape::Stream, attributes };
    let part = draft.create(spec).await?;
    for time in 0..times {
        part.write(time * bytes.len() as u64, bytes.clone()).await?;
    }
    part.finish(times * bytes.len() as u64).await
}

/// The most that was ever resident. Source: proc(5), `VmHWM`.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
