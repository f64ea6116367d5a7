//! What must be true of everything that happened, told without asking the code that acted.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use stillpoint::{
    coordinator::{
        Member, NoticeKind,
        state::{Filter, Job},
    },
    policy::Calendar,
};

use super::{
    model::Record,
    people::Heard,
    scenario::{Past, Report},
};

/// How soon a breach is to be told, and how soon that it is over, while somebody is awake.
const SOON: TimeDelta = TimeDelta::minutes(60);

/// After its commit a backup may be known to nobody, while somebody is awake for so long.
const UNHEARD: TimeDelta = TimeDelta::minutes(40);

/// A stretch in which a promise was broken.
#[derive(Clone, Copy, Debug)]
struct Breach {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
}

/// Judges everything.
pub(super) async fn judge(past: &Past) -> Result<Report, String> {
    match judged(past).await {
        Err(wrong) => Err(format!("{wrong}{}", story(past, &wrong).await)),
        judged => judged,
    }
}

/// What happened to the database that something is wrong with.
async fn story(past: &Past, wrong: &str) -> String {
    let Some(member) = past.fleet.members.values().find(|m| wrong.contains(&m.name)) else {
        return String::new();
    };
    let mut lines: Vec<(DateTime<Utc>, String)> = Vec::new();
    let filter = Filter { database: Some(member.name.clone()), most: 1_000, ..Filter::default() };
    for job in past.state.jobs(&filter).await.unwrap_or_default() {
        lines.push((job.task.due, format!("due: {} {:?}", job.task.kind, job.phase)));
    }
    for made in past.vault.record(&member.name).backups {
        lines.push((made.at, format!("backup for {}, until {}", made.task, made.committed)));
    }
    for heard in past.people.heard().iter().filter(|heard| heard.database == member.name) {
        lines.push((heard.at, format!("{:?} {}", heard.kind, heard.class)));
    }
    for (from, to) in &past.awake {
        lines.push((*from, format!("somebody is awake, until {to}")));
    }
    lines.extend(past.told.iter().cloned());
    lines.sort();
    let lines = lines.into_iter().map(|(at, what)| format!("\n  {at} {what}"));
    lines.collect()
}

async fn judged(past: &Past) -> Result<Report, String> {
    past.ledger.look_at_all();
    let wrong = past.ledger.wrong().or_else(|| past.vault.wrong());
    if let Some(wrong) = wrong {
        return Err(wrong);
    }
    past.state.prove_audit().await.map_err(|error| format!("{error:?}"))?;
    let mut heard: BTreeMap<(String, String), Vec<Heard>> = BTreeMap::new();
    for one in past.people.heard() {
        heard.entry((one.database.clone(), one.class.clone())).or_default().push(one);
    }
    for ((database, class), all) in &heard {
        alternate(past, database, class, all)?;
    }
    let (mut breaches, mut pages) = (0, 0);
    for member in past.fleet.members.values() {
        let key = (member.name.clone(), "rpo-breached".to_owned());
        let own = heard.get(&key).map(Vec::as_slice).unwrap_or_default();
        let all = breaches_of(past, member, false);
        breaches += all.len() as u64;
        pages += own.iter().filter(|one| one.kind == NoticeKind::Raised).count() as u64;
        let seeming = breaches_of(past, member, true);
        paged(past, member, (&all, &seeming), own)?;
        settled(past, member).await?;
    }
    let stats = past.vault.stats();
    Ok(Report {
        backups: stats.backups,
        drills: stats.drills,
        expired: stats.expired,
        captures: stats.captures,
        fenced: past.vault.fenced(),
        pages,
        breaches,
        commits: past.ledger.commits(),
        questions: stats.questions,
        calls: 0,
    })
}

/// Whether the state database forgot something around an instant.
fn forgot(past: &Past, at: DateTime<Utc>) -> bool {
    past.forgot.iter().any(|forgot| (at - *forgot).abs() < TimeDelta::minutes(12))
}

/// Whatever began is over before it begins again.
fn alternate(past: &Past, database: &str, class: &str, all: &[Heard]) -> Result<(), String> {
    let mut lasts = false;
    for one in all {
        let begins = one.kind == NoticeKind::Raised;
        if begins == lasts && !forgot(past, one.at) {
            let what = if begins { "told twice" } else { "over without having begun" };
            return Err(format!("{class} of {database} is {what} at {}", one.at));
        }
        lasts = begins;
    }
    Ok(())
}

/// When what can be restored was older than promised, by what is there; or as it seemed, since what
/// was committed just before its repository went away was known to nobody.
fn breaches_of(past: &Past, member: &Member, is_seeming: bool) -> Vec<Breach> {
    let record = past.vault.record(&member.name);
    let rpo = TimeDelta::from_std(member.policy.rpo).unwrap();
    let mut deadline = member.since + rpo.max(TimeDelta::days(1));
    let mut breaches = Vec::new();
    let mut points = points(&record, past.end);
    for (_, from, to) in past.outages.iter().filter(|one| one.0 == member.repository) {
        for (seen, _) in points.iter_mut().filter(|_| is_seeming) {
            if *seen <= *from && awake_within(past, *seen, *from) < UNHEARD {
                *seen = *to;
            }
        }
    }
    points.sort_unstable();
    let first = points.first().copied();
    for (seen, newest) in points {
        if deadline < seen {
            breaches.push(Breach { from: deadline, to: seen });
        }
        deadline = deadline.max(newest + rpo);
        if breaches.is_empty() && first.is_some_and(|first| seen <= first.0) {
            // Before the first backup is seen another term holds; from then on the promise does.
            deadline = newest + rpo;
        }
    }
    if deadline < past.end {
        breaches.push(Breach { from: deadline, to: past.end });
    }
    breaches
}

