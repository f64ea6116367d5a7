//! When work is to stop: a time that is still to come.

use chrono::{DateTime, Days, NaiveTime, Utc};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use crate::cli::{
    moment::span,
    session::Session,
    zone::{Reading, Zone},
};

/// Reads a time of day, which is the next such time, a length from now on, or a date and a time.
///
/// # Errors
///
/// [`Invalid`](ErrorKind::Invalid) when it is none of these, or over.
pub(super) fn end(session: &Session, text: &str) -> Result<DateTime<Utc>> {
    let now = session.world.clock.now();
    let at = match parse(text, now, &session.zone) {
        Some(at) => at,
        None => session.instant(text).map_err(|_| unfit(text, "it is no time"))?,
    };
    if at <= now {
        return Err(unfit(text, "that time is over"));
    }
    Ok(at)
}

fn unfit(text: &str, why: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, code::USAGE, "understand --until")
        .with("given", text)
        .with("forms", "05:00, +2h, \"2026-12-01 05:00\"")
        .why(why)
}

fn parse(text: &str, now: DateTime<Utc>, zone: &Zone) -> Option<DateTime<Utc>> {
    if let Some(length) = text.strip_prefix('+') {
        return now.checked_add_signed(span(length)?);
    }
    let forms = ["%H:%M", "%H:%M:%S"];
    let time = forms.iter().find_map(|form| NaiveTime::parse_from_str(text, form).ok())?;
    let today = zone.local(now).date_naive();
    // Where clocks are put forward, a day may lack that time, and the next one has it.
    (0..3).find_map(|days| {
        let local = today.checked_add_days(Days::new(days))?.and_time(time);
        let shown = match zone.instants(local) {
            Reading::Once(at) => vec![at],
            Reading::Twice(both) => both.map(|at| at.to_utc()).to_vec(),
            Reading::Never(..) => Vec::new(),
        };
        shown.into_iter().find(|at| *at > now)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_is_the_next_one() {
        let berlin = Zone::named("Europe/Berlin").unwrap();
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let read = |text: &str, now: &str| parse(text, at(now), &berlin);
        let evening = "2026-11-28T21:00:00Z";
        assert_eq!(read("05:00", evening), Some(at("2026-11-29T04:00:00Z")));
        assert_eq!(read("23:30", evening), Some(at("2026-11-28T22:30:00Z")));
        assert_eq!(read("22:00", evening), Some(at("2026-11-29T21:00:00Z")));
        assert_eq!(read("+90m", evening), Some(at("2026-11-28T22:30:00Z")));
        // That night clocks are put forward at two.
        let night = "2027-03-27T23:00:00Z";
        assert_eq!(read("02:30", night), Some(at("2027-03-29T00:30:00Z")));
        for wrong in ["25:00", "soon", "+", "+-2h", "2026-12-01 05:00"] {
            assert_eq!(read(wrong, evening), None, "{wrong}");
        }
    }
}
