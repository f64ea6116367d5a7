//! `stillpoint report retention`: what is kept of every database, by what promise, and until when.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use clap::Args;
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    super::{
        answer::{Answer, Stamp},
        choice::Labels,
        config::reach,
        open::Opened,
        page::{Page, Tone, printable},
        serve::{Promises, outbox, promises},
        session::Session,
        units,
    },
    keeping::{End, Keeping},
};
use crate::{
    config::{Config, Database},
    coordinator::{HandOff, Terms, told},
    policy::{CopyRule, Event, EventEnd, EventRule, Keep, Logs, Proof, State, Until, Verdict},
    repository::{
        Holdings,
        custody::{Held, HeldPart},
    },
};

/// What `report retention` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this database [default: all that are configured, or were].
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
}

#[derive(Debug, Serialize)]
struct RetentionAnswer {
    now: Stamp,
    databases: Vec<Kept>,
}

/// What is kept of a database in one place.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Kept {
    pub(crate) database: String,
    repository: String,
    /// The copy that it is about; nothing for the original.
    pub(crate) copy: Option<String>,
    /// `active` or `retired`.
    pub(crate) state: &'static str,
    policy: String,
    zone: String,
    rules: Vec<Promised>,
    event: Option<EventKept>,
    /// What there is; nothing where nobody could look.
    holdings: Option<There>,
    /// Why nobody could look.
    pub(crate) problem: Option<String>,
}

/// One thing that is said about keeping.
#[derive(Clone, Debug, Serialize)]
struct Promised {
    /// A word that stays the same, as `explain retention` says it of backups.
    rule: &'static str,
    count: Option<u32>,
    seconds: Option<u64>,
    /// The same for people.
    says: String,
}

impl Kept {
    /// What is promised, and what there is, in words.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = self.rules.iter().map(|rule| rule.says.clone()).collect();
        words.extend(self.event.iter().map(|event| event.says.clone()));
        if let Some(there) = &self.holdings {
            words.push(format!("now {}", units::count(there.backups, "backup", "backups")));
            words.extend(there.holds.iter().map(|hold| format!("held: {}", hold.says)));
        }
        words.extend(self.problem.clone());
        words
    }
}

/// What is kept until so long after an event.
#[derive(Clone, Debug, Serialize)]
struct EventKept {
    event: String,
    /// How long after it.
    after: String,
    /// The label that says whom it concerns, or `database`.
    label: String,
    subjects: Vec<Whose>,
    /// When it ends, whoever is the last; nothing where a day is not known.
    ends: Option<Stamp>,
    /// The same for people.
    says: String,
}

/// When it happened to somebody.
#[derive(Clone, Debug, Serialize)]
struct Whose {
    subject: String,
    on: Option<NaiveDate>,
    ends: Option<Stamp>,
}

/// What there is.
#[derive(Clone, Debug, Serialize)]
struct There {
    backups: u64,
    /// How many were read back; nothing of what was handed over.
    verified: Option<u64>,
    /// The state of the oldest.
    oldest: Option<Stamp>,
    /// The state of the newest.
    newest: Option<Stamp>,
    /// What they added to the repository; nothing of what was handed over.
    bytes: Option<u64>,
    /// How many nothing keeps: they go with the next expiry.
    may_go: Option<u64>,
    /// What goes first.
    next: Option<Going>,
    /// From when on captured log is needed.
    log_from: Option<Stamp>,
    holds: Vec<OnHold>,
}

/// A backup that goes.
#[derive(Clone, Debug, Serialize)]
struct Going {
    backup: String,
    at: Stamp,
    until: End,
}

/// What somebody holds.
#[derive(Clone, Debug, Serialize)]
struct OnHold {
    id: String,
    case: String,
    /// The backup that is held, or `null`.
    backup: Option<String>,
    /// The stretch that is held, or `null`.
    from: Option<Stamp>,
    to: Option<Stamp>,
    /// The same for people.
    says: String,
}

impl Answer for RetentionAnswer {
    const SCHEMA: &'static str = "report.retention/1";

    fn write(&self, page: &mut Page<'_>) {
        if self.databases.is_empty() {
            page.line("No database is configured.");
        }
        for (place, kept) in self.databases.iter().enumerate() {
            if place > 0 {
                page.blank();
            }
            kept.write(page);
        }
    }
}

