//! What is kept, why, and until when: told, acted upon, and told otherwise by people.

pub(super) mod event;
pub(super) mod expire;
pub(super) mod explain;
pub(super) mod hold;
mod keeping;
pub(super) mod report;

pub(super) use keeping::Keeping;
