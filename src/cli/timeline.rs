//! `stillpoint timeline`: which moments of a database can be restored.

use std::{cell::Cell, time::Duration};

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;
use stillpoint_contract::{LogEvent, Result};

use super::{
    answer::{Answer, Stamp},
    bar,
    choice::{Labels, each},
    exit,
    open::{Need, Opened},
    page::{Page, Table, Tone},
    reach::Reach,
    session::{Session, length},
    source::{self, SourceOptions, Sources},
    units,
    wire::{Backup, Event, Gap, Point, Stretch},
};
use crate::coordinator;

/// How many events are shown, the newest ones.
const EVENTS_MAX: usize = 50;

/// What `timeline` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The database, by the name that `list` shows.
    #[arg(required_unless_present = "labels")]
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
    /// Only this long before now, such as 14d.
    #[arg(long, value_name = "LENGTH")]
    last: Option<String>,
    /// Also lost files whose names are not known.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    source: SourceOptions,
}

#[derive(Debug, Serialize)]
struct TimelineAnswer {
    database: String,
    now: Stamp,
    stretches: Vec<Stretch>,
    gaps: Vec<Gap>,
    open_gap: Option<String>,
    backups: Vec<Backup>,
    events: Vec<Event>,
    events_left_out: usize,
    unnamed_left_out: u64,
    warnings: Vec<String>,
}

impl TimelineAnswer {
    /// Leaves out what ended before `since`; a stretch that spans it stays whole.
    fn since(mut self, since: Option<DateTime<Utc>>) -> Self {
        if let Some(since) = since {
            self.stretches.retain(|stretch| stretch.to.at.0 >= since);
            self.gaps.retain(|gap| gap.before.at.0 >= since);
            self.backups.retain(|backup| backup.at.0 >= since);
            self.events.retain(|event| event.point.at.0 >= since);
        }
        self
    }

    fn limits(&self) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        Some((self.stretches.first()?.from.at.0, self.stretches.last()?.to.at.0))
    }
}

impl Answer for TimelineAnswer {
    const SCHEMA: &'static str = "timeline/1";

    fn write(&self, page: &mut Page<'_>) {
        let Some((from, to)) = self.limits() else {
            page.line(format!("No moment of {} can be restored yet.", self.database));
            return;
        };
        let left = page.time(from);
        let right = if from == to { String::new() } else { page.time(to) };
        let columns = page.width().saturating_sub(2).min(100);
        let space = columns.saturating_sub(left.len() + right.len()).max(2);
        page.line(format!("  {left}{}{right}", " ".repeat(space)).trim_end());
        let stretches: Vec<_> = self.stretches.iter().map(|s| (s.from.at.0, s.to.at.0)).collect();
        let ticks: Vec<_> = self
            .backups
            .iter()
            .map(|backup| (backup.at.0, if backup.incremental { 'i' } else { 'F' }))
            .collect();
        let columns = columns.max(left.len() + right.len() + 2);
        let drawn = bar::draw((from, to), &stretches, &ticks, columns);
        page.line(format!("  {}", page.paint(Tone::Good, &drawn)));
        page.line(
            page.paint(Tone::Faint, "  F full backup  i incremental backup  = any commit  x gap"),
        );
        page.blank();
        self.write_stretches(page);
        self.write_gaps(page);
        page.blank();
        Backup::table(page, &self.backups);
        self.write_events(page);
    }
}

impl TimelineAnswer {
    fn write_stretches(&self, page: &mut Page<'_>) {
        let mut table = Table::new(&["RESTORABLE FROM", "TO", "POSITIONS"]);
        for stretch in &self.stretches {
            let position = |point: &Point| point.shown().cloned().unwrap_or_else(|| "-".to_owned());
            let positions = if stretch.from == stretch.to {
                position(&stretch.from)
            } else {
                format!("{} .. {}", position(&stretch.from), position(&stretch.to))
            };
            table.row(vec![
                page.time(stretch.from.at.0),
                if stretch.from == stretch.to {
                    "only this moment".to_owned()
                } else {
                    page.time(stretch.to.at.0)
                },
                positions,
            ]);
        }
        page.table(&table);
        if let Some((_, to)) = self.limits() {
            let behind = (self.now.0 - to).to_std().unwrap_or(Duration::ZERO);
            page.line(format!("The newest moment is {} old.", units::duration(behind)));
        }
    }

