//! The hands of a coordinator: drivers and repositories.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use stillpoint_contract::{Engine, Result};
use tokio::sync::watch;

use super::{
    fleet::{Fleet, Member, Place},
    hands::{BackupTask, Ending, Hands},
    run::is_true,
    standing::{Standing, standing},
    upkeep::expire,
    work::stamp,
};
use crate::{
    coordinator::{
        BackupJob, CaptureEvent, CaptureJob, DrillJob, Expectation, PickUp, Process, ScratchPlace,
        Successor, Wanted, Way, back_up, backup::recognise, capture, draw, drill, engine_of,
        pick_up,
    },
    pipeline::Meter,
    policy::{DrillPoint, Kind, Lifecycle, Logs},
    repository::{
        CollectOptions, Repository, VerifyReport, drill::DrillRecord, history::Committed,
    },
    world::World,
};

/// How long a commit waits for company where log is captured all the time.
const FLUSH: Duration = Duration::from_secs(1);

/// How long a capture waits out what may pass by itself. Later it begins anew.
const RETRY_MAX: Duration = Duration::from_mins(10);

/// Works with the drivers and repositories of a fleet.
pub struct Drivers {
    /// Time, randomness, threads.
    pub world: World,
    /// Where this is, for people.
    pub place: String,
    /// A name of this process, where it can have one, and whether the process of a name has ended.
    pub process: (Option<String>, fn(&str) -> bool),
    /// How restores are rehearsed.
    pub rehearsal: Rehearsal,
}

/// How restores are rehearsed.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// Every engine there is.
    pub engines: Vec<Arc<dyn Engine>>,
    /// Where sandboxes are made.
    pub scratch: ScratchPlace,
    /// Whether backups may be mounted.
    pub way: Way,
    /// How a record is shown to people.
    pub page: fn(&DrillRecord) -> String,
}

impl fmt::Debug for Drivers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drivers").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Drivers {
    /// Takes the files that an application left since.
    async fn pick_up(
        &self,
        (repository, member, configuration): (&Repository, &Member, Option<&str>),
        (place, folder): (&Place, &Path),
        meter: &Arc<Meter>,
    ) -> Result<Ending> {
        let job = PickUp {
            engine: &*place.engine,
            folder,
            database: &member.name,
            successor: member.endpoints.successor(),
            scratch: &self.rehearsal.scratch,
            configuration,
        };
        let dumps = Box::pin(pick_up(&self.world, repository, &job, meter)).await?;
        let taken = dumps.iter().filter_map(|dump| dump.backup.as_deref()).collect::<Vec<_>>();
        let refused = dumps.iter().find_map(|dump| Some((&dump.name, dump.problem.as_ref()?)));
        Ok(match (refused, taken.as_slice()) {
            (Some((name, why)), _) => {
                Ending::failed(format!("{} files taken; {name} was not: {why}", taken.len()))
            }
            // What failed is tried again, later and later; what was superseded, at once.
            (None, []) => Ending::failed("no file was left since"),
            (None, taken) => Ending::succeeded(format!("backup {}", taken.join(", "))),
        })
    }
}

/// Reads every byte of a backup back, and writes down what came of it: only what was proven counts
/// where retention asks what may replace what.
///
/// # Errors
///
/// What keeps it from being read; damage is in the report.
pub async fn read_back(
    repository: &Repository,
    committed: &Committed,
    meter: &Arc<Meter>,
) -> Result<VerifyReport> {
    meter.begin("verify", committed.commit.size_bytes);
    let report = repository.verify_backup(committed, meter).await?;
    repository.prove(committed, &report).await?;
    Ok(report)
}

/// Tells of a backup in which the engine finds damage: it stands for no other, and is not copied.
fn tell_suspect(database: &str, backup: &str, damage: &str) {
    tracing::warn!(event = "backup.suspect", database, backup, damage);
}

#[async_trait(?Send)]
impl Hands for Drivers {
    async fn standing(&self, fleet: &Fleet, member: &Member) -> Result<Standing> {
        standing(fleet.repository(member)?, &member.name, member.since).await
    }

