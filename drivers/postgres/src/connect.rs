//! Connections: sockets, TLS, SQL sessions, replication sessions.
