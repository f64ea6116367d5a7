//! The repositories of copies: opened behind what they are made of, and created once.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    super::{config::reach, drill, init, process, session::Session},
    applied::Held,
    fleet::{Seat, Seen, note_opened, open_already},
};
use crate::{
    config::Config,
    coordinator::{
        CopyKnown, Fleet, Link, Member, Outbox, copy_said, state::State as Coordinated, told,
    },
    repository::Repository,
};

/// A repository that copies go to.
struct Target<'a> {
    config: &'a Config,
    name: &'a str,
    /// The one that it is made of.
    source: &'a str,
    /// Whether all that would go there is only watched.
    is_observed: bool,
    /// The site whose workers make all that goes there.
    site: Option<&'a str>,
}

/// The repositories that copies go to, in an order in which they can be created.
fn targets<'a>(held: &'a Held, seat: Seat<'_>) -> Vec<Target<'a>> {
    let mut targets: Vec<Target<'a>> = Vec::new();
    let former = held.former();
    let former = former.iter().filter_map(|(config, name)| {
        config.databases.get(*name).map(|database| (*config, database))
    });
    let config = held.config();
    let own = config.databases.values().map(|database| (config, database));
    for (config, database) in own.chain(former) {
        let Some(policy) = config.policies.get(&database.policy) else { continue };
        for rule in policy.copies_in_order() {
            let is_meant = seat.minds(config, database) && seat.needs_copy(policy, rule);
            // A folder for others is not opened.
            if config.is_handoff(&rule.to) || !is_meant {
                continue;
            }
            let (is_observed, site) = (config.is_observed(database), rule.site.as_deref());
            if let Some(known) = targets.iter_mut().find(|known| known.name == rule.to) {
                known.is_observed &= is_observed;
                known.site = known.site.filter(|known| site == Some(*known));
                continue;
            }
            let (name, source) = (&*rule.to, policy.source_of(rule, &database.repository));
            targets.push(Target { config, name, source, is_observed, site });
        }
    }
    targets
}

/// Opens what copies go to, or creates it, unless that is others' to do. What cannot be opened
/// keeps nobody else from work.
pub(super) async fn open(
    session: &Session,
    (state, held, seat): (&Coordinated, &Held, Seat<'_>),
    before: Option<&Fleet>,
    (repositories, unopened): (
        &mut BTreeMap<String, Arc<Repository>>,
        &mut BTreeMap<String, String>,
    ),
) {
    for Target { config, name, source, is_observed, site } in targets(held, seat) {
        if repositories.contains_key(name) {
            continue;
        }
        let is_own = seat.copies(site);
        let opened = if let Some(known) = open_already(config, name, before) {
            Ok(known)
        } else if is_observed || !is_own {
            let opened = reach::repository(session, config, name).await;
            opened.map(|opened| Arc::new(opened.into_repository()))
        } else {
            let source = repositories.get(source).map(|source| &**source);
            replica(session, state, config, (name, source)).await.map(Arc::new)
        };
        // It may be within reach of the workers of its site only.
        if let (Err(error), false) = (&opened, is_own) {
            unopened.insert(name.to_owned(), told(error));
            continue;
        }
        drop(note_opened(name, opened, (repositories, unopened)));
    }
}

/// Opens a copy, or creates it: once, when nobody has ever seen it. One that was there and is gone
/// may be a file system that is not mounted.
async fn replica(
    session: &Session,
    state: &Coordinated,
    config: &Config,
    (name, source): (&str, Option<&Repository>),
) -> Result<Repository> {
    let (place, key) = reach::place(session, config, name).await?;
    let seen = format!("repository {name} at {place}");
    let opened = match reach::repository(session, config, name).await {
        Err(error)
            if error.code() == code::NO_REPOSITORY && state.known(&seen).await?.is_none() =>
        {
            let source = source.ok_or_else(|| {
                Error::new(ErrorKind::Transient, code::STORE_UNREACHABLE, "create a copy")
                    .with("repository", name)
                    .why("what it is made of cannot be opened")
            })?;
            let own = config.repositories.get(name);
            let key = key.filter(|_| own.is_some_and(|own| own.encryption.is_some()));
            init::create_replica(session, &place, source, key).await?;
            tracing::info!(event = "repository.created", repository = name, place);
            reach::repository(session, config, name).await?
        }
        opened => opened?,
    };
    state.look_after([&*seen]).await?;
    Ok(opened.into_repository())
}

/// Opens what copies go to, for whoever only looks.
pub(super) async fn look(session: &Session, held: &Held, seen: &mut Seen) {
    for Target { config, name, .. } in targets(held, Seat::SERVING) {
        if seen.repositories.contains_key(name) || seen.unopened.contains_key(name) {
            continue;
        }
        match reach::repository(session, config, name).await {
            Ok(opened) => {
                let opened = Arc::new(opened.into_repository());
                seen.repositories.insert(name.to_owned(), opened);
            }
            Err(error) => drop(seen.unopened.insert(name.to_owned(), error)),
        }
    }
}

/// A folder from which others fetch copies, if that is what the name stands for.
pub(crate) fn outbox(
    session: &Session,
    config: &Config,
    name: &str,
    scratch: Option<&Path>,
) -> Option<Outbox> {
    let repository = config.repositories.get(name).filter(|repository| repository.is_handoff)?;
    Some(Outbox {
        path: PathBuf::from(&repository.url),
        quota: repository.quota,
        engines: session.engines.clone(),
        scratch: drill::place(&session.environment, scratch),
        process: (process::own(), process::is_gone),
    })
}

/// All of them.
pub(super) fn outboxes(session: &Session, held: &Held) -> BTreeMap<String, Outbox> {
    let former = held.former().into_iter().map(|(config, _)| config);
    // What is written now is what counts.
    let all = former.chain([held.config()]).flat_map(|config| {
        let names = config.repositories.keys();
        names.filter_map(|name| Some((name.clone(), outbox(session, config, name, None)?)))
    });
    all.collect()
}

/// How copies may write to each repository.
pub(super) fn links(config: &Config) -> BTreeMap<String, Link> {
    let link = |(name, repository): (&String, &crate::config::Repository)| {
        let link =
            Link { bytes_per_second: repository.upload, windows: repository.windows.clone() };
        (name.clone(), link)
    };
    config.repositories.iter().map(link).collect()
}

/// What is known of every copy of a database.
pub(super) async fn known(
    session: &Session,
    state: &Coordinated,
    (fleet, member): (&Fleet, &Member),
) -> Vec<CopyKnown> {
    let now = session.world.clock.now();
    let mut known = Vec::new();
    for rule in member.policy.copies_in_order() {
        let looked = async { fleet.delivery(member, rule)?.look(now).await };
        let found = CopyKnown::of(rule, looked.await);
        // What cannot be looked at from here may be within reach of its site.
        let said = if found.problem.is_some() {
            copy_said(state, &member.name, rule, now).await.ok().flatten()
        } else {
            None
        };
        known.push(said.unwrap_or(found));
    }
    known
}
