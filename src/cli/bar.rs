//! A database's history as one line of characters.

use chrono::{DateTime, Utc};

/// One end-to-end stretch of moments that can be restored; of length zero for a backup alone.
pub(crate) type Stretch = (DateTime<Utc>, DateTime<Utc>);

/// Any moment here can be restored.
const REACHABLE: char = '=';
/// No moment here can be restored.
const GAP: char = 'x';

/// Draws `stretches`, which lie in order, and `ticks` between `from` and `to`.
///
/// However short it is, every gap shows: it hides what shares its column.
pub(crate) fn draw(
    (from, to): Stretch,
    stretches: &[Stretch],
    ticks: &[(DateTime<Utc>, char)],
    columns: usize,
) -> String {
    let scale = Scale { from, to, columns: columns.max(1) };
    let mut bar = vec![' '; scale.columns];
    for (start, end) in stretches {
        bar[scale.column(*start)..=scale.column(*end)].fill(REACHABLE);
    }
    for (at, tick) in ticks {
        bar[scale.column(*at)] = *tick;
    }
    for pair in stretches.windows(2) {
        let (left, right) = (scale.column(pair[0].1), scale.column(pair[1].0));
        // The columns of both ends hold a reachable moment, unless they are the same.
        let inside = if left + 1 < right { left + 1..right } else { left..left + 1 };
        bar[inside].fill(GAP);
    }
    bar.into_iter().collect::<String>().trim_end().to_owned()
}

struct Scale {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    columns: usize,
}

impl Scale {
    fn column(&self, at: DateTime<Utc>) -> usize {
        let length = (self.to - self.from).num_milliseconds().max(1) as f64;
        let share = (at - self.from).num_milliseconds() as f64 / length;
        ((share.clamp(0.0, 1.0) * (self.columns - 1) as f64).round() as usize).min(self.columns - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn bar(stretches: &[(i64, i64)], ticks: &[(i64, char)], columns: usize) -> String {
        let stretches: Vec<_> = stretches.iter().map(|(a, b)| (at(*a), at(*b))).collect();
        let ticks: Vec<_> = ticks.iter().map(|(t, c)| (at(*t), *c)).collect();
        draw((at(0), at(100)), &stretches, &ticks, columns)
    }

    #[test]
    fn stretches_gaps_and_backups_are_told_apart() {
        assert_eq!(bar(&[(0, 40), (60, 100)], &[(0, 'F'), (60, 'i')], 11), "F====xi====");
        assert_eq!(bar(&[(20, 60)], &[(20, 'F')], 11), "  F====");
        assert_eq!(bar(&[(0, 0), (100, 100)], &[(0, 'F'), (100, 'F')], 11), "FxxxxxxxxxF");
    }

    #[test]
    fn no_gap_is_too_short_to_show() {
        assert_eq!(bar(&[(0, 50), (51, 100)], &[(51, 'F')], 11), "=====x=====");
        assert_eq!(bar(&[(0, 1), (2, 3), (4, 100)], &[], 3), "x==");
    }

    #[test]
    fn times_outside_the_scale_do_no_harm() {
        assert_eq!(bar(&[(-50, 500)], &[(-9, 'F'), (900, 'i')], 5), "F===i");
        assert_eq!(draw((at(5), at(5)), &[(at(5), at(5))], &[(at(5), 'F')], 0), "F");
    }
}
