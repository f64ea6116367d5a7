//! `stillpoint archive erasure`: who was erased, as far as that may be known, and until when.

use clap::{Args, Subcommand};
use serde::Serialize;
use stillpoint_contract::Result;

use super::place::Set;
use crate::{
    archiver::{Erasure, ErasureRevoked, erasures, revoke},
    cli::{
        answer::{Answer, Stamp},
        exit,
        page::{Page, Table, printable},
        session::Session,
    },
};

/// What to do with erasures.
#[derive(Debug, Subcommand)]
pub(crate) enum ErasureCommand {
    /// List the erasures of a set; whom they are about is only a hash.
    Ls(ListOptions),
    /// End an erasure: what is gone stays gone, and rows that are archived from then on stay.
    Revoke(RevokeOptions),
}

/// What `archive erasure ls` is told.
#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    /// The archive set.
    set: String,
}

/// What `archive erasure revoke` is told.
#[derive(Debug, Args)]
pub(crate) struct RevokeOptions {
    /// The archive set.
    set: String,
    /// The erasure, by its id.
    erasure: String,
    /// Why, for those who ask later.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Debug, Serialize)]
struct ErasuresAnswer {
    set: String,
    erasures: Vec<ErasureRow>,
}

#[derive(Debug, Serialize)]
struct ErasureRow {
    id: String,
    table: String,
    column: String,
    /// The hash of the value under the erasure's own salt.
    subject: String,
    reason: String,
    by: String,
    at: Stamp,
    revoked: Option<RevokedRow>,
}

#[derive(Debug, Serialize)]
struct RevokedRow {
    reason: String,
    by: String,
    at: Stamp,
}

impl ErasureRow {
    fn of((erasure, end): (Erasure, Option<ErasureRevoked>)) -> Self {
        let Erasure { id, subject, reason, by, at } = erasure;
        let (table, column, subject) =
            (subject.table.unwrap_or_default(), subject.column, subject.subject);
        let revoked = end.map(|ErasureRevoked { reason, by, at, .. }| {
            let at = Stamp(at);
            RevokedRow { reason, by, at }
        });
        Self { id, table, column, subject, reason, by, at: Stamp(at), revoked }
    }
}

impl Answer for ErasuresAnswer {
    const SCHEMA: &'static str = "archive-erasures/1";

    fn write(&self, page: &mut Page<'_>) {
        if self.erasures.is_empty() {
            page.line(format!("Nobody was erased from archive set {}.", printable(&self.set)));
            return;
        }
        let mut table = Table::new(&["ERASURE", "OF", "AT", "BY", "REASON", "REVOKED"]);
        for one in &self.erasures {
            let hash = one.subject.get(..12).unwrap_or_default();
            let revoked = one.revoked.as_ref();
            table.row(vec![
                one.id.clone(),
                format!("{}.{} {hash}", one.table, one.column),
                page.time(one.at.0),
                one.by.clone(),
                one.reason.clone(),
                revoked.map_or_else(|| "no".to_owned(), |end| page.time(end.at.0)),
            ]);
        }
        page.table(&table);
    }
}

/// Does it.
pub(super) async fn run(session: &Session, command: ErasureCommand) -> Result<u8> {
    let name = match command {
        ErasureCommand::Ls(options) => options.set,
        ErasureCommand::Revoke(RevokeOptions { set, erasure, reason }) => {
            let place = Set::of(session, &set).await?.place(session).await?;
            revoke(&place, &session.world, &erasure, (&reason, &session.user())).await?;
            set
        }
    };
    let place = Set::of(session, &name).await?.place(session).await?;
    let erasures = erasures(&place).await?.into_iter().map(ErasureRow::of).collect();
    session.answer(&ErasuresAnswer { set: name, erasures })?;
    Ok(exit::OK)
}
