//! A worker's life: attach to the driver, run the tasks it sends, serve their output, leave when told.
//!
//! The control stream and the data port live on threads of their own, so that a task that computes for a second cannot make
//! the worker look dead. When the stream ends, everything that ran for it is cancelled and its files are removed: the
//! driver has written them off, and a worker that attaches again is a new one. A worker that was told to end waits until
//! nothing on it is needed, but not longer than its grace.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ballista_core::extension::SessionConfigExt;
use datafusion::common::DataFusionError;
use datafusion::execution::registry::FunctionRegistry;
use datafusion::execution::{SessionState, TaskContext};
use datafusion::prelude::{SessionConfig, SessionContext};
use parking_lot::Mutex;
use prost::Message;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use trireme_core::store::StoreFactory;
use trireme_core::tls::TlsFiles;
use trireme_exchange::bytes_count::ByteCounters;
use trireme_exchange::control::{Attachment, DriverInbox, DriverLink, SendError};
use trireme_exchange::wire::driver_message::Body as FromDriver;
use trireme_exchange::wire::worker_message::Body as ToDriver;
use trireme_exchange::wire::{Drain, Draining, FailureKind, Launch, TaskFailed, TaskFinished};
use trireme_spec::problem::{ErrorCode, Problem};
use trireme_spec::worker_status::{DrainWait, WorkerStatus};

use super::clients::{ClientPool, endpoint_tls};
use super::codec::PlanCodec;
use super::settings::worker_settings;
use super::task::{StageOrder, TaskEnvironment, TaskFailure, TaskOrder, TaskReport, classify, run_task};
use super::worker_facts::WorkerFacts;
use crate::panics::{Panic, catch};
use crate::problems::causes;
use crate::session::{Resources, runtime};

/// Plans kept for stages whose tasks may still come: one driver runs few queries at a time.
const PLANS_KEPT_MAX: usize = 1024;

/// Cancelled tasks end at their next batch; one that does not is left behind.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// What a worker is made of.
pub struct Worker {
    /// The way to other workers' data ports.
    pub tls: TlsFiles,
    pub resources: Resources,
    /// Below it, shuffle files: one folder for each run.
    pub work_dir: PathBuf,
    /// Where tasks run.
    pub compute: Handle,
    /// Bytes of the data port.
    pub data_bytes: Arc<ByteCounters>,
    /// What it says of itself.
    pub status: watch::Sender<WorkerStatus>,
    /// From being told to end until it leaves, whatever is still needed of it.
    pub drain_grace: Duration,
}

/// Why a worker's attachment ended.
#[derive(Debug)]
pub enum Ended {
    /// The driver sent it home.
    Shutdown { reason: String },
    /// The stream broke.
    Lost { reason: String },
    /// It was told to end, and left at the end of its grace.
    GraceOver,
}

/// What goes wrong before a task can run.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The work folder cannot be used.
    #[error("cannot use the work folder {path}")]
    WorkDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Memory, spill folder or settings are not usable.
    #[error("cannot make a runtime for tasks")]
    Runtime(#[source] DataFusionError),
}

impl Worker {
    /// Serves one attachment to its end. `drain` asks to leave: the driver is told, and lets go when nothing is needed.
    ///
    /// # Errors
    /// A work folder or settings that cannot be used.
    pub async fn serve(&self, attachment: Attachment, drain: CancellationToken) -> Result<Ended, WorkerError> {
        let Attachment {
            welcome,
            link,
            mut inbox,
        } = attachment;
        clear(&self.work_dir)?;
        let attached = Attached::new(self, welcome.worker_id, link.clone())?;
        let heart = Duration::from_millis(welcome.heartbeat_ms.max(100));
        let ended = tokio::select! {
            ended = attached.listen(&mut inbox) => ended,
            reason = attached.live(heart, drain.clone()) => Ended::Lost { reason },
            () = over(drain, self.drain_grace) => Ended::GraceOver,
        };
        // Nobody hears what ends from here on.
        drop(inbox);
        attached.facts.detached();
        attached.stop.cancel();
        attached.running.close();
        // Tasks that end late would write into the folder of the next attachment.
        if tokio::time::timeout(STOP_PATIENCE, attached.running.wait())
            .await
            .is_err()
        {
            tracing::warn!("tasks of a lost attachment are still running");
        }
        drop(link);
        clear(&self.work_dir)?;
        Ok(ended)
    }
}

/// Returns `grace` after `drain` was told.
async fn over(drain: CancellationToken, grace: Duration) {
    drain.cancelled().await;
    tokio::time::sleep(grace).await;
}

