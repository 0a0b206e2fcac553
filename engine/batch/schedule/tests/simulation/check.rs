//! What must hold whatever happens. The checker keeps its own books from the events and effects alone, so that a mistake in
//! the core's books shows as a difference. Each `assert` ends the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trireme_batch_schedule::{
    Effect, Event, Failure, LossReason, RunError, RunId, StageId, StageOutputs, TaskId, WorkerId,
};

use crate::deaths::Deaths;
use crate::scenario::{BadTask, Flavour, Key, Scenario};

/// How often each thing that a seed is meant to provoke was met.
pub(crate) type Met = BTreeMap<&'static str, u64>;

/// Without all of these the seeds would prove little.
pub(crate) const TO_BE_MET: [&str; 20] = [
    "loss by silence",
    "loss by death",
    "loss by unreadable outputs",
    "loss by end of drain",
    "worker released",
    "running task lost",
    "needed output lost",
    "unneeded output lost",
    "result lost before the fetch",
    "result fetched after its loss",
    "word from a lost worker",
    "repeated report",
    "suspect run alone",
    "blamed for poison",
    "blamed for the application",
    "third death not blamed",
    "cancelled",
    "rolled back",
    "fetched result discarded",
    "fetch of a void result discarded",
];

#[derive(Default)]
pub(crate) struct Checker {
    pub(crate) met: Met,
    joined: BTreeSet<WorkerId>,
    /// Fenced or released.
    gone: BTreeSet<WorkerId>,
    draining: BTreeSet<WorkerId>,
    slots: BTreeMap<WorkerId, u32>,
    attempts: BTreeMap<TaskId, Attempt>,
    /// The attempt launched last.
    latest: BTreeMap<Key, TaskId>,
    now_ms: u64,
    deaths: Deaths,
    /// Result partitions that the driver holds, and from which attempt.
    fetched: BTreeMap<(RunId, u32), TaskId>,
    handed_on: BTreeSet<(RunId, u32)>,
    /// Attempts whose result the driver was told to fetch.
    offered: BTreeSet<TaskId>,
    /// Attempts whose fetched result was thrown away.
    discarded: BTreeSet<TaskId>,
    cancelled: BTreeSet<RunId>,
    /// Runs that were submitted, with the position of their result.
    result_stage: BTreeMap<RunId, usize>,
    pub(crate) ended: BTreeSet<RunId>,
    released: BTreeSet<RunId>,
}

struct Attempt {
    key: Key,
    worker: WorkerId,
    state: AttemptState,
    fetch_failures: u32,
    /// Derives from a version that was given up.
    void: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AttemptState {
    Live,
    Cancelled,
    Finished,
    Ended,
}

/// What to think of an output that could not be read twice. The core may still count on it: it does not count failures
/// while the worker is in doubt. So each check thinks what makes it the less strict.
#[derive(Clone, Copy)]
enum Doubt {
    TakenForLost,
    TakenForThere,
}

impl Checker {
    /// To be called before the core sees the event.
    pub(crate) fn observe(&mut self, now_ms: u64, event: &Event) {
        self.now_ms = now_ms;
        assert!(
            self.deaths.due.is_subset(&self.ended),
            "spares a task of one of {:?}",
            self.deaths.due
        );
        if sender(event).is_some_and(|worker| self.gone.contains(&worker)) {
            self.meet("word from a lost worker");
        }
        match event {
            Event::RunSubmitted { run, plan } => _ = self.result_stage.insert(*run, plan.len() - 1),
            Event::RunCancelled { run } => _ = self.cancelled.insert(*run),
            Event::WorkerJoined { worker, slots } => {
                self.joined.insert(*worker);
                self.slots.insert(*worker, *slots);
            }
            // A copy may come before the join, which the core then knows nothing of.
            Event::WorkerDraining { worker } if !self.joined.contains(worker) => {}
            Event::WorkerDraining { worker } => _ = self.draining.insert(*worker),
            Event::TaskFinished { worker, task, .. } => {
                if self.report(*worker, *task, AttemptState::Finished) {
                    self.deaths.clear(self.attempts[task].key);
                }
            }
            Event::TaskFailed { worker, task, failure } => {
                if self.report(*worker, *task, AttemptState::Ended)
                    && let Failure::FetchFailed { lost_task, .. } = failure
                {
                    self.observe_fetch_failure(*lost_task);
                }
            }
            Event::ResultFetched { run, partition, task } => {
                if let Some(stage) = self.result_stage.get(run)
                    && !self.is_there((*run, *stage, *partition))
                {
                    self.meet("result fetched after its loss");
                }
                if !self.attempts[task].void {
                    self.fetched.entry((*run, *partition)).or_insert(*task);
                }
            }
            Event::ResultFetchFailed { task, .. } => {
                self.offered.remove(task);
                self.observe_fetch_failure(*task);
            }
            Event::Heartbeat { .. } | Event::WorkerClosed { .. } | Event::Tick => {}
        }
    }

