//! The sentences, by subject.

mod cancel;
mod capture;
mod copy;
mod history;
mod incremental;
mod probe;
mod publish;
mod recovery;
mod rows;
mod sandbox;
mod table;

pub(crate) use table::{Need, SENTENCES, Sentence};
