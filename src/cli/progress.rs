//! Long work, watched: bytes, rows where there are any, rate and time left, on one line of the
//! terminal.

use std::{collections::VecDeque, fmt::Write as _, future::Future, pin::pin, time::Duration};

use stillpoint_contract::Clock;

use super::{answer::complain, units};
use crate::pipeline::Reading;

/// Where progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Display {
    /// Nowhere.
    Off,
    /// On one line that is drawn again and again, of that many columns.
    Line {
        /// The terminal's width.
        columns: usize,
    },
    /// As a line of its own from time to time, for logs.
    Log,
}

impl Display {
    fn period(self) -> Duration {
        match self {
            Self::Off => Duration::from_hours(1),
            Self::Line { .. } => Duration::from_millis(200),
            Self::Log => Duration::from_secs(30),
        }
    }
}

/// Does `work`, showing what `read` says of it. `read` is asked a few times per second.
pub(crate) async fn watch<T>(
    display: Display,
    clock: &dyn Clock,
    subject: &str,
    read: impl Fn() -> Reading,
    work: impl Future<Output = T>,
) -> T {
    if display == Display::Off {
        return work.await;
    }
    let mut work = pin!(work);
    let mut pace = Pace::default();
    let mut line = ShownLine { shown: false };
    loop {
        tokio::select! {
            biased;
            outcome = &mut work => return outcome,
            () = clock.sleep(display.period()) => {
                let reading = read();
                let rate = pace.measure(clock.elapsed(), reading);
                match display {
                    Display::Line { columns } => line.draw(&row(subject, reading, rate, columns)),
                    Display::Log => complain(&format!("{}\n", sentence(subject, reading, rate))),
                    Display::Off => {}
                }
            }
        }
    }
}

/// The line on the terminal; erased when the work ends, also by being dropped.
struct ShownLine {
    shown: bool,
}

impl ShownLine {
    fn draw(&mut self, text: &str) {
        complain(&format!("\r\u{1b}[2K{text}"));
        self.shown = true;
    }
}

impl Drop for ShownLine {
    fn drop(&mut self) {
        if self.shown {
            complain("\r\u{1b}[2K");
        }
    }
}

/// The rate over the last few seconds.
#[derive(Debug, Default)]
struct Pace {
    phase: &'static str,
    samples: VecDeque<(Duration, u64)>,
}

impl Pace {
    /// Samples kept: at five per second, the last eight seconds.
    const SAMPLES_MAX: usize = 40;

    /// Takes a sample; returns bytes per second, or `None` while it is too early to tell.
    fn measure(&mut self, now: Duration, reading: Reading) -> Option<f64> {
        let went_back = self.samples.back().is_some_and(|last| last.1 > reading.done_bytes);
        if self.phase != reading.phase || went_back {
            self.phase = reading.phase;
            self.samples.clear();
        }
        if self.samples.len() == Self::SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back((now, reading.done_bytes));
        let (start, done) = *self.samples.front()?;
        let seconds = now.saturating_sub(start).as_secs_f64();
        (seconds >= 0.5).then(|| (reading.done_bytes - done) as f64 / seconds)
    }
}

/// Time left at a rate.
fn remaining(reading: Reading, rate: Option<f64>) -> Option<Duration> {
    let left = reading.total_bytes.checked_sub(reading.done_bytes)?;
    let rate = rate.filter(|rate| *rate >= 1.0)?;
    (reading.total_bytes > 0)
        .then(|| Duration::try_from_secs_f64(left as f64 / rate).ok())
        .flatten()
}

fn share(reading: Reading) -> Option<f64> {
    (reading.total_bytes > 0)
        .then(|| (reading.done_bytes as f64 / reading.total_bytes as f64).min(1.0))
}

