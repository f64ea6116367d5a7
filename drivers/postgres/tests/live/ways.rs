//! Each way of copying, on each version, while others write.

use std::{fs::File, os::unix::fs::FileExt as _, sync::atomic::Ordering};

use stillpoint_contract::{ErrorKind, PartName};
use stillpoint_testcontainers::PostgresOptions;

use super::stage::{Bustle, Restored, Stage, back_up};

const WAYS: [&str; 3] = ["sql", "local", "base_backup"];

async fn every_way_on(major: u32) {
    let Some(stage) = Stage::open(major, &[]).await else { return };
    for way in WAYS {
        let bustle = Bustle::start(&stage).await;
        while bustle.number.load(Ordering::Relaxed) < 50 {
            tokio::task::yield_now().await;
        }
        let before = bustle.number.load(Ordering::Relaxed);
        let copy = stage.back_up(&format!("method={way}")).await;
        let after = bustle.number.load(Ordering::Relaxed) + 1;
        bustle.end().await;
        let restored = Restored::start(major, &copy).unwrap_or_else(|e| panic!("{way}: {e}"));
        let number = restored.check().await;
        assert!((before..=after).contains(&number), "{way}: {number} of {before}..={after}");
        assert!(copy.evidence.replay.is_some() && !copy.evidence.incremental);
        assert_eq!(copy.layout()["corrupt_pages_count"], 0, "{way}");
        assert_eq!(copy.evidence.damage, None, "{way}");
        let names: Vec<_> = copy.parts.records().map(|r| r.spec.name.as_str()).collect();
        assert!(!names.iter().any(|name| name.contains("pgsql_tmp") || *name == "postmaster.pid"));
        stage.run("UPDATE ledger SET number = 0").await;
        stage.settled().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_restores_what_was_committed_on_13() {
    every_way_on(13).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_restores_what_was_committed_on_15() {
    every_way_on(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_restores_what_was_committed_on_17() {
    every_way_on(17).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_restores_what_was_committed_on_18() {
    every_way_on(18).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_part_at_a_time_is_enough() {
    let Some(stage) = Stage::open(15, &[]).await else { return };
    for way in WAYS {
        let driver = stage.driver(&format!("method={way}")).await;
        let bustle = Bustle::start(&stage).await;
        let copy = back_up(driver.as_ref(), None, 1).await.unwrap();
        bustle.end().await;
        Restored::start(15, &copy).unwrap().check().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fastest_way_that_the_role_may_go_is_chosen() {
    // Each DROP DATABASE makes a checkpoint, after which the server removes WAL.
    let Some(stage) = Stage::open(17, &["wal_keep_size = 1GB"]).await else { return };
    assert!(stage.back_up("").await.evidence.method.starts_with("files beside the server"));
    let functions = "FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean)";
    let files = "FUNCTION pg_read_binary_file(text, bigint, bigint, boolean), \
                 pg_stat_file(text, boolean), pg_ls_dir(text, boolean, boolean)";
    stage.run("CREATE ROLE weak LOGIN").await;
    let refused = stage.try_back_up("user=weak", None).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    stage
        .run(&format!("GRANT EXECUTE ON {functions} TO weak; GRANT EXECUTE ON {files} TO weak"))
        .await;
    // Without replication WAL is read from files.
    let bustle = Bustle::start(&stage).await;
    let copy = stage.back_up("user=weak").await;
    bustle.end().await;
    assert!(copy.evidence.method.starts_with("files read over SQL"), "{}", copy.evidence.method);
    Restored::start(17, &copy).unwrap().check().await;
    stage.run("CREATE ROLE replicator LOGIN REPLICATION").await;
    let copy = stage.back_up("user=replicator").await;
    assert!(copy.evidence.method.starts_with("BASE_BACKUP"), "{}", copy.evidence.method);
    let forced = stage.try_back_up("user=replicator method=sql", None).await.unwrap_err();
    assert_eq!(forced.kind(), ErrorKind::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_page_is_named_or_fails_the_backup() {
    let Some(mut stage) = Stage::open(15, &["autovacuum = off"]).await else { return };
    stage.run("CHECKPOINT").await;
    let row = stage.client().await.query_one("SELECT pg_relation_filepath('still')", &[]).await;
    let path: String = row.unwrap().get(0);
    stage.server.stop().unwrap();
    let file = File::options().write(true).open(stage.server.data().join(&path)).unwrap();
    file.write_all_at(b"damage", 3 * 8192 + 4000).unwrap();
    file.write_all_at(b"damage", 7 * 8192 + 4000).unwrap();
    stage.server.restart().unwrap();
    for way in ["sql", "local"] {
        let copy = stage.back_up(&format!("method={way}")).await;
        let layout = copy.layout();
        assert_eq!(layout["corrupt_pages_count"], 2, "{way}");
        let pages = [3, 7].map(|page| serde_json::json!({ "part": path, "page": page }));
        assert_eq!(layout["corrupt_pages"], serde_json::json!(pages), "{way}");
        assert!(copy.evidence.method.contains("2 CORRUPT PAGES"), "{}", copy.evidence.method);
        let damage = copy.evidence.damage.as_deref().unwrap();
        let first = format!("the first is page 3 of {path}");
        assert!(damage.starts_with("2 pages differed") && damage.ends_with(&first), "{damage}");
    }
    let failed = stage.try_back_up("method=base_backup", None).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Corrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn tablespaces_and_files_elsewhere_come_along() {
    for major in [15, 18] {
        let Some(mut stage) = Stage::open(major, &[]).await else { return };
        let space = stage.server.make_directory("my space").unwrap();
        let client = stage.client().await;
        let create = format!("CREATE TABLESPACE side LOCATION '{}'", space.display());
        client.batch_execute(&create).await.unwrap();
        client
            .batch_execute(
                "CREATE TABLE aside TABLESPACE side AS SELECT generate_series(1, 9999) AS n; \
                 CREATE UNLOGGED TABLE aside_fleeting TABLESPACE side AS SELECT 1 AS n",
            )
            .await
            .unwrap();
        drop(client);
        let elsewhere = stage.server.make_directory("etc").unwrap().join("hba.conf");
        std::fs::write(
            &elsewhere,
            "local all all trust\nhost all all all trust\nhost replication all all trust\n",
        )
        .unwrap();
        let line = format!("ALTER SYSTEM SET hba_file = '{}'", elsewhere.display());
        stage.run(&line).await;
        stage.server.stop().unwrap();
        stage.server.restart().unwrap();
        for way in WAYS {
            let copy = stage.back_up(&format!("method={way}")).await;
            let name = PartName::new("stillpoint/etc/hba_file").unwrap();
            assert!(copy.parts.bytes(&name).is_some(), "{way}");
            let restored = Restored::start(major, &copy).unwrap();
            restored.check().await;
            assert_eq!(restored.ask("SELECT count(*) FROM aside").await, 9999, "{way}");
            assert_eq!(restored.ask("SELECT count(*) FROM aside_fleeting").await, 0, "{way}");
            let place = "SELECT count(*) FROM pg_tablespace \
                         WHERE pg_tablespace_location(oid) LIKE '%/spaces/%'";
            assert_eq!(restored.ask(place).await, 1, "{way}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_tables_and_small_wal_segments() {
    let options = PostgresOptions {
        wal_segment_mib: 1,
        settings: vec!["max_locks_per_transaction = 2000".to_owned(), "max_wal_size = 1GB".into()],
        ..PostgresOptions::default()
    };
    let Some(stage) = Stage::open_with(18, &options).await else { return };
    stage
        .run(
            "DO $$ BEGIN FOR n IN 1..3000 LOOP \
             EXECUTE format('CREATE TABLE small%s (a int PRIMARY KEY, b text)', n); \
             EXECUTE format('INSERT INTO small%s VALUES (%s, ''x'')', n, n); END LOOP; END $$",
        )
        .await;
    for way in WAYS {
        let bustle = Bustle::start(&stage).await;
        let copy = stage.back_up(&format!("method={way}")).await;
        bustle.end().await;
        assert!(copy.parts.records().count() > 9000, "{way}");
        let restored = Restored::start(18, &copy).unwrap();
        restored.check().await;
        let sum = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'small%'";
        assert_eq!(restored.ask(sum).await, 3000);
    }
}
