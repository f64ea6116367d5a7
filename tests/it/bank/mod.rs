//! Money that is moved while everything around it is killed, and every state of it brought back.

mod havoc;
mod ledger;
mod points;
mod teller;
mod unwatched;
