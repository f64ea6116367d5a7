//! `stillpoint plan` and `apply`: what a changed configuration would do, and doing it.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    super::{
        answer::Answer,
        config::{files, reach},
        exit,
        open::Opened,
        page::{Page, Tone, printable},
        retention::Keeping,
        session::Session,
        units,
    },
    applied::{self, Document, Held},
    desk::Desk,
    fleet::{self, Seen},
};
use crate::{
    config::Config,
    policy::{CopyRule, Policy, State, Verdict},
    repository::Repository,
};

/// What `apply` is told.
#[derive(Debug, Args)]
pub(crate) struct ApplyOptions {
    /// Accept that backups expire sooner than promised until now.
    #[arg(long)]
    accept_expire: bool,
    /// Apply only what this plan showed.
    #[arg(long, value_name = "PLAN")]
    plan: Option<String>,
}

#[derive(Debug, Serialize)]
struct PlanAnswer {
    /// What tells the configuration from others; `apply --plan` takes it.
    plan: String,
    changes: Vec<Change>,
    /// Whether backups may go sooner than promised until now.
    shortens_retention: bool,
    applied: bool,
}

/// Something that would be different.
#[derive(Debug, Serialize)]
struct Change {
    /// `added`, `removed`, `changed`, or `warning`.
    kind: &'static str,
    what: String,
    before: Option<String>,
    after: Option<String>,
    /// What follows from it.
    consequences: Vec<String>,
}

impl Change {
    fn new(kind: &'static str, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { kind, what, before: None, after: None, consequences: Vec::new() }
    }
}

impl Answer for PlanAnswer {
    const SCHEMA: &'static str = "plan/1";

    fn write(&self, page: &mut Page<'_>) {
        for change in &self.changes {
            let (sign, tone) = match change.kind {
                "added" => ("+", Tone::Good),
                "removed" => ("-", Tone::Warning),
                "changed" => ("~", Tone::Strong),
                _ => ("!", Tone::Warning),
            };
            let mut line = format!("{} {}", page.paint(tone, sign), printable(&change.what));
            if change.before.is_some() || change.after.is_some() {
                let said = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
                let pair = format!("   {} -> {}", said(&change.before), said(&change.after));
                line += &printable(&pair);
            }
            page.line(line);
            for consequence in &change.consequences {
                page.line(format!("    {}", printable(consequence)));
            }
        }
        match (self.changes.len(), self.applied) {
            (_, true) => page.line(format!("Applied {}.", self.plan)),
            (0, false) => page.line("Nothing would change."),
            (_, false) => {
                page.line(format!("Plan {}. Nothing was changed.", self.plan));
                let more = if self.shortens_retention { " --accept-expire" } else { "" };
                page.line(format!("next: stillpoint apply --plan {}{more}", self.plan));
            }
        }
    }
}

/// Shows what would change. Ends with 10 if anything would.
pub(crate) async fn plan(session: &Session) -> Result<u8> {
    let desk = Desk::open(session).await?;
    let (answer, _) = work_out(session, &desk).await?;
    let status = if answer.changes.is_empty() { exit::OK } else { exit::CHANGES };
    session.answer(&answer)?;
    Ok(status)
}

/// Makes the configuration the one that holds.
pub(crate) async fn apply(session: &Session, options: ApplyOptions) -> Result<u8> {
    let desk = Desk::open(session).await?;
    let (mut answer, before) = work_out(session, &desk).await?;
    if let Some(plan) = options.plan.filter(|plan| *plan != answer.plan) {
        return Err(Error::new(ErrorKind::Refused, code::PLAN, "apply what was planned")
            .with("planned", plan)
            .with("now", &answer.plan)
            .why("the configuration, or what held, has changed since")
            .next("stillpoint plan"));
    }
    if answer.shortens_retention && !options.accept_expire {
        let shown = answer.changes.iter().flat_map(|change| &change.consequences);
        let error = Error::new(ErrorKind::Refused, code::PLAN, "apply a shorter retention");
        let error = shown.fold(error, |error, consequence| error.with("then", consequence));
        return Err(error
            .why("backups would expire that are promised to be kept until now")
            .next("stillpoint plan")
            .next(format!("stillpoint apply --plan {} --accept-expire", answer.plan)));
    }
    let document = Document::next(session, &files::sources(session)?, before.as_ref());
    let (digest, text) = document.write()?;
    let who = session.user();
    let held = before.as_ref().map(|held| held.digest.as_str());
    if !desk.state.set_applied(held, &digest, &text, &who).await? {
        return Err(Error::new(ErrorKind::Busy, code::PLAN, "apply the configuration")
            .why("somebody else applied another one meanwhile")
            .next("stillpoint plan"));
    }
    answer.applied = true;
    session.answer(&answer)?;
    Ok(exit::OK)
}

