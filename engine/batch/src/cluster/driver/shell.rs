//! The one task that owns the scheduler: what happens goes in as events, what is decided comes out as effects.
//!
//! It decides nothing itself. It numbers workers, keeps the way to each, remembers what tasks reported, and turns effects
//! into messages, fetches and arrivals. Nothing in it waits but the loop at its top.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::Ipv6Addr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use datafusion::common::DataFusionError;
use prost::Message;
use tokio::sync::mpsc;
use trireme_batch_schedule::{
    CloseCause, DrainWait, Effect, Event, Failure, Limits, LossReason, Millis, PartitionSize, RunError, RunId, RunPlan,
    Schedule, StageId, StageOutputs, StageSpec, TaskId, WorkerId,
};
use trireme_exchange::control::{self, ConnectionId, ControlEvent, SendError, WorkerLink};
use trireme_exchange::http::WorkerLost;
use trireme_exchange::wire::driver_message::Body as ToWorker;
use trireme_exchange::wire::worker_message::Body as FromWorker;
use trireme_exchange::wire::{
    CancelTask, Drain, FailureKind, Heartbeat, Hello, Launch, Plan, Refused, ReleaseRun, Shutdown, TaskFailed,
    TaskFinished, Welcome,
};
use trireme_spec::ids;
use trireme_spec::problem::{ErrorCode, Problem};
use trireme_spec::report::{StageReport, TaskCounts, WorkerReport, WorkerState};

use super::super::stages::PlannedStage;
use super::super::task::{MapOutput, StageInput, StageOrder, TaskOrder, TaskReport};
use super::fetch::{Fetcher, Spool};
use super::rows::Arrival;
use super::{ClusterFacts, ClusterInputs, ClusterOptions, RunFacts};
use crate::engine::PlanCounters;
use crate::problems::told;

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
        outcome: Result<Spool, DataFusionError>,
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
    pub facts: Arc<RunFacts>,
}

