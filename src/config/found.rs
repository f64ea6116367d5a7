//! What was discovered, put into a configuration: databases that rules make, and endpoints that
//! databases are given.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, Utc};

use super::model::{Config, Database, Ruling};
use crate::policy::{
    Absence, Belongs, End, Registered, Registration, Registry, Unprotected, absence, belongs,
    choose,
};

/// What was found of a database whose endpoints come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The rule that gives it endpoints, from 1.
    pub rule: usize,
    /// The endpoint that is backed up.
    pub chosen: Option<Registered>,
    /// All that are registered.
    pub present: BTreeSet<String>,
    /// Since when there is none, how the last one ended, and which that was.
    pub absence: Option<(DateTime<Utc>, End, String)>,
    /// Why none can be backed up although some are registered, for people.
    pub trouble: Option<String>,
    /// How long there may be none.
    pub handoff: Duration,
    /// What follows when there is none for longer.
    pub on_absence: Absence,
}

impl Config {
    /// Puts everything in that was discovered. Every database with an endpoint that is remembered
    /// stays known, also when it is gone: what there is of it is looked after.
    pub fn discover(&mut self, registry: &Registry, now: DateTime<Utc>) {
        let mut own: BTreeMap<String, Vec<(usize, String, &Registration)>> = BTreeMap::new();
        for one in registry.values() {
            match self.belongs(one) {
                Belongs::To { rule, database, url } => {
                    own.entry(database).or_default().push((rule, url, one));
                }
                Belongs::ToNone { why } if one.is_there() => self.unprotected.push(Unprotected {
                    name: one.labels.get("database").unwrap_or(&one.id).clone(),
                    engine: one.labels.get("engine").cloned(),
                    labels: one.labels.clone(),
                    since: one.since,
                    why,
                }),
                Belongs::ToNone { .. } => {}
            }
        }
        for (name, mut all) in own {
            all.sort_by_key(|(_, _, one)| (one.since, one.id.clone()));
            self.give(&name, &all, now);
        }
    }

    /// A database as it would be with this endpoint, to see whether it answers. To be asked once
    /// everything that was discovered is in.
    pub fn candidate(&self, one: &Registration) -> Option<Database> {
        match self.belongs(one) {
            Belongs::To { rule, database, url } => {
                let (known, ruling) = (self.databases.get(&database)?, self.rules.get(rule)?);
                Some(Database {
                    endpoint: url,
                    engine: known.engine.clone().or_else(|| ruling.engine.clone()),
                    password: known.password.clone().or_else(|| ruling.password.clone()),
                    ..known.clone()
                })
            }
            Belongs::ToNone { .. } => None,
        }
    }

    /// Which database an endpoint belongs to, or why to none.
    pub fn belongs(&self, one: &Registration) -> Belongs {
        let rules = self.rules.iter().map(|ruling| &ruling.rule);
        belongs(rules, &one.target, &one.labels)
    }

    /// The database that an endpoint belongs to.
    pub fn owner(&self, one: &Registration) -> Option<String> {
        match self.belongs(one) {
            Belongs::To { database, .. } => Some(database),
            Belongs::ToNone { .. } => None,
        }
    }

    /// Gives a database its endpoints, in the order in which they were registered.
    fn give(
        &mut self,
        name: &str,
        all: &[(usize, String, &Registration)],
        now: DateTime<Utc>,
    ) -> Option<()> {
        if self.databases.get(name).is_some_and(|database| database.agent.is_some()) {
            // Its agent reaches what was written down.
            return None;
        }
        let of = |id: &str| all.iter().find(|(_, _, one)| one.id == id);
        let registrations: Vec<_> = all.iter().map(|(_, _, one)| *one).collect();
        let newest = all.last()?;
        let handoff = self.rules.get(newest.0)?.rule.handoff;
        let chosen = choose(&registrations, handoff, now).and_then(|one| of(&one.id));
        let (rule, url, one) = chosen.unwrap_or(newest);
        let ruling = self.rules.get(*rule)?;
        let pending = registrations.iter().rev().find(|one| one.is_there());
        let trouble = pending.filter(|_| chosen.is_none()).map(|one| {
            let told = one.trouble.clone().unwrap_or_else(|| "it was not asked yet".to_owned());
            format!("endpoint {}: {told}", one.id)
        });
        let found = Found {
            rule: rule + 1,
            chosen: chosen.map(|(_, _, one)| Registered {
                id: one.id.clone(),
                identity: one.identity.clone(),
                since: one.since,
            }),
            present: registrations
                .iter()
                .filter(|one| one.is_there())
                .map(|one| one.id.clone())
                .collect(),
            absence: absence(&registrations),
            trouble,
            handoff,
            on_absence: ruling.rule.on_absence,
        };
        let made = made(name, ruling, one);
        let database = self.databases.entry(name.to_owned()).or_insert(made);
        let labels = one.labels.iter().map(|(label, value)| (label.clone(), value.clone()));
        let missing: Vec<_> =
            labels.filter(|(label, _)| !database.labels.contains_key(label)).collect();
        database.labels.extend(missing);
        database.lifecycle = database.lifecycle.or(Some(ruling.rule.lifecycle));
        // One that was written down is there as long as nobody registers another one.
        if found.chosen.is_some() || database.endpoint.is_empty() {
            database.endpoint.clone_from(url);
            database.engine = database.engine.take().or_else(|| ruling.engine.clone());
            database.password = database.password.take().or_else(|| ruling.password.clone());
            database.found = Some(found);
        }
        Some(())
    }
}

/// A database that a rule makes; where it is, its endpoints say.
fn made(name: &str, ruling: &Ruling, one: &Registration) -> Database {
    Database {
        name: name.to_owned(),
        endpoint: String::new(),
        engine: ruling.engine.clone(),
        password: ruling.password.clone(),
        policy: ruling.policy.clone(),
        mode: None,
        repository: ruling.repository.clone(),
        labels: one.labels.clone(),
        lifecycle: Some(ruling.rule.lifecycle),
        agent: None,
        found: None,
    }
}

impl Found {
    /// Why nothing can be backed up now, for people.
    pub fn obstacle(&self) -> Option<String> {
        if self.chosen.is_some() {
            return None;
        }
        let absent = self.absence.as_ref().map(|(since, end, id)| {
            let since = since.format("%Y-%m-%d %H:%M:%S UTC");
            match end {
                End::Lost => format!("no endpoint since {since}: the lease of {id} ran out"),
                End::Expected => format!("no endpoint since {since}: {id} was taken out"),
            }
        });
        absent.or_else(|| self.trouble.clone())
    }
}
