//! The scheduling core of BatchJob: which worker runs which task, what a loss costs, and when a run is over.
//!
//! Facts go in as [`Event`]s, decisions come out as [`Effect`]s; [`Schedule::step`] is the only door. The crate owns the
//! stage graph of each run, the table of workers with their liveness, placement, the failure budgets and the blame for
//! tasks that kill their workers. It never reads a clock, throws dice, opens a socket, spawns, or looks inside a plan: the
//! driver's shell does all of that and reports back. So the whole of it runs under a seeded simulator (`tests/simulation`).
//!
//! Words. A **run** is one distributed query. Its **stages** form a DAG; the work of a stage is cut into **partitions**.
//! A **task** is one attempt at one partition: a new attempt is a new [`TaskId`], so a late report of an old attempt is
//! recognised by its id alone. A finished task leaves its **output** on its worker, and loses it with that worker.
//!
//! The shape (synchronous functions over a state, effects returned instead of sent) follows tako, the scheduler of
//! HyperQueue, and raft-rs's `Ready`. Why this graph and not Ballista's: `docs/adr/0001-own-stage-graph.md`.

mod deaths;
mod event;
mod failures;
mod graph;
mod placement;
mod plan;
mod progress;
mod schedule;
mod versions;
mod workers;

pub use event::{
    CloseCause, Effect, Event, Failure, LossReason, Millis, PartitionSize, RunError, RunId, StageId, StageOutputs,
    TaskId, TaskOutput, WorkerId,
};
pub use failures::Limits;
pub use plan::{PlanError, RunPlan, StageSpec};
pub use progress::{DrainWait, RunProgress, StageProgress};
pub use schedule::Schedule;