/// Removes what an earlier attachment left.
fn clear(folder: &PathBuf) -> Result<(), WorkerError> {
    let failed = |source| WorkerError::WorkDir {
        path: folder.clone(),
        source,
    };
    match fs::remove_dir_all(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    fs::create_dir_all(folder).map_err(failed)
}

/// One attachment: what the driver sent and what runs for it.
struct Attached {
    link: DriverLink,
    /// Functions and memory that all tasks share.
    base: SessionState,
    environment: Arc<TaskEnvironment>,
    stores: Arc<StoreFactory>,
    tls: TlsFiles,
    work_dir: PathBuf,
    compute: Handle,
    facts: Arc<WorkerFacts>,
    plans: Mutex<HashMap<u64, (u64, Arc<StageOrder>)>>,
    /// Names of runs' folders, by the driver's number.
    runs: Mutex<HashMap<u64, String>>,
    /// Ends every task.
    stop: CancellationToken,
    running: TaskTracker,
}

impl Attached {
    fn new(worker: &Worker, id: u64, link: DriverLink) -> Result<Self, WorkerError> {
        let runtime = runtime(&worker.resources).map_err(WorkerError::Runtime)?;
        let (memory, status) = (Arc::clone(&runtime.memory_pool), worker.status.clone());
        let facts = WorkerFacts::attached(id, Arc::clone(&worker.data_bytes), memory, status);
        let base = SessionContext::new_with_config_rt(SessionConfig::new_with_ballista(), runtime).state();
        let environment = TaskEnvironment {
            work_dir: worker.work_dir.display().to_string(),
            codec: Arc::new(PlanCodec::default()),
            clients: Arc::new(ClientPool::default()),
            memory: worker.resources.memory.per_slot(worker.resources.cores),
        };
        Ok(Self {
            link,
            base,
            environment: Arc::new(environment),
            stores: Arc::clone(&worker.resources.stores),
            tls: worker.tls.clone(),
            work_dir: worker.work_dir.clone(),
            compute: worker.compute.clone(),
            facts: Arc::new(facts),
            plans: Mutex::default(),
            runs: Mutex::default(),
            stop: CancellationToken::new(),
            running: TaskTracker::new(),
        })
    }

    /// Does what the driver says until it ends the stream.
    async fn listen(&self, inbox: &mut DriverInbox) -> Ended {
        loop {
            match inbox.next().await {
                Ok(Some(FromDriver::Shutdown(shutdown))) => {
                    return Ended::Shutdown {
                        reason: shutdown.reason,
                    };
                }
                Ok(Some(message)) => self.on_message(message),
                Ok(None) => {
                    return Ended::Lost {
                        reason: "the driver ended the stream".to_owned(),
                    };
                }
                Err(error) => return Ended::Lost { reason: causes(&error) },
            }
        }
    }

    /// Sends heartbeats until the stream ends, and tells the driver when the worker wants to leave.
    async fn live(&self, every: Duration, drain: CancellationToken) -> String {
        let mut beats = tokio::time::interval(every);
        let mut leaving = false;
        loop {
            let message = tokio::select! {
                _ = beats.tick() => ToDriver::Heartbeat(self.facts.heartbeat()),
                () = drain.cancelled(), if !leaving => {
                    leaving = true;
                    self.facts.draining();
                    ToDriver::Draining(Draining { reason: "the worker was told to end".to_owned() })
                }
            };
            if let Err(error) = self.link.send(message).await {
                return error.to_string();
            }
        }
    }

    fn on_message(&self, message: FromDriver) {
        match message {
            FromDriver::Plan(plan) => match StageOrder::decode(plan.payload) {
                Ok(order) => {
                    let mut plans = self.plans.lock();
                    if plans.len() < PLANS_KEPT_MAX {
                        plans.insert(plan.plan_key, (plan.run, Arc::new(order)));
                    }
                }
                Err(error) => tracing::error!(run = plan.run, stage = plan.stage, %error, "a plan cannot be read"),
            },
            FromDriver::Launch(launch) => self.launch(launch),
            FromDriver::CancelTask(cancel) => self.facts.cancel(cancel.task),
            FromDriver::ReleaseRun(release) => self.release(release.run),
            FromDriver::Drain(Drain {
                tasks_running,
                outputs_needed,
            }) => self.facts.drain_waits_for(DrainWait {
                tasks_running,
                outputs_needed,
            }),
            FromDriver::Welcome(_) | FromDriver::Refused(_) | FromDriver::Shutdown(_) => {}
        }
    }

    fn launch(&self, launch: Launch) {
        let task = launch.task;
        let plan = self
            .plans
            .lock()
            .get(&launch.plan_key)
            .map(|(_, plan)| Arc::clone(plan));
        let (Some(plan), Ok(order)) = (plan, TaskOrder::decode(launch.payload)) else {
            let message = "the task's plan or order did not arrive".to_owned();
            let link = self.link.clone();
            self.compute
                .spawn(async move { report_failure(&link, task, TaskFailure::Infrastructure { message }).await });
            return;
        };
        self.runs.lock().insert(launch.run, order.run.clone());
        let cancel = self.stop.child_token();
        self.facts.started(task, cancel.clone());
        // Enabled whatever is logged, so that libraries' warnings say whose they are.
        let (job, stage, partition) = (&order.job, order.stage, order.partition);
        let span = tracing::error_span!("task", %job, stage, task = partition, attempt = task);
        let (link, facts) = (self.link.clone(), Arc::clone(&self.facts));
        let (environment, context) = (Arc::clone(&self.environment), self.context(&plan, task));
        let work = async move {
            let context = context?;
            run_task(&order, &plan.plan, Arc::new(context), &environment, cancel).await
        };
        let work = work.instrument(span.clone());
        let attempt = async move {
            // A task of its own, so that a panic in user data costs one attempt and not the worker.
            let outcome = tokio::spawn(catch(work)).await;
            let spilled = match &outcome {
                Ok(Ok(Ok(report))) => report.spilled_bytes,
                Ok(Ok(Err(_)) | Err(_)) | Err(_) => 0,
            };
            facts.ended(task, spilled);
            let failure = match outcome {
                Ok(Ok(Ok(report))) => {
                    // First what it cost, so that who hears of the end knows all of it. A driver that is gone wants neither.
                    drop(link.send(ToDriver::Heartbeat(facts.heartbeat())).await);
                    return report_success(&link, task, &report).await;
                }
                Ok(Ok(Err(error))) => classify(&error),
                Ok(Err(panic)) => TaskFailure::Application(panic.problem()),
                Err(error) => of_end(&error),
            };
            report_failure(&link, task, failure).await;
        };
        self.running.spawn_on(attempt.instrument(span), &self.compute);
    }

    fn context(&self, plan: &StageOrder, task: u64) -> Result<TaskContext, DataFusionError> {
        let config = worker_settings(&plan.settings, self.environment.memory, endpoint_tls(self.tls.clone()))?;
        let config = config.with_extension(Arc::clone(&self.stores));
        // Some functions hold settings of theirs, such as the time zone, which are those of their job.
        let functions = self.base.scalar_functions().values();
        let settled: Vec<_> = functions
            .filter_map(|function| function.inner().with_updated_config(config.options()))
            .collect();
        let mut context = TaskContext::from(&self.base)
            .with_session_config(config)
            .with_task_id(task.to_string());
        for function in settled {
            context.register_udf(Arc::new(function))?;
        }
        Ok(context)
    }

    /// Forgets a run: its plans and its files.
    fn release(&self, run: u64) {
        self.plans.lock().retain(|_, (of, _)| *of != run);
        let Some(name) = self.runs.lock().remove(&run) else {
            return;
        };
        let folder = self.work_dir.join(name);
        self.compute.spawn_blocking(move || {
            if let Err(error) = fs::remove_dir_all(&folder)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(folder = %folder.display(), %error, "a run's files could not be removed");
            }
        });
    }
}

