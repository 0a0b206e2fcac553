//! The status of a BatchJob: what its object says about it, written by the operator and by nobody else.
//!
//! Part of it is the operator's memory (attempts, charges), because everything else may be gone after a restart: a pod that
//! ended is deleted, a driver that reported has left.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a BatchJob stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BatchJobStatus {
    /// Generation of the object that the rest of the status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The job in one word: Pending, Running, Suspended, Complete or Failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// Conditions in the manner of Kubernetes: Accepted, Ready, Progressing, Suspended, Complete, Failed.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// When the first pod of the run was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub start_time: Option<String>,
    /// When the run ended, well or badly.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub completion_time: Option<String>,
}

/// A job in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum JobState {
    /// Waits for its driver.
    Pending,
    /// Its driver runs.
    Running,
    /// Released its pods, by `spec.suspend`.
    Suspended,
    /// Every statement is done.
    Complete,
    /// Has given up.
    Failed,
}

/// A condition in the manner of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What is said to hold or not.
    #[serde(rename = "type")]
    #[schemars(length(max = 64))]
    pub kind: String,
    /// True, False or Unknown.
    #[schemars(length(max = 16))]
    pub status: String,
    /// Why, in one word; the reference documentation has a paragraph for each.
    #[schemars(length(max = 128))]
    pub reason: String,
    /// Why, for people, with the way out.
    #[schemars(length(max = 4096))]
    pub message: String,
    /// When `status` changed last.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// Generation of the object that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