impl Kept {
    fn write(&self, page: &mut Page<'_>) {
        let name = match &self.copy {
            Some(copy) => format!("{} -> {copy}", self.database),
            None => self.database.clone(),
        };
        let name = page.paint(Tone::Strong, &printable(&name));
        let Self { state, policy, repository, .. } = self;
        page.line(format!(
            "{name}  {state}, policy {}, in {}",
            printable(policy),
            printable(repository)
        ));
        let mut facts: Vec<(&str, String)> = Vec::new();
        let mut add = |label, says: String| facts.push((label, says));
        for (place, rule) in self.rules.iter().enumerate() {
            add(if place == 0 { "keeps" } else { "" }, rule.says.clone());
        }
        if let Some(event) = &self.event {
            add("event", event.says.clone());
        }
        if let Some(there) = &self.holdings {
            there.tell(page, &mut add);
        }
        page.facts(2, &facts);
        if let Some(problem) = &self.problem {
            page.line(format!("  {}", page.paint(Tone::Bad, &printable(problem))));
        }
    }
}

impl There {
    fn tell(&self, page: &Page<'_>, add: &mut dyn FnMut(&'static str, String)) {
        for hold in &self.holds {
            add("held", hold.says.clone());
        }
        let mut backups = vec![units::count(self.backups, "backup", "backups")];
        backups.extend(self.verified.map(|count| format!("{} verified", units::grouped(count))));
        backups.extend(self.bytes.map(units::bytes));
        add("now", backups.join(", "));
        let time = |at: Option<Stamp>| at.map(|at| page.time(at.0));
        if let Some(oldest) = time(self.oldest) {
            add("oldest", oldest);
        }
        if let Some(newest) = time(self.newest) {
            add("newest", newest);
        }
        if let Some(next) = &self.next {
            let may_go = self.may_go.filter(|count| *count > 1);
            let more = may_go.map(|count| format!(", as {} may", units::grouped(count)));
            let says = format!("{}: {}{}", next.backup, next.until.says, more.unwrap_or_default());
            add("next", says);
        }
        if let Some(from) = time(self.log_from) {
            add("log", format!("needed from {from} on"));
        }
    }
}

/// Tells it.
pub(crate) async fn run(session: &Session, options: Options) -> Result<()> {
    let promises = promises(session).await?;
    let mut shelf = Shelf::new(session);
    let labelled = labelled(&options.labels, &promises, shelf.now)?;
    let (mut databases, failures) = kept(&mut shelf, &promises).await;
    if let Some(names) = labelled {
        databases.retain(|kept| names.contains(&kept.database));
    }
    if let Some(name) = &options.database {
        databases.retain(|kept| kept.database == *name);
        if databases.is_empty() {
            return Err(Error::new(ErrorKind::Missing, code::CONFIG_NAME, "find the database")
                .with("given", name)
                .next("stillpoint report retention"));
        }
    }
    session.answer(&RetentionAnswer { now: Stamp(session.world.clock.now()), databases })?;
    failures.into_iter().next().map_or(Ok(()), Err)
}

/// The names of databases that were chosen by their labels, former ones among them.
fn labelled(
    labels: &Labels,
    promises: &Promises,
    now: DateTime<Utc>,
) -> Result<Option<BTreeSet<String>>> {
    if labels.labels.is_none() {
        return Ok(None);
    }
    let all = promises.held.databases(&promises.marks, now).into_iter();
    let all: BTreeMap<String, &Database> =
        all.map(|(_, database, _)| (database.name.clone(), database)).collect();
    let chosen = labels.of(&all, None)?;
    Ok(Some(chosen.into_iter().map(|database| database.name.clone()).collect()))
}

/// What is kept of every database in every place, and why nobody could look into others.
pub(crate) async fn kept(shelf: &mut Shelf<'_>, promises: &Promises) -> (Vec<Kept>, Vec<Error>) {
    let (mut kept, mut failures) = (Vec::new(), Vec::new());
    for (config, database, state) in promises.held.databases(&promises.marks, shelf.now) {
        let Some(keeping) = Keeping::of(config, database) else { continue };
        let keeping = Keeping { state, ..keeping };
        for keeping in std::iter::once(keeping).chain(keeping.copies()) {
            let mut one = Kept::of(&keeping);
            match shelf.look(config, &keeping).await {
                Ok(seen) => {
                    one.event = event(&keeping, &seen.events);
                    one.holdings = Some(seen.there);
                }
                Err(error) if keeping.copy.is_some() && error.code() == code::NO_REPOSITORY => {
                    one.problem = Some("no copy was made there yet".to_owned());
                }
                Err(error) => {
                    one.problem = Some(told(&error));
                    failures.push(error.with("repository", keeping.repository()));
                }
            }
            kept.push(one);
        }
    }
    (kept, failures)
}

impl Kept {
    fn of(keeping: &Keeping<'_>) -> Self {
        Self {
            database: keeping.database.name.clone(),
            repository: keeping.repository().to_owned(),
            copy: keeping.copy.map(|copy| copy.name.clone()),
            state: if keeping.state == State::Active { "active" } else { "retired" },
            policy: keeping.policy.name.clone(),
            zone: keeping.policy.zone.to_string(),
            rules: rules(keeping),
            event: None,
            holdings: None,
            problem: None,
        }
    }
}

