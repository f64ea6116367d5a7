//! A run: everything that a policy selects is brought into files, and then deleted.
//!
//! A run that was interrupted at any step is continued by the next one. What is in the table and
//! what the ledger has are, at every step, all rows that there were, each of them once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, Utc};
use stillpoint_contract::{Driver, Error, ErrorKind, Finding, LedgerEntry, Result, Rows, code};

use super::{
    control::control,
    copy::{catch_up, mirror},
    destination::{self, Copies},
    document::{Batch, DOCUMENT_FORMAT, Plan},
    erase::{heed_erasures, replay},
    garbage::sweep,
    gate::Gate,
    hold::held,
    identity,
    load::Loading,
    pace::{Cause, Debts},
    parts::Parts,
    place::{Place, Sheet},
    prepare::{Prepared, prepare, refuse_unmeasured},
    prune::Difference,
    reconcile::{compare, hidden, refuse_unknown, write_down},
    shelf::{Shelf, Shelved},
    witness::{Step, Witness},
    work::Work,
};
use crate::{policy::ArchiveRule, world::World};

/// How long a run waits for another one of the same set.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How often a run begins anew after the connection, or the store, failed for a moment.
const ATTEMPTS_MAX: u32 = 5;

/// How long it waits before.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(1);

/// What a run works with.
#[derive(Clone, Copy, Debug)]
pub struct Archiving<'a> {
    /// The database.
    pub driver: &'a dyn Driver,
    /// Where files go.
    pub place: &'a Place,
    /// Time and threads.
    pub world: &'a World,
    /// What is moved.
    pub rule: &'a ArchiveRule,
    /// What must be so before rows are deleted.
    pub gates: &'a [Box<dyn Gate>],
    /// When it stops early.
    pub limits: Limits,
    /// Who is told.
    pub witness: &'a dyn Witness,
}

/// When a run stops early.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// At this instant.
    pub until: Option<DateTime<Utc>>,
    /// After so many rows of the root.
    pub rows_max: Option<u64>,
    /// Before anything is deleted.
    pub keeps_source: bool,
    /// Instead of resting for longer than that at a time, or at all where somebody paused it. What
    /// keeps to its own pace does not rest.
    pub rests_max: Option<Duration>,
}

/// Why a run stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Quit {
    /// Everything is moved that was selected.
    Finished,
    /// Nothing was selected; nothing was written.
    #[default]
    NothingSelected,
    /// As many rows as wanted are moved.
    RowsMax,
    /// The time is over.
    OutOfTime,
    /// The window is closed, until then.
    Closed(Option<DateTime<Utc>>),
    /// Rows are not to be deleted yet.
    Gate(String),
    /// They are not to be deleted by this run.
    KeptSource,
    /// The server, its replicas or its log could not stand more.
    Critical(String),
    /// Somebody paused it, and it is not to rest.
    Paused(String),
    /// It is not to rest for longer.
    Rested(String),
}

impl Quit {
    /// Whether nothing is left to do.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Finished | Self::NothingSelected)
    }

    /// In a few words.
    pub fn words(&self) -> String {
        match self {
            Self::Finished => "everything selected is moved".to_owned(),
            Self::NothingSelected => "nothing is selected".to_owned(),
            Self::RowsMax => "as many rows as wanted are moved".to_owned(),
            Self::OutOfTime => "its time is over".to_owned(),
            Self::Closed(None) => "no window of it will open".to_owned(),
            Self::Closed(Some(until)) => {
                format!("its window is closed until {} UTC", until.format("%Y-%m-%d %H:%M"))
            }
            Self::Gate(why) => format!("rows may not be deleted yet: {why}"),
            Self::KeptSource => "rows are to stay in their tables".to_owned(),
            Self::Critical(why) => format!("it gave up, as critical = \"abort\" says: {why}"),
            Self::Paused(why) => why.clone(),
            Self::Rested(why) => format!("it rested for too long: {why}"),
        }
    }
}

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct RunReport {
    /// The run; none where nothing was selected.
    pub run: Option<String>,
    /// Why it stopped.
    pub quit: Quit,
    /// How many rows are in files now that were not before, of all tables.
    pub exported_rows: u64,
    /// How many bytes those files have.
    pub file_bytes: u64,
    /// How many rows were deleted, of all tables.
    pub pruned_rows: u64,
    /// How many rows of the root were selected when the run was planned.
    pub planned_rows: u64,
    /// How many rows were left, since they changed each time before they were deleted.
    pub left_rows: u64,
    /// How many rows were taken out of files again, since they are somebody's who was erased.
    pub erased_rows: u64,
    /// What differed.
    pub differences: Vec<Difference>,
    /// Triggers that may be why.
    pub triggers: BTreeSet<String>,
    /// Why destination tables do not have what they should.
    pub lacking_copies: Vec<String>,
    /// How long it rested, and why.
    pub rested: BTreeMap<Cause, Duration>,
    /// What there is to know.
    pub findings: Vec<Finding>,
    /// What it did faster than it may.
    pub(super) debts: Debts,
    /// When it began, as its clock runs, and how many rows of the root it has read since, or
    /// deleted of what was read before: limits count for all its attempts, plans and partitions.
    pub(super) begun: Duration,
    pub(super) read_rows: u64,
    /// How many rows, and bytes, each batch has that it wrote and that counts, by run and number.
    written: BTreeMap<(String, u32), (u64, u64)>,
}

