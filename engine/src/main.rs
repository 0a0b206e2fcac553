//! The engine's one binary. A person's commands (`run`, `sql`, `validate`, `explain`) and the roles that pods run
//! (`driver`, `worker`) are the same program, so that a laptop and a cluster run the same code.

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

/// Milliseconds that memory which was freed stays with the process: the next batch or task wants as much again, and pages
/// that were given back have to be cleared first. With mimalloc's own second, that is a tenth of the time of a job.
const PURGE_DELAY_MS: std::ffi::c_long = 10_000;

/// The exit code of a bug of ours.
const EXIT_INTERNAL: u8 = 70;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keep_freed_memory();
    // Planners recurse as deep as statements may nest; how much stack a first thread has is the system's choice.
    let main = thread::Builder::new().name("main".to_owned()).stack_size(STACK_BYTES);
    match main.spawn(|| commands::dispatch(Args::parse())) {
        // A panic has been told by its hook.
        Ok(main) => main.join().unwrap_or(ExitCode::from(EXIT_INTERNAL)),
        Err(_) => commands::dispatch(Args::parse()),
    }
}

/// `MIMALLOC_PURGE_DELAY` in the environment goes before it.
fn keep_freed_memory() {
    /// `mi_option_purge_delay`, which libmimalloc-sys does not name; the same number in versions 2 and 3.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    #[expect(
        unsafe_code,
        reason = "a foreign function; it stores a number and may be called at any time"
    )]
    unsafe {
        libmimalloc_sys::mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS);
    }
}