/// Owns the scheduler and the way to each worker.
pub struct Shell {
    job: String,
    schedule: Schedule,
    started: Instant,
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
    facts: Arc<RunFacts>,
    reports: HashMap<TaskId, TaskReport>,
    counters: PlanCounters,
    /// Parts of the result that are here and neither handed on nor discarded, by the attempt that made them.
    spools: HashMap<TaskId, Spool>,
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
            facts,
        } = submission;
        let specs = stages.iter().map(|stage| StageSpec {
            id: StageId(stage.id),
            partitions: stage.tasks,
            inputs: stage.inputs.iter().map(|&input| StageId(input)).collect(),
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
                        facts,
                        reports,
                        counters,
                        spools: HashMap::new(),
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

    fn fetched(&mut self, run: RunId, partition: u32, task: TaskId, outcome: Result<Spool, DataFusionError>) {
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
            Err(error) => {
                tracing::warn!(%run, partition, %task, %error, "a part of the result could not be fetched");
                self.step(Event::ResultFetchFailed { run, partition, task });
            }
        }
    }

    fn on_control(&mut self, event: ControlEvent) {
        match event {
            ControlEvent::Attached {
                connection,
                hello,
                peer,
                link,
            } => {
                self.attach(connection, hello, peer.instance(), link);
            }
            ControlEvent::Message { connection, message } => {
                if let Some(&worker) = self.connections.get(&connection) {
                    self.on_message(worker, message);
                }
            }
            ControlEvent::Closed { connection, cause } => {
                if let Some(worker) = self.connections.remove(&connection) {
                    self.closed(worker, &cause);
                }
            }
        }
    }

    fn attach(&mut self, connection: ConnectionId, hello: Hello, instance: &str, link: WorkerLink) {
        let Some((host, port)) = host_and_port(&hello.data_address) else {
            link.close(format!("{:?} is no address of the form host:port", hello.data_address));
            return;
        };
        if self.names.get(&hello.worker_name) == Some(&Standing::Gone) {
            tracing::warn!(name = %hello.worker_name, instance, pid = hello.pid, "refused a worker that was declared gone");
            let reason = format!("worker {} was declared gone", hello.worker_name);
            // The stream ends with its only link, once this is sent.
            drop(link.send(ToWorker::Refused(Refused { reason, fatal: true })));
            return;
        }
        let worker = WorkerId(self.next_worker);
        self.next_worker += 1;
        let welcome = Welcome {
            worker_id: worker.0,
            generation: self.generation,
            heartbeat_ms: self.heartbeat_ms,
            session: Vec::new().into(),
        };
        if link.send(ToWorker::Welcome(welcome)).is_err() {
            return;
        }
        tracing::info!(%worker, name = %hello.worker_name, instance, pid = hello.pid, slots = hello.slots, "worker joined");
        self.connections.insert(connection, worker);
        self.names.insert(hello.worker_name.clone(), Standing::Welcome);
        let slots = hello.slots.max(1);
        self.workers.insert(
            worker,
            Worker {
                link,
                name: hello.worker_name,
                host,
                port: u32::from(port),
                slots,
                draining: false,
                drain_wait: None,
                running: HashMap::new(),
                plans: HashSet::new(),
                shuffle_bytes: 0,
            },
        );
        self.step(Event::WorkerJoined { worker, slots });
    }

    fn on_message(&mut self, worker: WorkerId, message: FromWorker) {
        match message {
            FromWorker::Hello(_) => {}
            FromWorker::Heartbeat(Heartbeat { shuffle_bytes_sent, .. }) => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.shuffle_bytes = shuffle_bytes_sent;
                }
                self.step(Event::Heartbeat { worker });
            }
            FromWorker::TaskFinished(TaskFinished { task, output }) => self.finished(worker, TaskId(task), &output),
            FromWorker::TaskFailed(failed) => self.failed(worker, failed),
            FromWorker::Draining(draining) => {
                tracing::info!(%worker, reason = %draining.reason, "worker drains");
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.draining = true;
                }
                self.step(Event::WorkerDraining { worker });
            }
        }
    }

    fn finished(&mut self, worker: WorkerId, task: TaskId, output: &[u8]) {
        let report = match TaskReport::decode(output) {
            Ok(report) => report,
            Err(error) => {
                let message = format!("the worker's report cannot be read: {error}");
                let failure = Failure::Infrastructure { message };
                return self.step(Event::TaskFailed { worker, task, failure });
            }
        };
        let sizes = report.partitions.iter().map(|written| PartitionSize {
            partition: written.partition,
            rows: written.rows,
            bytes: written.bytes,
        });
        let output = sizes.collect();
        tracing::debug!(%worker, %task, "task reported");
        self.remember(worker, task, report);
        self.step(Event::TaskFinished { worker, task, output });
    }

    /// Keeps what a task reported, for the tasks that will read its output.
    fn remember(&mut self, worker: WorkerId, task: TaskId, report: TaskReport) {
        // A task that is not running here any more was counted when it was.
        let run = self
            .workers
            .get_mut(&worker)
            .and_then(|worker| worker.running.remove(&task));
        if let Some(run) = run.and_then(|run| self.runs.get_mut(&run)) {
            run.counters.rows_read += report.rows_read;
            run.counters.spilled_bytes += report.spilled_bytes;
            run.reports.insert(task, report);
        }
    }

    fn failed(&mut self, worker: WorkerId, failed: TaskFailed) {
        let TaskFailed {
            task,
            message,
            from_worker,
            lost_task,
            payload,
            ..
        } = &failed;
        let task = TaskId(*task);
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.running.remove(&task);
        }
        let failure = match (failed.kind(), from_worker, lost_task) {
            (FailureKind::Fetch, Some(from), Some(lost)) => Failure::FetchFailed {
                from_worker: WorkerId(*from),
                lost_task: TaskId(*lost),
            },
            (FailureKind::Resources | FailureKind::Fetch, _, _) => Failure::Infrastructure {
                message: message.clone(),
            },
            (FailureKind::Cancelled, _, _) => Failure::Cancelled,
            (kind, _, _) => {
                let problem = std::str::from_utf8(payload).unwrap_or_default();
                let message = if problem.is_empty() {
                    message.clone()
                } else {
                    problem.to_owned()
                };
                Failure::Application {
                    message,
                    retryable: kind == FailureKind::External,
                }
            }
        };
        tracing::info!(%worker, %task, ?failure, "task failed");
        self.step(Event::TaskFailed { worker, task, failure });
    }

    fn closed(&mut self, worker: WorkerId, cause: &control::CloseCause) {
        tracing::info!(%worker, %cause, "a worker's control stream ended");
        let (cause, state) = match self.workers.get(&worker) {
            // It said that it would leave. However it went, by itself or killed for taking too long, nobody is to blame.
            Some(gone) if gone.draining => (CloseCause::Drained, WorkerState::Left),
            gone => {
                let detail = gone.map_or_else(|| cause.to_string(), |gone| format!("{} ({cause})", gone.name));
                (CloseCause::Died { detail }, WorkerState::Lost)
            }
        };
        // Before the scheduler's fence, which would call it lost whatever the cause.
        self.forget(worker, state);
        self.step(Event::WorkerClosed { worker, cause });
    }

    /// Whoever runs the workers says that one is gone. What it has not said for itself by now, it never will.
    fn on_loss(&mut self, lost: WorkerLost) {
        let WorkerLost { name, known } = lost;
        let standing = self.names.get_mut(&name);
        // Who asked may not wait for the answer.
        let _ = known.send(standing.is_some());
        let Some(standing) = standing else { return };
        *standing = Standing::Gone;
        let named = self.workers.iter().filter(|(_, worker)| worker.name == name);
        for worker in named.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.step(Event::WorkerClosed {
                worker,
                cause: CloseCause::Gone,
            });
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

    /// Tells draining workers, and the log, what is still needed of them, if that has changed.
    fn tell_drains(&mut self) {
        for (id, worker) in self.workers.iter_mut().filter(|(_, worker)| worker.draining) {
            let wait = self.schedule.drain_wait(*id);
            let Some(DrainWait {
                running,
                outputs_needed,
            }) = wait.filter(|_| wait != worker.drain_wait)
            else {
                continue;
            };
            worker.drain_wait = wait;
            tracing::info!(worker = %id, tasks_running = running, outputs_needed, "a draining worker is needed");
            // A worker that is gone needs to know nothing.
            drop(worker.link.send(ToWorker::Drain(Drain {
                tasks_running: running,
                outputs_needed,
            })));
        }
    }

    /// Does what was decided. The event, if any, is what came of it at once.
    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Launch {
                worker,
                run,
                stage,
                partition,
                task,
                inputs,
            } => return self.launch(worker, run, stage, partition, task, &inputs),
            Effect::CancelTask { worker, task } => self.tell(worker, ToWorker::CancelTask(CancelTask { task: task.0 })),
            Effect::Fence { worker, reason } => {
                match reason {
                    LossReason::Drained => tracing::info!(%worker, "worker left before its drain was over"),
                    _ => tracing::warn!(%worker, %reason, "worker declared lost"),
                }
                if let Some(worker) = self.workers.get(&worker) {
                    worker.link.close(format!("declared lost: {reason}"));
                }
                let state = if reason == LossReason::Released {
                    WorkerState::Left
                } else {
                    WorkerState::Lost
                };
                self.forget(worker, state);
            }
            Effect::ReadyToFetch {
                run,
                partition,
                worker,
                task,
            } => self.fetch(run, partition, worker, task),
            Effect::HandOn { run, partition, task } => {
                if let Some(state) = self.runs.get_mut(&run)
                    && let Some(spool) = state.spools.remove(&task)
                {
                    // Room for every partition was made when the run was submitted, and each is handed on once.
                    drop(state.results.try_send(Arrival::Partition { partition, spool }));
                }
            }
            Effect::Discard { run, task } => {
                if let Some(state) = self.runs.get_mut(&run) {
                    state.spools.remove(&task);
                }
            }
            Effect::RolledBack { run, stage } => {
                tracing::warn!(%run, %stage, "an output that differs each time is made again, and with it all that was made of it");
            }
            Effect::ReleaseRun { run } => self.release(run),
            Effect::ReleaseWorker { worker } => {
                tracing::info!(%worker, "worker released");
                self.tell(
                    worker,
                    ToWorker::Shutdown(Shutdown {
                        reason: "drained".to_owned(),
                    }),
                );
                self.forget(worker, WorkerState::Left);
            }
            Effect::RunSucceeded { run } => {
                if let Some(state) = self.runs.get(&run) {
                    state.facts.succeeded(state.counters, self.shuffle_bytes());
                }
                self.end(run, Arrival::End);
            }
            Effect::RunFailed { run, error } => self.end(run, Arrival::Failed(told(run_problem(&error)))),
        }
        None
    }

    fn launch(
        &mut self,
        worker: WorkerId,
        run: RunId,
        stage: StageId,
        partition: u32,
        task: TaskId,
        inputs: &[Arc<StageOutputs>],
    ) -> Option<Event> {
        let state = self.runs.get(&run)?;
        let order = TaskOrder {
            job: self.job.clone(),
            run: state.name.clone(),
            stage: stage.0,
            partition,
            task: task.0,
            inputs: inputs.iter().map(|input| self.stage_input(state, input)).collect(),
        };
        let plan = state.stages.get(&stage).map(|planned| StageOrder {
            plan: planned.plan.clone(),
            settings: state.settings.clone(),
        });
        let plan_key = run.0 << 32 | u64::from(stage.0);
        let target = self.workers.get_mut(&worker)?;
        tracing::debug!(%worker, %run, %stage, partition, %task, "launch");
        if target.plans.insert((run, stage))
            && let Some(plan) = plan
        {
            let payload = plan.encode_to_vec().into();
            let plan = ToWorker::Plan(Plan {
                plan_key,
                run: run.0,
                stage: stage.0,
                payload,
            });
            // A worker that cannot be sent to is being closed, which arrives as an event.
            drop(target.link.send(plan));
        }
        target.running.insert(task, run);
        let payload = order.encode_to_vec().into();
        let launch = Launch {
            task: task.0,
            run: run.0,
            stage: stage.0,
            partition,
            payload,
            plan_key,
        };
        match target.link.send(ToWorker::Launch(launch)) {
            Err(SendError::TooLarge { bytes, bytes_max }) => {
                target.running.remove(&task);
                let failure = too_large(bytes, bytes_max);
                Some(Event::TaskFailed { worker, task, failure })
            }
            Ok(()) => {
                self.facts.first_task.get_or_init(SystemTime::now);
                None
            }
            // As above.
            Err(SendError::Closed | SendError::Overflow) => None,
        }
    }

    fn stage_input(&self, run: &Run, input: &StageOutputs) -> StageInput {
        let outputs = input
            .outputs
            .iter()
            .filter_map(|output| self.map_output(run, output.worker, output.task));
        StageInput {
            stage: input.stage.0,
            outputs: outputs.collect(),
        }
    }

    /// Where a finished task's output can be read.
    fn map_output(&self, run: &Run, worker: WorkerId, task: TaskId) -> Option<MapOutput> {
        let (holder, report) = (self.workers.get(&worker)?, run.reports.get(&task)?);
        Some(MapOutput {
            worker: worker.0,
            host: holder.host.clone(),
            port: holder.port,
            task: task.0,
            partitions: report.partitions.clone(),
        })
    }

    fn fetch(&mut self, run: RunId, partition: u32, worker: WorkerId, task: TaskId) {
        let Some(state) = self.runs.get(&run) else { return };
        let output = self.map_output(state, worker, task);
        let (name, stage) = (
            state.name.clone(),
            state.stages.keys().next_back().map_or(0, |stage| stage.0),
        );
        tracing::debug!(%worker, %run, partition, %task, "fetching result");
        let (fetcher, commands) = (Arc::clone(&self.fetcher), self.commands.clone());
        tokio::spawn(async move {
            let outcome = match output {
                Some(output) => fetcher.fetch(&name, stage, &output).await,
                None => Err(DataFusionError::Execution("the worker is gone".to_owned())),
            };
            if let Some(commands) = commands.upgrade() {
                // Without a shell there is nobody to answer to.
                drop(
                    commands
                        .send(Command::Fetched {
                            run,
                            partition,
                            task,
                            outcome,
                        })
                        .await,
                );
            }
        });
    }

    fn release(&mut self, run: RunId) {
        for worker in self.workers.values_mut() {
            worker.plans.retain(|(planned, _)| *planned != run);
            drop(worker.link.send(ToWorker::ReleaseRun(ReleaseRun { run: run.0 })));
        }
    }

    fn end(&mut self, run: RunId, arrival: Arrival) {
        if let Some(state) = self.runs.remove(&run) {
            drop(state.results.try_send(arrival));
        }
    }

    fn tell(&self, worker: WorkerId, message: ToWorker) {
        if let Some(worker) = self.workers.get(&worker) {
            drop(worker.link.send(message));
        }
    }

    fn forget(&mut self, id: WorkerId, state: WorkerState) {
        let Some(worker) = self.workers.remove(&id) else { return };
        self.connections.remove(&worker.link.connection());
        if self.gone.len() == WORKERS_GONE_MAX {
            self.gone.remove(0);
        }
        self.gone.push(worker.report(id, state));
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

/// The host as it stands in a URI, where a literal of IPv6 is in brackets, and the port.
fn host_and_port(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let bare = host.trim_matches(['[', ']']);
    match bare.parse::<Ipv6Addr>() {
        Ok(_) => Some((format!("[{bare}]"), port)),
        Err(_) if bare.is_empty() || bare.contains([':', '[', ']']) => None,
        Err(_) => Some((bare.to_owned(), port)),
    }
}

/// A task that names more inputs than fit into a message.
fn too_large(bytes: usize, bytes_max: usize) -> Failure {
    let text = format!("to name a task's inputs takes a message of {bytes} bytes, more than the limit of {bytes_max}");
    let problem = Problem::new(ErrorCode::LimitMessage, text).remedy("run it on fewer executors or cores");
    Failure::Application {
        message: serde_json::to_string(&problem).unwrap_or(problem.message),
        retryable: false,
    }
}

/// What the end of a run means for the person who wrote the job.
fn run_problem(error: &RunError) -> Problem {
    match error {
        RunError::Application { message, .. } => match serde_json::from_str::<Problem>(message) {
            Ok(problem) => problem,
            Err(_) => Problem::new(ErrorCode::SqlExecution, error.to_string()),
        },
        RunError::Poison { .. } => Problem::new(ErrorCode::LimitPoisonTask, error.to_string())
            .remedy("look at the rows of that partition, or give the executors more memory"),
        RunError::InfrastructureBudget { .. } => Problem::new(ErrorCode::LimitRetries, error.to_string())
            .remedy("look at why executors are lost; spec.retries.infrastructure says how often is too often"),
        RunError::NoWorkers { .. } => Problem::new(ErrorCode::LimitNoExecutors, error.to_string())
            .remedy("look at why no executor starts: quota, image, or nodes"),
        RunError::Cancelled => Problem::new(ErrorCode::Cancelled, "the query was cancelled"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for (address, host) in [
            ("10.0.0.7:7071", Some("10.0.0.7")),
            ("worker-1.revenue:7071", Some("worker-1.revenue")),
            ("[fd00::7]:7071", Some("[fd00::7]")),
            // What a worker says that puts no brackets.
            ("fd00::7:7071", Some("[fd00::7]")),
            ("[::ffff:10.0.0.7]:7071", Some("[::ffff:10.0.0.7]")),
            (":7071", None),
            ("10.0.0.7", None),
            ("10.0.0.7:port", None),
            ("a:b:7071", None),
        ] {
            let found = host_and_port(address);
            assert_eq!(found, host.map(|host| (host.to_owned(), 7071)), "{address}");
        }
    }
}