    fn observe_fetch_failure(&mut self, task: TaskId) {
        if let Some(attempt) = self.attempts.get_mut(&task) {
            attempt.fetch_failures += 1;
        }
    }

    /// Whether the report is the first of an attempt that anybody waits for.
    fn report(&mut self, worker: WorkerId, task: TaskId, state: AttemptState) -> bool {
        let Some(attempt) = self.attempts.get_mut(&task) else {
            return false;
        };
        let awaited = attempt.state == AttemptState::Live && !self.gone.contains(&worker);
        match attempt.state {
            AttemptState::Live if awaited => attempt.state = state,
            AttemptState::Cancelled => attempt.state = AttemptState::Ended,
            AttemptState::Live => {}
            AttemptState::Finished | AttemptState::Ended => self.meet("repeated report"),
        }
        awaited
    }

    /// To be called for each effect in order.
    pub(crate) fn judge(&mut self, scenario: &Scenario, effect: &Effect) {
        match effect {
            Effect::Launch {
                worker,
                run,
                stage,
                partition,
                task,
                inputs,
            } => {
                self.judge_launch(scenario, *worker, (*run, stage.0 as usize, *partition), *task, inputs);
            }
            Effect::CancelTask { worker, task } => {
                let attempt = self
                    .attempts
                    .get_mut(task)
                    .expect("only what was launched can be cancelled");
                assert_eq!(
                    (attempt.worker, attempt.state),
                    (*worker, AttemptState::Live),
                    "cancels task {task}"
                );
                attempt.state = AttemptState::Cancelled;
                self.meet("cancelled");
            }
            Effect::Fence { worker, reason } => self.judge_fence(scenario, *worker, reason),
            Effect::ReadyToFetch {
                run,
                partition,
                worker,
                task,
            } => {
                let attempt = &self.attempts[task];
                assert_eq!(
                    attempt.state,
                    AttemptState::Finished,
                    "offers the result of unfinished task {task}"
                );
                assert!(
                    attempt.worker == *worker && !self.gone.contains(worker),
                    "offers a result on a lost worker"
                );
                assert!(self.is_live(*run), "offers a result of run {run}, which is over");
                assert!(
                    !self.fetched.contains_key(&(*run, *partition)) && !attempt.void,
                    "offers a result that the driver has"
                );
                assert!(self.offered.insert(*task), "offers the result of task {task} twice");
            }
            Effect::HandOn { run, partition, task } => {
                let place = (*run, *partition);
                assert_eq!(self.fetched.get(&place), Some(task), "hands on {place:?}");
                assert!(self.handed_on.insert(place), "hands on {place:?} twice");
            }
            Effect::Discard { run, task } => self.judge_discard(*run, *task),
            Effect::RolledBack { run, stage } => self.judge_roll_back(scenario, *run, stage.0 as usize),
            Effect::ReleaseRun { run } => {
                assert!(
                    self.ended.contains(run) && self.released.insert(*run),
                    "releases run {run} alive or twice"
                );
            }
            Effect::ReleaseWorker { worker } => self.judge_release(scenario, *worker),
            Effect::RunSucceeded { run } => {
                self.judge_end(*run);
                let bad = scenario
                    .bad_tasks
                    .iter()
                    .find(|(key, bad)| key.0 == *run && bad.is_fatal());
                assert!(bad.is_none(), "run {run} succeeded with a task that never can: {bad:?}");
            }
            Effect::RunFailed { run, error } => {
                self.judge_end(*run);
                self.judge_error(scenario, *run, error);
            }
        }
    }

