//! `stillpoint doctor`: whether this machine has what the configuration asks of it.

use std::{fs, path::Path, sync::Arc, thread::available_parallelism};

use clap::Args;
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    answer::Answer,
    drill,
    forecast::free_bytes,
    page::{Page, Table, Tone, printable},
    retention::report::Shelf,
    serve::{Promises, promises},
    session::Session,
    storage::{expected, made_by},
    units,
};
use crate::{
    coordinator::{
        Load, MadeBy, Sizing,
        state::{Filter, Stage},
    },
    repository::history::History,
};

/// The newest jobs of a database that are looked at.
const JOBS_MAX: u32 = 200;

/// What `doctor` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Tell what this machine has to have for the backups of a week, and whether it has it.
    #[arg(long)]
    size: bool,
}

#[derive(Debug, Serialize)]
struct SizeAnswer {
    /// How many records of backups and of jobs this rests on.
    backups: usize,
    jobs: usize,
    /// How fast backups read that read everything, if any did.
    read_bytes_per_second: Option<u64>,
    /// Databases of which no record tells how long a backup takes: they are not reckoned with.
    unmeasured: Vec<String>,
    needs: Vec<Need>,
}

/// Something that is needed.
#[derive(Debug, Serialize)]
struct Need {
    what: String,
    unit: Unit,
    needed: u64,
    /// What there is, where that can be seen from here.
    here: Option<u64>,
    verdict: Option<Verdict>,
    /// What the number follows from.
    why: String,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Unit {
    Jobs,
    Cores,
    Bytes,
    BytesPerDay,
}

/// Whether it suffices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Advice,
    Lacking,
}

impl Unit {
    fn told(self, number: u64) -> String {
        match self {
            Self::Jobs => units::count(number, "job", "jobs"),
            Self::Cores => units::count(number, "core", "cores"),
            Self::Bytes => units::bytes(number),
            Self::BytesPerDay => format!("{} a day", units::bytes(number)),
        }
    }
}

impl Verdict {
    fn told(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Advice => "could be better",
            Self::Lacking => "LACKING",
        }
    }
}

impl Need {
    /// What is needed, beside what there is; what lacks is as bad as `lack`.
    fn of(
        what: impl Into<String>,
        (unit, needed, here): (Unit, u64, Option<u64>),
        lack: Verdict,
        why: impl Into<String>,
    ) -> Self {
        let judge = |here: u64| if needed <= here { Verdict::Ok } else { lack };
        let (what, why) = (what.into(), why.into());
        Self { what, unit, needed, here, verdict: here.map(judge), why }
    }
}

impl Answer for SizeAnswer {
    const SCHEMA: &'static str = "doctor.size/1";

    fn write(&self, page: &mut Page<'_>) {
        let mut table = Table::new(&["WHAT", ">NEEDED", ">HERE", "VERDICT", "WHY"]);
        for need in &self.needs {
            let here = need.here.map_or_else(|| "-".to_owned(), |here| need.unit.told(here));
            table.row(vec![
                need.what.clone(),
                need.unit.told(need.needed),
                here,
                need.verdict.map_or("-", Verdict::told).to_owned(),
                need.why.clone(),
            ]);
        }
        page.table(&table);
        page.blank();
        let records = format!(
            "{} and {}",
            units::count(self.backups as u64, "backup", "backups"),
            units::count(self.jobs as u64, "job", "jobs"),
        );
        let rate = self.read_bytes_per_second.map(|rate| units::rate(rate as f64));
        page.line(match rate {
            Some(rate) => format!("By the records of {records}, which read {rate}."),
            None => {
                format!("By the records of {records}: nobody knows yet how fast this machine is.")
            }
        });
        if !self.unmeasured.is_empty() {
            let unmeasured = printable(&self.unmeasured.join(", "));
            let word = page.paint(Tone::Warning, "not measured");
            page.line(format!("{word}: {unmeasured}; back them up, and ask again"));
        }
    }
}

