//! Runs a plan in this process: what `trireme run` does when no workers are asked for.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::common::Result;
use datafusion::common::stats::Precision;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::statistics::StatisticsContext;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, StatisticsArgs, execute_stream};
use datafusion::prelude::SessionConfig;
use trireme_spec::report::{StageReport, WorkerReport};

use crate::engine::{BatchEngine, PlanCounters, PlanProgress, RunningPlan};
use crate::tables::guard_scans;

/// The embedded engine: DataFusion on this process's threads.
#[derive(Debug, Default)]
pub struct LocalEngine;

#[async_trait]
impl BatchEngine for LocalEngine {
    fn configure(&self, config: SessionConfig) -> SessionConfig {
        config
    }

    async fn submit(&self, plan: Arc<dyn ExecutionPlan>, context: Arc<TaskContext>) -> Result<RunningPlan> {
        let plan = guard_scans(plan)?;
        let rows = execute_stream(Arc::clone(&plan), context)?;
        Ok(RunningPlan {
            rows,
            progress: Arc::new(LocalProgress { plan }),
        })
    }

    fn workers(&self) -> Vec<WorkerReport> {
        Vec::new()
    }
}

struct LocalProgress {
    plan: Arc<dyn ExecutionPlan>,
}

impl PlanProgress for LocalProgress {
    fn stages(&self) -> Vec<StageReport> {
        Vec::new()
    }

    fn counters(&self) -> PlanCounters {
        let mut counters = PlanCounters::default();
        add_operator(self.plan.as_ref(), &mut counters);
        counters
    }
}

/// Adds the facts of `plan` and of what is below it.
pub(crate) fn add_operator(plan: &dyn ExecutionPlan, counters: &mut PlanCounters) {
    let metrics = plan.metrics();
    if let Some(metrics) = &metrics {
        // Ballista's shuffle writer counts under a name of its own.
        let shuffle = metrics.sum_by_name("spill_bytes").map(|value| value.as_usize());
        counters.spilled_bytes += (metrics.spilled_bytes().unwrap_or(0) + shuffle.unwrap_or(0)) as u64;
    }
    let children = plan.children();
    if children.is_empty() {
        counters.rows_read += metrics.and_then(|metrics| metrics.output_rows()).unwrap_or(0) as u64;
        counters.rows_expected += expected_rows(plan);
    }
    for child in children {
        add_operator(child.as_ref(), counters);
    }
}

fn expected_rows(leaf: &dyn ExecutionPlan) -> u64 {
    match StatisticsContext::new()
        .compute(leaf, &StatisticsArgs::new())
        .map(|statistics| statistics.num_rows)
    {
        Ok(Precision::Exact(rows) | Precision::Inexact(rows)) => rows as u64,
        Ok(Precision::Absent) | Err(_) => 0,
    }
}

/// How many partitions `plan` yields.
pub(crate) fn partition_count(plan: &Arc<dyn ExecutionPlan>) -> usize {
    plan.output_partitioning().partition_count()
}
