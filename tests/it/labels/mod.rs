//! Databases that are chosen by their labels, by every verb in the same way.

#![expect(clippy::unwrap_used, reason = "all of it is tests")]

mod groups;
mod shops;
mod verbs;
