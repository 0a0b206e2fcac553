//! The stage graph of one run: which partition is where, and which of them anybody still needs.
//!
//! Loss and recovery meet in one rule. An output that is lost makes its partition pending again, wherever it stands in the
//! graph; but a stage is worked on only while it is **needed**: while some stage that reads it has unfinished work and is
//! itself needed. The result is needed until the run ends. So a loss re-runs what has a reader and nothing else, finished
//! readers on surviving workers keep their work, and a result partition that is re-opened makes its inputs needed again,
//! back to the first that is gone. What more a loss costs where an output made again is not the same is in `versions`. It
//! knows workers only by id and never decides where a task runs.

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;

use crate::event::{LossReason, Millis, RunError, StageOutputs, TaskId, TaskOutput, WorkerId};
use crate::failures::{History, Limits, Place};
use crate::plan::{PlannedStage, RunPlan, StageSpec};

/// Failed fetches of one output, each followed by a sign of life of its worker, after which the output is taken for lost:
/// the first may have been the network.
const FETCH_FAILURES_MAX: u32 = 2;

/// One live run.
#[derive(Debug)]
pub(crate) struct Run {
    /// In topological order; the last is the result.
    pub(crate) stages: Vec<Stage>,
    /// Finished result partitions that the driver is still to be told of.
    pub(crate) offers: BTreeSet<u32>,
    /// Since when it has been waiting for a worker, with nothing else to wait for.
    pub(crate) waiting_since: Option<Millis>,
    /// Results of attempts up to this one derive from an output that was made again since.
    pub(crate) void_until: TaskId,
}

/// One stage, with counters that follow the states of its partitions.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) spec: StageSpec,
    /// Positions of its input stages, all before its own.
    pub(crate) inputs: Vec<usize>,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) pending: BTreeSet<u32>,
    pub(crate) running: u32,
    /// Finished, including those already fetched.
    pub(crate) done: u32,
    /// Launches that were not the first of their partition.
    pub(crate) reruns: u32,
    /// Whether a reader was launched since the outputs were last made as a whole.
    pub(crate) read: bool,
    /// What readers are told, kept while no state changes.
    outputs: Option<Arc<StageOutputs>>,
}

#[derive(Debug, Default)]
pub(crate) struct Partition {
    pub(crate) state: State,
    pub(crate) history: History,
}

/// Where the work on a partition stands.
#[derive(Debug, Default)]
pub(crate) enum State {
    /// To be run, if the stage is needed. Also what a lost output comes back to.
    #[default]
    Pending,
    Running {
        task: TaskId,
        worker: WorkerId,
    },
    Done {
        output: Arc<TaskOutput>,
        fetch_failures: u32,
    },
    /// Result partitions only: the driver has it, as this attempt left it.
    Fetched {
        task: TaskId,
    },
}

/// What a fetched result partition is worth.
#[derive(Debug)]
pub(crate) enum Worth {
    /// It counts. `pointless` is the attempt that was at it again, if one was.
    Kept { pointless: Option<(WorkerId, TaskId)> },
    /// The driver said so before.
    Repeated,
    /// Its rows do not belong with those of the other partitions, or the driver has the partition already.
    Void,
}

impl Run {
    pub(crate) fn new(plan: RunPlan) -> Run {
        let stages = plan.into_stages().into_iter().map(Stage::new).collect();
        Run {
            stages,
            offers: BTreeSet::new(),
            waiting_since: None,
            void_until: TaskId(0),
        }
    }

    pub(crate) fn result(&self) -> &Stage {
        &self.stages[self.result_index()]
    }

    pub(crate) fn result_index(&self) -> usize {
        self.stages.len() - 1
    }

    /// For each stage, whether a needed reader has unfinished work. The heart of recovery: see the module's doc.
    pub(crate) fn needed(&self) -> Vec<bool> {
        let mut needed = vec![false; self.stages.len()];
        needed[self.result_index()] = true;
        for (position, stage) in self.stages.iter().enumerate().rev() {
            if needed[position] && stage.is_open() {
                stage.inputs.iter().for_each(|input| needed[*input] = true);
            }
        }
        needed
    }

    /// Has work that could start, given workers: its inputs are all there.
    pub(crate) fn is_ready(&self, stage: usize) -> bool {
        let stage = &self.stages[stage];
        !stage.pending.is_empty() && stage.inputs.iter().all(|input| self.stages[*input].is_complete())
    }

