//! Which time zone a person means who says none.

use std::path::Path;

use chrono::{DateTime, FixedOffset, NaiveDateTime, Offset, SecondsFormat, TimeZone, Utc};
use chrono_tz::Tz;
use stillpoint_contract::{Error, ErrorKind, Result, code};

/// The zone in which times are read and printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Zone {
    rules: Rules,
    /// Why the zone is only a guess, in a few words. Times may be printed, but not read, then.
    doubt: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rules {
    Named(Tz),
    Fixed(FixedOffset),
}

/// What the system says about its zone. Read by `environment`, judged here.
#[derive(Clone, Debug, Default)]
pub(crate) struct SystemZone {
    /// The variable `TZ`.
    pub variable: Option<String>,
    /// Where the link `/etc/localtime` leads, if it is one.
    pub localtime_link: Option<String>,
    /// Whether `/etc/localtime` is there at all.
    pub localtime_exists: bool,
    /// The first line of `/etc/timezone`.
    pub timezone_file: Option<String>,
}

/// What a wall clock that showed some time can mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// One instant.
    Once(DateTime<Utc>),
    /// Clocks were set back: it was shown twice, here with both offsets from UTC.
    Twice([DateTime<FixedOffset>; 2]),
    /// Clocks were set forward from the first to the second time: it was never shown.
    Never(NaiveDateTime, NaiveDateTime),
}

impl Zone {
    /// Universal time.
    pub(crate) const UTC: Self = Self { rules: Rules::Named(Tz::UTC), doubt: None };

    /// A constant distance from UTC.
    pub(crate) fn fixed(offset: FixedOffset) -> Self {
        Self { rules: Rules::Fixed(offset), doubt: None }
    }

    /// A zone by its name in the IANA database, in any case.
    pub(crate) fn named(name: &str) -> Result<Self> {
        known(name).map(Self::of).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, code::BAD_POINT, "find a time zone of that name")
                .with("zone", name)
                .next("give a name such as UTC or Europe/Berlin, or an offset such as +02:00")
        })
    }

    /// The system's zone, as the C library would choose it.
    ///
    /// A zone that is set but has no name we know is replaced by UTC, with a doubt.
    pub(crate) fn of_system(system: &SystemZone) -> Self {
        if let Some(variable) = &system.variable {
            return of_path(variable.trim_start_matches(':'))
                .unwrap_or_else(|| doubtful(format!("TZ={variable} names no zone known here")));
        }
        if let Some(zone) = system.localtime_link.as_deref().and_then(of_path) {
            return zone;
        }
        if let Some(zone) = system.timezone_file.as_deref().and_then(|name| known(name.trim())) {
            return Self::of(zone);
        }
        if system.localtime_exists {
            return doubtful("/etc/localtime does not say its name".to_owned());
        }
        Self::UTC
    }

    /// Why times without a zone cannot be read, if so.
    pub(crate) fn doubt(&self) -> Option<&str> {
        self.doubt.as_deref()
    }

    /// The zone's name or offset.
    pub(crate) fn name(&self) -> String {
        match self.rules {
            Rules::Named(zone) => zone.name().to_owned(),
            Rules::Fixed(offset) => offset.to_string(),
        }
    }

    /// What a wall clock in this zone shows at an instant.
    pub(crate) fn local(&self, instant: DateTime<Utc>) -> DateTime<FixedOffset> {
        let offset = match self.rules {
            Rules::Named(zone) => zone.offset_from_utc_datetime(&instant.naive_utc()).fix(),
            Rules::Fixed(offset) => offset,
        };
        instant.with_timezone(&offset)
    }

    /// The instants at which a wall clock in this zone showed `local`.
    pub(crate) fn instants(&self, local: NaiveDateTime) -> Reading {
        let zone = match self.rules {
            Rules::Named(zone) => zone,
            Rules::Fixed(offset) => {
                return Reading::Once((local - offset).and_utc());
            }
        };
        match zone.from_local_datetime(&local) {
            chrono::LocalResult::Single(one) => Reading::Once(one.to_utc()),
            chrono::LocalResult::Ambiguous(a, b) => {
                let mut both = [a.fixed_offset(), b.fixed_offset()];
                both.sort();
                Reading::Twice(both)
            }
            chrono::LocalResult::None => {
                let (from, to) = hole(zone, local);
                Reading::Never(from, to)
            }
        }
    }

    /// An instant as people of this zone write it, to the second, with the offset from UTC:
    /// pasted after `--at`, it means the same second again.
    pub(crate) fn show(&self, instant: DateTime<Utc>) -> String {
        self.local(instant).format("%Y-%m-%d %H:%M:%S%:z").to_string()
    }

    /// An instant with all its digits, as one word: it means the same instant wherever it is read.
    pub(crate) fn exact(&self, instant: DateTime<Utc>) -> String {
        self.local(instant).to_rfc3339_opts(SecondsFormat::AutoSi, true)
    }

    fn of(zone: Tz) -> Self {
        Self { rules: Rules::Named(zone), doubt: None }
    }
}

