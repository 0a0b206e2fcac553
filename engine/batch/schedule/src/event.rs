//! The vocabulary between the core and its shell: ids, events in, effects out.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::plan::RunPlan;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// One incarnation of a worker process. The shell numbers them and never reuses a number, so that a worker once
    /// declared lost stays lost whatever it says later.
    WorkerId(u64)
}
id! {
    /// One distributed query: one run of one statement. Lower ids are served first.
    RunId(u64)
}
id! {
    /// A stage within its run.
    StageId(u32)
}
id! {
    /// One attempt at one partition of one stage of one run, unique for the life of a [`crate::Schedule`].
    TaskId(u64)
}

/// A point in time: milliseconds since an epoch of the shell's choice, from a clock that never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// Milliseconds from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Millis) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The point in time `ms` milliseconds after `self`.
    pub fn plus(self, ms: u64) -> Millis {
        Millis(self.0.saturating_add(ms))
    }
}

/// Something that happened. Any of them may be late or repeated: what no longer applies changes nothing.
#[derive(Clone, Debug)]
pub enum Event {
    /// Run this plan.
    RunSubmitted { run: RunId, plan: RunPlan },
    /// Whoever wanted the run no longer does.
    RunCancelled { run: RunId },
    /// A worker opened its control stream and can run `slots` tasks at once (taken as 1 if 0).
    WorkerJoined { worker: WorkerId, slots: u32 },
    /// Sign of life; so is every other event that names the worker as its sender.
    Heartbeat { worker: WorkerId },
    /// The worker is to leave: no new work; it is let go once nothing on it is needed.
    WorkerDraining { worker: WorkerId },
    /// The worker's control stream ended.
    WorkerClosed { worker: WorkerId, cause: CloseCause },
    /// The task is done and its output can be read from the worker.
    TaskFinished {
        worker: WorkerId,
        task: TaskId,
        output: Vec<PartitionSize>,
    },
    /// The task ended without output.
    TaskFailed {
        worker: WorkerId,
        task: TaskId,
        failure: Failure,
    },
    /// The driver holds this partition of the result completely, as `task` left it: no loss can take it away any more.
    /// Answered, sooner or later, by `HandOn` or `Discard`, unless the run ends without a result.
    ResultFetched { run: RunId, partition: u32, task: TaskId },
    /// The driver could not read this partition of the result, which `task` had left on its worker.
    ResultFetchFailed { run: RunId, partition: u32, task: TaskId },
    /// Time passed. To be sent at least every `Limits::silence_ms / 4`.
    Tick,
}

/// Why a control stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// Without a goodbye: the process is taken for dead. `detail` is what the shell knows, for people.
    Died { detail: String },
    /// The shell closed it because the drain took too long. Nobody's fault, so nobody is blamed.
    Drained,
    /// Whoever runs the workers says that this one is gone, with its machine for instance: nobody's fault either.
    Gone,
}

/// Why a task ended without output, as its worker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// An input could not be read: the output of `lost_task` on `from_worker`.
    FetchFailed { from_worker: WorkerId, lost_task: TaskId },
    /// The query's own fault (a bad cast, an unreadable file). Not retryable: it would fail again the same way.
    Application { message: String, retryable: bool },
    /// The machine's fault: disk full, memory short.
    Infrastructure { message: String },
    /// The worker stopped the task, because it was told to or because it is shutting down.
    Cancelled,
}

/// Size of one partition of a task's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionSize {
    /// Index among the stage's output partitions.
    pub partition: u32,
    pub rows: u64,
    pub bytes: u64,
}

/// What a finished task left on its worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskOutput {
    pub worker: WorkerId,
    pub task: TaskId,
    /// In ascending order of `partition`.
    pub partitions: Vec<PartitionSize>,
}

/// Where to read a finished stage: one output per partition of that stage, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageOutputs {
    pub stage: StageId,
    /// Number of partitions in each task's output.
    pub output_partitions: u32,
    pub outputs: Vec<Arc<TaskOutput>>,
}

