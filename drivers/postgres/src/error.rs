//! What PostgreSQL reports, as what to do about it: one table.