/// How many plans one run makes at most, where tables change under it.
pub(super) const PLANS_MAX: u32 = 3;

impl Archiving<'_> {
    /// Carries out a run, or goes on with the one that was interrupted.
    ///
    /// It may be dropped, or killed, at any moment.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) when rows could be lost;
    /// [`Corrupt`](ErrorKind::Corrupt) when a file is not what was written: no row is deleted then.
    pub async fn run(&self) -> Result<RunReport> {
        let mut report = RunReport { begun: self.world.clock.elapsed(), ..RunReport::default() };
        let done = Box::pin(self.attempts(&mut report)).await;
        self.say_stopped(&report, done.as_ref().err()).await;
        done.map(|()| report)
    }

    async fn attempts(&self, report: &mut RunReport) -> Result<()> {
        let mut attempt = 1;
        loop {
            let error = match Box::pin(self.attempt(report)).await {
                // Whoever paused it wants nothing to be done.
                Ok(quit @ Quit::Paused(_)) => {
                    report.quit = quit;
                    return Ok(());
                }
                Ok(quit) => {
                    // The same where it stops for another reason, as when its time is over.
                    if !Box::pin(control(self.place)).await?.is_paused {
                        Box::pin(self.follow_up(report)).await?;
                    }
                    // That so many rows were read moved none of them.
                    let is_kept = self.limits.keeps_source && quit == Quit::RowsMax;
                    report.quit = if is_kept { Quit::KeptSource } else { quit };
                    return Ok(());
                }
                Err(error) => error,
            };
            // What was done until then, the ledger and the manifests know.
            if !error.kind().is_transient() || attempt == ATTEMPTS_MAX {
                return Err(error);
            }
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                attempt,
                "the run begins anew"
            );
            attempt += 1;
            self.world.clock.sleep(BETWEEN_ATTEMPTS).await;
        }
    }

    /// Does what earlier runs, and whoever was killed, left to do besides rows.
    async fn follow_up(&self, report: &mut RunReport) -> Result<()> {
        // Who was erased, and came back with a restore of the database, goes again.
        let copies = self.gates.iter().filter_map(|gate| gate.copy());
        let places = std::iter::once(self.place).chain(copies);
        let places: Vec<Place> = places.cloned().collect();
        report.erased_rows = replay(&places, self.world).await?.rows;
        for copy in &places[1..] {
            // Somebody was killed between a file and its second copy.
            let holds = held(self.place).await?;
            Box::pin(catch_up(self.place, copy, self.world, &holds)).await?;
            mirror(self.place, copy).await?;
        }
        if let Copies::In(destination) = &self.place.copies {
            let mut loading = Loading { place: self.place, destination };
            report.lacking_copies = Box::pin(loading.load_all()).await?;
        }
        if self.place.keyring.is_some() {
            // Keys of files that were being written when somebody was killed.
            sweep(self.place, &Shelf::load(self.place).await?).await?;
        }
        Ok(())
    }

    async fn attempt(&self, report: &mut RunReport) -> Result<Quit> {
        // Whoever rests before anything is begun keeps nobody from the set, and no connection.
        if let Some(quit) = Work::new(self, &mut *report).resumed().await? {
            return Ok(quit);
        }
        destination::check(self.place, self.world).await?;
        let mut pruner = self.driver.rows().await?;
        pruner.lock(&self.rule.name, PATIENCE).await?;
        let mut reader = self.driver.rows().await?;
        refuse_unmeasured(&mut *reader, self.rule).await?;
        report.debts = report.debts.of_another_session();
        if let Some(whole) = reader.partitions(&self.rule.root).await? {
            let ledger = pruner.ledger(&self.rule.name).await?;
            let shelf = Shelf::load(self.place).await?;
            refuse_unreconciled(self.place, self.world, &shelf, &ledger).await?;
            report.planned_rows = 0;
            let (pruner, reader) = (&mut *pruner, &mut *reader);
            let mut parts = Parts { archiving: self, pruner, reader, report: &mut *report };
            let quit = Box::pin(parts.run(&whole)).await?;
            return Ok(if quit.is_done() { report.quit_of_nothing() } else { quit });
        }
        let root = reader.table(&self.rule.root).await?;
        let shelf = Shelf::load(self.place).await?;
        identity::check(self.place, &shelf, &root.identity).await?;
        let ledger = match pruner.ledger(&self.rule.name).await {
            // What else the role lacks is said with the statements that give it.
            Err(error) if error.kind() == ErrorKind::Denied => {
                let prepared = prepare(&mut *reader, self.rule).await?;
                return Err(prepared.admit().err().unwrap_or(error));
            }
            ledger => ledger?,
        };
        refuse_unreconciled(self.place, self.world, &shelf, &ledger).await?;
        let mut begun = shelf.unfinished().cloned();
        if let Some(run) = &begun {
            report.run = Some(run.plan.run.clone());
        }
        // These are as long as all that was ever archived.
        drop((shelf, ledger));
        let mut plans = 0;
        loop {
            // Nothing is written down of what cannot begin.
            if let Some(quit) = Work::new(self, &mut *report).quit(0) {
                return Ok(quit);
            }
            let (run, is_new) = match begun {
                Some(run) => (run, false),
                None if self.has_read_enough(report) => return Ok(Quit::RowsMax),
                None => match self.plan(&mut *reader, report).await? {
                    Some(plan) => (plan, true),
                    None => return Ok(report.quit_of_nothing()),
                },
            };
            report.run = Some(run.plan.run.clone());
            report.planned_rows = run.plan.rows;
            let (rows, bytes) = (run.plan.rows, run.plan.bytes);
            self.witness.see(&Step::Planned { rows, bytes });
            if !self.limits.keeps_source {
                pruner.open_ledger().await?;
            }
            let mut work = Work::new(self, &mut *report);
            let quit = work.carry_out(&mut *pruner, &mut *reader, run).await?;
            plans += u32::from(is_new);
            // What was continued may leave newer rows for a run of its own, and tables that
            // changed amid a run leave the rest of them.
            let is_through = is_new && !work.is_outdated || plans == PLANS_MAX;
            if is_through || quit != Quit::Finished {
                return Ok(quit);
            }
            begun = Shelf::load(self.place).await?.unfinished().cloned();
        }
    }

    /// Whether it has read as many rows as wanted.
    pub(super) fn has_read_enough(&self, report: &RunReport) -> bool {
        self.limits.rows_max.is_some_and(|max| report.read_rows >= max)
    }

    /// Decides what is moved, and writes it down. `None` when nothing is selected.
    async fn plan(&self, reader: &mut dyn Rows, report: &mut RunReport) -> Result<Option<Shelved>> {
        let mut prepared = prepare(reader, self.rule).await?;
        heed_erasures(self.place, self.rule, &mut prepared, None).await?;
        // What was told of files that were mended counts, too.
        report.findings.retain(|one| one.subject == "file");
        report.findings.extend_from_slice(&prepared.findings);
        prepared.admit()?;
        if prepared.estimate.rows == 0 {
            return Ok(None);
        }
        let id = self.place.new_run(self.world).await?;
        let plan = new_plan(self.rule, &prepared, id, self.world.clock.now());
        self.place.write(&plan.run, Sheet::Plan, &plan).await?;
        Ok(Some(Shelved::begun(plan)))
    }
}

