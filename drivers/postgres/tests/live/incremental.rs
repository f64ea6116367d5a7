//! Backups that build on earlier ones.

use super::stage::{Bustle, Restored, Stage};

const SUMMARIES: &[&str] = &["summarize_wal = on"];

async fn increments(major: u32, way: &str) {
    let Some(stage) = Stage::open(major, SUMMARIES).await else { return };
    stage.run("CREATE TABLE doomed AS SELECT generate_series(1, 50000) AS n").await;
    let method = format!("method={way}");
    let mut base = stage.back_up(&method).await;
    assert!(!base.evidence.incremental);
    for round in 0..3 {
        let bustle = Bustle::start(&stage).await;
        stage
            .run(
                "UPDATE still SET t = t WHERE n % 1000 = 0; DELETE FROM doomed WHERE n > 20000; \
                 VACUUM doomed; INSERT INTO doomed SELECT generate_series(1, 3000)",
            )
            .await;
        let copy = stage.try_back_up(&method, Some(&base)).await.unwrap();
        let number = bustle.end().await;
        assert!(copy.evidence.incremental, "{way} {round}: {}", copy.evidence.method);
        assert!(copy.parts.kept_bytes() > 15 << 20, "{way} {round}: {}", copy.parts.kept_bytes());
        let restored = Restored::start(major, &copy).unwrap();
        assert!(restored.check().await <= number);
        assert!(restored.ask("SELECT count(*) FROM doomed WHERE n <= 3000").await >= 3000);
        stage.run("UPDATE ledger SET number = 0").await;
        base = copy;
    }
    // Nothing happened since: next to nothing is read.
    stage.run("CHECKPOINT").await;
    let quiet = stage.try_back_up(&method, Some(&base)).await.unwrap();
    assert!(quiet.parts.kept_bytes() > 15 << 20, "{way}");
    Restored::start(major, &quiet).unwrap().check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_sql_only_changed_blocks_are_read_on_17() {
    increments(17, "sql").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_sql_only_changed_blocks_are_read_on_18() {
    increments(18, "sql").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_the_server_only_changed_blocks_are_read() {
    increments(17, "local").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_sends_only_changed_blocks_on_17() {
    increments(17, "base_backup").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_sends_only_changed_blocks_on_18() {
    increments(18, "base_backup").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_summaries_everything_is_read_and_the_report_says_why() {
    for (major, settings) in [(15, &[][..]), (17, &["summarize_wal = off"][..])] {
        let Some(stage) = Stage::open(major, settings).await else { return };
        for way in ["sql", "base_backup"] {
            let base = stage.back_up(&format!("method={way}")).await;
            let copy = stage.try_back_up(&format!("method={way}"), Some(&base)).await.unwrap();
            assert!(!copy.evidence.incremental);
            assert!(copy.evidence.method.contains("every block ("), "{}", copy.evidence.method);
            Restored::start(major, &copy).unwrap().check().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_whose_summaries_are_gone_is_read_as_a_whole() {
    let Some(stage) = Stage::open(17, SUMMARIES).await else { return };
    let base = stage.back_up("method=sql").await;
    stage.run("ALTER SYSTEM SET summarize_wal = off; SELECT pg_reload_conf()").await;
    stage.run("SELECT pg_sleep(0.5); UPDATE still SET t = t; CHECKPOINT").await;
    stage.run("SELECT pg_switch_wal(); CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT").await;
    let summaries = stage.server.data().join("pg_wal/summaries");
    for entry in std::fs::read_dir(summaries).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    stage.run("ALTER SYSTEM SET summarize_wal = on; SELECT pg_reload_conf()").await;
    for way in ["sql", "base_backup"] {
        let copy = stage.try_back_up(&format!("method={way}"), Some(&base)).await.unwrap();
        assert!(!copy.evidence.incremental, "{}", copy.evidence.method);
        Restored::start(17, &copy).unwrap().check().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_alone_does_not_see_rows_deleted_since_the_base() {
    // Records that clear a bit of the visibility map do not name its block.
    let settings = ["summarize_wal = on", "autovacuum = off"];
    let Some(stage) = Stage::open(17, &settings).await else { return };
    stage
        .run(
            "CREATE TABLE seen (n int PRIMARY KEY);
             INSERT INTO seen SELECT generate_series(1, 999)",
        )
        .await;
    for (round, way) in ["sql", "base_backup"].into_iter().enumerate() {
        stage.run("VACUUM seen; CHECKPOINT").await;
        let method = format!("method={way}");
        let base = stage.back_up(&method).await;
        stage.run(&format!("DELETE FROM seen WHERE n % 100 = {round}")).await;
        let copy = stage.try_back_up(&method, Some(&base)).await.unwrap();
        assert!(copy.evidence.incremental, "{}", copy.evidence.method);
        let client = Restored::start(17, &copy).unwrap();
        let client = client.client().await;
        client
            .batch_execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
            .await
            .unwrap();
        let query = "SELECT count(*) FROM seen WHERE n < 500";
        let by_index: i64 = client.query_one(query, &[]).await.unwrap().get(0);
        let expected: i64 = stage.client().await.query_one(query, &[]).await.unwrap().get(0);
        assert_eq!(by_index, expected, "{way}");
    }
}