async fn work_out(session: &Session, desk: &Desk) -> Result<(PlanAnswer, Option<Held>)> {
    let before = applied::held(session, &desk.state).await?;
    let document = Document::next(session, &files::sources(session)?, before.as_ref());
    let (plan, _) = document.write()?;
    let nothing = Value::Object(serde_json::Map::new());
    let old = before.as_ref().map_or(nothing, |held| held.effective(session));
    let new = desk.configured.effective();
    let mut changes = differences(&old, &new);
    first_fulls(session, &desk.configured.config, &mut changes).await;
    let mut shortens_retention = false;
    if let Some(held) = &before {
        let seen = fleet::seen(session, held).await;
        let config = &desk.configured.config;
        let told = consequences(session, held, config, &seen).await?;
        for (what, change) in told {
            shortens_retention |= change.is_shorter;
            let place = changes.iter_mut().find(|known| known.what == what);
            if let Some(known) = place {
                known.consequences.extend(change.told);
            } else {
                changes.push(Change { consequences: change.told, ..Change::new("warning", what) });
            }
        }
    }
    Ok((PlanAnswer { plan, changes, shortens_retention, applied: false }, before))
}

/// What two configurations say differently: things by their names, and settings of those that stay.
fn differences(old: &Value, new: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    for section in keys(old, new) {
        let (old, new) = (old.get(&section), new.get(&section));
        let is_named = matches!(&*section, "repository" | "policy" | "database");
        if !is_named {
            compare(&section, old, new, &mut changes);
            continue;
        }
        let empty = Value::Null;
        let (old, new) = (old.unwrap_or(&empty), new.unwrap_or(&empty));
        for name in keys(old, new) {
            let what = format!("{section} {name}");
            match (old.get(&name), new.get(&name)) {
                (None, Some(_)) => changes.push(Change::new("added", what)),
                (Some(_), None) => changes.push(removed(&section, what)),
                (Some(old), Some(new)) => {
                    for key in keys(old, new) {
                        let path = format!("{what}: {key}");
                        compare(&path, old.get(&key), new.get(&key), &mut changes);
                    }
                }
                (None, None) => {}
            }
        }
    }
    changes
}

fn removed(section: &str, what: String) -> Change {
    let mut change = Change::new("removed", what);
    if section == "database" {
        change.consequences.push(
            "it is retired: what there is is kept as its policy says, and its last backup for ever"
                .to_owned(),
        );
    }
    change
}

fn compare(what: &str, old: Option<&Value>, new: Option<&Value>, changes: &mut Vec<Change>) {
    if old == new {
        return;
    }
    let told = |value: Option<&Value>| value.map(ToString::to_string);
    let (before, after) = (told(old), told(new));
    changes.push(Change { before, after, ..Change::new("changed", what) });
}

fn keys(old: &Value, new: &Value) -> BTreeSet<String> {
    let of = |value: &Value| value.as_object().cloned().unwrap_or_default().into_iter();
    of(old).chain(of(new)).map(|(key, _)| key).collect()
}

/// What follows for one thing.
#[derive(Default)]
struct Consequence {
    told: Vec<String>,
    is_shorter: bool,
}

impl Consequence {
    fn shorten(&mut self, going: Going) {
        self.is_shorter = true;
        self.told.push(going.told);
    }
}

