//! `stillpoint archive reattach`: a partition that was taken out, put back.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use stillpoint_contract::Result;

use super::{place::Set, run::Watcher};
use crate::{
    archiver::{Archiving, Limits},
    cli::{
        answer::{Answer, Stamp},
        exit,
        page::{Page, printable},
        session::Session,
    },
    pipeline::Meter,
};

/// What `archive reattach` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The archive set.
    set: String,
    /// The partition, or the run that took it out: archive status shows both.
    partition: String,
}

#[derive(Debug, Serialize)]
struct ReattachAnswer {
    set: String,
    partition: String,
    table: String,
    bounds: String,
    run: String,
    /// Until when runs leave it alone; `null` for ever.
    left_until: Option<Stamp>,
}

impl Answer for ReattachAnswer {
    const SCHEMA: &'static str = "archive-reattach/1";

    fn write(&self, page: &mut Page<'_>) {
        let (partition, table) = (printable(&self.partition), printable(&self.table));
        page.line(format!("{partition} is a partition of {table} again"));
        let until = self.left_until.map_or_else(|| "never".to_owned(), |at| page.time(at.0));
        page.facts(
            2,
            &[
                ("bounds", printable(&self.bounds)),
                ("taken out by", self.run.clone()),
                ("archived again", format!("after {until}")),
            ],
        );
    }
}

/// Puts it back.
pub(super) async fn run(session: &Session, options: Options) -> Result<u8> {
    let set = Set::of(session, &options.set).await?;
    let place = set.home(session).await?;
    let driver = set.driver(session).await?;
    let gates = set.gates(session, &place, &*driver).await?;
    let witness = Watcher::new(Arc::new(Meter::default()));
    let archiving = Archiving {
        driver: &*driver,
        place: &place,
        world: &session.world,
        rule: &set.rule,
        gates: &gates,
        limits: Limits::default(),
        witness: &witness,
    };
    let done = archiving.reattach(&options.partition).await?;
    session.answer(&ReattachAnswer {
        set: options.set,
        partition: done.partition.name,
        table: done.partition.parent,
        bounds: done.partition.bounds,
        run: done.run,
        left_until: done.left_until.map(Stamp),
    })?;
    Ok(exit::OK)
}