/// What it means that a task ended otherwise than by returning: it panicked once more as it was taken apart, or was cut off.
fn of_end(error: &JoinError) -> TaskFailure {
    match Panic::of_task(error) {
        Some(panic) => TaskFailure::Application(panic.problem()),
        None => TaskFailure::Cancelled,
    }
}

async fn report_success(link: &DriverLink, task: u64, report: &TaskReport) {
    let output = report.encode_to_vec().into();
    let sent = link.send(ToDriver::TaskFinished(TaskFinished { task, output })).await;
    if let Err(SendError::TooLarge { bytes, bytes_max }) = sent {
        let text = format!("to list a task's output takes {bytes} bytes, more than the limit of {bytes_max}");
        let problem = Problem::new(ErrorCode::LimitMessage, text).remedy("run it on fewer executors or cores");
        report_failure(link, task, TaskFailure::Application(problem)).await;
    }
}

async fn report_failure(link: &DriverLink, task: u64, failure: TaskFailure) {
    tracing::debug!(?failure, "task failed");
    let mut failed = TaskFailed {
        task,
        ..TaskFailed::default()
    };
    match failure {
        TaskFailure::Fetch { worker, task, message } => {
            failed.set_kind(FailureKind::Fetch);
            (failed.from_worker, failed.lost_task, failed.message) = (Some(worker), Some(task), message);
        }
        TaskFailure::Infrastructure { message } => {
            failed.set_kind(FailureKind::Resources);
            failed.message = message;
        }
        TaskFailure::Cancelled => failed.set_kind(FailureKind::Cancelled),
        TaskFailure::Application(problem) => {
            failed.set_kind(if problem.retry {
                FailureKind::External
            } else {
                FailureKind::Application
            });
            failed.message = trireme_exchange::control::cut(problem.message.clone());
            failed.payload = serde_json::to_vec(&problem).unwrap_or_default().into();
        }
    }
    // A driver that is gone wants no report.
    drop(link.send(ToDriver::TaskFailed(failed)).await);
}
