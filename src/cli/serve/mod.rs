//! `stillpoint serve`, and what people tell and ask those that serve.

mod applied;
mod fleet;
mod http;
mod metrics;
mod notify;
mod run;
mod state;

pub(crate) use run::{Options, run};
