//! Money that is moved while everything around it is killed, and every state of it brought back.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_wrap,
    reason = "a test that panics has failed, and says what it tried"
)]

mod havoc;
mod ledger;
mod points;
mod teller;
mod unwatched;
