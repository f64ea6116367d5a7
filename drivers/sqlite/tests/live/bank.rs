//! The bank: processes that move money, and the sum that never changes.

use std::{
    path::Path,
    process::Child,
    time::{Duration, Instant},
};

use rusqlite::Connection;

use crate::{
    doubles::application,
    process::{now, spawn, task},
};

/// How many accounts the bank has, and what is in each at first.
const ACCOUNTS: i64 = 50;
const OPENING_BALANCE: i64 = 1000;

/// The main function of a process that moves money: the test binary starts itself.
#[test]
fn a_teller() {
    if let Some(task) = task() {
        assert_eq!(task.kind, "bank");
        move_money(&task.path, task.until);
    }
}

pub(crate) fn spawn_teller(seconds: u64, path: &Path) -> Child {
    spawn("bank::a_teller", "bank", seconds, path)
}

pub(crate) fn open_bank(path: &Path) -> Connection {
    let db = application(path);
    db.execute_batch(&format!(
        "CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER);
         CREATE TABLE ledger(id INTEGER PRIMARY KEY, source, target, amount, note);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < {ACCOUNTS})
         INSERT INTO account SELECT i, {OPENING_BALANCE} FROM n;"
    ))
    .unwrap();
    db
}

/// One transfer per transaction, each on record in the ledger.
fn move_money(path: &Path, until: Instant) {
    let db = application(path);
    db.execute_batch("PRAGMA synchronous=NORMAL").unwrap();
    while now() < until {
        db.execute_batch(&format!(
            "BEGIN IMMEDIATE;
             INSERT INTO ledger(source, target, amount, note) VALUES (
                 1 + abs(random()) % {ACCOUNTS}, 1 + abs(random()) % {ACCOUNTS},
                 abs(random()) % 100, hex(randomblob(abs(random()) % 200)));
             UPDATE account SET balance = balance - (SELECT amount FROM ledger ORDER BY id DESC)
                 WHERE id = (SELECT source FROM ledger ORDER BY id DESC);
             UPDATE account SET balance = balance + (SELECT amount FROM ledger ORDER BY id DESC)
                 WHERE id = (SELECT target FROM ledger ORDER BY id DESC);
             COMMIT;"
        ))
        .unwrap();
        std::thread::sleep(Duration::from_micros(300));
    }
}

/// Checks a restored bank and returns how many transfers it has seen.
pub(crate) fn audit(path: &Path) -> i64 {
    let db = Connection::open(path).unwrap();
    let one = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(one("SELECT sum(balance) FROM account"), ACCOUNTS * OPENING_BALANCE);
    let wrong = one(&format!(
        "WITH moved(id, amount) AS (SELECT source, -amount FROM ledger
                                    UNION ALL SELECT target, amount FROM ledger),
              total AS MATERIALIZED (SELECT id, sum(amount) AS amount FROM moved GROUP BY id)
         SELECT count(*) FROM account LEFT JOIN total USING (id)
             WHERE balance <> {OPENING_BALANCE} + coalesce(total.amount, 0)"
    ));
    assert_eq!(wrong, 0, "balances that the ledger does not explain");
    let transfers = one("SELECT count(*) FROM ledger");
    assert_eq!(transfers, one("SELECT coalesce(max(id), 0) FROM ledger"));
    transfers
}
