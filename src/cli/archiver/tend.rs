//! Archive sets whose time has come: jobs of the queue that all coordinators share, carried out by
//! whoever serves.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt as _, stream::FuturesUnordered};
use stillpoint_contract::{Error, ErrorKind, Result, code};
use tokio::sync::{Notify, watch};

use super::{
    place::Set,
    reclaim::SpaceRow,
    run::{Watcher, reclaimed},
};
use crate::{
    archiver::{Archiving, Limits, Quit, RunReport, Shelf, control},
    cli::{config::reach, serve::Held, session::Session},
    config::Config,
    coordinator::{
        state::{ARCHIVE, Claim, Filter, Job, Outcome, Phase, State, Task},
        told,
    },
    pipeline::Meter,
    policy::{ArchiveRule, Calendar, Timing, is_open},
};

/// The part of the queue that these jobs wait in: whoever backs up does not take them.
const QUEUE: &str = "archive sets";

/// How often it is looked whether a set's time has come, and said how far jobs are.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long this process is believed to live after it last said so.
const LEASE: Duration = Duration::from_mins(1);

/// How many sets are worked on by one process at once.
const TOGETHER: usize = 4;

/// Backups go first.
const RANK: u64 = 0;

/// How many looks in a row a backup waits for room before a set makes way for it.
const LOOKS: u32 = 6;

/// For how long it does.
const ASIDE: TimeDelta = TimeDelta::minutes(5);

/// What is said of one that did.
const MADE_WAY: &str = "backups waited for its room; it goes on when it is tried again";

/// How long a run rests, for what is not its own pace, before others get its room.
const RESTS_MAX: Duration = Duration::from_mins(5);

/// What is said first of one that did. It is tried again as soon as one that made way.
const RESTED: &str = "rested, ";

/// What is said first of one whose set somebody paused.
const PAUSED: &str = "paused, ";

/// How often it is looked whether such a set still is.
const PAUSED_FOR: Duration = Duration::from_secs(10);

/// How long after a failure, or while rows have to stay, it is tried again.
const RETRY: TimeDelta = TimeDelta::hours(1);

/// Queues and carries out what is due, as long as it is polled. `leads` says whether this process
/// decides, and `ended` hears of databases of which something was archived, or should have been.
///
/// The lock of a set keeps two of them from moving the same rows; what one of them leaves, the
/// next one goes on with. A set makes way for backups that wait for its room.
pub(crate) async fn tend(
    session: &Session,
    state: &State,
    (leads, ended): (impl Fn() -> bool, impl Fn(&str)),
    helds: watch::Receiver<Arc<Held>>,
) {
    let queue = state.clone().of_agent(QUEUE);
    let worker = format!("archives {}", session.world.new_id());
    let mut running = FuturesUnordered::new();
    let mut order = Order::default();
    let mut pauses = Pauses::default();
    loop {
        let held = Arc::clone(&helds.borrow());
        let room = TOGETHER.saturating_sub(running.len());
        // Whoever archives nothing says nothing.
        if !running.is_empty() || !held.config().archives.is_empty() {
            let queues = (state, &queue);
            let wanted = (held.config(), room);
            let look = look(session, queues, &worker, leads(), wanted, &mut pauses);
            let mut look = std::pin::pin!(look);
            // What runs may hold the turn in the state database that is waited for.
            let claims = loop {
                tokio::select! {
                    Some(database) = running.next() => ended(String::as_str(&database)),
                    claims = &mut look => break claims,
                }
            };
            for claim in claims {
                let way = order.begun();
                running.push(Box::pin(work(session, &queue, held.config().clone(), claim, way)));
            }
            order.make_way(!running.is_empty() && is_in_the_way(&queue).await);
        }
        let mut sleep = session.world.clock.sleep(LOOK_EVERY);
        loop {
            tokio::select! {
                Some(database) = running.next() => ended(String::as_str(&database)),
                () = &mut sleep => break,
            }
        }
    }
}

