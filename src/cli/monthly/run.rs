//! The command: which month, where the report is kept, and what is answered.

use std::{path::PathBuf, time::Duration};

use chrono::{DateTime, Datelike, Months, NaiveDate, Utc};
use chrono_tz::Tz;
use clap::Args;
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{gather::gather, html, record::MonthRecord};
use crate::{
    cli::{
        answer::{Answer, Stamp},
        drill::write_evidence,
        exit,
        page::{Page, Table, Tone, printable},
        retention::report::Shelf,
        serve::promises,
        session::Session,
        units,
    },
    policy::midnight,
    repository::{entry::Reported, monthly::REPORT_FORMAT},
};

/// What `report monthly` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The month, such as 2026-10, in the zone of the configuration [default: the last one].
    #[arg(long, value_name = "MONTH")]
    month: Option<String>,
    /// The repository that keeps it [default: the first by its name that is no copy].
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// Also write it into this directory, as REPORT.json and REPORT.html.
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    evidence: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct MonthlyAnswer {
    #[serde(flatten)]
    record: MonthRecord,
    evidence: Evidence,
}

/// Where it is kept.
#[derive(Debug, Serialize)]
struct Evidence {
    record: String,
    record_hash: String,
    page: String,
    page_hash: String,
}

impl From<Reported> for Evidence {
    fn from(reported: Reported) -> Self {
        let Reported { record, record_hash, page, page_hash, .. } = reported;
        Self { record, record_hash, page, page_hash }
    }
}

impl Answer for MonthlyAnswer {
    const SCHEMA: &'static str = "report.monthly/1";

    fn write(&self, page: &mut Page<'_>) {
        let record = &self.record;
        let so_far = if record.complete { "" } else { ", so far" };
        page.line(page.paint(Tone::Strong, &format!("Backups in {}{so_far}", record.month)));
        let heading =
            ["DATABASE", "POLICY", ">RPO", ">RTO", ">BROKEN", ">BACKUPS", ">DRILLS", ">SLOWEST"];
        let mut table = Table::new(&heading);
        for one in &record.databases {
            let count = |count: Option<usize>| {
                count.map_or_else(|| "?".to_owned(), |count| units::grouped(count as u64))
            };
            let seconds = |seconds| units::duration(Duration::from_secs(seconds));
            let drills = one.drills.as_ref().map(|drills| {
                let passed = drills.iter().filter(|drill| drill.passed).count();
                format!("{passed}/{}", drills.len())
            });
            let slowest = one.drills.iter().flatten().filter_map(|drill| drill.rto_ms).max();
            let slowest = slowest.map(|ms| units::duration(Duration::from_millis(ms)));
            table.row(vec![
                one.database.clone(),
                one.policy.clone(),
                seconds(one.promise.rpo_seconds),
                one.promise.rto_seconds.map_or_else(|| "-".to_owned(), seconds),
                count(one.breaches.as_ref().map(|known| known.alerts.len())),
                one.backups.as_ref().map_or_else(|| "?".to_owned(), |b| units::grouped(b.made)),
                drills.unwrap_or_else(|| "?".to_owned()),
                slowest.unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        page.table(&table);
        for problem in &record.problems {
            page.line(page.paint(Tone::Bad, &printable(problem)));
        }
        page.facts(0, &[("Report", &record.report), ("Kept as", &self.evidence.record)]);
    }
}

/// Makes it.
pub(crate) async fn run(session: &Session, options: Options) -> Result<u8> {
    let promises = promises(session).await?;
    let config = promises.held.config();
    let mut shelf = Shelf::new(session);
    let now = shelf.now;
    let (month, from, end) = month(options.month.as_deref(), config.zone, now)?;
    let to = end.min(now);
    let gathered = gather(&mut shelf, &promises, (from, to)).await?;
    let is_original = |name: &&String| config.origin_of(name).is_none();
    let usual =
        || config.restorable().find(|name| is_original(name) && shelf.open.contains_key(*name));
    let Some(name) = options.repository.clone().or_else(|| usual().cloned()) else {
        // Where nothing was reached, the error is the answer.
        let none = || {
            Error::new(ErrorKind::Config, code::CONFIG_LACKS, "find a repository for the report")
                .next("stillpoint config check")
        };
        return Err(gathered.failure.unwrap_or_else(none));
    };
    let repository = shelf.open(config, &name).await?;
    let record = MonthRecord {
        format: REPORT_FORMAT,
        program: concat!("stillpoint ", env!("CARGO_PKG_VERSION")),
        repository: repository.id().to_owned(),
        report: repository.new_report(),
        made_by: session.user(),
        made_at: Stamp(now),
        zone: config.zone.to_string(),
        from: Stamp(from),
        to: Stamp(to),
        complete: end <= now,
        configuration: promises.held.digest.clone(),
        repositories: gathered.repositories,
        audit: gathered.known.audit,
        databases: gathered.databases,
        problems: gathered.problems,
        month,
    };
    let text = serde_json::to_vec_pretty(&record)
        .map_err(|cause| Error::bug("write a report").caused_by(cause))?;
    let page = html::page(&record);
    let named = (record.report.as_str(), record.month.as_str());
    let reported = repository.keep_report(named, now, (&text, &page)).await?;
    repository.remember().await?;
    if let Some(directory) = &options.evidence {
        write_evidence(directory, &record.report, &text, page.as_bytes())?;
    }
    session.answer(&MonthlyAnswer { record, evidence: reported.into() })?;
    gathered.failure.map_or(Ok(exit::OK), Err)
}

/// A month by its name, and its two ends.
fn month(
    typed: Option<&str>,
    zone: Tz,
    now: DateTime<Utc>,
) -> Result<(String, DateTime<Utc>, DateTime<Utc>)> {
    let today = now.with_timezone(&zone).date_naive();
    let first = match typed {
        None => today.with_day(1).and_then(|first| first.checked_sub_months(Months::new(1))),
        Some(text) => NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d").ok(),
    };
    let next = first.and_then(|first| first.checked_add_months(Months::new(1)));
    let bad = |why: &str| {
        Err(Error::new(ErrorKind::Invalid, code::USAGE, "understand the month")
            .with("given", typed.unwrap_or_default())
            .why(why.to_owned())
            .next("--month 2026-10"))
    };
    let (Some(first), Some(next)) = (first, next) else { return bad("it is none") };
    if !(1970..=9999).contains(&first.year()) {
        return bad("it is none that anything was backed up in");
    }
    let (from, to) = (midnight(zone, first), midnight(zone, next));
    if now <= from {
        return bad("it has not begun yet");
    }
    Ok((first.format("%Y-%m").to_string(), from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_one_of_the_calendar_of_its_zone() {
        let now = "2026-11-27T17:00:00Z".parse().unwrap();
        let of = |typed: Option<&str>| month(typed, Tz::Europe__Berlin, now);
        let (name, from, to) = of(None).unwrap();
        assert_eq!(name, "2026-10");
        // Summer time ends in it.
        assert_eq!(from, "2026-09-30T22:00:00Z".parse::<DateTime<Utc>>().unwrap());
        assert_eq!(to, "2026-10-31T23:00:00Z".parse::<DateTime<Utc>>().unwrap());
        assert_eq!(of(Some("2026-11")).unwrap().0, "2026-11");
        for bad in ["2026-12", "2026-13", "2026", "x", "", "2026-10-01", "0001-01", "99999-01"] {
            assert!(of(Some(bad)).is_err(), "{bad}");
        }
    }
}
