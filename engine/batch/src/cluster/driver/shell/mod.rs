//! The one task that owns the scheduler: what happens goes in as events, what is decided comes out as effects.
//!
//! It decides nothing itself. It numbers workers, keeps the way to each, remembers what tasks reported, and turns effects
//! into messages, fetches and arrivals. Nothing in it waits but the loop at its top.

mod effects;
mod inputs;
mod workers;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use trireme_batch_schedule::{
    DrainWait, Event, Limits, Millis, RunId, RunPlan, Schedule, StageId, StageSpec, TaskId, WorkerId,
};
use trireme_exchange::control::{ConnectionId, WorkerLink};
use trireme_exchange::wire::Shutdown;
use trireme_exchange::wire::driver_message::Body as ToWorker;
use trireme_spec::ids;
use trireme_spec::problem::{ErrorCode, Problem};
use trireme_spec::report::{StageReport, TaskCounts, WorkerReport, WorkerState};

use super::super::stages::PlannedStage;
use super::super::task::TaskReport;
use super::fetch::{FetchError, Fetcher};
use super::rows::Arrival;
use super::spool::{Spool, SpoolSpace};
use super::{ClusterFacts, ClusterInputs, ClusterOptions, RunFacts};
use crate::engine::PlanCounters;
use crate::problems::told;
use crate::statements::statement_problem;

/// The scheduler asks to be told the time at least every quarter of the silence after which a worker is lost.
const TICK: Duration = Duration::from_millis(500);

/// Workers that left are reported this long in number, so that a report says what became of them.
const WORKERS_GONE_MAX: usize = 32;

/// What the shell is asked to do.
#[derive(Debug)]
pub enum Command {
    Submit(Submission),
    Cancel {
        run: RunId,
    },
    Fetched {
        run: RunId,
        partition: u32,
        task: TaskId,
        outcome: Result<Spool, FetchError>,
    },
    /// The job has ended: nobody needs the workers any more.
    SendHome,
}

/// A run to be started.
#[derive(Debug)]
pub struct Submission {
    pub run: RunId,
    /// Names it in paths on workers.
    pub name: String,
    pub stages: Vec<PlannedStage>,
    pub settings: BTreeMap<String, String>,
    pub results: mpsc::Sender<Arrival>,
    /// Where parts of the result wait.
    pub space: SpoolSpace,
    pub facts: Arc<RunFacts>,
}

/// Owns the scheduler and the way to each worker.
pub struct Shell {
    job: String,
    schedule: Schedule,
    started: Instant,
    /// Of the job, whose drivers are told apart by their generation.
    run: String,
    generation: u64,
    heartbeat_ms: u64,
    workers: BTreeMap<WorkerId, Worker>,
    connections: HashMap<ConnectionId, WorkerId>,
    gone: Vec<WorkerReport>,
    next_worker: u64,
    /// By the name that whoever runs the workers calls them by: all that have ever attached, as many as processes were
    /// started in the life of this driver.
    names: HashMap<String, Standing>,
    runs: HashMap<RunId, Run>,
    facts: Arc<ClusterFacts>,
    commands: mpsc::WeakSender<Command>,
    fetcher: Arc<Fetcher>,
}

/// Whether workers of a name may attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Welcome,
    /// Whoever runs them says that it is gone; what still bears the name is a remnant.
    Gone,
}

struct Worker {
    link: WorkerLink,
    name: String,
    host: String,
    port: u32,
    slots: u32,
    draining: bool,
    /// What it was last told of what its drain waits for.
    drain_wait: Option<DrainWait>,
    running: HashMap<TaskId, RunId>,
    /// Stages whose plan it has.
    plans: HashSet<(RunId, StageId)>,
    shuffle_bytes: u64,
}

struct Run {
    name: String,
    stages: BTreeMap<StageId, PlannedStage>,
    settings: BTreeMap<String, String>,
    results: mpsc::Sender<Arrival>,
    space: SpoolSpace,
    facts: Arc<RunFacts>,
    reports: HashMap<TaskId, TaskReport>,
    counters: PlanCounters,
    /// Parts of the result that are here and neither handed on nor discarded, by the attempt that made them.
    spools: HashMap<TaskId, Spool>,
    /// Stops the fetches of a run that has ended: those of the next wait for the same places.
    stop_fetches: CancellationToken,
}

impl Shell {
    /// A shell without workers and runs. `commands` leads to itself: fetches answer through it.
    pub fn new(
        options: &ClusterOptions,
        facts: Arc<ClusterFacts>,
        commands: mpsc::WeakSender<Command>,
        fetcher: Arc<Fetcher>,
    ) -> Self {
        let limits = &options.limits;
        let schedule = Schedule::new(Limits {
            silence_ms: limits.worker_silence_max.as_millis(),
            application_attempts: options.application_attempts,
            infrastructure_losses: options.infrastructure_losses,
            poison_deaths: limits.poison_worker_deaths_max,
            no_workers_ms: limits.executor_wait_max.as_millis(),
        });
        Self {
            job: options.job.clone(),
            schedule,
            started: Instant::now(),
            run: options.run.clone(),
            generation: options.generation,
            heartbeat_ms: limits.heartbeat_interval.as_millis(),
            workers: BTreeMap::new(),
            connections: HashMap::new(),
            gone: Vec::new(),
            next_worker: 1,
            names: HashMap::new(),
            runs: HashMap::new(),
            facts,
            commands,
            fetcher,
        }
    }

