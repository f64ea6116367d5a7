//! One backup from its start to its stop: which way, and what surrounds it.
