//! The one door: [`Schedule::step`] takes an event, changes the state, and says what is to be done.
//!
//! Each event has a handler that does only what the event itself means; everything that may follow from any change (a run
//! is over, a result can be fetched, a slot can be filled, a drained worker can go) is looked at once, in `settle`. So no
//! handler can forget it: a loss offers work to the survivors just as a join does.

use std::collections::BTreeMap;

use crate::deaths::Deaths;
use crate::event::{
    CloseCause, Effect, Event, Failure, LossReason, Millis, PartitionSize, RunError, RunId, TaskId, TaskOutput,
    WorkerId,
};
use crate::failures::{History, Limits};
use crate::graph::{Run, State, Worth};
use crate::plan::RunPlan;
use crate::versions::RolledBack;
use crate::workers::{TaskKey, Workers};

/// All that the driver knows about workers, runs and tasks.
#[derive(Debug)]
pub struct Schedule {
    pub(crate) limits: Limits,
    pub(crate) workers: Workers,
    pub(crate) runs: BTreeMap<RunId, Run>,
    pub(crate) last_task: TaskId,
    deaths: Deaths,
    last_tick: Option<Millis>,
}

impl Schedule {
    /// Without workers and runs.
    pub fn new(limits: Limits) -> Schedule {
        let (workers, runs) = (Workers::default(), BTreeMap::new());
        Schedule {
            limits,
            workers,
            runs,
            last_task: TaskId(0),
            deaths: Deaths::default(),
            last_tick: None,
        }
    }