/// Something the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start a task. `inputs` has one entry per input stage, in the order of the stage's spec; the entries are shared
    /// between the tasks that read the same outputs.
    Launch {
        worker: WorkerId,
        run: RunId,
        stage: StageId,
        partition: u32,
        task: TaskId,
        inputs: Vec<Arc<StageOutputs>>,
    },
    /// Stop a task whose outcome nobody wants. The worker still reports how the task ended: that frees its slot.
    CancelTask { worker: WorkerId, task: TaskId },
    /// The worker is declared lost: refuse everything that comes from this id, for ever.
    Fence { worker: WorkerId, reason: LossReason },
    /// Fetch this partition of the result, and answer `ResultFetched` or `ResultFetchFailed`.
    ReadyToFetch {
        run: RunId,
        partition: u32,
        worker: WorkerId,
        task: TaskId,
    },
    /// Hand on what was fetched of this partition from `task`: once for each partition, never to be taken back.
    HandOn { run: RunId, partition: u32, task: TaskId },
    /// What was fetched from `task` must not be seen by anybody.
    Discard { run: RunId, task: TaskId },
    /// For the log: an output of `stage` is made again and may differ, so all work that derives from it starts over.
    RolledBack { run: RunId, stage: StageId },
    /// Nothing of the run is needed any more: workers may delete its files.
    ReleaseRun { run: RunId },
    /// A draining worker holds nothing that is needed and may end. Its id is not accepted again.
    ReleaseWorker { worker: WorkerId },
    /// All partitions of the result were fetched and are to be handed on.
    RunSucceeded { run: RunId },
    /// The run ended without a result.
    RunFailed { run: RunId, error: RunError },
}

/// Why a worker was declared lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LossReason {
    /// Nothing was heard from it for this long.
    Silent { silent_ms: u64 },
    /// Its stream broke: it counts as a death for the tasks it was running.
    Died { detail: String },
    /// It lives, but this many of its outputs could not be read: a dead disk, a broken data port.
    Unreadable { outputs: u32 },
    /// It was given up at the end of its drain.
    Drained,
    /// Whoever runs the workers says so.
    Gone,
    /// It left in good order.
    Released,
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LossReason::Silent { silent_ms } => write!(f, "silent for {silent_ms} ms"),
            LossReason::Died { detail } => write!(f, "died: {detail}"),
            LossReason::Unreadable { outputs } => write!(f, "left {outputs} outputs that nobody could read"),
            LossReason::Drained => f.write_str("closed at the end of its drain"),
            LossReason::Gone => f.write_str("gone, says who runs the workers"),
            LossReason::Released => f.write_str("released"),
        }
    }
}

/// Why a run ended without a result.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RunError {
    /// The query's own fault: an attempt failed beyond retry, or the last attempt allowed did.
    #[error("stage {stage} partition {partition} (task {task}) failed in attempt {attempts}: {message}")]
    Application {
        stage: StageId,
        partition: u32,
        task: TaskId,
        attempts: u32,
        message: String,
    },
    /// The task kills every worker that runs it; it ran alone the last time, so it was no other task.
    #[error("stage {stage} partition {partition} killed its worker {deaths} times, last {cause}")]
    Poison {
        stage: StageId,
        partition: u32,
        deaths: u32,
        cause: String,
    },
    /// The machines took the same partition away too often.
    #[error("stage {stage} partition {partition} was lost to infrastructure {losses} times, last: {cause}")]
    InfrastructureBudget {
        stage: StageId,
        partition: u32,
        losses: u32,
        cause: String,
    },
    /// There was nobody to run it.
    #[error("no worker took work for {waited_ms} ms")]
    NoWorkers { waited_ms: u64 },
    /// Whoever wanted it no longer did.
    #[error("cancelled")]
    Cancelled,
}
