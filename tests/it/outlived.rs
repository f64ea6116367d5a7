//! A restore that fails or is dropped has nobody left at work: whoever tidies up, or goes on, is
//! alone.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    collections::BTreeMap,
    fs,
    future::poll_fn,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    task::Poll,
    thread,
    time::Duration,
};

use stillpoint::{
    pipeline::Meter,
    repository::{
        BackupReader, Repository,
        store::{Fault, FaultyStore, MemoryStore, Store},
    },
    world::World,
};
use stillpoint_contract::{ErrorKind, PartName, Result};
use tempfile::TempDir;

use crate::support::{
    data::content,
    ledger::Ledger,
    session::{Driver, Method, init},
};

/// Small parts: laying out a stretch of them takes a while.
const PARTS: usize = 300;

/// Long enough for whoever is at work to be seen.
const WHILE: Duration = Duration::from_millis(20);

const ROUNDS: usize = 2;

/// A backup of many parts in a store that fails when told.
struct Scene {
    store: Arc<FaultyStore<MemoryStore>>,
    repository: Repository,
    reader: BackupReader,
    folder: TempDir,
}

impl Scene {
    async fn new() -> Self {
        let (world, ledger) = (World::real(2), Ledger::default());
        let store = Arc::new(FaultyStore::new(MemoryStore::default(), 1));
        let repository = init(world.clone(), Arc::clone(&store) as Arc<dyn Store>).await.unwrap();
        let names: Vec<String> = (0..PARTS).map(|n| format!("{}/{n}", n % 7)).collect();
        let parts: Vec<_> = names.iter().map(|name| (name.as_str(), 9000)).collect();
        let driver = Driver::new(&world, "shop", &ledger);
        let content = content(1, &parts);
        let backup = driver.back_up(&repository, &content, Method::Whole).await.unwrap();
        let reader = repository.reader(&backup).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self { store, repository, reader, folder }
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("target")
    }

    async fn extract(&self) -> Result<u64> {
        let target = self.target();
        let place = |part: &PartName| Some(target.join(part.as_str()));
        self.reader.extract(place, &Meter::default()).await
    }

    async fn extract_over(&self) -> Result<()> {
        let target = self.target();
        let place = |part: &PartName| Some(target.join(part.as_str()));
        let (last, settle, meter) = ("0/0", async || Ok(()), Meter::default());
        self.reader.extract_over(&target, last, place, settle, &meter).await.map(drop)
    }

    /// What is there is removed, and does not come back.
    fn assert_alone(&self, what: &str) {
        let target = self.target();
        if target.exists() {
            fs::remove_dir_all(&target).unwrap_or_else(|cause| panic!("{what}: {cause}"));
        }
        thread::sleep(WHILE);
        assert!(!target.exists(), "{what}: somebody wrote again");
    }

    /// Nobody changes what is there.
    fn assert_still(&self, what: &str) {
        let before = files(&self.target());
        thread::sleep(WHILE);
        assert!(files(&self.target()) == before, "{what}: somebody still writes");
    }

    /// Files that a restore has to change, and one that it has to remove.
    fn litter(&self) {
        for n in 0..PARTS {
            let path = self.target().join(format!("{}/{n}", n % 7));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        fs::write(self.target().join("stray"), "x").unwrap();
    }
}

fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.insert(entry.path(), fs::read(entry.path()).unwrap());
        }
    }
    found
}

/// Looks at a future so many times and drops it. Whether it came to its end.
async fn looked_at<T>(times: usize, future: impl Future<Output = T>) -> bool {
    let mut future = pin!(future);
    let mut left = times;
    poll_fn(move |context| {
        if future.as_mut().poll(context).is_ready() {
            return Poll::Ready(true);
        }
        left -= 1;
        if left == 0 { Poll::Ready(false) } else { Poll::Pending }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_has_come_to_its_end() {
    let scene = Scene::new().await;
    let mut failures = 0;
    for number in 0.. {
        let mut failed = false;
        for _ in 0..ROUNDS {
            scene.store.fault_at(scene.store.calls() + number, Fault::Fail(ErrorKind::Denied));
            failed |= scene.extract().await.is_err();
            scene.store.heal();
            scene.assert_alone(&format!("call {number} failed"));
            scene.litter();
            scene.store.fault_at(scene.store.calls() + number, Fault::Fail(ErrorKind::Denied));
            failed |= scene.extract_over().await.is_err();
            scene.store.heal();
            scene.assert_still(&format!("call {number} failed"));
            scene.assert_alone("afterwards");
        }
        if !failed {
            break;
        }
        failures += 1;
    }
    assert!(failures > 5, "only {failures} calls could fail");
    drop(scene.repository);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_dropped_has_come_to_its_end() {
    let scene = Scene::new().await;
    let (mut drops, mut times) = (0, 1);
    loop {
        let mut is_done = looked_at(times, scene.extract()).await;
        scene.assert_alone(&format!("dropped after {times}"));
        scene.litter();
        is_done &= looked_at(times, scene.extract_over()).await;
        scene.assert_still(&format!("dropped after {times}"));
        scene.assert_alone("afterwards");
        if is_done {
            break;
        }
        drops += 1;
        times += 1 + times / 8;
    }
    assert!(drops > 10, "it was looked at {drops} times only");
}
