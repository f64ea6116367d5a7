//! What `archive plan` says that a run will lock.

use serde_json::Value;

use super::shop::InPostgres;
use crate::serving::ward::{HEAD, Ward};

const PARTED: &str = "
    CREATE TABLE customers (id int PRIMARY KEY);
    CREATE TABLE parted (id int PRIMARY KEY, customer int REFERENCES customers)
        PARTITION BY RANGE (id);
    CREATE TABLE old_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
    CREATE TABLE old_2 PARTITION OF parted FOR VALUES FROM (100) TO (200);
    CREATE TABLE newer PARTITION OF parted FOR VALUES FROM (200) TO (300);
    INSERT INTO parted SELECT n FROM generate_series(0, 219) AS n;";

/// Partitions that leave are locked otherwise than those of which rows are deleted.
#[tokio::test(flavor = "multi_thread")]
async fn i12_a_plan_says_what_is_locked_while_partitions_leave() {
    let Some(shop) = InPostgres::new(17).await else { return };
    shop.client().await.batch_execute(PARTED).await.unwrap();
    let policy = |below: u32| {
        format!(
            "{HEAD}[database.shop]\nendpoint = \"postgres://postgres@127.0.0.1:{}/postgres\"\n\
             [archive.parted]\ndatabase = \"shop\"\nroot = \"public.parted\"\n\
             where = \"id < {below}\"\ngrace = \"1h\"\n",
            shop.server.port()
        )
    };
    let ward = Ward::new(&policy(210));
    ward.ok(&["init", "--repo", "repo", "--no-encryption"]);
    let plan = ["archive", "plan", "parted"];
    let told = ward.json(&plan);
    let count = |told: &Value, on: &str, mode: &str, held: &str| {
        let locks = told["locks"].as_array().unwrap().iter();
        locks.filter(|one| one["on"] == on && one["mode"] == mode && one["held"] == held).count()
    };
    for (on, mode, held, expected) in [
        ("public.parted", "SHARE UPDATE EXCLUSIVE", "moment", 1),
        // Each when it leaves, and, for as long as it takes, when it is compared and dropped.
        ("public.old_1", "ACCESS EXCLUSIVE", "moment", 1),
        ("public.old_1", "ACCESS EXCLUSIVE", "table", 2),
        ("public.old_2", "ACCESS EXCLUSIVE", "table", 2),
        ("public.customers", "SHARE ROW EXCLUSIVE", "moment", 1),
        ("public.customers", "ACCESS EXCLUSIVE", "moment", 1),
        ("public.newer", "ROW EXCLUSIVE", "transaction", 1),
        ("public.newer", "ACCESS EXCLUSIVE", "table", 0),
        ("public.old_1", "ROW EXCLUSIVE", "transaction", 0),
    ] {
        assert_eq!(count(&told, on, mode, held), expected, "{on} {mode} {held}: {told:#}");
    }
    let page = ward.ok(&plan);
    for said in ["DETACH PARTITION … CONCURRENTLY", "DROP TABLE", "old_1 and another partition"] {
        assert!(page.contains(said), "{said}: {page}");
    }

    // Where all of them leave, no rows are deleted.
    ward.configure(&policy(200));
    assert!(!ward.ok(&plan).contains("rows are deleted"), "{told:#}");
    // What stands beside its table is still to be dropped.
    assert_eq!(ward.json(&["archive", "run", "parted"])["quit"], "gate");
    let told = ward.json(&plan);
    assert_eq!(count(&told, "public.old_2", "ACCESS EXCLUSIVE", "table"), 2, "{told:#}");
    assert!(!told["locks"].to_string().contains("DETACH"), "{told:#}");
}