    fn write_events(&self, page: &mut Page<'_>) {
        if self.events.is_empty() && self.unnamed_left_out == 0 {
            return;
        }
        page.blank();
        let mut table = Table::new(&["EVENT AT", "POSITION", "WHAT"]);
        for event in &self.events {
            let position = event.point.shown().cloned().unwrap_or_else(|| "-".to_owned());
            table.row(vec![page.time(event.point.at.0), position, event.words()]);
        }
        if !self.events.is_empty() {
            page.table(&table);
        }
        if self.events_left_out > 0 {
            page.line(format!("{} older ones are not shown.", self.events_left_out));
        }
        if self.unnamed_left_out > 0 {
            let (one, several) = ("lost file", "lost files");
            let files = units::count(self.unnamed_left_out, one, several);
            page.line(format!("{files} without a known name: --all lists them."));
        }
    }

    fn write_gaps(&self, page: &mut Page<'_>) {
        for gap in &self.gaps {
            let length = (gap.before.at.0 - gap.after.at.0).to_std().unwrap_or(Duration::ZERO);
            page.line(format!(
                "{} of {} between {} and {}: {}",
                page.paint(Tone::Bad, "gap"),
                units::duration(length),
                page.time(gap.after.at.0),
                page.time(gap.before.at.0),
                gap.why.as_deref().unwrap_or("no log was captured"),
            ));
            if let (Some(after), Some(before)) = (gap.after.shown(), gap.before.shown()) {
                page.line(format!("    after {after}, before {before}"));
            }
        }
        if let (Some(why), Some((_, to))) = (&self.open_gap, self.limits()) {
            page.line(format!(
                "{} since {}: {why}; the next backup closes it",
                page.paint(Tone::Bad, "gap"),
                page.time(to),
            ));
        }
    }
}

/// Shows the timeline, or several, one after the other.
pub(crate) async fn run(session: &Session, options: Options) -> Result<u8> {
    if let Some(database) = &options.database {
        let of = (Some(database.as_str()), Need::Content);
        let repository = source::open(session, &options.source, of).await?;
        return show(session, &options, (&repository, database)).await;
    }
    let mut worst = exit::OK;
    let of = (&options.labels, Need::Content);
    for (sources, names) in Sources::labelled(session, &options.source, of).await? {
        let repository = sources.first(session).await?.repository;
        let work = async |name: &str| show(session, &options, (&repository, name)).await;
        worst = worst.max(each(session, &names, work).await);
    }
    Ok(worst)
}

