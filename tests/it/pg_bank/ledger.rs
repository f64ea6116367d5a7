//! The model: what the bank looked like after each transfer, and who was told so when.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use tokio_postgres::Client;

use super::{
    branch::{Branch, PATTERN_ROWS, connect},
    staff::{Book, Told},
};

/// How many accounts the bank has, and what is in each at first.
pub(super) const ACCOUNTS: usize = 40;
pub(super) const OPENING_BALANCE: i64 = 1000;

/// One line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Transfer {
    source: i32,
    target: i32,
    amount: i64,
    began_us: i64,
    slip: i64,
    note: Option<String>,
}

/// Everything that happened, in the order of commits.
#[derive(Debug)]
pub(super) struct Truth {
    transfers: Vec<Transfer>,
    pub(super) book: Book,
    /// From when on times can be restored.
    pub(super) since: DateTime<Utc>,
}

/// A position as the server prints it.
pub(super) fn lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').unwrap();
    (u64::from_str_radix(high, 16).unwrap() << 32) | u64::from_str_radix(low, 16).unwrap()
}

async fn transfers(client: &Client) -> Vec<Transfer> {
    let query = "SELECT n, source, target, amount, began_us, slip, md5(note) \
                 FROM ledger ORDER BY n";
    let rows = client.query(query, &[]).await.unwrap();
    let holes = rows.iter().zip(1_i64..).filter(|(row, n)| row.get::<_, i64>(0) != *n).count();
    assert_eq!(holes, 0, "the ledger has holes");
    let transfer = |row: &tokio_postgres::Row| Transfer {
        source: row.get(1),
        target: row.get(2),
        amount: row.get(3),
        began_us: row.get(4),
        slip: row.get(5),
        note: row.get(6),
    };
    rows.iter().map(transfer).collect()
}

impl Truth {
    /// Reads what the bank says, and holds it against what its tellers were told.
    pub(super) async fn read(branch: &Branch, mut book: Book, since: DateTime<Utc>) -> Self {
        let client = connect(&branch.server.conninfo()).await.unwrap();
        let transfers = transfers(&client).await;
        book.told.sort_by_key(|told| told.n);
        for told in &book.told {
            let began = told.began.timestamp_micros();
            assert_eq!(transfers[told.n as usize - 1].began_us, began, "{told:?} was lost");
        }
        let truth = Self { transfers, book, since };
        assert_eq!(truth.check(&client, &branch.server.conninfo()).await, truth.len());
        truth
    }

    pub(super) fn len(&self) -> i64 {
        self.transfers.len() as i64
    }

    /// Makes sure that a server has the bank as it was after some number of transfers, exactly, and
    /// everything else as some commit left it; returns the number.
    pub(super) async fn check(&self, client: &Client, conninfo: &str) -> i64 {
        let n = self.check_money(client).await;
        self.check_the_rest(client).await;
        self.check_databases(client, conninfo).await;
        n
    }

    async fn check_money(&self, client: &Client) -> i64 {
        let found = transfers(client).await;
        let n = found.len();
        assert!(n <= self.transfers.len(), "{n} of {}", self.transfers.len());
        assert_eq!(found, self.transfers[..n], "history was rewritten");
        let counted: i64 = number(client, "SELECT n FROM counter").await;
        assert_eq!(counted, n as i64, "part of a transaction");
        let mut expected = vec![OPENING_BALANCE; ACCOUNTS];
        for transfer in &found {
            expected[transfer.source as usize - 1] -= transfer.amount;
            expected[transfer.target as usize - 1] += transfer.amount;
        }
        let rows = client.query("SELECT balance FROM account ORDER BY id", &[]).await.unwrap();
        let balances: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(balances, expected, "after {n} transfers");
        assert_eq!(balances.iter().sum::<i64>(), OPENING_BALANCE * ACCOUNTS as i64);
        // A sequence may be ahead of its table, never behind.
        let last = "SELECT (SELECT last_value FROM slip) - coalesce(max(slip), 0) FROM ledger";
        assert!(number(client, last).await >= 0, "a sequence is behind its table");
        n as i64
    }

