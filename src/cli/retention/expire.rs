//! `stillpoint expire`: forgets what nothing keeps any more.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    super::{
        answer::{Answer, Stamp},
        choice::Labels,
        config::reach,
        open::Opened,
        page::{Page, Table, Tone, printable},
        serve::{applied_already, found},
        session::Session,
        units,
        wire::Backup,
    },
    keeping::Keeping,
};
use crate::{
    config::{Config, Database},
    policy::{Proof, Retention},
    repository::{Holdings, Pace, Replication, Road, history::History},
};

/// What `expire` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The database [default: all that are configured].
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
    /// Only tell what would go, and what stays for which reasons; change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct ExpireAnswer {
    dry_run: bool,
    now: Stamp,
    gone: Vec<Backup>,
    databases: Vec<Expired>,
    /// Databases in the repositories that no configuration names: they are left alone.
    unknown: Vec<Unknown>,
    warnings: Vec<String>,
}

/// What becomes of one database.
#[derive(Debug, Serialize)]
struct Expired {
    database: String,
    repository: String,
    /// The copy that it is about; nothing for the original.
    copy: Option<String>,
    policy: String,
    gone: u64,
    /// What those had added to the repository.
    gone_bytes: u64,
    kept: u64,
    kept_bytes: u64,
    /// From when on captured log is needed.
    log_from: Option<Stamp>,
    /// How many are kept for each reason; one may have several.
    reasons: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct Unknown {
    database: String,
    repository: String,
    backups: u64,
}

impl Answer for ExpireAnswer {
    const SCHEMA: &'static str = "expire/1";

    fn write(&self, page: &mut Page<'_>) {
        if !self.gone.is_empty() {
            let (word, tone) = if self.dry_run {
                ("Would forget", Tone::Warning)
            } else {
                ("Forgot", Tone::Strong)
            };
            page.line(page.paint(tone, word));
            Backup::table(page, &self.gone);
            page.blank();
        }
        let heading = ["DATABASE", "POLICY", ">GO", ">STORED", ">STAY", ">STORED", "BECAUSE"];
        let mut table = Table::new(&heading);
        for of in &self.databases {
            let reasons = of.reasons.iter().map(|(reason, count)| format!("{reason} {count}"));
            table.row(vec![
                match &of.copy {
                    Some(copy) => format!("{} -> {copy}", of.database),
                    None => of.database.clone(),
                },
                of.policy.clone(),
                units::grouped(of.gone),
                units::bytes(of.gone_bytes),
                units::grouped(of.kept),
                units::bytes(of.kept_bytes),
                reasons.collect::<Vec<_>>().join(", "),
            ]);
        }
        page.table(&table);
        for unknown in &self.unknown {
            page.line(format!(
                "{} in {}: left alone, no configuration names it ({})",
                printable(&unknown.database),
                unknown.repository,
                units::count(unknown.backups, "backup", "backups"),
            ));
        }
        if !self.dry_run && !self.gone.is_empty() {
            page.line(page.paint(Tone::Faint, "The space is freed by: stillpoint repo gc"));
        }
    }
}

/// Expires. What one repository refuses keeps no other from being looked at.
pub(crate) async fn run(session: &Session, options: Options) -> Result<()> {
    let configured = found(session).await?.config;
    // Where a coordinator serves, what was applied holds, and not what a file says by now.
    let held = applied_already(session, &configured.coordinator).await?;
    if held.as_ref().is_some_and(|held| !held.may_expire()) && !options.dry_run {
        return Err(Error::new(ErrorKind::Refused, code::PLAN, "expire by a configuration")
            .why("nobody has applied it since the state of the coordinator is new")
            .next("stillpoint plan")
            .next("stillpoint apply"));
    }
    let config = held.as_ref().map_or(&configured, |held| held.config());
    let mut places: BTreeMap<&str, Vec<Keeping<'_>>> = BTreeMap::new();
    for database in options.labels.of(&config.databases, options.database.as_deref())? {
        // What is only watched expires where a person names it.
        if options.database.is_none() && config.is_observed(database) {
            continue;
        }
        let Some(keeping) = Keeping::of(config, database) else { continue };
        // What was handed over goes with the next run of its copy.
        let copies = keeping.copies().filter(|copy| !config.is_handoff(copy.repository()));
        for keeping in std::iter::once(keeping).chain(copies) {
            places.entry(keeping.repository()).or_default().push(keeping);
        }
    }
    let now = session.world.clock.now();
    let mut answer = ExpireAnswer {
        dry_run: options.dry_run,
        now: Stamp(now),
        gone: Vec::new(),
        databases: Vec::new(),
        unknown: Vec::new(),
        warnings: Vec::new(),
    };
    let mut failures: Vec<Error> = Vec::new();
    for (name, databases) in places {
        let worked = async {
            let repository = reach::repository(session, config, name).await?;
            for keeping in databases {
                let expiry = Expiry { session, config, repository: &repository, keeping, now };
                match expiry.run(&mut answer).await {
                    // Another database may come from where somebody answers.
                    Err(error) if keeping.copy.is_some() => {
                        let name = &keeping.database.name;
                        failures.push(
                            error.with("database", name).with("repository", keeping.repository()),
                        );
                    }
                    done => done?,
                }
            }
            if options.database.is_none() && options.labels.labels.is_none() {
                let history = repository.history().await?;
                answer.unknown.extend(unknown(config, name, &history));
            }
            Ok(())
        };
        // A copy that was never made has nothing to expire.
        let is_unmade =
            |error: &Error| error.code() == code::NO_REPOSITORY && config.origin_of(name).is_some();
        let failed = worked.await.err().filter(|error| !is_unmade(error));
        failures.extend(failed.map(|error: Error| error.with("repository", name)));
    }
    answer.warnings.iter().for_each(|warning| session.warn(warning));
    // Where nothing was reached, the error is the answer.
    if !answer.databases.is_empty() || failures.is_empty() {
        session.answer(&answer)?;
    }
    let mut failures = failures.into_iter();
    let first = failures.next();
    failures.for_each(|error| session.warn(&error.to_string()));
    first.map_or(Ok(()), Err)
}

struct Expiry<'a> {
    session: &'a Session,
    config: &'a Config,
    repository: &'a Opened,
    keeping: Keeping<'a>,
    now: DateTime<Utc>,
}

