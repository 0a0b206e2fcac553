//! Whether a stage leaves the same rows if it runs again on the same inputs.
//!
//! The scheduler has to know (`trireme_batch_schedule`, module `versions`): the loss of an output that cannot be made again
//! as it was takes everything along that derives from it. What decides is order. Files and generators yield the same rows in
//! the same order each time, an exchange yields the same rows in the order in which they happen to arrive; so whatever picks
//! rows by their order, below an exchange, may pick others the next time. A sort restores the order only as far as its keys
//! tell rows apart. Volatile functions differ always.
//!
//! In doubt the answer is no: that costs work after a loss, the other mistake costs rows. What is taken for granted: files
//! do not change under a query, and the last digits of floating-point sums, which follow the order too, decide nothing but
//! where a row goes ([`goes_by_floats`]) and how rows are sorted.

use std::sync::Arc;

use ballista_core::execution_plans::sort_shuffle::SortShuffleWriterExec;
use ballista_core::execution_plans::{ShuffleWriter, ShuffleWriterExec, UnresolvedShuffleExec};
use datafusion::arrow::datatypes::Schema;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::WindowFrameUnits;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::window::{
    PlainAggregateWindowExpr, SlidingAggregateWindowExpr, StandardWindowExpr, WindowExpr,
};
use datafusion::physical_expr::{LexOrdering, PhysicalExpr};
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::buffer::BufferExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec, WindowUDFExpr};
use datafusion::physical_plan::{ExecutionPlan, Partitioning};

use super::gather::GatherExec;
use crate::sink::PartSinkExec;

/// Whether two attempts at a task of the stage leave the same rows in each partition of their output.
pub fn is_repeatable(writer: &Arc<dyn ShuffleWriter>) -> bool {
    let plan = Arc::clone(writer) as Arc<dyn ExecutionPlan>;
    match again(&plan) {
        Again::Same => true,
        Again::SameRows => !goes_by_floats(writer.as_ref()),
        Again::Other => false,
    }
}

/// What a node yields if it runs again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Again {
    /// The same rows in the same order.
    Same,
    /// The same rows in any order.
    SameRows,
    Other,
}

fn again(plan: &Arc<dyn ExecutionPlan>) -> Again {
    // A receipt names the attempt.
    if computes_by_chance(plan) || plan.is::<PartSinkExec>() {
        return Again::Other;
    }
    let made = match plan.children().into_iter().map(again).max() {
        None if plan.is::<UnresolvedShuffleExec>() => Again::SameRows,
        None => Again::Same,
        Some(Again::Other) => Again::Other,
        Some(input) => made_of(plan, input),
    };
    match made {
        Again::SameRows if takes_only_some(plan) => Again::Other,
        made => made,
    }
}

/// What a node that calls nothing volatile makes of its inputs.
fn made_of(plan: &Arc<dyn ExecutionPlan>, input: Again) -> Again {
    if keeps_order(plan) {
        return input;
    }
    if let Some(sort) = plan.downcast_ref::<SortExec>() {
        return sorted(plan, sort.expr(), input);
    }
    if let Some(merge) = plan.downcast_ref::<SortPreservingMergeExec>() {
        return sorted(plan, merge.expr(), input);
    }
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        let by_order = aggregate.limit_options().is_some()
            || !aggregate.aggr_expr().iter().all(|aggregate| ignores_order(aggregate));
        return by_order_or_not(input, by_order);
    }
    if let Some(windows) = window_exprs(plan) {
        return by_order_or_not(input, windows.iter().any(|window| goes_by_order(window.as_ref())));
    }
    if joins_or_collects(plan) {
        Again::SameRows
    } else {
        by_order_or_not(input, true)
    }
}

/// Row by row, one after the other.
fn keeps_order(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<FilterExec>()
        || plan.is::<ProjectionExec>()
        || plan.is::<UnnestExec>()
        || plan.is::<UnionExec>()
        || plan.is::<GlobalLimitExec>()
        || plan.is::<LocalLimitExec>()
        || plan.is::<ScalarSubqueryExec>()
        || plan.is::<CooperativeExec>()
        || plan.is::<BufferExec>()
        || plan.is::<GatherExec>()
        || plan.is::<ShuffleWriterExec>()
        || plan.is::<SortShuffleWriterExec>()
}

fn joins_or_collects(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<HashJoinExec>()
        || plan.is::<SortMergeJoinExec>()
        || plan.is::<NestedLoopJoinExec>()
        || plan.is::<CrossJoinExec>()
        || plan.is::<CoalescePartitionsExec>()
}

