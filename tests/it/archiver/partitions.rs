//! Invariant 12, for partitions whose rows are deleted: one of them is a table, all are none.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::sync::{Arc, Mutex};

use stillpoint_contract::{ErrorKind, code};

use super::{
    protocol::{Meddler, SHELVED},
    shop::{InPostgres, Shop as _, Yard},
};

/// Orders in partitions whose names do not sort as their rows do.
const PARTED: &str = "
    DROP TABLE IF EXISTS orders, parted;
    CREATE TABLE parted (id int NOT NULL, token text NOT NULL, state text NOT NULL, note text,
        amount numeric(12, 2), PRIMARY KEY (id)) PARTITION BY RANGE (id);
    CREATE TABLE p9 PARTITION OF parted FOR VALUES FROM (0) TO (100);
    CREATE TABLE p10 PARTITION OF parted FOR VALUES FROM (100) TO (200);
    INSERT INTO parted SELECT n, 'o' || n, 'closed', 'note', n FROM generate_series(50, 149) AS n;";

fn yard<S: super::shop::Shop>(shop: S, root: &str) -> Yard<S> {
    let mut yard = Yard::new(shop, false);
    root.clone_into(&mut yard.rule.root);
    yard
}

async fn count(shop: &InPostgres, table: &str) -> u64 {
    let count = shop.ask(&format!("SELECT count(*)::text FROM {table}")).await;
    count[0].parse().unwrap()
}

/// Tokens of a set's archived rows.
async fn archived<S: super::shop::Shop>(yard: &Yard<S>) -> Vec<String> {
    let root = yard.rule.root.rsplit('.').next().unwrap().to_owned();
    yard.archived(&root).await
}

#[tokio::test(flavor = "multi_thread")]
async fn i12_a_partition_is_archived_and_the_whole_table_is_refused() {
    let Some(shop) = InPostgres::new(18).await else { return };
    shop.client().await.batch_execute(PARTED).await.unwrap();
    let whole = yard(&shop, "public.parted");
    let error = whole.run().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unsupported, code::ROWS_REFUSED));
    assert!(format!("{error:?}").contains("in its partitions: name those"), "{error:?}");
    assert_eq!(count(&shop, "parted").await, 100);
    assert_eq!(whole.store.list("").await.unwrap(), []);

    // Coldfront 71: `p10` comes before `p9`, and says nothing of it.
    let newer = yard(&shop, "public.p10");
    assert_eq!(newer.run().await.unwrap().pruned_rows, 50);
    assert_eq!((count(&shop, "p9").await, count(&shop, "p10").await), (50, 0));
    assert_eq!(archived(&newer).await.len(), 50);
    let mut older = yard(&shop, "public.p9");
    "older".clone_into(&mut older.rule.name);
    assert_eq!(older.run().await.unwrap().pruned_rows, 50);
    assert_eq!((count(&shop, "parted").await, archived(&older).await.len()), (0, 50));
    assert_eq!(newer.put_back().await.unwrap().inserted, 50);
    assert_eq!(count(&shop, "parted").await, 50);
}

/// Coldfront 20: a row that moves to another partition between its copy and its deletion.
#[tokio::test(flavor = "multi_thread")]
async fn coldfront_20_a_row_that_moves_to_another_partition_is_not_lost() {
    let Some(shop) = InPostgres::new(17).await else { return };
    shop.client().await.batch_execute(PARTED).await.unwrap();
    let shop = Arc::new(shop);
    let yard = yard(Arc::clone(&shop), "public.p9");
    let moved = "UPDATE public.parted SET id = id + 100, token = 'moved' WHERE id = 77";
    let statements = Mutex::new(vec![moved.to_owned()]);
    let meddler = Meddler { shop: Arc::clone(&shop), when: SHELVED, statements };
    let report = yard.run_seen(&meddler).await.unwrap();
    assert!(report.quit.is_done() && !report.differences.is_empty(), "{report:?}");
    let archived = archived(&yard).await;
    assert!(archived.len() == 49 && !archived.contains(&"o77".to_owned()), "{archived:?}");
    assert_eq!((count(&shop, "p9").await, count(&shop, "p10").await), (0, 51));
    let found = shop.ask("SELECT token FROM p10 WHERE id = 177").await;
    assert_eq!(found, ["moved"]);
}