/// What follows for the backups that there are.
async fn consequences(
    session: &Session,
    held: &Held,
    new: &Config,
    seen: &Seen,
) -> Result<BTreeMap<String, Consequence>> {
    let mut all: BTreeMap<String, Consequence> = BTreeMap::new();
    let active = held.config.databases.keys().map(|name| (&held.config, &**name));
    let active = active.map(|(config, name)| (config, name, State::Active));
    let former = held.former().into_iter().map(|(config, name)| (config, name, State::Retired));
    for (old, name, state) in active.chain(former) {
        let Some(before) = side(old, name, state) else { continue };
        let after = match side(new, name, State::Active) {
            Some(after) => after,
            // Taken out, it is kept as one that is retired.
            None => Keeping { state: State::Retired, ..before },
        };
        let what = format!("database {name}");
        if before.database.repository != after.database.repository {
            let told = format!(
                "its backups in {} stay there, and are looked after no more",
                before.database.repository
            );
            all.entry(what.clone()).or_default().told.push(told);
        }
        let rto = before.policy.rto.filter(|_| before.state == State::Active);
        if after.state == State::Active && after.policy.rto != rto {
            let is_shared = before.database.policy == after.database.policy;
            let policy = || format!("policy {}: rto", after.policy.name);
            let place = if is_shared && rto == before.policy.rto { policy() } else { what.clone() };
            let told = slow_drill(&with_drills(seen, after), name, after.policy).await;
            if let Some(told) = told {
                all.entry(place).or_default().told.push(told);
            }
        }
        shorter_copies(session, seen, (before, after), &mut all).await?;
        let is_less = !after.policy.keeps_as_much_as(before.policy)
            || before.policy.keep.event.is_some() && before.subjects() != after.subjects();
        let is_ending = before.state == State::Active && after.state == State::Retired;
        if !is_less && !is_ending {
            continue;
        }
        let going = match seen.repositories.get(&before.database.repository) {
            Some(repository) => expiring(session, repository, (before, after)).await?,
            None => Going::unknown(before),
        };
        // Who is retired keeps what the calendar says; only what goes has to be accepted.
        if going.is_nothing || is_ending && !is_less && going.count == Some(0) {
            continue;
        }
        let is_shared = before.database.policy == after.database.policy && !is_ending;
        let at = if is_shared { format!("policy {}", after.policy.name) } else { what };
        all.entry(format!("{at}: keeps less")).or_default().shorten(going);
    }
    Ok(all)
}

/// Where drills of a database may be written down.
fn with_drills<'a>(seen: &'a Seen, of: Keeping<'_>) -> Vec<&'a Repository> {
    let copies = of.policy.copies.iter().map(|rule| &rule.to);
    let names = copies.chain([&of.database.repository]);
    names.filter_map(|name| seen.repositories.get(name)).map(|one| &**one).collect()
}

/// What is to be said of a promise that the newest drill that passed did not keep.
async fn slow_drill(
    repositories: &[&Repository],
    database: &str,
    policy: &Policy,
) -> Option<String> {
    let promised = policy.rto?;
    let mut newest = None;
    for repository in repositories {
        // What cannot be read is told by whoever needs it.
        let Ok(history) = repository.history().await else { continue };
        let own = history.drills().filter(|drill| drill.passed && drill.database == database);
        newest = newest.max(own.map(|drill| (drill.finished_at, drill.rto_ms)).max());
    }
    let took = newest.and_then(|(_, rto_ms)| rto_ms).map(Duration::from_millis);
    let took = took.filter(|took| promised < *took).map(units::duration)?;
    let promised = units::duration(promised);
    Some(format!(
        "{database}: the last drill took {took}, and {promised} are promised: more than was \
         measured"
    ))
}

/// What follows for the copies of a database. One that is taken out of a policy stays where it is.
async fn shorter_copies(
    session: &Session,
    seen: &Seen,
    (before, after): (Keeping<'_>, Keeping<'_>),
    all: &mut BTreeMap<String, Consequence>,
) -> Result<()> {
    for old in &before.policy.copies {
        let same = |rule: &&CopyRule| rule.name == old.name && rule.to == old.to;
        let Some(new) = after.policy.copies.iter().find(same) else {
            let told = format!("its copy {} stays in {}, and gets nothing more", old.name, old.to);
            let place = format!("database {}", before.database.name);
            all.entry(place).or_default().told.push(told);
            continue;
        };
        if after.policy.copies_as_much_as(new, (before.policy, old)) {
            continue;
        }
        let before = Keeping { copy: Some(old), ..before };
        let after = Keeping { copy: Some(new), ..after };
        let going = match seen.repositories.get(&old.to) {
            Some(repository) => expiring(session, repository, (before, after)).await?,
            None => Going::unknown(before),
        };
        if going.is_nothing {
            continue;
        }
        let place = format!("policy {}: copy {} keeps less", after.policy.name, old.name);
        all.entry(place).or_default().shorten(going);
    }
    Ok(())
}

