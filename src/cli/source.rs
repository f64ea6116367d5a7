//! Which of several copies a command reads: the one that was named, or the first that answers.

use std::sync::Arc;

use clap::Args;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    choice::Labels,
    config::{files, reach},
    open::{self, Need, Opened},
    serve::found,
    session::Session,
};
use crate::{
    config::{Config, Database},
    pipeline::Meter,
    repository::{Pace, Replication, Repository, Road},
};

/// The name of the repository that a database is backed up to, beside those of its copies.
const ORIGINAL: &str = "primary";

/// Which copy is read.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SourceOptions {
    /// Read this copy of the configuration, or `primary`: what backups are written to. Without it,
    /// and without --repo, that is read, or else the first copy that answers.
    #[arg(long, value_name = "COPY")]
    pub from: Option<String>,
}

/// A place that a database can be read from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// The one that the command line or the environment names.
    Typed,
    /// A repository of the configuration, and what it is called for the database.
    Configured { name: String, repository: String },
}

/// The places that a database can be read from.
#[derive(Debug)]
pub(crate) struct Sources {
    config: Option<Arc<Config>>,
    need: Need,
    /// In the order in which they are tried.
    places: Vec<Place>,
    /// Where lost objects may be found.
    others: Vec<Place>,
}

/// An open source.
#[derive(Debug)]
pub(crate) struct Source {
    /// The repository.
    pub repository: Opened,
    /// Which it is, and why, for people.
    pub told: String,
    /// What it is called, where a configuration names it.
    pub name: Option<String>,
    /// What was damaged or missing there, and was brought back.
    pub repaired: Vec<String>,
}

/// An object that was damaged or missing, and the copy that it was brought back from.
pub(crate) type Mended = (String, String);