/// Which sets are worked on, oldest first, and for how many looks backups have waited for room.
#[derive(Default)]
struct Order {
    running: Vec<Weak<Notify>>,
    looks: u32,
}

impl Order {
    fn begun(&mut self) -> Arc<Notify> {
        let way = Arc::new(Notify::new());
        self.running.retain(|other| other.strong_count() > 0);
        self.running.push(Arc::downgrade(&way));
        way
    }

    /// One of them makes way: the newest, which has got least far.
    fn make_way(&mut self, is_in_the_way: bool) {
        self.looks = if is_in_the_way { self.looks + 1 } else { 0 };
        if self.looks >= LOOKS {
            self.looks = 0;
            while let Some(newest) = self.running.pop() {
                if let Some(newest) = newest.upgrade() {
                    return newest.notify_one();
                }
            }
        }
    }
}

/// The machine that it burdens; nobody's, where its endpoint is not known now.
async fn host(session: &Session, config: &Config, rule: &ArchiveRule) -> String {
    let Some(database) = config.databases.get(&rule.database) else { return String::new() };
    let reached = reach::endpoint(session, database).await;
    reached.map(|(_, endpoint)| reach::host(&endpoint)).unwrap_or_default()
}

async fn is_in_the_way(queue: &State) -> bool {
    // Whoever cannot be asked says so elsewhere.
    queue.is_in_the_way().await.unwrap_or(false)
}

/// Says that this process lives, queues what is due, and takes what it has room for.
async fn look(
    session: &Session,
    (state, queue): (&State, &State),
    worker: &str,
    leads: bool,
    (config, room): (&Config, usize),
    pauses: &mut Pauses,
) -> Vec<Claim> {
    let mut claims = Vec::new();
    let looked = async {
        state.renew(worker, &session.user(), LEASE).await?;
        if leads {
            settle(session, state, config, pauses).await;
        }
        while claims.len() < room
            && let Some(claim) = queue.claim(worker).await?
        {
            claims.push(claim);
        }
        Ok::<_, Error>(())
    };
    if let Err(error) = looked.await {
        tracing::warn!(event = "state.unreachable", "{error}");
    }
    claims
}

/// Puts sets into the queue whose time has come. One that cannot be looked at keeps no other from
/// it.
async fn settle(session: &Session, state: &State, config: &Config, pauses: &mut Pauses) {
    let now = session.world.clock.now();
    for rule in config.archives.values().filter(|rule| rule.schedule.is_some()) {
        let settled = async {
            let due = due(session, state, (config, rule), now, pauses).await?;
            let Some(due) = due else { return Ok(()) };
            let task = Task {
                database: rule.database.clone(),
                kind: format!("{ARCHIVE}{}", rule.name),
                due,
                why: "calendar".to_owned(),
                repository: rule.to.clone(),
                host: host(session, config, rule).await,
                rank: RANK,
                rpo: Duration::ZERO,
                agent: QUEUE.to_owned(),
                site: String::new(),
            };
            state.enqueue(&task, &session.user()).await.map(drop)
        };
        if let Err(error) = settled.await {
            let why = told(&error);
            tracing::error!(event = "archive.failed", set = rule.name, why);
        }
    }
}

