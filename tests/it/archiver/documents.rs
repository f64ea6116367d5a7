//! What was written down about a set: documents that are gone, damaged or misplaced, and files that
//! none of them names.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use std::{fs, sync::Arc};

use bytes::Bytes;
use chrono::Months;
use stillpoint::{
    archiver::{Place, Quit, Shelf, Verified, Wanted, expire, find, verify},
    policy::{Period, PeriodUnit},
    repository::store::{Key, Store},
};
use stillpoint_contract::{ErrorKind, LedgerEntry};

use super::{
    few::few,
    keys::{bytes, copy_of, names, replace},
    shop::{Sqlite, Yard},
};

const FILES: &str = "archive/orders/orders/";
const DOCUMENTS: &str = "archive/orders/_stillpoint/";

/// Several batches of orders, moved by one run.
async fn yard() -> Yard<Sqlite> {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.rule.file_bytes = 1;
    yard.fill(0..300, 0).await;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 300);
    assert!(names(&*yard.store, FILES).await.len() > 1);
    yard
}

impl Yard<Sqlite> {
    /// The same database, with an archive in another store.
    fn moved(&mut self, store: Arc<dyn Store>) {
        self.place = Place::new(Arc::clone(&store), "orders").unwrap();
        self.store = store;
    }

    async fn verified(&self, ledger: Option<&[LedgerEntry]>) -> Verified {
        Box::pin(verify(&self.place, &self.world.cpu, ledger, |_| true)).await.unwrap()
    }

