//! Plain DataFusion and stock Ballista, as somebody would embed them who had never heard of Trireme.
//!
//! Same versions, same allocator, same files. Nothing here uses a crate of ours: what is measured against must not change
//! when we do. `bench.py` starts the processes, with the settings that it prints.

mod ballista;
mod queries;

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Whatever goes wrong ends the process, and with it the round.
type Failure = Box<dyn Error + Send + Sync>;

#[derive(Debug, Parser)]
#[command(name = "contenders", version)]
enum Contender {
    /// DataFusion in this process.
    Datafusion {
        #[command(flatten)]
        work: Work,
        /// Threads that run plans.
        #[arg(long)]
        cores: usize,
        /// Bytes that operators may use.
        #[arg(long)]
        pool_bytes: usize,
    },
    /// A process of a Ballista cluster.
    Ballista {
        #[command(subcommand)]
        role: Role,
    },
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Plans, and gives tasks to executors.
    Scheduler(ballista::Scheduler),
    /// Runs tasks.
    Executor(ballista::Executor),
    /// Submits the queries and fetches the rows.
    Client {
        #[command(flatten)]
        work: Work,
        #[arg(long)]
        scheduler_port: u16,
    },
}

/// What a contender is to do: every query once, each over the same tables.
#[derive(Debug, Args)]
struct Work {
    /// Holds a folder of Parquet files for each table.
    #[arg(long)]
    data: PathBuf,
    /// Holds `<query>.sql`, one statement each.
    #[arg(long)]
    queries: PathBuf,
    /// How many partitions plans aim at.
    #[arg(long)]
    partitions: usize,
    /// `datafusion.*` and `ballista.*` settings of the session that are not the defaults, as KEY=VALUE.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Keep the rows of each query here, as `<query>.parquet`.
    #[arg(long)]
    answers: Option<PathBuf>,
}

impl Work {
    fn configure(&self, config: SessionConfig) -> Result<SessionConfig, Failure> {
        let mut config = config.with_target_partitions(self.partitions);
        for setting in &self.settings {
            let (key, value) = setting.split_once('=').ok_or("a setting is KEY=VALUE")?;
            config.options_mut().set(key, value)?;
        }
        Ok(config)
    }
}

fn main() -> Result<(), Failure> {
    match Contender::parse() {
        Contender::Datafusion {
            work,
            cores,
            pool_bytes,
        } => {
            let config = SessionConfig::new()
                .with_information_schema(true)
                .set_bool("datafusion.execution.collect_statistics", true);
            let config = work.configure(config)?;
            let runtime = RuntimeEnvBuilder::new()
                .with_memory_pool(Arc::new(FairSpillPool::new(pool_bytes)))
                .build_arc()?;
            let context = SessionContext::new_with_config_rt(config, runtime);
            threads(cores)?.block_on(queries::run(&context, &work))
        }
        // Threads as the processes that Ballista ships have them: one for each core of the machine.
        Contender::Ballista { role } => threads(std::thread::available_parallelism()?.get())?.block_on(async {
            match role {
                Role::Scheduler(scheduler) => scheduler.run().await,
                Role::Executor(executor) => executor.run().await,
                Role::Client { work, scheduler_port } => {
                    queries::run(&ballista::session(&work, scheduler_port)?, &work).await
                }
            }
        }),
    }
}

fn threads(count: usize) -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(count)
        // Ballista's scheduler ships with as much: it plans by recursion.
        .thread_stack_size(32 << 20)
        .enable_all()
        .build()
}
