//! Standbys: backed up in place of their primary, and made of backups.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use stillpoint_testcontainers::{POSTGRES_USER, Postgres};
use tokio_postgres::Client;

use crate::{
    postgres::{Story, connect, exact},
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

async fn has_a_standby(server: &Postgres) -> bool {
    let query = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    number(&connect(server).await, query).await == 1
}

/// Row 78: what is restored as a standby joins its primary and streams: first what was captured,
/// then what only the primary has. One that went its own way becomes a standby again, in its place.
#[tokio::test(flavor = "multi_thread")]
async fn row_78_a_restored_standby_joins_its_primary_and_streams() {
    for major in [13, 17] {
        let Some(mut story) = Story::begin(major, "sql").await else { continue };
        story.write(2).await;
        story.back_up();
        let capture = story.capture().await;
        story.write(3).await;
        story.end(capture).await;
        story.write(2).await;
        let primary = format!("host=127.0.0.1 port={} user={POSTGRES_USER}", story.server.port());

        // What makes no standby is refused before a byte is written.
        let never = ["restore", "shop", "--to", "never"];
        let secret = format!("{primary} password=swordfish");
        let at = exact(story.instants[3]);
        for (more, says) in [
            (&["--as", "standby"][..], "--primary"),
            (&["--primary", &primary][..], "--as standby"),
            (&["--as", "other", "--primary", &primary][..], "--as"),
            (&["--as", "standby", "--primary", &secret][..], "passfile=PATH"),
            (&["--as", "standby", "--primary", &primary, "--at", &at][..], "wherever"),
        ] {
            let (status, _, said) = story.run(&[&never[..], more].concat());
            assert!(status == 2 && said.contains(says), "{more:?}: {status} {said}");
            assert!(!said.contains("swordfish") && !story.site.path("never").exists(), "{said}");
        }

        let words =
            ["restore", "shop", "--to", "follower", "--as", "standby", "--primary", &primary];
        let plan = story.ok(&[&words[..], &["--plan"]].concat());
        let command = plan["command"].as_str().unwrap();
        assert!(command.contains("--as standby --primary \"host="), "{plan:#}");
        let follower = story.site.path("follower");
        assert!(!follower.exists());
        let answer = story.ok(&words);
        assert!(answer["notes"].to_string().contains("it follows host=127.0.0.1"), "{answer:#}");
        let mut standby = Postgres::start_on(major, &follower).unwrap();
        catch_up(&story, &standby, 7).await;
        story.write(1).await;
        catch_up(&story, &standby, 8).await;
        assert!(has_a_standby(&story.server).await);
        let own = connect(&standby).await;
        assert_eq!(number(&own, "SELECT pg_is_in_recovery()::int::int8").await, 1);

        // Promoted by mistake, it is another branch; its place is taken by a standby again.
        own.batch_execute("SELECT pg_promote()").await.unwrap();
        own.batch_execute("INSERT INTO entry VALUES (99)").await.unwrap();
        drop(own);
        standby.stop().unwrap();
        drop(standby);
        story.ok(&[&words[..], &["--delta"]].concat());
        let standby = Postgres::start_on(major, &follower).unwrap();
        story.write(1).await;
        catch_up(&story, &standby, 9).await;
        let strays = "SELECT count(*) FROM entry WHERE n = 99";
        assert_eq!(number(&connect(&standby).await, strays).await, 0);
        assert!(has_a_standby(&story.server).await);
    }
}
