//! How a backup becomes a cluster again: plan, check, publish.
