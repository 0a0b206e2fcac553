//! What the core tells about itself to people and reports: counts, never decisions.

use crate::event::{Millis, RunId, StageId, WorkerId};
use crate::graph::{Run, Stage};
use crate::schedule::Schedule;

/// How far a run has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunProgress {
    /// In topological order; the last is the result.
    pub stages: Vec<StageProgress>,
    /// Result partitions that the driver holds.
    pub fetched: u32,
    /// Set while the run can do nothing but wait for a worker.
    pub waiting_for_workers_since: Option<Millis>,
}

/// Counts of partitions: `total` is `blocked + ready + running + done`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageProgress {
    pub stage: StageId,
    pub total: u32,
    /// Inputs are not there yet, or not there any more.
    pub blocked: u32,
    /// Waiting for a slot.
    pub ready: u32,
    pub running: u32,
    /// Finished, with an output that is there, or that was lost after its last reader finished.
    pub done: u32,
    /// Launches that were not the first of their partition, for whatever reason.
    pub reruns: u32,
}

/// What a draining worker still waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainWait {
    /// Tasks that run on it, cancelled ones that have not stopped included.
    pub running: u32,
    /// Outputs on it that unfinished tasks read or that the driver has yet to fetch.
    pub outputs_needed: u32,
}

impl RunProgress {
    /// (done, total) over all stages.
    pub fn tasks(&self) -> (u32, u32) {
        let sum = |count: fn(&StageProgress) -> u32| self.stages.iter().map(count).fold(0, u32::saturating_add);
        (sum(|stage| stage.done), sum(|stage| stage.total))
    }

    /// Over all stages.
    pub fn reruns(&self) -> u32 {
        self.stages
            .iter()
            .map(|stage| stage.reruns)
            .fold(0, u32::saturating_add)
    }
}

impl Schedule {
    /// `None` once the run has ended.
    pub fn progress(&self, run: RunId) -> Option<RunProgress> {
        let run = self.runs.get(&run)?;
        let needed = run.needed();
        let stages = (0..run.stages.len())
            .map(|stage| stage_progress(run, stage, needed[stage]))
            .collect();
        let result = run.result();
        let fetched = result.done - result.done_outputs().count() as u32;
        Some(RunProgress {
            stages,
            fetched,
            waiting_for_workers_since: run.waiting_since,
        })
    }

    /// `None` if the worker is not here (any more).
    pub fn drain_wait(&self, worker: WorkerId) -> Option<DrainWait> {
        let running = self.workers.get(worker)?.occupied();
        let outputs_needed = self.runs.values().map(|run| run.outputs_needed(worker)).sum();
        Some(DrainWait {
            running,
            outputs_needed,
        })
    }
}

fn stage_progress(run: &Run, position: usize, needed: bool) -> StageProgress {
    let Stage {
        spec,
        pending,
        running,
        done,
        reruns,
        ..
    } = &run.stages[position];
    let pending = pending.len() as u32;
    let (blocked, ready, done) = match (needed, run.is_ready(position)) {
        (false, _) => (0, 0, done + pending),
        (true, false) => (pending, 0, *done),
        (true, true) => (0, pending, *done),
    };
    StageProgress {
        stage: spec.id,
        total: spec.partitions,
        blocked,
        ready,
        running: *running,
        done,
        reruns: *reruns,
    }
}
