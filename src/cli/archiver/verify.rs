//! `stillpoint archive verify`: every byte and every row of archived files, read back; also of
//! second copies.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use stillpoint_contract::{ErrorKind, Result};

use super::place::Set;
use crate::{
    archiver::{self, Damage, Place, Verified},
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
    /// Files that no document names, and nobody misses: they are on their way, or were left by
    /// whoever was killed.
    unnamed_files: u64,
    against_ledger: bool,
    /// Whether destination tables were compared with the files.
    destination_compared: bool,
    /// What of second copies, where the policy wants some.
    #[serde(skip_serializing_if = "Option::is_none")]
    second: Option<SecondRow>,
    damages: Vec<DamageRow>,
    /// What to do about them.
    next: Vec<String>,
}

/// What was read back of second copies.
#[derive(Debug, Serialize)]
struct SecondRow {
    repository: String,
    batches: u64,
    rows: u64,
    bytes: u64,
    undecrypted_files: u64,
    unnamed_files: u64,
}

#[derive(Debug, Serialize)]
struct DamageRow {
    /// In which repository.
    repository: String,
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
        if self.unnamed_files > 0 {
            let files = units::count(self.unnamed_files, "file", "files");
            let what = format!("{files}: on their way, or left by whoever was killed");
            facts.push(("named nowhere", what));
        }
        if self.against_ledger {
            facts.push(("ledger", "compared".to_owned()));
        }
        if self.destination_compared {
            facts.push(("destination tables", "compared".to_owned()));
        }
        if let Some(second) = &self.second {
            let (rows, bytes) = (units::grouped(second.rows), units::bytes(second.bytes));
            let repository = printable(&second.repository);
            facts.push(("second copies", format!("{rows} rows, {bytes}, in {repository}")));
        }
        page.facts(2, &facts);
        for damage in &self.damages {
            let what = printable(&damage.what);
            // Where there are two places, it matters in which one.
            let place = self.second.as_ref().map(|_| printable(&damage.repository));
            let place = place.map_or_else(String::new, |place| format!("in {place}, "));
            page.line(match (&*damage.run, damage.batch) {
                ("", _) => format!("  {place}the set: {what}"),
                (run, 0) => format!("  {place}run {run}: {what}"),
                (run, batch) => format!("  {place}run {run}, batch {batch}: {what}"),
            });
        }
        for next in &self.next {
            page.line(format!("    {}", printable(next)));
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
    let (world, picks) = (&session.world, sample(session, percent));
    let mut verified = archiver::verify(&place, &world.cpu, ledger.as_deref(), picks).await?;
    let second = Box::pin(second(session, &set, &place, percent)).await;
    // What is compared row by row, and completely, is no sample, and no rows are read without keys.
    let has_tables = matches!(set.rule.destination, DestinationRule::Tables { .. });
    let mut destination_compared =
        has_tables && options.sample.is_none() && verified.undecrypted == 0;
    if destination_compared {
        let copies = set.copies(session, Arc::new(archiver::Nobody)).await?;
        let place = place.with_copies(copies);
        match Box::pin(archiver::verify_copies(&place)).await {
            // Without all documents nobody knows what tables should have.
            Err(error) if error.kind() == ErrorKind::Corrupt && !verified.damages.is_empty() => {
                destination_compared = false;
            }
            found => verified.damages.extend(found?),
        }
    }
    let mut found: Vec<(String, Damage)> = Vec::new();
    found.extend(verified.damages.into_iter().map(|one| (set.rule.to.clone(), one)));
    let second = second.map(|(repository, second)| {
        found.extend(second.damages.into_iter().map(|one| (repository.clone(), one)));
        SecondRow {
            repository,
            batches: second.batches,
            rows: second.rows,
            bytes: second.bytes,
            undecrypted_files: second.undecrypted,
            unnamed_files: second.unnamed,
        }
    });
    let status = match found.first() {
        None => exit::OK,
        Some((_, damage)) => exit::status(damage.error.kind()),
    };
    let own = format!("stillpoint archive verify {}", options.set);
    let mut next: Vec<String> = Vec::new();
    for advice in found.iter().flat_map(|(_, damage)| damage.error.advice()) {
        if advice != own && next.iter().all(|known| known != advice) {
            next.push(advice.to_owned());
        }
    }
    let damages = found.into_iter().map(|(repository, damage)| {
        let why = damage.error.reason().map(|why| format!(": {why}")).unwrap_or_default();
        let what = format!("{}{why}", told(&damage.error));
        DamageRow { repository, run: damage.run, batch: damage.batch, what }
    });
    session.answer(&VerifyAnswer {
        set: options.set,
        batches: verified.batches,
        rows: verified.rows,
        bytes: verified.bytes,
        undecrypted_files: verified.undecrypted,
        unnamed_files: verified.unnamed,
        against_ledger: options.against_ledger,
        destination_compared,
        second,
        damages: damages.collect(),
        next,
    })?;
    Ok(status)
}

/// Says of each batch whether it is looked at: of so many of a hundred, by chance.
fn sample(session: &Session, percent: u8) -> impl FnMut(&archiver::Batch) -> bool {
    let entropy = Arc::clone(&session.world.entropy);
    // A sample is never empty.
    let mut is_first = true;
    move |_| {
        let mut random = [0; 2];
        entropy.fill(&mut random);
        std::mem::take(&mut is_first) || u16::from_le_bytes(random) % 100 < u16::from(percent)
    }
}

/// Verifies second copies, where there are to be some, and says in which repository. That those
/// cannot be reached is told like damage: it keeps nobody from what was found at the first place.
async fn second(
    session: &Session,
    set: &Set,
    first: &Place,
    percent: u8,
) -> Option<(String, Verified)> {
    let look = async {
        let Some(second) = set.second_or_locked(session).await? else { return Ok(None) };
        let (cpu, picks) = (&session.world.cpu, sample(session, percent));
        Box::pin(archiver::verify_second(first, &second, cpu, picks)).await.map(Some)
    };
    let verified = match look.await {
        Ok(found) => found?,
        Err(error) => {
            let damages = vec![Damage { run: String::new(), batch: 0, error }];
            Verified { damages, ..Verified::default() }
        }
    };
    set.rule.gates.second_copy.clone().map(|repository| (repository, verified))
}