    /// Takes in one event and appends what is to be done, in order. `now` must not go back from one call to the next.
    pub fn step(&mut self, now: Millis, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::RunSubmitted { run, plan } => self.submit(run, plan),
            Event::RunCancelled { run } => self.end(run, Err(RunError::Cancelled), effects),
            Event::WorkerJoined { worker, slots } => self.workers.join(worker, slots, now),
            Event::Heartbeat { worker } => _ = self.workers.hear(worker, now),
            Event::WorkerDraining { worker } => self.drain(worker, now),
            Event::WorkerClosed { worker, cause } => self.worker_closed(worker, cause, now, effects),
            Event::TaskFinished { worker, task, output } => self.task_finished(worker, task, output, now),
            Event::TaskFailed { worker, task, failure } => self.task_failed(worker, task, failure, now, effects),
            Event::ResultFetched { run, partition, task } => self.result_fetched(run, partition, task, effects),
            Event::ResultFetchFailed { run, partition, task } => {
                self.result_fetch_failed(run, partition, task, effects)
            }
            Event::Tick => self.tick(now, effects),
        }
        self.settle(now, effects);
    }

    fn submit(&mut self, run: RunId, plan: RunPlan) {
        self.runs.entry(run).or_insert_with(|| Run::new(plan));
    }

    fn drain(&mut self, worker: WorkerId, now: Millis) {
        if let Some(worker) = self.workers.hear(worker, now) {
            worker.draining = true;
        }
    }

    fn worker_closed(&mut self, worker: WorkerId, cause: CloseCause, now: Millis, effects: &mut Vec<Effect>) {
        let reason = match cause {
            CloseCause::Died { detail } => {
                self.accuse(worker, now);
                LossReason::Died { detail }
            }
            CloseCause::Drained => LossReason::Drained,
            CloseCause::Gone => LossReason::Gone,
        };
        self.lose_worker(worker, reason, effects);
    }

    /// Counts the worker's death against all that ran on it, and for each of them the deaths that speak for it.
    fn accuse(&mut self, worker: WorkerId, now: Millis) {
        let Some(worker) = self.workers.get(worker) else { return };
        let on_board: Vec<TaskKey> = worker.running.values().copied().collect();
        let all_known = worker.cancelling.is_empty();
        for key in &on_board {
            self.history(*key).deaths += 1;
        }
        // It may be a cancelled task that killed it: such a death speaks for nobody.
        if all_known {
            self.deaths.record(now, on_board.clone());
        }
        for key in on_board {
            let is_suspect = |other: TaskKey| {
                let run = self.runs.get(&other.run);
                run.is_some_and(|run| {
                    run.stages[other.stage]
                        .history(other.partition)
                        .is_suspect(&self.limits)
                })
            };
            self.history(key).accidents = self.deaths.accidents(key, now, is_suspect);
        }
    }

    /// Of a task that runs.
    fn history(&mut self, key: TaskKey) -> &mut History {
        self.live_run(key.run).history(key.stage, key.partition)
    }

    fn task_finished(&mut self, worker: WorkerId, task: TaskId, mut partitions: Vec<PartitionSize>, now: Millis) {
        let Some(TaskKey { run, stage, partition }) = self.workers.take_report(worker, task, now) else {
            return;
        };
        partitions.sort_by_key(|size| size.partition);
        self.live_run(run).finish(
            stage,
            partition,
            TaskOutput {
                worker,
                task,
                partitions,
            },
        );
    }

    fn task_failed(
        &mut self,
        worker: WorkerId,
        task: TaskId,
        failure: Failure,
        now: Millis,
        effects: &mut Vec<Effect>,
    ) {
        let Some(key) = self.workers.take_report(worker, task, now) else {
            return;
        };
        self.live_run(key.run).reopen(key.stage, key.partition);
        let verdict = match failure {
            Failure::FetchFailed { from_worker, lost_task } => {
                self.input_unreadable(key, from_worker, lost_task, effects)
            }
            Failure::Application { message, retryable } => self.blame_application(key, task, message, retryable),
            Failure::Infrastructure { message } => self.blame_worker(key, worker, now, &message),
            Failure::Cancelled => self.blame_worker(key, worker, now, "the worker stopped it"),
        };
        self.end_on_error(key.run, verdict, effects);
    }

    /// The reader is charged to infrastructure; the output it could not read may have to be made again.
    fn input_unreadable(
        &mut self,
        reader: TaskKey,
        from: WorkerId,
        lost_task: TaskId,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RunError> {
        let limits = self.limits;
        let run = self.live_run(reader.run);
        let cause = format!("it could not read from worker {from}");
        run.lost(reader.stage, reader.partition, &limits, &cause)?;
        match run.producer_of(reader.stage, lost_task) {
            Some((stage, partition, holder)) => self.output_unreadable(reader.run, stage, partition, holder, effects),
            None => Ok(()),
        }
    }

    fn result_fetch_failed(&mut self, run_id: RunId, partition: u32, task: TaskId, effects: &mut Vec<Effect>) {
        let Some(run) = self.runs.get_mut(&run_id) else { return };
        let Some(worker) = run.result_holder(partition, task) else {
            return;
        };
        // Offered again once the worker gives a sign of life, unless the output is given up.
        run.offers.insert(partition);
        let result = run.stages.len() - 1;
        let verdict = self.output_unreadable(run_id, result, partition, worker, effects);
        self.end_on_error(run_id, verdict, effects);
    }

    /// Puts the worker in doubt. Failures while it is in doubt already say nothing new and are not counted. A worker on
    /// which too many outputs had to be given up is lost with all the others, however alive it seems: finding out one by
    /// one would take the readers' budgets.
    fn output_unreadable(
        &mut self,
        run: RunId,
        stage: usize,
        partition: u32,
        from: WorkerId,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RunError> {
        let limits = self.limits;
        match self.workers.get_mut(from) {
            Some(worker) if !worker.doubted => worker.doubted = true,
            Some(_) | None => return Ok(()),
        }
        if !self.live_run(run).fetch_failed(stage, partition, &limits)? {
            return Ok(());
        }
        if let Some(outputs) = self.workers.give_up_output(from) {
            self.lose_worker(from, LossReason::Unreadable { outputs }, effects);
        }
        Ok(())
    }

    fn blame_application(
        &mut self,
        key: TaskKey,
        task: TaskId,
        message: String,
        retryable: bool,
    ) -> Result<(), RunError> {
        let limits = self.limits;
        let run = self.live_run(key.run);
        let place = run.stages[key.stage].place(key.partition);
        run.history(key.stage, key.partition)
            .application_failed(&limits, place, task, message, retryable)
    }

    fn blame_worker(&mut self, key: TaskKey, worker: WorkerId, now: Millis, cause: &str) -> Result<(), RunError> {
        let limits = self.limits;
        let run = self.live_run(key.run);
        let place = run.stages[key.stage].place(key.partition);
        run.history(key.stage, key.partition)
            .refused(&limits, place, worker, now, cause)
    }

    /// Accepted whichever attempt it came from, lost ones included: a finished attempt that was read completely is an
    /// answer, unless what it had read was made again since.
    fn result_fetched(&mut self, run: RunId, partition: u32, task: TaskId, effects: &mut Vec<Effect>) {
        let Some(state) = self.runs.get_mut(&run) else { return };
        let pointless = match state.fetched(partition, task) {
            Worth::Kept { pointless } => pointless,
            Worth::Repeated => return,
            Worth::Void => return effects.push(Effect::Discard { run, task }),
        };
        if !state.may_roll_back() {
            effects.push(Effect::HandOn { run, partition, task });
        }
        if let Some((worker, task)) = pointless {
            self.cancel(worker, task, effects);
        }
    }

    fn cancel(&mut self, worker: WorkerId, task: TaskId, effects: &mut Vec<Effect>) {
        if self.workers.cancel(worker, task) {
            effects.push(Effect::CancelTask { worker, task });
        }
    }

    /// A driver that was itself stopped or starved must not accuse others of silence.
    fn tick(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let overslept = self
            .last_tick
            .is_some_and(|last| now.since(last) > self.limits.silence_ms / 2);
        self.last_tick = Some(now);
        if overslept {
            self.workers.forgive_silence(now);
        }
        for (worker, silent_ms) in self.workers.silent(now, self.limits.silence_ms) {
            self.lose_worker(worker, LossReason::Silent { silent_ms }, effects);
        }
    }

    /// The fence comes first, so that nothing the worker says can slip in between.
    fn lose_worker(&mut self, worker: WorkerId, reason: LossReason, effects: &mut Vec<Effect>) {
        if !self.workers.remove(worker) {
            return;
        }
        effects.push(Effect::Fence {
            worker,
            reason: reason.clone(),
        });
        self.forget_worker(worker, &reason, effects);
    }

    fn forget_worker(&mut self, worker: WorkerId, reason: &LossReason, effects: &mut Vec<Effect>) {
        let limits = &self.limits;
        let lose = |(id, run): (&RunId, &mut Run)| (*id, run.lose_worker(worker, reason, limits));
        let verdicts: Vec<(RunId, Result<(), RunError>)> = self.runs.iter_mut().map(lose).collect();
        for (run, verdict) in verdicts {
            self.end_on_error(run, verdict, effects);
        }
    }

    fn end_on_error(&mut self, run: RunId, verdict: Result<(), RunError>, effects: &mut Vec<Effect>) {
        if let Err(error) = verdict {
            self.end(run, Err(error), effects);
        }
    }

    /// The run leaves the table; its tasks are stopped before its files are given up.
    fn end(&mut self, run: RunId, outcome: Result<(), RunError>, effects: &mut Vec<Effect>) {
        let Some(state) = self.runs.remove(&run) else {
            return;
        };
        for (worker, task) in self.workers.tasks_of(run) {
            self.cancel(worker, task, effects);
        }
        if outcome.is_ok() && state.may_roll_back() {
            let fetched = state.fetched_tasks();
            effects.extend(fetched.map(|(partition, task)| Effect::HandOn { run, partition, task }));
        }
        effects.push(match outcome {
            Ok(()) => Effect::RunSucceeded { run },
            Err(error) => Effect::RunFailed { run, error },
        });
        effects.push(Effect::ReleaseRun { run });
    }

    /// What may follow from any change.
    fn settle(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        self.end_runs(now, effects);
        self.roll_back(effects);
        self.offer_results(effects);
        self.place(now, effects);
        self.release_drained(effects);
    }

    /// Runs whose result is fetched, and runs that waited too long for a worker.
    fn end_runs(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let anybody = self.workers.any_accepting();
        let mut outcomes = Vec::new();
        for (id, run) in &mut self.runs {
            if run.is_fetched() {
                outcomes.push((*id, Ok(())));
                continue;
            }
            let since = *run.waiting_since.get_or_insert(now);
            if anybody || !run.is_idle() {
                run.waiting_since = None;
            } else if now.since(since) >= self.limits.no_workers_ms {
                outcomes.push((
                    *id,
                    Err(RunError::NoWorkers {
                        waited_ms: now.since(since),
                    }),
                ));
            }
        }
        for (run, outcome) in outcomes {
            self.end(run, outcome, effects);
        }
    }

    /// Before anything is offered or launched, so that nothing is ever made of two versions.
    fn roll_back(&mut self, effects: &mut Vec<Effect>) {
        let (runs, last_task): (Vec<RunId>, TaskId) = (self.runs.keys().copied().collect(), self.last_task);
        for run in runs {
            while let Some(RolledBack {
                stage,
                running,
                fetched,
            }) = self.live_run(run).roll_back(last_task)
            {
                for (worker, task) in running {
                    self.cancel(worker, task, effects);
                }
                effects.extend(fetched.into_iter().map(|task| Effect::Discard { run, task }));
                effects.push(Effect::RolledBack { run, stage });
            }
        }
    }

    fn offer_results(&mut self, effects: &mut Vec<Effect>) {
        for (id, run) in &mut self.runs {
            let offered = run.offers.iter().filter_map(|partition| {
                let output = run.result().partitions[*partition as usize].state.output()?;
                (!self.workers.is_doubted(output.worker)).then_some((*partition, output.worker, output.task))
            });
            for (partition, worker, task) in offered.collect::<Vec<_>>() {
                run.offers.remove(&partition);
                effects.push(Effect::ReadyToFetch {
                    run: *id,
                    partition,
                    worker,
                    task,
                });
            }
        }
    }

    /// Outputs that nobody needs now go with the worker. Should a later loss make them needed again they are made again:
    /// waiting for the end of the run to rule that out would make every drain as long as the run.
    fn release_drained(&mut self, effects: &mut Vec<Effect>) {
        let draining = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.draining && worker.occupied() == 0);
        let leaves = |worker: &WorkerId| self.runs.values().all(|run| run.outputs_needed(*worker) == 0);
        let leaving: Vec<WorkerId> = draining.map(|(id, _)| id).filter(leaves).collect();
        for worker in leaving {
            self.workers.remove(worker);
            effects.push(Effect::ReleaseWorker { worker });
            self.forget_worker(worker, &LossReason::Released, effects);
        }
    }

    /// A task that is in the workers' table belongs to a run that is alive: `end` takes both away together.
    fn live_run(&mut self, run: RunId) -> &mut Run {
        self.runs.get_mut(&run).expect("a running task belongs to a live run")
    }

    /// Walks every cross-reference between workers, tasks, stages and counters.
    ///
    /// # Panics
    /// If one of them is broken, which is a bug here: the simulator calls this after every step.
    pub fn assert_consistent(&self) {
        self.workers.assert_consistent();
        for (id, worker) in self.workers.iter() {
            for (task, key) in &worker.running {
                let state = self
                    .runs
                    .get(&key.run)
                    .map(|run| &run.stages[key.stage].partitions[key.partition as usize].state);
                let here = matches!(state, Some(State::Running { task: t, worker: w }) if t == task && *w == id);
                assert!(here, "task {task} on worker {id} is unknown to its run");
            }
        }
        for (id, run) in &self.runs {
            run.assert_consistent(&self.limits);
            assert!(!run.is_fetched(), "run {id} is over and still here");
            run.assert_held(|worker, task| match self.workers.get(worker) {
                Some(worker) => task.is_none_or(|task| worker.running.contains_key(&task)),
                None => false,
            });
        }
    }
}
