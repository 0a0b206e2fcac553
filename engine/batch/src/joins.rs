//! Which joins a plan may hold in memory.
//!
//! DataFusion's hash join keeps the whole of its build side and cannot spill; its sort-merge join is slower and spills.
//! [`SpillingJoins`] is an optimizer rule that leaves a hash join alone where the build side is estimated to fit into a
//! task's share of memory, and makes it a sort-merge join elsewhere. It runs after DataFusion has chosen build sides and
//! before exchanges and sorts are put in. The decision itself is [`join_kind`].
//!
//! Estimates are wrong at times. A statement that fails because a hash join held too much ([`outgrown`]) is planned once
//! more, with joins that sort ([`all_sorted`]).

use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::Result;
use datafusion::common::config::{ConfigExtension, ConfigOptions};
use datafusion::common::extensions_options;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::execution::SessionState;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode, SortMergeJoinExec};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::statistics::StatisticsContext;
use datafusion::physical_plan::{ExecutionPlan, StatisticsArgs};
use trireme_spec::problem::{ErrorCode, Problem};

use crate::cluster::{BroadcastJoins, GatheredJoins};
use crate::memory::SlotMemory;
use crate::tables::file_scan;

extensions_options! {
    /// Planning settings of ours; a job may change them with `SET`.
    pub struct PlanningOptions {
        /// Largest build side of a hash join, in bytes that one task holds; larger joins sort and may spill.
        pub hash_join_build_bytes_max: u64, default = u64::MAX
    }
}

impl ConfigExtension for PlanningOptions {
    const PREFIX: &'static str = "trireme";
}

impl PlanningOptions {
    /// Settings for tasks with `memory` each.
    pub fn within(memory: SlotMemory) -> Self {
        Self {
            hash_join_build_bytes_max: memory.hash_join_build_bytes_max(),
        }
    }
}

/// How a join is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinKind {
    /// Holds its build side in memory.
    Hash,
    /// Sorts both sides; sorts spill.
    SortMerge,
}

/// What is known of the side of a hash join that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildSide {
    /// All of it, in memory; `None` where nothing is known.
    pub bytes: Option<u64>,
    /// Tasks that each hold a share of it: 1 where every task holds all of it.
    pub shares: u64,
}

/// The kind of a join whose tasks may each hold `bytes_max` bytes; 0 stands for none at all. What is not known may be of
/// any size, so it is sorted, unless there is no limit.
pub fn join_kind(build: BuildSide, bytes_max: u64) -> JoinKind {
    let fits = match (build.bytes, bytes_max) {
        (_, 0) => false,
        (Some(bytes), _) => bytes.div_ceil(build.shares.max(1)) <= bytes_max,
        (None, _) => bytes_max == u64::MAX,
    };
    if fits { JoinKind::Hash } else { JoinKind::SortMerge }
}

/// What a hash join's share of memory is called where memory ran out.
const HASH_JOIN_CONSUMER: &str = "HashJoinInput";

/// Whether a statement failed for want of memory while a hash join was among those that held the most.
pub fn outgrown(problem: &Problem) -> bool {
    problem.code == ErrorCode::LimitMemory && problem.message.contains(HASH_JOIN_CONSUMER)
}

/// A planner whose joins all sort.
pub fn all_sorted(mut planner: SessionState) -> SessionState {
    tracing::warn!("a hash join outgrew its memory; the statement runs again with joins that can spill");
    if let Some(options) = planner
        .config_mut()
        .options_mut()
        .extensions
        .get_mut::<PlanningOptions>()
    {
        options.hash_join_build_bytes_max = 0;
    }
    planner
}

/// DataFusion's rules with ours among them: once build sides are chosen, which of them every task reads on workers, which
/// fit, and which joins one task does.
pub fn physical_optimizer_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    let chosen = rules.iter().position(|rule| rule.name() == "join_selection");
    // Without the rule that chooses build sides, the planner's own choice is what there is to judge.
    let behind = chosen.map_or(0, |index| index + 1);
    rules.insert(behind, Arc::new(BroadcastJoins));
    rules.insert(behind + 1, Arc::new(SpillingJoins));
    rules.insert(behind + 2, Arc::new(GatheredJoins));
    rules
}

