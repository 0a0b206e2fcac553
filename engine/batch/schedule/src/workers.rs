//! The table of workers: who is alive, who may get work, what each is running, and who is fenced off for ever.
//!
//! It never looks into a run. A worker leaves the table in one way only, [`Workers::remove`], which fences its id: a process
//! that was stopped and wakes up, a message that was delayed, a join that was repeated all find the door shut.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::{Millis, RunId, TaskId, WorkerId};

/// One output may be a damaged file and two an accident of the network; a third means that the worker serves nobody.
const OUTPUTS_GIVEN_UP_MAX: u32 = 3;

/// Names a partition across runs; `stage` is the position in its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskKey {
    pub(crate) run: RunId,
    pub(crate) stage: usize,
    pub(crate) partition: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Workers {
    alive: BTreeMap<WorkerId, Worker>,
    /// Eight bytes for each worker that ever left: bounded by the number of processes started in the life of a driver.
    fenced: BTreeSet<WorkerId>,
}

#[derive(Debug)]
pub(crate) struct Worker {
    slots: u32,
    last_heard: Millis,
    pub(crate) draining: bool,
    /// A fetch from it failed and it was not heard from since: it may be dead. Until it speaks or is declared lost, it gets
    /// no work and nothing that reads from it is launched; otherwise every reader would burn its budget on a corpse that
    /// the driver has yet to notice.
    pub(crate) doubted: bool,
    /// Outputs on it that were given up because they could not be read.
    pub(crate) outputs_given_up: u32,
    pub(crate) running: BTreeMap<TaskId, TaskKey>,
    /// Told to stop but not yet reported: each still fills a slot.
    pub(crate) cancelling: BTreeSet<TaskId>,
    /// Runs one suspect and nothing beside it.
    pub(crate) isolated: bool,
}

impl Worker {
    fn new(slots: u32, now: Millis) -> Worker {
        Worker {
            slots,
            last_heard: now,
            draining: false,
            doubted: false,
            outputs_given_up: 0,
            running: BTreeMap::new(),
            cancelling: BTreeSet::new(),
            isolated: false,
        }
    }

    pub(crate) fn occupied(&self) -> u32 {
        (self.running.len() + self.cancelling.len()) as u32
    }

    /// Slots that may be filled now.
    pub(crate) fn free_slots(&self) -> u32 {
        if self.draining || self.doubted || self.isolated {
            0
        } else {
            self.slots - self.occupied()
        }
    }

    fn drop_isolation_if_idle(&mut self) {
        self.isolated = self.isolated && self.occupied() > 0;
    }
}

impl Workers {
    /// Repeated joins change nothing; a fenced id is not let in.
    pub(crate) fn join(&mut self, worker: WorkerId, slots: u32, now: Millis) {
        if self.fenced.contains(&worker) || self.alive.contains_key(&worker) {
            return;
        }
        self.alive.insert(worker, Worker::new(slots.max(1), now));
    }

    /// Notes a sign of life. `None` if the worker is fenced or unknown: whatever it says is to be ignored.
    pub(crate) fn hear(&mut self, worker: WorkerId, now: Millis) -> Option<&mut Worker> {
        let worker = self.alive.get_mut(&worker)?;
        worker.last_heard = now;
        worker.doubted = false;
        Some(worker)
    }

    /// A task ended on its worker. Returns what it was working on, unless nobody waits for it: the attempt is unknown, was
    /// reported before, was cancelled, or comes from beyond the fence.
    pub(crate) fn take_report(&mut self, worker: WorkerId, task: TaskId, now: Millis) -> Option<TaskKey> {
        let worker = self.hear(worker, now)?;
        let key = worker.running.remove(&task);
        worker.cancelling.remove(&task);
        worker.drop_isolation_if_idle();
        key
    }

