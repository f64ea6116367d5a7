//! `stillpoint repo forecast`: what repositories will hold, and be asked to write until then.

use std::collections::BTreeMap;

use serde::Serialize;
use stillpoint_contract::{Error, Result, code};

use super::{
    answer::{Answer, Stamp},
    config::reach,
    page::{Page, Table, Tone, printable},
    retention::{Keeping, report::Shelf},
    serve::{Promises, promises},
    session::Session,
    units,
};
use crate::{
    config::{Config, Database},
    coordinator::{self, MadeBy, Stake, StorageForecast, forecast_storage, told},
    policy::State,
};

#[derive(Debug, Serialize)]
struct ForecastAnswer {
    from: Stamp,
    repositories: Vec<Expected>,
}

/// What is to be expected of one repository.
#[derive(Debug, Serialize)]
pub(super) struct Expected {
    pub(super) repository: String,
    /// Nothing where nobody could look.
    forecast: Option<Forecast>,
    /// Why nobody could look.
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct Forecast {
    until: Stamp,
    now: Amount,
    then: Amount,
    /// What is stored meanwhile.
    stored_bytes: u64,
    requests: Requests,
    /// Objects among the new ones that never go.
    lasting_objects: u64,
    backups_now: u64,
    backups_then: u64,
    /// How many backups tell what is usual.
    observed: u64,
    /// Databases of which there is no backup yet.
    unknown: Vec<String>,
}

/// Objects and their bytes.
#[derive(Debug, Serialize)]
struct Amount {
    objects: u64,
    bytes: u64,
}

/// Requests that create an object, and that delete one.
#[derive(Debug, Serialize)]
struct Requests {
    create: u64,
    delete: u64,
}

impl From<coordinator::Amount> for Amount {
    fn from(of: coordinator::Amount) -> Self {
        Self { objects: of.objects, bytes: of.bytes }
    }
}

impl From<StorageForecast> for Forecast {
    fn from(of: StorageForecast) -> Self {
        Self {
            until: Stamp(of.until),
            now: of.now.into(),
            then: of.then.into(),
            stored_bytes: of.stored_bytes,
            requests: Requests { create: of.created, delete: of.deleted },
            lasting_objects: of.lasting,
            backups_now: of.backups_now,
            backups_then: of.backups_then,
            observed: of.observed,
            unknown: of.unknown,
        }
    }
}

impl Answer for ForecastAnswer {
    const SCHEMA: &'static str = "repo.forecast/1";

    fn write(&self, page: &mut Page<'_>) {
        if self.repositories.is_empty() {
            page.line("No database is configured.");
            return;
        }
        let heading = [
            "REPOSITORY",
            ">BYTES",
            ">THEN",
            ">STORED",
            ">OBJECTS",
            ">THEN",
            ">CREATED",
            ">DELETED",
        ];
        let mut table = Table::new(&heading);
        let known =
            || self.repositories.iter().filter_map(|one| Some((one, one.forecast.as_ref()?)));
        for (one, of) in known() {
            table.row(vec![
                one.repository.clone(),
                units::bytes(of.now.bytes),
                units::bytes(of.then.bytes),
                units::bytes(of.stored_bytes),
                units::grouped(of.now.objects),
                units::grouped(of.then.objects),
                units::grouped(of.requests.create),
                units::grouped(of.requests.delete),
            ]);
        }
        page.table(&table);
        page.blank();
        if let Some((_, of)) = known().next() {
            page.line(format!("Until {}, if things go on as they did.", page.time(of.until.0)));
        }
        for one in &self.repositories {
            one.write(page);
        }
    }
}

impl Expected {
    /// By how many bytes more it will hold, where somebody could look.
    pub(super) fn more_bytes(&self) -> Option<u64> {
        let of = self.forecast.as_ref()?;
        Some(of.then.bytes.saturating_sub(of.now.bytes))
    }

    fn write(&self, page: &mut Page<'_>) {
        let name = printable(&self.repository);
        if let Some(problem) = &self.problem {
            page.line(format!("{name}: {}", page.paint(Tone::Bad, &printable(problem))));
        }
        let Some(of) = &self.forecast else { return };
        page.line(format!(
            "{name}: {} now, and {} then, as {} of the 30 days before tell",
            units::count(of.backups_now, "backup", "backups"),
            units::grouped(of.backups_then),
            units::grouped(of.observed),
        ));
        page.line(format!(
            "{name}: of the new objects, {} stay for ever, as entries of the log and evidence of \
             drills; the number of others follows what is kept",
            units::grouped(of.lasting_objects),
        ));
        if !of.unknown.is_empty() {
            let unknown = printable(&of.unknown.join(", "));
            page.line(format!("{name}: there is no backup yet to tell anything of {unknown}"));
        }
    }
}

/// Tells it.
pub(super) async fn run(session: &Session) -> Result<()> {
    let promises = promises(session).await?;
    let mut shelf = Shelf::new(session);
    let (repositories, failure) = expected(&mut shelf, &promises).await;
    session.answer(&ForecastAnswer { from: Stamp(shelf.now), repositories })?;
    failure.map_or(Ok(()), Err)
}

/// What is to be expected of every repository, and why nobody could look into one.
pub(super) async fn expected(
    shelf: &mut Shelf<'_>,
    promises: &Promises,
) -> (Vec<Expected>, Option<Error>) {
    let now = shelf.now;
    let mut all: BTreeMap<&str, (&Config, Vec<Stake<'_>>)> = BTreeMap::new();
    for (config, database, state) in promises.held.databases(&promises.marks, now) {
        let Some(keeping) = Keeping::of(config, database) else { continue };
        let keeping = Keeping { state, ..keeping };
        for keeping in std::iter::once(keeping).chain(keeping.copies()) {
            // What is handed over lies in no repository.
            if !config.is_handoff(keeping.repository()) {
                let of = all.entry(keeping.repository()).or_insert_with(|| (config, Vec::new()));
                of.1.push(stake(config, &keeping));
            }
        }
    }
    let (mut repositories, mut failure) = (Vec::new(), None);
    for (name, (config, stakes)) in all {
        let reckoned = match shelf.open(config, name).await {
            Ok(opened) => forecast_storage(&opened, &stakes, now).await,
            Err(error) => Err(error),
        };
        let are_copies = stakes.iter().all(|stake| stake.copy.is_some());
        let (forecast, problem) = match reckoned {
            Ok(reckoned) => (Some(reckoned.into()), None),
            Err(error) if are_copies && error.code() == code::NO_REPOSITORY => {
                (None, Some("no copy was made there yet".to_owned()))
            }
            Err(error) => {
                let problem = told(&error);
                failure = failure.or(Some(error.with("repository", name)));
                (None, Some(problem))
            }
        };
        repositories.push(Expected { repository: name.to_owned(), forecast, problem });
    }
    (repositories, failure)
}

fn stake<'a>(config: &Config, keeping: &Keeping<'a>) -> Stake<'a> {
    let Keeping { database, policy, copy, state } = *keeping;
    let made_by = made_by(config, database, state);
    let subjects = keeping.subjects();
    Stake { database: &database.name, policy, copy, state, made_by, subjects }
}

/// Who makes backups of a database.
pub(super) fn made_by(config: &Config, database: &Database, state: State) -> MadeBy {
    if state != State::Active || config.is_observed(database) {
        MadeBy::Nobody
    } else if reach::drop_folder(database).is_some() {
        MadeBy::Others
    } else {
        MadeBy::Calendar
    }
}
