//! `stillpoint status`: whether every promise is kept, on one screen.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use futures::{StreamExt as _, stream};
use serde::Serialize;
use stillpoint_contract::{ErrorKind, Result};

use super::{
    super::{
        advice::command_line,
        answer::{Answer, Stamp},
        choice::Labels,
        copy::{lag, told_lag},
        exit,
        page::{Page, Table, Tone, printable},
        session::Session,
        units,
    },
    copies,
    desk::Desk,
    fleet::Seen,
    matters::{matters, pause, reach},
    metrics::state_name,
};
use crate::{
    coordinator::{
        CopyKnown, Fleet, Member, add_drills, add_drills_said, reported, silence, standing,
        state::{Marked, State as Shared},
    },
    policy::{Interval, Rules, State, Unprotected, Until, Verdict},
};

/// Databases that are looked at together.
const TOGETHER: usize = 8;

/// What `status` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this database.
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
    /// End with 7 where a promise is broken.
    #[arg(long)]
    fail: bool,
}

#[derive(Debug, Serialize)]
struct StatusAnswer {
    now: Stamp,
    databases: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    engine: Option<String>,
    policy: String,
    repository: String,
    state: &'static str,
    restorable_from: Option<Stamp>,
    restorable_to: Option<Stamp>,
    rpo_seconds: u64,
    /// `ok`, `breached`, `unknown`, `unprotected`, or nothing where nothing is promised any more.
    rpo: Option<&'static str>,
    /// Until when the promise is kept if nothing is stored from now on.
    deadline: Option<Stamp>,
    backups: usize,
    last_backup: Option<Stamp>,
    last_full: Option<Stamp>,
    drill_passed: Option<Stamp>,
    drill_failed: Option<Stamp>,
    /// How long the newest drill that passed needed, and how long a restore may need.
    drill_rto_ms: Option<u64>,
    rto_seconds: Option<u64>,
    /// What is kept of it where nothing is stored any more.
    kept: Option<KeptRow>,
    /// The endpoint that is backed up, where they come and go.
    endpoint: Option<String>,
    /// The agent that reaches it, if whoever serves does not.
    agent: Option<String>,
    paused: bool,
    paused_until: Option<Stamp>,
    copies: Vec<CopyRow>,
    alerts: Vec<Matter>,
    /// What stands in the way of capturing its log.
    trouble: Option<String>,
    /// Why nothing is known.
    problem: Option<String>,
}

/// What is kept of a database that is retired.
#[derive(Debug, Serialize)]
struct KeptRow {
    /// How many backups stay until a day that is known.
    dated: usize,
    /// When the last of them may go.
    until: Option<Stamp>,
    /// How many stay until somebody forgets or releases them.
    undated: usize,
}

impl KeptRow {
    fn of(verdicts: &[Verdict]) -> Self {
        let kept: Vec<_> = verdicts.iter().filter(|verdict| verdict.is_kept()).collect();
        let ends = kept.iter().filter_map(|verdict| match verdict.until {
            Until::Instant(at) if at < DateTime::<Utc>::MAX_UTC => Some(at),
            // Newer ones never come.
            _ => None,
        });
        let dated = ends.clone().count();
        Self { dated, until: ends.max().map(Stamp), undated: kept.len() - dated }
    }

    fn says(&self, page: &Page<'_>) -> String {
        let told = |count: usize| units::count(count as u64, "backup", "backups");
        let dated = self.until.map(|until| {
            let day = page.time(until.0);
            format!("{} kept until {day}", told(self.dated))
        });
        let undated = (self.undated > 0 || dated.is_none())
            .then(|| format!("{} kept until forgotten", told(self.undated)));
        dated.into_iter().chain(undated).collect::<Vec<_>>().join(", ")
    }
}

/// How far a copy has come.
#[derive(Debug, Serialize)]
struct CopyRow {
    name: String,
    backups: usize,
    newest: Option<Stamp>,
    lacking_backups: usize,
    lacking_segments: usize,
    waiting_since: Option<Stamp>,
    /// How long the oldest of what it lacks waits; 0 if it lacks nothing, and `null` if nobody
    /// knows.
    lag_seconds: Option<u64>,
    problem: Option<String>,
}

