//! `stillpoint repo key`: who can open the repository.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    answer::{Answer, Stamp},
    open::{self, Need, Opened},
    page::{Page, Table, Tone},
    secret,
    session::Session,
};
use crate::repository::keys::{KeySlot, Method, PassphraseCost, Secret};

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List who can open the repository.
    List,
    /// Let another passphrase open the repository.
    Add(AddOptions),
    /// Keep a passphrase or key from opening the repository again.
    ///
    /// What its holder has already read stays known to them.
    Remove(RemoveOptions),
    /// Make another key, and hand it out: a recovery key on paper, or a key file.
    ///
    /// This is the only command that prints a secret, and only with --recovery.
    Export(ExportOptions),
}

/// What `repo key add` is told.
#[derive(Debug, Args)]
pub(crate) struct AddOptions {
    /// A file with the new passphrase; otherwise it is asked for.
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    new_passphrase_file: Option<PathBuf>,
    /// What to call it in lists.
    #[arg(long, value_name = "TEXT", default_value = "added")]
    label: String,
}

/// What `repo key remove` is told.
#[derive(Debug, Args)]
pub(crate) struct RemoveOptions {
    /// The key, as `repo key list` names it, or how that begins.
    slot: String,
}

/// What `repo key export` is told.
#[derive(Debug, Args)]
#[group(required = true, multiple = false, args = ["recovery", "new_key_file"])]
pub(crate) struct ExportOptions {
    /// Print a new recovery key on standard output. It is shown once: keep it on paper.
    #[arg(long)]
    recovery: bool,
    /// Write a new key file here.
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    new_key_file: Option<PathBuf>,
    /// What to call it in lists.
    #[arg(long, value_name = "TEXT", default_value = "exported")]
    label: String,
}

#[derive(Debug, Serialize)]
struct Key {
    slot: String,
    opened_by: &'static str,
    label: String,
    created_at: Stamp,
}

impl From<&KeySlot> for Key {
    fn from(slot: &KeySlot) -> Self {
        Self {
            slot: slot.id().to_string(),
            opened_by: match slot.method() {
                Method::Passphrase { .. } => "passphrase",
                Method::KeyFile => "key file",
                Method::Recovery => "recovery key",
            },
            label: slot.label().to_owned(),
            created_at: Stamp(slot.created_at()),
        }
    }
}

#[derive(Debug, Serialize)]
struct ListAnswer {
    keys: Vec<Key>,
}

impl Answer for ListAnswer {
    const SCHEMA: &'static str = "repo.key.list/1";

    fn write(&self, page: &mut Page<'_>) {
        if self.keys.is_empty() {
            page.line("The repository is not encrypted: it has no keys.");
            return;
        }
        let mut table = Table::new(&["KEY", "OPENED BY", "LABEL", "MADE"]);
        for key in &self.keys {
            let made = page.time(key.created_at.0);
            table.row(vec![key.slot.clone(), key.opened_by.to_owned(), key.label.clone(), made]);
        }
        page.table(&table);
    }
}

#[derive(Debug, Serialize)]
struct ChangeAnswer {
    change: &'static str,
    key: Key,
    /// Only of `export --recovery`.
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery_key: Option<String>,
    /// Only of `export --new-key-file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    warnings: Vec<String>,
}

impl Answer for ChangeAnswer {
    const SCHEMA: &'static str = "repo.key/1";

    fn write(&self, page: &mut Page<'_>) {
        let Self { change, key, .. } = self;
        page.line(format!("Key {} ({}) was {change}", key.slot, key.opened_by));
        if let Some(recovery_key) = &self.recovery_key {
            page.blank();
            page.line(format!("  {}", page.paint(Tone::Strong, recovery_key)));
            page.blank();
            page.line("It opens the repository and is shown only now. To use it, write it into a");
            page.line("file and give --recovery-key-file FILE.");
        }
        if let Some(file) = &self.file {
            page.line(format!("  in the file {file}, which only its owner may read"));
        }
    }
}

/// Does it.
pub(crate) async fn run(session: &Session, command: Command) -> Result<()> {
    match command {
        Command::List => list(session).await,
        Command::Add(options) => add(session, options).await,
        Command::Remove(options) => remove(session, options).await,
        Command::Export(options) => export(session, options).await,
    }
}

async fn list(session: &Session) -> Result<()> {
    let repository = open::repository(session, Need::Names).await?;
    let slots = repository.key_slots().await?;
    session.answer(&ListAnswer { keys: slots.iter().map(Key::from).collect() })
}

async fn add(session: &Session, options: AddOptions) -> Result<()> {
    let repository = encrypted(session).await?;
    let secret = match &options.new_passphrase_file {
        Some(path) => secret::passphrase_of_file(path)?,
        None if secret::can_ask() => secret::ask_new().await?,
        None => {
            return Err(Error::new(ErrorKind::Denied, code::NO_KEY, "choose a passphrase")
                .why("there is no terminal to ask on")
                .next("give --new-passphrase-file FILE"));
        }
    };
    let slot = repository.add_key(&secret, &options.label, PassphraseCost::DEFAULT).await?;
    finish(session, &repository, "added", &slot, None, None).await
}

async fn remove(session: &Session, options: RemoveOptions) -> Result<()> {
    let repository = encrypted(session).await?;
    let slot = repository.remove_key(&options.slot).await?;
    finish(session, &repository, "removed", &slot, None, None).await
}

async fn export(session: &Session, options: ExportOptions) -> Result<()> {
    let repository = encrypted(session).await?;
    let entropy = &*session.world.entropy;
    let secret = match &options.new_key_file {
        Some(path) => {
            let secret = Secret::new_key_file(entropy);
            secret::write_new_file(path, &secret)?;
            secret
        }
        None => Secret::new_recovery(entropy),
    };
    let slot = repository.add_key(&secret, &options.label, PassphraseCost::DEFAULT).await?;
    let recovery_key = options.recovery.then(|| secret.text().to_string());
    let file = options.new_key_file.map(|path| path.display().to_string());
    finish(session, &repository, "added", &slot, recovery_key, file).await
}

async fn encrypted(session: &Session) -> Result<Opened> {
    let repository = open::repository(session, Need::Content).await?;
    if repository.descriptor().signing_key.is_some() {
        return Ok(repository);
    }
    Err(Error::new(ErrorKind::Unsupported, code::KEY_SLOT, "change the keys of the repository")
        .with("place", repository.location())
        .why("it was made with --no-encryption and has none"))
}

async fn finish(
    session: &Session,
    repository: &Opened,
    change: &'static str,
    slot: &KeySlot,
    recovery_key: Option<String>,
    file: Option<String>,
) -> Result<()> {
    repository.remember().await?;
    let slots = repository.key_slots().await?;
    let opens = |slot: &KeySlot| matches!(slot.method(), Method::Passphrase { .. });
    let mut warnings = Vec::new();
    if change == "removed" && !slots.iter().any(opens) {
        let only = "no passphrase opens the repository any more: keep its key files and recovery \
                    keys where a disaster does not reach them";
        warnings.push(only.to_owned());
    }
    for warning in &warnings {
        session.warn(warning);
    }
    session.answer(&ChangeAnswer { change, key: Key::from(slot), recovery_key, file, warnings })
}
