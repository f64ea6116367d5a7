//! The contract, asked of a real PostgreSQL.

fn main() {}