/// The newest time of a set's calendar, unless something was, or is being, done for it. Those
/// before it are covered by it.
///
/// Of a paused set one attempt says so, for those who ask what became of it and for alerts; nothing
/// else is queued until somebody lets it go on.
async fn due(
    session: &Session,
    state: &State,
    (config, rule): (&Config, &ArchiveRule),
    now: DateTime<Utc>,
    pauses: &mut Pauses,
) -> Result<Option<DateTime<Utc>>> {
    let Some(pattern) = &rule.schedule else { return Ok(None) };
    let zone = rule.zone.unwrap_or(config.zone);
    let timing = Timing { pattern: pattern.clone(), spread: Duration::ZERO };
    let calendar = Calendar::new(&timing, zone).map_err(|bad| {
        Error::new(ErrorKind::Config, code::CONFIG_VALUE, "read a schedule").caused_by(bad.why)
    })?;
    let Some(due) = calendar.turns(&rule.name).last(now) else { return Ok(None) };
    if !rule.windows.is_empty() && !is_open(&rule.windows, zone, now) {
        return Ok(None);
    }
    let (database, kind) = (Some(rule.database.clone()), Some(format!("{ARCHIVE}{}", rule.name)));
    let filter = Filter { database, kind, most: 1, ..Filter::default() };
    if let Some(job) = state.jobs(&filter).await?.first() {
        let is_for_it = job.task.due >= due;
        return Ok(match &job.phase {
            Phase::Waiting | Phase::Running { .. } => None,
            Phase::Ended { outcome: Outcome::Succeeded | Outcome::Cancelled, .. } if is_for_it => {
                None
            }
            // Its worker is gone, and somebody else goes on at once.
            Phase::Ended { outcome: Outcome::Lost, .. } => Some(due),
            Phase::Ended { reason, .. } if is_for_it && reason.starts_with(PAUSED) => {
                let is_paused = Box::pin(pauses.has(session, config, rule)).await?;
                (!is_paused).then_some(due)
            }
            Phase::Ended { at, reason, .. }
                if is_for_it && wait(reason).is_none_or(|wait| now < *at + wait) =>
            {
                None
            }
            Phase::Ended { .. } => Some(due),
        });
    }
    // The state is new, or somebody archived by hand.
    let set = Set { config: config.clone(), rule: rule.clone() };
    let shelf = Shelf::load(&set.place(session).await?).await?;
    let newest = shelf.runs.last().and_then(|run| run.end.as_ref());
    Ok(newest.is_none_or(|end| end.at < due).then_some(due))
}

/// How long after it ended it is tried again. `None` where only the next time of its calendar lets
/// it go on: what is to work for so long at most does not begin anew at once.
fn wait(reason: &str) -> Option<TimeDelta> {
    if reason.starts_with(&Quit::OutOfTime.words()) {
        return None;
    }
    Some(if goes_on(reason) { ASIDE } else { RETRY })
}

/// Whether a run ended only to let others have its room: the next attempt goes on with it.
fn goes_on(reason: &str) -> bool {
    reason == MADE_WAY || reason.starts_with(RESTED)
}

/// When a run began that goes on now, by the attempts at it before, newest first. `None` where it
/// begins.
fn begun(before: &[Job], due: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let attempts = before.iter().map_while(|job| {
        let Phase::Ended { started, reason, .. } = &job.phase else { return None };
        started.filter(|_| job.task.due == due && goes_on(reason))
    });
    attempts.last()
}

/// Until when an attempt may work, where the run began with an earlier one.
async fn until(
    session: &Session,
    queue: &State,
    claim: &Claim,
    rule: &ArchiveRule,
) -> Option<DateTime<Utc>> {
    let max = TimeDelta::from_std(rule.runtime_max?).ok()?;
    let Task { database, kind, due, .. } = &claim.task;
    let (database, kind) = (Some(database.clone()), Some(kind.clone()));
    let before = Some(claim.job.clone());
    let filter = Filter { database, kind, before, ..Filter::default() };
    loop {
        match queue.jobs(&filter).await {
            Ok(jobs) => return begun(&jobs, *due)?.checked_add_signed(max),
            Err(error) => tracing::warn!(event = "state.unreachable", "{error}"),
        }
        session.world.clock.sleep(LOOK_EVERY).await;
    }
}

/// It succeeded when nothing is left to do: whatever is, is tried again, and told after a day.
fn outcome_of(report: &RunReport) -> Outcome {
    let is_through =
        report.quit.is_done() && report.left_rows == 0 && report.lacking_copies.is_empty();
    match report.quit {
        Quit::Critical(_) => Outcome::Failed,
        _ if is_through => Outcome::Succeeded,
        _ => Outcome::Deferred,
    }
}