    fn judge_launch(
        &mut self,
        scenario: &Scenario,
        worker: WorkerId,
        key: Key,
        task: TaskId,
        inputs: &[Arc<StageOutputs>],
    ) {
        let (run, stage, partition) = key;
        assert!(self.is_live(run), "launches {key:?} of a run that is over");
        assert!(
            self.joined.contains(&worker) && !self.gone.contains(&worker),
            "launches on lost worker {worker}"
        );
        assert!(!self.draining.contains(&worker), "launches on draining worker {worker}");
        assert!(
            self.filled_slots(worker) < self.slots[&worker],
            "worker {worker} has no slot for {key:?}"
        );
        if let Some(last) = self.latest.get(&key) {
            let last = &self.attempts[last];
            let live = last.state == AttemptState::Live && !self.gone.contains(&last.worker);
            assert!(!live, "{key:?} would run twice at once");
        }
        assert!(!self.is_there(key), "re-runs {key:?}, which is not lost");
        assert!(
            self.is_needed(scenario, run, stage, Doubt::TakenForLost),
            "runs {key:?}, which nobody needs"
        );
        let deaths = &self.deaths;
        let beside: Vec<Key> = self.unreported(worker).map(|attempt| attempt.key).collect();
        let is_suspect = deaths.is_suspect(key);
        assert!(
            !is_suspect || beside.is_empty(),
            "suspect {key:?} is not alone on worker {worker}"
        );
        assert!(
            !beside.iter().any(|beside| deaths.is_suspect(*beside)),
            "{key:?} keeps a suspect on worker {worker} company"
        );

        let spec = &scenario.queries[&run].stages[stage];
        let given: Vec<StageId> = inputs.iter().map(|input| input.stage).collect();
        assert_eq!(given, spec.inputs, "input stages of {key:?}");
        for input in inputs {
            let producer = input.stage.0 as usize;
            assert_eq!(
                input.outputs.len(),
                scenario.queries[&run].stages[producer].partitions as usize,
                "{key:?}"
            );
            for (output, index) in input.outputs.iter().zip(0u32..) {
                let attempt = &self.attempts[&output.task];
                assert_eq!(
                    attempt.key,
                    (run, producer, index),
                    "{key:?} is to read the wrong output"
                );
                assert_eq!(
                    attempt.state,
                    AttemptState::Finished,
                    "{key:?} is to read an unfinished output"
                );
                assert!(
                    !self.gone.contains(&output.worker),
                    "{key:?} is to read from lost worker {}",
                    output.worker
                );
            }
        }
        assert!(partition < spec.partitions);
        if is_suspect {
            self.meet("suspect run alone");
        }
        let attempt = Attempt {
            key,
            worker,
            state: AttemptState::Live,
            fetch_failures: 0,
            void: false,
        };
        assert!(
            self.attempts.insert(task, attempt).is_none(),
            "task id {task} is used twice"
        );
        self.latest.insert(key, task);
    }

    /// Only once is a fetched partition thrown away that counts: when its version is, which the core says right after.
    fn judge_discard(&mut self, run: RunId, task: TaskId) {
        let (_, _, partition) = self.attempts[&task].key;
        assert!(!self.handed_on.contains(&(run, partition)) || self.fetched.get(&(run, partition)) != Some(&task));
        if self.attempts[&task].void {
            self.meet("fetch of a void result discarded");
        } else if self.fetched.get(&(run, partition)) == Some(&task) {
            self.discarded.insert(task);
            self.meet("fetched result discarded");
        }
    }

    /// Whatever read the stage, or what was read from it, is void; but there must be a reason.
    fn judge_roll_back(&mut self, scenario: &Scenario, run: RunId, stage: usize) {
        let spec = &scenario.queries[&run].stages[stage];
        assert!(!spec.repeatable, "rolls back the readers of repeatable stage {stage}");
        assert!(
            self.is_needed(scenario, run, stage, Doubt::TakenForLost),
            "rolls back the readers of stage {stage}, which nobody needs"
        );
        let lost = (0..spec.partitions).any(|partition| !self.is_there((run, stage, partition)));
        assert!(lost, "rolls back the readers of stage {stage}, which is all there");
        let derived = scenario.derived_from(run, stage);
        let mut read = false;
        for attempt in self.attempts.values_mut() {
            if attempt.key.0 != run || !derived.contains(&attempt.key.1) || attempt.void {
                continue;
            }
            let here = attempt.state == AttemptState::Live && !self.gone.contains(&attempt.worker);
            assert!(!here, "{:?} goes on with a void version", attempt.key);
            (attempt.void, read) = (true, true);
        }
        assert!(read, "rolls back stage {stage}, which nobody has read");
        self.fetched.retain(|(of, _), task| {
            let is_void = *of == run && self.attempts[task].void;
            assert!(
                !is_void || self.discarded.contains(task),
                "the driver keeps the void result of {task}"
            );
            !is_void
        });
        self.meet("rolled back");
    }

