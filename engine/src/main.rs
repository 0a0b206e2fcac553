//! The engine's one binary. A person's commands (`run`, `sql`, `validate`, `explain`) and the roles that pods run
//! (`driver`, `worker`) are the same program, so that a laptop and a cluster run the same code.

mod allocator;
mod args;
mod commands;
mod local_cluster;
mod output;
mod process;
mod termination_log;

use std::process::ExitCode;
use std::thread;

use clap::Parser;

use crate::args::Args;
use crate::process::STACK_BYTES;

/// The exit code of a bug of ours.
const EXIT_INTERNAL: u8 = 70;

fn main() -> ExitCode {
    // Planners recurse as deep as statements may nest; how much stack a first thread has is the system's choice.
    let main = thread::Builder::new().name("main".to_owned()).stack_size(STACK_BYTES);
    match main.spawn(|| commands::dispatch(Args::parse())) {
        // A panic has been told by its hook.
        Ok(main) => main.join().unwrap_or(ExitCode::from(EXIT_INTERNAL)),
        Err(_) => commands::dispatch(Args::parse()),
    }
}
