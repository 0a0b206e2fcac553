//! BatchJob: SQL over files, in one process or as stages on workers.
//!
//! Reading order: [`job`] runs a job's statements; [`engine`] is what runs their plans, with two implementations, [`local`]
//! and [`cluster`]; [`sink`] is how rows become files, [`journal`] what a driver leaves to the next. What is decided without I/O lies in crates of its own:
//! `trireme-batch-schedule` (which task runs where) and `trireme-batch-durable` (what is committed).

mod causes;
pub mod cluster;
pub mod engine;
pub mod explain;
pub mod job;
pub mod joins;
pub mod journal;
pub mod local;
pub mod memory;
mod operators;
pub mod panics;
mod parameters;
mod pool;
pub mod problems;
mod refused;
pub mod report;
pub mod session;
pub mod sink;
mod statements;
pub mod tables;
mod through;
pub mod tpch;

/// A name that no other process and no other start of this one has.
pub fn incarnation() -> String {
    uuid::Uuid::new_v4().to_string()
}
