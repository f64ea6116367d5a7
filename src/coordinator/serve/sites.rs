//! What is bound to a site: copies that only its workers make, and drills that only they do.
//!
//! One worker of the site looks after its copies, as whoever leads does with all others, and says
//! how far they are: whoever leads needs no way to them.

use std::{collections::BTreeSet, sync::Arc};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Error, Result};
use tokio::sync::watch;

use super::{
    agent::{MISSED_AFTER, silence},
    copies::{COPY, CopyKnown, LOOK_AGAIN, key},
    fleet::{Fleet, Member},
    run::{Coordinator, is_true},
    standing::{Drills, Standing},
    upkeep::UPKEEP,
};
use crate::{
    coordinator::state::{ARCHIVE, Site, State, Task},
    policy::{CopyRule, Kind},
};

/// What the workers of its site say of a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CopySaid {
    /// How far it is.
    known: CopyKnown,
    /// What drills of it say, where it is what is drilled.
    drills: Option<Drills>,
}

/// Which copies a coordinator looks after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Charge {
    /// Those that are bound to no site.
    pub leads: bool,
    /// Those of its own site.
    pub keeps: bool,
}

impl CopySaid {
    fn read(body: &str) -> Option<Self> {
        // What a newer one says may not be understood here: then it is as if it said nothing.
        serde_json::from_str(body).ok()
    }

    /// Whether it says something that others should know at once.
    fn is_news(&self, before: &Self) -> bool {
        let of = |said: &Self| {
            let CopyKnown { backups, lacking_backups, waiting_since, problem, .. } = &said.known;
            (*backups, *lacking_backups, waiting_since.is_some(), problem.clone(), said.drills)
        };
        of(self) != of(before)
    }
}

impl Fleet {
    /// The sites that anything is bound to.
    pub(super) fn sites(&self) -> BTreeSet<String> {
        let bound = self.members.values().flat_map(|member| member.policy.sites());
        bound.map(str::to_owned).collect()
    }

    /// The site whose workers make all that is copied into a repository.
    pub(super) fn site_of(&self, repository: &str) -> Option<&str> {
        let rules = self.members.values().flat_map(|member| &member.policy.copies);
        let rules = rules.filter(|rule| rule.to == repository);
        let mut sites = rules.map(|rule| rule.site.as_deref());
        let first = sites.next()??;
        sites.all(|site| site == Some(first)).then_some(first)
    }

    /// Who is to do a job now: an agent, or workers of a site. Nothing where that is not known.
    pub(super) fn doer_of(&self, database: &str, kind: &str) -> Option<(String, String)> {
        let (agent, site) = if kind == UPKEEP {
            let name = database.strip_prefix("repository ")?;
            (self.keeper(name).unwrap_or_default(), self.site_of(name).unwrap_or_default())
        } else {
            let member = self.members.get(database)?;
            if let Some(copy) = kind.strip_prefix(COPY) {
                let rule = member.policy.copies.iter().find(|rule| rule.name == copy)?;
                ("", rule.site.as_deref().unwrap_or_default())
            } else {
                let kind = Kind::ALL.into_iter().find(|one| one.name() == kind)?;
                self.doer(member, kind)
            }
        };
        Some((agent.to_owned(), site.to_owned()))
    }
}

impl Coordinator {
    /// Finds out, again and again, whether it looks after copies of its own site; and as long as it
    /// leads, what is said of those that others look after.
    pub(super) async fn hear_of_copies(
        &self,
        mut fleets: watch::Receiver<Arc<Fleet>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut sites = fleets.borrow_and_update().sites();
        let (mut heard, mut has_led) = (0, false);
        loop {
            if fleets.has_changed().unwrap_or(false) {
                sites = fleets.borrow_and_update().sites();
            }
            let leads = self.shared.leads();
            if leads && !has_led {
                heard = 0;
            }
            has_led = leads;
            let found = async {
                let is_bound = self.state.site().is_some_and(|site| sites.contains(site));
                let keeps = is_bound && self.state.lead_site(&self.worker).await?;
                self.shared.copies().keeps = keeps;
                if leads && !sites.is_empty() {
                    self.listen(&sites, &mut heard).await?;
                }
                Ok::<_, Error>(())
            };
            if let Err(error) = found.await {
                tracing::warn!(event = "state.unreachable", "{error}");
                self.shared.copies().keeps = false;
            }
            tokio::select! {
                biased;
                () = is_true(&mut stop) => return,
                () = self.world.clock.sleep(self.rhythm.report) => {}
            }
        }
    }

