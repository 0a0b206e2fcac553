//! What was decided, carried out: launches, fetches, and the ends of runs.

use std::sync::Arc;
use std::time::SystemTime;

use datafusion::common::DataFusionError;
use prost::Message;
use trireme_batch_schedule::{
    Effect, Event, Failure, LossReason, RunError, RunId, StageId, StageOutputs, TaskId, WorkerId,
};
use trireme_exchange::control::SendError;
use trireme_exchange::wire::driver_message::Body as ToWorker;
use trireme_exchange::wire::{CancelTask, Launch, Plan, ReleaseRun, Shutdown};
use trireme_spec::problem::{ErrorCode, Problem};
use trireme_spec::report::WorkerState;

use super::super::super::restrict::Reads;
use super::super::super::task::{StageOrder, TaskOrder};
use super::super::fetch::FetchError;
use super::super::rows::Arrival;
use super::inputs::{Held, stage_input, whole_output};
use super::{Command, Run, Shell};
use crate::problems::told;

impl Shell {
    /// Does what was decided. The event, if any, is what came of it at once.
    pub(super) fn carry_out(&mut self, effect: Effect) -> Option<Event> {
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
        let planned = state.stages.get(&stage)?;
        let held = |worker, task| self.held(state, worker, task);
        let told = inputs.iter().map(|input| {
            let reads = planned.inputs.get(&input.stage.0).unwrap_or(&Reads::Whole);
            stage_input(input, reads, partition, held)
        });
        let order = TaskOrder {
            job: self.job.clone(),
            run: state.name.clone(),
            stage: stage.0,
            partition,
            task: task.0,
            inputs: told.collect(),
        };
        let plan = StageOrder {
            plan: planned.plan.clone(),
            settings: state.settings.clone(),
        };
        let plan_key = run.0 << 32 | u64::from(stage.0);
        let target = self.workers.get_mut(&worker)?;
        tracing::debug!(%worker, %run, %stage, partition, %task, "launch");
        if target.plans.insert((run, stage)) {
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

    /// Where a finished task's output can be read.
    fn held<'a>(&'a self, run: &'a Run, worker: WorkerId, task: TaskId) -> Option<Held<'a>> {
        let (holder, report) = (self.workers.get(&worker)?, run.reports.get(&task)?);
        Some(Held {
            host: &holder.host,
            port: holder.port,
            report,
        })
    }

    fn fetch(&mut self, run: RunId, partition: u32, worker: WorkerId, task: TaskId) {
        let Some(state) = self.runs.get(&run) else { return };
        let output = self
            .held(state, worker, task)
            .map(|held| whole_output(worker, task, &held));
        let (name, stage) = (
            state.name.clone(),
            state.stages.keys().next_back().map_or(0, |stage| stage.0),
        );
        tracing::debug!(%worker, %run, partition, %task, "fetching result");
        let (fetcher, commands) = (Arc::clone(&self.fetcher), self.commands.clone());
        let (space, stop) = (state.space.clone(), state.stop_fetches.clone());
        let fetching = async move {
            match output {
                Some(output) => fetcher.fetch(&name, stage, &output, &space).await,
                None => Err(FetchError::Worker(DataFusionError::Execution(
                    "the worker is gone".to_owned(),
                ))),
            }
        };
        tokio::spawn(async move {
            let Some(outcome) = stop.run_until_cancelled(fetching).await else {
                return;
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

    pub(super) fn end(&mut self, run: RunId, arrival: Arrival) {
        if let Some(state) = self.runs.remove(&run) {
            state.stop_fetches.cancel();
            drop(state.results.try_send(arrival));
        }
    }

    fn tell(&self, worker: WorkerId, message: ToWorker) {
        if let Some(worker) = self.workers.get(&worker) {
            drop(worker.link.send(message));
        }
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
