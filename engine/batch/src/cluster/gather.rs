//! Joins that one task has to do.
//!
//! A join that yields rows of its build side by themselves (those without a match, or with one) has to know of all matches.
//! In one process its partitions keep count together; tasks on workers cannot, and would each yield such rows. A hash join
//! is spared this by a shuffle of both sides ([`super::BroadcastJoins`]); without an equality, or where a NULL on one side
//! decides over all rows of the other, there is nothing to shuffle by. So all rows of the probe side go to one task.

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, Result, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, Partitioning, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, PiecewiseMergeJoinExec};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, InputDistributionRequirements,
    PlanProperties, replace_children_if_necessary,
};

use super::broadcast::permits_broadcast;
use crate::engine::is_for_workers;

/// Demands its input in one partition, and hands it on. A plain coalesce would not do: an optimizer removes it where it seems
/// to be of no use, and a join in one process has none for it.
#[derive(Debug)]
pub struct GatherExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl GatherExec {
    /// Over `input`, which gets a coalesce if it has several partitions.
    pub fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        let of_input = input.properties().as_ref().clone();
        let properties = Arc::new(of_input.with_partitioning(Partitioning::UnknownPartitioning(1)));
        Self { input, properties }
    }
}

impl DisplayAs for GatherExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GatherExec")
    }
}

impl ExecutionPlan for GatherExec {
    fn name(&self) -> &str {
        "GatherExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::SinglePartition])
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match <[_; 1]>::try_from(children) {
            Ok([input]) => Ok(Arc::new(Self::new(input))),
            Err(_) => internal_err!("GatherExec has one child"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        match self.input.output_partitioning().partition_count() {
            1 => self.input.execute(partition, context),
            partitions => internal_err!("GatherExec over {partitions} partitions"),
        }
    }
}

/// Puts a [`GatherExec`] over the probe side of joins that one task has to do, in plans for workers.
#[derive(Debug)]
pub struct GatheredJoins;

impl PhysicalOptimizerRule for GatheredJoins {
    fn name(&self) -> &str {
        "gathered_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        if !is_for_workers(config) {
            return Ok(plan);
        }
        let gathered = plan.transform_up(|join| {
            let Some((build, probe)) = sides_for_one_task(&join) else {
                return Ok(Transformed::no(join));
            };
            let sides = vec![build, Arc::new(GatherExec::new(probe)) as _];
            replace_children_if_necessary(join, sides).map(Transformed::yes)
        })?;
        Ok(gathered.data)
    }
}

/// Refuses a stage in which several tasks would do a join that one has to do: better no rows than wrong ones.
///
/// # Errors
/// None that is known of: plans that went through [`GatheredJoins`] have no such stage.
pub fn check_joins(stage: &Arc<dyn ExecutionPlan>) -> Result<()> {
    stage.apply(|join| {
        match sides_for_one_task(join).map(|(_, probe)| probe.output_partitioning().partition_count()) {
            Some(partitions) if partitions > 1 => {
                internal_err!("{partitions} tasks would each do a {} that is for one", join.name())
            }
            Some(_) | None => Ok(TreeNodeRecursion::Continue),
        }
    })?;
    Ok(())
}

/// Build side and probe side of a join that one task has to do.
fn sides_for_one_task(join: &Arc<dyn ExecutionPlan>) -> Option<(Arc<dyn ExecutionPlan>, Arc<dyn ExecutionPlan>)> {
    let yields_build_rows = |join_type: JoinType| !permits_broadcast(join_type);
    let is_for_one = if let Some(join) = join.downcast_ref::<NestedLoopJoinExec>() {
        yields_build_rows(*join.join_type())
    } else if let Some(join) = join.downcast_ref::<PiecewiseMergeJoinExec>() {
        yields_build_rows(join.join_type())
    } else {
        join.downcast_ref::<HashJoinExec>().is_some_and(|join| join.null_aware)
    };
    match join.children().as_slice() {
        [build, probe] if is_for_one => Some((Arc::clone(build), Arc::clone(probe))),
        _ => None,
    }
}