impl CopyRow {
    fn of(known: &CopyKnown, now: DateTime<Utc>) -> Self {
        Self {
            name: known.name.clone(),
            backups: known.backups,
            newest: known.newest.map(Stamp),
            lacking_backups: known.lacking_backups,
            lacking_segments: known.lacking_segments,
            waiting_since: known.waiting_since.map(Stamp),
            lag_seconds: known.problem.is_none().then(|| lag(known.waiting_since, now)),
            problem: known.problem.clone(),
        }
    }

    fn cell(&self) -> String {
        match self.lag_seconds {
            Some(seconds) => format!("{} {}", self.name, told_lag(seconds)),
            None => format!("{} ?", self.name),
        }
    }
}

#[derive(Debug, Serialize)]
struct Matter {
    class: &'static str,
    urgency: &'static str,
    since: Stamp,
    what: String,
}

impl Row {
    fn is_broken(&self) -> bool {
        let pages = self.alerts.iter().any(|matter| matter.urgency == "page");
        pages || matches!(self.rpo, Some("breached" | "unknown" | "unprotected"))
    }

    /// What the last drill needed, and what is promised.
    fn needed(&self) -> String {
        let promised = self.rto_seconds.map(Duration::from_secs).map(units::duration);
        let promised = promised.map(|promised| format!("/{promised}")).unwrap_or_default();
        let needed = self.drill_rto_ms.map(Duration::from_millis).map(units::duration);
        needed.map(|needed| format!(" {needed}{promised}")).unwrap_or_default()
    }

    fn cells(&self, page: &Page<'_>, now: DateTime<Utc>) -> Vec<String> {
        let ago = |at: Stamp| {
            let age = (now - at.0).to_std().unwrap_or(Duration::ZERO);
            format!("{} ago", units::duration(age))
        };
        let time = |at: Option<Stamp>| at.map_or_else(|| "-".to_owned(), |at| page.time(at.0));
        let promised = units::duration(Duration::from_secs(self.rpo_seconds));
        let drill = match (self.drill_passed, self.drill_failed) {
            (passed, Some(failed)) if passed < Some(failed) => format!("FAILED {}", ago(failed)),
            (Some(passed), _) => format!("ok {}{}", ago(passed), self.needed()),
            _ => "never".to_owned(),
        };
        vec![
            self.name.clone(),
            self.engine.clone().unwrap_or_else(|| "-".to_owned()),
            self.policy.clone(),
            self.restorable_to.map_or_else(
                || "nothing".to_owned(),
                |to| format!("{} ({})", page.time(to.0), ago(to)),
            ),
            match self.rpo {
                Some("breached") => format!("BREACH {promised}"),
                Some("unprotected") => "UNPROTECTED".to_owned(),
                Some(word) => format!("{word} {promised}"),
                None => self.state.to_owned(),
            },
            time(self.last_full),
            drill,
            match self.copies.as_slice() {
                [] => "-".to_owned(),
                copies => copies.iter().map(CopyRow::cell).collect::<Vec<_>>().join("  "),
            },
        ]
    }
}

impl StatusAnswer {
    /// A database of which more can be told, where something is wrong.
    fn worst(&self) -> Option<&Row> {
        let known = || self.databases.iter().filter(|row| row.state != "unprotected");
        let is_wrong = |row: &&Row| !row.alerts.is_empty() || row.trouble.is_some();
        known().find(|row| row.is_broken()).or_else(|| known().find(is_wrong))
    }
}

impl Answer for StatusAnswer {
    const SCHEMA: &'static str = "status/1";

