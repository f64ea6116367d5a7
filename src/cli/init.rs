//! `stillpoint init`: creates a repository.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    answer::{Answer, Format},
    memory::Memory,
    open,
    page::Page,
    secret,
    session::Session,
};
use crate::repository::{
    InitOptions, Repository,
    descriptor::Writers,
    keys::{PassphraseCost, Secret},
    refuse_occupied,
    store::{self, Conditional, Store},
};

/// What `init` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Encrypt nothing: whoever can read the repository can read the databases.
    #[arg(long, conflicts_with_all = ["passphrase_file", "key_file", "recovery_key_file"])]
    no_encryption: bool,
}

#[derive(Debug, Serialize)]
struct InitAnswer {
    repository: String,
    place: String,
    encrypted: bool,
    opened_by: Option<&'static str>,
    several_writers: bool,
    warnings: Vec<String>,
}

impl Answer for InitAnswer {
    const SCHEMA: &'static str = "init/1";

    fn write(&self, page: &mut Page<'_>) {
        let encryption = match self.opened_by {
            Some(kind) => format!("AES-256-GCM, opened by a {kind}"),
            None => "none".to_owned(),
        };
        page.line(format!("Created a repository in {}", self.place));
        page.facts(2, &[("id", self.repository.as_str()), ("encryption", encryption.as_str())]);
    }
}

/// Creates the repository.
pub(crate) async fn run(session: &Session, options: Options) -> Result<()> {
    let place = session.place()?;
    let store = open::store(session, place, Writers::Many).await?;
    // Before the probe, which writes, and before anybody types a passphrase.
    refuse_occupied(&*store).await?;
    if options.no_encryption {
        refuse_unused_keys(session)?;
    }
    let secret = if options.no_encryption { None } else { Some(new_secret(session).await?) };
    let opened_by = secret.as_ref().map(Secret::kind);
    let (repository, writers) = create(session, place, secret).await?;
    let answer = InitAnswer {
        repository: repository.id().to_owned(),
        place: repository.location(),
        encrypted: opened_by.is_some(),
        opened_by,
        several_writers: writers == Writers::Many,
        warnings: warnings(writers),
    };
    answer.warnings.iter().for_each(|warning| session.warn(warning));
    session.answer(&answer)?;
    if answer.encrypted && session.global.output == Format::Text {
        session.note(
            "Nobody can read it without that secret, not even its makers. Print a second one and\n\
             keep it on paper, elsewhere:\n  stillpoint repo key export --recovery",
        );
    }
    Ok(())
}

/// Creates a repository where there is nothing.
pub(crate) async fn create(
    session: &Session,
    place: &str,
    secret: Option<Secret>,
) -> Result<(Repository, Writers)> {
    let store = open::store(session, place, Writers::Many).await?;
    refuse_occupied(&*store).await?;
    let (store, writers) = probed(session, place, store).await?;
    let options = InitOptions {
        secret: secret.map(|secret| (secret, "first".to_owned())),
        cost: PassphraseCost::DEFAULT,
        chunk_size: crate::pipeline::id::ChunkSize::DEFAULT,
        writers,
    };
    let repository = Repository::init(session.world.clone(), store, options).await?;
    Memory::of(&session.environment, repository.id(), &repository.location())
        .remember(repository.history().await?.head());
    Ok((repository, writers))
}

/// Creates an empty copy of a repository at a place. One that was there and is gone may be a file
/// system that is not mounted.
pub(crate) async fn create_replica(
    session: &Session,
    place: &str,
    source: &Repository,
    secret: Option<Secret>,
) -> Result<()> {
    let store = open::store(session, place, Writers::Many).await?;
    let memory = Memory::of(&session.environment, source.id(), &store.location());
    if memory.recall()?.is_some() {
        return Err(Error::new(ErrorKind::Missing, code::NO_REPOSITORY, "open the copy")
            .with("place", store.location())
            .why("it was there, and nothing is: a file system may not be mounted")
            .next("mount it, or make the copy anew elsewhere"));
    }
    refuse_occupied(&*store).await?;
    let (store, writers) = probed(session, place, store).await?;
    let made = source.init_replica(store, writers, secret.as_ref()).await?;
    memory.remember(made.history().await?.head());
    Ok(())
}

/// Finds out how many writers a store can stand.
async fn probed(
    session: &Session,
    place: &str,
    store: Arc<dyn Store>,
) -> Result<(Arc<dyn Store>, Writers)> {
    match store::probe(&*store, &*session.world.entropy).await? {
        Conditional::Linearizable => Ok((store, Writers::Many)),
        Conditional::Ignored => {
            let store = open::store(session, place, Writers::Single).await?;
            Ok((store, Writers::Single))
        }
    }
}

/// Every later command would refuse the key that the environment names: it would look as if
/// somebody had replaced the repository.
fn refuse_unused_keys(session: &Session) -> Result<()> {
    let keys = ["STILLPOINT_PASSPHRASE_FILE", "STILLPOINT_KEY_FILE"];
    match keys.into_iter().find(|name| session.environment.get(name).is_some()) {
        None => Ok(()),
        Some(name) => Err(Error::new(
            ErrorKind::Invalid,
            code::USAGE,
            "create a repository without encryption and with a key",
        )
        .with("environment", name)
        .why("a repository without encryption has no key, and later commands would refuse this one")
        .next(format!("unset {name}"))
        .next("or encrypt the repository: leave --no-encryption out")),
    }
}

fn warnings(writers: Writers) -> Vec<String> {
    match writers {
        Writers::Many => Vec::new(),
        Writers::Single => vec![
            "this store ignores create-if-absent: only one process may use the repository at a \
             time, and only you can see to that"
                .to_owned(),
        ],
    }
}

/// The secret of a new repository: from a file, or typed twice. A key file that is not there yet
/// is made.
async fn new_secret(session: &Session) -> Result<Secret> {
    if let Some(path) = &session.global.key_file
        && !path.exists()
    {
        let secret = Secret::new_key_file(&*session.world.entropy);
        secret::write_new_file(path, &secret)?;
        session.note(&format!("Made the key file {}", path.display()));
        return Ok(secret);
    }
    if session.global.recovery_key_file.is_some() {
        return Err(Error::new(ErrorKind::Invalid, code::USAGE, "begin with a recovery key")
            .why("a recovery key is the second key of a repository, for when the first is lost")
            .next("stillpoint init, then stillpoint repo key export --recovery"));
    }
    match open::given(session)? {
        Some(secret) => Ok(secret),
        None if secret::can_ask() => secret::ask_new().await,
        None => Err(Error::new(ErrorKind::Denied, code::NO_KEY, "choose a passphrase")
            .why("there is no terminal to ask on")
            .next("give --passphrase-file FILE, --key-file FILE or --no-encryption")),
    }
}
