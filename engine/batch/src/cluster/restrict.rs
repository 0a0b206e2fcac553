//! Cuts a stage's plan down to the partitions of one task.
//!
//! A task runs the whole stage plan over some of its partitions: its leaves keep those partitions only. A leaf under a
//! node that collapses its input (a merge, a coalesce, the build side of a join) keeps all of them, because each task
//! needs the whole of what is collapsed. Scoping follows Ballista's `restrict_plan_to_partitions`, which knows its own
//! leaves and DataFusion's but cannot be taught ours; the leaves themselves are still cut by it.

use std::sync::Arc;

use ballista_scheduler::state::task_builder::restrict_plan_to_partitions;
use datafusion::common::Result;
use datafusion::physical_expr::Distribution;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, replace_children_if_necessary};

use crate::sink::PartSinkExec;
use crate::tpch::TpchScan;

/// `plan` with the leaves that are partitioned like its output cut down to `partitions`.
///
/// # Errors
/// A leaf that cannot be cut.
pub fn restrict(plan: Arc<dyn ExecutionPlan>, partitions: &[usize]) -> Result<Arc<dyn ExecutionPlan>> {
    let children: Vec<_> = plan.children().into_iter().cloned().collect();
    if children.is_empty() {
        return match plan.downcast_ref::<TpchScan>() {
            Some(scan) => Ok(Arc::new(scan.restricted_to(partitions)?)),
            None => restrict_plan_to_partitions(plan, partitions),
        };
    }
    let restricted = if plan.is::<UnionExec>() {
        let shares = union_shares(&children, partitions);
        children
            .into_iter()
            .zip(&shares)
            .map(|(child, share)| restrict(child, share))
            .collect::<Result<Vec<_>>>()?
    } else {
        let collapsed = collapsed_children(&plan, children.len());
        let cut = |(child, whole)| if whole { Ok(child) } else { restrict(child, partitions) };
        children
            .into_iter()
            .zip(collapsed)
            .map(cut)
            .collect::<Result<Vec<_>>>()?
    };
    if let Some(sink) = plan.downcast_ref::<PartSinkExec>()
        && let [input] = restricted.as_slice()
    {
        return Ok(Arc::new(sink.restricted(Arc::clone(input), partitions)));
    }
    replace_children_if_necessary(plan, restricted)
}

/// Which children `plan` consumes whole, whatever partition it is asked for.
fn collapsed_children(plan: &Arc<dyn ExecutionPlan>, count: usize) -> Vec<bool> {
    // Both declare no distribution, because they take their input however it is partitioned; yet they take all of it.
    if plan.is::<CoalescePartitionsExec>() || plan.is::<SortPreservingMergeExec>() {
        return vec![true; count];
    }
    let required = plan.input_distribution_requirements();
    let mut collapsed: Vec<bool> = required
        .per_child_distributions()
        .map(|distribution| matches!(distribution, Distribution::SinglePartition))
        .collect();
    // A node that declares fewer requirements than it has children leaves the others as they are partitioned.
    collapsed.resize(count, false);
    collapsed
}

/// A union's partitions are those of its children one after the other: what each child keeps, in its own numbers.
fn union_shares(children: &[Arc<dyn ExecutionPlan>], partitions: &[usize]) -> Vec<Vec<usize>> {
    let mut first = 0;
    let mut shares = Vec::with_capacity(children.len());
    for child in children {
        let end = first + child.output_partitioning().partition_count();
        let share = partitions
            .iter()
            .filter(|&&index| (first..end).contains(&index))
            .map(|index| index - first);
        shares.push(share.collect());
        first = end;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tpch::{Table, TpchScan};
    use datafusion::physical_plan::joins::CrossJoinExec;

    fn scan(groups: Vec<Vec<u32>>) -> Arc<dyn ExecutionPlan> {
        Arc::new(TpchScan::try_new(Table::Orders, 1.0, groups, Some(vec![0]), None).unwrap())
    }

    fn partitions(plan: &Arc<dyn ExecutionPlan>) -> usize {
        plan.output_partitioning().partition_count()
    }

    #[test]
    fn a_leaf_keeps_the_partitions_of_the_task() {
        let plan = restrict(scan(vec![vec![0], vec![1], vec![2]]), &[1, 2]).unwrap();
        assert_eq!(partitions(&plan), 2);
    }

    #[test]
    fn what_is_collapsed_stays_whole() {
        let build = scan(vec![vec![0], vec![1], vec![2]]);
        let probe = scan(vec![vec![0], vec![1], vec![2]]);
        let join: Arc<dyn ExecutionPlan> = Arc::new(CrossJoinExec::new(build, probe));
        let plan = restrict(join, &[2]).unwrap();
        let children = plan.children();
        assert_eq!((partitions(children[0]), partitions(children[1])), (3, 1));
    }

    #[test]
    fn a_union_gives_each_child_its_share() {
        let children = [scan(vec![vec![0], vec![1]]), scan(vec![vec![2], vec![0], vec![1]])];
        assert_eq!(union_shares(&children, &[1, 2, 4]), vec![vec![1], vec![0, 2]]);
        let union = UnionExec::try_new(children.to_vec()).unwrap();
        let plan = restrict(union, &[3]).unwrap();
        assert_eq!(
            plan.children()
                .iter()
                .map(|child| partitions(child))
                .collect::<Vec<_>>(),
            vec![0, 1]
        );
    }
}
