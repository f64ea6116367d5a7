//! `stillpoint archive verify`: every byte and every row of archived files, read back.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use stillpoint_contract::Result;

use super::place::Set;
use crate::{
    archiver,
    cli::{
        answer::Answer,
        exit,
        page::{Page, Tone, printable},
        session::Session,
        units,
    },
    coordinator::told,
    policy::DestinationRule,
};

/// What `archive verify` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The archive set.
    set: String,
    /// Only about so many of a hundred batches, such as 1%, chosen by chance.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    sample: Option<u8>,
    /// All of them, which is the default.
    #[arg(long, conflicts_with = "sample")]
    full: bool,
    /// Compare also with the ledger in the database.
    #[arg(long)]
    against_ledger: bool,
}

fn percent(text: &str) -> std::result::Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse();
    number
        .ok()
        .filter(|percent| (1..=100).contains(percent))
        .ok_or_else(|| format!("`{text}` is not from 1% to 100%"))
}

#[derive(Debug, Serialize)]
struct VerifyAnswer {
    set: String,
    batches: u64,
    rows: u64,
    bytes: u64,
    /// Encrypted files that could only be compared with the hashes of their bytes.
    undecrypted_files: u64,
    against_ledger: bool,
    /// Whether destination tables were compared with the files.
    destination_compared: bool,
    damages: Vec<DamageRow>,
}

#[derive(Debug, Serialize)]
struct DamageRow {
    run: String,
    batch: u32,
    what: String,
}

impl Answer for VerifyAnswer {
    const SCHEMA: &'static str = "archive-verify/1";

    fn write(&self, page: &mut Page<'_>) {
        let (tone, word) = match self.damages.len() {
            0 => (Tone::Good, "intact"),
            _ => (Tone::Bad, "DAMAGED"),
        };
        let word = page.paint(tone, word);
        page.line(format!("Archive set {}: {word}", printable(&self.set)));
        let (rows, bytes) = (units::grouped(self.rows), units::bytes(self.bytes));
        let mut facts = vec![("read back", format!("{rows} rows, {bytes}"))];
        facts.push(("batches", self.batches.to_string()));
        if self.undecrypted_files > 0 {
            let files = units::count(self.undecrypted_files, "file", "files");
            let what = format!("{files}: only bytes were compared, without the repository's key");
            facts.push(("encrypted", what));
        }
        if self.against_ledger {
            facts.push(("ledger", "compared".to_owned()));
        }
        if self.destination_compared {
            facts.push(("destination tables", "compared".to_owned()));
        }
        page.facts(2, &facts);
        for damage in &self.damages {
            let what = printable(&damage.what);
            match damage.batch {
                0 => page.line(format!("  the set: {what}")),
                batch => page.line(format!("  run {}, batch {batch}: {what}", damage.run)),
            }
        }
    }
}

/// Verifies.
pub(super) async fn run(session: &Session, options: Options) -> Result<u8> {
    let set = Set::of(session, &options.set).await?;
    let place = set.place_or_locked(session).await?;
    let ledger = if options.against_ledger {
        let driver = set.driver(session).await?;
        Some(driver.rows().await?.ledger(&set.rule.name).await?)
    } else {
        None
    };
    let percent = options.sample.filter(|_| !options.full).unwrap_or(100);
    let entropy = &session.world.entropy;
    // A sample is never empty.
    let mut is_first = true;
    let picks = |_: &archiver::Batch| {
        let mut random = [0; 2];
        entropy.fill(&mut random);
        std::mem::take(&mut is_first) || u16::from_le_bytes(random) % 100 < u16::from(percent)
    };
    let world = &session.world;
    let mut verified = archiver::verify(&place, &world.cpu, ledger.as_deref(), picks).await?;
    // What is compared row by row, and completely, is no sample, and no rows are read without keys.
    let has_tables = matches!(set.rule.destination, DestinationRule::Tables { .. });
    let destination_compared = has_tables && options.sample.is_none() && verified.undecrypted == 0;
    if destination_compared {
        let copies = set.copies(session, Arc::new(archiver::Nobody)).await?;
        let place = place.with_copies(copies);
        verified.damages.extend(Box::pin(archiver::verify_copies(&place)).await?);
    }
    let status = match verified.damages.first() {
        None => exit::OK,
        Some(damage) => exit::status(damage.error.kind()),
    };
    let damages = verified.damages.into_iter().map(|damage| DamageRow {
        run: damage.run,
        batch: damage.batch,
        what: told(&damage.error),
    });
    session.answer(&VerifyAnswer {
        set: options.set,
        batches: verified.batches,
        rows: verified.rows,
        bytes: verified.bytes,
        undecrypted_files: verified.undecrypted,
        against_ledger: options.against_ledger,
        destination_compared,
        damages: damages.collect(),
    })?;
    Ok(status)
}
