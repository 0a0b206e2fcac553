//! The shape of a run, checked once, so that nothing after it can meet a malformed graph.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::event::StageId;

/// One stage of a run as its planner describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageSpec {
    pub id: StageId,
    /// Number of partitions of its work, one task each. Zero is a stage with nothing to do.
    pub partitions: u32,
    /// Stages whose outputs it reads: every task reads from all tasks of each of them.
    pub inputs: Vec<StageId>,
    /// Number of partitions into which each task divides its output.
    pub output_partitions: u32,
    /// Whether two attempts at a partition, given the same inputs, leave the same rows. Not so where arrival order or chance
    /// decides: `versions` says what a loss costs then.
    pub repeatable: bool,
}

/// A DAG of stages in topological order; the last one is the result, which the driver fetches.
#[derive(Clone, Debug)]
pub struct RunPlan {
    stages: Vec<PlannedStage>,
}

/// A stage whose inputs are positions in the plan, all of them before its own.
#[derive(Clone, Debug)]
pub(crate) struct PlannedStage {
    pub(crate) spec: StageSpec,
    pub(crate) inputs: Vec<usize>,
}

/// Why a list of stages is not a plan.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    #[error("a run needs at least one stage")]
    Empty,
    #[error("stage {stage} appears twice")]
    DuplicateStage { stage: StageId },
    #[error("stage {stage} reads stage {input}, which is not listed before it")]
    InputNotBefore { stage: StageId, input: StageId },
    #[error("stage {stage} is read by no later stage and is not the last, which is the result")]
    Unread { stage: StageId },
}

impl RunPlan {
    /// Checks that `stages` are in topological order and that every stage but the last is read by a later one.
    pub fn new(stages: Vec<StageSpec>) -> Result<RunPlan, PlanError> {
        let mut positions = BTreeMap::new();
        let mut read = BTreeSet::new();
        let mut planned = Vec::with_capacity(stages.len());
        for (position, spec) in stages.into_iter().enumerate() {
            let inputs = spec
                .inputs
                .iter()
                .map(|input| {
                    positions.get(input).copied().ok_or(PlanError::InputNotBefore {
                        stage: spec.id,
                        input: *input,
                    })
                })
                .collect::<Result<Vec<usize>, PlanError>>()?;
            if positions.insert(spec.id, position).is_some() {
                return Err(PlanError::DuplicateStage { stage: spec.id });
            }
            read.extend(inputs.iter().copied());
            planned.push(PlannedStage { spec, inputs });
        }
        let result = planned.len().checked_sub(1).ok_or(PlanError::Empty)?;
        match (0..result).find(|position| !read.contains(position)) {
            Some(unread) => Err(PlanError::Unread {
                stage: planned[unread].spec.id,
            }),
            None => Ok(RunPlan { stages: planned }),
        }
    }

    /// Number of stages: at least one.
    #[expect(clippy::len_without_is_empty, reason = "a plan is never empty")]
    pub fn len(&self) -> usize {
        self.stages.len()
    }

    pub(crate) fn into_stages(self) -> Vec<PlannedStage> {
        self.stages
    }
}
