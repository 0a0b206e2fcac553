//! Which hash joins send their build side to all tasks, decided before exchanges are placed.
//!
//! DataFusion collects a small build side once for a process. On workers every task of the join reads all of it, which is
//! right for some join types only. Ballista's planner knows that and corrects joins while it cuts stages; but then the
//! exchanges are there, and a join that changes its mode keeps those of the old one: the large side is shuffled for
//! nothing, or the small one is written and read once more. This rule decides by the same criteria earlier, right after
//! DataFusion chose sides, so that the cut finds nothing to correct.

use std::sync::Arc;

use ballista_core::config::BallistaConfig;
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{JoinType, Result};
use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::statistics::StatisticsContext;
use datafusion::physical_plan::{ExecutionPlan, StatisticsArgs};

/// See the module. Without Ballista's settings in the session, which is what plans in one process look like, it does
/// nothing.
#[derive(Debug)]
pub struct BroadcastJoins;

impl PhysicalOptimizerRule for BroadcastJoins {
    fn name(&self) -> &str {
        "broadcast_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(ballista) = config.extensions.get::<BallistaConfig>() else {
            return Ok(plan);
        };
        let bytes_max = ballista.broadcast_join_threshold_bytes();
        let settled = plan.transform_up(|node| match node.downcast_ref::<HashJoinExec>() {
            Some(join) => settle(join, bytes_max).map_or(Ok(Transformed::no(Arc::clone(&node))), |mode| {
                let join = join.builder().with_partition_mode(mode).recompute_properties();
                Ok(Transformed::yes(join.build_exec()?))
            }),
            None => Ok(Transformed::no(node)),
        })?;
        Ok(settled.data)
    }
}

/// The mode that `join` should have, unless it has it.
fn settle(join: &HashJoinExec, bytes_max: usize) -> Option<PartitionMode> {
    if join.null_aware {
        // One task has to see all of its rows, and will.
        return None;
    }
    let broadcast = permits_broadcast(*join.join_type()) && is_below(join.left().as_ref(), bytes_max);
    match (join.partition_mode(), broadcast) {
        (PartitionMode::CollectLeft, false) => Some(PartitionMode::Partitioned),
        (PartitionMode::Partitioned, true) => Some(PartitionMode::CollectLeft),
        (PartitionMode::CollectLeft, true) | (PartitionMode::Partitioned, false) | (PartitionMode::Auto, _) => None,
    }
}

/// A join that yields rows of its build side by themselves would yield them in every task.
pub fn permits_broadcast(join: JoinType) -> bool {
    match join {
        JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => true,
        JoinType::Left | JoinType::Full | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => false,
    }
}

/// Whether `plan` is expected to yield less than `bytes_max`; as Ballista's planner expects it.
fn is_below(plan: &dyn ExecutionPlan, bytes_max: usize) -> bool {
    let Ok(statistics) = StatisticsContext::new().compute(plan, &StatisticsArgs::new()) else {
        return false;
    };
    let known = |value: Option<&usize>| value.copied().filter(|&value| value != 0);
    let rows = known(statistics.num_rows.get_value());
    let bytes = known(statistics.total_byte_size.get_value()).or(rows.map(|rows| rows * row_bytes(&plan.schema())));
    bytes.is_some_and(|bytes| bytes < bytes_max)
}

/// A guess at the bytes of a row where only rows were counted.
fn row_bytes(schema: &Schema) -> usize {
    /// Of a value of no fixed length.
    const TEXT_BYTES: usize = 32;
    let width = |data_type: &DataType| match data_type {
        DataType::Boolean => 1,
        other => other.primitive_width().unwrap_or(TEXT_BYTES),
    };
    let row: usize = schema.fields().iter().map(|field| width(field.data_type())).sum();
    row.max(8)
}
