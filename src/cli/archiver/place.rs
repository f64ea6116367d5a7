//! From the name of an archive set to its rule, its store and its database.

use std::sync::Arc;

use stillpoint_contract::{Driver, Error, ErrorKind, Result, code};

use crate::{
    archiver::{Aged, Gate, Place, SecondCopy},
    cli::{config::reach, open, serve, session::Session},
    config::Config,
    policy::ArchiveRule,
    repository::{
        descriptor::{DESCRIPTOR_BYTES_MAX, Descriptor, Encryption},
        names,
        store::Store,
    },
};

/// An archive set of the configuration.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) config: Config,
    pub(super) rule: ArchiveRule,
}

impl Set {
    /// Finds it.
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) with those that there are.
    pub(super) async fn of(session: &Session, name: &str) -> Result<Self> {
        let config = serve::found(session).await?.config;
        let rule = config.archives.get(name).cloned();
        let rule = rule.ok_or_else(|| {
            let known: Vec<&str> = config.archives.keys().map(String::as_str).collect();
            let error = Error::new(ErrorKind::Missing, code::NO_SUCH_ARCHIVE, "find the set")
                .with("given", name)
                .with(
                    "configured",
                    if known.is_empty() { "none".into() } else { known.join(", ") },
                );
            error.next("[archive.NAME]  database, root, where, cutoff")
        })?;
        Ok(Self { config, rule })
    }

    /// Where its files are.
    pub(super) async fn place(&self, session: &Session) -> Result<Place> {
        let store = self.store(session, &self.rule.to).await?;
        Place::new(store, &self.rule.name)
    }

    /// Where its files are, and where second copies of them are.
    pub(super) async fn places(&self, session: &Session) -> Result<Vec<Place>> {
        let first = self.place(session).await?;
        let mut places = vec![first];
        if let Some(name) = &self.rule.gates.second_copy {
            let store = self.store(session, name).await?;
            places.push(places[0].in_store(store));
        }
        Ok(places)
    }

    async fn store(&self, session: &Session, repository: &str) -> Result<Arc<dyn Store>> {
        // Opens it, so that everything is checked that a repository has to be.
        let opened = reach::repository(session, &self.config, repository).await?;
        let writers = opened.descriptor().writers;
        let (url, _) = reach::place(session, &self.config, repository).await?;
        let store = open::store(session, &url, writers).await?;
        self.admit_plain(&*store, repository).await?;
        Ok(store)
    }

    /// Files can be read by whoever reads the store: of an encrypted repository, somebody must
    /// have said that this is wanted.
    async fn admit_plain(&self, store: &dyn Store, repository: &str) -> Result<()> {
        let bytes = store.read(&names::descriptor(), DESCRIPTOR_BYTES_MAX).await?;
        let descriptor = bytes.map(|bytes| Descriptor::decode(&bytes)).transpose()?;
        let is_encrypted = descriptor.is_some_and(|one| one.encryption != Encryption::None);
        if !is_encrypted || self.rule.is_plain {
            return Ok(());
        }
        let step = "write files of rows into an encrypted repository";
        Err(Error::new(ErrorKind::Refused, code::CONFIG_LACKS, step)
            .with("repository", repository)
            .why("archived files are read by query engines, and are not encrypted")
            .next(format!("[archive.{}]  encryption = \"none\"", self.rule.name))
            .next("or send them to a repository that is not encrypted: to = \"NAME\""))
    }

    /// Its database.
    pub(super) async fn driver(&self, session: &Session) -> Result<Box<dyn Driver>> {
        let name = &self.rule.database;
        let database = self.config.databases.get(name).ok_or_else(|| {
            Error::new(ErrorKind::Config, code::CONFIG_NAME, "find the database")
                .with("given", name)
        })?;
        let (engine, endpoint) = reach::endpoint(session, database).await?;
        engine.connect(&endpoint).await
    }

    /// What must be so before rows are deleted.
    pub(super) async fn gates(
        &self,
        session: &Session,
        place: &Place,
    ) -> Result<Vec<Box<dyn Gate>>> {
        let wanted = &self.rule.gates;
        let mut gates: Vec<Box<dyn Gate>> = Vec::new();
        if let Some(age) = wanted.age {
            gates.push(Box::new(Aged(age)));
        }
        if let Some(name) = &wanted.second_copy {
            let store = self.store(session, name).await?;
            let (from, to) = (place.clone(), place.in_store(store));
            gates.push(Box::new(SecondCopy { from, to, cpu: session.world.cpu.clone() }));
        }
        if wanted.verified_backup {
            let of = &self.config.databases[&self.rule.database];
            let opened = reach::repository(session, &self.config, &of.repository).await?;
            let (repository, database) = (opened.into_repository(), of.name.clone());
            gates.push(Box::new(super::run::BackedUp { repository, database }));
        }
        Ok(gates)
    }
}
