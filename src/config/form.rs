//! Texts of a configuration that have a form: lengths of time, sizes, windows, zones.

use std::time::Duration;

use chrono::{NaiveTime, Weekday};
use chrono_tz::Tz;

use crate::policy::{self, LogShare, Period, PeriodUnit, Selector, Template, Window};

/// The event of a subject that a basis of retention names; none where it names none.
pub(super) fn event_of(basis: &str) -> Option<&str> {
    basis.strip_prefix("subject.")
}

/// A form, and how it is checked.
#[derive(Debug)]
pub(super) struct Form {
    /// What it is, with its article.
    pub(super) what: &'static str,
    pub(super) example: &'static str,
    /// The same as a regular expression, for the schema; empty where there is none.
    pub(super) pattern: &'static str,
    /// Says what is wrong with a text.
    pub(super) check: fn(&str) -> Result<(), String>,
}

pub(super) const ANY: Form =
    Form { what: "a text", example: "text", pattern: "", check: |_| Ok(()) };

pub(super) const NAME: Form = Form {
    what: "a name",
    example: "primary",
    pattern: "^[^\\x00-\\x1f]+$",
    check: |text| {
        let is_fine = !text.is_empty() && !text.chars().any(char::is_control);
        if is_fine { Ok(()) } else { Err("empty, or with control characters".to_owned()) }
    },
};

pub(super) const LENGTH: Form = Form {
    what: "a length of time",
    example: "15m",
    pattern: "^([0-9]+(s|m|h|d|w))+$",
    check: |text| length(text).map(drop),
};

pub(super) const PERIOD: Form = Form {
    what: "a length of time in a calendar",
    example: "7y",
    pattern: "^[0-9]+(h|d|w|mo|y)$",
    check: |text| period(text).map(drop),
};

pub(super) const BASIS: Form = Form {
    what: "what counts from",
    example: "subject.closed_at",
    pattern: "^(archived|subject\\..+)$",
    check: |text| match event_of(text) {
        Some(event) => (NAME.check)(event),
        None if text == "archived" => Ok(()),
        None => Err("neither `archived` nor an event of a subject".to_owned()),
    },
};

pub(super) const ENCRYPTION: Form = Form {
    what: "how archived files are encrypted",
    example: "repo",
    pattern: "^(repo|none)$",
    check: |text| match text {
        "repo" | "none" => Ok(()),
        "parquet-modular" => Err("its keys are named in the footers of the files, and CSV and \
                                  JSON have none: `repo` gives each file of any format a key \
                                  that can be destroyed"
            .to_owned()),
        _ => Err("neither `repo` nor `none`".to_owned()),
    },
};

pub(super) const CUTOFF: Form = Form {
    what: "a time before now",
    example: "now - 24 months",
    pattern: "^now *- *[0-9]+ *(hours?|days?|weeks?|months?|years?|h|d|w|mo|y)$",
    check: |text| cutoff(text).map(drop),
};

pub(super) const SIZE: Form = Form {
    what: "a size",
    example: "2TiB",
    pattern: "^[0-9]+ ?(B|KiB|MiB|GiB|TiB|PiB|kB|MB|GB|TB|PB)$",
    check: |text| size(text).map(drop),
};

pub(super) const RATE: Form = Form {
    what: "a rate",
    example: "80MiB/s",
    pattern: "^[0-9]+ ?(B|KiB|MiB|GiB|kB|MB|GB)/s$",
    check: |text| rate(text).map(drop),
};

pub(super) const LOG_SHARE: Form = Form {
    what: "a share, or a size",
    example: "60%",
    pattern: "^([0-9]+%|[0-9]+ ?(B|KiB|MiB|GiB|TiB|PiB|kB|MB|GB|TB|PB))$",
    check: |text| log_share(text).map(drop),
};

pub(super) const MOMENT: Form = Form {
    what: "a short length of time",
    example: "250ms",
    pattern: "^[0-9]+(ms|s)$",
    check: |text| moment(text).map(drop),
};

pub(super) const ZONE: Form = Form {
    what: "a time zone of the IANA database",
    example: "Europe/London",
    pattern: "^[A-Za-z_+/0-9-]+$",
    check: |text| zone(text).map(drop),
};