    /// Whether some input of the stage lies on a worker that `is_doubted`.
    pub(crate) fn reads_from(&self, stage: usize, is_doubted: impl Fn(WorkerId) -> bool) -> bool {
        let inputs = &self.stages[stage].inputs;
        inputs.iter().any(|input| {
            self.stages[*input]
                .done_outputs()
                .any(|(_, output)| is_doubted(output.worker))
        })
    }

    /// What a task of `stage` reads. To be called only when the inputs are complete.
    pub(crate) fn inputs_of(&mut self, stage: usize) -> Vec<Arc<StageOutputs>> {
        let inputs = self.stages[stage].inputs.clone();
        inputs.into_iter().map(|input| self.stages[input].outputs()).collect()
    }

    /// A task of `stage` was launched on them.
    pub(crate) fn inputs_read(&mut self, stage: usize) {
        for input in self.stages[stage].inputs.clone() {
            self.stages[input].read = true;
        }
    }

    pub(crate) fn finish(&mut self, stage: usize, partition: u32, output: TaskOutput) {
        self.stages[stage].partitions[partition as usize].history.deaths = 0;
        self.stages[stage].replace(
            partition,
            State::Done {
                output: Arc::new(output),
                fetch_failures: 0,
            },
        );
        if stage == self.result_index() {
            self.offers.insert(partition);
        }
    }

    /// The driver has this result partition as `task` left it.
    pub(crate) fn fetched(&mut self, partition: u32, task: TaskId) -> Worth {
        let result = self.result_index();
        match self.stages[result].partitions.get(partition as usize).map(|p| &p.state) {
            Some(State::Fetched { task: before }) if *before == task => return Worth::Repeated,
            Some(State::Fetched { .. }) | None => return Worth::Void,
            Some(_) if task <= self.void_until => return Worth::Void,
            Some(State::Pending | State::Running { .. } | State::Done { .. }) => {}
        }
        self.offers.remove(&partition);
        let pointless = match self.stages[result].replace(partition, State::Fetched { task }) {
            State::Running { task, worker } => Some((worker, task)),
            State::Pending | State::Done { .. } | State::Fetched { .. } => None,
        };
        Worth::Kept { pointless }
    }

    pub(crate) fn is_fetched(&self) -> bool {
        self.fetched_tasks().count() == self.result().partitions.len()
    }

    /// Result partitions that the driver has, and from which attempt.
    pub(crate) fn fetched_tasks(&self) -> impl Iterator<Item = (u32, TaskId)> {
        let fetched = |(index, partition): (u32, &Partition)| match partition.state {
            State::Fetched { task } => Some((index, task)),
            State::Pending | State::Running { .. } | State::Done { .. } => None,
        };
        (0u32..).zip(&self.result().partitions).filter_map(fetched)
    }

    /// A reader failed on the output of `lost_task`: its stage, partition and worker, if the output is still counted on.
    pub(crate) fn producer_of(&self, reader: usize, lost_task: TaskId) -> Option<(usize, u32, WorkerId)> {
        self.stages[reader].inputs.iter().find_map(|input| {
            let mut outputs = self.stages[*input].done_outputs();
            outputs
                .find(|(_, output)| output.task == lost_task)
                .map(|(partition, output)| (*input, partition, output.worker))
        })
    }

    /// The worker that holds the result partition as `task` left it.
    pub(crate) fn result_holder(&self, partition: u32, task: TaskId) -> Option<WorkerId> {
        let output = self.result().partitions.get(partition as usize)?.state.output()?;
        (output.task == task).then_some(output.worker)
    }

    /// An output of a living worker could not be read. The second time it is given up, to be made again; says whether.
    pub(crate) fn fetch_failed(&mut self, stage: usize, partition: u32, limits: &Limits) -> Result<bool, RunError> {
        let State::Done { output, fetch_failures } = &mut self.stages[stage].partitions[partition as usize].state
        else {
            return Ok(false);
        };
        *fetch_failures += 1;
        if *fetch_failures < FETCH_FAILURES_MAX {
            return Ok(false);
        }
        let cause = format!("its output on worker {} could not be read", output.worker);
        self.reopen(stage, partition);
        self.lost(stage, partition, limits, &cause)?;
        Ok(true)
    }