/// Equal keys come in any order, because sorts spill when memory is short. The first rows by equal keys are still those
/// that came first.
fn sorted(plan: &Arc<dyn ExecutionPlan>, keys: &LexOrdering, input: Again) -> Again {
    match is_total(keys, &plan.schema()) {
        true => Again::Same,
        false if plan.fetch().is_some() => input,
        false => Again::SameRows,
    }
}

/// Rows that are equal by the keys are equal in every column. Not said of floats: they may differ in the last digit.
fn is_total(keys: &LexOrdering, schema: &Schema) -> bool {
    let is_key = |index| {
        keys.iter().any(|key| {
            key.expr
                .downcast_ref::<Column>()
                .is_some_and(|column| column.index() == index)
        })
    };
    let fields = schema.fields().iter().enumerate();
    fields
        .into_iter()
        .all(|(index, field)| is_key(index) && !field.data_type().is_floating())
}

fn by_order_or_not(input: Again, by_order: bool) -> Again {
    if by_order && input != Again::Same {
        Again::Other
    } else {
        Again::SameRows
    }
}

fn takes_only_some(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.fetch().is_some()
        || plan
            .downcast_ref::<GlobalLimitExec>()
            .is_some_and(|limit| limit.skip() > 0)
}

fn computes_by_chance(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let mut by_chance = false;
    let visited = plan.apply_expressions(&mut |expr: &Arc<dyn PhysicalExpr>| {
        by_chance |= is_volatile(expr);
        Ok(TreeNodeRecursion::Continue)
    });
    by_chance || visited.is_err()
}

/// Aggregates whose result depends on the rows alone. Neither `order_sensitivity` of DataFusion 55 nor its volatility says
/// so: `any_value` is called insensitive, `count` is not.
const IGNORE_ORDER: &[&str] = &[
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
    "approx_percentile_cont_with_weight",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "grouping",
    "max",
    "median",
    "min",
    "percentile_cont",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "sum",
    "var",
    "var_pop",
];

fn ignores_order(aggregate: &AggregateFunctionExpr) -> bool {
    IGNORE_ORDER.contains(&aggregate.fun().name())
}

fn window_exprs(plan: &Arc<dyn ExecutionPlan>) -> Option<&[Arc<dyn WindowExpr>]> {
    let whole = plan.downcast_ref::<WindowAggExec>().map(WindowAggExec::window_expr);
    whole.or_else(|| {
        plan.downcast_ref::<BoundedWindowAggExec>()
            .map(BoundedWindowAggExec::window_expr)
    })
}

/// Whether it tells rows apart that are equal in the window's order.
fn goes_by_order(window: &dyn WindowExpr) -> bool {
    let any = window.as_any();
    if let Some(ranking) = any.downcast_ref::<StandardWindowExpr>() {
        let function = ranking
            .get_standard_func_expr()
            .as_any()
            .downcast_ref::<WindowUDFExpr>();
        return function.is_none_or(|function| {
            !["rank", "dense_rank", "percent_rank", "cume_dist"].contains(&function.fun().name())
        });
    }
    let plain = any
        .downcast_ref::<PlainAggregateWindowExpr>()
        .map(PlainAggregateWindowExpr::get_aggregate_expr);
    let sliding = || {
        any.downcast_ref::<SlidingAggregateWindowExpr>()
            .map(SlidingAggregateWindowExpr::get_aggregate_expr)
    };
    let frame = window.get_window_frame();
    let counts_rows =
        frame.units == WindowFrameUnits::Rows && !(frame.start_bound.is_unbounded() && frame.end_bound.is_unbounded());
    counts_rows || plain.or_else(sliding).is_none_or(|aggregate| !ignores_order(aggregate))
}

