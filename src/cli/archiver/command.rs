//! What can be done with archive sets.

use clap::Subcommand;
use stillpoint_contract::Result;

use super::{
    control, erase, erasure, event, expire, hold, plan, publish, read, reattach, reclaim,
    reconcile, restore, run as carry_out, show, verify,
};
use crate::cli::session::Session;

/// What to do with archive sets.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what a run would move, and what speaks against it; changes nothing.
    Plan(plan::Options),
    /// Move rows into files and, once those were read back, delete them from their tables.
    ///
    /// Goes on with a run that was interrupted. It may be killed at any moment: each row is in its
    /// table or in a durable file that the ledger in the database names.
    Run(carry_out::Options),
    /// Show how far a run is, and what it was told.
    Status(control::NameOptions),
    /// Let runs of a set rest until they are told to go on; also one that works now.
    ///
    /// Nothing is read, deleted or taken out of its table meanwhile: a run by hand waits, also
    /// before it begins, and one that was scheduled ends and is put off. A transaction, or a file,
    /// that is being written comes to its end first.
    Pause(control::NameOptions),
    /// Let them go on.
    Resume(control::NameOptions),
    /// Change how they work; also one that works now.
    Set(control::SetOptions),
    /// Show the archive sets of a repository, or the runs of one.
    Ls(show::ListOptions),
    /// Show a run of a set: its plan, its batches and their files.
    Show(show::ShowOptions),
    /// Read files back, and decode every row.
    Verify(verify::Options),
    /// Print archived rows by their key.
    Get(read::GetOptions),
    /// Print archived rows.
    Scan(read::ScanOptions),
    /// Put archived rows back into their table, or into a new one beside it.
    Restore(restore::Options),
    /// Put a partition back that was taken out of its table and is not dropped yet.
    ///
    /// The archive has its rows no more from the same moment on, and runs leave it alone for as
    /// long as `grace` says.
    Reattach(reattach::Options),
    /// Forbid to remove or erase archived rows.
    #[command(subcommand)]
    Hold(hold::HoldCommand),
    /// Record what happened to whom, from which it counts how long rows are kept.
    #[command(subcommand)]
    Event(event::EventCommand),
    /// Take somebody's rows out of all files, now and should they come back.
    Erase(erase::EraseOptions),
    /// Show who was erased, as far as that may be known, or end an erasure.
    #[command(subcommand)]
    Erasure(erasure::ErasureCommand),
    /// Remove rows whose time is over: files whose month has come, and rows of those to whom
    /// something happened long enough ago.
    Expire(expire::ExpireOptions),
    /// Print or write what makes archived rows tables of a query engine.
    Publish(publish::Options),
    /// Show what became of the space of archived rows, and let it be used again.
    Reclaim(reclaim::Options),
    /// After a restore of the database: show which archived rows live in their tables again.
    Reconcile(reconcile::Options),
}

/// Does it.
pub(crate) async fn run(session: &Session, command: Command) -> Result<u8> {
    match command {
        Command::Plan(options) => plan::run(session, options).await,
        Command::Run(options) => Box::pin(carry_out::run(session, options)).await,
        Command::Ls(options) => show::list(session, options).await,
        Command::Show(options) => show::show(session, options).await,
        Command::Verify(options) => verify::run(session, options).await,
        Command::Get(options) => read::get(session, options).await,
        Command::Scan(options) => read::scan(session, options).await,
        Command::Restore(options) => Box::pin(restore::run(session, options)).await,
        Command::Reattach(options) => Box::pin(reattach::run(session, options)).await,
        Command::Status(options) => control::status(session, options).await,
        Command::Pause(options) => control::pause(session, options, true).await,
        Command::Resume(options) => control::pause(session, options, false).await,
        Command::Set(options) => control::set(session, options).await,
        Command::Hold(command) => hold::run(session, command).await,
        Command::Erase(options) => Box::pin(erase::run(session, options)).await,
        Command::Erasure(command) => erasure::run(session, command).await,
        Command::Event(command) => event::run(session, command).await,
        Command::Expire(options) => Box::pin(expire::run(session, options)).await,
        Command::Publish(options) => publish::run(session, options).await,
        Command::Reclaim(options) => Box::pin(reclaim::run(session, options)).await,
        Command::Reconcile(options) => Box::pin(reconcile::run(session, options)).await,
    }
}
