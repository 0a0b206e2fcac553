//! The one interface between running statements and running plans.
//!
//! [`crate::local::LocalEngine`] runs a plan in this process; [`crate::cluster::ClusterEngine`] runs it as stages on
//! workers. Neither knows of SQL, manifests or statements.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use ballista_core::config::BallistaConfig;
use datafusion::common::Result;
use datafusion::config::ConfigOptions;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;

/// Runs physical plans.
#[async_trait]
pub trait BatchEngine: Send + Sync {
    /// What this engine needs of the session that plans for it (partition counts, optimizer switches).
    fn configure(&self, config: SessionConfig) -> SessionConfig;

    /// How many partitions would suit `plan` better than `partitions`, for which it was made.
    fn suitable_partitions(&self, _plan: &dyn ExecutionPlan, _partitions: usize) -> Option<usize> {
        None
    }

    /// Starts `plan`. Rows arrive on the stream; dropping it cancels what still runs.
    ///
    /// # Errors
    /// A plan that this engine cannot run. Failures while running arrive on the stream.
    async fn submit(&self, plan: Arc<dyn ExecutionPlan>, context: Arc<TaskContext>) -> Result<RunningPlan>;

    /// Facts about the workers, for the report; empty where there are none.
    fn workers(&self) -> Vec<trireme_spec::report::WorkerReport>;

    /// When the first task was handed to a worker; `None` where that has not come about, or there are no workers.
    fn first_task(&self) -> Option<SystemTime> {
        None
    }
}

/// Whether plans of a session with these settings are made for workers: Ballista's are among them.
pub fn is_for_workers(config: &ConfigOptions) -> bool {
    config.extensions.get::<BallistaConfig>().is_some()
}

/// A plan under way.
pub struct RunningPlan {
    /// The rows of the result, partitions in order.
    pub rows: SendableRecordBatchStream,
    /// How far it is; may be asked at any time, also after the end.
    pub progress: Arc<dyn PlanProgress>,
}

/// How far a plan is.
pub trait PlanProgress: Send + Sync {
    /// The stages in the order in which they run.
    fn stages(&self) -> Vec<trireme_spec::report::StageReport>;
    /// Facts that only grow while the plan runs.
    fn counters(&self) -> PlanCounters;
}

/// Sums over a plan's operators.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlanCounters {
    /// Rows that leaves have produced.
    pub rows_read: u64,
    /// Rows that leaves are expected to produce; 0 where unknown.
    pub rows_expected: u64,
    /// Bytes written to disk because memory was short.
    pub spilled_bytes: u64,
    /// Bytes that workers' data ports have sent, by what the workers say; of the whole job.
    pub shuffle_bytes: u64,
    /// Bytes of the result that the driver fetched from data ports.
    pub result_bytes: u64,
    /// Tasks run again because what they had made was lost.
    pub tasks_rerun: u64,
}