impl Sources {
    /// The places of a database.
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) when it has no such copy.
    pub(crate) async fn of(
        session: &Session,
        options: &SourceOptions,
        (database, need): (Option<&str>, Need),
    ) -> Result<Self> {
        let is_typed = options.from.is_none() && session.names_place();
        let alone = || Ok(Self::typed(None, need, Vec::new()));
        if is_typed && !names_config(session) {
            return alone();
        }
        let config = match configured(session).await {
            // Whoever has no configuration is told of --repo, as ever.
            Err(_) if options.from.is_none() && !names_config(session) => {
                return alone();
            }
            Err(_) if is_typed => return alone(),
            loaded => Arc::new(loaded?),
        };
        Self::in_config(config, options, is_typed, (database, need))
    }

    /// The places of databases that were chosen by their labels, and their names: those together
    /// that are in the same places.
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) when none fits, or one has no such copy.
    pub(crate) async fn labelled(
        session: &Session,
        options: &SourceOptions,
        (labels, need): (&Labels, Need),
    ) -> Result<Vec<(Self, Vec<String>)>> {
        let is_typed = options.from.is_none() && session.names_place();
        let config = Arc::new(configured(session).await?);
        let names = labels.names(&config)?;
        if is_typed {
            let others = everywhere(&config);
            return Ok(vec![(Self::typed(Some(config), need, others), names)]);
        }
        let mut groups: Vec<(Self, Vec<String>)> = Vec::new();
        for name in names {
            let of = (Some(name.as_str()), need);
            let sources = Self::in_config(Arc::clone(&config), options, is_typed, of)?;
            // Where nobody says `--from`, these are its others as well.
            let same = |(known, _): &&mut (Self, _)| known.places == sources.places;
            match groups.iter_mut().find(same) {
                Some((_, names)) => names.push(name),
                None => groups.push((sources, vec![name])),
            }
        }
        Ok(groups)
    }

    fn typed(config: Option<Arc<Config>>, need: Need, others: Vec<Place>) -> Self {
        Self { config, need, places: vec![Place::Typed], others }
    }

    fn in_config(
        config: Arc<Config>,
        options: &SourceOptions,
        is_typed: bool,
        (database, need): (Option<&str>, Need),
    ) -> Result<Self> {
        let own = database.and_then(|name| config.databases.get(name));
        let all = own.map_or_else(|| everywhere(&config), |database| places(&config, database));
        let is_original = |name: &&String| config.origin_of(name).is_none();
        let originals = config.restorable().filter(is_original).count();
        if is_typed {
            return Ok(Self::typed(Some(config), need, all));
        }
        let places = match &options.from {
            Some(from) => vec![named(&config, &all, from)?],
            None if own.is_some() || originals == 1 => all.clone(),
            None => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    code::USAGE,
                    "tell which repository is meant",
                )
                .with("configured", config.repositories.len())
                .next("give --repo DIR, or set STILLPOINT_REPO")
                .next("or name one of the configuration: --from NAME"));
            }
        };
        Ok(Self { config: Some(config), need, places, others: all })
    }

    /// Opens one of them. `because` says why those before it are not used.
    async fn open(&self, session: &Session, index: usize, because: Option<&str>) -> Result<Source> {
        let place = self.places.get(index).ok_or_else(|| Error::bug("find a source"))?;
        if let (Place::Configured { name, repository }, Some(config)) = (place, &self.config) {
            let repository = reach::repository(session, config, repository).await?;
            let mut told = format!("{name} ({})", repository.location());
            if let Some(because) = because {
                told = format!("{told}, because {because}");
            }
            return Ok(Source { repository, told, name: Some(name.clone()), repaired: Vec::new() });
        }
        let repository = open::repository(session, self.need).await?;
        let told = repository.location();
        Ok(Source { repository, told, name: None, repaired: Vec::new() })
    }

    /// Opens the first that answers.
    ///
    /// # Errors
    ///
    /// Why the first could not be opened, if none can.
    pub(crate) async fn first(&self, session: &Session) -> Result<Source> {
        self.next(session, &mut 0, &mut None).await
    }

    /// Opens the next one that answers. `first` is why the first does not serve.
    async fn next(
        &self,
        session: &Session,
        index: &mut usize,
        first: &mut Option<Error>,
    ) -> Result<Source> {
        while *index < self.places.len() {
            let because = first.as_ref().map(|error| self.because(error));
            let opened = self.open(session, *index, because.as_deref()).await;
            *index += 1;
            match opened {
                Ok(source) => {
                    if because.is_some() {
                        session.warn(&format!("reading {}", source.told));
                    }
                    return Ok(source);
                }
                Err(error) if may_be_elsewhere(&error) => drop(first.get_or_insert(error)),
                Err(error) => return Err(error),
            }
        }
        Err(first.take().unwrap_or_else(|| Error::bug("open one of no sources")))
    }

    /// Why the first one is not used.
    fn because(&self, error: &Error) -> String {
        let name = match self.places.first() {
            Some(Place::Configured { name, .. }) => name,
            _ => "the repository",
        };
        format!("{name} does not serve ({}: could not {error})", error.code())
    }

    /// Does `work` with the first source that serves. Where one turns out to be damaged, what it
    /// lacks of the database is brought back from another copy, and the work is done again.
    ///
    /// # Errors
    ///
    /// What `work` says, of the first source if none serves.
    pub(crate) async fn serve<T>(
        &self,
        session: &Session,
        database: &str,
        mut work: impl AsyncFnMut(&Source) -> Result<T>,
    ) -> Result<T> {
        let (mut index, mut first) = (0, None);
        loop {
            let mut source = self.next(session, &mut index, &mut first).await?;
            let mut done = work(&source).await;
            if done.as_ref().is_err_and(is_damage) {
                let mended = Box::pin(self.mend(session, &source.repository, &[database])).await;
                if !mended.is_empty() {
                    let told = |(object, copy): Mended| {
                        format!("{object} was damaged or missing, and was brought back from {copy}")
                    };
                    source.repaired = mended.into_iter().map(told).collect();
                    done = work(&source).await;
                }
            }
            match done {
                Err(error) if may_be_elsewhere(&error) => drop(first.get_or_insert(error)),
                done => return done,
            }
        }
    }

    /// Brings back what a repository lacks of some databases, or has not as it was written, from
    /// other copies, and tells of it.
    pub(crate) async fn mend(
        &self,
        session: &Session,
        broken: &Opened,
        databases: &[&str],
    ) -> Vec<Mended> {
        let mut mended = Vec::new();
        let Some(config) = &self.config else { return mended };
        for place in &self.others {
            let Place::Configured { name, repository } = place else { continue };
            let opened = reach::repository(session, config, repository).await;
            let Ok(copy) = opened else { continue };
            if copy.descriptor().log_id() == broken.descriptor().log_id() {
                continue;
            }
            for database in databases {
                match Box::pin(mend_from(session, &copy, broken, database)).await {
                    Ok(objects) => {
                        mended.extend(objects.into_iter().map(|object| (object, name.clone())));
                    }
                    Err(error) => {
                        session.warn(&format!("could not repair from {name}: {error}"));
                    }
                }
            }
        }
        for (object, name) in &mended {
            session.warn(&format!("{object} was damaged or missing: brought back from {name}"));
        }
        mended
    }
}

/// Brings back what lacks of one database.
async fn mend_from(
    session: &Session,
    copy: &Repository,
    broken: &Opened,
    database: &str,
) -> Result<Vec<String>> {
    let meter = Arc::new(Meter::default());
    let pace = Pace::new(Arc::clone(&session.world.clock), None);
    let road = Road { pace: &pace, may_go: &|| Ok(()), meter: &meter };
    let replication = Replication::to_mend(copy, broken, road)?;
    let mut lost = Vec::new();
    let work = async {
        let mut mended = Vec::new();
        let history = broken.history().await?;
        let theirs = copy.history().await?;
        for committed in history.live_of(database) {
            let backup = &committed.commit.backup;
            if theirs.commit(backup).is_none_or(|known| known.forgotten) {
                continue;
            }
            let repaired = async {
                let objects = replication.mend(committed).await?;
                if !objects.is_empty() || history.is_suspect(backup) {
                    replication.prove(backup).await?;
                }
                Ok(objects)
            };
            match repaired.await {
                // What one lacks on both sides keeps no other from being repaired.
                Err(error) if is_damage(&error) => lost.push((backup.clone(), error)),
                objects => mended.extend(objects?),
            }
        }
        mended.extend(replication.mend_log(database).await?);
        Ok(mended)
    };
    let subject = format!("repair {database}");
    let mended = session.watch(&subject, &meter, Box::pin(work)).await;
    for (backup, error) in lost {
        session.warn(&format!("{backup} is damaged on both sides: could not {error}"));
    }
    broken.remember().await?;
    mended
}