/// Looks.
pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    if !options.size {
        return Err(Error::new(ErrorKind::Invalid, code::USAGE, "tell what to look at")
            .next("stillpoint doctor --size"));
    }
    let promises = promises(session).await?;
    let mut shelf = Shelf::new(session);
    let (repositories, failure) = expected(&mut shelf, &promises).await;
    let loads = loads(&shelf, &promises).await?;
    let running = promises.held.config().coordinator.running;
    let sizing = Sizing::of(&loads, running as usize);
    let mut needs = needs(&sizing, running);
    let scratch = drill::place(&session.environment, None).root;
    needs.push(Need::of(
        format!("scratch in {}", scratch.display()),
        (Unit::Bytes, sizing.scratch_bytes, free_bytes(&scratch)),
        Verdict::Advice,
        "the largest database of which restoring is rehearsed; less where backups are mounted",
    ));
    for one in &repositories {
        let place = shelf.open.get(&one.repository).map(|opened| opened.location());
        let place = place.filter(|place| Path::new(place).is_dir());
        if let Some((more, place)) = one.more_bytes().zip(place) {
            let free = free_bytes(Path::new(&place));
            let what = format!("disk of repository {}", one.repository);
            let why = "by what it will hold more in 30 days: stillpoint repo forecast";
            needs.push(Need::of(what, (Unit::Bytes, more, free), Verdict::Lacking, why));
        }
    }
    session.answer(&SizeAnswer {
        backups: loads.iter().map(|load| load.backups).sum(),
        jobs: loads.iter().map(|load| load.jobs).sum(),
        read_bytes_per_second: sizing.read_rate.map(|rate| rate as u64),
        unmeasured: sizing.unmeasured,
        needs,
    })?;
    // One that nobody has made yet is none that cannot be looked into.
    let failure = failure.filter(|error| error.code() != code::NO_REPOSITORY);
    failure.map_or(Ok(()), Err)
}

/// What there is to do here: for databases that no agent reaches.
async fn loads(shelf: &Shelf<'_>, promises: &Promises) -> Result<Vec<Load>> {
    let mut loads = Vec::new();
    for (config, database, state) in promises.held.databases(&promises.marks, shelf.now) {
        let made_by = made_by(config, database, state);
        let is_ours = made_by != MadeBy::Nobody && database.agent.is_none();
        let policy = config.policies.get(&database.policy).filter(|_| is_ours);
        let Some(policy) = policy else { continue };
        // Of one that cannot be looked into, nothing was measured.
        let history: Arc<History> = match shelf.open.get(&database.repository) {
            Some(opened) => opened.history().await?,
            None => Arc::default(),
        };
        let jobs = match &promises.state {
            Some(state) => {
                let name = Some(database.name.clone());
                let stage = Some(Stage::Ended);
                let filter = Filter { database: name, stage, most: JOBS_MAX, ..Filter::default() };
                state.jobs(&filter).await?
            }
            None => Vec::new(),
        };
        let of = (database.name.as_str(), policy);
        loads.push(Load::of(of, made_by, (&history, &jobs), shelf.now)?);
    }
    Ok(loads)
}

fn needs(sizing: &Sizing, running: u32) -> Vec<Need> {
    let at_once = sizing.at_once as u64;
    // Who never gets through is worse off than who waits.
    let late = if f64::from(running) < sizing.busy { Verdict::Lacking } else { Verdict::Advice };
    let cores = available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    vec![
        Need::of(
            "jobs at once",
            (Unit::Jobs, at_once, Some(u64::from(running))),
            late,
            format!(
                "the most at one time in the week to come, {:.1} on average; here it is `running`",
                sizing.busy
            ),
        ),
        Need::of(
            "cores",
            (Unit::Cores, sizing.jobs as u64, Some(cores)),
            Verdict::Advice,
            "one for each job that runs at once",
        ),
        Need::of(
            "memory",
            (Unit::Bytes, sizing.memory_bytes, memory_bytes()),
            Verdict::Lacking,
            "at most 256 MiB for each job that runs at once, and 48 MiB for each capture",
        ),
        Need::of(
            "read from databases",
            (Unit::BytesPerDay, sizing.read_bytes, None),
            Verdict::Advice,
            "where every backup reads all of its database; those that read what changed read less",
        ),
        Need::of(
            "sent to repositories",
            (Unit::BytesPerDay, sizing.stored_bytes, None),
            Verdict::Advice,
            "by what was stored for each backup; captured log is not in it",
        ),
    ]
}

/// The memory of this machine, or what its container may use. Source: proc_meminfo(5), and the
/// kernel's Documentation/admin-guide/cgroup-v2.rst, `memory.max`.
fn memory_bytes() -> Option<u64> {
    let machine = total_bytes(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let container = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let container = container.and_then(|text| text.trim().parse::<u64>().ok());
    Some(container.map_or(machine, |most| most.min(machine)))
}

fn total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_25_what_is_needed_is_held_against_what_there_is() {
        let verdict =
            |here| Need::of("memory", (Unit::Bytes, 256, here), Verdict::Lacking, "").verdict;
        assert_eq!(verdict(Some(256)), Some(Verdict::Ok));
        assert_eq!(verdict(Some(255)), Some(Verdict::Lacking));
        assert_eq!(verdict(None), None);
    }

    #[test]
    fn the_memory_of_a_machine_is_read() {
        let text = "MemTotal:       16384 kB\nMemFree:  9 kB\n";
        assert_eq!(total_bytes(text), Some(16 << 20));
        assert_eq!(total_bytes("MemFree:  9 kB\n"), None);
        assert_eq!(total_bytes("MemTotal: x kB\n"), None);
    }
}
