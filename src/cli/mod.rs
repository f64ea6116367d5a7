//! The command line: what was typed becomes one call, what comes back becomes text or JSON.
//!
//! Two stages: [`args`] is what was typed, [`session`] is what it means here. One file per command.
//! Nothing else in the program reads the environment or prints.

mod advice;
mod answer;
mod archive;
mod archiver;
mod args;
mod backup;
mod bar;
mod check;
mod choice;
mod completion;
mod config;
mod copy;
mod demo;
mod doctor;
mod drill;
mod environment;
mod evidence;
mod examine;
mod exit;
mod fetch;
mod forecast;
mod forget;
mod grants;
mod init;
mod key;
mod list;
mod logs;
mod man;
mod memory;
mod moment;
mod monthly;
mod mount;
mod native;
mod open;
mod page;
mod partial;
mod pickup;
mod process;
mod progress;
mod reach;
mod repo;
mod report;
mod restore;
mod retention;
mod run;
mod schedule;
mod secret;
mod serve;
mod session;
mod show;
mod source;
mod spool;
mod storage;
mod stream;
mod terminal;
mod timeline;
mod units;
mod verify;
mod wire;
mod zone;

pub use run::main;