/// The copy that drills of a database restore, where its policy names one.
pub(crate) async fn drilled_from(session: &Session, database: &str) -> Option<String> {
    if session.names_place() {
        return None;
    }
    let config = configured(session).await.ok()?;
    let policy = config.policies.get(&config.databases.get(database)?.policy)?;
    policy.drill.as_ref()?.from.clone()
}

/// Opens what a command reads that looks at one database, or at all.
pub(crate) async fn open(
    session: &Session,
    options: &SourceOptions,
    (database, need): (Option<&str>, Need),
) -> Result<Opened> {
    Ok(Sources::of(session, options, (database, need)).await?.first(session).await?.repository)
}

/// The configuration, with what was discovered. Without its state, what is written down has to do:
/// it may be gone with everything else.
pub(crate) async fn configured(session: &Session) -> Result<Config> {
    match found(session).await {
        Ok(loaded) => Ok(loaded.config),
        Err(error) => {
            let loaded = files::sound(session)?;
            session.warn(&format!("what was discovered is not known here: could not {error}"));
            Ok(loaded.config)
        }
    }
}

fn names_config(session: &Session) -> bool {
    let variable = session.environment.get("STILLPOINT_CONFIG");
    session.global.config.is_some() || variable.is_some()
}

/// Whether another copy may have what one source does not give.
pub(crate) fn may_be_elsewhere(error: &Error) -> bool {
    is_damage(error)
        || [
            code::STORE_UNREACHABLE,
            code::STORE_DENIED,
            code::FILE,
            code::NO_REPOSITORY,
            code::FOREIGN_REPOSITORY,
            code::INCOMPLETE_REPOSITORY,
            code::NO_SUCH_DATABASE,
            code::NO_SUCH_BACKUP,
            code::UNREACHABLE_POINT,
        ]
        .contains(&error.code())
}

/// Whether an error is about stored objects that are not as they were written.
pub(crate) fn is_damage(error: &Error) -> bool {
    let codes =
        [code::CORRUPT_OBJECT, code::MISSING_OBJECT, code::BROKEN_LOG, code::BROKEN_SEGMENT];
    codes.contains(&error.code()) || error.kind() == ErrorKind::Corrupt && is_stored(error)
}

/// What the engine finds in a restored database is damage of another kind: it was backed up so.
fn is_stored(error: &Error) -> bool {
    error.code() != code::RESTORE_CHECK_FAILED
}

/// Every repository, originals first: what a copy lacks may be there.
fn everywhere(config: &Config) -> Vec<Place> {
    let mut names: Vec<&String> = config.restorable().collect();
    names.sort_by_key(|name| config.origin_of(name).is_some());
    let place = |name: &String| Place::Configured { repository: name.clone(), name: name.clone() };
    names.into_iter().map(place).collect()
}

/// Where a database is backed up to, and its copies.
fn places(config: &Config, database: &Database) -> Vec<Place> {
    let place = |name: &str, repository: &str| Place::Configured {
        name: name.to_owned(),
        repository: repository.to_owned(),
    };
    let mut places = vec![place(&database.repository, &database.repository)];
    let policy = config.policies.get(&database.policy);
    let copies = policy.map(|policy| policy.copies.as_slice()).unwrap_or_default();
    // What was handed over is others' to restore.
    let copies = copies.iter().filter(|copy| !config.is_handoff(&copy.to));
    places.extend(copies.map(|copy| place(&copy.name, &copy.to)));
    places
}

/// The one that somebody named: by its name, as that of the original, or by its repository's.
fn named(config: &Config, places: &[Place], from: &str) -> Result<Place> {
    let of = |place: &&Place| match place {
        Place::Configured { name, .. } => name == from,
        Place::Typed => false,
    };
    let original = places.first().filter(|_| from == ORIGINAL);
    let repository = config
        .restorable()
        .any(|name| name == from)
        .then(|| Place::Configured { name: from.to_owned(), repository: from.to_owned() });
    let found = places.iter().find(of).or(original).cloned().or(repository);
    found.ok_or_else(|| {
        let known = places.iter().map(|place| match place {
            Place::Configured { name, .. } => name.as_str(),
            Place::Typed => "-",
        });
        Error::new(ErrorKind::Missing, code::CONFIG_NAME, "find the copy")
            .with("given", from)
            .with("configured", known.collect::<Vec<_>>().join(", "))
            .next("stillpoint copy list")
    })
}
