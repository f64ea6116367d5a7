//! The `stillpoint` program.

use std::{process::ExitCode, thread::available_parallelism};

use stillpoint::{cli, world::World};

fn main() -> ExitCode {
    let threads = available_parallelism().map_or(2, std::num::NonZero::get);
    cli::main(World::real(threads))
}
