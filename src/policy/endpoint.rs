//! Endpoints that come and go: registered, found to answer, succeeded by others, gone.
//!
//! What a registry says now and what is remembered go in, what is to be remembered comes out. A
//! lease is renewed by whatever changes about a registration, and ends by our own clock: clocks of
//! those that register are never compared with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};

use super::rule::{Belongs, Rule, belongs};

/// An endpoint, and what has become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its name, which whoever registers it chooses.
    pub id: String,
    /// Who says that it is there.
    pub source: String,
    /// Where it is, such as a host and a port.
    pub target: String,
    /// What is said of it.
    pub labels: BTreeMap<String, String>,
    /// What it is to be.
    pub wanted: Wanted,
    /// How long it is there without a sign of life.
    pub ttl: Option<Duration>,
    /// What tells one sign of life from the next.
    pub sign: String,
    /// Since when it is registered.
    pub since: DateTime<Utc>,
    /// When the last sign of life was seen.
    pub renewed: DateTime<Utc>,
    /// Since when it is known to answer.
    pub active: Option<DateTime<Utc>>,
    /// Who it said that it is.
    pub identity: Option<String>,
    /// Since when it does not answer any more.
    pub silent: Option<DateTime<Utc>>,
    /// What it said instead.
    pub trouble: Option<String>,
    /// That it is to be given up, once everything on it is stored.
    pub drain: Option<Drain>,
    /// When and how it ended.
    pub end: Option<(DateTime<Utc>, End)>,
}

/// What an endpoint is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Not there yet.
    Pending,
    /// The one that is backed up, if it is the newest.
    #[default]
    Active,
    /// On its way out.
    Draining,
    /// Gone.
    Gone,
}

/// That an endpoint is to be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// When somebody asked for it.
    pub since: DateTime<Utc>,
    /// Until when it keeps its role for that.
    pub until: DateTime<Utc>,
    /// When everything was stored.
    pub done: Option<DateTime<Utc>>,
}

/// How an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Whoever registered it took it back, or another one has its role.
    Expected,
    /// Its lease ran out.
    Lost,
}

/// How far an endpoint is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It did not answer yet, or is not to be used yet.
    Pending,
    /// It is the one that is backed up.
    Active,
    /// Another one has its role, or it is being given up.
    Draining,
    /// It is gone, as was to be expected.
    GoneExpected,
    /// It is gone, and nobody said so.
    GoneLost,
}

/// What a source says of an endpoint now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Its name.
    pub id: String,
    /// Where it is.
    pub target: String,
    /// What is said of it.
    pub labels: BTreeMap<String, String>,
    /// What it is to be.
    pub wanted: Wanted,
    /// How long it is there without a sign of life.
    pub ttl: Option<Duration>,
    /// What tells one sign of life from the next; where there is nothing, each look is one.
    pub sign: Option<String>,
}

/// Everything that is remembered, by id.
pub type Registry = BTreeMap<String, Registration>;

/// What has changed about an endpoint, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The endpoint.
    pub id: String,
    /// What, in a word such as `endpoint.gone`.
    pub what: &'static str,
    /// The same in more words.
    pub detail: String,
}

/// The endpoint of a database that is backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its name.
    pub id: String,
    /// Who it said that it is.
    pub identity: Option<String>,
    /// Since when it is registered.
    pub since: DateTime<Utc>,
}

/// An endpoint that belongs to no database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unprotected {
    /// What it is called: its label `database`, or else its id.
    pub name: String,
    /// What its label `engine` says.
    pub engine: Option<String>,
    /// What is said of it.
    pub labels: BTreeMap<String, String>,
    /// Since when it is registered.
    pub since: DateTime<Utc>,
    /// Why nothing is backed up there, for people.
    pub why: String,
}