/// One line of at most `columns` columns; what fits is shown, the bar goes first.
fn row(subject: &str, reading: Reading, rate: Option<f64>, columns: usize) -> String {
    const BAR_COLUMNS: usize = 24;
    let numbers = numbers(reading, rate);
    let phase = format!("{subject}  {:<8}", reading.phase);
    let bar = share(reading).map(|share| {
        let full = (share * BAR_COLUMNS as f64) as usize;
        format!("  {}{}", "#".repeat(full), "-".repeat(BAR_COLUMNS - full))
    });
    let with_bar = format!("{phase}{}{numbers}", bar.unwrap_or_default());
    let fits = |line: &String| line.chars().count() < columns;
    let line = Some(with_bar).filter(fits).unwrap_or_else(|| format!("{phase}{numbers}"));
    line.chars().take(columns.saturating_sub(1)).collect()
}

fn sentence(subject: &str, reading: Reading, rate: Option<f64>) -> String {
    format!("{subject}: {}{}", reading.phase, numbers(reading, rate))
}

fn numbers(reading: Reading, rate: Option<f64>) -> String {
    let mut text = String::new();
    if let Some(share) = share(reading) {
        write!(text, "  {:>3.0} %", (share * 100.0).floor()).expect("a String grows");
    }
    write!(text, "  {}", units::bytes(reading.done_bytes)).expect("a String grows");
    if reading.total_bytes > 0 {
        write!(text, " of {}", units::bytes(reading.total_bytes)).expect("a String grows");
    }
    if reading.done_rows > 0 {
        let rows = units::count(reading.done_rows, "row", "rows");
        write!(text, "  {rows}").expect("a String grows");
    }
    if let Some(rate) = rate {
        write!(text, "  {}", units::rate(rate)).expect("a String grows");
    }
    if let Some(left) = remaining(reading, rate) {
        let left = Duration::from_secs(left.as_secs_f64().ceil() as u64);
        let left = if left.as_secs() < 10 {
            format!("{} s", left.as_secs())
        } else {
            units::duration(left)
        };
        write!(text, "  ETA {left}").expect("a String grows");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn reading(done: u64, total: u64) -> Reading {
        Reading { phase: "copy", done_bytes: done, total_bytes: total, ..Reading::default() }
    }

    #[test]
    fn a_line_shows_bytes_rate_and_time_left_and_never_wraps() {
        let shown = row("app.db", reading(3 * GIB, 4 * GIB), Some(412.0 * 1_048_576.0), 100);
        assert_eq!(
            shown,
            "app.db  copy      ##################------   75 %  3.0 GiB of 4.0 GiB  412 MiB/s  \
             ETA 3 s"
        );
        for columns in 0..120 {
            let shown = row("app.db", reading(3 * GIB, 4 * GIB), Some(1e6), columns);
            assert!(shown.chars().count() <= columns.saturating_sub(1), "{columns}: {shown}");
        }
    }

    #[test]
    fn rows_are_told_beside_bytes() {
        let rows = Reading { done_rows: 24_000, ..reading(GIB, 4 * GIB) };
        let shown = sentence("orders", rows, None);
        assert_eq!(shown, "orders: copy   25 %  1.0 GiB of 4.0 GiB  24,000 rows");
    }

    #[test]
    fn without_a_total_no_share_and_no_end_are_invented() {
        assert_eq!(
            sentence("app.db", reading(3 * GIB, 0), Some(1e9)),
            "app.db: copy  3.0 GiB  954 MiB/s"
        );
    }

    #[test]
    fn the_rate_follows_the_last_seconds_and_starts_anew_with_each_phase() {
        let mut pace = Pace::default();
        let second = Duration::from_secs(1);
        assert_eq!(pace.measure(second, reading(0, 0)), None);
        assert_eq!(pace.measure(second * 2, reading(100, 0)), Some(100.0));
        for n in 3..200 {
            pace.measure(second * n, reading(100, 0));
        }
        assert_eq!(pace.measure(second * 200, reading(100, 0)), Some(0.0));
        let next = Reading { phase: "commit", ..reading(0, 0) };
        assert_eq!(pace.measure(second * 201, next), None);
    }

    #[test]
    fn no_reading_is_too_odd_to_show() {
        for done in [0, 1, u64::MAX] {
            for total in [0, 1, u64::MAX] {
                for rate in [None, Some(0.0), Some(f64::MIN_POSITIVE), Some(1.0), Some(f64::MAX)] {
                    row("x", reading(done, total), rate, 80);
                }
            }
        }
    }
}
