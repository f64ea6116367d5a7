//! How a simulated server behaves: the choices that real engines made for us.

use stillpoint_contract::{Capabilities, Consistency, Incremental, LogSupply};

/// One way to be an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// How copies leave the server.
    pub layout: Layout,
    /// When a copy is consistent.
    pub consistency: Consistency,
    /// How log leaves the server.
    pub log: LogSupply,
}

/// How copies leave the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Pages from the first to the last.
    Ascending,
    /// Pages out of order, from several tasks at once.
    Scattered,
    /// A stream of bytes, of which nothing can be kept.
    Stream,
}

impl Mode {
    /// Snapshots in ascending pages, and a log that is polled.
    pub const SNAPSHOT: Self = Self {
        layout: Layout::Ascending,
        consistency: Consistency::AtStart,
        log: LogSupply::Poll { period: std::time::Duration::from_millis(100) },
    };

    /// What a probe of a server in this mode answers.
    pub fn capabilities(&self) -> Capabilities {
        let incremental = match self.layout {
            Layout::Ascending | Layout::Scattered if self.log != LogSupply::Never => {
                Incremental::SincePrevious
            }
            Layout::Ascending | Layout::Scattered | Layout::Stream => Incremental::Never,
        };
        Capabilities {
            consistency: self.consistency,
            incremental,
            log: self.log,
            restores_single_database: true,
        }
    }
}
