//! The three processes of a stock Ballista cluster, on loopback, without TLS. What is not an argument is Ballista's default.

use std::path::PathBuf;
use std::sync::Arc;

use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::extension::{SessionConfigExt, SessionStateExt};
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::start_server;
use clap::{Args, ValueEnum};
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::{Failure, Work};

const HOST: &str = "127.0.0.1";

/// Who asks for the next task.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Policy {
    /// Executors poll.
    Pull,
    /// The scheduler sends.
    Push,
}

impl Policy {
    fn as_ballista(self) -> TaskSchedulingPolicy {
        match self {
            Self::Pull => TaskSchedulingPolicy::PullStaged,
            Self::Push => TaskSchedulingPolicy::PushStaged,
        }
    }
}

#[derive(Debug, Args)]
pub struct Scheduler {
    #[arg(long)]
    policy: Policy,
    #[arg(long)]
    port: u16,
    /// `/readyz` answers with 200 from as many executors on.
    #[arg(long)]
    executors: usize,
}

impl Scheduler {
    /// Serves until the process is ended.
    pub async fn run(self) -> Result<(), Failure> {
        let config = SchedulerConfig {
            scheduling_policy: self.policy.as_ballista(),
            external_host: HOST.to_owned(),
            bind_host: HOST.to_owned(),
            bind_port: self.port,
            min_ready_executors: self.executors,
            ..SchedulerConfig::default()
        };
        let cluster = BallistaCluster::new_from_config(&config).await?;
        start_server(
            cluster,
            (std::net::Ipv4Addr::LOCALHOST, self.port).into(),
            Arc::new(config),
        )
        .await?;
        Ok(())
    }
}

#[derive(Debug, Args)]
pub struct Executor {
    #[arg(long)]
    policy: Policy,
    #[arg(long)]
    scheduler_port: u16,
    /// Serves shuffle data.
    #[arg(long)]
    port: u16,
    /// Takes tasks.
    #[arg(long)]
    grpc_port: u16,
    /// For shuffle files and what is spilled.
    #[arg(long)]
    work_dir: PathBuf,
    /// Tasks at a time.
    #[arg(long)]
    vcores: usize,
    /// Bytes that operators may use.
    #[arg(long)]
    pool_bytes: u64,
}

impl Executor {
    /// Serves until the process is ended.
    pub async fn run(self) -> Result<(), Failure> {
        let config = ExecutorProcessConfig {
            task_scheduling_policy: self.policy.as_ballista(),
            bind_host: HOST.to_owned(),
            external_host: Some(HOST.to_owned()),
            port: self.port,
            grpc_port: self.grpc_port,
            scheduler_host: HOST.to_owned(),
            scheduler_port: self.scheduler_port,
            scheduler_connect_timeout_seconds: 10,
            vcores: self.vcores,
            work_dir: Some(self.work_dir.display().to_string()),
            memory_pool_size: Some(self.pool_bytes),
            ..ExecutorProcessConfig::default()
        };
        start_executor_process(Arc::new(config)).await?;
        Ok(())
    }
}

/// A session whose queries run on the cluster.
pub fn session(work: &Work, scheduler_port: u16) -> Result<SessionContext, Failure> {
    let config = work.configure(SessionConfig::new_with_ballista())?;
    let state = SessionStateBuilder::new()
        .with_default_features()
        .with_config(config)
        .build()
        .upgrade_for_ballista(format!("http://{HOST}:{scheduler_port}"))?;
    Ok(SessionContext::new_with_state(state))
}