/// Whether a floating-point number decides to which partition a row goes.
fn goes_by_floats(writer: &dyn ShuffleWriter) -> bool {
    let children = writer.children();
    let Some((Partitioning::Hash(keys, _), input)) = writer.shuffle_output_partitioning().zip(children.first()) else {
        return false;
    };
    let schema = input.schema();
    keys.iter()
        .any(|key| key.data_type(&schema).map_or(true, |data_type| data_type.is_floating()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::settings::planning;
    use crate::memory::MemoryBudget;
    use crate::tpch::{CATALOG, TpchCatalog};
    use ballista_scheduler::planner::{DefaultDistributedPlanner, DistributedPlanner};
    use datafusion::prelude::{SessionConfig, SessionContext};

    /// For each stage of the query, inputs first, whether it is repeatable.
    async fn stages(sql: &str) -> Vec<bool> {
        let config = planning(SessionConfig::new(), 2, MemoryBudget::split(2 << 30).per_slot(1))
            .with_default_catalog_and_schema(CATALOG, "sf1");
        let session = SessionContext::new_with_config(config);
        session.register_catalog(CATALOG, Arc::new(TpchCatalog));
        let plan = session.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        let options = session.copied_config();
        let stages = DefaultDistributedPlanner::new().plan_query_stages(&"test".into(), plan, options.options());
        stages.unwrap().iter().map(is_repeatable).collect()
    }

    #[tokio::test]
    async fn which_rows_a_limit_takes_below_an_exchange_is_chance() {
        let some = "SELECT o_custkey FROM orders LIMIT 100000";
        assert_eq!(
            stages(some).await,
            [true, false],
            "each scan takes its first rows, the merge those that came first"
        );
        let counted = format!("SELECT o_custkey, count(*) FROM ({some}) GROUP BY o_custkey");
        assert_eq!(stages(&counted).await, [true, false, true]);
        assert_eq!(stages("SELECT o_custkey FROM orders OFFSET 5").await, [true, false]);
    }

    #[tokio::test]
    async fn a_limit_by_an_order_is_repeatable_if_the_order_tells_all_rows_apart() {
        let total = "SELECT o_custkey, count(*) AS n FROM orders GROUP BY o_custkey ORDER BY n, o_custkey LIMIT 5";
        assert_eq!(stages(total).await, [true, true, true]);
        let ties = "SELECT o_custkey, count(*) AS n FROM orders GROUP BY o_custkey ORDER BY n LIMIT 5";
        assert_eq!(stages(ties).await, [true, false, false]);
    }

    #[tokio::test]
    async fn chance_in_an_expression_counts_wherever_it_stands() {
        let drawn = "SELECT o_custkey, count(*) FROM orders WHERE random() < 0.5 GROUP BY o_custkey";
        assert_eq!(stages(drawn).await, [false, true]);
        let named = "SELECT n, count(*) FROM (SELECT uuid() AS n FROM orders) GROUP BY n";
        assert_eq!(stages(named).await, [false, true]);
        let dated = "SELECT o_custkey, count(*) FROM orders WHERE o_orderdate < now() GROUP BY o_custkey";
        assert_eq!(stages(dated).await, [true, true]);
    }

    #[tokio::test]
    async fn aggregates_and_joins_are_repeatable_but_for_those_that_go_by_order() {
        let join = "SELECT c_nationkey, sum(o_totalprice), avg(o_totalprice), max(o_orderdate) \
                    FROM orders JOIN customer ON o_custkey = c_custkey GROUP BY c_nationkey";
        assert!(stages(join).await.into_iter().all(|repeatable| repeatable));
        for first in [
            "array_agg(o_orderkey)",
            "first_value(o_orderkey)",
            "any_value(o_orderkey)",
        ] {
            let sql = format!("SELECT o_custkey, {first} FROM orders GROUP BY o_custkey");
            assert_eq!(stages(&sql).await, [true, false], "{first}");
        }
    }

    #[tokio::test]
    async fn window_functions_are_repeatable_if_they_treat_equal_rows_alike() {
        let over = "OVER (PARTITION BY o_custkey ORDER BY o_orderdate)";
        for (function, repeatable) in [
            ("row_number()", false),
            ("lag(o_orderkey)", false),
            ("rank()", true),
            ("count(*)", true),
            ("first_value(o_orderkey)", false),
        ] {
            let sql = format!("SELECT o_orderkey, {function} {over} FROM orders");
            assert_eq!(stages(&sql).await, [true, repeatable], "{function}");
        }
        let rows = "SELECT o_custkey, count(o_clerk) OVER (ORDER BY o_orderdate ROWS 3 PRECEDING) FROM orders";
        assert_eq!(stages(rows).await.last(), Some(&false));
    }

    #[tokio::test]
    async fn sums_of_floats_decide_nothing_but_where_rows_go() {
        let doubles = "SELECT o_custkey, sum(o_totalprice::double) AS total FROM orders GROUP BY o_custkey";
        assert_eq!(stages(doubles).await, [true, true]);
        let histogram = format!("SELECT total, count(*) FROM ({doubles}) GROUP BY total");
        assert_eq!(stages(&histogram).await, [true, false, true]);
    }
}
