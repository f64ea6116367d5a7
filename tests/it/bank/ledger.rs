//! The model: what the bank looked like after each transfer, and who was told so when.

use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::Connection;

use super::teller::connect;
use crate::site::Site;

/// How many accounts the bank has, and what is in each at first.
pub(super) const ACCOUNTS: usize = 40;
const OPENING_BALANCE: i64 = 1000;

/// How much later than the commit a restore may think that it was.
const TIME_ERROR: TimeDelta = TimeDelta::seconds(1);

/// One line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Transfer {
    source: i64,
    target: i64,
    amount: i64,
    began_us: i64,
}

/// A transfer that its teller saw committed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledged {
    /// Its number, which is the number of transfers committed up to it.
    pub(super) id: usize,
    pub(super) began: DateTime<Utc>,
    pub(super) done: DateTime<Utc>,
}

/// Everything that happened, in the order of commits.
#[derive(Debug)]
pub(super) struct Ledger {
    transfers: Vec<Transfer>,
    pub(super) acknowledged: Vec<Acknowledged>,
}

/// Makes the bank's database.
pub(super) fn found(path: &Path) {
    let bank = connect(path);
    bank.pragma_update(None, "journal_mode", "WAL").unwrap();
    bank.execute_batch(&format!(
        "BEGIN;
         CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
         CREATE TABLE ledger (id INTEGER PRIMARY KEY, source INTEGER, target INTEGER,
             amount INTEGER, began_us INTEGER, note BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ACCOUNTS})
             INSERT INTO account SELECT i, {OPENING_BALANCE} FROM n;
         COMMIT"
    ))
    .unwrap();
}

impl Ledger {
    /// Reads what the bank's database and its tellers say, and holds the one against the other.
    pub(super) fn read(site: &Site) -> Self {
        let mut ledger = Self { transfers: Vec::new(), acknowledged: Vec::new() };
        ledger.transfers = transfers(&connect(&site.path("bank.db")));
        for entry in std::fs::read_dir(site.path("")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "acknowledged") {
                let text = std::fs::read_to_string(path).unwrap();
                // The last line of a killed teller may be torn.
                let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
                ledger.acknowledged.extend(lines.map(|line| acknowledged(line.trim())));
            }
        }
        ledger.acknowledged.sort_by_key(|told| told.id);
        for told in &ledger.acknowledged {
            let began = told.began.timestamp_micros();
            assert_eq!(ledger.transfers[told.id - 1].began_us, began, "{told:?} was lost");
        }
        ledger
    }

    pub(super) fn len(&self) -> usize {
        self.transfers.len()
    }

    /// Makes sure that a restored database is the bank after some number of transfers, exactly;
    /// returns the number.
    pub(super) fn check(&self, restored: &Path) -> usize {
        let bank = connect(restored);
        let check: String = bank.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
        assert_eq!(check, "ok");
        let found = transfers(&bank);
        assert!(found.len() <= self.len(), "{} of {}", found.len(), self.len());
        assert_eq!(found, self.transfers[..found.len()], "history was rewritten");

        let mut expected = vec![OPENING_BALANCE; ACCOUNTS];
        for transfer in &found {
            expected[transfer.source as usize - 1] -= transfer.amount;
            expected[transfer.target as usize - 1] += transfer.amount;
        }
        let mut balances = bank.prepare("SELECT balance FROM account ORDER BY id").unwrap();
        let balances: Vec<i64> =
            balances.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(balances, expected, "after {} transfers", found.len());
        assert_eq!(balances.iter().sum::<i64>(), OPENING_BALANCE * ACCOUNTS as i64);
        found.len()
    }

    /// Makes sure that the state after `count` transfers may be called the state at `time`: what
    /// was acknowledged a while before is in it, and what began later is not.
    pub(super) fn check_time(&self, count: usize, time: DateTime<Utc>) {
        let told = self.acknowledged.iter().filter(|told| told.done < time - TIME_ERROR);
        if let Some(last) = told.max_by_key(|told| told.id) {
            assert!(
                last.id <= count,
                "at {time} the state has {count} transfers, without {last:?}"
            );
        }
        let early = |transfer: &&Transfer| transfer.began_us > time.timestamp_micros();
        let early = self.transfers[..count].iter().find(early);
        assert!(early.is_none(), "at {time} the state has {count} transfers, one is {early:?}");
    }
}

fn transfers(bank: &Connection) -> Vec<Transfer> {
    let mut query =
        bank.prepare("SELECT id, source, target, amount, began_us FROM ledger ORDER BY id");
    let rows = query.as_mut().unwrap().query_map([], |row| {
        let transfer = Transfer {
            source: row.get(1)?,
            target: row.get(2)?,
            amount: row.get(3)?,
            began_us: row.get(4)?,
        };
        Ok((row.get::<_, i64>(0)?, transfer))
    });
    let numbered: Vec<_> = rows.unwrap().map(Result::unwrap).collect();
    assert!(numbered.iter().zip(1..).all(|((id, _), expected)| *id == expected), "a hole");
    numbered.into_iter().map(|(_, transfer)| transfer).collect()
}

fn acknowledged(line: &str) -> Acknowledged {
    let numbers: Vec<i64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
    let time = |micros| DateTime::from_timestamp_micros(micros).unwrap();
    Acknowledged { id: numbers[0] as usize, began: time(numbers[1]), done: time(numbers[2]) }
}