pub(super) const WINDOW: Form = Form {
    what: "a stretch of the days of a week",
    example: "MON-FRI 08:00-18:00",
    pattern: "^([A-Za-z]{3}(-[A-Za-z]{3})?(,[A-Za-z]{3}(-[A-Za-z]{3})?)* )?\
              [0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9]( [A-Za-z_+/0-9-]+)?$",
    check: |text| window(text).map(drop),
};

pub(super) const SOCKET: Form = Form {
    what: "an address and a port",
    example: "127.0.0.1:9187",
    pattern: "",
    check: |text| {
        let parsed = text.parse::<std::net::SocketAddr>();
        parsed.map(drop).map_err(|_| "no address with a port has this form".to_owned())
    },
};

pub(super) const RUN_ON: Form = Form {
    what: "a choice of workers",
    example: "site=dr",
    pattern: "^site=[^\\x00-\\x1f]+$",
    check: |text| site(text).map(drop),
};

pub(super) const CRON: Form = Form {
    what: "times of a calendar, as cron has them",
    example: "0 2 * * SUN",
    pattern: "",
    check: |text| policy::check(text).map_err(|bad| bad.why),
};

pub(super) const SELECTOR: Form = Form {
    what: "a choice of labels",
    example: "engine=postgres, env=prod, app",
    pattern: "",
    check: |text| Selector::new(text).map(drop),
};

pub(super) const TEMPLATE: Form = Form {
    what: "a text with labels in braces",
    example: "{app}/{cluster}",
    pattern: "",
    check: |text| Template::new(text).map(drop),
};

/// The units of a length of time, in seconds.
const SECONDS: [(&str, u64); 5] =
    [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400), ("w", 604_800)];

/// A length such as `1h30m`; the longest is a hundred years.
pub(super) fn length(text: &str) -> Result<Duration, String> {
    const MOST: u64 = 100 * 366 * 86_400;
    let mut rest = text;
    let mut seconds = 0_u64;
    while !rest.is_empty() {
        let (number, unit, after) = number_and_unit(rest)?;
        let (_, of) = SECONDS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| format!("`{unit}` is no unit; s, m, h, d and w are"))?;
        let part = number.checked_mul(*of);
        seconds = part.and_then(|part| seconds.checked_add(part)).ok_or("it is too long")?;
        rest = after;
    }
    match seconds {
        0 => Err("it is nothing".to_owned()),
        seconds if seconds > MOST => Err("longer than a hundred years".to_owned()),
        seconds => Ok(Duration::from_secs(seconds)),
    }
}

/// A length such as `250ms`, up to a minute.
pub(crate) fn moment(text: &str) -> Result<Duration, String> {
    let (number, unit, rest) = number_and_unit(text)?;
    let length = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => return Err(format!("`{unit}` is no unit; ms and s are")),
    };
    let is_one = rest.is_empty() && !length.is_zero() && length <= Duration::from_mins(1);
    if is_one { Ok(length) } else { Err("it is not from 1ms to 60s".to_owned()) }
}

/// A number, the letters behind it, and the rest.
fn number_and_unit(text: &str) -> Result<(u64, &str, &str), String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    let number = match number.parse() {
        Ok(number) => number,
        Err(_) if number.is_empty() => return Err(format!("a number is missing before `{rest}`")),
        Err(_) => return Err(format!("{number} is too large")),
    };
    let rest = rest.trim_start();
    let letters = rest.find(|letter: char| letter.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(letters);
    if unit.is_empty() { Err("a unit is missing".to_owned()) } else { Ok((number, unit, rest)) }
}

/// A length such as `7y`.
pub(super) fn period(text: &str) -> Result<Period, String> {
    let (number, unit, rest) = number_and_unit(text)?;
    let unit = match unit {
        "h" => PeriodUnit::Hours,
        "d" => PeriodUnit::Days,
        "w" => PeriodUnit::Weeks,
        "mo" => PeriodUnit::Months,
        "y" => PeriodUnit::Years,
        other => return Err(format!("`{other}` is no unit; h, d, w, mo and y are")),
    };
    let count = u32::try_from(number).ok().filter(|count| (1..=100_000).contains(count));
    match (count, rest) {
        (Some(count), "") => Ok(Period { count, unit }),
        (None, _) => Err("from 1 to 100000 of one unit".to_owned()),
        (_, rest) => Err(format!("`{rest}` is too much: one number and one unit")),
    }
}