    /// What is wrong with this run is told, once, and whoever would go on is refused.
    async fn tells(&self, run: &str, batch: u32, what: &str) {
        let found = self.verified(None).await;
        let [damage] = &*found.damages else { panic!("{what}: {found:?}") };
        let told = (&*damage.run, damage.batch, damage.error.kind());
        assert_eq!(told, (run, batch, ErrorKind::Corrupt), "{what}: {damage:?}");
        assert!(!damage.error.advice().is_empty() || damage.error.reason().is_some(), "{what}");
        // The other batches are looked at all the same.
        assert_eq!(found.rows > 0, batch > 0, "{what}: {found:?}");
        let ledger = self.ledger().await;
        let found = self.verified(Some(&ledger)).await.damages;
        assert!(found.iter().any(|one| one.run == run && one.batch == batch), "{what}: {found:?}");
        assert_eq!(self.run().await.unwrap_err().kind(), ErrorKind::Corrupt, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_is_gone_is_told() {
    let mut yard = yard().await;
    let intact = copy_of(&*yard.store).await;
    assert_eq!(yard.verified(Some(&yard.ledger().await)).await.damages.len(), 0);
    let run = Shelf::load(&yard.place).await.unwrap().runs[0].plan.run.clone();
    let folder = format!("{DOCUMENTS}{run}/");
    let all = names(&*intact, &folder).await;
    let at = |name: &str| Key::new(format!("{folder}{name}")).unwrap();
    let manifest = at("000001.0000.json");
    for (gone, batch) in [
        (vec![at("plan.json")], 0),
        (vec![manifest.clone()], 1),
        (vec![manifest, at("000001.sealed.json")], 1),
        (all, 0),
    ] {
        let store = copy_of(&*intact).await;
        for key in &gone {
            store.delete(key).await.unwrap();
        }
        yard.moved(store);
        yard.tells(&run, batch, &format!("{gone:?}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_is_another_one_is_told() {
    let mut yard = yard().await;
    let intact = copy_of(&*yard.store).await;
    let run = Shelf::load(&yard.place).await.unwrap().runs[0].plan.run.clone();
    let at = |name: &str| Key::new(format!("{DOCUMENTS}{run}/{name}")).unwrap();
    let (begin, end) = run.split_at(25);
    let end = if end == "0" { "1" } else { "0" };
    let (own, other) = (format!("\"run\": \"{run}\""), format!("\"run\": \"{begin}{end}\""));
    for (name, from, to, batch) in [
        ("plan.json", &*own, &*other, 0),
        ("000001.0000.json", &own, &other, 1),
        ("000001.0000.json", "\"number\": 1", "\"number\": 2", 1),
        ("000001.0000.json", "\"generation\": 0", "\"generation\": 1", 1),
        // A manifest of what was sealed is gone.
        ("000001.sealed.json", "\"generation\": 0", "\"generation\": 1", 1),
        ("000001.sealed.json", "{", "", 1),
        ("end.json", "{", "", 0),
    ] {
        let store = copy_of(&*intact).await;
        let text = String::from_utf8(bytes(&*store, &at(name)).await).unwrap();
        let changed = text.replacen(from, to, 1);
        assert_ne!(text, changed, "{name} {from}");
        replace(&*store, &at(name), changed.into_bytes()).await;
        yard.moved(store);
        yard.tells(&run, batch, &format!("{name}: {to}")).await;
    }
    let store = copy_of(&*intact).await;
    let of_second = bytes(&*store, &at("000002.0000.json")).await;
    replace(&*store, &at("000001.0000.json"), of_second).await;
    yard.moved(store);
    yard.tells(&run, 1, "the manifest of another batch").await;
    // Readers say so, too, and do not pass over what they cannot find.
    let wanted = Wanted::default();
    let found = find(&yard.place, &yard.world.cpu, &wanted, None, async |_| Ok(()));
    assert_eq!(Box::pin(found).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

/// Files between which and their manifests somebody was killed, and files that lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_no_document_names_is_counted() {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.fill(0..40, 0).await;
    yard.rule.file_bytes = 1;
    yard.limits.rows_max = Some(20);
    assert_eq!(yard.run().await.unwrap().quit, Quit::RowsMax);
    let there = names(&*yard.store, FILES).await;
    let (folder, name) = there[0].as_str().rsplit_once('/').unwrap();
    let run = name.split('-').next().unwrap();
    let put = async |writing: &str| {
        let key = Key::new(format!("{folder}/{run}-{writing}-0badf00d.parquet")).unwrap();
        yard.store.create(&key, Bytes::from_static(b"rows")).await.unwrap();
    };
    // One that an erasure is about to name, one that lost, and one of a batch to come.
    for writing in ["000001-0001", "000001-0000", "000099-0000"] {
        put(writing).await;
    }
    let found = yard.verified(None).await;
    assert_eq!((found.damages.len(), found.unnamed), (0, 3), "{found:?}");
    yard.limits.rows_max = None;
    assert!(yard.run().await.unwrap().quit.is_done());
    let found = yard.verified(None).await;
    assert_eq!((found.damages.len(), found.unnamed), (0, 1), "{found:?}");

    // A run that has ended leaves none, unless a store keeps it: the ledger knows.
    let key = Key::new(format!("{folder}/{run}-000098-0000-0badf00d.parquet")).unwrap();
    yard.store.create(&key, Bytes::from_static(b"rows")).await.unwrap();
    let found = yard.verified(None).await;
    let told: Vec<_> = found.damages.iter().map(|one| (&*one.run, one.batch)).collect();
    assert_eq!((told, found.unnamed), (vec![(run, 98)], 1), "{found:?}");
    let advice = found.damages[0].error.advice().concat();
    assert!(advice.contains("archive verify orders --against-ledger"), "{advice}");
    let ledger = yard.ledger().await;
    let found = yard.verified(Some(&ledger)).await;
    assert_eq!((found.damages.len(), found.unnamed), (0, 2), "{found:?}");
    // What is nobody's is not ours to judge.
    let key = Key::new(format!("{folder}/notes.txt")).unwrap();
    yard.store.create(&key, Bytes::from_static(b"mine")).await.unwrap();
    assert_eq!(yard.verified(Some(&ledger)).await.unnamed, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_is_missed_by_nobody() {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.rule.keep = Some(Period { count: 1, unit: PeriodUnit::Months });
    yard.fill(0..20, 0).await;
    yard.run().await.unwrap();
    let later = yard.world.clock.now().checked_add_months(Months::new(3)).unwrap();
    let places = [yard.place.clone()];
    Box::pin(expire(&places, &yard.world, &yard.rule, later, false)).await.unwrap();
    let ledger = yard.ledger().await;
    for ledger in [None, Some(&*ledger)] {
        let found = yard.verified(ledger).await;
        assert_eq!((found.damages.len(), found.rows, found.unnamed), (0, 0, 0), "{found:?}");
    }
}

/// The same through the program.
#[test]
fn verify_says_which_document_is_gone() {
    let (ward, _shop) = few(1, "");
    ward.ok(&["archive", "run", "few"]);
    let found = ward.json(&["archive", "verify", "few", "--against-ledger"]);
    assert_eq!((&found["rows"], &found["unnamed_files"]), (&1.into(), &0.into()), "{found:#}");
    let runs = ward.json(&["archive", "ls", "few"]);
    let run = runs["runs"][0]["run"].as_str().unwrap();
    fs::remove_file(ward.path(&format!("repo/archive/few/_stillpoint/{run}/plan.json"))).unwrap();
    let (status, told) = ward.run(&["archive", "verify", "few"]);
    assert!(status != 0 && told.contains("DAMAGED") && told.contains("plan.json"), "{told}");
    assert!(told.contains(&format!("run {run}: ")), "{told}");
    let (status, told) = ward.run(&["archive", "scan", "few"]);
    assert!(status != 0 && told.contains("archive verify few"), "{told}");
}