    /// Hears what was said since of copies that others look after, and whether they live.
    async fn listen(&self, bound: &BTreeSet<String>, heard: &mut i64) -> Result<()> {
        let (said, newest) = self.state.copied_since(*heard).await?;
        let sites = self.state.sites(bound.iter().map(String::as_str)).await?;
        *heard = newest;
        let mut names = BTreeSet::new();
        {
            let mut shelf = self.shared.copies();
            shelf.sites = sites;
            for ((database, copy), body) in said {
                if let Some(said) = CopySaid::read(&body) {
                    names.insert(database.clone());
                    shelf.said.insert((database, copy), said);
                }
            }
        }
        for name in names {
            self.shared.change(&name);
        }
        Ok(())
    }

    /// Takes for known what the workers of its site say of a copy.
    pub(super) fn note_said(&self, member: &Member, rule: &CopyRule, site: &str) {
        let now = self.world.clock.now();
        let mut shelf = self.shared.copies();
        let own = (member.name.clone(), rule.name.clone());
        let said = shelf.said.get(&own).cloned();
        if let Some(drills) = said.as_ref().and_then(|said| said.drills) {
            shelf.drills.insert(member.name.clone(), drills);
        }
        let at = (site, shelf.sites.get(site).copied());
        let known = known(rule, said, at, now);
        shelf.known.entry(own.0).or_default().insert(own.1, known);
    }

    /// Says how far a copy of this site is, if that is news, or somewhat other and a while ago.
    pub(super) async fn say_copy(&self, member: &Member, rule: &CopyRule) {
        let own = (member.name.clone(), rule.name.clone());
        let at = self.world.clock.elapsed();
        let said = {
            let shelf = self.shared.copies();
            let Some(known) = shelf.known.get(&own.0).and_then(|of| of.get(&own.1)) else { return };
            let from = member.policy.drill.as_ref().and_then(|drill| drill.from.as_ref());
            let drills = shelf.drills.get(&own.0).copied();
            let drills = drills.filter(|_| from == Some(&rule.name));
            let said = CopySaid { known: known.clone(), drills };
            let often = LOOK_AGAIN.to_std().unwrap_or_default();
            let is_told = shelf.told.get(&own).is_some_and(|(when, before)| {
                let is_recent = at.saturating_sub(*when) < often;
                *before == said || (is_recent && !said.is_news(before))
            });
            if is_told {
                return;
            }
            said
        };
        let saying = async {
            let body = serde_json::to_string(&said)
                .map_err(|cause| Error::bug("write how far a copy is").caused_by(cause))?;
            self.state.say_copied(&own.0, &own.1, &body).await
        };
        let told = saying.await;
        match told {
            Ok(()) => drop(self.shared.copies().told.insert(own, (at, said))),
            Err(error) => tracing::warn!(event = "report.failed", database = own.0, "{error}"),
        }
    }

    /// Looks at every copy of its own site once.
    pub(super) async fn look_after_own_copies(&self, fleet: &Fleet) {
        let charge = Charge { leads: false, keeps: self.state.site().is_some() };
        for member in fleet.members.values() {
            let own = |rule: &&CopyRule| charge.keeps && rule.site.as_deref() == self.state.site();
            for rule in member.policy.copies.iter().filter(own) {
                self.look_after_copy(fleet, &key(&member.name, &rule.name), charge).await;
            }
        }
    }

    /// Why nobody rehearses restoring a database: nobody is at the site that this is bound to.
    pub(super) fn trouble_of_drill(&self, member: &Member) -> Option<String> {
        let site = member.policy.drill.as_ref()?.site.as_ref()?;
        let known = self.shared.copies().sites.get(site).copied()?;
        absence(site, Some(known), self.world.clock.now())
    }
}

/// That nobody works at a site, in words; nothing, if somebody does.
fn absence(name: &str, site: Option<Site>, now: DateTime<Utc>) -> Option<String> {
    match site.and_then(|site| site.seen) {
        None => Some(format!("no worker of site {name} was ever heard of")),
        Some(seen) if MISSED_AFTER <= now - seen => {
            let seen = seen.format("%Y-%m-%d %H:%M:%S UTC");
            Some(format!("no worker of site {name} was heard of since {seen}"))
        }
        Some(_) => None,
    }
}