/// An age such as `now - 24 months`.
pub(super) fn cutoff(text: &str) -> Result<Period, String> {
    const UNITS: [(&str, &str); 5] =
        [("hour", "h"), ("day", "d"), ("week", "w"), ("month", "mo"), ("year", "y")];
    let age = text.trim().strip_prefix("now").map(str::trim_start);
    let age = age.and_then(|age| age.strip_prefix('-')).map(str::trim);
    let age = age.ok_or("it does not begin with `now -`")?;
    let (number, unit, rest) = number_and_unit(age)?;
    let long = UNITS.iter().find(|(name, _)| unit.strip_suffix('s').unwrap_or(unit) == *name);
    period(&format!("{number}{}{rest}", long.map_or(unit, |(_, short)| short)))
}

/// A size in bytes, such as `400MiB`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 11] = [
        ("B", 1),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("PiB", 1 << 50),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("PB", 1_000_000_000_000_000),
    ];
    let (number, unit, rest) = number_and_unit(text)?;
    let known = UNITS.iter().find(|(name, _)| *name == unit && rest.is_empty());
    let (_, of) = known.ok_or_else(|| {
        format!("`{unit}{rest}` is no unit; KiB, MiB, GiB, TiB and kB, MB, GB, TB are")
    })?;
    number.checked_mul(*of).filter(|size| *size > 0).ok_or_else(|| "out of bounds".to_owned())
}

/// Bytes for each second, such as `80MiB/s`.
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    let bytes = text.strip_suffix("/s").ok_or("it does not end in `/s`")?;
    size(bytes.trim_end())
}

/// How much log, such as `60%` or `4GiB`.
pub(crate) fn log_share(text: &str) -> Result<LogShare, String> {
    let Some(percent) = text.strip_suffix('%') else { return size(text).map(LogShare::Bytes) };
    let percent = percent.parse().ok().filter(|percent| (1..=100).contains(percent));
    percent.map(LogShare::Percent).ok_or_else(|| "it is not between 1% and 100%".to_owned())
}

/// The site whose workers are chosen, such as `dr` by `site=dr`.
pub(super) fn site(text: &str) -> Result<String, String> {
    let site = text.strip_prefix("site=").ok_or("it does not begin with `site=`")?;
    (NAME.check)(site).map(|()| site.to_owned())
}

/// A zone by its name.
pub(super) fn zone(text: &str) -> Result<Tz, String> {
    text.parse().map_err(|_| "no zone has this name".to_owned())
}

const DAYS: [(&str, Weekday); 7] = [
    ("MON", Weekday::Mon),
    ("TUE", Weekday::Tue),
    ("WED", Weekday::Wed),
    ("THU", Weekday::Thu),
    ("FRI", Weekday::Fri),
    ("SAT", Weekday::Sat),
    ("SUN", Weekday::Sun),
];

/// A window such as `MON-FRI 08:00-18:00`, or `20:00-06:00` of every day.
pub(super) fn window(text: &str) -> Result<Window, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = words.iter().position(|word| word.contains(':'));
    let at = at.ok_or("two times with `-` between are missing")?;
    let days = match &words[..at] {
        [] => DAYS.map(|(_, day)| day).to_vec(),
        days => weekdays(&days.join(" "))?,
    };
    let zone = match &words[at + 1..] {
        [] => None,
        [name] => Some(zone(name)?),
        _ => return Err("there is more behind the times than a zone".to_owned()),
    };
    let times = words[at];
    let (from, to) = times.split_once('-').ok_or("two times with `-` between are missing")?;
    let (from, to) = (time(from)?, time(to)?);
    Ok(Window { days, from, to, zone })
}

fn time(text: &str) -> Result<NaiveTime, String> {
    // Midnight at the end of a day is the one at its beginning: a window that ends no later than
    // it begins ends on the next day.
    let text = if text == "24:00" { "00:00" } else { text };
    NaiveTime::parse_from_str(text, "%H:%M").map_err(|_| format!("`{text}` is no time of a day"))
}