fn doubtful(why: String) -> Zone {
    Zone { doubt: Some(why), ..Zone::UTC }
}

fn known(name: &str) -> Option<Tz> {
    name.parse().ok().or_else(|| {
        chrono_tz::TZ_VARIANTS.iter().copied().find(|zone| zone.name().eq_ignore_ascii_case(name))
    })
}

/// A zone's name, or a path into a zone database such as `/usr/share/zoneinfo/Europe/Berlin`.
fn of_path(text: &str) -> Option<Zone> {
    if text.is_empty() {
        return Some(Zone::UTC);
    }
    let name = match text.split_once("zoneinfo/") {
        Some((_, name)) => name.trim_start_matches("posix/"),
        None if Path::new(text).is_absolute() => return None,
        None => text,
    };
    known(name).map(Zone::of)
}

/// The times that clocks skipped around `local`, to the minute.
fn hole(zone: Tz, local: NaiveDateTime) -> (NaiveDateTime, NaiveDateTime) {
    const MINUTES_MAX: i64 = 2 * 24 * 60;
    let minute = chrono::TimeDelta::minutes(1);
    let shown = |time: &NaiveDateTime| zone.from_local_datetime(time).earliest().is_some();
    let whole = local - chrono::TimeDelta::seconds(local.and_utc().timestamp().rem_euclid(60));
    let search = |step: i32| {
        (1..=MINUTES_MAX).map(|n| whole + minute * (step * n as i32)).find(shown).unwrap_or(local)
    };
    (search(-1) + minute, search(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(variable: Option<&str>, link: Option<&str>, file: Option<&str>) -> String {
        let zone = Zone::of_system(&SystemZone {
            variable: variable.map(str::to_owned),
            localtime_link: link.map(str::to_owned),
            localtime_exists: link.is_some(),
            timezone_file: file.map(str::to_owned),
        });
        format!("{}{}", zone.name(), if zone.doubt().is_some() { "?" } else { "" })
    }

    #[test]
    fn the_system_s_zone_is_found_as_the_c_library_finds_it() {
        let berlin = "/usr/share/zoneinfo/Europe/Berlin";
        assert_eq!(system(None, None, None), "UTC");
        assert_eq!(system(Some(""), Some(berlin), None), "UTC");
        assert_eq!(system(Some("Europe/Paris"), Some(berlin), None), "Europe/Paris");
        assert_eq!(system(Some(":Europe/Paris"), None, None), "Europe/Paris");
        assert_eq!(system(Some(berlin), None, None), "Europe/Berlin");
        assert_eq!(system(None, Some("../usr/share/zoneinfo/Etc/UTC"), None), "Etc/UTC");
        assert_eq!(system(None, Some("/somewhere/else"), Some("Asia/Tokyo\n")), "Asia/Tokyo");
        assert_eq!(system(None, Some("/somewhere/else"), None), "UTC?");
        assert_eq!(system(Some("CET-1CEST,M3.5.0,M10.5.0/3"), Some(berlin), None), "UTC?");
    }

    #[test]
    fn a_skipped_hour_is_named_by_its_limits() {
        let at = |text: &str| text.parse::<NaiveDateTime>().unwrap();
        let berlin = Zone::named("europe/berlin").unwrap();
        assert_eq!(
            berlin.instants(at("2026-03-29T02:30:15")),
            Reading::Never(at("2026-03-29T02:00:00"), at("2026-03-29T03:00:00"))
        );
        // Samoa went from the 29th straight to the 31st.
        let apia = Zone::named("Pacific/Apia").unwrap();
        assert_eq!(
            apia.instants(at("2011-12-30T12:00:00")),
            Reading::Never(at("2011-12-30T00:00:00"), at("2011-12-31T00:00:00"))
        );
    }
}
