//! The driver's side: an engine whose plans run on workers.
//!
//! [`ClusterEngine`] is the handle that statements are run with. All state is owned by one task, [`shell`]; it feeds the
//! pure scheduler with what happens and carries out what the scheduler decides.

mod fetch;
mod rows;
mod shell;
mod spool;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use async_trait::async_trait;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tracing::Instrument;
use trireme_batch_schedule::RunId;
use trireme_core::tls::TlsFiles;
use trireme_exchange::control::ControlEvent;
use trireme_exchange::http::WorkerLost;
use trireme_spec::limits::Limits;
use trireme_spec::report::{StageReport, TaskCounts, WorkerReport};

use super::codec::PlanCodec;
use super::settings::{changed_settings, planning, without_compression};
use super::stages::{PlannedStage, StageLimits, check_stages, plan_stages};
use super::waves::suitable_tasks;
use crate::engine::{BatchEngine, PlanCounters, PlanProgress, RunningPlan};
use crate::memory::SlotMemory;
use crate::problems::told;
use fetch::Fetcher;
use shell::{Command, Shell, Submission};
use spool::SpoolSpace;

/// Commands on their way to the shell: each is a submission, an answer or a cancellation, so few wait at a time.
const COMMANDS_WAITING_MAX: usize = 256;

/// Tasks of one query. Beyond it the driver's tables and messages grow faster than the work.
const TASKS_MAX: u64 = 100_000;

/// What a cluster's driver is told at its start.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Names runs in paths on workers: `[a-z0-9-]` only.
    pub job: String,
    /// The run of the job: the same for all its drivers.
    pub run: String,
    /// This driver's generation: part of every run's name, so that two drivers never share a path.
    pub generation: u64,
    /// Tasks that all workers together run at a time, once all are there.
    pub slots: usize,
    /// What each of them may take of its worker's memory.
    pub slot_memory: SlotMemory,
    /// Whether all workers are on this machine, so that what is shuffled crosses no wire.
    pub one_machine: bool,
    pub tls: TlsFiles,
    /// Where results that do not fit in memory wait to be read.
    pub scratch: std::path::PathBuf,
    /// What results on their way from workers may take of the driver's memory.
    pub fetch_bytes: u64,
    pub limits: Limits,
    /// From `spec.retries`.
    pub application_attempts: u32,
    pub infrastructure_losses: u32,
}

/// What a cluster's driver hears.
#[derive(Debug)]
pub struct ClusterInputs {
    /// From the control port.
    pub events: mpsc::Receiver<ControlEvent>,
    /// From whoever runs the workers.
    pub losses: mpsc::Receiver<WorkerLost>,
}

/// Runs plans as stages on workers.
pub struct ClusterEngine {
    options: ClusterOptions,
    codec: PlanCodec,
    commands: mpsc::Sender<Command>,
    facts: Arc<ClusterFacts>,
    runs: AtomicU64,
}

/// What is known of the cluster; written by the shell, read by whoever reports.
#[derive(Debug, Default)]
pub struct ClusterFacts {
    /// Workers, those that left included.
    workers: Mutex<Vec<WorkerReport>>,
    /// When the first task was handed to one.
    first_task: OnceLock<SystemTime>,
}

impl ClusterEngine {
    /// Starts the shell, which lives until the engine is dropped or the workers are sent home.
    ///
    /// # Errors
    /// Settings that contradict each other.
    pub fn start(options: ClusterOptions, inputs: ClusterInputs) -> Result<Self> {
        let (commands, waiting) = mpsc::channel(COMMANDS_WAITING_MAX);
        let facts = Arc::new(ClusterFacts::default());
        let fetcher = Arc::new(Fetcher::new(options.tls.clone(), options.fetch_bytes)?);
        let shell = Shell::new(&options, Arc::clone(&facts), commands.downgrade(), fetcher);
        let span = tracing::error_span!("driver", job = %options.job);
        tokio::spawn(shell.run(inputs, waiting).instrument(span));
        Ok(Self {
            options,
            codec: PlanCodec::default(),
            commands,
            facts,
            runs: AtomicU64::new(1),
        })
    }

    /// The job has ended: workers are told so, and nothing can be run any more. Those of an engine that is dropped without
    /// this go on looking for a driver.
    pub async fn send_home(&self) {
        // A shell that has stopped has nobody to tell.
        drop(self.send(Command::SendHome).await);
    }

