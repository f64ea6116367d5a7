//! Whether the restored shop is what the customers saw.

use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::{Connection, OpenFlags};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{customer::Confirmed, shop};

/// The database, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Audit {
    /// What SQLite's own check said.
    pub integrity: String,
    /// The number of the last order.
    pub last_order: u64,
    /// How many orders there are.
    pub orders: u64,
    /// Their sum, in cents.
    pub orders_cents: u64,
    /// How many payments there are.
    pub payments: u64,
    /// Their sum, in cents.
    pub payments_cents: u64,
    /// Orders whose total is not what their lines and their payment say.
    pub wrong_orders: u64,
}

/// What the ledgers say about a restored state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    /// The restored database.
    pub audit: Audit,
    /// Orders that customers wrote down and the restored database must have.
    pub expected: u64,
    /// How long before the chosen moment the last restored order was confirmed.
    pub last_before: Option<TimeDelta>,
    /// Sentences that did not hold. Empty: proven.
    pub objections: Vec<String>,
}

/// Asks the database in `path` for everything that can be counted.
pub(super) fn audit(path: &Path) -> Result<Audit> {
    let read = || -> rusqlite::Result<Audit> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        let number = |sql: &str| {
            connection.query_row(sql, [], |row| Ok(row.get::<_, i64>(0)?.unsigned_abs()))
        };
        Ok(Audit {
            integrity: connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?,
            last_order: number("SELECT coalesce(max(id), 0) FROM orders")?,
            orders: number("SELECT count(*) FROM orders")?,
            orders_cents: number("SELECT coalesce(sum(total_cents), 0) FROM orders")?,
            payments: number("SELECT count(*) FROM payments")?,
            payments_cents: number("SELECT coalesce(sum(amount_cents), 0) FROM payments")?,
            wrong_orders: number(
                "SELECT count(*) FROM orders o WHERE total_cents IS NOT
                   (SELECT sum(quantity * price_cents) FROM order_lines WHERE order_id = o.id)
                 OR total_cents IS NOT (SELECT amount_cents FROM payments WHERE order_id = o.id)",
            )?,
        })
    };
    read().map_err(shop::failed)
}

/// Holds the restored database against what the customers wrote down.
///
/// `before` is the shop as it was founded. Orders are numbered in the order of their commits, so
/// the restored state is that after order `last_order`, and everything else follows.
pub(super) fn hold_against(
    restored: Audit,
    before: &Audit,
    ledger: &[Confirmed],
    at: DateTime<Utc>,
) -> Proof {
    let last = restored.last_order;
    let included: Vec<_> = ledger.iter().filter(|entry| entry.order.id <= last).collect();
    let cents: u64 = included.iter().map(|entry| entry.order.total_cents).sum();
    let expected = before.orders + included.len() as u64;
    let mut objections = Vec::new();
    let mut hold = |holds: bool, sentence: String| {
        if !holds {
            objections.push(sentence);
        }
    };
    hold(restored.integrity == "ok", format!("integrity_check says {}", restored.integrity));
    hold(restored.orders == expected, format!("{} orders, not {expected}", restored.orders));
    hold(restored.payments == expected, format!("{} payments, not {expected}", restored.payments));
    hold(restored.wrong_orders == 0, format!("{} orders do not add up", restored.wrong_orders));
    let sum = before.orders_cents + cents;
    hold(restored.orders_cents == sum, format!("orders of {} cents", restored.orders_cents));
    hold(restored.payments_cents == sum, format!("payments of {} cents", restored.payments_cents));
    let late = included.iter().filter(|entry| entry.began_at > at).count();
    hold(late == 0, format!("{late} orders began after the chosen moment"));
    // A commit counts from when it was seen in the log, which is a moment after it happened.
    let slack = TimeDelta::seconds(2);
    let missing = ledger.iter().filter(|e| e.order.id > last && e.ended_at + slack < at).count();
    hold(missing == 0, format!("{missing} orders of before the chosen moment are missing"));
    let last_before = included.iter().map(|entry| at - entry.ended_at).min();
    Proof { audit: restored, expected, last_before, objections }
}

impl Proof {
    /// Fails unless everything held.
    pub(super) fn require(&self) -> Result<()> {
        if self.objections.is_empty() {
            return Ok(());
        }
        let error = Error::new(
            ErrorKind::Bug,
            code::RESTORE_CHECK_FAILED,
            "find the restored shop as its customers saw it",
        );
        Err(self.objections.iter().fold(error, |error, objection| error.with("but", objection)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::shop::{Dice, Order};

    #[test]
    fn a_shop_adds_up_and_a_wrong_one_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.db");
        let mut dice = Dice::new(7);
        let last = shop::found(&path, &mut dice).unwrap();
        let before = audit(&path).unwrap();
        assert_eq!((before.orders, before.wrong_orders), (last, 0));

        let mut connection = shop::open(&path).unwrap();
        let at = DateTime::from_timestamp(1_000, 0).unwrap();
        let ledger: Vec<_> = (0..3)
            .map(|_| shop::buy(&mut connection, &mut dice).unwrap())
            .map(|order| Confirmed { order, began_at: at, ended_at: at })
            .collect();
        let proof = hold_against(audit(&path).unwrap(), &before, &ledger, at);
        assert_eq!(proof.objections, [""; 0]);
        proof.require().unwrap();

        let lost = Order { id: last + 2, total_cents: 1 };
        let wrong = [ledger[0], Confirmed { order: lost, ..ledger[1] }, ledger[2]];
        let proof = hold_against(audit(&path).unwrap(), &before, &wrong, at);
        assert_eq!(proof.objections.len(), 2, "{:?}", proof.objections);

        connection
            .execute("DELETE FROM payments WHERE order_id = ?1", [last.cast_signed()])
            .unwrap();
        let proof = hold_against(audit(&path).unwrap(), &before, &ledger, at);
        assert!(proof.require().is_err());

        let early = at - TimeDelta::seconds(5);
        let proof = hold_against(audit(&path).unwrap(), &before, &ledger, early);
        assert!(proof.objections.iter().any(|text| text.contains("began after")));
    }
}
