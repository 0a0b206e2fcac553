//! Cuts a stage's plan down to the partitions of one task.
//!
//! A task runs the whole stage plan over some of its partitions: its leaves keep those partitions only. A leaf under a
//! node that collapses its input (a merge, a coalesce, the build side of a join) keeps all of them, because each task
//! needs the whole of what is collapsed. Scoping follows Ballista's `restrict_plan_to_partitions`, which knows its own
//! leaves and DataFusion's but cannot be taught ours; the leaves themselves are still cut by it.
//!
//! [`inputs`] tells the driver beforehand what will be left of the readers, so that a task hears of nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use ballista_core::execution_plans::UnresolvedShuffleExec;
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

/// What the tasks of a stage read of an earlier stage's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reads {
    /// Every task reads all partitions.
    Whole,
    /// A task reads the partition of its own number, counted from the first task that reads any: the first of all, but for the
    /// later children of a union. One entry for each reader in the plan.
    Own { first_tasks: Vec<u32> },
}

impl Reads {
    /// The partitions that `task` reads, or none for all. Some may not exist: a union's tasks read of one child each.
    pub fn partitions(&self, task: u32) -> Option<Vec<u32>> {
        let Self::Own { first_tasks } = self else { return None };
        let mut partitions: Vec<u32> = first_tasks
            .iter()
            .filter_map(|first| task.checked_sub(*first))
            .collect();
        partitions.sort_unstable();
        partitions.dedup();
        Some(partitions)
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Own { mut first_tasks }, Self::Own { first_tasks: more }) => {
                first_tasks.extend(more);
                Self::Own { first_tasks }
            }
            (Self::Whole, _) | (_, Self::Whole) => Self::Whole,
        }
    }
}

/// The stages that `plan`, of a whole stage, reads, and what [`restrict`] to one task leaves of each.
pub fn inputs(plan: &Arc<dyn ExecutionPlan>) -> BTreeMap<usize, Reads> {
    let mut inputs = BTreeMap::new();
    collect_inputs(plan, Some(0), &mut inputs);
    inputs
}

/// `first_task` is the one that reads the first partition of `plan`; none where each reads all of them.
fn collect_inputs(plan: &Arc<dyn ExecutionPlan>, first_task: Option<usize>, inputs: &mut BTreeMap<usize, Reads>) {
    if let Some(reader) = plan.downcast_ref::<UnresolvedShuffleExec>() {
        let first_task = first_task.filter(|_| !reader.broadcast && reader.coalesce.is_none());
        let reads = match first_task.map(u32::try_from) {
            Some(Ok(first_task)) => Reads::Own {
                first_tasks: vec![first_task],
            },
            Some(Err(_)) | None => Reads::Whole,
        };
        let all = match inputs.remove(&reader.stage_id) {
            Some(before) => reads.and(before),
            None => reads,
        };
        inputs.insert(reader.stage_id, all);
    }
    let children: Vec<_> = plan.children().into_iter().cloned().collect();
    if plan.is::<UnionExec>() {
        let mut first_task = first_task;
        for child in children {
            collect_inputs(&child, first_task, inputs);
            let partitions = child.output_partitioning().partition_count();
            first_task = first_task.map(|first| first + partitions);
        }
        return;
    }
    let collapsed = collapsed_children(plan, children.len());
    for (child, whole) in children.iter().zip(collapsed) {
        collect_inputs(child, first_task.filter(|_| !whole), inputs);
    }
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
    use datafusion::physical_plan::Partitioning;
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

    fn reader(stage: usize, partitions: usize) -> Arc<dyn ExecutionPlan> {
        let schema = scan(vec![vec![0]]).schema();
        let partitioning = Partitioning::UnknownPartitioning(partitions);
        Arc::new(UnresolvedShuffleExec::new(stage, schema, partitioning))
    }

    /// What task `task` is told of each input of `plan`.
    fn told(plan: Arc<dyn ExecutionPlan>, task: u32) -> Vec<(usize, Option<Vec<u32>>)> {
        let inputs = inputs(&plan).into_iter();
        inputs.map(|(stage, reads)| (stage, reads.partitions(task))).collect()
    }

    #[test]
    fn a_task_hears_of_the_partitions_that_it_keeps() {
        let join = |build, probe| -> Arc<dyn ExecutionPlan> { Arc::new(CrossJoinExec::new(build, probe)) };
        assert_eq!(told(reader(1, 4), 3), [(1, Some(vec![3]))]);
        assert_eq!(
            told(join(reader(1, 4), reader(2, 4)), 3),
            [(1, None), (2, Some(vec![3]))]
        );
        let broadcast = UnresolvedShuffleExec::new_broadcast(1, reader(1, 1).schema(), 4);
        assert_eq!(told(Arc::new(broadcast), 0), [(1, None)]);
        // Each task reads of one child, and the other has no such partition.
        let union = || UnionExec::try_new(vec![reader(1, 2), reader(2, 4)]).unwrap();
        assert_eq!(told(union(), 1), [(1, Some(vec![1])), (2, Some(vec![]))]);
        assert_eq!(told(union(), 5), [(1, Some(vec![5])), (2, Some(vec![3]))]);
        // Read twice, once as a whole.
        assert_eq!(told(join(reader(1, 4), reader(1, 4)), 3), [(1, None)]);
        let twice = UnionExec::try_new(vec![reader(1, 2), reader(1, 2)]).unwrap();
        assert_eq!(told(twice, 3), [(1, Some(vec![1, 3]))]);
        // What is collapsed stays so, whatever is below.
        let merged: Arc<dyn ExecutionPlan> = Arc::new(CoalescePartitionsExec::new(union()));
        assert_eq!(told(merged, 0), [(1, None), (2, None)]);
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
