//! Endpoints that a name stands for: services with their ports, or addresses.

use std::{net::SocketAddr, time::Duration};

use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::rr::RData,
};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::shape::{Common, TARGETS_MAX};
use crate::policy::{Sighting, Wanted};

/// How long one server is waited for, and how often it is asked.
const TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPTS: usize = 2;

/// What is looked up.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) name: String,
    pub(super) is_service: bool,
    pub(super) port: Option<u16>,
    pub(super) server: Option<SocketAddr>,
}

/// Looks a name up.
///
/// # Errors
///
/// Nobody answered, or with nothing: neither says that an endpoint is gone.
pub(super) async fn ask(question: &Question, common: &Common) -> Result<Vec<Sighting>> {
    let failed = |cause: String| {
        Error::new(ErrorKind::Transient, code::FILE, "look up a name")
            .with("name", &question.name)
            .caused_by(cause)
    };
    let resolver = resolver(question).map_err(failed)?;
    let targets = if question.is_service {
        let found = resolver.srv_lookup(question.name.as_str()).await;
        let found = found.map_err(|cause| failed(cause.to_string()))?;
        let services = found.answers().iter().filter_map(|record| match &record.data {
            // Source: RFC 2782: a target of "." says that there is no such service.
            RData::SRV(service) if !service.target.is_root() => Some(service),
            _ => None,
        });
        let target = services.map(|service| {
            let host = service.target.to_utf8();
            format!("{}:{}", host.trim_end_matches('.'), question.port.unwrap_or(service.port))
        });
        target.collect::<Vec<_>>()
    } else {
        let found = resolver.lookup_ip(question.name.as_str()).await;
        let found = found.map_err(|cause| failed(cause.to_string()))?;
        let target = found.iter().map(|address| match question.port {
            Some(port) => SocketAddr::new(address, port).to_string(),
            None => address.to_string(),
        });
        target.collect()
    };
    if targets.is_empty() {
        return Err(failed("the answer is empty".to_owned()));
    }
    let mut seen: Vec<Sighting> = Vec::new();
    for target in targets.into_iter().take(TARGETS_MAX) {
        if seen.iter().all(|one| one.target != target) {
            seen.push(Sighting {
                id: target.clone(),
                target,
                labels: common.labels.clone(),
                wanted: Wanted::Active,
                ttl: common.ttl,
                sign: None,
            });
        }
    }
    Ok(seen)
}

/// One that asks anew each time: what was cached may have changed.
fn resolver(question: &Question) -> Result<TokioResolver, String> {
    let told = |cause: hickory_resolver::net::NetError| cause.to_string();
    let mut builder = match question.server {
        None => TokioResolver::builder_tokio().map_err(told)?,
        Some(server) => {
            let mut one = NameServerConfig::udp_and_tcp(server.ip());
            one.connections.iter_mut().for_each(|connection| connection.port = server.port());
            let config = ResolverConfig::from_name_servers(vec![one]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let options = builder.options_mut();
    (options.timeout, options.attempts, options.cache_size) = (TIMEOUT, ATTEMPTS, 0);
    builder.build().map_err(told)
}