impl RunReport {
    /// Why it stopped, in a word for programs.
    pub fn word(&self) -> &'static str {
        match &self.quit {
            Quit::Finished if self.left_rows > 0 => "rows-left",
            Quit::Finished => "finished",
            Quit::NothingSelected => "nothing-selected",
            Quit::RowsMax => "rows-max",
            Quit::OutOfTime => "out-of-time",
            Quit::Closed(_) => "window-closed",
            Quit::Gate(_) => "gate",
            Quit::KeptSource => "kept-source",
            Quit::Critical(_) => "critical",
            Quit::Paused(_) => "paused",
            Quit::Rested(_) => "rested",
        }
    }

    /// Why it stopped, in a few words.
    pub fn words(&self) -> String {
        match (&self.quit, self.left_rows) {
            (Quit::Finished, 1..) => self.why_left(),
            (quit, _) => quit.words(),
        }
    }

    /// Counts a batch that was written.
    pub(super) fn count(&mut self, batch: &Batch) {
        let (rows, bytes) = (batch.rows(), batch.file_bytes());
        self.exported_rows += rows;
        self.file_bytes += bytes;
        self.written.insert((batch.run.clone(), batch.number), (rows, bytes));
    }

    /// Whether it wrote a batch, and not an earlier run.
    pub(super) fn has_written(&self, batch: &Batch) -> bool {
        self.written.contains_key(&(batch.run.clone(), batch.number))
    }

    /// Counts what a batch became: another one, or none. What an earlier run wrote was not counted.
    pub(super) fn recount(&mut self, batch: &Batch, now: Option<&Batch>) {
        let before = self.written.remove(&(batch.run.clone(), batch.number));
        let Some((rows, bytes)) = before else { return };
        self.exported_rows -= rows;
        self.file_bytes -= bytes;
        if let Some(now) = now {
            self.count(now);
        }
    }

    /// Why rows were left.
    pub(super) fn why_left(&self) -> String {
        let why = "rows were left that kept changing, or that others hold; the others are moved";
        match may_be(&self.triggers) {
            Some(cause) => format!("{why}; {cause}"),
            None => why.to_owned(),
        }
    }

    /// A run that finds nothing more after it did something is finished.
    fn quit_of_nothing(&self) -> Quit {
        if self.run.is_some() { Quit::Finished } else { Quit::NothingSelected }
    }
}

