//! Trireme from the outside: processes, files, exit codes and what is printed.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test reports by failing")]

mod arch;
mod bad_input;
mod cli;
mod examples;
mod folders;
mod fuzz;
mod kills;
mod large_copy;
mod leaving;
mod lost_machines;
mod memory;
mod pods;
mod recovery;
mod s3;
mod same_rows;
mod tpch;
mod writes;