fn weekdays(text: &str) -> Result<Vec<Weekday>, String> {
    let day = |name: &str| {
        let known = DAYS.iter().position(|(known, _)| known.eq_ignore_ascii_case(name));
        known.ok_or_else(|| format!("`{name}` is no day; MON to SUN are"))
    };
    let mut days = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        let mut at = first;
        loop {
            if !days.contains(&DAYS[at].1) {
                days.push(DAYS[at].1);
            }
            if at == last {
                break;
            }
            at = (at + 1) % DAYS.len();
        }
    }
    Ok(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_units_and_bounds() {
        assert_eq!(length("5m"), Ok(Duration::from_mins(5)));
        assert_eq!(length("1h30m"), Ok(Duration::from_mins(90)));
        assert_eq!(length("2w"), Ok(Duration::from_hours(336)));
        for wrong in ["", "5", "m", "5 minutes", "0s", "9999999w", "1h30", "-5m", "1.5h"] {
            assert!(length(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn moments_are_no_longer_than_a_minute() {
        assert_eq!(moment("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(moment("60s"), Ok(Duration::from_mins(1)));
        for wrong in ["", "0ms", "250", "61s", "60001ms", "1m", "1s5ms", "-1s", "1.5s"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn periods_are_of_one_unit() {
        assert_eq!(period("7y"), Ok(Period { count: 7, unit: PeriodUnit::Years }));
        assert_eq!(period("18mo"), Ok(Period { count: 18, unit: PeriodUnit::Months }));
        for wrong in ["7", "0d", "7m", "1y6mo", "y"] {
            assert!(period(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cutoffs_lie_before_now() {
        let months = Period { count: 24, unit: PeriodUnit::Months };
        for text in ["now - 24 months", "now-24mo", " now -24 month"] {
            assert_eq!(cutoff(text), Ok(months), "{text}");
        }
        for wrong in ["24 months", "now + 1 day", "now", "now - ", "now - 1 m", "now - 1 day 2"] {
            assert!(cutoff(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_say_which_kilo_they_mean() {
        assert_eq!(size("2KiB"), Ok(2_048));
        assert_eq!(size("2 kB"), Ok(2_000));
        assert_eq!(rate("80MiB/s"), Ok(80 << 20));
        for wrong in ["2", "2K", "2KB", "2 kb", "0MiB", "99999999PiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        assert!(rate("80MiB").is_err());
    }

    #[test]
    fn row_30_workers_are_chosen_by_their_site() {
        assert_eq!(site("site=dr"), Ok("dr".to_owned()));
        for wrong in ["", "dr", "site", "site=", "site = dr", "host=dr", "site=a\nb"] {
            assert!(site(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn windows_may_lie_over_midnight_and_over_the_weekend() {
        let at = |hour, minute| NaiveTime::from_hms_opt(hour, minute, 0).unwrap();
        let working = window("mon-fri 08:00-18:00").unwrap();
        assert_eq!((working.days.len(), working.from, working.to), (5, at(8, 0), at(18, 0)));
        let weekend = window("FRI-MON,WED 20:30-24:00").unwrap();
        let days = [Weekday::Fri, Weekday::Sat, Weekday::Sun, Weekday::Mon, Weekday::Wed];
        assert_eq!((&weekend.days[..], weekend.to), (&days[..], at(0, 0)));
        assert_eq!(window("20:00-06:00").unwrap().days.len(), 7);
        let there = window("sat,sun 22:00-05:00 Europe/Berlin").unwrap();
        assert_eq!((there.days.len(), there.zone), (2, Some(Tz::Europe__Berlin)));
        assert_eq!(window(" 22:00-05:00  UTC ").unwrap().zone, Some(Tz::UTC));
        for wrong in [
            "",
            "MON",
            "MON 8",
            "XYZ 08:00-09:00",
            "08:00",
            "25:00-26:00",
            "22:00-05:00 Europe/Nowhere",
            "22:00-05:00 UTC UTC",
            "UTC 22:00-05:00",
        ] {
            assert!(window(wrong).is_err(), "{wrong}");
        }
    }
}
