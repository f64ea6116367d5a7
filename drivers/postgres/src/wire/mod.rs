//! A client for the replication protocol.
