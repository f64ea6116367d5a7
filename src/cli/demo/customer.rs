//! A customer of the demo's shop, in a process of its own.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    CustomerOptions,
    shop::{self, Dice, Order},
};
use crate::cli::session::Session;

/// One line of a customer's ledger: what was ordered, and between which times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Confirmed {
    /// The order.
    pub order: Order,
    /// Before the transaction began.
    pub began_at: DateTime<Utc>,
    /// After its commit had returned.
    pub ended_at: DateTime<Utc>,
}

impl Confirmed {
    fn line(&self) -> String {
        format!(
            "{} {} {} {}\n",
            self.order.id,
            self.order.total_cents,
            self.began_at.timestamp_micros(),
            self.ended_at.timestamp_micros()
        )
    }

    fn read(line: &str) -> Option<Self> {
        let mut fields = line.split(' ').map(str::parse::<i64>);
        let mut field = || fields.next()?.ok();
        let order = Order { id: field()?.unsigned_abs(), total_cents: field()?.unsigned_abs() };
        let mut time = || DateTime::from_timestamp_micros(field()?);
        Some(Self { order, began_at: time()?, ended_at: time()? })
    }
}

/// Reads a ledger back. A last line that was cut off is left out.
pub(super) fn read_ledger(path: &Path) -> Result<Vec<Confirmed>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::new(ErrorKind::Transient, code::FILE, "read a customer's ledger").caused_by(error)
    })?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| Confirmed::read(line).ok_or_else(|| Error::bug("read a ledger we wrote")))
        .collect()
}

/// Buys until standard input ends, which it does when the demo ends in whatever way.
pub(crate) async fn serve(session: &Session, options: CustomerOptions) -> Result<()> {
    let closing = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&closing);
    std::thread::spawn(move || {
        drop(io::stdin().lock().read_to_end(&mut Vec::new()));
        seen.store(true, Ordering::Relaxed);
    });
    let mut ledger = File::create(&options.ledger).map_err(write_failed)?;
    let mut connection = shop::open(&options.database)?;
    let mut dice = Dice::new(options.seed);
    let clock = &session.world.clock;
    while !closing.load(Ordering::Relaxed) {
        let began_at = clock.now();
        // The lock is held for microseconds; blocking this thread is what a simple shop does too.
        match shop::buy(&mut connection, &mut dice) {
            Ok(order) => {
                let confirmed = Confirmed { order, began_at, ended_at: clock.now() };
                ledger.write_all(confirmed.line().as_bytes()).map_err(write_failed)?;
                clock.sleep(Duration::from_millis(dice.below(8).into())).await;
            }
            // Somebody dropped a table: the shop is broken, and its customers keep trying.
            Err(_) => clock.sleep(Duration::from_millis(50)).await,
        }
    }
    Ok(())
}

fn write_failed(error: io::Error) -> Error {
    Error::new(ErrorKind::Exhausted, code::FILE, "write a customer's ledger").caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_is_read_as_it_was_written_but_for_a_torn_last_line() {
        let time = |micros| DateTime::from_timestamp_micros(micros).unwrap();
        let confirmed = |id| Confirmed {
            order: Order { id, total_cents: 12_345 },
            began_at: time(1_000_000),
            ended_at: time(1_000_250),
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let text = format!("{}{}3 99", confirmed(1).line(), confirmed(2).line());
        std::fs::write(&path, text).unwrap();
        assert_eq!(read_ledger(&path).unwrap(), [confirmed(1), confirmed(2)]);
    }
}