/// Why it ended, and what it did.
fn reason_of(report: &RunReport) -> String {
    let (words, pruned) = (report.words(), report.pruned_rows);
    match report.quit {
        Quit::Paused(_) => return format!("{PAUSED}{pruned} rows deleted: {words}"),
        Quit::Rested(_) => return format!("{RESTED}{pruned} rows deleted: {words}"),
        _ => {}
    }
    let left = Some(report.left_rows).filter(|left| *left > 0);
    let left = left.map(|left| format!(", {left} left")).unwrap_or_default();
    let copies = report.lacking_copies.first();
    let copies = copies.map(|why| format!("; not copied: {why}")).unwrap_or_default();
    format!("{words}: {pruned} rows deleted{left}{copies}")
}

/// Sets that were paused when that was looked at, and when that was.
#[derive(Debug, Default)]
struct Pauses(BTreeMap<String, Duration>);

impl Pauses {
    /// Whether a set is paused, by a look that is not long ago: each one asks its repository.
    async fn has(
        &mut self,
        session: &Session,
        config: &Config,
        rule: &ArchiveRule,
    ) -> Result<bool> {
        let now = session.world.clock.elapsed();
        let is_known = |at: &Duration| now.saturating_sub(*at) < PAUSED_FOR;
        if self.0.get(&rule.name).is_some_and(is_known) {
            return Ok(true);
        }
        // Also where it cannot be looked at, it is not looked at all the time.
        self.0.insert(rule.name.clone(), now);
        let set = Set { config: config.clone(), rule: rule.clone() };
        let is_paused = control(&set.place(session).await?).await?.is_paused;
        if !is_paused {
            self.0.remove(&rule.name);
        }
        Ok(is_paused)
    }
}

/// Does one job, and notes how it ended. Returns of which database it was.
async fn work(
    session: &Session,
    queue: &State,
    config: Config,
    claim: Claim,
    way: Arc<Notify>,
) -> String {
    let name = claim.task.kind.strip_prefix(ARCHIVE).unwrap_or_default().to_owned();
    let meter = Arc::new(Meter::default());
    tracing::info!(event = "archive.started", set = name, job = claim.job);
    let (outcome, reason) = tokio::select! {
        biased;
        ended = one(session, (queue, &claim), config, &name, &meter) => ended,
        // Dropped amid a transaction, that is rolled back: no row is gone that is not noted.
        why = attend(session, queue, &claim, &meter) => {
            tracing::warn!(event = "archive.ended", set = name, job = claim.job, why);
            return claim.task.database;
        }
        () = way.notified() => (Outcome::Deferred, MADE_WAY.to_owned()),
    };
    let word = outcome.word();
    let action = if outcome == Outcome::Failed { "archive.failed" } else { "archive.ended" };
    if outcome == Outcome::Failed {
        tracing::error!(event = "archive.failed", set = name, reason);
    } else {
        tracing::info!(event = "archive.ended", set = name, word, reason);
    }
    drop(queue.note(&session.user(), action, &name, &reason).await);
    while let Err(error) = queue.finish(&claim, outcome, &reason).await {
        tracing::warn!(event = "job.unheard", job = claim.job, "{error}");
        if error.kind() == ErrorKind::Fenced {
            break;
        }
        session.world.clock.sleep(LOOK_EVERY).await;
    }
    claim.task.database
}

/// Says how far a job is, until it is somebody else's, or was cancelled.
async fn attend(session: &Session, queue: &State, claim: &Claim, meter: &Meter) -> String {
    loop {
        session.world.clock.sleep(LOOK_EVERY).await;
        match queue.progress(claim, meter.read().done_bytes).await {
            Err(error) if error.kind() == ErrorKind::Fenced => return told(&error),
            Err(error) => tracing::warn!(event = "state.unreachable", "{error}"),
            Ok(()) => {}
        }
    }
}