/// Makes hash joins that would not fit into sort-merge joins.
#[derive(Debug)]
pub struct SpillingJoins;

impl PhysicalOptimizerRule for SpillingJoins {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let bytes_max = config
            .extensions
            .get::<PlanningOptions>()
            .map_or(u64::MAX, |options| options.hash_join_build_bytes_max);
        let partitions = config.execution.target_partitions as u64;
        let done = plan.transform_up(|node| {
            let Some(join) = node.downcast_ref::<HashJoinExec>() else {
                return Ok(Transformed::no(node));
            };
            let build = BuildSide {
                bytes: memory_bytes(join.left()),
                shares: match join.partition_mode() {
                    PartitionMode::CollectLeft => 1,
                    PartitionMode::Partitioned | PartitionMode::Auto => partitions,
                },
            };
            // Only a hash join knows `NOT IN` with nulls.
            match (join_kind(build, bytes_max), join.null_aware) {
                (JoinKind::SortMerge, false) => Ok(Transformed::yes(sort_merge(join)?)),
                (JoinKind::SortMerge, true) | (JoinKind::Hash, _) => Ok(Transformed::no(node)),
            }
        })?;
        Ok(done.data)
    }

    fn name(&self) -> &str {
        "spilling_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn sort_merge(join: &HashJoinExec) -> Result<Arc<dyn ExecutionPlan>> {
    let sorted: Arc<dyn ExecutionPlan> = Arc::new(SortMergeJoinExec::try_new(
        Arc::clone(join.left()),
        Arc::clone(join.right()),
        join.on().to_vec(),
        join.filter().cloned(),
        *join.join_type(),
        vec![SortOptions::default(); join.on().len()],
        join.null_equality(),
    )?);
    let Some(projection) = &join.projection else {
        return Ok(sorted);
    };
    // A sort-merge join yields all of its columns.
    let schema = sorted.schema();
    let columns = projection.iter().map(|&index| {
        let name = schema.field(index).name();
        ProjectionExpr::new(Arc::new(Column::new(name, index)), name.clone())
    });
    Ok(Arc::new(ProjectionExec::try_new(columns.collect::<Vec<_>>(), sorted)?))
}

/// What a row costs in a hash join besides its columns: a hash, an index, and the room that the table leaves free.
const HASH_ENTRY_BYTES: u64 = 24;

/// A text or list of unknown length: the length of a name or a short sentence.
const VARIABLE_BYTES: u64 = 32;

/// Bytes in memory for a byte of a file whose rows are not counted: text takes about its own size, compressed text several
/// times as much.
const FILE_EXPANSION: u64 = 4;

/// How much memory the rows of `plan` take in a hash join: rows times width where the rows are estimated, else the size of
/// the files below, else the sum of the inputs.
fn memory_bytes(plan: &Arc<dyn ExecutionPlan>) -> Option<u64> {
    let statistics = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new());
    let rows = statistics.ok().and_then(|known| known.num_rows.get_value().copied());
    if let Some(rows) = rows {
        return Some((rows as u64).saturating_mul(row_bytes(&plan.schema())));
    }
    let children = plan.children();
    if children.is_empty() {
        return file_bytes(plan.as_ref()).map(|bytes| bytes.saturating_mul(FILE_EXPANSION));
    }
    let sizes = children.into_iter().map(memory_bytes);
    sizes.reduce(|sum, size| Some(sum?.saturating_add(size?)))?
}

fn row_bytes(schema: &Schema) -> u64 {
    let columns = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Null => 0,
        // Offsets or views take as much as a short text.
        DataType::Utf8View | DataType::BinaryView => VARIABLE_BYTES + 16,
        data_type => data_type.primitive_width().map_or(VARIABLE_BYTES, |width| width as u64),
    });
    columns.sum::<u64>() + HASH_ENTRY_BYTES
}