    fn write(&self, page: &mut Page<'_>) {
        if self.databases.is_empty() {
            page.line("No database is configured.");
            return;
        }
        let heading = [
            "DATABASE",
            "ENGINE",
            "POLICY",
            "RESTORABLE TO",
            "RPO",
            "LAST FULL",
            "LAST DRILL",
            "COPIES",
        ];
        let mut table = Table::new(&heading);
        for row in &self.databases {
            table.row(row.cells(page, self.now.0));
        }
        page.table(&table);
        let of = |word| self.databases.iter().filter(|row| row.rpo == Some(word)).count();
        let counts = ["breached", "unprotected", "unknown", "ok"].map(|word| (of(word), word));
        let in_state = |word| self.databases.iter().filter(|row| row.state == word).count();
        let ended = ["retiring", "retired"].map(|word| (in_state(word), word));
        let told = counts.iter().chain(&ended).filter(|(count, _)| *count > 0);
        let told: Vec<_> = told.map(|(count, word)| format!("{count} {word}")).collect();
        page.blank();
        page.line(told.join("  "));
        for row in &self.databases {
            let name = printable(&row.name);
            let copies = row.copies.iter().filter_map(|copy| copy.problem.as_ref());
            for problem in row.problem.iter().chain(&row.trouble).chain(copies) {
                page.line(format!("{name}: {}", page.paint(Tone::Bad, &printable(problem))));
            }
            for matter in &row.alerts {
                let tone = if matter.urgency == "page" { Tone::Bad } else { Tone::Warning };
                let class = page.paint(tone, matter.class);
                page.line(format!("{name}: {class}: {}", printable(&matter.what)));
            }
            if row.state == "observe" {
                page.line(format!("{name}: observe: it is watched, and nothing is written for it"));
            }
            if row.paused {
                let until = row.paused_until.map(|at| format!(" until {}", page.time(at.0)));
                page.line(format!("{name}: paused{}", until.unwrap_or_default()));
            }
            if let Some(kept) = &row.kept {
                page.line(format!("{name}: {}, {}", row.state, kept.says(page)));
            }
        }
        if let Some(row) = self.worst() {
            page.blank();
            let command = command_line(&["explain", "alert", &row.name]);
            page.line(format!("try: {}", printable(&command)));
        }
    }
}

/// Shows it.
pub(crate) async fn run(session: &Session, options: Options) -> Result<u8> {
    let desk = Desk::open(session).await?;
    let (fleet, seen) = desk.fleet(session).await?;
    let unprotected = unprotected(&fleet, &options)?;
    let chosen = options.labels.of(&fleet.members, options.database.as_deref());
    let members = match chosen {
        Err(error) if error.kind() == ErrorKind::Missing && !unprotected.is_empty() => Vec::new(),
        chosen => chosen?,
    };
    let marks = desk.state.marks().await?;
    let now = session.world.clock.now();
    let state = &desk.state;
    let row = |member| row(session, (&fleet, &seen, state), member, (&marks, now));
    let rows = stream::iter(members).map(|member| row(member));
    let mut databases: Vec<Row> = rows.buffered(TOGETHER).collect().await;
    let mut known = desk.state.look_after([]).await?;
    let agents = desk.state.agents().await?;
    for row in databases.iter_mut().filter(|row| row.rpo.is_some()) {
        let noted = known.remove(&row.name).and_then(|known| known.trouble);
        let member = fleet.members.get(&row.name);
        let of_agent = match &row.agent {
            Some(agent) => match silence(agent, agents.get(agent).copied(), now) {
                None => reported(state, &row.name).await?.and_then(|report| report.obstacle),
                silent => silent,
            },
            None => None,
        };
        row.trouble = member.and_then(|member| member.obstacle.clone()).or(of_agent).or(noted);
    }
    databases.extend(unprotected);
    let is_broken = databases.iter().any(Row::is_broken);
    session.answer(&StatusAnswer { now: Stamp(now), databases })?;
    Ok(if options.fail && is_broken { exit::CHECK_FAILED } else { exit::OK })
}

/// Endpoints that no rule is about: nothing is backed up there.
fn unprotected(fleet: &Fleet, options: &Options) -> Result<Vec<Row>> {
    let selector = options.labels.selector()?;
    let is_meant = |one: &&Unprotected| match (&options.database, &selector) {
        (Some(name), _) => *name == one.name,
        (None, Some(selector)) => selector.fits(&one.labels),
        (None, None) => true,
    };
    let row = |one: &Unprotected| Row {
        name: one.name.clone(),
        engine: one.engine.clone(),
        policy: "-".to_owned(),
        repository: "-".to_owned(),
        state: "unprotected",
        restorable_from: None,
        restorable_to: None,
        rpo_seconds: 0,
        rpo: Some("unprotected"),
        deadline: None,
        backups: 0,
        last_backup: None,
        last_full: None,
        drill_passed: None,
        drill_failed: None,
        drill_rto_ms: None,
        rto_seconds: None,
        kept: None,
        endpoint: None,
        agent: None,
        paused: false,
        paused_until: None,
        copies: Vec::new(),
        alerts: Vec::new(),
        trouble: None,
        problem: Some(format!("UNPROTECTED: {}", one.why)),
    };
    Ok(fleet.unprotected.iter().filter(is_meant).map(row).collect())
}