/// What is promised, rule by rule.
fn rules(keeping: &Keeping<'_>) -> Vec<Promised> {
    let rules = keeping.rules();
    let mut all = Vec::new();
    if rules.window > Duration::ZERO {
        let has_log = keeping.policy.logs != Logs::Never;
        let what = if has_log { "every instant" } else { "every one, and no log," };
        all.push(Promised {
            rule: "window",
            count: None,
            seconds: Some(rules.window.as_secs()),
            says: format!("{what} of the last {}", units::duration(rules.window)),
        });
    }
    let mut add = |rule, count: Option<u32>, says: String| {
        all.push(Promised { rule, count, seconds: None, says });
    };
    let Keep { last, hourly, daily, weekly, monthly, yearly, .. } = *rules.keep;
    let newest = |count: u32| match count {
        1 => "the newest verified one".to_owned(),
        _ => format!("the newest {count} verified ones"),
    };
    if last > 0 {
        add("last", Some(last), newest(last));
    }
    for (rule, unit, count) in [
        ("hourly", "hour", hourly),
        ("daily", "day", daily),
        ("weekly", "week", weekly),
        ("monthly", "month", monthly),
        ("yearly", "year", yearly),
    ] {
        if count > 0 {
            let told = units::count(count.into(), unit, &format!("{unit}s"));
            add(rule, Some(count), format!("the first of each of the last {told} that have any"));
        }
    }
    if let Some(period) = rules.keep.every {
        add("every", None, format!("every one for {period}"));
    }
    if let Some(EventRule { after, event, subject }) = &rules.keep.event {
        add("event", None, format!("every one until {after} after {event} of {subject}"));
    }
    if rules.keep.until_acknowledged {
        add("unacknowledged", None, "every one until it is acknowledged".to_owned());
    }
    let floor = if keeping.state == State::Active { rules.floor.max(1) } else { 1 };
    add("floor", Some(floor), format!("{}, whatever happens", newest(floor)));
    all
}

/// Until when an event keeps what there is, and whose.
fn event(keeping: &Keeping<'_>, events: &[Event]) -> Option<EventKept> {
    let rules = keeping.rules();
    let rule = rules.keep.event.as_ref()?;
    let subjects = keeping.subjects();
    let of = |subjects: &[String]| rule.end(subjects, events, rules.zone);
    let subject = |name: &String| match of(std::slice::from_ref(name)) {
        EventEnd::Known { subject, on, end } => {
            Whose { subject, on: Some(on), ends: Some(Stamp(end)) }
        }
        EventEnd::Unknown(subject) => Whose { subject, on: None, ends: None },
    };
    let EventRule { after, event, subject: label } = rule;
    let whole = of(&subjects);
    let (says, ends) = match &whole {
        EventEnd::Unknown(who) if subjects.is_empty() && who == label => {
            (format!("kept for ever: no event, {event} of {label} is not known"), None)
        }
        EventEnd::Unknown(who) => {
            (format!("kept for ever: no event, {event} of {who} is not known"), None)
        }
        EventEnd::Known { subject, on, end } => {
            let day = end.with_timezone(&rules.zone).format("%Y-%m-%d");
            let says = format!("{after} after {event} of {subject} on {on}: kept until {day}");
            (says, Some(Stamp(*end)))
        }
    };
    let whom = if subjects.is_empty() && ends.is_some() {
        std::slice::from_ref(label).iter().map(subject).collect()
    } else {
        subjects.iter().map(subject).collect()
    };
    Some(EventKept {
        event: event.clone(),
        after: after.to_string(),
        label: label.clone(),
        subjects: whom,
        ends,
        says,
    })
}

/// What was found in a place.
struct Seen {
    events: Vec<Event>,
    there: There,
}

/// Repositories that are open, by name.
pub(crate) struct Shelf<'a> {
    session: &'a Session,
    pub(crate) now: DateTime<Utc>,
    pub(crate) open: BTreeMap<String, Arc<Opened>>,
}

impl<'a> Shelf<'a> {
    /// Nothing is open yet.
    pub(crate) fn new(session: &'a Session) -> Self {
        Self { session, now: session.world.clock.now(), open: BTreeMap::new() }
    }

    /// One of them.
    pub(crate) async fn open(&mut self, config: &Config, name: &str) -> Result<Arc<Opened>> {
        if let Some(known) = self.open.get(name) {
            return Ok(Arc::clone(known));
        }
        let opened = Arc::new(reach::repository(self.session, config, name).await?);
        self.open.insert(name.to_owned(), Arc::clone(&opened));
        Ok(opened)
    }