/// How far a copy is that only workers of a site make, by what they say. Where none is heard of,
/// whatever has come since then waits.
fn known(
    rule: &CopyRule,
    said: Option<CopySaid>,
    (name, site): (&str, Option<Site>),
    now: DateTime<Utc>,
) -> CopyKnown {
    let seen = site.map(|site| site.seen.unwrap_or(site.since));
    match (said, absence(name, site, now)) {
        (Some(said), None) => said.known,
        (Some(CopySaid { known, .. }), Some(absence)) => CopyKnown {
            waiting_since: known.waiting_since.into_iter().chain(seen).min(),
            problem: Some(absence),
            ..known
        },
        (None, absence) => CopyKnown {
            waiting_since: site.map(|site| site.since),
            problem: Some(absence.unwrap_or_else(|| format!("site {name} said nothing of it yet"))),
            ..CopyKnown::blank(rule)
        },
    }
}

/// How far a copy is by what workers of its site say; nothing, if it is bound to none.
///
/// # Errors
///
/// What keeps the state database from being used.
pub async fn copy_said(
    state: &State,
    database: &str,
    rule: &CopyRule,
    now: DateTime<Utc>,
) -> Result<Option<CopyKnown>> {
    let Some(site) = &rule.site else { return Ok(None) };
    let said = state.copied(database).await?.remove(&rule.name);
    let said = said.and_then(|body| CopySaid::read(&body));
    let at = state.sites([]).await?.remove(site);
    Ok(Some(known(rule, said, (site.as_str(), at), now)))
}

/// Adds the drills that workers of a site tell of.
///
/// # Errors
///
/// As [`copy_said`].
pub async fn add_drills_said(
    state: &State,
    member: &Member,
    standing: &mut Standing,
) -> Result<()> {
    for body in state.copied(&member.name).await?.values() {
        if let Some(drills) = CopySaid::read(body).and_then(|said| said.drills) {
            standing.add(drills);
        }
    }
    Ok(())
}

/// Why nobody does what waits: whoever is to do it is not heard of. Nothing, if they are.
///
/// # Errors
///
/// As [`copy_said`].
pub async fn unheard(state: &State, task: &Task, now: DateTime<Utc>) -> Result<Option<String>> {
    if !task.site.is_empty() {
        let site = state.sites([]).await?.remove(&task.site);
        return Ok(absence(&task.site, site, now));
    }
    // What is archived is done by whoever serves, in a queue of its own.
    if task.agent.is_empty() || task.kind.starts_with(ARCHIVE) {
        return Ok(None);
    }
    let seen = state.agents().await?.remove(&task.agent);
    Ok(silence(&task.agent, seen, now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{CopyWhen, Keep};

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(60 * minute, 0).unwrap()
    }

    /// Row 30: a copy is as far as its site says, and late as soon as nobody is there.
    #[test]
    fn row_30_a_copy_waits_once_nobody_is_at_its_site() {
        let rule = CopyRule {
            name: "tape".to_owned(),
            to: "vault".to_owned(),
            from: None,
            when: CopyWhen::Verified,
            kinds: Vec::new(),
            keep: Keep::default(),
            windows: Vec::new(),
            site: Some("dr".to_owned()),
        };
        let fine = CopyKnown { backups: 3, ..CopyKnown::blank(&rule) };
        let said = |waiting_since| {
            Some(CopySaid { known: CopyKnown { waiting_since, ..fine.clone() }, drills: None })
        };
        let of = |said, seen: Option<i64>, now| {
            let site = Site { since: at(0), seen: seen.map(at) };
            let known = known(&rule, said, ("dr", Some(site)), at(now));
            (known.backups, known.waiting_since, known.problem.unwrap_or_default())
        };
        assert_eq!(of(said(None), Some(9), 9), (3, None, String::new()));
        let silent = "no worker of site dr was heard of since 1970-01-01 00:09:00 UTC";
        assert_eq!(of(said(None), Some(9), 60), (3, Some(at(9)), silent.to_owned()));
        assert_eq!(of(said(Some(at(5))), Some(9), 60).1, Some(at(5)));
        let never = "no worker of site dr was ever heard of";
        assert_eq!(of(None, None, 60), (0, Some(at(0)), never.to_owned()));
        assert_eq!(of(None, Some(60), 60).1, Some(at(0)));
    }
}
