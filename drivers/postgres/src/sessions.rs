//! Sessions for whoever keeps tables of their own in a server, with our settings, passwords and
//! TLS.

use std::sync::Arc;

use stillpoint_contract::{Clock, Endpoint, Result};

use crate::{
    config::{Config, TargetSession},
    connect::Cluster,
};

/// A database of a cluster, in which sessions can be opened.
#[derive(Clone, Debug)]
pub struct Sessions(Cluster);

impl Sessions {
    /// Reads settings and certificates; connects to nothing.
    ///
    /// # Errors
    ///
    /// What is wrong with the address, or with a file that it names.
    pub fn new(endpoint: &Endpoint, clock: Arc<dyn Clock>) -> Result<Self> {
        let mut config = Config::new(endpoint)?;
        if config.target == TargetSession::Any {
            // Of several hosts, the one that was promoted.
            config.target = TargetSession::Primary;
        }
        Ok(Self(Cluster::new(config, clock)?))
    }

    /// Opens a session on the first host that can be written to. It ends with the client.
    ///
    /// # Errors
    ///
    /// Why none of the hosts will do.
    pub async fn open(&self) -> Result<tokio_postgres::Client> {
        Ok(self.0.sql().await?.into_client())
    }
}
