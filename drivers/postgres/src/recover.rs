//! Recovery: steering a server that replays WAL.
