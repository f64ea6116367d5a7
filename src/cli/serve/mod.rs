//! `stillpoint serve`, and what people tell and ask those that serve.

mod agent;
mod applied;
mod audit;
mod catalog;
mod copies;
mod db;
mod desk;
mod discovery;
mod endpoint;
mod explain;
mod fleet;
mod hand;
mod http;
mod jobs;
mod matters;
mod metrics;
mod notify;
mod plan;
mod run;
mod state;
mod status;
mod stock;

pub(crate) use agent::{AgentOptions, run as agent};
pub(crate) use applied::{Held, written_digest};
pub(crate) use audit::{Command as AuditCommand, run as audit};
pub(crate) use catalog::{Command as CatalogCommand, catalog};
pub(crate) use copies::outbox;
pub(crate) use db::{Command as DbCommand, run as db};
pub(crate) use desk::{Promises, applied_already, found, promises, unprotected};
pub(crate) use endpoint::{Command as EndpointCommand, run as endpoint};
pub(crate) use explain::{
    Options as ExplainOptions, alert as explain_alert, schedule as explain_schedule,
};
pub(crate) use hand::Holding;
pub(crate) use jobs::{Command as JobsCommand, run as jobs};
pub(crate) use plan::{ApplyOptions, apply, plan};
pub(crate) use run::{Options, run};
pub(crate) use status::{Options as StatusOptions, run as status};