/// Carries one out, and says how it went.
async fn one(
    session: &Session,
    (queue, claim): (&State, &Claim),
    config: Config,
    name: &str,
    meter: &Arc<Meter>,
) -> (Outcome, String) {
    let Some(rule) = config.archives.get(name).cloned() else {
        return (Outcome::Superseded, "it is not configured here".to_owned());
    };
    let until = until(session, queue, claim, &rule).await;
    if until.is_some_and(|until| session.world.clock.now() >= until) {
        // Nothing is read first, either.
        let mut report = RunReport::default();
        report.quit = Quit::OutOfTime;
        return (outcome_of(&report), reason_of(&report));
    }
    match Box::pin(carry_out(session, &Set { config, rule }, until, meter)).await {
        Ok(report) => {
            for why in &report.lacking_copies {
                tracing::warn!(event = "archive.not-copied", set = name, why);
            }
            (outcome_of(&report), reason_of(&report))
        }
        Err(error) => (Outcome::Failed, told(&error)),
    }
}

async fn carry_out(
    session: &Session,
    set: &Set,
    until: Option<DateTime<Utc>>,
    meter: &Arc<Meter>,
) -> Result<RunReport> {
    let place = set.home(session).await?;
    let driver = set.driver(session).await?;
    let gates = set.gates(session, &place, &*driver).await?;
    let witness = Watcher::new(Arc::clone(meter));
    let archiving = Archiving {
        driver: &*driver,
        place: &place,
        world: &session.world,
        rule: &set.rule,
        gates: &gates,
        limits: Limits { until, rests_max: Some(RESTS_MAX), ..Limits::default() },
        witness: &witness,
    };
    let report = Box::pin(archiving.run()).await?;
    if let Some(reclaimed) = reclaimed(session, set, &report).await {
        let tables = reclaimed.tables.iter().map(|row| (row.table.as_str(), &row.space));
        let file = reclaimed.file.iter().map(|space| ("the whole file", space));
        for (table, space) in tables.chain(file) {
            let SpaceRow { before_bytes, after_bytes, reusable_bytes, returned_bytes } = space;
            tracing::info!(
                event = "archive.reclaimed",
                set = set.rule.name,
                table,
                before_bytes,
                after_bytes,
                reusable_bytes,
                returned_bytes
            );
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn who_rested_or_made_way_is_tried_again_soon() {
        let of = |quit: Quit| {
            let mut report = RunReport::default();
            report.quit = quit;
            reason_of(&report)
        };
        let rested = of(Quit::Rested("replicas are behind".to_owned()));
        assert!(rested.ends_with("replicas are behind"), "{rested}");
        assert_eq!((wait(&rested), wait(MADE_WAY)), (Some(ASIDE), Some(ASIDE)));
        assert_eq!(wait(&of(Quit::Gate("it is too young".to_owned()))), Some(RETRY));
        let paused = of(Quit::Paused("dba paused it".to_owned()));
        assert!(paused.starts_with(PAUSED) && paused.ends_with("dba paused it"), "{paused}");
    }

    #[test]
    fn a_run_that_leaves_something_is_no_success() {
        let ended = |quit: Quit, left_rows: u64, lacking: Option<&str>| {
            let mut report = RunReport::default();
            (report.quit, report.left_rows, report.pruned_rows) = (quit, left_rows, 30);
            report.lacking_copies = lacking.iter().map(|&why| why.to_owned()).collect();
            format!("{}: {}", outcome_of(&report).word(), reason_of(&report))
        };
        let done = "everything selected is moved: 30 rows deleted";
        assert_eq!(ended(Quit::Finished, 0, None), format!("succeeded: {done}"));
        assert!(ended(Quit::NothingSelected, 0, None).starts_with("succeeded: nothing is"));
        let lacks = ended(Quit::Finished, 0, Some("no room"));
        assert_eq!(lacks, format!("deferred: {done}; not copied: no room"));
        let late = ended(Quit::OutOfTime, 0, None);
        assert_eq!(late, "deferred: its time is over: 30 rows deleted");
        assert!(ended(Quit::Closed(None), 0, None).starts_with("deferred: no window of it"));
        let gate = ended(Quit::Gate("too new".to_owned()), 2, None);
        let held = "deferred: rows may not be deleted yet: too new: 30 rows deleted, 2 left";
        assert_eq!(gate, held);
        let left = ended(Quit::Finished, 2, None);
        assert!(left.starts_with("deferred: rows were left that kept changing"), "{left}");
        assert!(left.ends_with(": 30 rows deleted, 2 left"), "{left}");
        assert!(ended(Quit::Critical("lag".to_owned()), 0, None).starts_with("failed: "));
    }

    #[test]
    fn what_ran_out_of_time_waits_for_its_next_time() {
        let mut report = RunReport::default();
        report.quit = Quit::OutOfTime;
        assert_eq!(wait(&reason_of(&report)), None);
        report.quit = Quit::Closed(None);
        assert_eq!(wait(&reason_of(&report)), Some(RETRY));
        assert_eq!((wait(MADE_WAY), wait("it failed")), (Some(ASIDE), Some(RETRY)));
    }

    /// An attempt at what was due then, that began and ended so many minutes later.
    fn ended(due: DateTime<Utc>, minutes: [i64; 2], reason: &str) -> Job {
        let task = Task {
            database: "shop".to_owned(),
            kind: format!("{ARCHIVE}orders"),
            due,
            why: "calendar".to_owned(),
            repository: "repo".to_owned(),
            host: String::new(),
            rank: RANK,
            rpo: Duration::ZERO,
            agent: QUEUE.to_owned(),
            site: String::new(),
        };
        let [started, at] = minutes.map(|minutes| due + TimeDelta::minutes(minutes));
        let outcome = Outcome::Deferred;
        let phase = Phase::Ended { started: Some(started), at, outcome, reason: reason.to_owned() };
        Job { id: String::new(), task, attempt: 1, phase, bytes: 0 }
    }

    #[test]
    fn a_run_goes_on_since_its_first_attempt_and_not_since_what_was_before() {
        let due = DateTime::UNIX_EPOCH;
        let rested = format!("{RESTED}5 rows deleted: replicas are behind");
        let attempts = [ended(due, [14, 20], &rested), ended(due, [3, 9], MADE_WAY)];
        let first = Some(due + TimeDelta::minutes(3));
        assert_eq!((begun(&attempts, due), begun(&[], due)), (first, None));
        // One that failed, or waited for a gate, begins anew when it is tried again.
        let [newer, older] = attempts;
        let failed = ended(due, [0, 1], "the server is gone");
        let all = [newer.clone(), older.clone(), failed.clone(), older.clone()];
        assert_eq!(begun(&all, due), first);
        assert_eq!(begun(&[failed, newer.clone()], due), None);
        // So does one for another time.
        let other = ended(due - TimeDelta::days(1), [0, 5], &rested);
        assert_eq!(begun(&[newer, older, other.clone()], due), first);
        assert_eq!(begun(&[other], due), None);
    }

    #[test]
    fn the_newest_set_makes_way_when_backups_have_waited_for_a_while() {
        let mut order = Order::default();
        let [first, second, third] = [order.begun(), order.begun(), order.begun()];
        drop(third);
        let mut looks = |are_waiting: bool, count: u32| {
            (0..count).for_each(|_| order.make_way(are_waiting));
            [&first, &second].map(|way| way.notified().now_or_never().is_some())
        };
        assert_eq!(looks(true, LOOKS - 1), [false, false], "not for long");
        assert_eq!(looks(false, 1), [false, false]);
        assert_eq!(looks(true, LOOKS - 1), [false, false], "not for long without a pause");
        assert_eq!(looks(true, 1), [false, true]);
        assert_eq!(looks(true, LOOKS - 1), [false, false]);
        assert_eq!(looks(true, 1), [true, false]);
        assert_eq!(looks(true, LOOKS), [false, false], "nothing is left");
    }
}
