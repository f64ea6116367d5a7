//! Endpoints that come and go, under the real program: registered, drained, killed, replaced.

#![expect(clippy::unwrap_used, reason = "all of it is tests")]

mod absence;
mod drains;
mod identities;
mod names;
mod quay;
mod registrations;
mod replacements;