/// For how long somebody was awake in a stretch.
fn awake_within(past: &Past, from: DateTime<Utc>, to: DateTime<Utc>) -> TimeDelta {
    let inside = past.awake.iter().map(|awake| awake.1.min(to) - awake.0.max(from));
    inside.filter(|time| *time > TimeDelta::zero()).sum()
}

/// From when on which point could be restored, in the order of the former.
fn points(record: &Record, end: DateTime<Utc>) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
    let mut points: Vec<_> = record.backups.iter().map(|made| (made.committed, made.at)).collect();
    for stretch in &record.stretches {
        let to = stretch.to.unwrap_or(end);
        let inside = record.backups.iter().filter(|made| stretch.from <= made.at && made.at <= to);
        if let Some(joined) = inside.map(|made| made.committed).min() {
            points.push((joined.max(stretch.from), to));
        }
    }
    points.sort_unstable();
    points
}

/// Each breach that lasted has one page and one resolve; and there is no page without one.
fn paged(
    past: &Past,
    member: &Member,
    (all, seeming): (&[Breach], &[Breach]),
    heard: &[Heard],
) -> Result<(), String> {
    let near = past.skew + TimeDelta::minutes(6);
    let raised = |one: &&Heard| one.kind == NoticeKind::Raised;
    for page in heard.iter().filter(raised) {
        // A message that did not get through comes later, even when it is over.
        let mut both = all.iter().chain(seeming);
        let is_true = both.any(|b| b.from - near <= page.at && page.at <= b.to + SOON);
        if !is_true {
            return Err(format!("{} is paged at {} without a breach", member.name, page.at));
        }
    }
    for breach in all {
        let of = |one: &&Heard| breach.from - near <= one.at && one.at <= breach.to + SOON;
        let pages = heard.iter().filter(raised).filter(of).count();
        let is_seen = past
            .awake
            .iter()
            .any(|(from, to)| SOON < (*to).min(breach.to) - (*from).max(breach.from));
        let is_clear = is_clear_of_others(all, breach, near);
        // Whoever was not told that the one before was over, since nobody was awake, knows.
        let last = heard.iter().rfind(|one| one.at < breach.from - near);
        let is_known = last.as_ref().is_some_and(raised);
        if is_seen && pages == 0 && !is_known {
            let Breach { from, to } = breach;
            return Err(format!("{} is not paged from {from} to {to}", member.name));
        }
        if is_clear && pages > 1 && !past.forgot.iter().any(|at| breach.from <= *at) {
            let Breach { from, to } = breach;
            return Err(format!("{} is paged {pages} times from {from} to {to}", member.name));
        }
        let is_over =
            past.awake.iter().any(|(from, to)| *from < breach.to && breach.to + SOON < *to);
        let resolved = heard.iter().any(|one| !raised(&one) && breach.to - near <= one.at);
        if pages > 0 && is_over && !resolved {
            return Err(format!("{}: nobody hears that it is over at {}", member.name, breach.to));
        }
    }
    Ok(())
}

/// Whether no other breach is so near that messages could be of either.
fn is_clear_of_others(all: &[Breach], breach: &Breach, near: TimeDelta) -> bool {
    all.iter().all(|other| {
        let is_same = other.from == breach.from;
        is_same || other.to + SOON + near < breach.from || breach.to + SOON + near < other.from
    })
}

/// Every time of the calendar became a job, or was left out for a reason that is written down, or
/// was covered by a later one.
async fn settled(past: &Past, member: &Member) -> Result<(), String> {
    let Some(timing) = &member.policy.full else { return Ok(()) };
    let wrong = |error: stillpoint_contract::Error| error.to_string();
    let filter = Filter { database: Some(member.name.clone()), most: 10_000, ..Filter::default() };
    let jobs = past.state.jobs(&filter).await.map_err(wrong)?;
    let skipped = past.state.skipped(&member.name).await.map_err(wrong)?;
    let calendar = Calendar::new(timing, member.policy.zone).map_err(|error| error.why)?;
    let turns = calendar.turns(&member.name);
    // What is due in the last hours may still wait for its turn.
    let last = past.end - TimeDelta::hours(12);
    let oldest_skip = skipped.iter().map(|one| one.due).min();
    let mut at = past.begin;
    while let Some(next) = turns.next(at).filter(|next| *next < last) {
        let is_job = |job: &Job| job.task.kind == "full" && job.task.due == next;
        let is_run = jobs.iter().any(is_job);
        let is_skipped = skipped.iter().any(|one| one.kind == "full" && one.due == next);
        let is_covered = jobs.iter().any(|job| next < job.task.due);
        let is_forgotten = oldest_skip.is_some_and(|oldest| next < oldest);
        if !(is_run || is_skipped || is_covered || is_forgotten) {
            return Err(format!("{}: what was due at {next} became nothing", member.name));
        }
        at = next;
    }
    let looked = past.state.looked(&member.name, "full").await.map_err(wrong)?;
    if past.begin < at && looked.is_none_or(|looked| looked < at) {
        return Err(format!("{}: {at} was due, and is open: {looked:?}", member.name));
    }
    Ok(())
}
