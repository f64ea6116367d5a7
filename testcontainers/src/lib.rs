//! Real servers for tests, started on loopback and stopped whatever happens to the test.
