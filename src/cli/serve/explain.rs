//! `stillpoint explain schedule` and `explain alert`: why something runs, waits, or wakes people.

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    super::{
        answer::{Answer, Stamp},
        choice::{Labels, each},
        exit,
        page::{Page, Table, Tone, printable},
        session::Session,
        units,
    },
    copies,
    desk::Desk,
    matters::{matters, pause, reach},
};
use crate::{
    config::{Alerting, Config},
    coordinator::{
        Fleet, Member, Standing, decided, standing,
        state::{Filter, Job, Phase},
        unheard,
    },
    policy::{Class, Kind, Step, Timing},
};

/// What became of past due times is told for so many of them.
const PAST_MAX: usize = 10;

/// Which database.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The database.
    #[arg(required_unless_present = "labels")]
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
}

#[derive(Debug, Serialize)]
struct ScheduleAnswer {
    database: String,
    policy: String,
    zone: String,
    now: Stamp,
    kinds: Vec<KindRow>,
    past: Vec<PastRow>,
}

/// What is decided about one kind now.
#[derive(Debug, Serialize)]
struct KindRow {
    kind: &'static str,
    /// The pattern of the calendar; none where what is promised demands it.
    pattern: Option<String>,
    /// How much later than the pattern this database comes, by its own place in the spread.
    offset_seconds: i64,
    /// `run` or `wait`.
    step: &'static str,
    /// Why, in a word such as `calendar` or `blackout`.
    why: &'static str,
    /// What is run now, or when it is looked at again.
    at: Option<Stamp>,
    next_due: Option<Stamp>,
    /// All of it in a sentence.
    says: String,
}

/// What became of a due time.
#[derive(Debug, Serialize)]
struct PastRow {
    due: Stamp,
    kind: String,
    /// `waiting`, `running`, `skipped`, or how it ended.
    became: String,
    /// Why it was due, or why it was left out.
    why: String,
    /// How late it began.
    late_seconds: Option<i64>,
    /// Why nobody does it, where it waits: whoever is to do it is not heard of.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits: Option<String>,
}

impl Answer for ScheduleAnswer {
    const SCHEMA: &'static str = "explain-schedule/1";

