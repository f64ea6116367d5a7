//! Who works in the bank: tellers, who move money and note what they were told, and a clerk.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use stillpoint::{repository::store::Dice, world::World};
use tokio::task::JoinSet;
use tokio_postgres::{Client, Error};

use super::{
    branch::{Branch, connect},
    clerk,
    ledger::{ACCOUNTS, lsn},
};

/// Tellers at work at once.
const TELLERS: u64 = 3;

/// A transfer that its teller saw committed.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// Its number, which is the number of transfers committed up to it.
    pub(super) n: i64,
    pub(super) xid: String,
    pub(super) began: DateTime<Utc>,
    pub(super) done: DateTime<Utc>,
    /// Where the server's log stood before it, and after it if the connection lived so long.
    pub(super) before: u64,
    pub(super) after: Option<u64>,
}

/// What is known outside of the database.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) told: Vec<Told>,
    /// Restore points, with the number of transfers at each.
    pub(super) named: Vec<(String, i64)>,
}

/// What a worker needs.
#[derive(Clone, Debug)]
pub(super) struct Office {
    pub(super) conninfo: String,
    pub(super) world: World,
    pub(super) book: Arc<Mutex<Book>>,
    is_closed: Arc<AtomicBool>,
}

impl Office {
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    pub(super) async fn pause(&self, milliseconds: usize) {
        self.world.clock.sleep(Duration::from_millis(milliseconds as u64)).await;
    }

    /// A session, once the server answers.
    async fn session(&self) -> Client {
        loop {
            if let Ok(client) = connect(&self.conninfo).await {
                // Whoever prepared a transaction and is gone left it to the others.
                if settle(&client).await.is_ok() {
                    return client;
                }
            }
            self.pause(50).await;
        }
    }
}

/// Commits what was prepared. Its own session may be faster.
async fn settle(client: &Client) -> Result<(), Error> {
    for row in client.query("SELECT gid FROM pg_prepared_xacts", &[]).await? {
        let gid: String = row.get(0);
        drop(client.batch_execute(&format!("COMMIT PREPARED '{gid}'")).await);
    }
    Ok(())
}

#[derive(Debug)]
pub(super) struct Staff {
    office: Office,
    tasks: JoinSet<()>,
}

impl Staff {
    pub(super) fn hire(branch: &Branch, seed: u64) -> Self {
        let office = Office {
            conninfo: branch.server.conninfo(),
            world: branch.world.clone(),
            book: Arc::default(),
            is_closed: Arc::default(),
        };
        let mut tasks = JoinSet::new();
        for number in 0..TELLERS {
            let (office, dice) = (office.clone(), Dice::new(seed.wrapping_mul(100) + number));
            tasks.spawn(async move {
                while !office.is_closed() {
                    let client = office.session().await;
                    while !office.is_closed() && transfer(&office, &client, &dice).await.is_ok() {
                        office.pause(dice.below(40)).await;
                    }
                }
            });
        }
        let (clerk, dice) = (office.clone(), Dice::new(seed.wrapping_mul(100) + TELLERS));
        tasks.spawn(async move {
            let mut number = 0;
            while !clerk.is_closed() {
                let client = clerk.session().await;
                // What fails because somebody is in the way is left undone.
                while !clerk.is_closed() && !client.is_closed() {
                    number += 1;
                    if clerk::work(&clerk, &client, &dice, number).await.is_err() {
                        drop(client.batch_execute("ROLLBACK").await);
                    }
                    clerk.pause(dice.below(60)).await;
                }
            }
        });
        Self { office, tasks }
    }

    /// Lets everybody finish what they are at; answers with what they know.
    pub(super) async fn close(mut self) -> Book {
        self.office.is_closed.store(true, Ordering::Relaxed);
        while let Some(done) = self.tasks.join_next().await {
            done.unwrap();
        }
        let client = self.office.session().await;
        let left = client.query("SELECT 1 FROM pg_prepared_xacts", &[]).await.unwrap();
        assert!(left.is_empty());
        std::mem::take(&mut self.office.book.lock().unwrap())
    }
}

async fn position(client: &Client) -> Result<u64, Error> {
    let row = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?;
    Ok(lsn(row.get(0)))
}

/// Moves some money in one transaction, with a line in the ledger.
async fn transfer(office: &Office, client: &Client, dice: &Dice) -> Result<(), Error> {
    let began = office.world.clock.now();
    let before = position(client).await?;
    let (source, target) = (1 + dice.below(ACCOUNTS) as i32, 1 + dice.below(ACCOUNTS) as i32);
    let amount = dice.below(100) as i64;
    client.batch_execute("BEGIN").await?;
    for _ in 0..[0, 0, 1, 3][dice.below(4)] {
        let end = ["RELEASE s", "ROLLBACK TO s"][dice.below(2)];
        let part = format!("SAVEPOINT s; INSERT INTO scrap VALUES (repeat('x', 500)); {end}");
        client.batch_execute(&part).await?;
    }
    // In the order of accounts, so that nobody locks another.
    let mut changes = [(source, -amount), (target, amount)];
    changes.sort_unstable();
    for (account, change) in changes {
        let update = "UPDATE account SET balance = balance + $1 WHERE id = $2";
        client.execute(update, &[&change, &account]).await?;
    }
    // From here on one transfer is behind the other, so that their numbers are those of commits.
    let row = client.query_one("UPDATE counter SET n = n + 1 RETURNING n", &[]).await?;
    let n: i64 = row.get(0);
    let pieces = if dice.below(20) == 0 { dice.below(1500) } else { dice.below(10) } as i32;
    let insert = "INSERT INTO ledger SELECT $1, $2, $3, $4, $5, nextval('slip'), \
                  (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, $6))";
    let us = began.timestamp_micros();
    client.execute(insert, &[&n, &source, &target, &amount, &us, &pieces]).await?;
    let xid: String = client.query_one("SELECT txid_current()::text", &[]).await?.get(0);
    match dice.below(12) {
        0 => return client.batch_execute("ROLLBACK").await,
        1 => {
            // A table that comes and goes makes this commit one of many parts.
            let passing =
                format!("CREATE TABLE passing{n} (n int PRIMARY KEY); DROP TABLE passing{n}");
            client.batch_execute(&passing).await?;
            client.batch_execute(&format!("PREPARE TRANSACTION 't{n}-{us}'")).await?;
            office.pause(dice.below(80)).await;
            client.batch_execute(&format!("COMMIT PREPARED 't{n}-{us}'")).await?;
        }
        _ => client.batch_execute("COMMIT").await?,
    }
    let done = office.world.clock.now();
    let after = position(client).await.ok();
    let told = Told { n, xid, began, done, before, after };
    office.book.lock().unwrap().told.push(told);
    Ok(())
}