    /// The stages that `plan` is cut into, for people.
    ///
    /// # Errors
    /// A plan that cannot be distributed.
    pub fn explain(plan: Arc<dyn ExecutionPlan>, config: &SessionConfig) -> Result<Vec<PlannedStage>> {
        plan_stages("explain", plan, config.options(), &PlanCodec::default())
    }
}

/// Planning settings for a cluster of `slots` tasks at a time, each with `memory`.
pub fn cluster_settings(config: SessionConfig, slots: usize, memory: SlotMemory) -> SessionConfig {
    planning(config, slots, memory)
}

#[async_trait]
impl BatchEngine for ClusterEngine {
    fn configure(&self, config: SessionConfig) -> SessionConfig {
        let config = planning(config, self.options.slots, self.options.slot_memory);
        if self.options.one_machine {
            return without_compression(config);
        }
        config
    }

    fn suitable_partitions(&self, plan: &dyn ExecutionPlan, partitions: usize) -> Option<usize> {
        suitable_tasks(plan, partitions, self.options.slots, self.options.slot_memory)
    }

    async fn submit(&self, plan: Arc<dyn ExecutionPlan>, context: Arc<TaskContext>) -> Result<RunningPlan> {
        let run = RunId(self.runs.fetch_add(1, Ordering::Relaxed));
        let name = format!("{}-g{}-r{run}", self.options.job, self.options.generation);
        let (schema, config) = (plan.schema(), context.session_config());
        let limits = StageLimits {
            tasks_max: TASKS_MAX,
            plan_bytes_max: self.options.limits.plan_bytes_max.get(),
            plan_depth_max: self.options.limits.plan_depth_max,
        };
        let stages = plan_stages(&name, plan, config.options(), &self.codec)?;
        check_stages(&stages, limits).map_err(told)?;
        let tasks: u32 = stages.iter().map(|stage| stage.tasks).sum();
        tracing::debug!(run = %name, stages = stages.len(), tasks, "planned");
        let progress = Arc::new(RunFacts::new(&stages));
        let partitions = stages.last().map_or(0, |stage| stage.tasks);
        let (results, arriving) = mpsc::channel(partitions.max(1) as usize + 1);
        let submission = Submission {
            run,
            name,
            stages,
            settings: changed_settings(config),
            results,
            space: SpoolSpace::new(context.memory_pool(), self.options.scratch.clone()),
            facts: Arc::clone(&progress),
        };
        self.send(Command::Submit(submission)).await?;
        let rows = rows::in_order(schema, arriving, rows::CancelOnDrop::new(run, self.commands.clone()));
        Ok(RunningPlan { rows, progress })
    }

    fn workers(&self) -> Vec<WorkerReport> {
        self.facts.workers.lock().clone()
    }

    fn first_task(&self) -> Option<SystemTime> {
        self.facts.first_task.get().copied()
    }
}

impl ClusterEngine {
    async fn send(&self, command: Command) -> Result<()> {
        let stopped = |_| DataFusionError::Internal("the driver's shell has stopped".to_owned());
        self.commands.send(command).await.map_err(stopped)
    }
}

/// What is known of a run; written by the shell, read by whoever reports.
#[derive(Debug)]
pub struct RunFacts {
    state: Mutex<(Vec<StageReport>, PlanCounters)>,
}

impl RunFacts {
    fn new(stages: &[PlannedStage]) -> Self {
        let report = |stage: &PlannedStage| StageReport {
            id: trireme_spec::ids::StageId(stage.id),
            tasks: TaskCounts {
                total: stage.tasks,
                ..Default::default()
            },
        };
        Self {
            state: Mutex::new((stages.iter().map(report).collect(), PlanCounters::default())),
        }
    }

    fn set(&self, stages: Vec<StageReport>, counters: PlanCounters) {
        *self.state.lock() = (stages, counters);
    }

    /// The last word: every task is done, and this is what they counted.
    fn succeeded(&self, counted: PlanCounters, shuffle_bytes: u64) {
        let (stages, counters) = &mut *self.state.lock();
        for TaskCounts {
            total, running, done, ..
        } in stages.iter_mut().map(|stage| &mut stage.tasks)
        {
            (*running, *done) = (0, *total);
        }
        *counters = PlanCounters {
            tasks_rerun: counters.tasks_rerun,
            shuffle_bytes,
            ..counted
        };
    }
}

impl PlanProgress for RunFacts {
    fn stages(&self) -> Vec<StageReport> {
        self.state.lock().0.clone()
    }

    fn counters(&self) -> PlanCounters {
        self.state.lock().1
    }
}