async fn row(
    session: &Session,
    (fleet, seen, state): (&Fleet, &Seen, &Shared),
    member: &Member,
    (marks, now): (&[Marked], DateTime<Utc>),
) -> Row {
    let asked = match fleet.repository(member) {
        Ok(repository) => standing(repository, &member.name, member.since).await,
        Err(error) => Err(error),
    };
    let asked = match asked {
        // What only its agent can ask.
        Err(error) if member.agent.is_some() => {
            let said = reported(state, &member.name).await;
            said.and_then(|said| said.map(|said| said.standing).ok_or(error))
        }
        asked => asked,
    };
    let copies = copies::known(session, state, (fleet, member)).await;
    let asked = match asked {
        Ok(mut standing) => {
            // A copy that cannot be read is told as one, and may be read at its site.
            if add_drills(fleet, member, &mut standing).await.is_err() {
                drop(add_drills_said(state, member, &mut standing).await);
            }
            Ok(standing)
        }
        asked => asked,
    };
    let (asked, archives) = match member.archives_due(state).await {
        Ok(archives) => (asked, archives),
        Err(error) => (asked.and(Err(error)), Vec::new()),
    };
    let (known, problem) = match asked {
        Ok(standing) => (Some(standing), None),
        Err(error) => {
            let error = seen.unopened.get(&member.repository).unwrap_or(&error);
            (None, Some(format!("{}: could not {error}", error.code())))
        }
    };
    let kept = kept(fleet, member, now).await;
    let paused = pause(marks, &member.name, now);
    let fresh =
        known.as_ref().and_then(|known| reach(member, known).freshness(&member.policy, now));
    let rpo = match (&known, &fresh) {
        (None, _) if member.state == State::Active => Some("unknown"),
        (_, Some(fresh)) if fresh.breached_since.is_some() => Some("breached"),
        (_, Some(_)) => Some("ok"),
        _ => None,
    };
    let known_of = |known| matters(member, (known, &copies, &archives), paused, now);
    let alerts = known.as_ref().map(known_of);
    let alerts = alerts.unwrap_or_default().into_iter().map(|alert| Matter {
        class: alert.class.name(),
        urgency: alert.urgency.name(),
        since: Stamp(alert.since),
        what: alert.what,
    });
    let known = known.unwrap_or_default();
    let is_observed = member.is_observed && member.state == State::Active;
    let ends = |pick: fn(&Interval) -> DateTime<Utc>| known.coverage.iter().map(pick);
    Row {
        name: member.name.clone(),
        engine: member.place.as_ref().map(|place| place.engine.name().to_owned()),
        policy: member.policy.name.clone(),
        repository: member.repository.clone(),
        state: if is_observed { "observe" } else { state_name(member.state) },
        restorable_from: ends(|interval| interval.from).min().map(Stamp),
        restorable_to: ends(|interval| interval.to).max().map(Stamp),
        rpo_seconds: member.policy.rpo.as_secs(),
        rpo,
        deadline: fresh.map(|fresh| Stamp(fresh.deadline)),
        backups: known.backups,
        last_backup: known.newest_backup.map(Stamp),
        last_full: known.newest_full.map(Stamp),
        drill_passed: known.drill_passed.map(Stamp),
        drill_failed: known.drill_failed.map(Stamp),
        drill_rto_ms: known.rehearsed.rto_ms,
        rto_seconds: member.policy.rto.map(|rto| rto.as_secs()),
        kept,
        endpoint: member.endpoints.chosen.as_ref().map(|chosen| chosen.id.clone()),
        agent: member.agent.clone(),
        paused: paused.is_some(),
        paused_until: paused.and_then(|pause| pause.until).map(Stamp),
        copies: copies.iter().map(|known| CopyRow::of(known, now)).collect(),
        alerts: alerts.collect(),
        trouble: None,
        problem,
    }
}

/// What is kept of a database of which nothing is stored any more. Why its repository cannot be
/// asked is told elsewhere.
async fn kept(fleet: &Fleet, member: &Member, now: DateTime<Utc>) -> Option<KeptRow> {
    if member.state == State::Active {
        return None;
    }
    let repository = fleet.repository(member).ok()?;
    let holdings = repository.stock(&member.name).await.ok()?.about(&member.subjects);
    let rules = Rules::of(&member.policy);
    Some(KeptRow::of(&rules.retain(&holdings.stock(member.state), now).verdicts))
}
