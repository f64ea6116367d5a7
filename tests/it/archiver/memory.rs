//! Invariant 18: memory stays flat, however many slices are archived.
//!
//! How fast that is, beside a script and pt-archiver, `benches/archive.py` measures;
//! `benches/archive_memory.py` measures as many slices as a billion rows have.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{env, process::Command};

use stillpoint::{repository::store::RealFs, world::World};

use super::shop::{Shop as _, Sqlite, Yard, local_store};

/// Set in the process whose memory is measured, to how many rows it archives.
const MEASURED: &str = "STILLPOINT_TEST_ARCHIVED_ROWS";

/// Its main function.
const MAIN: &str = "archiver::memory::the_process_that_is_measured";

/// What a run is allowed.
const MEMORY_MAX_KIB: u64 = 200 << 10;

/// How much more it may take for four times as many rows: a third of what those rows are.
const GROWTH_MAX_KIB: u64 = 20 << 10;

const ROWS: u64 = 30_000;

#[test]
fn i18_memory_is_flat_however_many_slices_are_archived() {
    let peak_kib = |rows: u64| -> u64 {
        let mut command = Command::new(env::current_exe().unwrap());
        let child = command.args(["--exact", "--nocapture", "--test-threads", "1", MAIN]);
        let child = child.env(MEASURED, rows.to_string()).output().unwrap();
        let said = String::from_utf8_lossy(&child.stdout).into_owned();
        assert!(child.status.success(), "{said}\n{}", String::from_utf8_lossy(&child.stderr));
        let peak = said.split("peak KiB ").nth(1).and_then(|rest| rest.split_whitespace().next());
        peak.and_then(|peak| peak.parse().ok()).unwrap_or_else(|| panic!("{said}"))
    };
    let (few, many) = (peak_kib(ROWS), peak_kib(4 * ROWS));
    println!("{few} KiB and {many} KiB");
    assert!(many < MEMORY_MAX_KIB, "{many} KiB were resident, {MEMORY_MAX_KIB} are allowed");
    assert!(many < few + GROWTH_MAX_KIB, "{few} KiB, and {many} KiB for four times as many rows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_that_is_measured() {
    let Some(rows) = env::var_os(MEASURED) else { return };
    let rows: u64 = rows.to_str().unwrap().parse().unwrap();
    let folder = tempfile::Builder::new().prefix("measured-").tempdir().unwrap();
    let store = local_store(RealFs, folder.path(), &World::real(1)).await;
    let mut yard = Yard::in_store(Sqlite::new().await, false, store);
    // Hundreds of slices, and dozens of files.
    yard.rule.slice_rows = 50;
    yard.rule.file_bytes = 1 << 20;
    let fill = format!(
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < {rows}) \
         INSERT INTO orders SELECT n, 'o' || n, 'closed', hex(randomblob(330)), 1 FROM r"
    );
    yard.shop.change(&[fill]).await;
    let report = yard.run().await.unwrap();
    assert_eq!((report.quit.is_done(), report.pruned_rows), (true, rows), "{report:?}");
    println!("peak KiB {} ", peak_kib());
}

/// The most that was ever resident. Source: proc(5), `VmHWM`.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
