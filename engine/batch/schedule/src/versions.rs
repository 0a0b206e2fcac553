//! Outputs that cannot be made again as they were, and what their loss costs.
//!
//! Recovery takes an output that is made again to equal the lost one. A stage that is not `repeatable` breaks this: two
//! attempts at one partition are two versions of it, and what was computed from one must not meet what was computed from
//! the other, or rows would be missing and others there twice (SPARK-23207 is this bug). The rule: a lost output of such a
//! stage is made again only after everything that derives from the stage is void. Its readers, theirs, and so on to the
//! result go back to pending as a whole; running ones are cancelled; what the driver has fetched is discarded. An output that
//! nobody has read, or that nobody needs again, costs no more than any other.
//!
//! It is exact enough to be this coarse: every task reads from all tasks of its inputs, so whatever was launched below the
//! stage has read all of it. Since what is handed on cannot be taken back, a run in which this may happen hands on nothing
//! before all of its result is at the driver.

use crate::event::{StageId, TaskId, WorkerId};
use crate::graph::{Run, State};

/// What was void.
#[derive(Debug)]
pub(crate) struct RolledBack {
    /// The stage whose output is made again.
    pub(crate) stage: StageId,
    /// Attempts to be cancelled.
    pub(crate) running: Vec<(WorkerId, TaskId)>,
    /// Attempts whose result the driver has.
    pub(crate) fetched: Vec<TaskId>,
}

impl Run {
    /// Whether a fetched result may have to be discarded. The last stage has no reader but the driver, which reads each
    /// partition once.
    pub(crate) fn may_roll_back(&self) -> bool {
        self.stages[..self.result_index()]
            .iter()
            .any(|stage| !stage.spec.repeatable)
    }

    /// Voids what derives from one torn stage; to be called until there is none, since it may make others needed again.
    /// `last_task` is the latest attempt there is.
    pub(crate) fn roll_back(&mut self, last_task: TaskId) -> Option<RolledBack> {
        let torn = self.torn()?;
        let mut rolled_back = RolledBack {
            stage: self.stages[torn].spec.id,
            running: Vec::new(),
            fetched: Vec::new(),
        };
        self.stages[torn].read = false;
        for stage in self.derived_from(torn) {
            self.stages[stage].read = false;
            for partition in 0..self.stages[stage].spec.partitions {
                match self.reopen(stage, partition) {
                    State::Running { task, worker } => rolled_back.running.push((worker, task)),
                    State::Fetched { task } => rolled_back.fetched.push(task),
                    State::Pending | State::Done { .. } => {}
                }
            }
        }
        // The result derives from every stage, so that no attempt at it so far can count; a fetch of one may be on its way.
        self.void_until = last_task;
        Some(rolled_back)
    }

    /// A stage of which a version was read and another is about to be made.
    fn torn(&self) -> Option<usize> {
        let may_be = |stage: &usize| {
            let stage = &self.stages[*stage];
            !stage.spec.repeatable && stage.read && !stage.pending.is_empty()
        };
        let mut candidates = (0..self.stages.len()).filter(may_be).peekable();
        candidates.peek()?;
        let needed = self.needed();
        candidates.find(|stage| needed[*stage])
    }

    /// The stages that read it, or read what was read from it.
    fn derived_from(&self, stage: usize) -> Vec<usize> {
        let mut derived = vec![stage];
        for (position, reader) in self.stages.iter().enumerate().skip(stage + 1) {
            if reader.inputs.iter().any(|input| derived.contains(input)) {
                derived.push(position);
            }
        }
        derived.split_off(1)
    }

    pub(crate) fn assert_whole(&self) {
        assert_eq!(self.torn(), None, "a stage is made again under its readers");
    }
}