async fn show(
    session: &Session,
    options: &Options,
    (repository, database): (&Opened, &str),
) -> Result<u8> {
    let now = session.world.clock.now();
    let since = options.last.as_deref().map(length).transpose()?;
    let since =
        since.and_then(|length| now.checked_sub_signed(chrono::TimeDelta::from_std(length).ok()?));
    let is_since = |at: DateTime<Utc>| since.is_none_or(|since| at >= since);
    let timeline = repository.timeline(database).await?;
    let Reach { stretches, gaps, open_gap } = Reach::of(&timeline, session.native());
    let unnamed = Cell::new(0_u64);
    let wanted = |event: &LogEvent| {
        let is_hidden = event.what.is_unnamed() && !options.all;
        let is_since = is_since(event.at);
        unnamed.set(unnamed.get() + u64::from(is_hidden && is_since));
        is_since && !is_hidden
    };
    let events = coordinator::events(repository, &timeline, EVENTS_MAX, wanted).await?;
    let render = |position: &_| session.native().render_of(&timeline, position);
    let answer = TimelineAnswer {
        database: database.to_owned(),
        now: Stamp(now),
        stretches,
        gaps,
        open_gap,
        backups: timeline
            .backups
            .iter()
            .map(|backup| Backup::of(&backup.commit, session.native()))
            .collect(),
        events: events.newest.into_iter().map(|event| Event::of(event, &render)).collect(),
        events_left_out: events.left_out,
        unnamed_left_out: unnamed.get(),
        warnings: timeline.clock_doubt().into_iter().chain(timeline.problems.clone()).collect(),
    };
    answer.warnings.iter().for_each(|warning| session.warn(warning));
    session.answer(&answer.since(since))?;
    Ok(exit::OK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{
        answer::{Format, render},
        page::Look,
        zone::Zone,
    };

    fn stamp(text: &str) -> Stamp {
        Stamp(text.parse().unwrap())
    }

    fn point(at: &str, position: &str) -> Point {
        Point { at: stamp(at), position: Some(position.to_owned()), engine_position: None }
    }

    fn backup(id: &str, at: &str, incremental: bool) -> Backup {
        Backup {
            id: id.to_owned(),
            database: "shop.db".to_owned(),
            engine: "sqlite".to_owned(),
            at: stamp(at),
            position: None,
            engine_position: None,
            incremental,
            size_bytes: 20 << 20,
            stored_bytes: 3 << 20,
            started_at: stamp(at),
            finished_at: stamp(at),
            proof: None,
            problem: None,
        }
    }

    fn sample() -> TimelineAnswer {
        let gap = Gap {
            after: point("2026-11-21T12:00:00Z", "ab12-01:77"),
            before: point("2026-11-21T13:00:00Z", "ab12-02:0"),
            why: Some("the WAL was truncated".to_owned()),
        };
        TimelineAnswer {
            database: "shop.db".to_owned(),
            now: stamp("2026-11-21T16:00:09Z"),
            stretches: vec![
                Stretch {
                    from: point("2026-11-21T10:00:00Z", "ab12-01:12"),
                    to: gap.after.clone(),
                },
                Stretch {
                    from: gap.before.clone(),
                    to: point("2026-11-21T16:00:00Z", "ab12-02:900"),
                },
            ],
            gaps: vec![gap],
            open_gap: None,
            backups: vec![
                backup("01A", "2026-11-21T10:00:00Z", false),
                backup("01B", "2026-11-21T13:00:00Z", true),
            ],
            events: vec![Event {
                kind: "dropped",
                name: "shop.public.orders".to_owned(),
                point: point("2026-11-21T15:00:00Z", "ab12-02:800"),
                before: point("2026-11-21T14:59:00Z", "ab12-02:790"),
            }],
            events_left_out: 3,
            unnamed_left_out: 12,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_timeline_shows_what_can_be_restored_and_names_every_gap() {
        let look = Look { colour: false, width: 80, zone: Zone::named("Europe/Berlin").unwrap() };
        let expected =
            "  2026-11-21 11:00:00+01:00                            2026-11-21 17:00:00+01:00
  F==========================xxxxxxxxxxxxi======================================
  F full backup  i incremental backup  = any commit  x gap

RESTORABLE FROM            TO                         POSITIONS
2026-11-21 11:00:00+01:00  2026-11-21 13:00:00+01:00  ab12-01:12 .. ab12-01:77
2026-11-21 14:00:00+01:00  2026-11-21 17:00:00+01:00  ab12-02:0 .. ab12-02:900
The newest moment is 9.00 s old.
gap of 1h00m between 2026-11-21 13:00:00+01:00 and 2026-11-21 14:00:00+01:00: the WAL was truncated
    after ab12-01:77, before ab12-02:0

BACKUP  DATABASE  STATE AT                   READ             SIZE   STORED
01A     shop.db   2026-11-21 11:00:00+01:00  full         20.0 MiB  3.0 MiB
01B     shop.db   2026-11-21 14:00:00+01:00  incremental  20.0 MiB  3.0 MiB

EVENT AT                   POSITION     WHAT
2026-11-21 16:00:00+01:00  ab12-02:800  dropped: shop.public.orders
3 older ones are not shown.
12 lost files without a known name: --all lists them.
";
        let text = render(&sample(), Format::Text, &look).unwrap();
        assert_eq!(text, expected);
    }

    #[test]
    fn only_the_last_stretch_of_time_is_shown_when_asked() {
        let since = Some("2026-11-21T12:30:00Z".parse().unwrap());
        let answer = sample().since(since);
        assert_eq!((answer.stretches.len(), answer.gaps.len(), answer.backups.len()), (1, 1, 1));
    }
}
