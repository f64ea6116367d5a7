//! Positions: log sequence numbers, timelines, and names of WAL files.