impl Sighting {
    /// Whether a target names a password: everybody may read what is registered.
    pub fn names_password(target: &str) -> bool {
        let place = target.split_once("://").map_or(target, |(_, rest)| rest);
        let place = place.split(['/', '?', '#']).next().unwrap_or_default();
        let user = place.rsplit_once('@').map(|(user, _)| user);
        user.is_some_and(|user| user.contains(':')) || target.contains("password=")
    }
}

impl Wanted {
    const NAMES: [(&str, Self); 4] = [
        ("pending", Self::Pending),
        ("active", Self::Active),
        ("draining", Self::Draining),
        ("gone", Self::Gone),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, wanted)| *wanted == self).map_or("active", |(name, _)| name)
    }

    /// The one of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(own, _)| *own == name).map(|(_, wanted)| *wanted)
    }
}

impl End {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Expected => "expected",
            Self::Lost => "lost",
        }
    }
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Pending, Self::Active, Self::Draining, Self::GoneExpected, Self::GoneLost];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::GoneExpected => "gone(expected)",
            Self::GoneLost => "gone(lost)",
        }
    }
}

impl Registration {
    /// A new one.
    pub fn new(sighting: &Sighting, source: &str, now: DateTime<Utc>) -> Self {
        Self {
            id: sighting.id.clone(),
            source: source.to_owned(),
            target: sighting.target.clone(),
            labels: sighting.labels.clone(),
            wanted: sighting.wanted,
            ttl: sighting.ttl,
            sign: sighting.sign.clone().unwrap_or_default(),
            since: now,
            renewed: now,
            active: None,
            identity: None,
            silent: None,
            trouble: None,
            drain: None,
            end: None,
        }
    }

    /// Whether it is the same, but for signs of life.
    pub fn is_as(&self, other: &Self) -> bool {
        let still = |one: &Self| Self { sign: String::new(), renewed: one.since, ..one.clone() };
        still(self) == still(other)
    }

    /// Until when it is there without another sign of life.
    pub fn leased_until(&self) -> Option<DateTime<Utc>> {
        let ttl = TimeDelta::from_std(self.ttl?).ok()?;
        self.renewed.checked_add_signed(ttl)
    }

    /// Whether it is there.
    pub fn is_there(&self) -> bool {
        self.end.is_none()
    }

    /// Whether it may be the one that is backed up.
    fn may_serve(&self) -> bool {
        self.is_there() && self.active.is_some() && self.wanted != Wanted::Pending
    }

    fn is_being_drained(&self, now: DateTime<Utc>) -> bool {
        self.drain.is_some_and(|drain| drain.done.is_none() && now < drain.until)
    }

    fn is_leaving(&self) -> bool {
        self.wanted == Wanted::Draining || self.drain.is_some()
    }

    /// How far it is on its way, beside the one that has the role.
    pub fn phase(&self, chosen: Option<&str>) -> Phase {
        match self.end {
            Some((_, End::Expected)) => Phase::GoneExpected,
            Some((_, End::Lost)) => Phase::GoneLost,
            None if !self.may_serve() => Phase::Pending,
            None if self.is_leaving() || chosen != Some(&*self.id) => Phase::Draining,
            None => Phase::Active,
        }
    }

    fn ends(&mut self, end: End, why: &str, now: DateTime<Utc>) -> Change {
        self.end = Some((now, end));
        let detail = format!("{}: {why}", end.name());
        Change { id: self.id.clone(), what: "endpoint.gone", detail }
    }
}

