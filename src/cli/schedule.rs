//! `stillpoint schedule`: when what will run, by the calendar.

use std::{collections::BTreeMap, num::NonZeroUsize};

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    answer::{Answer, Stamp},
    choice::Labels,
    page::{Page, Table},
    serve,
    session::Session,
};
use crate::{
    config::Database,
    policy::{Facts, Kind, Policy, Schedule, State},
};

/// What to do with schedules.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the next times at which the calendar makes something due.
    ///
    /// Each database has a place of its own in the spread, which never changes. What a blackout, a
    /// pause or a first backup changes about these times is decided when they come.
    Next(NextOptions),
}

/// What `schedule next` is told.
#[derive(Debug, Args)]
pub(crate) struct NextOptions {
    /// The database [default: all of them].
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
    /// From when on, such as 2027-03-28 [default: now].
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    around: Option<String>,
    /// How many times of each kind.
    #[arg(long, value_name = "NUMBER", default_value = "1")]
    count: NonZeroUsize,
}

/// The most times of each kind that are shown.
const COUNT_MAX: usize = 1_000;

#[derive(Debug, Serialize)]
struct NextAnswer {
    from: Stamp,
    due: Vec<Due>,
}

/// A due time.
#[derive(Debug, Serialize)]
struct Due {
    at: Stamp,
    database: String,
    kind: &'static str,
    policy: String,
    zone: String,
    /// The time in the zone of the policy.
    local: String,
}

impl Answer for NextAnswer {
    const SCHEMA: &'static str = "schedule-next/1";

    fn write(&self, page: &mut Page<'_>) {
        if self.due.is_empty() {
            page.line("Nothing is due by a calendar.");
            return;
        }
        let mut table = Table::new(&["DUE", "DATABASE", "KIND", "POLICY"]);
        for due in &self.due {
            let at = format!("{} {}", due.local, due.zone);
            let cells = [&at, &due.database, due.kind, &due.policy];
            table.row(cells.map(str::to_owned).to_vec());
        }
        page.table(&table);
    }
}

/// Runs one.
pub(crate) async fn run(session: &Session, command: Command) -> Result<()> {
    let Command::Next(options) = command;
    let loaded = serve::found(session).await?;
    let config = &loaded.config;
    let from = match &options.around {
        None => session.world.clock.now(),
        Some(text) => session.instant(text)?,
    };
    let chosen = options.labels.of(&config.databases, options.database.as_deref())?;
    let mut due = Vec::new();
    for database in chosen {
        if let Some(policy) = config.policies.get(&database.policy) {
            due.extend(times(database, policy, from, options.count.get().min(COUNT_MAX))?);
        }
    }
    due.sort_by(|one, other| (one.at, &one.database).cmp(&(other.at, &other.database)));
    session.answer(&NextAnswer { from: Stamp(from), due })
}

fn times(
    database: &Database,
    policy: &Policy,
    from: DateTime<Utc>,
    count: usize,
) -> Result<Vec<Due>> {
    let schedule = Schedule::new(policy).map_err(|bad| {
        Error::new(ErrorKind::Config, code::CONFIG_VALUE, "read a schedule").caused_by(bad.why)
    })?;
    let nothing = BTreeMap::new();
    let facts = Facts {
        database: &database.name,
        state: State::Active,
        since: from,
        looked: &nothing,
        pauses: &[],
        attempts: &[],
        need: None,
    };
    let mut due = Vec::new();
    for kind in Kind::ALL {
        let next = |after: DateTime<Utc>| schedule.next(kind, &facts, after);
        let all = std::iter::successors(next(from), |at| next(*at)).take(count);
        due.extend(all.map(|at| {
            let local = at.with_timezone(&policy.zone);
            Due {
                at: Stamp(at),
                database: database.name.clone(),
                kind: kind.name(),
                policy: policy.name.clone(),
                zone: policy.zone.to_string(),
                local: local.format("%a %d %b %Y %H:%M:%S").to_string(),
            }
        }));
    }
    Ok(due)
}
