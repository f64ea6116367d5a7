//! The types and traits that drivers, pipeline and repository agree on.
//!
//! This crate depends on no other crate of ours, and it is the only one that the author of a
//! driver must read. It holds no policy, does no input or output, and knows no storage.
//!
//! A [`Driver`] copies a live server into a [`Sink`] as *parts* and captures its log as
//! *segments*; an [`Engine`] builds a server again from a [`Source`] and a [`LogSource`]. Every
//! backup names every byte of the database, whether its pages were written or kept from an earlier
//! one, so a restore never walks a chain of backups.

mod archive;
mod buffer;
mod capability;
mod driver;
mod error;
mod exchange;
mod finding;
mod log;
mod partial;
mod pattern;
mod point;
mod position;
mod rows;
mod sandbox;
mod world;

pub use archive::{ArchivedFile, LogArchive, LogCutter, LogFile, WantedFile};
pub use buffer::{Buffer, BufferPool};
pub use capability::{Capabilities, Consistency, Incremental, LogSupply};
pub use driver::{
    BackupRequest, Base, Certificate, Driver, Endpoint, Engine, Evidence, Extensions,
    GeneratedFile, Identity, Overwrite, Placement, Probe, Reached, Recovery, RecoveryTarget,
    Relocation, RestoreExtras, RestorePlan, RestoreRequest, Rewrite, SandboxUse,
};
pub use error::{Code, Error, ErrorKind, Result, code, quoted};
pub use exchange::{
    EXTENT_BYTES, EXTENTS_OPEN_MAX, PartName, PartRecord, PartSpec, PartWriter, Shape, Sink, Source,
};
pub use finding::{Finding, Weight};
pub use log::{
    LogCapture, LogEvent, LogEventKind, LogMark, LogSegment, LogSource, OpenedLog,
    SEGMENT_BODY_BYTES_MAX, SEGMENT_INDEX_BYTES_MAX, SegmentHead,
};
pub use partial::{
    Brought, BroughtTable, CHOSEN_NAME_BYTES_MAX, Comparison, Difference, EXAMPLES_MAX, Progress,
    RUN_ONCE, Script, Share, ShareRequest, Tallied, chosen_name, gone_table, shown_value, some_of,
    without_compare,
};
pub use pattern::TablePattern;
pub use point::NativePoint;
pub use position::{Lineage, LogPosition, LogRange};
pub use rows::{
    Alike, ArchiveSet, Burden, Class, Column, Compared, Conflict, Cutoff, CutoffForm, Estimate,
    Explained, Exporting, Followed, Held, Keeping, Key, KeyRange, Kind, Lag, LedgerEntry, Likeness,
    Link, LockTaken, LogUsed, Measure, Member, Named, Outlook, Partition, Partitioned, Pruning,
    PutBack, PutBackTally, ROW_BYTES_MAX, Referrer, RowBatch, RowSink, RowWriter, Rows, Space,
    Table, UNTOLD_REFERENCE, is_named, say_derived, sought, values,
};
pub use sandbox::{
    ANSWER_BYTES_MAX, Examined, Sandbox, SandboxRequest, TALLIES_MAX, Tally, Verdict,
};
pub use world::{Clock, Entropy};