impl Expiry<'_> {
    async fn run(&self, answer: &mut ExpireAnswer) -> Result<()> {
        let Database { name, .. } = self.keeping.database;
        let repository = self.keeping.repository();
        let decide = |holdings: &Holdings| self.keeping.decide(holdings, self.now);
        let told = self.learn(answer.dry_run).await?;
        let history = self.repository.history().await?;
        let mut seen = Holdings::of(&history, name);
        if let Some(told) = told {
            seen.holds.extend(told.holds);
            seen.events = told.events;
        }
        let mut gone = gone(&decide(&seen));
        if !answer.dry_run && !gone.is_empty() {
            let reason = format!("expired by policy {}", self.keeping.policy.name);
            // Decided by what is true when it happens, which is then what is told.
            let forgotten = self.repository.expire(name, &reason, |holdings| {
                seen = holdings.clone();
                self::gone(&decide(holdings))
            });
            let forgotten = forgotten.await?;
            self.repository.remember().await?;
            gone = forgotten.into_iter().map(|committed| committed.commit.backup).collect();
        }
        if !answer.dry_run {
            let reason = format!("kept by policy {}", self.keeping.policy.name);
            let needed = |holdings: &Holdings| decide(holdings).log_begin();
            if self.repository.trim(name, &reason, needed).await? {
                self.repository.remember().await?;
            }
        }
        let decided = decide(&seen);
        let mut expired = Expired {
            database: name.clone(),
            repository: repository.to_owned(),
            copy: self.keeping.copy.map(|copy| copy.name.clone()),
            policy: self.keeping.policy.name.clone(),
            gone: 0,
            gone_bytes: 0,
            kept: 0,
            kept_bytes: 0,
            log_from: decided.log_begin().map(Stamp),
            reasons: BTreeMap::new(),
        };
        let history = self.repository.history().await?;
        for verdict in decided.verdicts {
            let Some(committed) = history.commit(&verdict.id) else { continue };
            let commit = &committed.commit;
            if gone.contains(&verdict.id) {
                expired.gone += 1;
                expired.gone_bytes += commit.stored_bytes;
                answer.gone.push(Backup::of(commit, self.session.native()));
                continue;
            }
            expired.kept += 1;
            expired.kept_bytes += commit.stored_bytes;
            for reason in &verdict.reasons {
                *expired.reasons.entry(reason.code()).or_default() += 1;
            }
        }
        answer.warnings.extend(unproven(name, &seen));
        answer.databases.push(expired);
        Ok(())
    }
}

impl Expiry<'_> {
    /// Has a copy know what people said where it is copied from, whenever anything was copied last.
    /// Where nothing is to be changed, that is the answer.
    async fn learn(&self, dry_run: bool) -> Result<Option<Holdings>> {
        let Keeping { database, policy, copy: Some(copy), .. } = self.keeping else {
            return Ok(None);
        };
        let from = policy.source_of(copy, &database.repository);
        let learned = async {
            let source = reach::repository(self.session, self.config, from).await?;
            if dry_run {
                return Ok(Some(Holdings::of(&*source.history().await?, &database.name)));
            }
            let (clock, meter) = (Arc::clone(&self.session.world.clock), Arc::default());
            let pace = Pace::new(clock, None);
            let road = Road { pace: &pace, may_go: &|| Ok(()), meter: &meter };
            let replication = Replication::new(&source, self.repository, road)?;
            replication.custody(&database.name).await?;
            self.repository.remember().await?;
            Ok(None)
        };
        learned.await.map_err(|error: Error| {
            error.with("copied from", from).why(
                "what is held, and what happened, is known there: nothing of the database expires \
                 in the copy until that can be read",
            )
        })
    }
}

/// The backups that nothing keeps.
fn gone(retention: &Retention) -> Vec<String> {
    let gone = retention.verdicts.iter().filter(|verdict| !verdict.is_kept());
    gone.map(|verdict| verdict.id.clone()).collect()
}

/// Says that nothing can go as long as nobody reads anything back.
fn unproven(database: &str, holdings: &Holdings) -> Option<String> {
    let is_proven = holdings.backups.iter().any(|backup| backup.proof == Proof::Verified);
    let many = holdings.backups.len() > 1;
    (many && !is_proven).then(|| {
        format!(
            "no backup of {database} was ever verified, so none of them can go: \
             stillpoint verify --database {database}"
        )
    })
}

fn unknown(config: &Config, repository: &str, history: &History) -> Vec<Unknown> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for committed in history.live() {
        *counts.entry(&committed.commit.database).or_default() += 1;
    }
    let is_own = |name: &str| {
        config.databases.get(name).is_some_and(|database| {
            let keeping = Keeping::of(config, database);
            let copies = keeping.into_iter().flat_map(Keeping::copies);
            database.repository == repository
                || copies.into_iter().any(|c| c.repository() == repository)
        })
    };
    let unknown = counts.into_iter().filter(|(name, _)| !is_own(name));
    unknown
        .map(|(database, backups)| Unknown {
            database: database.to_owned(),
            repository: repository.to_owned(),
            backups,
        })
        .collect()
}