    /// Takes everything off a worker that is gone: its tasks, charged to infrastructure and, if it died, to blame; and its
    /// outputs, charged where somebody needs them.
    pub(crate) fn lose_worker(&mut self, worker: WorkerId, why: &LossReason, limits: &Limits) -> Result<(), RunError> {
        let needed = self.needed();
        let cause = format!("worker {worker} {why}");
        let mut outcome = Ok(());
        for (stage, stage_needed) in needed.into_iter().enumerate() {
            for partition in self.stages[stage].held_by(worker) {
                let was_running = matches!(self.reopen(stage, partition), State::Running { .. });
                let verdict = match (was_running, why) {
                    (true, LossReason::Died { .. }) => {
                        let place = self.stages[stage].place(partition);
                        self.history(stage, partition).died(limits, place, &cause)
                    }
                    (true, _) => self.lost(stage, partition, limits, &cause),
                    (false, _) if stage_needed => self.lost(stage, partition, limits, &cause),
                    (false, _) => Ok(()),
                };
                outcome = outcome.and(verdict);
            }
        }
        outcome
    }

    /// Makes the partition pending again and returns what it was.
    pub(crate) fn reopen(&mut self, stage: usize, partition: u32) -> State {
        if stage == self.result_index() {
            self.offers.remove(&partition);
        }
        self.stages[stage].replace(partition, State::Pending)
    }

    /// Charges a loss to the partition's infrastructure budget.
    pub(crate) fn lost(&mut self, stage: usize, partition: u32, limits: &Limits, cause: &str) -> Result<(), RunError> {
        let place = self.stages[stage].place(partition);
        self.history(stage, partition).lost(limits, place, cause)
    }

    pub(crate) fn history(&mut self, stage: usize, partition: u32) -> &mut History {
        &mut self.stages[stage].partitions[partition as usize].history
    }

    /// Outputs on the worker that somebody still reads, or that the driver has not fetched.
    pub(crate) fn outputs_needed(&self, worker: WorkerId) -> u32 {
        let needed = self.needed();
        let of_stage = |stage: &Stage| {
            stage
                .done_outputs()
                .filter(|(_, output)| output.worker == worker)
                .count() as u32
        };
        self.stages
            .iter()
            .zip(needed)
            .filter(|(_, needed)| *needed)
            .map(|(stage, _)| of_stage(stage))
            .sum()
    }

    /// Whether only a worker can bring it forward: nothing runs and nothing is there to be fetched.
    pub(crate) fn is_idle(&self) -> bool {
        self.stages.iter().all(|stage| stage.running == 0) && self.result().done_outputs().next().is_none()
    }
}

impl Stage {
    fn new(planned: PlannedStage) -> Stage {
        let PlannedStage { spec, inputs } = planned;
        Stage {
            inputs,
            partitions: (0..spec.partitions).map(|_| Partition::default()).collect(),
            pending: (0..spec.partitions).collect(),
            running: 0,
            done: 0,
            reruns: 0,
            read: false,
            outputs: None,
            spec,
        }
    }

    /// Has unfinished work.
    pub(crate) fn is_open(&self) -> bool {
        !self.is_complete()
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.done == self.spec.partitions
    }

    pub(crate) fn place(&self, partition: u32) -> Place {
        Place {
            stage: self.spec.id,
            partition,
        }
    }

    pub(crate) fn history(&self, partition: u32) -> &History {
        &self.partitions[partition as usize].history
    }

    /// The first partition at or after `from` that is pending and not paused.
    pub(crate) fn next_pending(&self, from: u32, now: Millis) -> Option<u32> {
        let paused = |partition: u32| self.partitions[partition as usize].history.not_before > now;
        self.pending
            .range(from..)
            .copied()
            .find(|partition| !paused(*partition))
    }

    pub(crate) fn start(&mut self, partition: u32, task: TaskId, worker: WorkerId) {
        let history = &mut self.partitions[partition as usize].history;
        self.reruns += u32::from(history.launches > 0);
        history.launches += 1;
        self.replace(partition, State::Running { task, worker });
    }

    /// The only way in which a state changes, so that the counters cannot drift from it.
    fn replace(&mut self, partition: u32, next: State) -> State {
        let state = &mut self.partitions[partition as usize].state;
        match state {
            State::Pending => _ = self.pending.remove(&partition),
            State::Running { .. } => self.running -= 1,
            State::Done { .. } | State::Fetched { .. } => self.done -= 1,
        }
        match &next {
            State::Pending => _ = self.pending.insert(partition),
            State::Running { .. } => self.running += 1,
            State::Done { .. } | State::Fetched { .. } => self.done += 1,
        }
        self.outputs = None;
        mem::replace(state, next)
    }