    /// Runs until the workers are sent home, or nobody can give commands any more: then their streams just end, and they
    /// look for the driver that follows this one.
    pub async fn run(mut self, inputs: ClusterInputs, mut commands: mpsc::Receiver<Command>) {
        let ClusterInputs { mut events, mut losses } = inputs;
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                command = commands.recv() => {
                    let Some(command) = command else { return };
                    if self.on_command(command).is_break() {
                        return;
                    }
                }
                Some(event) = events.recv() => self.on_control(event),
                Some(lost) = losses.recv() => self.on_loss(lost),
                _ = ticks.tick() => {
                    self.step(Event::Tick);
                    self.tell_drains();
                }
            }
            self.publish();
        }
    }

    fn on_command(&mut self, command: Command) -> ControlFlow<()> {
        match command {
            Command::Submit(submission) => self.submit(submission),
            Command::Cancel { run } => self.step(Event::RunCancelled { run }),
            Command::Fetched {
                run,
                partition,
                task,
                outcome,
            } => self.fetched(run, partition, task, outcome),
            Command::SendHome => {
                self.send_home();
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    fn send_home(&self) {
        for worker in self.workers.values() {
            let goodbye = Shutdown {
                reason: "the job has ended".to_owned(),
            };
            // A worker that is gone needs no goodbye.
            drop(worker.link.send(ToWorker::Shutdown(goodbye)));
        }
    }

    fn submit(&mut self, submission: Submission) {
        let Submission {
            run,
            name,
            stages,
            settings,
            results,
            space,
            facts,
        } = submission;
        let specs = stages.iter().map(|stage| StageSpec {
            id: StageId(stage.id),
            partitions: stage.tasks,
            inputs: stage.inputs.keys().map(|&input| StageId(input)).collect(),
            output_partitions: stage.output_partitions,
            repeatable: stage.repeatable,
        });
        match RunPlan::new(specs.collect()) {
            Ok(plan) => {
                let stages = stages.into_iter().map(|stage| (StageId(stage.id), stage)).collect();
                let (reports, counters) = (HashMap::new(), PlanCounters::default());
                self.runs.insert(
                    run,
                    Run {
                        name,
                        stages,
                        settings,
                        results,
                        space,
                        facts,
                        reports,
                        counters,
                        spools: HashMap::new(),
                        stop_fetches: CancellationToken::new(),
                    },
                );
                self.step(Event::RunSubmitted { run, plan });
            }
            Err(error) => {
                let problem = Problem::new(ErrorCode::Internal, format!("the planner made no plan: {error}"));
                // The queue has room for every partition and an end; this is the first thing in it.
                drop(results.try_send(Arrival::Failed(told(problem))));
            }
        }
    }

    fn fetched(&mut self, run: RunId, partition: u32, task: TaskId, outcome: Result<Spool, FetchError>) {
        match outcome {
            Ok(spool) => {
                tracing::debug!(%run, partition, %task, "result fetched");
                let Some(state) = self.runs.get_mut(&run) else { return };
                let reported = state.reports.get(&task);
                let reported = reported.into_iter().flat_map(|report| &report.partitions);
                state.counters.result_bytes += reported.map(|written| written.bytes).sum::<u64>();
                state.spools.insert(task, spool);
                self.step(Event::ResultFetched { run, partition, task });
            }
            Err(FetchError::Here(error)) => {
                // No worker can help this.
                let mut problem = statement_problem(&error);
                problem.message = format!("the driver cannot keep a part of the result: {}", problem.message);
                self.end(run, Arrival::Failed(told(problem)));
                self.step(Event::RunCancelled { run });
            }
            Err(FetchError::Worker(error)) => {
                tracing::warn!(%run, partition, %task, %error, "a part of the result could not be fetched");
                self.step(Event::ResultFetchFailed { run, partition, task });
            }
        }
    }

    fn step(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now = Millis(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX));
            let mut effects = Vec::new();
            self.schedule.step(now, event, &mut effects);
            // What carrying them out brings up comes after all of them: each was decided without knowing it.
            events.extend(effects.into_iter().filter_map(|effect| self.carry_out(effect)));
        }
    }

    /// What the data ports of the workers that are here have sent so far.
    fn shuffle_bytes(&self) -> u64 {
        self.workers.values().map(|worker| worker.shuffle_bytes).sum()
    }

    /// Writes down how far everything is, for whoever reports.
    fn publish(&self) {
        let present = self.workers.iter().map(|(id, worker)| {
            let state = if worker.draining {
                WorkerState::Draining
            } else {
                WorkerState::Active
            };
            worker.report(*id, state)
        });
        *self.facts.workers.lock() = self.gone.iter().cloned().chain(present).collect();
        let shuffle_bytes = self.shuffle_bytes();
        for (id, run) in &self.runs {
            let Some(progress) = self.schedule.progress(*id) else {
                continue;
            };
            let stages = progress.stages.iter().map(|stage| StageReport {
                id: ids::StageId(stage.stage.0),
                tasks: TaskCounts {
                    total: stage.total,
                    running: stage.running,
                    done: stage.done,
                    failed: stage.reruns,
                },
            });
            let tasks_rerun = u64::from(progress.reruns());
            run.facts.set(
                stages.collect(),
                PlanCounters {
                    tasks_rerun,
                    shuffle_bytes,
                    ..run.counters
                },
            );
        }
    }
}

impl Worker {
    fn report(&self, id: WorkerId, state: WorkerState) -> WorkerReport {
        WorkerReport {
            id: ids::WorkerId::new(format!("{}/{id}", self.name)),
            state,
            slots: self.slots,
            running: u32::try_from(self.running.len()).unwrap_or(u32::MAX),
        }
    }
}
