//! From the name of an archive set to its rule, its store and its database.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use stillpoint_contract::{Driver, Error, ErrorKind, Result, code};

use crate::{
    archiver::{
        Aged, BackedUp, Copies, Destination, Gate, InTable, Keyring, Nobody, Place, SecondCopy,
        Witness,
    },
    cli::{
        config::reach,
        open::{self, Opened},
        serve,
        session::Session,
    },
    config::{Config, Database},
    policy::{ArchiveEncryption, ArchiveRule, DestinationRule},
    repository::descriptor::Encryption,
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

    /// Finds it; of a database without a set of the same name, all that there are of it.
    ///
    /// # Errors
    ///
    /// As [`of`](Self::of).
    pub(super) async fn all_of(session: &Session, name: &str) -> Result<Vec<Self>> {
        let config = serve::found(session).await?.config;
        let is_of_it = |rule: &&ArchiveRule| rule.database == name;
        let rules: Vec<ArchiveRule> = config.archives.values().filter(is_of_it).cloned().collect();
        if config.archives.contains_key(name) || rules.is_empty() {
            return Ok(vec![Self::of(session, name).await?]);
        }
        Ok(rules.into_iter().map(|rule| Self { config: config.clone(), rule }).collect())
    }

    /// Where its files are.
    pub(super) async fn place(&self, session: &Session) -> Result<Place> {
        let first = self.opened(session, &self.rule.to).await?;
        self.place_in(session, &self.rule.to, &first).await
    }

    /// The same; also where the key of an encrypted repository is not at hand.
    pub(super) async fn place_or_locked(&self, session: &Session) -> Result<Place> {
        let first = reach::repository_or_locked(session, &self.config, &self.rule.to).await?;
        self.place_in(session, &self.rule.to, &first).await
    }

    /// Where its files are, and where their rows are as well: for whoever changes what files hold.
    pub(super) async fn home(&self, session: &Session) -> Result<Place> {
        self.home_seen(session, Arc::new(Nobody)).await
    }

    /// The same; somebody is told of steps.
    pub(super) async fn home_seen(
        &self,
        session: &Session,
        witness: Arc<dyn Witness>,
    ) -> Result<Place> {
        let copies = self.copies(session, witness).await?;
        Ok(self.place(session).await?.with_copies(copies))
    }

    /// What of copies in tables of another database.
    pub(super) async fn copies(
        &self,
        session: &Session,
        witness: Arc<dyn Witness>,
    ) -> Result<Copies> {
        let (name, schema) = match &self.rule.destination {
            DestinationRule::None => return Ok(Copies::Unsaid),
            DestinationRule::GivenUp => return Ok(Copies::GivenUp),
            DestinationRule::Tables { database, schema } => (database, schema.clone()),
        };
        let (from, _) = reach::endpoint(session, self.database(&self.rule.database)?).await?;
        let (engine, endpoint) = reach::endpoint(session, self.database(name)?).await?;
        if engine.name() != from.name() {
            let step = "copy rows into tables of another database";
            return Err(Error::new(ErrorKind::Unsupported, code::CONFIG_VALUE, step)
                .with("rows of", from.name())
                .with("tables of", engine.name())
                .why("values of one engine would be others in another one")
                .next(
                    "name a database of the same engine: destination = { database = \"NAME\" }",
                ));
        }
        let driver = engine.connect(&endpoint).await?;
        let (name, world) = (name.clone(), session.world.clone());
        Ok(Copies::In(Destination { driver: driver.into(), name, schema, world, witness }))
    }

    fn database(&self, name: &str) -> Result<&Database> {
        self.config.databases.get(name).ok_or_else(|| {
            Error::new(ErrorKind::Config, code::CONFIG_NAME, "find the database")
                .with("given", name)
        })
    }

    /// Where its files are to be read: from second copies, where they are damaged or gone. That
    /// those cannot be reached stops nobody.
    pub(super) async fn place_to_read(&self, session: &Session) -> Result<Place> {
        let place = self.place(session).await?;
        let Some(name) = &self.rule.gates.second_copy else { return Ok(place) };
        Ok(match self.second(session, name).await {
            Ok(second) => place.with_second(second),
            Err(error) => {
                tracing::warn!(%error, repository = name, "second copies cannot be reached");
                place
            }
        })
    }

    /// Where its files are, and where second copies of them are.
    pub(super) async fn places(&self, session: &Session) -> Result<Vec<Place>> {
        let mut places = vec![self.home(session).await?];
        if let Some(name) = &self.rule.gates.second_copy {
            places.push(self.second(session, name).await?);
        }
        Ok(places)
    }

    /// Where second copies are.
    async fn second(&self, session: &Session, name: &str) -> Result<Place> {
        let first = self.opened(session, &self.rule.to).await?;
        let second = self.opened(session, name).await?;
        let is_encrypted = self.encrypts(&first)?;
        let has_secret = second.descriptor().encryption != Encryption::None;
        if is_encrypted && !has_secret {
            let step = "keep second copies of encrypted files";
            return Err(Error::new(ErrorKind::Refused, code::ARCHIVE_KEY, step)
                .with("repository", name)
                .why("it is not encrypted, and has no secret to wrap the keys of files with")
                .next("name a repository that is encrypted: second_copy = \"NAME\"")
                .next(format!("[archive.{}]  encryption = \"none\"", self.rule.name)));
        }
        if has_secret && !is_encrypted && self.rule.encryption.is_none() {
            let step = "keep files that are not encrypted in an encrypted repository";
            return Err(Error::new(ErrorKind::Refused, code::CONFIG_LACKS, step)
                .with("repository", name)
                .why("second copies are as the first ones are, and those are not encrypted")
                .next(format!("[archive.{}]  encryption = \"none\"", self.rule.name)));
        }
        self.place_in(session, name, &second).await
    }

    /// Where second copies are, if anywhere; also where the key of that repository is not at hand.
    pub(super) async fn second_or_locked(&self, session: &Session) -> Result<Option<Place>> {
        let Some(name) = &self.rule.gates.second_copy else { return Ok(None) };
        let opened = reach::repository_or_locked(session, &self.config, name).await?;
        self.place_in(session, name, &opened).await.map(Some)
    }

    /// When the log of each repository was last written, by the clocks of those who did: no clock
    /// that is right shows an earlier time.
    pub(super) async fn latest(&self, session: &Session) -> Result<Option<DateTime<Utc>>> {
        let mut latest = None;
        let second = self.rule.gates.second_copy.as_ref();
        for name in std::iter::once(&self.rule.to).chain(second) {
            let opened = self.opened(session, name).await?;
            latest = latest.max(opened.history().await?.latest());
        }
        Ok(latest)
    }

    /// Opens a repository, so that everything is checked that it has to be.
    async fn opened(&self, session: &Session, repository: &str) -> Result<Opened> {
        reach::repository(session, &self.config, repository).await
    }

    async fn place_in(
        &self,
        session: &Session,
        repository: &str,
        opened: &Opened,
    ) -> Result<Place> {
        let (url, _) = reach::place(session, &self.config, repository).await?;
        let store = open::store(session, &url, opened.descriptor().writers).await?;
        let place = Place::new(store, &self.rule.name)?;
        let encrypts = self.encrypts(opened)?;
        let domain = opened.key_domain().filter(|domain| domain.is_encrypted());
        let Some(domain) = domain.cloned() else { return Ok(place) };
        let entropy = Arc::clone(&session.world.entropy);
        Ok(place.with_keyring(Keyring::new(domain, entropy, encrypts)?))
    }

    /// Whether files that are written to a repository are encrypted.
    fn encrypts(&self, opened: &Opened) -> Result<bool> {
        let has_secret = opened.descriptor().encryption != Encryption::None;
        match self.rule.encryption {
            None => Ok(has_secret),
            Some(ArchiveEncryption::None) => Ok(false),
            Some(ArchiveEncryption::Repository) if has_secret => Ok(true),
            Some(ArchiveEncryption::Repository) => {
                let step = "encrypt files of archived rows";
                Err(Error::new(ErrorKind::Refused, code::ARCHIVE_KEY, step)
                    .with("repository", opened.location())
                    .why("it is not encrypted, and has no secret to wrap the keys of files with")
                    .next("send them to a repository that is encrypted: to = \"NAME\"")
                    .next(format!("[archive.{}]  encryption = \"none\"", self.rule.name)))
            }
        }
    }

    /// Its database.
    pub(super) async fn driver(&self, session: &Session) -> Result<Box<dyn Driver>> {
        let database = self.database(&self.rule.database)?;
        let (engine, endpoint) = reach::endpoint(session, database).await?;
        engine.connect(&endpoint).await
    }

    /// What must be so before rows are deleted from a database.
    pub(super) async fn gates(
        &self,
        session: &Session,
        place: &Place,
        driver: &dyn Driver,
    ) -> Result<Vec<Box<dyn Gate>>> {
        let wanted = &self.rule.gates;
        let mut gates: Vec<Box<dyn Gate>> = Vec::new();
        if let Some(age) = wanted.age {
            gates.push(Box::new(Aged(age)));
        }
        if let Some(name) = &wanted.second_copy {
            let (from, to) = (place.clone(), self.second(session, name).await?);
            gates.push(Box::new(SecondCopy { from, to, cpu: session.world.cpu.clone() }));
        }
        if wanted.verified_backup {
            let of = &self.config.databases[&self.rule.database];
            let opened = reach::repository(session, &self.config, &of.repository).await?;
            let (repository, database) = (opened.into_repository(), of.name.clone());
            let identity = driver.probe().await?.identity.id;
            gates.push(Box::new(BackedUp { repository, database, identity }));
        }
        // Last of all: what is there waits for nothing else.
        if matches!(self.rule.destination, DestinationRule::Tables { .. }) {
            gates.push(Box::new(InTable { place: place.clone() }));
        }
        Ok(gates)
    }
}
