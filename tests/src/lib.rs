//! What the suite under `suite/` stands on: it finds the `trireme` binary, runs it as a real process with a time limit,
//! and reads what it says.
//!
//! It never links the engine: what a test knows, a user could know. It never sleeps either: it blocks on the next line, on
//! the end of the process, or on the deadline, whichever comes first. Everything here reports by failing the test.
#![expect(clippy::panic, reason = "a harness reports by failing the test")]

mod cgroup;
mod cluster;
mod dice;
mod https;
mod oracle;
mod proc;
mod process;
mod s3;
mod scratch;

use std::path::{Path, PathBuf};

pub use cgroup::{MemoryGroup, MemoryUsage, resident_peak, without_cgroups};
pub use cluster::{Cluster, ClusterLog, Cost, Launch, Mark, Place, Worker, with_options};
pub use dice::Dice;
pub use https::{Caller, body_of, status_of};
pub use oracle::{Engine, answers, compare, difference};
pub use proc::{children, command_line, connections_to, is_alive, listeners};
pub use process::{Line, Output, Program, Running, Stream, binary, trireme};
pub use s3::S3Server;
pub use scratch::{Scratch, batch_job};

/// Runs a job of `statements` in the folder `scratch`, with the arguments `workers`, to what it prints as CSV.
pub fn run_csv(scratch: &Scratch, statements: &str, workers: &[&str]) -> Output {
    let arguments = ["run", "--output", "csv", "-f", "-"].iter().chain(workers);
    let program = trireme(arguments).directory(scratch.path());
    program.stdin(batch_job(statements, "")).run()
}

/// The root of the repository, where the paths in examples and documentation start.
pub fn repository() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("the crate lies in a folder of the repository").to_owned()
}