/// Takes what one source says into what is remembered; if it is complete, what is not in it is not
/// there any more. An id that another source has stays with that one.
pub fn observe(
    registry: &mut Registry,
    source: &str,
    (seen, is_complete): (&[Sighting], bool),
    now: DateTime<Utc>,
) -> Vec<Change> {
    let mut changes = Vec::new();
    for sighting in seen {
        let known = registry.get_mut(&sighting.id);
        match known {
            Some(known) if known.is_there() && known.source != source => {}
            Some(known) if known.is_there() && known.target == sighting.target => {
                renew(known, sighting, now, &mut changes);
            }
            Some(known) if !is_new(known, sighting, source) => {}
            _ if sighting.wanted == Wanted::Gone => {}
            _ => {
                let new = Registration::new(sighting, source, now);
                let detail = format!("at {}, by {source}", new.target);
                changes.push(Change { id: new.id.clone(), what: "endpoint.registered", detail });
                registry.insert(new.id.clone(), new);
            }
        }
    }
    if !is_complete {
        return changes;
    }
    let own = registry.values_mut().filter(|known| known.is_there() && known.source == source);
    let ids: BTreeSet<&str> = seen.iter().map(|sighting| sighting.id.as_str()).collect();
    for known in own.filter(|known| !ids.contains(&*known.id)) {
        // Put back, it is another registration, whatever it looks like.
        known.sign.clear();
        changes.push(known.ends(End::Expected, "it is not registered any more", now));
    }
    changes
}

/// Endpoints of which the same name belongs to another database from now on: each ends under a name
/// of its own, since its database is known by it.
pub fn make_way(
    registry: &mut Registry,
    source: &str,
    seen: &[Sighting],
    owner: impl Fn(&Registration) -> Option<String>,
    now: DateTime<Utc>,
) -> Vec<Change> {
    let mut changes = Vec::new();
    for sighting in seen {
        let is_displaced = |known: &Registration| {
            let is_free = !known.is_there() || known.source == source;
            let is_other = known.labels != sighting.labels || known.target != sighting.target;
            let next = Registration::new(sighting, source, now);
            is_free && is_other && owner(known).is_some() && owner(known) != owner(&next)
        };
        if registry.get(&sighting.id).is_some_and(is_displaced)
            && let Some(mut known) = registry.remove(&sighting.id)
        {
            if known.is_there() {
                changes.push(known.ends(End::Lost, "its name is another's now", now));
            }
            known.id = format!("{}@{}", known.id, known.since.timestamp_millis());
            registry.insert(known.id.clone(), known);
        }
    }
    changes
}

/// Whether what ended is there again: what was there all the time is, once it gives another sign
/// of life.
fn is_new(known: &Registration, sighting: &Sighting, source: &str) -> bool {
    let is_same = known.source == source && known.target == sighting.target;
    !is_same || known.is_there() || sighting.sign.as_ref().is_none_or(|sign| *sign != known.sign)
}

fn renew(
    known: &mut Registration,
    sighting: &Sighting,
    now: DateTime<Utc>,
    changes: &mut Vec<Change>,
) {
    if sighting.wanted == Wanted::Gone {
        changes.push(known.ends(End::Expected, "its registration says so", now));
        return;
    }
    match &sighting.sign {
        Some(sign) if *sign == known.sign => {}
        Some(sign) => (known.sign, known.renewed) = (sign.clone(), now),
        // A look a while ago is as good as one just now: nothing is written down for it.
        None if known.ttl.is_some() => known.renewed = now,
        None => {}
    }
    if known.wanted != sighting.wanted {
        let detail = format!("it is to be {}", sighting.wanted.name());
        changes.push(Change { id: known.id.clone(), what: "endpoint.changed", detail });
    }
    known.wanted = sighting.wanted;
    known.ttl = sighting.ttl;
    known.labels.clone_from(&sighting.labels);
}

/// Ends leases that ran out, of endpoints that could have been heard of: `is_silent` says of which.
/// `has_successor` says of an endpoint whether another one has its role.
pub fn lapse(
    registry: &mut Registry,
    is_silent: impl Fn(&Registration) -> bool,
    has_successor: impl Fn(&str) -> bool,
    now: DateTime<Utc>,
) -> Vec<Change> {
    let mut changes = Vec::new();
    for known in registry.values_mut().filter(|known| known.is_there()) {
        if known.leased_until().is_some_and(|ends| ends < now) && is_silent(known) {
            let is_expected = known.is_leaving() || has_successor(&known.id);
            let end = if is_expected { End::Expected } else { End::Lost };
            changes.push(known.ends(end, "its lease ran out", now));
        }
    }
    changes
}

