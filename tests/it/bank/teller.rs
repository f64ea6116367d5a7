//! A process that moves money, and what it does to a log besides: checkpoints, closing, reopening.

use std::{
    env,
    fs::File,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use chrono::{DateTime, Utc};
use rusqlite::{Connection, TransactionBehavior, params};
use stillpoint::{repository::store::Dice, world::SystemClock};
use stillpoint_contract::Clock as _;

use super::ledger::ACCOUNTS;
use crate::site::{Running, Site};

const TASK: &str = "STILLPOINT_TEST_TELLER";

/// A teller that nobody stopped stops by itself after so many transfers.
const TRANSFERS_MAX: u32 = 100_000;

/// This test is the teller's main function: the test binary starts itself with the variable set.
#[test]
fn a_teller_process() {
    let Some(task) = env::var_os(TASK) else { return };
    let task = task.into_string().unwrap();
    let (number, folder) = task.split_once(' ').unwrap();
    work(number.parse().unwrap(), Path::new(folder));
}

/// Starts a teller, who works until the file `closed` appears.
pub(super) fn hire(site: &Site, number: u64) -> Running {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "bank::teller::a_teller_process", "--nocapture"])
        .env(TASK, format!("{number} {}", site.path("").display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(site.path(&format!("teller-{number}.log"))).unwrap());
    Running(command.spawn().unwrap())
}

pub(super) fn now() -> DateTime<Utc> {
    SystemClock::new().now()
}

/// A connection as an application has it.
pub(super) fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_mins(1)).unwrap();
    connection.pragma_update(None, "synchronous", "NORMAL").unwrap();
    connection
}

fn work(number: u64, folder: &Path) {
    let dice = Dice::new(number);
    let path = folder.join("bank.db");
    let mut acknowledged = File::create(folder.join(format!("{number}.acknowledged"))).unwrap();
    let mut bank = connect(&path);
    for _ in 0..TRANSFERS_MAX {
        if folder.join("closed").exists() {
            break;
        }
        let began = now();
        let id = transfer(&mut bank, &dice, began);
        let done = now();
        let line = format!("{id} {} {}\n", began.timestamp_micros(), done.timestamp_micros());
        acknowledged.write_all(line.as_bytes()).unwrap();
        match dice.below(150) {
            0 => checkpoint(&bank, &dice),
            1 => bank = connect(&path),
            2 => {
                // The last connection that closes copies the log back and deletes it.
                drop(bank);
                sleep(Duration::from_millis(dice.below(50) as u64));
                bank = connect(&path);
            }
            _ => sleep(Duration::from_millis(dice.below(40) as u64)),
        }
    }
}

/// Moves some money in one transaction, with a line in the ledger; returns the line's number.
fn transfer(bank: &mut Connection, dice: &Dice, began: DateTime<Utc>) -> i64 {
    let transaction = bank.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let (source, target) = (1 + dice.below(ACCOUNTS), 1 + dice.below(ACCOUNTS));
    let amount = dice.below(100);
    // Some transactions are larger than others; none leaves the log as it was.
    let note_bytes = if dice.below(20) == 0 { dice.below(60_000) } else { dice.below(500) };
    transaction
        .execute(
            "INSERT INTO ledger (source, target, amount, began_us, note)
             VALUES (?, ?, ?, ?, randomblob(?))",
            params![
                source as i64,
                target as i64,
                amount as i64,
                began.timestamp_micros(),
                note_bytes as i64
            ],
        )
        .unwrap();
    let id = transaction.last_insert_rowid();
    for (account, change) in [(source, -(amount as i64)), (target, amount as i64)] {
        transaction
            .execute(
                "UPDATE account SET balance = balance + ? WHERE id = ?",
                params![change, account as i64],
            )
            .unwrap();
    }
    transaction.commit().unwrap();
    id
}

fn checkpoint(bank: &Connection, dice: &Dice) {
    let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][dice.below(4)];
    bank.busy_timeout(Duration::from_millis(dice.below(300) as u64)).unwrap();
    let done = bank.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()));
    // A checkpoint that has to wait for others in vain is a failed checkpoint, not a broken bank.
    if let Err(error) = done {
        let busy = Some(rusqlite::ErrorCode::DatabaseBusy);
        let locked = Some(rusqlite::ErrorCode::DatabaseLocked);
        assert!([busy, locked].contains(&error.sqlite_error_code()), "{error}");
    }
    bank.busy_timeout(Duration::from_mins(1)).unwrap();
}
