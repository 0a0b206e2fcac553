//! Conditions, and the reasons they may have. A reason is an interface: scripts match on it, and the reference
//! documentation has a paragraph for each.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A condition in the manner of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What is said to hold or not.
    #[serde(rename = "type")]
    pub kind: ConditionType,
    /// True, False or Unknown.
    pub status: ConditionStatus,
    /// Why, in one word; the reference documentation has a paragraph for each.
    #[schemars(length(max = 128))]
    pub reason: String,
    /// Why, for people, with the way out.
    #[schemars(length(max = 4096))]
    pub message: String,
    /// When `status` changed last.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub last_transition_time: Timestamp,
    /// Generation of the object that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// What a condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ConditionType {
    /// The object is one that can be run.
    Accepted,
    /// The driver runs, and so do executors.
    Ready,
    /// The job comes nearer to its end; if not, why.
    Progressing,
    /// The job has released its pods, as its spec asks.
    Suspended,
    /// Every statement is done.
    Complete,
    /// The job has given up.
    Failed,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> ConditionStatus {
        match holds {
            true => ConditionStatus::True,
            false => ConditionStatus::False,
        }
    }
}

macro_rules! reasons {
    ($($variant:ident, $meaning:literal, $remedy:literal;)+) => {
        /// Why a condition holds or does not. Text and documentation in one table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $(#[doc = $meaning] $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant),+];

            /// The reason as conditions and events have it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Reason::$variant => stringify!($variant),)+
                }
            }

            /// What it means, in one sentence.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Reason::$variant => $meaning,)+
                }
            }

            /// What to do; empty where there is nothing to do.
            pub const fn remedy(self) -> &'static str {
                match self {
                    $(Reason::$variant => $remedy,)+
                }
            }
        }
    };
}

reasons! {
    Valid, "The object is one that can be run.", "";
    InvalidSpec, "A field says something that the API server cannot check, and that cannot be run.", "mend the field that the message names";
    UnreadableObject, "The object cannot be read as a BatchJob of this version.", "apply it again with the custom resource definitions of this operator installed";
    SqlNotFound, "The ConfigMap or key of spec.sqlFrom does not exist.", "create it; the operator looks again by itself";
    Starting, "Pods were made and are on their way.", "";
    SlowStart, "A pod was made some time ago, and its container has not started.", "look at the pod's events (kubectl describe pod): its image may still be pulled, or a Secret, ConfigMap or volume that it names may not exist";
    Running, "The driver runs statements.", "";
    WaitingForExecutors, "The driver runs and no executor is attached yet.", "";
    WaitingForPreviousRun, "Pods of the run before are still there.", "";
    Retrying, "The driver was lost and another one follows.", "";
    ImagePullFailed, "A node cannot pull the image.", "check spec.image and spec.imagePullSecrets";
    ContainerFailed, "A node cannot start the container.", "check the pod template, and that every Secret and ConfigMap that it names exists";
    Unschedulable, "No node takes a pod.", "add nodes, or ask for less cores or memory, or check node selector, affinity and tolerations";
    WaitingForRoom, "No node had room for an executor, and the job gave the room of its driver back to others for a while.", "add nodes, or ask for less cores or memory; the job asks again by itself";
    QuotaExceeded, "A quota of the namespace refuses a pod, or what a pod refers to.", "raise the quota, or ask for less; the operator tries again by itself";
    PodRefused, "The API server or an admission policy refuses a pod, or what a pod refers to.", "mend what the message names";
    NameTaken, "There is a Secret or a Service of the name that the job's own has, and it is not the job's.", "give the job another name, or remove what the message names; the operator tries again by itself";
    Suspended, "The job has released its pods, as spec.suspend asks.", "set spec.suspend to false to go on";
    NotSuspended, "The job is not suspended.", "";
    NotFinished, "The job has not ended.", "";
    AllStatementsDone, "Every statement is done.", "";
    JobFailed, "The driver has given up; the message says why.", "see status.lastError";
    DeadlineExceeded, "The job ran longer than spec.activeDeadlineSeconds.", "raise it, or give the job more executors";
    ApplicationRetriesExhausted, "Drivers kept ending by errors of their own.", "see the logs of the last driver, and spec.retries.application";
    InfrastructureRetriesExhausted, "Drivers kept being lost with their machines.", "see spec.retries.infrastructure, or use steadier nodes for the driver";
    SchedulingRetriesExhausted, "The cluster kept refusing pods.", "see spec.retries.scheduling, and the message";
    OutOfMemory, "A pod used more memory than its limit; the next one gets more.", "raise memory in spec.driver or spec.executors";
    DriverLost, "A driver was lost; another one goes on where it was.", "";
    DriverCrashed, "A driver ended by an error of its own.", "see the log of the pod";
    ExecutorLost, "An executor was lost; another one takes its place.", "";
    ExecutorCrashed, "An executor ended by an error of its own.", "see the log of the pod";
    Finished, "The job has ended.", "";
}

/// The conditions of `before` with one replaced. The time of transition moves only when the status does.
pub fn set(conditions: &mut Vec<Condition>, new: Condition) {
    match conditions.iter_mut().find(|condition| condition.kind == new.kind) {
        Some(old) => {
            let since = match old.status == new.status {
                true => old.last_transition_time,
                false => new.last_transition_time,
            };
            *old = Condition {
                last_transition_time: since,
                ..new
            };
        }
        None => {
            conditions.push(new);
            conditions.sort_by_key(|condition| condition.kind);
        }
    }
}

/// The page of the reference documentation on reasons.
pub fn page() -> String {
    let mut page = String::from(
        "# Reasons of conditions and events\n\nGenerated by `trireme-operator reasons`: do not edit.\n\n\
         | reason | meaning | what to do |\n|---|---|---|\n",
    );
    for reason in Reason::ALL {
        let (name, meaning, remedy) = (reason.as_str(), reason.meaning(), reason.remedy());
        page.push_str(&format!("| `{name}` | {meaning} | {remedy} |\n"));
    }
    page
}