/// The endpoint of a database that is backed up, out of all that belong to it: the newest that
/// answers. One that is being given up keeps the role until everything is stored, unless another
/// server has taken it over; one that fell silent keeps it for `handoff`.
pub fn choose<'a>(
    own: &[&'a Registration],
    handoff: Duration,
    now: DateTime<Utc>,
) -> Option<&'a Registration> {
    let mut able: Vec<_> = own.iter().copied().filter(|one| one.may_serve()).collect();
    able.sort_by_key(|one| std::cmp::Reverse((one.since, one.active, one.id.clone())));
    let handoff = TimeDelta::from_std(handoff).unwrap_or(TimeDelta::MAX);
    let is_quiet = |one: &Registration| one.silent.is_none_or(|silent| now - silent < handoff);
    let newest = able.iter().copied().find(|one| !one.is_leaving() && is_quiet(one));
    let newest = newest.or_else(|| able.iter().copied().find(|one| !one.is_leaving()));
    let drained = able.iter().copied().filter(|one| one.is_being_drained(now));
    let keeps = |one: &&Registration| newest.is_none_or(|newest| newest.identity == one.identity);
    let drained = drained.filter(keeps).min_by_key(|one| one.drain.map(|drain| drain.since));
    drained.or(newest).or_else(|| able.first().copied())
}

/// Since when a database has had no endpoint, and how the last one ended. `None` while one is
/// registered, whether it answers or not.
pub fn absence(own: &[&Registration]) -> Option<(DateTime<Utc>, End, String)> {
    if own.iter().any(|one| one.is_there()) {
        return None;
    }
    let ended = own.iter().filter_map(|one| one.end.map(|(at, end)| (at, end, one.id.clone())));
    ended.max_by_key(|(at, ..)| *at)
}

/// Endpoints whose role another one has, by their ids.
pub fn succeeded(rules: &[Rule], registry: &Registry, now: DateTime<Utc>) -> BTreeSet<String> {
    let mut own: BTreeMap<(usize, String), Vec<&Registration>> = BTreeMap::new();
    for one in registry.values().filter(|one| one.is_there()) {
        if let Belongs::To { rule, database, .. } = belongs(rules, &one.target, &one.labels) {
            own.entry((rule, database)).or_default().push(one);
        }
    }
    let mut succeeded = BTreeSet::new();
    for ((rule, _), all) in own {
        let handoff = rules.get(rule).map(|rule| rule.handoff).unwrap_or_default();
        if let Some(chosen) = choose(&all, handoff, now) {
            let others = all.iter().filter(|one| one.id != chosen.id);
            succeeded.extend(others.map(|one| one.id.clone()));
        }
    }
    succeeded
}

/// Whether a database without an endpoint is to be retired.
pub fn is_over(
    absence: Option<&(DateTime<Utc>, End, String)>,
    handoff: Duration,
    now: DateTime<Utc>,
) -> bool {
    let handoff = TimeDelta::from_std(handoff).unwrap_or(TimeDelta::MAX);
    absence.is_some_and(|(since, ..)| handoff <= now - *since)
}

/// Ended endpoints that need not be remembered: those that ended before `before`, but for the
/// newest of each database, by which the database is known. `database` names it.
pub fn forgettable(
    registry: &Registry,
    database: impl Fn(&Registration) -> Option<String>,
    before: DateTime<Utc>,
) -> Vec<String> {
    let mut newest: BTreeMap<Option<String>, &Registration> = BTreeMap::new();
    for one in registry.values() {
        let held = newest.entry(database(one)).or_insert(one);
        if held.since < one.since {
            *held = one;
        }
    }
    let is_kept = |one: &Registration| {
        let name = database(one);
        name.is_some() && newest.get(&name).is_some_and(|newest| newest.id == one.id)
    };
    let old = registry.values().filter(|one| one.end.is_some_and(|(at, _)| at < before));
    old.filter(|one| !is_kept(one)).map(|one| one.id.clone()).collect()
}
