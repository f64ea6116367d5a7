//! Standbys: backed up in place of their primary, and made of backups.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use stillpoint_testcontainers::{POSTGRES_USER, Postgres};
use tokio_postgres::Client;

use crate::{
    postgres::{Story, connect},
    tap::Tap,
};

/// Pages are of so many bytes.
const PAGE_BYTES: i64 = 8192;

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap().get(0)
}

/// Waits until a standby has so many rows.
async fn catch_up(story: &Story, standby: &Postgres, rows: i64) {
    let client = connect(standby).await;
    while number(&client, "SELECT count(*) FROM entry").await < rows {
        story.pause(20).await;
    }
}

/// Blocks that clients and their WAL senders have read from files, as the server counts them.
async fn blocks_read(client: &Client) -> i64 {
    // What a session counted is told when it ends, or a second later.
    client.batch_execute("SELECT pg_stat_force_next_flush()").await.unwrap();
    let query = "SELECT sum(reads)::int8 FROM pg_stat_io \
                 WHERE backend_type IN ('client backend', 'walsender')";
    number(client, query).await
}

/// Row 75: of a primary and its standby the standby is backed up, also where the primary is named
/// first; the primary is asked who it is, and reads about nothing. What was copied is restored.
#[tokio::test(flavor = "multi_thread")]
async fn row_75_a_backup_of_a_standby_reads_nothing_of_its_primary() {
    for method in ["sql", "base_backup"] {
        let Some(mut story) = Story::begin(17, method).await else { return };
        let fill = "CREATE TABLE bulk AS SELECT n, repeat(md5(n::text), 30) AS text
            FROM generate_series(1, 20000) AS n";
        connect(&story.server).await.batch_execute(fill).await.unwrap();
        let standby = story.server.standby().unwrap();
        story.write(2).await;
        catch_up(&story, &standby, 2).await;
        let (primary, replica) = (Tap::before(story.server.port()), Tap::before(standby.port()));
        let url = format!(
            "postgres://{POSTGRES_USER}@127.0.0.1:{},127.0.0.1:{}/postgres\
             ?method={method}&target_session_attrs=prefer-standby",
            primary.port, replica.port
        );

        let client = connect(&story.server).await;
        let size = number(&client, "SELECT pg_database_size('postgres')").await;
        let before = blocks_read(&client).await;
        let mut backup = story.site.spawn(&["backup", &url, "--name", "shop"], "backup");
        let status = loop {
            // The standby's own is the only one.
            let senders = number(&client, "SELECT count(*) FROM pg_stat_replication").await;
            assert!(senders <= 1, "{senders} are sent WAL by the primary");
            if let Some(status) = backup.ended() {
                break status;
            }
            story.pause(20).await;
        };
        let said = std::fs::read_to_string(story.site.path("backup.log")).unwrap();
        assert_eq!(status, 0, "{said}");
        story.pause(1500).await;
        let read = (blocks_read(&client).await - before) * PAGE_BYTES;
        assert!(read * 20 < size, "{method}: the primary read {read} of {size} bytes");
        assert!(primary.sent() < 64 << 10, "{method}: the primary sent {} bytes", primary.sent());
        let sent = i64::try_from(replica.sent()).unwrap();
        assert!(size < sent, "{method}: the standby sent {sent} bytes of {size}");

        let back = format!("back-{method}");
        assert_eq!(story.restore("latest", &back).await, [1, 2]);
        let restored = Postgres::start_on(17, &story.site.path(&back)).unwrap();
        let client = connect(&restored).await;
        let whole = "SELECT count(*) FROM bulk WHERE text = repeat(md5(n::text), 30)";
        assert_eq!(number(&client, whole).await, 20_000);
        let follows = "SELECT pg_is_in_recovery()::int::int8";
        assert_eq!(number(&client, follows).await, 0, "it follows nobody");
    }
}