/// What may be why rows of a set are others amid their deletion than before, where it has triggers.
pub(super) fn may_be(triggers: &BTreeSet<String>) -> Option<String> {
    let named: Vec<&str> = triggers.iter().map(String::as_str).collect();
    let named = named.join(", ");
    (!named.is_empty()).then(|| format!("a trigger on deletions may have changed them: {named}"))
}

pub(super) fn new_plan(
    rule: &ArchiveRule,
    prepared: &Prepared,
    run: String,
    now: DateTime<Utc>,
) -> Plan {
    Plan {
        format_version: DOCUMENT_FORMAT,
        run,
        set: rule.name.clone(),
        made: prepared.at,
        cutoff: prepared.cutoff,
        selects: rule.selects.clone(),
        predicate: prepared.set.predicate.clone(),
        members: Plan::members_of(&prepared.set),
        derived: prepared.set.derived.clone(),
        part: None,
        format: rule.format,
        // Of two clocks that disagree, the later one: what is kept too long can still go.
        expire: rule.expire(now.max(prepared.at)),
        lookup: rule.lookup.clone(),
        rows: prepared.estimate.rows,
        bytes: prepared.estimate.bytes,
    }
}

/// Refuses to archive rows a second time that live again after a restore, before somebody has
/// looked at them. Those that are gone again are read from the archive again.
async fn refuse_unreconciled(
    place: &Place,
    world: &World,
    shelf: &Shelf,
    ledger: &[LedgerEntry],
) -> Result<()> {
    let overlap = compare(shelf, ledger)?;
    refuse_unknown(place, &overlap)?;
    let known = hidden(place).await?;
    // A partition that was taken out, and not dropped yet, has its rows whatever the ledger says.
    let open = shelf.runs.iter().filter(|run| run.end.is_none() && run.plan.whole().is_some());
    let open: Vec<&str> = open.map(|run| &*run.plan.run).collect();
    let news = overlap.live.iter().filter(|live| !known.has(live) && !open.contains(&&*live.run));
    let rows: Vec<u64> = news.map(|live| live.rows).collect();
    if rows.is_empty() {
        return write_down(place, world, &overlap.live).await;
    }
    Err(Error::new(ErrorKind::Refused, code::LEDGER, "go on with an archive set")
        .with("set", place.set())
        .with("slices", rows.len())
        .with("rows", rows.iter().sum::<u64>())
        .why("archived rows live in their tables again, as after a restore to an earlier time")
        .next(format!("stillpoint archive reconcile {}", place.set())))
}
