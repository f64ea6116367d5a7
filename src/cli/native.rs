//! Positions as the tools of each engine print them.

use std::sync::Arc;

use stillpoint_contract::{Engine, LogPosition};

use crate::repository::Timeline;

/// Every engine, to ask for its way of printing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Native<'a>(pub &'a [Arc<dyn Engine>]);

impl Native<'_> {
    /// A position of a database of this engine.
    pub(crate) fn render(&self, engine: &str, position: &LogPosition) -> String {
        let known = self.0.iter().find(|known| known.name() == engine);
        known.map_or_else(|| position.to_string(), |engine| engine.render(position))
    }

    /// A position of a timeline: that of its newest backup's engine.
    pub(crate) fn render_of(&self, timeline: &Timeline, position: &LogPosition) -> String {
        let engine = timeline.backups.last().map_or("", |backup| backup.commit.engine.as_str());
        self.render(engine, position)
    }
}
