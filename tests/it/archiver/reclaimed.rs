//! What became of the space of partitions that left as a whole.

use super::shop::InPostgres;
use crate::serving::ward::{HEAD, Ward};

const PARTED: &str = "
    CREATE TABLE parted (id int PRIMARY KEY, state text) PARTITION BY RANGE (id);
    CREATE TABLE gone PARTITION OF parted FOR VALUES FROM (0) TO (20000);
    CREATE TABLE stays PARTITION OF parted FOR VALUES FROM (20000) TO (40000);
    INSERT INTO parted SELECT n, repeat('x', 80) FROM generate_series(0, 20100) AS n;";

/// A partition takes its space as long as it stands beside its table; dropped, all of it is back.
#[tokio::test(flavor = "multi_thread")]
async fn space_of_a_dropped_partition_went_back_to_the_system() {
    let Some(shop) = InPostgres::new(17).await else { return };
    let client = shop.client().await;
    client.batch_execute(PARTED).await.unwrap();
    let size = "SELECT pg_total_relation_size('gone')";
    let size: i64 = client.query_one(size, &[]).await.unwrap().get(0);
    let size = size.cast_unsigned();
    let policy = |grace: &str| {
        format!(
            "{HEAD}[database.shop]\nendpoint = \"postgres://postgres@127.0.0.1:{}/postgres\"\n\
             [archive.parted]\ndatabase = \"shop\"\nroot = \"public.parted\"\n\
             where = \"id < 20000\"\ngrace = \"{grace}\"\n",
            shop.server.port()
        )
    };
    let ward = Ward::new(&policy("1h"));
    ward.ok(&["init", "--repo", "repo", "--no-encryption"]);
    assert_eq!(ward.json(&["archive", "run", "parted"])["quit"], "gate");

    let reclaim = ["archive", "reclaim", "parted"];
    let told = ward.json(&reclaim);
    let bytes = |table: &str, key: &str| {
        let rows = told["tables"].as_array().unwrap();
        let row = rows.iter().find(|row| row["table"] == table);
        row.unwrap_or_else(|| panic!("no {table}: {told:#}"))[key].as_u64().unwrap()
    };
    assert!(bytes("public.gone", "after_bytes") >= size, "{told:#}");
    assert_eq!(bytes("public.gone", "returned_bytes"), 0, "{told:#}");
    assert!(bytes("public.stays", "after_bytes") > 0, "{told:#}");
    assert_eq!(told["dropped"].as_array().unwrap().len(), 0, "{told:#}");
    assert!(ward.ok(&reclaim).contains("public.gone stands beside its table"));

    ward.configure(&policy("1s"));
    ward.wait_until("the partition is dropped", || {
        ward.json(&["archive", "run", "parted"])["quit"] != "gate"
    });
    let told = ward.json(&[&reclaim[..], &["--method", "vacuum"]].concat());
    assert_eq!(told["dropped"][0]["partition"], "public.gone", "{told:#}");
    let returned = told["dropped"][0]["returned_bytes"].as_u64().unwrap();
    assert!(returned.abs_diff(size) <= size / 5, "{returned} of {size}");
    assert_eq!(told["tables"].as_array().unwrap().len(), 1, "{told:#}");
    assert!(ward.ok(&reclaim).contains("1 partition was dropped: about"));
    client.batch_execute("DROP TABLE parted").await.unwrap();
}