    async fn look(&mut self, config: &Config, keeping: &Keeping<'_>) -> Result<Seen> {
        let Keeping { database, policy, copy, .. } = *keeping;
        let Some(copy) = copy else {
            let own = self.open(config, &database.repository).await?;
            let holdings = own.stock(&database.name).await?;
            return self.there(&own, keeping, holdings, BTreeMap::new()).await;
        };
        let source = self.open(config, policy.source_of(copy, &database.repository)).await?;
        let said = source.stock(&database.name).await?;
        if config.is_handoff(&copy.to) {
            return self.handed_over(config, keeping, copy, (&source, said)).await;
        }
        let own = self.open(config, &copy.to).await?;
        let mut holdings = own.stock(&database.name).await?;
        // What people said is known where it is copied from, whenever anything was copied last.
        holdings.holds.extend(said.holds.iter().cloned());
        holdings.events.clone_from(&said.events);
        self.there(&own, keeping, holdings, open_holds(&source, &database.name).await?).await
    }

    async fn there(
        &self,
        own: &Opened,
        keeping: &Keeping<'_>,
        holdings: Holdings,
        said: BTreeMap<String, Held>,
    ) -> Result<Seen> {
        let retention = keeping.decide(&holdings, self.now);
        let history = own.history().await?;
        let mut holds = open_holds(own, &keeping.database.name).await?;
        holds.extend(said);
        let stored = holdings.backups.iter().filter_map(|backup| history.commit(&backup.id));
        let verdicts = &retention.verdicts;
        let verified = holdings.backups.iter().filter(|one| one.proof == Proof::Verified).count();
        let gone = verdicts.iter().filter(|verdict| !verdict.is_kept()).count();
        let there = There {
            backups: holdings.backups.len() as u64,
            verified: Some(verified as u64),
            oldest: verdicts.first().map(|verdict| Stamp(verdict.at)),
            newest: verdicts.last().map(|verdict| Stamp(verdict.at)),
            bytes: Some(stored.map(|committed| committed.commit.stored_bytes).sum()),
            may_go: Some(gone as u64),
            next: next(verdicts).map(|verdict| Going {
                backup: verdict.id.clone(),
                at: Stamp(verdict.at),
                until: End::of(verdict, keeping.policy),
            }),
            log_from: retention.log_begin().map(Stamp),
            holds: holds.into_values().map(OnHold::of).collect(),
        };
        Ok(Seen { events: holdings.events, there })
    }

    /// What lies in a folder for others.
    async fn handed_over(
        &self,
        config: &Config,
        keeping: &Keeping<'_>,
        rule: &CopyRule,
        (source, said): (&Opened, Holdings),
    ) -> Result<Seen> {
        let Keeping { database, policy, state, .. } = *keeping;
        let outbox = outbox(self.session, config, &rule.to, None);
        let outbox = outbox.ok_or_else(|| Error::bug("find the folder for others"))?;
        let (name, labels) = (&database.name, &database.labels);
        let terms = Terms { database: name, policy, rule, state, labels, source, windows: &[] };
        let look = HandOff { terms, outbox: &outbox, may_expire: false }.look(self.now).await?;
        let holds = open_holds(source, name).await?;
        let there = There {
            backups: look.backups as u64,
            verified: None,
            oldest: None,
            newest: look.newest.map(Stamp),
            bytes: None,
            may_go: None,
            next: None,
            log_from: None,
            holds: holds.into_values().map(OnHold::of).collect(),
        };
        Ok(Seen { events: said.events, there })
    }
}

/// What is held of a database, by the ids of the holds.
async fn open_holds(repository: &Opened, database: &str) -> Result<BTreeMap<String, Held>> {
    let holds = repository.holds(Some(database)).await?.into_iter();
    let open = holds.filter(|hold| hold.released.is_none());
    Ok(open.map(|hold| (hold.held.hold.clone(), hold.held)).collect())
}

/// What goes first, as far as that is known.
fn next(verdicts: &[Verdict]) -> Option<&Verdict> {
    let order = |verdict: &&Verdict| match verdict.until {
        Until::Gone(since) => (0, since),
        Until::Instant(at) | Until::Replaced(Some(at)) => (1, at),
        Until::Replaced(None) => (2, verdict.at),
        Until::Told => (3, verdict.at),
    };
    verdicts.iter().min_by_key(order)
}

impl OnHold {
    fn of(held: Held) -> Self {
        let says = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let (backup, from, to, what) = match held.of {
            HeldPart::Backup(backup) => (Some(backup.clone()), None, None, backup),
            HeldPart::Range { from, to } => {
                let end = to.map_or_else(|| "on".to_owned(), |to| format!("to {}", says(to)));
                let what = format!("from {} {end}", says(from));
                (None, Some(Stamp(from)), to.map(Stamp), what)
            }
        };
        let Held { hold: id, case, .. } = held;
        let says = format!("case {case}: {what}");
        Self { id, case, backup, from, to, says }
    }
}
