//! Invariant 15 for partitions: the ledger is lost after they were dropped, or the database goes
//! back to when they stood beside their table.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::time::Duration;

use bytes::Bytes;
use stillpoint::{
    archiver::{End, LiveSlice, Overlap, Quit, Reconciling, Shelf},
    repository::store::Key,
};
use stillpoint_contract::code;

use super::{
    partitions::{archived, count, nested, reattach, stands},
    shop::{InPostgres, Shop, Yard, tokens},
};

const LOOK: Reconciling = Reconciling { prunes: false, adopts: false, notes: false };

fn rows(slices: &[LiveSlice]) -> u64 {
    slices.iter().map(|slice| slice.rows).sum()
}

async fn look<S: Shop>(yard: &Yard<S>, may: Reconciling) -> Overlap {
    yard.reconcile(may).await.unwrap()
}

/// Rows of partitions that were dropped are nowhere else; but for one that somebody put back into
/// a new partition.
#[tokio::test(flavor = "multi_thread")]
async fn i15_a_lost_ledger_of_partitions_is_written_again() {
    let Some(shop) = InPostgres::new(17).await else { return };
    let yard = nested(&shop, &shop, 150).await;
    assert_eq!(yard.run().await.unwrap().quit, Quit::Finished);
    assert_eq!(archived(&yard).await, tokens(60..150));
    shop.execute(
        "DROP TABLE stillpoint.archive_ledger;
        CREATE TABLE p9 PARTITION OF parted FOR VALUES FROM (0) TO (100);
        INSERT INTO parted VALUES (70, 'o70', 'closed', 'note', 70)",
    )
    .await;
    assert_eq!(yard.run().await.unwrap_err().code(), code::LEDGER);
    for may in [LOOK, Reconciling { prunes: true, ..LOOK }] {
        let found = look(&yard, may).await;
        assert_eq!((rows(&found.live), rows(&found.unnoted)), (0, 90), "{found:?}");
        assert_eq!((found.pruned_rows, found.standing.len()), (0, 0), "{found:?}");
    }
    let found = look(&yard, Reconciling { notes: true, ..LOOK }).await;
    assert_eq!((found.live.len(), found.unnoted.len(), found.archived.1), (0, 0, 90), "{found:?}");
    assert_eq!(archived(&yard).await, tokens((60..150).filter(|id| *id != 70)));
    assert!(yard.run().await.unwrap().quit.is_done());
    assert_eq!(archived(&yard).await, tokens(60..150));
    let found = look(&yard, LOOK).await;
    assert_eq!((found.live.len(), found.unnoted.len()), (0, 0), "{found:?}");
}

/// The run had ended, and its partition stands beside the table again; with and without the
/// entries of the ledger.
#[tokio::test(flavor = "multi_thread")]
async fn i15_a_partition_that_stands_beside_its_table_again_is_told_and_put_back() {
    let Some(shop) = InPostgres::new(17).await else { return };
    for is_noted in [true, false] {
        let mut yard = nested(&shop, &shop, 100).await;
        yard.rule.grace = Duration::from_hours(1);
        assert!(matches!(yard.run().await.unwrap().quit, Quit::Gate(_)));
        // As if it had been dropped since, and the database had gone back.
        let run = Shelf::load(&yard.place).await.unwrap().runs[0].plan.run.clone();
        let (reason, at) = ("everything selected is moved".to_owned(), yard.world.clock.now());
        let end = End { reason, rows: 40, left_rows: 0, left_until: None, at };
        let key = Key::new(format!("archive/orders/_stillpoint/{run}/end.json")).unwrap();
        let end = Bytes::from(serde_json::to_vec(&end).unwrap());
        yard.store.create(&key, end).await.unwrap();
        if !is_noted {
            shop.execute("DELETE FROM stillpoint.archive_ledger").await;
            assert_eq!(yard.run().await.unwrap_err().code(), code::LEDGER);
        }

        let found = look(&yard, LOOK).await;
        let live = if is_noted { 0 } else { 40 };
        assert_eq!((rows(&found.live), found.unnoted.len()), (live, 0), "{found:?}");
        let [standing] = &*found.standing else { panic!("{found:?}") };
        assert_eq!((&*standing.partition.name, standing.rows), ("public.p9", 40));
        assert_eq!((&standing.run, standing.is_archived), (&run, is_noted));
        assert_eq!(yard.run().await.unwrap().quit, Quit::NothingSelected);
        assert!(stands(&shop, "public.p9").await);
        let visible = if is_noted { tokens(60..100) } else { Vec::new() };
        assert_eq!(archived(&yard).await, visible);

        assert_eq!(reattach(&yard, "p9").await.unwrap().run, run);
        assert_eq!((count(&shop, "parted").await, archived(&yard).await), (160, Vec::new()));
        assert_eq!(yard.ledger().await, []);
        yard.rule.grace = Duration::ZERO;
        assert_eq!(yard.run().await.unwrap().quit, Quit::Finished);
        assert_eq!((count(&shop, "parted").await, archived(&yard).await), (120, tokens(60..100)));
        let found = look(&yard, LOOK).await;
        assert_eq!((found.live.len(), found.standing.len()), (0, 0), "{found:?}");
    }
}
