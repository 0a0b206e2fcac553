//! Which worker runs which task.
//!
//! Order: runs by id, then stages in topological order, then partitions; a stage takes part when it is needed and all its
//! inputs are there. Choice: the worker that holds more than half of what the task reads, if it has a free slot; else the
//! one with the most free slots. A suspect (see `failures`) waits for a worker of its own, and one busy worker at a time is
//! left to run empty for it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::event::{Effect, Millis, RunId, StageOutputs, WorkerId};
use crate::failures::History;
use crate::graph::Run;
use crate::schedule::Schedule;
use crate::workers::{TaskKey, Worker, Workers};

impl Schedule {
    /// Launches all that can be launched now.
    pub(crate) fn place(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if !self.workers.any_free() {
            return;
        }
        let mut emptied = None;
        let runs: Vec<RunId> = self.runs.keys().copied().collect();
        for run_id in runs {
            for stage in self.ready_stages(run_id) {
                self.place_stage(run_id, stage, now, &mut emptied, effects);
            }
        }
    }

    /// Positions of stages that are needed, have pending work, and whose inputs are there and not in doubt.
    fn ready_stages(&self, run_id: RunId) -> Vec<usize> {
        let run = &self.runs[&run_id];
        let any_doubted = self.workers.any_doubted();
        let in_doubt = |stage| any_doubted && run.reads_from(stage, |worker| self.workers.is_doubted(worker));
        let is_ready = |stage: &usize| run.is_ready(*stage) && !in_doubt(*stage);
        let needed = run.needed();
        (0..run.stages.len())
            .filter(|stage| needed[*stage])
            .filter(is_ready)
            .collect()
    }

    /// `emptied` is the busy worker that gets nothing more because a suspect waits for it.
    fn place_stage(
        &mut self,
        run_id: RunId,
        stage: usize,
        now: Millis,
        emptied: &mut Option<WorkerId>,
        effects: &mut Vec<Effect>,
    ) {
        let Schedule {
            limits,
            workers,
            runs,
            last_task,
            ..
        } = self;
        let run: &mut Run = runs.get_mut(&run_id).expect("the caller iterates over live runs");
        let inputs = run.inputs_of(stage);
        let target = &mut run.stages[stage];
        let (mut from, mut launched) = (0, false);
        while let Some(partition) = target.next_pending(from, now) {
            from = partition + 1;
            let history = &target.partitions[partition as usize].history;
            let suspect = history.is_suspect(limits);
            let chosen = if suspect {
                idle_worker(workers, emptied)
            } else {
                let bytes = || bytes_by_worker(&inputs, partition, target.spec.partitions);
                choose(workers, *emptied, history, bytes)
            };
            let Some(worker) = chosen else {
                // A suspect that has to wait holds up nobody behind it; if another task finds no slot, neither will the next.
                if suspect { continue } else { break }
            };
            last_task.0 += 1;
            let task = *last_task;
            target.start(partition, task, worker);
            launched = true;
            workers.start(
                worker,
                task,
                TaskKey {
                    run: run_id,
                    stage,
                    partition,
                },
                suspect,
            );
            effects.push(Effect::Launch {
                worker,
                run: run_id,
                stage: target.spec.id,
                partition,
                task,
                inputs: inputs.clone(),
            });
        }
        if launched {
            run.inputs_read(stage);
        }
    }
}

/// A worker with nothing on it. If there is none, marks the least occupied one to be emptied, unless one is already.
fn idle_worker(workers: &Workers, emptied: &mut Option<WorkerId>) -> Option<WorkerId> {
    let eligible = |(_, worker): &(WorkerId, &Worker)| !worker.draining && !worker.doubted && !worker.isolated;
    let (id, worker) = workers
        .iter()
        .filter(eligible)
        .min_by_key(|(id, worker)| (worker.occupied(), *id))?;
    if worker.occupied() == 0 {
        return Some(id);
    }
    emptied.get_or_insert(id);
    None
}

/// `bytes` is asked only where there is a choice: it walks over all inputs.
fn choose(
    workers: &Workers,
    emptied: Option<WorkerId>,
    history: &History,
    bytes: impl FnOnce() -> BTreeMap<WorkerId, u64>,
) -> Option<WorkerId> {
    let with_slots = workers.iter().map(|(id, worker)| (id, worker.free_slots()));
    let mut candidates: Vec<(WorkerId, u32)> = with_slots
        .filter(|(id, free_slots)| *free_slots > 0 && Some(*id) != emptied)
        .collect();
    if candidates.iter().any(|(id, _)| Some(*id) != history.avoid) {
        candidates.retain(|(id, _)| Some(*id) != history.avoid);
    }
    if candidates.len() > 1 {
        let bytes = bytes();
        let total_bytes = bytes.values().copied().fold(0, u64::saturating_add);
        let holds_most = |id: &WorkerId| bytes.get(id).is_some_and(|held| *held > total_bytes / 2);
        if let Some((id, _)) = candidates.iter().find(|(id, _)| holds_most(id)) {
            return Some(*id);
        }
    }
    candidates
        .into_iter()
        .min_by_key(|(id, free_slots)| (Reverse(*free_slots), *id))
        .map(|(id, _)| id)
}

/// Where the bytes lie that a task reads. After an exchange as wide as the stage it reads one partition of each output,
/// otherwise (a broadcast, a merge) it is taken to read them whole.
fn bytes_by_worker(inputs: &[Arc<StageOutputs>], partition: u32, partitions: u32) -> BTreeMap<WorkerId, u64> {
    let mut bytes = BTreeMap::new();
    for input in inputs {
        for output in &input.outputs {
            let held = if input.output_partitions == partitions {
                let found = output
                    .partitions
                    .binary_search_by_key(&partition, |size| size.partition);
                found.map_or(0, |index| output.partitions[index].bytes)
            } else {
                output
                    .partitions
                    .iter()
                    .map(|size| size.bytes)
                    .fold(0, u64::saturating_add)
            };
            let total: &mut u64 = bytes.entry(output.worker).or_default();
            *total = total.saturating_add(held);
        }
    }
    bytes
}
