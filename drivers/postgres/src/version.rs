//! What differs between PostgreSQL 13 and 18: one table.
