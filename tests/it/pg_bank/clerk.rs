//! Whatever else goes on in a cluster. Each change notes, in its own transaction, what must be
//! found wherever it is found.

use bytes::Bytes;
use futures::SinkExt as _;
use stillpoint::repository::store::Dice;
use tokio_postgres::{Client, Error};

use super::staff::Office;

/// Databases beside the bank's at once.
const DATABASES_MAX: usize = 2;

/// Tables of the clerk's at once.
const TABLES_MAX: usize = 8;

async fn names(client: &Client, query: &str) -> Result<Vec<String>, Error> {
    Ok(client.query(query, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Does one thing.
pub(super) async fn work(
    office: &Office,
    client: &Client,
    dice: &Dice,
    number: u32,
) -> Result<(), Error> {
    match dice.below(16) {
        0 | 1 => make(client, dice, number).await,
        2 => unmake(client, dice).await,
        3 => write_letter(client, dice).await,
        4 => burn_letter(client).await,
        5 | 6 => load(client, dice, number).await,
        7 => client.batch_execute("BEGIN; TRUNCATE load, batch; COMMIT").await,
        8 => {
            let table = ["account", "ledger", "load", "letter", "pg_class", "pg_largeobject"];
            client.batch_execute(&format!("VACUUM FULL {}", table[dice.below(6)])).await
        }
        9 => {
            let words = ["VACUUM ledger", "VACUUM FREEZE account", "REINDEX TABLE ledger"];
            client.batch_execute(words[dice.below(3)]).await
        }
        10 => databases(client, dice, number).await,
        11 => {
            let words = ["CHECKPOINT", "SELECT pg_switch_wal()"];
            client.batch_execute(words[dice.below(2)]).await
        }
        12 => name_a_point(office, client, number).await,
        13 => {
            let index = "CREATE INDEX CONCURRENTLY IF NOT EXISTS ledger_began ON ledger (began_us)";
            client.batch_execute(index).await?;
            client.batch_execute("DROP INDEX CONCURRENTLY IF EXISTS ledger_began").await
        }
        14 => {
            let never = "BEGIN; INSERT INTO scrap SELECT repeat('y', 200) \
                         FROM generate_series(1, 2000); CREATE TABLE d_never (n int); ROLLBACK";
            client.batch_execute(never).await?;
            client.batch_execute("DELETE FROM scrap; VACUUM scrap").await
        }
        _ => {
            let temporary = "CREATE TEMP TABLE IF NOT EXISTS passing AS SELECT 1 AS n; \
                             INSERT INTO passing SELECT generate_series(1, 500); \
                             INSERT INTO fleeting SELECT generate_series(1, 50)";
            client.batch_execute(temporary).await
        }
    }
}

async fn make(client: &Client, dice: &Dice, number: u32) -> Result<(), Error> {
    let made = names(client, "SELECT name FROM made ORDER BY name").await?;
    if made.len() >= TABLES_MAX {
        return unmake(client, dice).await;
    }
    let (rows, space) = (dice.below(4000), ["pg_default", "vault"][dice.below(2)]);
    client
        .batch_execute(&format!(
            "BEGIN;
             CREATE TABLE d_{number} (n int PRIMARY KEY, t text) TABLESPACE {space};
             INSERT INTO d_{number} SELECT n, md5(n::text) FROM generate_series(1, {rows}) AS n;
             CREATE INDEX ON d_{number} (t);
             INSERT INTO made VALUES ('d_{number}', {rows});
             COMMIT"
        ))
        .await
}

async fn unmake(client: &Client, dice: &Dice) -> Result<(), Error> {
    let made = names(client, "SELECT name FROM made ORDER BY name").await?;
    let Some(name) = made.get(dice.below(made.len())) else { return Ok(()) };
    let change = match dice.below(4) {
        0 => format!("DROP TABLE {name}; DELETE FROM made WHERE name = '{name}'"),
        1 => format!("TRUNCATE {name}; UPDATE made SET rows = 0 WHERE name = '{name}'"),
        2 => format!("ALTER TABLE {name} ALTER n TYPE bigint"),
        _ => format!(
            "DELETE FROM {name} WHERE n % 3 = 0; UPDATE made SET rows = \
             (SELECT count(*) FROM {name}) WHERE name = '{name}'"
        ),
    };
    client.batch_execute(&format!("BEGIN; {change}; COMMIT")).await?;
    client.batch_execute("VACUUM").await
}

async fn write_letter(client: &Client, dice: &Dice) -> Result<(), Error> {
    let pieces = dice.below(6000) as i32;
    let letter = "WITH text AS (SELECT coalesce(string_agg(md5(random()::text), ''), '') AS t \
                  FROM generate_series(1, $1)), \
                  kept AS (SELECT lo_from_bytea(0, t::bytea) AS id, md5(t::bytea) AS hash \
                  FROM text) \
                  INSERT INTO letter SELECT id, hash FROM kept";
    client.execute(letter, &[&pieces]).await.map(drop)
}

async fn burn_letter(client: &Client) -> Result<(), Error> {
    let burn = "WITH burnt AS (DELETE FROM letter WHERE id = (SELECT min(id) FROM letter) \
                RETURNING id) SELECT lo_unlink(id) FROM burnt";
    client.query(burn, &[]).await.map(drop)
}

async fn load(client: &Client, dice: &Dice, number: u32) -> Result<(), Error> {
    let rows = dice.below(6000);
    client.batch_execute("BEGIN").await?;
    let mut sink = std::pin::pin!(client.copy_in("COPY load FROM STDIN").await?);
    for n in 0..rows {
        let line = format!("{number}\t{n}\trow {n} of {number}, {}\n", dice.below(1 << 30));
        sink.feed(Bytes::from(line)).await?;
    }
    sink.close().await?;
    client.batch_execute(&format!("INSERT INTO batch VALUES ({number}, {rows}); COMMIT")).await
}

async fn databases(client: &Client, dice: &Dice, number: u32) -> Result<(), Error> {
    let ours = "SELECT datname::text FROM pg_database WHERE datname LIKE 'b\\_%' ORDER BY 1";
    let ours = names(client, ours).await?;
    if ours.len() >= DATABASES_MAX {
        return client
            .batch_execute(&format!("DROP DATABASE {}", ours[dice.below(ours.len())]))
            .await;
    }
    let version: String = client.query_one("SHOW server_version_num", &[]).await?.get(0);
    let strategy = if version.as_str() < "150000" {
        ""
    } else {
        ["", "STRATEGY wal_log", "STRATEGY file_copy"][dice.below(3)]
    };
    let create = format!("CREATE DATABASE b_{number} TEMPLATE pattern {strategy}");
    client.batch_execute(&create).await
}

/// Names a point between two transfers.
async fn name_a_point(office: &Office, client: &Client, number: u32) -> Result<(), Error> {
    client.batch_execute("BEGIN").await?;
    let row = client.query_one("SELECT n FROM counter FOR UPDATE", &[]).await?;
    let name = format!("point {number}");
    client.query_one("SELECT pg_create_restore_point($1)::text", &[&name]).await?;
    // The point itself is not waited for, but this commit is, and comes after it.
    client.batch_execute("COMMIT").await?;
    office.book.lock().unwrap().named.push((name, row.get(0)));
    Ok(())
}