    /// Finished outputs that still lie on a worker, by partition.
    pub(crate) fn done_outputs(&self) -> impl Iterator<Item = (u32, &Arc<TaskOutput>)> {
        (0u32..)
            .zip(&self.partitions)
            .filter_map(|(index, partition)| Some((index, partition.state.output()?)))
    }

    /// Partitions whose task or output is on the worker.
    fn held_by(&self, worker: WorkerId) -> Vec<u32> {
        let holder = |state: &State| match state {
            State::Running { worker, .. } => Some(*worker),
            State::Done { output, .. } => Some(output.worker),
            State::Pending | State::Fetched { .. } => None,
        };
        (0u32..)
            .zip(&self.partitions)
            .filter(|(_, p)| holder(&p.state) == Some(worker))
            .map(|(index, _)| index)
            .collect()
    }

    fn outputs(&mut self) -> Arc<StageOutputs> {
        if let Some(outputs) = &self.outputs {
            return Arc::clone(outputs);
        }
        let outputs = Arc::new(StageOutputs {
            stage: self.spec.id,
            output_partitions: self.spec.output_partitions,
            outputs: self.done_outputs().map(|(_, output)| Arc::clone(output)).collect(),
        });
        self.outputs = Some(Arc::clone(&outputs));
        outputs
    }
}

impl State {
    pub(crate) fn output(&self) -> Option<&Arc<TaskOutput>> {
        match self {
            State::Done { output, .. } => Some(output),
            State::Pending | State::Running { .. } | State::Fetched { .. } => None,
        }
    }
}

/// The half of [`crate::Schedule::assert_consistent`] that concerns one run.
impl Run {
    pub(crate) fn assert_consistent(&self, limits: &Limits) {
        for stage in &self.stages {
            stage.assert_consistent(limits);
        }
        self.assert_whole();
        for offer in &self.offers {
            let state = &self.result().partitions[*offer as usize].state;
            assert!(
                state.output().is_some(),
                "result partition {offer} is offered without an output"
            );
        }
    }

    /// Every task and output lies on a worker for which `is_held(worker, running task)` holds.
    pub(crate) fn assert_held(&self, is_held: impl Fn(WorkerId, Option<TaskId>) -> bool) {
        for stage in &self.stages {
            for (index, partition) in (0u32..).zip(&stage.partitions) {
                let held = match &partition.state {
                    State::Running { task, worker } => is_held(*worker, Some(*task)),
                    State::Done { output, .. } => is_held(output.worker, None),
                    State::Pending | State::Fetched { .. } => true,
                };
                assert!(
                    held,
                    "stage {} partition {index} counts on a worker that has it not: {partition:?}",
                    stage.spec.id
                );
            }
        }
    }
}

impl Stage {
    fn assert_consistent(&self, limits: &Limits) {
        let id = self.spec.id;
        let count =
            |is: fn(&State) -> bool| self.partitions.iter().filter(|partition| is(&partition.state)).count() as u32;
        assert_eq!(
            self.running,
            count(|state| matches!(state, State::Running { .. })),
            "running of stage {id}"
        );
        assert_eq!(
            self.done,
            count(|state| matches!(state, State::Done { .. } | State::Fetched { .. })),
            "done of stage {id}"
        );
        assert_eq!(
            self.pending.len() as u32,
            count(|state| matches!(state, State::Pending)),
            "pending of stage {id}"
        );
        for (index, partition) in (0u32..).zip(&self.partitions) {
            let pending = matches!(partition.state, State::Pending);
            assert_eq!(
                pending,
                self.pending.contains(&index),
                "stage {id} partition {index} in the pending set"
            );
            let History {
                application_failures,
                infrastructure_losses,
                deaths,
                ..
            } = partition.history;
            assert!(
                application_failures < limits.application_attempts,
                "stage {id} partition {index}: application"
            );
            assert!(
                infrastructure_losses <= limits.infrastructure_losses,
                "stage {id} partition {index}: losses"
            );
            assert!(deaths <= infrastructure_losses, "stage {id} partition {index}: deaths");
        }
        if let Some(outputs) = &self.outputs {
            let current = self.done_outputs().map(|(_, output)| output);
            assert!(
                self.is_complete() && current.eq(&outputs.outputs),
                "stage {id} tells its readers old places"
            );
        }
    }
}
