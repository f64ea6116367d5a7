//! A transactional engine in memory whose truth is known.
