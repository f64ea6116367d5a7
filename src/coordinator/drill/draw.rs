//! A random point of what can be restored.

use chrono::{DateTime, TimeDelta, Utc};
use stillpoint_contract::{Engine, Entropy, Result, code};

use crate::{
    coordinator::{
        point::{Preference, Wanted, choose, no_backup},
        reach::{Window, windows},
    },
    repository::{Repository, Timeline},
};

/// Draws an instant, each as likely as any other. Where a window begins with a backup that holds
/// transactions which were seen only later, what lies between is no point: then it is the backup.
///
/// # Errors
///
/// [`Missing`](stillpoint_contract::ErrorKind::Missing) when nothing can be restored.
pub async fn draw(
    repository: &Repository,
    timeline: &Timeline,
    engine: &dyn Engine,
    entropy: &dyn Entropy,
) -> Result<DateTime<Utc>> {
    let windows = windows(timeline);
    let (window, at) = pick(&windows, entropy).ok_or_else(|| no_backup(&timeline.database))?;
    match choose(repository, timeline, engine, &Wanted::Time(at), Preference::Newest).await {
        Err(error) if error.code() == code::UNREACHABLE_POINT => Ok(window.from.at),
        _ => Ok(at),
    }
}

/// One microsecond of all windows.
fn pick<'a>(windows: &'a [Window], entropy: &dyn Entropy) -> Option<(&'a Window, DateTime<Utc>)> {
    let length = |window: &Window| {
        let micros = (window.to.at - window.from.at).num_microseconds().unwrap_or(0);
        u128::from(micros.max(0).unsigned_abs()) + 1
    };
    let total: u128 = windows.iter().map(length).sum();
    let mut random = [0; 16];
    entropy.fill(&mut random);
    let mut drawn = u128::from_le_bytes(random).checked_rem(total)?;
    for window in windows {
        if drawn < length(window) {
            let into = TimeDelta::microseconds(i64::try_from(drawn).unwrap_or(0));
            return Some((window, window.from.at + into));
        }
        drawn -= length(window);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{coordinator::reach::Restorable, repository::store::Dice};

    fn window(from: i64, to: i64) -> Window {
        let moment = |micros| Restorable {
            at: DateTime::from_timestamp_micros(micros).unwrap(),
            position: None,
        };
        Window { from: moment(from), to: moment(to), gap: None }
    }

    #[test]
    fn every_point_is_drawn_and_no_other() {
        let windows = [window(10, 12), window(20, 20), window(31, 30)];
        let dice = Dice::new(1);
        let mut drawn: Vec<_> =
            (0..500).map(|_| pick(&windows, &dice).unwrap().1.timestamp_micros()).collect();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn, [10, 11, 12, 20, 31]);
        assert!(pick(&[], &dice).is_none());
    }
}