fn side<'a>(config: &'a Config, name: &str, state: State) -> Option<Keeping<'a>> {
    let database = config.databases.get(name)?;
    Some(Keeping { state, ..Keeping::of(config, database)? })
}

/// What goes sooner than promised until now.
struct Going {
    /// How many backups go at the next expiry that would have stayed, as far as that is known.
    count: Option<usize>,
    /// Whether there is nothing that could go, now or later.
    is_nothing: bool,
    /// The same for people.
    told: String,
}

impl Going {
    fn unknown(keeping: Keeping<'_>) -> Self {
        let (name, repository) = (&keeping.database.name, keeping.repository());
        let why = format!("what expires is not known: repository {repository} is not open");
        Self { count: None, is_nothing: false, told: format!("{name}: {why}") }
    }
}

async fn expiring(
    session: &Session,
    repository: &Repository,
    (before, after): (Keeping<'_>, Keeping<'_>),
) -> Result<Going> {
    let name = &before.database.name;
    let holdings = repository.stock(name).await?;
    let now = session.world.clock.now();
    let kept = |keeping: Keeping<'_>| -> BTreeSet<String> {
        let verdicts = keeping.decide(&holdings, now).verdicts.into_iter();
        verdicts.filter(Verdict::is_kept).map(|verdict| verdict.id).collect()
    };
    let (before_ids, after_ids) = (kept(before), kept(after));
    let gone: Vec<&String> = before_ids.difference(&after_ids).collect();
    let of_copy = before.copy.map(|copy| format!(" of copy {}", copy.name)).unwrap_or_default();
    let told = if gone.is_empty() {
        format!("{name}: nothing{of_copy} expires at once, and what there is does sooner")
    } else {
        let history = repository.history().await?;
        let commits = gone.iter().filter_map(|id| history.commit(id));
        let bytes: u64 = commits.map(|committed| committed.commit.stored_bytes).sum();
        let count = units::count(gone.len() as u64, "backup", "backups");
        let held = holdings.held().len();
        let held = if held > 0 { format!("; {held} are held and stay") } else { String::new() };
        format!("{name}: will expire {count}{of_copy}, {}{held}", units::bytes(bytes))
    };
    Ok(Going { count: Some(gone.len()), is_nothing: before_ids.is_empty(), told })
}

/// Says of added databases when they are backed up first, as far as that is known.
async fn first_fulls(session: &Session, config: &Config, changes: &mut [Change]) {
    let now = session.world.clock.now();
    let mut opened: BTreeMap<&str, Result<Opened>> = BTreeMap::new();
    for change in changes.iter_mut().filter(|change| change.kind == "added") {
        let name = change.what.strip_prefix("database ");
        let Some(database) = name.and_then(|name| config.databases.get(name)) else { continue };
        let Some(keeping) = Keeping::of(config, database) else { continue };
        if config.is_observed(database) {
            change.consequences.push("it is only watched: nothing is written for it".to_owned());
            continue;
        }
        let place = keeping.repository();
        if let Entry::Vacant(vacant) = opened.entry(place) {
            vacant.insert(reach::repository(session, config, place).await);
        }
        let backups = match opened.get(place) {
            Some(Ok(repository)) => repository.stock(&database.name).await.map(|all| all.backups),
            Some(Err(error)) if error.code() == code::NO_REPOSITORY => Ok(Vec::new()),
            _ => continue,
        };
        let Ok(backups) = backups else { continue };
        change.consequences.push(match (backups.len(), keeping.policy.closed_until(now)) {
            (0, None) => "first full due at once".to_owned(),
            (0, Some(_)) => "first full due once its blackout ends".to_owned(),
            (many, _) => {
                let told = units::count(many as u64, "backup", "backups");
                format!("{told} of it there already, which its policy keeps or lets go")
            }
        });
        if let Some(Ok(repository)) = opened.get(place) {
            let slow = slow_drill(&[&**repository], &database.name, keeping.policy).await;
            change.consequences.extend(slow);
        }
    }
}