    fn write(&self, page: &mut Page<'_>) {
        let facts = [("Database", &self.database), ("Policy", &self.policy), ("Zone", &self.zone)];
        page.facts(0, &facts);
        page.blank();
        for row in &self.kinds {
            page.line(format!("{}  {}", page.paint(Tone::Strong, row.kind), printable(&row.says)));
        }
        if self.past.is_empty() {
            return;
        }
        page.blank();
        let mut table = Table::new(&["DUE", "KIND", "BECAME", "WHY", "BEGAN"]);
        for row in &self.past {
            let late = row.late_seconds.map(|late| match u64::try_from(late) {
                Ok(late) => {
                    format!("{} late", units::duration(std::time::Duration::from_secs(late)))
                }
                Err(_) => "early".to_owned(),
            });
            table.row(vec![
                page.time(row.due.0),
                row.kind.clone(),
                row.became.clone(),
                row.why.clone(),
                late.unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        page.table(&table);
        for (row, waits) in self.past.iter().filter_map(|row| Some((row, row.waits.as_ref()?))) {
            page.line(format!("{} waits: {}", row.kind, printable(waits)));
        }
    }
}

/// Explains when and why something runs for a database, or for each of several.
pub(crate) async fn schedule(session: &Session, options: Options) -> Result<u8> {
    let (desk, fleet) = open(session).await?;
    let at = (&desk, &fleet);
    if let Some(name) = &options.database {
        return schedule_of(session, at, name).await;
    }
    let names = names(&fleet, &options.labels)?;
    let work = async |name: &str| Box::pin(schedule_of(session, at, name)).await;
    Ok(each(session, &names, work).await)
}

async fn schedule_of(session: &Session, (desk, fleet): (&Desk, &Fleet), name: &str) -> Result<u8> {
    let member = member(fleet, name)?;
    let now = session.world.clock.now();
    let standing = known(fleet, member).await?;
    let decisions = decided(&desk.state, member, &standing, now).await?;
    let zone = member.policy.zone;
    let local = |at: DateTime<Utc>| at.with_timezone(&zone).format("%a %d %b %H:%M:%S").to_string();
    let kinds = decisions.into_iter().map(|decided| {
        let timing = timing(member, decided.kind);
        let (step, why, at) = match decided.decision.step {
            _ if member.is_observed => ("wait", "observe", None),
            Step::Run { due, why } => ("run", why.code(), Some(due)),
            Step::Wait { until, what } => ("wait", what.code(), until),
        };
        let mut says = vec![match (step, at) {
            ("run", Some(due)) => format!("runs now for {} ({why})", local(due)),
            (_, Some(until)) => format!("waits until {} ({why})", local(until)),
            _ => format!("waits ({why})"),
        }];
        says.extend(decided.next.map(|next| format!("next due {}", local(next))));
        says.push(match timing {
            Some(timing) => format!("by \"{}\"{}", timing.pattern, spread(decided.offset_seconds)),
            None if decided.next.is_some() => "as what is promised demands".to_owned(),
            None => "nothing of this kind is ever due".to_owned(),
        });
        let says = says.join(", ");
        KindRow {
            kind: decided.kind.name(),
            pattern: timing.map(|timing| timing.pattern.clone()),
            offset_seconds: decided.offset_seconds,
            step,
            why,
            at: at.map(Stamp),
            next_due: decided.next.map(Stamp),
            says,
        }
    });
    let kinds = kinds.collect();
    session.answer(&ScheduleAnswer {
        database: member.name.clone(),
        policy: member.policy.name.clone(),
        zone: zone.to_string(),
        now: Stamp(now),
        kinds,
        past: past(desk, member, now).await?,
    })?;
    Ok(exit::OK)
}

/// A place in the spread, in words.
fn spread(offset_seconds: i64) -> String {
    match u64::try_from(offset_seconds) {
        Ok(offset) if offset > 0 => {
            let offset = units::duration(std::time::Duration::from_secs(offset));
            format!(" and {offset}, its place in the spread")
        }
        _ => String::new(),
    }
}

/// What became of the newest due times: jobs, and what was left out.
async fn past(desk: &Desk, member: &Member, now: DateTime<Utc>) -> Result<Vec<PastRow>> {
    let most = u32::try_from(PAST_MAX).unwrap_or(u32::MAX);
    let filter = Filter { database: Some(member.name.clone()), most, ..Filter::default() };
    let jobs = desk.state.jobs(&filter).await?;
    let skipped = desk.state.skipped(&member.name).await?;
    let mut past: Vec<PastRow> = Vec::new();
    for one in &jobs {
        let is_waiting = one.phase == Phase::Waiting;
        let waits = if is_waiting { unheard(&desk.state, &one.task, now).await? } else { None };
        past.push(PastRow { waits, ..job(one) });
    }
    past.extend(skipped.into_iter().take(PAST_MAX).map(|one| PastRow {
        due: Stamp(one.due),
        kind: one.kind,
        became: "skipped".to_owned(),
        why: one.reason,
        late_seconds: None,
        waits: None,
    }));
    past.sort_by_key(|row| std::cmp::Reverse(row.due));
    past.truncate(PAST_MAX);
    Ok(past)
}

fn job(job: &Job) -> PastRow {
    let (became, began) = match &job.phase {
        Phase::Waiting => ("waiting", None),
        Phase::Running { started, .. } => ("running", Some(*started)),
        Phase::Ended { started, outcome, .. } => (outcome.word(), *started),
    };
    PastRow {
        due: Stamp(job.task.due),
        kind: job.task.kind.clone(),
        became: became.to_owned(),
        why: job.task.why.clone(),
        late_seconds: began.map(|began| (began - job.task.due).num_seconds()),
        waits: None,
    }
}

fn timing(member: &Member, kind: Kind) -> Option<&Timing> {
    match kind {
        Kind::Full => member.policy.full.as_ref(),
        Kind::Incremental => member.policy.incremental.as_ref(),
        Kind::Drill => None,
    }
}

#[derive(Debug, Serialize)]
struct AlertAnswer {
    database: String,
    policy: String,
    now: Stamp,
    restorable_to: Option<Stamp>,
    rpo_seconds: u64,
    /// When the promise would be broken if nothing were stored from now on.
    deadline: Option<Stamp>,
    alerts: Vec<AlertRow>,
    paused: bool,
    trouble: Option<String>,
}

#[derive(Debug, Serialize)]
struct AlertRow {
    class: &'static str,
    urgency: &'static str,
    since: Stamp,
    what: String,
    cause: Option<String>,
    muted_until: Option<Stamp>,
    /// Whether people were told already, as far as the state database knows.
    told: bool,
    /// Names of the blocks that tell somebody of it.
    routes: Vec<String>,
}

impl Answer for AlertAnswer {
    const SCHEMA: &'static str = "explain-alert/1";

    fn write(&self, page: &mut Page<'_>) {
        page.facts(0, &[("Database", &self.database), ("Policy", &self.policy)]);
        let time = |page: &Page<'_>, at: &Option<Stamp>| {
            at.map_or_else(|| "nothing".to_owned(), |at| page.time(at.0))
        };
        let promised = units::duration(std::time::Duration::from_secs(self.rpo_seconds));
        let newest = time(page, &self.restorable_to);
        page.facts(0, &[("Restorable to", newest), ("Promised (RPO)", promised)]);
        page.blank();
        if self.alerts.is_empty() {
            page.line("Nothing is the matter.");
            if self.deadline.is_some() {
                let deadline = time(page, &self.deadline);
                page.line(format!(
                    "The promise holds until {deadline}; if nothing newer is stored by then, \
                     `rpo-breached` begins."
                ));
            }
        }
        for row in &self.alerts {
            let tone = if row.urgency == "page" { Tone::Bad } else { Tone::Warning };
            let (class, what) = (page.paint(tone, row.class), printable(&row.what));
            page.line(format!("{class} ({}) since {}", row.urgency, page.time(row.since.0)));
            page.line(format!("  what    {what}"));
            if let Some(cause) = &row.cause {
                page.line(format!("  cause   {}", printable(cause)));
            }
            if let Some(until) = row.muted_until {
                page.line(format!("  muted   until {}", page.time(until.0)));
            }
            let told = if row.told { "yes" } else { "not yet" };
            let routes = match row.routes.as_slice() {
                [] => "nobody: no [[alert]] names this class".to_owned(),
                routes => format!("by {}", routes.join(", ")),
            };
            page.line(format!("  told    {told}, {routes}"));
        }
        if let Some(trouble) = &self.trouble {
            page.line(printable(trouble));
        }
        if self.paused {
            page.line("It is paused: nobody is told that it becomes older.");
        }
    }
}

/// Explains what is the matter with a database, or with each of several, who is told of it, and
/// when something would be.
pub(crate) async fn alert(session: &Session, options: Options) -> Result<u8> {
    let (desk, fleet) = open(session).await?;
    let at = (&desk, &fleet);
    if let Some(name) = &options.database {
        return alert_of(session, at, name).await;
    }
    let names = names(&fleet, &options.labels)?;
    let work = async |name: &str| Box::pin(alert_of(session, at, name)).await;
    Ok(each(session, &names, work).await)
}

async fn alert_of(session: &Session, (desk, fleet): (&Desk, &Fleet), name: &str) -> Result<u8> {
    let member = member(fleet, name)?;
    let now = session.world.clock.now();
    let standing = known(fleet, member).await?;
    let paused = pause(&desk.state.marks().await?, &member.name, now);
    let config = desk.held(session).await?.config;
    let board = desk.state.board().await?.board;
    let is_told = |class: Class| board.open().any(|(key, _)| *key == (class, member.name.clone()));
    let copies = copies::known(session, &desk.state, (fleet, member)).await;
    let archives = member.archives_due(&desk.state).await?;
    let alerts =
        matters(member, (&standing, &copies, &archives), paused, now).into_iter().map(|alert| {
            AlertRow {
                class: alert.class.name(),
                urgency: alert.urgency.name(),
                since: Stamp(alert.since),
                told: is_told(alert.class),
                routes: routes(&config, alert.class),
                what: alert.what,
                cause: alert.cause,
                muted_until: alert.muted_until.map(Stamp),
            }
        });
    let fresh = reach(member, &standing).freshness(&member.policy, now);
    let mut known = desk.state.look_after([]).await?;
    let noted = known.remove(&member.name).and_then(|known| known.trouble);
    session.answer(&AlertAnswer {
        database: member.name.clone(),
        policy: member.policy.name.clone(),
        now: Stamp(now),
        restorable_to: standing.coverage.iter().map(|interval| interval.to).max().map(Stamp),
        rpo_seconds: member.policy.rpo.as_secs(),
        deadline: fresh.map(|fresh| Stamp(fresh.deadline)),
        alerts: alerts.collect(),
        paused: paused.is_some(),
        trouble: member.obstacle.clone().or(noted),
    })?;
    Ok(exit::OK)
}

fn routes(config: &Config, class: Class) -> Vec<String> {
    let hears = |alert: &&Alerting| {
        !alert.to.is_empty() && (alert.when.is_empty() || alert.when.contains(&class))
    };
    config.alerts.iter().filter(hears).map(|alert| alert.name.clone()).collect()
}

async fn open(session: &Session) -> Result<(Desk, Fleet)> {
    let desk = Desk::open(session).await?;
    let (fleet, _) = desk.fleet(session).await?;
    Ok((desk, fleet))
}

/// The names of those with these labels.
fn names(fleet: &Fleet, labels: &Labels) -> Result<Vec<String>> {
    let chosen = labels.of(&fleet.members, None)?;
    Ok(chosen.into_iter().map(|member| member.name.clone()).collect())
}

fn member<'a>(fleet: &'a Fleet, name: &str) -> Result<&'a Member> {
    let found = fleet.members.get(name).map(|member| &**member);
    found.ok_or_else(|| {
        Error::new(ErrorKind::Missing, code::CONFIG_NAME, "find the database")
            .with("given", name)
            .with("configured", fleet.members.len())
            .next("stillpoint status")
    })
}

async fn known(fleet: &Fleet, member: &Member) -> Result<Standing> {
    standing(fleet.repository(member)?, &member.name, member.since).await
}
