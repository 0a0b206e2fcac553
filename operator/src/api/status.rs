//! The status of a BatchJob: what its object says about it, written by the operator and by nobody else.
//!
//! Part of it is the operator's memory (attempts, charges), because everything else may be gone after a restart: a pod that
//! ended is deleted, a driver that reported has left.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trireme_spec::problem::Fault;
use trireme_spec::quantity::Bytes;

use super::condition::Condition;
use super::numbers::Numbers;

/// How a BatchJob stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BatchJobStatus {
    /// Generation of the object that the rest of the status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The job in one word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// How far the job is, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub progress: Option<String>,
    /// Conditions in the manner of Kubernetes: Accepted, Ready, Progressing, Suspended, Complete, Failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The run that all of this is about. A change of `spec.rerunNonce` begins another.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub run: Option<String>,
    /// Runs that the object has had, this one included: the number in the id of all but the first.
    #[schemars(range(min = 0, max = 4294967295u32))]
    pub runs: u32,
    /// The `spec.rerunNonce` that the run was begun with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    pub rerun_nonce: Option<String>,
    /// When the run began.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub start_time: Option<Timestamp>,
    /// When the last driver handed its first task to an executor.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub first_task_time: Option<Timestamp>,
    /// When the run ended, well or badly.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub completion_time: Option<Timestamp>,
    /// Selects the executors of the job; for whoever scales it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub selector: Option<String>,
    /// The driver.
    pub driver: DriverStatus,
    /// The executors.
    pub executors: ExecutorsStatus,
    /// What was charged so far to the budgets of `spec.retries`.
    pub retries: RetriesStatus,
    /// Tasks that the last driver has run again, because what they had made was lost or they had failed.
    #[schemars(range(min = 0, max = 9007199254740991i64))]
    pub tasks_rerun: u64,
    /// The last thing that went wrong, even if it has been mended since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,
    /// What came of the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<ResultStatus>,
    /// When progress was written here last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub progress_time: Option<Timestamp>,
}

/// A job in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum JobState {
    /// Waits for its driver.
    Pending,
    /// Its driver runs.
    Running,
    /// Has released its pods, as `spec.suspend` asks.
    Suspended,
    /// Every statement is done.
    Complete,
    /// Has given up.
    Failed,
}

impl JobState {
    /// Whether nothing will follow in this run.
    pub const fn is_terminal(self) -> bool {
        match self {
            JobState::Pending | JobState::Running | JobState::Suspended => false,
            JobState::Complete | JobState::Failed => true,
        }
    }
}

/// The driver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DriverStatus {
    /// Drivers that this run has had. The pod of the last one is `<job>-driver-<attempt>`.
    #[schemars(range(min = 0, max = 4294967295u32))]
    pub attempt: u32,
    /// Drivers of this run whose end has been charged.
    #[schemars(range(min = 0, max = 4294967295u32))]
    pub charged: u32,
    /// How often one gave its room back because there was none for executors, since one of them was there last.
    #[schemars(range(min = 0, max = 4294967295u32))]
    pub gave_way: u32,
    /// When the last one was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub since: Option<Timestamp>,
    /// When the process of the last one started, once it is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub start_time: Option<Timestamp>,
    /// Memory of the next one, where it was raised because one ran out of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
}

/// The executors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ExecutorsStatus {
    /// How many there should be.
    #[schemars(range(min = 0, max = 4294967295u32))]
    pub desired: u32,
    /// How many are attached to their driver.
    #[schemars(range(min = 0, max = 4294967295u32))]
    pub ready: u32,
    /// Ready of desired, for tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub summary: Option<String>,
    /// The highest number that an executor of this run has had. The pod of each is `<job>-exec-<number>`.
    #[schemars(range(min = 0, max = 4294967295u32))]
    pub highest: u32,
    /// Numbers of executors whose end has not been seen.
    #[serde(skip_serializing_if = "Numbers::is_empty")]
    pub open: Numbers,
    /// Numbers of those among them that were told to leave.
    #[serde(skip_serializing_if = "Numbers::is_empty")]
    pub leaving: Numbers,
    /// Executors that were lost with their machine, evicted, preempted or killed.
    #[schemars(range(min = 0, max = 4294967295u32))]
    pub lost: u32,
    /// Executors that ran out of memory.
    #[schemars(range(min = 0, max = 4294967295u32))]
    pub out_of_memory: u32,
    /// Executors that ended by an error of their own.
    #[schemars(range(min = 0, max = 4294967295u32))]
    pub crashed: u32,
    /// Losses in a row, without an executor becoming ready in between.
    #[schemars(range(min = 0, max = 4294967295u32))]
    pub streak: u32,
    /// Memory of the next ones, where it was raised because one ran out of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Until when no executor is made, because the last ones ended too fast or were refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub retry_time: Option<Timestamp>,
}

/// What was charged so far to the budgets of `spec.retries`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RetriesStatus {
    /// Drivers that ended by an error of their own without a report.
    #[schemars(range(min = 0, max = 4294967295u32))]
    pub application: u32,
    /// Drivers that were lost with their machine, evicted, preempted or killed.
    #[schemars(range(min = 0, max = 4294967295u32))]
    pub infrastructure: u32,
    /// Refusals of the cluster to take a pod.
    #[schemars(range(min = 0, max = 4294967295u32))]
    pub scheduling: u32,
    /// Drivers that ran out of memory and got more.
    #[schemars(range(min = 0, max = 4294967295u32))]
    pub out_of_memory: u32,
    /// Until when no driver is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub retry_time: Option<Timestamp>,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    /// Which of the published errors or reasons it is.
    #[schemars(length(max = 128))]
    pub code: String,
    /// What is wrong.
    #[schemars(length(max = 2048))]
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub remedy: Option<String>,
    /// Who has to act: User, External or Internal.
    #[schemars(with = "String", length(max = 16))]
    pub fault: Fault,
}

/// What came of the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResultStatus {
    /// The first rows as a text table.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 16384))]
    pub preview: String,
    /// Rows of the whole result. Beyond 2^53 a number in JSON is not exact.
    #[schemars(range(min = 0, max = 9007199254740991i64))]
    pub rows: u64,
    /// Whether the result has more rows than the preview.
    pub truncated: bool,
    /// Where the whole result was written, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub location: Option<String>,
}
