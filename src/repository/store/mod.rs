//! The narrow waist: a flat space of immutable objects, written once.

mod object;

pub use object::{Deleted, Key, Listed, Put, Store};
