//! Archived rows as tables of Apache Iceberg, format version 2: metadata that points at the files
//! of rows where they lie.
//!
//! Manifests name files and count rows, and say nothing of values: there is nothing in them to be
//! erased. Source of all formats: Apache Iceberg, Table Spec, Version 2.

mod avro;
mod columns;
mod manifest;
mod metadata;
mod publish;

pub use publish::{PublishedTable, iceberg_tables};