    async fn check_the_rest(&self, client: &Client) {
        let made: BTreeMap<String, i64> = pairs(client, "SELECT name, rows FROM made").await;
        let tables = "SELECT relname::text FROM pg_class WHERE relkind = 'r' \
                      AND (relname LIKE 'd\\_%' OR relname LIKE 'passing%') \
                      AND relpersistence = 'p'";
        let tables = client.query(tables, &[]).await.unwrap();
        let tables: BTreeSet<String> = tables.iter().map(|row| row.get(0)).collect();
        assert_eq!(tables, made.keys().cloned().collect(), "tables differ from what was noted");
        for (table, rows) in made {
            let rows_found = format!("SELECT count(*) FROM {table} WHERE t = md5(n::text)");
            assert_eq!(number(client, &rows_found).await, rows, "{table}");
        }
        let batches: BTreeMap<i32, i64> =
            pairs(client, "SELECT id, rows FROM batch WHERE rows > 0").await;
        let loaded = pairs(client, "SELECT batch, count(*) FROM load GROUP BY 1").await;
        assert_eq!(batches, loaded, "part of a load");
        let letters = "SELECT count(*) FROM letter \
                       FULL JOIN pg_largeobject_metadata AS m ON letter.id = m.oid \
                       WHERE letter.id IS NULL OR m.oid IS NULL OR hash <> md5(lo_get(m.oid))";
        assert_eq!(number(client, letters).await, 0, "large objects differ from what was noted");
    }

    async fn check_databases(&self, client: &Client, conninfo: &str) {
        let ours = "SELECT datname::text FROM pg_database \
                    WHERE (datname LIKE 'b\\_%' OR datname = 'pattern') AND datconnlimit <> -2";
        for row in client.query(ours, &[]).await.unwrap() {
            let name: String = row.get(0);
            let other = conninfo.replace("dbname=postgres", &format!("dbname={name}"));
            let other = connect(&other).await.unwrap_or_else(|error| panic!("{name}: {error}"));
            let rows = "SELECT count(*) FROM row WHERE t = md5(n::text)";
            assert_eq!(number(&other, rows).await, PATTERN_ROWS, "{name}");
        }
    }

    /// Makes sure that the state after `n` transfers may be called the state at `time`: what was
    /// acknowledged before is in it, and what began later is not.
    pub(super) fn check_time(&self, n: i64, time: DateTime<Utc>) {
        self.check_bounds(
            n,
            &format!("at {time}"),
            |told| told.done < time,
            |told| told.began > time,
        );
    }

    /// Makes sure that nothing is in the state after `n` transfers that began after `time`.
    pub(super) fn check_not_later(&self, n: i64, time: DateTime<Utc>) {
        self.check_bounds(n, &format!("at {time}"), |_| false, |told| told.began > time);
    }

    /// The same for the state at a position.
    pub(super) fn check_position(&self, n: i64, at: u64) {
        let is_in = |told: &Told| told.after.is_some_and(|after| after <= at);
        self.check_bounds(n, &format!("at {at:X}"), is_in, |told| told.before >= at);
    }

    fn check_bounds(
        &self,
        n: i64,
        point: &str,
        is_in: impl Fn(&Told) -> bool,
        is_out: impl Fn(&Told) -> bool,
    ) {
        let lost = self.book.told.iter().rfind(|told| is_in(told) && told.n > n);
        assert!(lost.is_none(), "{point} there are {n} transfers, without {lost:?}");
        let early = self.book.told.iter().find(|told| is_out(told) && told.n <= n);
        assert!(early.is_none(), "{point} there are {n} transfers, with {early:?}");
    }
}

pub(super) async fn number(client: &Client, query: &str) -> i64 {
    let row = client.query_one(query, &[]).await;
    row.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
}

async fn pairs<K, V>(client: &Client, query: &str) -> BTreeMap<K, V>
where
    K: Ord + for<'a> tokio_postgres::types::FromSql<'a>,
    V: for<'a> tokio_postgres::types::FromSql<'a>,
{
    let rows = client.query(query, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}