    pub(crate) fn start(&mut self, worker: WorkerId, task: TaskId, key: TaskKey, isolated: bool) {
        let worker = self
            .alive
            .get_mut(&worker)
            .expect("placement chooses among living workers");
        worker.running.insert(task, key);
        worker.isolated = isolated;
    }

    /// Returns whether there was such a task to stop.
    pub(crate) fn cancel(&mut self, worker: WorkerId, task: TaskId) -> bool {
        let Some(worker) = self.alive.get_mut(&worker) else {
            return false;
        };
        worker.running.remove(&task).is_some() && worker.cancelling.insert(task)
    }

    /// Counts an output that could not be read; `Some(how many)` once the worker itself is to be given up.
    pub(crate) fn give_up_output(&mut self, worker: WorkerId) -> Option<u32> {
        let worker = self.alive.get_mut(&worker)?;
        worker.outputs_given_up += 1;
        (worker.outputs_given_up >= OUTPUTS_GIVEN_UP_MAX).then_some(worker.outputs_given_up)
    }

    /// The run's tasks wherever they run.
    pub(crate) fn tasks_of(&self, run: RunId) -> Vec<(WorkerId, TaskId)> {
        let of_run = |(id, worker): (&WorkerId, &Worker)| {
            let id = *id;
            let tasks = worker.running.iter().filter(|(_, key)| key.run == run);
            tasks.map(|(task, _)| (id, *task)).collect::<Vec<_>>()
        };
        self.alive.iter().flat_map(of_run).collect()
    }

    /// Takes the worker out and fences its id. `false` if it was not there.
    pub(crate) fn remove(&mut self, worker: WorkerId) -> bool {
        self.alive.remove(&worker).is_some() && self.fenced.insert(worker)
    }

    pub(crate) fn get(&self, worker: WorkerId) -> Option<&Worker> {
        self.alive.get(&worker)
    }

    pub(crate) fn get_mut(&mut self, worker: WorkerId) -> Option<&mut Worker> {
        self.alive.get_mut(&worker)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.alive.iter().map(|(id, worker)| (*id, worker))
    }

    /// Workers that were silent for at least `silence_ms`, and for how long.
    pub(crate) fn silent(&self, now: Millis, silence_ms: u64) -> Vec<(WorkerId, u64)> {
        let silences = self.iter().map(|(id, worker)| (id, now.since(worker.last_heard)));
        silences.filter(|(_, silent_ms)| *silent_ms >= silence_ms).collect()
    }

    /// After the driver itself was asleep: what they said meanwhile is still in the queue.
    pub(crate) fn forgive_silence(&mut self, now: Millis) {
        self.alive.values_mut().for_each(|worker| worker.last_heard = now);
    }

    pub(crate) fn is_doubted(&self, worker: WorkerId) -> bool {
        self.alive.get(&worker).is_some_and(|worker| worker.doubted)
    }

    pub(crate) fn any_doubted(&self) -> bool {
        self.alive.values().any(|worker| worker.doubted)
    }

    pub(crate) fn any_free(&self) -> bool {
        self.alive.values().any(|worker| worker.free_slots() > 0)
    }

    /// Whether anybody is here to stay.
    pub(crate) fn any_accepting(&self) -> bool {
        self.alive.values().any(|worker| !worker.draining)
    }

    /// Pair assertion to [`crate::Schedule::assert_consistent`]: what can be said without looking into a run.
    pub(crate) fn assert_consistent(&self) {
        for (id, worker) in self.iter() {
            assert!(!self.fenced.contains(&id), "worker {id} is alive and fenced");
            assert!(
                worker.occupied() <= worker.slots,
                "worker {id} runs more tasks than it has slots"
            );
            assert!(
                !worker.isolated || worker.occupied() == 1,
                "a suspect on worker {id} is not alone"
            );
            let twice = worker.running.keys().find(|task| worker.cancelling.contains(task));
            assert!(twice.is_none(), "a task of worker {id} is both wanted and cancelled");
        }
    }
}