    fn judge_fence(&mut self, scenario: &Scenario, worker: WorkerId, reason: &LossReason) {
        assert!(
            self.joined.contains(&worker) && self.gone.insert(worker),
            "worker {worker} is lost twice"
        );
        match reason {
            LossReason::Silent { .. } => self.meet("loss by silence"),
            LossReason::Died { .. } => self.meet("loss by death"),
            LossReason::Unreadable { .. } => self.meet("loss by unreadable outputs"),
            LossReason::Drained => self.meet("loss by end of drain"),
            LossReason::Gone => panic!("nobody said that worker {worker} is gone"),
            LossReason::Released => panic!("worker {worker} is fenced for being released"),
        }
        let what_was_there = |attempt: &Attempt| {
            let (run, stage, _) = attempt.key;
            match attempt.state {
                AttemptState::Live => Some("running task lost"),
                AttemptState::Finished if self.is_fetched(attempt.key) => None,
                AttemptState::Finished if self.result_stage[&run] == stage => Some("result lost before the fetch"),
                AttemptState::Finished if self.is_needed(scenario, run, stage, Doubt::TakenForThere) => {
                    Some("needed output lost")
                }
                AttemptState::Finished => Some("unneeded output lost"),
                AttemptState::Cancelled | AttemptState::Ended => None,
            }
        };
        let on_it = self
            .attempts
            .values()
            .filter(|attempt| attempt.worker == worker && self.is_live(attempt.key.0));
        let lost: Vec<&'static str> = on_it.filter_map(what_was_there).collect();
        lost.into_iter().for_each(|what| self.meet(what));
        if !matches!(reason, LossReason::Died { .. }) {
            return;
        }
        let filled_slots = self.filled_slots(worker) as usize;
        let on_board = |a: &&Attempt| a.worker == worker && a.state == AttemptState::Live;
        let on_board: Vec<Key> = self
            .attempts
            .values()
            .filter(on_board)
            .map(|attempt| attempt.key)
            .collect();
        let (result_stage, ended) = (&self.result_stage, &self.ended);
        let is_live = |run| result_stage.contains_key(&run) && !ended.contains(&run);
        self.deaths
            .record(self.now_ms, on_board, filled_slots, is_live, &mut self.met);
    }

    fn judge_release(&mut self, scenario: &Scenario, worker: WorkerId) {
        assert!(
            self.draining.contains(&worker),
            "releases worker {worker}, which does not drain"
        );
        assert_eq!(self.filled_slots(worker), 0, "releases busy worker {worker}");
        for (key, task) in &self.latest {
            let (run, stage, _) = *key;
            if self.attempts[task].worker != worker || !self.is_live(run) {
                continue;
            }
            let unfetched = stage + 1 == scenario.queries[&run].stages.len() && self.is_there_on_worker(*key);
            assert!(!unfetched, "releases worker {worker} with the unfetched result {key:?}");
            let read = self.is_there_on_worker(*key) && self.is_needed(scenario, run, stage, Doubt::TakenForThere);
            assert!(!read, "releases worker {worker} with {key:?}, which somebody needs");
        }
        assert!(self.gone.insert(worker), "releases worker {worker} twice");
        self.meet("worker released");
    }

    fn judge_end(&mut self, run: RunId) {
        assert!(self.is_live(run) && self.ended.insert(run), "run {run} ends twice");
    }

