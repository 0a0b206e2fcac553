//! The engine's one binary. A person's commands (`run`, `sql`, `validate`, `explain`) and the roles that pods run
//! (`driver`, `worker`) are the same program, so that a laptop and a cluster run the same code.

mod args;
mod commands;
mod local_cluster;
mod output;
mod process;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    commands::dispatch(Args::parse())
}