    async fn back_up(
        &self,
        fleet: &Fleet,
        member: &Member,
        task: BackupTask,
        meter: &Arc<Meter>,
    ) -> Result<Ending> {
        let repository = fleet.repository(member)?;
        let place = member.place()?;
        if let Some(folder) = &place.pickup {
            let configuration = fleet.configuration.as_deref();
            return self.pick_up((repository, member, configuration), (place, folder), meter).await;
        }
        // An attempt that was lost may have come to its end all the same.
        let made = {
            let history = repository.history().await?;
            history.made_for(&member.name, Some(&task.due)).cloned()
        };
        let (committed, told) = if let Some(made) = made {
            let told = format!("backup {}, by an earlier attempt", made.commit.backup);
            (made, told)
        } else {
            let full = task.kind == Kind::Full;
            let (task, configuration) = (Some(&*task.due), fleet.configuration.as_deref());
            let job = BackupJob { full, task, configuration, ..member.backup()? };
            let report = back_up(&self.world, repository, job, meter).await?;
            let commit = &report.committed.commit;
            let told = format!("backup {}, {} bytes stored", commit.backup, commit.stored_bytes);
            (report.committed, told)
        };
        let report = read_back(repository, &committed, meter).await?;
        let damage = committed.commit.damage.as_deref();
        if let Some(damage) = damage {
            tell_suspect(&member.name, &committed.commit.backup, damage);
        }
        Ok(match (report.problems.first(), damage) {
            (None, None) => Ending::succeeded(told),
            // Another one would be no better.
            (None, Some(damage)) => {
                Ending::succeeded(format!("{told}, of a database that is damaged: {damage}"))
            }
            (Some(first), _) => {
                let count = report.problems.len();
                let problem = format!("{}: {}", first.object, first.what);
                let told = format!("{told}, which is damaged in {count} places: {problem}");
                Ending { damaged: count as u64, ..Ending::failed(told) }
            }
        })
    }

    async fn rehearse(&self, fleet: &Fleet, member: &Member, meter: &Arc<Meter>) -> Result<Ending> {
        let repository = fleet.drilled(member)?;
        let rehearsal = &self.rehearsal;
        let rule = member.policy.drill.as_ref();
        let is_random = rule.is_none_or(|rule| rule.point == DrillPoint::Random);
        let (wanted, asked) = if is_random {
            let timeline = repository.timeline(&member.name).await?;
            let engine = engine_of(&rehearsal.engines, &timeline)?;
            let at = draw(repository, &timeline, &*engine, &*self.world.entropy).await?;
            (Wanted::Time(at), stamp(at))
        } else {
            (Wanted::Latest, "latest".to_owned())
        };
        let checks = rule.map(|rule| rule.checks.as_slice()).unwrap_or_default();
        let expectation = |(sql, expected): &(String, String)| Expectation {
            sql: sql.clone(),
            expected: expected.clone(),
        };
        let expectations: Vec<_> = checks.iter().map(expectation).collect();
        let job = DrillJob {
            engines: &rehearsal.engines,
            database: &member.name,
            wanted,
            asked: &asked,
            is_random,
            expectations: &expectations,
            inside: None,
            scratch: &rehearsal.scratch,
            way: rehearsal.way,
            started_by: &self.place,
            ends_at: None,
        };
        let mut record = Box::pin(drill(&self.world, repository, &job, meter)).await?;
        if let Some(from) = rule.and_then(|rule| rule.from.as_ref()) {
            let place = repository.location();
            record.notes.push(format!("restored from copy {from} ({place})"));
        }
        let page = (rehearsal.page)(&record);
        let kept = repository.keep_drill(&record, &page).await?;
        if let (Some(backup), Some(damage)) = (&kept.backup, &kept.damage) {
            tell_suspect(&member.name, backup, damage);
        }
        let told = format!("drill {} of {asked}", record.drill);
        Ok(if record.passed {
            Ending::succeeded(told)
        } else {
            Ending::failed(format!("{told}: {}", record.causes.join("; ")))
        })
    }

    async fn expire(
        &self,
        fleet: &Fleet,
        member: &Member,
        now: DateTime<Utc>,
    ) -> Result<Vec<String>> {
        let forgotten = expire(fleet.repository(member)?, member, now).await?;
        Ok(forgotten.into_iter().map(|committed| committed.commit.backup).collect())
    }

    async fn collect(&self, fleet: &Fleet, repository: &str, meter: &Arc<Meter>) -> Result<u64> {
        let repository = fleet.opened(repository)?;
        Ok(repository.collect(CollectOptions::default(), meter).await?.swept.1)
    }

    async fn capture(
        &self,
        fleet: &Fleet,
        member: &Member,
        is_over: &mut watch::Receiver<bool>,
        tell: &dyn Fn(CaptureEvent),
    ) -> Result<()> {
        let repository = fleet.repository(member)?;
        // There is nothing yet that log could join.
        if !repository.history().await?.protects(&member.name) {
            return Ok(());
        }
        let place = member.place()?;
        // Files that were left have no log.
        if place.pickup.is_some() {
            return Ok(());
        }
        if member.endpoints.lifecycle == Some(Lifecycle::Fixed) {
            // What is captured of another server would have to be told apart for ever.
            let at = (&*place.engine, &place.endpoint);
            recognise(repository, at, &member.name, Successor::Nobody).await?;
        }
        let job = CaptureJob {
            engine: &*place.engine,
            endpoint: &place.endpoint,
            database: &member.name,
            flush: match member.policy.logs {
                Logs::Every(period) => period,
                Logs::Stream | Logs::Never => FLUSH,
            },
            retry_for: RETRY_MAX,
            take_over: false,
            process: Process { name: self.process.0.as_deref(), is_gone: &self.process.1 },
        };
        capture(&self.world, repository, job, is_true(is_over), tell).await.map(drop)
    }
}