    fn judge_error(&mut self, scenario: &Scenario, run: RunId, error: &RunError) {
        let named = |stage: &StageId, partition: &u32| (run, stage.0 as usize, *partition);
        let bad = |stage, partition| scenario.bad_tasks.get(&named(stage, partition)).copied();
        match error {
            RunError::Cancelled => assert!(self.cancelled.contains(&run), "run {run} was not cancelled"),
            RunError::Application {
                stage,
                partition,
                attempts,
                ..
            } => match bad(stage, partition) {
                Some(BadTask::FailsAlways { retryable }) => {
                    assert_eq!(*attempts, if retryable { 4 } else { 1 });
                    self.meet("blamed for the application");
                }
                other => panic!("blames the application: {error}, the task being {other:?}"),
            },
            RunError::Poison {
                stage,
                partition,
                deaths,
                ..
            } => {
                let (books, enough) = self.deaths.against(named(stage, partition));
                assert!(
                    *deaths as usize == books.len() && books.len() >= enough && books.last() == Some(&true),
                    "{error}, by the books {books:?} of {enough}"
                );
                assert!(
                    *deaths == 3 || scenario.flavour != Flavour::Poison,
                    "blamed late: {error}"
                );
                let guilty = bad(stage, partition) == Some(BadTask::KillsWorker);
                assert!(
                    guilty || scenario.flavour == Flavour::Storm,
                    "an innocent is blamed: {error}"
                );
                self.meet("blamed for poison");
            }
            RunError::InfrastructureBudget { .. }
                if scenario.flavour == Flavour::Killer && !scenario.bad_tasks.is_empty() => {}
            RunError::InfrastructureBudget { .. } | RunError::NoWorkers { .. } => panic!("gave up too early: {error}"),
        }
    }

    fn meet(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    fn is_live(&self, run: RunId) -> bool {
        self.result_stage.contains_key(&run) && !self.ended.contains(&run)
    }

    /// Launched on the worker and not reported, cancelled ones included.
    fn unreported(&self, worker: WorkerId) -> impl Iterator<Item = &Attempt> {
        let fills = |state| matches!(state, AttemptState::Live | AttemptState::Cancelled);
        self.attempts
            .values()
            .filter(move |attempt| attempt.worker == worker && fills(attempt.state))
    }

    fn filled_slots(&self, worker: WorkerId) -> u32 {
        self.unreported(worker).count() as u32
    }

    /// The driver has it, or it lies readable on a worker.
    fn is_there(&self, key: Key) -> bool {
        self.is_fetched(key) || self.is_there_on_worker(key)
    }

    fn is_there_on_worker(&self, key: Key) -> bool {
        !self.is_fetched(key) && self.finished(key).is_some_and(|attempt| attempt.fetch_failures < 2)
    }

    /// The latest attempt, if it finished and its worker is here.
    fn finished(&self, key: Key) -> Option<&Attempt> {
        let latest = &self.attempts[self.latest.get(&key)?];
        let is_here = latest.state == AttemptState::Finished && !self.gone.contains(&latest.worker);
        (is_here && !latest.void).then_some(latest)
    }

    /// Only the result of a run is ever fetched.
    fn is_fetched(&self, (run, stage, partition): Key) -> bool {
        self.result_stage.get(&run) == Some(&stage) && self.fetched.contains_key(&(run, partition))
    }

    /// Whether a reader that is itself needed has something left to do.
    fn is_needed(&self, scenario: &Scenario, run: RunId, stage: usize, doubt: Doubt) -> bool {
        let stages = &scenario.queries[&run].stages;
        let is_done = |key: Key| match doubt {
            Doubt::TakenForLost => self.is_there(key),
            Doubt::TakenForThere => self.is_fetched(key) || self.finished(key).is_some(),
        };
        let is_open =
            |reader: usize| (0..stages[reader].partitions).any(|partition| !is_done((run, reader, partition)));
        let mut readers =
            (stage + 1..stages.len()).filter(|reader| stages[*reader].inputs.contains(&StageId(stage as u32)));
        stage + 1 == stages.len()
            || readers.any(|reader| is_open(reader) && self.is_needed(scenario, run, reader, doubt))
    }
}

/// The worker from whose stream the event comes.
fn sender(event: &Event) -> Option<WorkerId> {
    match event {
        Event::WorkerJoined { worker, .. }
        | Event::Heartbeat { worker }
        | Event::WorkerDraining { worker }
        | Event::TaskFinished { worker, .. }
        | Event::TaskFailed { worker, .. } => Some(*worker),
        Event::RunSubmitted { .. }
        | Event::RunCancelled { .. }
        | Event::WorkerClosed { .. }
        | Event::ResultFetched { .. }
        | Event::ResultFetchFailed { .. }
        | Event::Tick => None,
    }
}

impl BadTask {
    fn is_fatal(self) -> bool {
        !matches!(self, BadTask::FailsTimes(_))
    }
}
