//! The three ways in which the files of a cluster become parts.
