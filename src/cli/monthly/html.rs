//! A report on a month as one page: nothing is fetched for it, and nothing in it runs.

use std::{fmt::Write as _, time::Duration};

use super::record::{Breach, Month, MonthRecord, Rehearsal};
use crate::cli::{
    drill::html::{STYLE, escape, length, section, table, time},
    units,
};

/// The page of a record.
pub(super) fn page(record: &MonthRecord) -> String {
    let MonthRecord { month, zone, .. } = record;
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Backups in {month}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header><h1>Backups in {month}</h1></header>\n\
         <p class=\"about\">{} to {} ({}), made on {} by {}</p>\n",
        time(record.from.0),
        time(record.to.0),
        escape(zone),
        time(record.made_at.0),
        escape(&record.made_by),
    );
    if !record.problems.is_empty() {
        let items = record.problems.iter().map(|what| format!("<li>{}</li>\n", escape(what)));
        let items: String = items.collect();
        page += &["<ul class=\"causes\">\n", &items, "</ul>\n"].concat();
    }
    section(&mut page, "Promises", &promises(record));
    section(&mut page, "Broken promises", &breaches(record));
    section(&mut page, "Drills", &drills(record));
    section(&mut page, "Kept", &kept(record));
    section(&mut page, "Made of", &anchors(record));
    write!(
        page,
        "<footer>Report {} of {}, written by {}. Its hash is in the signed log of the repository: \
         <code>stillpoint report verify</code>.</footer>\n</body>\n</html>\n",
        escape(&record.report),
        time(record.made_at.0),
        escape(record.program),
    )
    .expect("a String grows");
    page
}

/// What is not known.
const UNKNOWN: &str = "<span class=\"soft\">not known</span>";

fn or_unknown(told: Option<String>) -> String {
    told.unwrap_or_else(|| UNKNOWN.to_owned())
}

fn promises(record: &MonthRecord) -> String {
    let row = |one: &Month| {
        let rto = one.promise.rto_seconds.map(Duration::from_secs).map(units::duration);
        let breaches = one.breaches.as_ref().map(|known| match known.alerts.len() {
            0 => "none".to_owned(),
            count => format!("<span class=\"bad\">{count}</span>"),
        });
        let backups = one.backups.as_ref().map(|made| {
            format!("{} ({} verified)", units::grouped(made.made), units::grouped(made.verified))
        });
        let copies = one.copies.iter().map(|copy| {
            let backups = or_unknown(copy.backups.map(units::grouped));
            format!("{} {backups}", escape(&copy.copy))
        });
        [
            escape(&one.database),
            escape(&one.policy),
            one.state.to_owned(),
            units::duration(Duration::from_secs(one.promise.rpo_seconds)),
            rto.unwrap_or_else(|| "–".to_owned()),
            or_unknown(breaches),
            or_unknown(backups),
            copies.collect::<Vec<_>>().join("<br>"),
        ]
    };
    let headings = ["Database", "Policy", "State", "#RPO", "#RTO", "#Broken", "#Backups", "Copies"];
    table(&headings, record.databases.iter().map(row))
}

fn breaches(record: &MonthRecord) -> String {
    let row = |one: &Month, breach: &Breach| {
        let over = breach.over.map_or_else(|| "lasts".to_owned(), |over| time(over.0));
        [escape(&one.database), escape(&breach.class), time(breach.since.0), over]
    };
    let all = record.databases.iter().flat_map(|one| {
        let known = one.breaches.iter().flat_map(|known| &known.alerts);
        known.map(move |breach| row(one, breach))
    });
    let known = record.databases.iter().find_map(|one| one.breaches.as_ref());
    let from = match known {
        Some(known) => format!("<p>As written down from {} on.</p>\n", time(known.known_from.0)),
        None => format!("<p>{UNKNOWN}</p>\n"),
    };
    from + &table(&["Database", "What", "Since", "Over"], all)
}

fn drills(record: &MonthRecord) -> String {
    let row = |one: &Month, drill: &Rehearsal| {
        let (class, word) = if drill.passed { ("good", "passed") } else { ("bad", "failed") };
        let in_time = drill.in_time.map(|in_time| if in_time { "yes" } else { "no" });
        [
            escape(&one.database),
            escape(&drill.drill),
            time(drill.finished_at.0),
            format!("<span class=\"{class}\">{word}</span>"),
            or_unknown(drill.rto_ms.map(length)),
            in_time.unwrap_or("–").to_owned(),
            or_unknown(drill.rpo_ms.map(length)),
        ]
    };
    let all = record
        .databases
        .iter()
        .flat_map(|one| one.drills.iter().flatten().map(move |drill| row(one, drill)));
    let headings =
        ["Database", "Drill", "Ended", "Result", "#RTO measured", "In time", "#RPO measured"];
    table(&headings, all)
}

fn kept(record: &MonthRecord) -> String {
    let all = record.databases.iter().flat_map(|one| &one.retention).map(|kept| {
        let place = kept.copy.as_deref().unwrap_or("original");
        let words: Vec<String> = kept.words().iter().map(|word| escape(word)).collect();
        [escape(&kept.database), escape(place), words.join("<br>")]
    });
    table(&["Database", "Where", "What, and until when"], all)
}

fn anchors(record: &MonthRecord) -> String {
    let repositories = record.repositories.iter().map(|anchor| {
        let log = format!("repository {}", anchor.name);
        [escape(&log), units::grouped(anchor.entries), escape(&anchor.head)]
    });
    let audit = record.audit.iter().map(|end| {
        let lines = units::grouped(end.lines.unsigned_abs());
        ["audit log".to_owned(), lines, escape(&end.hash)]
    });
    table(&["Log", "#Entries", "Hash of the last"], repositories.chain(audit))
}