fn file_bytes(leaf: &dyn ExecutionPlan) -> Option<u64> {
    let files = file_scan(leaf)?.file_groups.iter();
    Some(
        files
            .flat_map(|group| group.iter())
            .map(|file| file.object_meta.size)
            .sum(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tpch::TpchCatalog;
    use datafusion::execution::SessionStateBuilder;
    use datafusion::physical_plan::displayable;
    use datafusion::prelude::{SessionConfig, SessionContext};

    #[test]
    fn a_hash_join_needs_its_share_of_the_build_side_to_fit() {
        let gib = 1 << 30;
        for (bytes, shares, bytes_max, kind) in [
            (Some(gib), 1, gib, JoinKind::Hash),
            (Some(gib + 1), 1, gib, JoinKind::SortMerge),
            (Some(4 * gib), 4, gib, JoinKind::Hash),
            (Some(4 * gib + 1), 4, gib, JoinKind::SortMerge),
            (Some(0), 1, 1, JoinKind::Hash),
            (Some(0), 1, 0, JoinKind::SortMerge),
            (Some(1), 0, gib, JoinKind::Hash),
            (None, 4, gib, JoinKind::SortMerge),
            (None, 1, u64::MAX, JoinKind::Hash),
        ] {
            assert_eq!(
                join_kind(BuildSide { bytes, shares }, bytes_max),
                kind,
                "{bytes:?} in {shares} shares, at most {bytes_max}"
            );
        }
    }

    /// The plan of `sql` over the generated tables of scale factor 1, with build sides of at most `bytes_max`.
    async fn plan(sql: &str, bytes_max: u64) -> String {
        let config = SessionConfig::new()
            .with_target_partitions(4)
            .with_option_extension(PlanningOptions {
                hash_join_build_bytes_max: bytes_max,
            });
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_default_features()
            .with_physical_optimizer_rules(physical_optimizer_rules())
            .build();
        let context = SessionContext::new_with_state(state);
        context.register_catalog(crate::tpch::CATALOG, Arc::new(TpchCatalog));
        let frame = context.sql(sql).await.unwrap();
        let plan = frame.create_physical_plan().await.unwrap();
        displayable(plan.as_ref()).indent(false).to_string()
    }

    const JOIN: &str =
        "SELECT o_orderdate, l_tax FROM tpch.sf1.orders JOIN tpch.sf1.lineitem ON o_orderkey = l_orderkey";

    #[tokio::test]
    async fn plans_change_with_the_limit_and_keep_their_columns() {
        // 1.5 million orders of 8 + 4 + 24 bytes in four shares are 13.5 MB each.
        let roomy = plan(JOIN, 14_000_000).await;
        assert!(roomy.contains("HashJoinExec: mode=Partitioned"), "{roomy}");
        let tight = plan(JOIN, 13_000_000).await;
        assert!(
            tight.contains("SortMergeJoinExec") && !tight.contains("HashJoinExec"),
            "{tight}"
        );
    }

    #[tokio::test]
    async fn every_kind_of_equality_join_can_sort() {
        for join in [
            "LEFT JOIN",
            "RIGHT JOIN",
            "FULL JOIN",
            "LEFT SEMI JOIN",
            "LEFT ANTI JOIN",
        ] {
            let text = plan(
                &format!("SELECT count(*) FROM tpch.sf1.orders {join} tpch.sf1.lineitem ON o_orderkey = l_orderkey"),
                1,
            )
            .await;
            assert!(
                text.contains("SortMergeJoinExec") && !text.contains("HashJoinExec"),
                "{text}"
            );
        }
    }

    #[test]
    fn only_memory_of_hash_joins_is_mended_by_sorting() {
        let message = "Failed to allocate additional 1.0 MB for HashJoinInput[0] with 3.0 MB already allocated";
        assert!(outgrown(&Problem::new(ErrorCode::LimitMemory, message)));
        assert!(!outgrown(&Problem::new(ErrorCode::SqlExecution, message)));
        assert!(!outgrown(&Problem::new(
            ErrorCode::LimitMemory,
            "for ExternalSorter[0]"
        )));
    }

    #[tokio::test]
    async fn not_in_with_nulls_keeps_its_hash_join() {
        let sql = "SELECT count(*) FROM tpch.sf1.orders WHERE o_custkey NOT IN \
                   (SELECT CASE WHEN c_custkey > 9 THEN c_custkey END FROM tpch.sf1.customer)";
        let text = plan(sql, 1).await;
        assert!(text.contains("HashJoinExec"), "{text}");
    }
}
