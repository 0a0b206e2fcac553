//! A physical plan cut into stages at its exchanges.
//!
//! Ballista's static planner finds the cuts; the adaptive one is not used, because it does not recover from a lost
//! executor in 55.0. A stage ends in a shuffle writer and begins in scans or in the outputs of earlier stages.

use std::collections::BTreeSet;
use std::sync::Arc;

use ballista_core::JobId;
use ballista_core::execution_plans::{ShuffleWriter, UnresolvedShuffleExec};
use ballista_scheduler::planner::{DefaultDistributedPlanner, DistributedPlanner};
use bytes::Bytes;
use datafusion::common::{DataFusionError, Result, plan_err};
use datafusion::config::ConfigOptions;
use datafusion::physical_plan::{ExecutionPlan, displayable};

use super::codec::PlanCodec;
use super::repeatable::is_repeatable;
use crate::local::partition_count;

/// One stage, ready to be sent to workers.
#[derive(Debug, Clone)]
pub struct PlannedStage {
    /// From 1, in an order in which inputs come first.
    pub id: u32,
    /// Tasks: one for each partition of the stage's plan.
    pub tasks: u32,
    /// Partitions that each task divides its output into.
    pub output_partitions: u32,
    /// Stages whose outputs it reads.
    pub inputs: Vec<u32>,
    /// Whether its tasks, run again on the same inputs, leave the same rows.
    pub repeatable: bool,
    /// The plan below the shuffle writer and the writer itself, encoded.
    pub plan: Bytes,
    /// The plan as text, for people.
    pub text: String,
}

/// Cuts `plan` into stages; the last one yields the result.
///
/// # Errors
/// A plan that cannot be distributed, one with more than `tasks_max` tasks, or one larger than `plan_bytes_max` bytes.
pub fn plan_stages(
    run: &str,
    plan: Arc<dyn ExecutionPlan>,
    config: &ConfigOptions,
    codec: &PlanCodec,
    limits: StageLimits,
) -> Result<Vec<PlannedStage>> {
    let writers = DefaultDistributedPlanner::new()
        .plan_query_stages(&JobId::new(run), plan, config)
        .map_err(|error| DataFusionError::External(Box::new(error)))?;
    let stages = writers
        .iter()
        .map(|writer| planned_stage(writer, codec))
        .collect::<Result<Vec<_>>>()?;
    let tasks: u64 = stages.iter().map(|stage| u64::from(stage.tasks)).sum();
    if tasks > limits.tasks_max {
        return plan_err!(
            "the query needs {tasks} tasks, more than the limit of {}",
            limits.tasks_max
        );
    }
    if let Some(stage) = stages
        .iter()
        .find(|stage| stage.plan.len() as u64 > limits.plan_bytes_max)
    {
        return plan_err!(
            "the plan of stage {} has {} bytes, more than the limit of {}",
            stage.id,
            stage.plan.len(),
            limits.plan_bytes_max
        );
    }
    Ok(stages)
}

/// Bounds on what one query may make of the cluster.
#[derive(Debug, Clone, Copy)]
pub struct StageLimits {
    pub tasks_max: u64,
    pub plan_bytes_max: u64,
}

fn planned_stage(writer: &Arc<dyn ShuffleWriter>, codec: &PlanCodec) -> Result<PlannedStage> {
    let plan: Arc<dyn ExecutionPlan> = Arc::clone(writer) as Arc<dyn ExecutionPlan>;
    let mut inputs = BTreeSet::new();
    collect_inputs(&plan, &mut inputs);
    let child = plan.children().into_iter().next().map_or(1, partition_count);
    let text = displayable(plan.as_ref()).indent(false).to_string();
    Ok(PlannedStage {
        id: number(writer.stage_id())?,
        tasks: number(child)?,
        output_partitions: number(partition_count(&plan))?,
        inputs: inputs.into_iter().map(number).collect::<Result<_>>()?,
        repeatable: is_repeatable(writer),
        text,
        plan: codec.encode(plan)?,
    })
}

fn collect_inputs(plan: &Arc<dyn ExecutionPlan>, inputs: &mut BTreeSet<usize>) {
    if let Some(unresolved) = plan.downcast_ref::<UnresolvedShuffleExec>() {
        inputs.insert(unresolved.stage_id);
    }
    for child in plan.children() {
        collect_inputs(child, inputs);
    }
}

fn number(value: usize) -> Result<u32> {
    u32::try_from(value).map_err(|_| DataFusionError::Plan(format!("{value} is too many for one query")))
}
