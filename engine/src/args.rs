//! The command line.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgGroup, Args as Group, Parser, Subcommand, ValueEnum};
use trireme_spec::duration::Period;
use trireme_spec::limits::Limits;
use trireme_spec::quantity::Bytes;

/// Batch jobs over files: one engine, in one process or on a driver and workers.
#[derive(Debug, Parser)]
#[command(name = "trireme", version, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 2 manifest or usage, 3 SQL, 4 data, 5 credentials, 6 network, 7 limit, 70 \
                        a bug of ours, 130 cancelled."
)]
pub struct Args {
    /// What to log on standard error, for instance `debug` or `warn,trireme_batch=debug`.
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "TRIREME_LOG",
        help_heading = "Logging"
    )]
    pub log: Option<String>,
    /// How log lines look.
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        default_value = "text",
        help_heading = "Logging"
    )]
    pub log_format: LogFormat,
    #[command(subcommand)]
    pub command: Command,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// How driver and workers of `run --workers` log.
#[derive(Debug, Clone)]
pub struct Logging {
    pub filter: String,
    pub format: LogFormat,
}

/// A path as it is seen from where the command is run; a job moves the process to its own folder.
fn absolute(path: &str) -> io::Result<PathBuf> {
    std::path::absolute(path)
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a job from its manifest: in this process, or with worker processes on this machine.
    Run(RunArgs),
    /// Run SQL without a manifest.
    Sql(SqlArgs),
    /// Check manifests with the rules that a cluster applies, without running them.
    Validate(ValidateArgs),
    /// Show what a job would do: plans and stages; or the limits that apply.
    Explain(ExplainArgs),
    /// Drive one job: plan it and give its tasks to workers. What the driver's pod runs.
    Driver(DriverArgs),
    /// Run tasks for a driver. What an executor's pod runs.
    Worker(WorkerArgs),
    /// Show the versions of engine and wire protocol.
    Version,
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// What one process may use.
#[derive(Debug, Clone, Group)]
pub struct ResourceArgs {
    /// Threads that run plans; of `run --workers`, tasks that each worker runs at once [default: all of this machine; with
    /// --workers, spec.executors.cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024), help_heading = "Resources")]
    pub cores: Option<u32>,
    /// Memory limit, such as 2Gi, at least 128Mi; of `run --workers`, that of each worker [default: the control group's, or else
    /// the machine's; with --workers, spec.executors.memory].
    #[arg(long, value_name = "SIZE", value_parser = memory, help_heading = "Resources")]
    pub memory: Option<Bytes>,
    /// Folder for spilled data and shuffle files [default: a temporary one].
    #[arg(long, value_name = "DIR", value_parser = absolute, help_heading = "Resources")]
    pub scratch: Option<PathBuf>,
    /// How much may be spilled at a time.
    #[arg(long, value_name = "SIZE", default_value_t = Limits::DEFAULT.spill_quota, help_heading = "Resources")]
    pub spill: Bytes,
}

/// How object stores are reached.
#[derive(Debug, Clone, Group)]
pub struct StoreArgs {
    /// Folder with the files access-key-id and secret-access-key, and where needed session-token, endpoint, region and
    /// allow-http [default: the environment's AWS_ variables; for driver and worker the cloud's identity].
    #[arg(long, value_name = "DIR", value_parser = absolute, help_heading = "Object stores")]
    pub credentials: Option<PathBuf>,
}

/// How results are shown.
#[derive(Debug, Clone, Group)]
pub struct OutputArgs {
    /// Text tables for people, or JSON lines for machines.
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: OutputFormat,
    /// Rows of each result to show.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub max_rows: u32,
    /// No progress.
    #[arg(long, short)]
    pub quiet: bool,
    /// Results as numbered blocks, for a parent that shows each once.
    #[arg(long, hide = true)]
    pub blocks: bool,
    /// A folder that is gone when the command ends: tables below it are shown by their names.
    #[arg(long, value_name = "DIR", hide = true)]
    pub temporary: Option<PathBuf>,
}

/// How results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Tables.
    Text,
    /// One JSON object per statement and line.
    Json,
    /// Rows as CSV with a header.
    Csv,
}

/// `trireme run`.
#[derive(Debug, Clone, Group)]
pub struct RunArgs {
    /// The manifest; `-` reads standard input.
    #[arg(long, short, value_name = "FILE")]
    pub file: PathBuf,
    /// Start a driver and this many worker processes instead of running in this process.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub workers: Option<u32>,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub resources: ResourceArgs,
    #[command(flatten)]
    pub stores: StoreArgs,
}

/// `trireme sql`.
#[derive(Debug, Group)]
#[command(group = ArgGroup::new("statements").required(true).args(["command", "file"]))]
pub struct SqlArgs {
    /// Statements, separated by semicolons.
    #[arg(long, short = 'c', value_name = "SQL")]
    pub command: Option<String>,
    /// A file with statements; `-` reads standard input.
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub resources: ResourceArgs,
    #[command(flatten)]
    pub stores: StoreArgs,
}

/// `trireme validate`.
#[derive(Debug, Group)]
pub struct ValidateArgs {
    /// Manifests; `-` reads standard input. May be given several times.
    #[arg(long, short, value_name = "FILE", required = true, num_args = 1..)]
    pub file: Vec<PathBuf>,
    /// Where the jobs are to run: some fields mean something on Kubernetes only.
    #[arg(long, default_value = "kubernetes")]
    pub target: Target,
    /// Problems as JSON, one per line.
    #[arg(long)]
    pub json: bool,
}

/// Where a job is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Target {
    Local,
    Kubernetes,
}

/// `trireme explain`.
#[derive(Debug, Group)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["file", "limits"]))]
pub struct ExplainArgs {
    /// The manifest; `-` reads standard input.
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Show stages as on this many workers.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub workers: u32,
    /// Show every limit with its value and meaning.
    #[arg(long)]
    pub limits: bool,
    #[command(flatten)]
    pub stores: StoreArgs,
}

/// `trireme driver`.
#[derive(Debug, Group)]
pub struct DriverArgs {
    /// The job's manifest.
    #[arg(long, value_name = "FILE")]
    pub job: PathBuf,
    /// Where workers attach.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:7070")]
    pub control: SocketAddr,
    /// Health, metrics and the report.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:7080")]
    pub http: SocketAddr,
    /// Folder with ca.crt, tls.crt and tls.key.
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    pub tls: PathBuf,
    /// A file with the bearer token that the http port asks for.
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    pub token: Option<PathBuf>,
    /// Where the journal is kept and tables go that are created without a location: a folder or an s3:// URL that driver
    /// and workers share [default: spec.storage].
    #[arg(long, value_name = "URL")]
    pub storage: Option<String>,
    /// The run of the job. A driver that is given the run of an earlier one, with the same storage, goes on where that one
    /// was killed [default: a new run].
    #[arg(long, value_name = "ID", value_parser = run_id)]
    pub run: Option<String>,
    /// The number of this driver among those of its run: greater than that of any before, none of which can commit a write
    /// then. With a storage, the journal counts too, and the greater number counts [default: 1].
    #[arg(long, value_name = "N", requires = "run", value_parser = clap::value_parser!(u32).range(1..))]
    pub generation: Option<u32>,
    /// Write the last report into this file, as JSON that fits into a pod's termination log.
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    pub termination_log: Option<PathBuf>,
    /// How long to wait without a single worker before the job fails.
    #[arg(long, value_name = "DURATION", default_value_t = Limits::DEFAULT.executor_wait_max)]
    pub executor_wait: Period,
    /// Tasks that all workers run at a time [default: from spec.executors].
    #[arg(long, value_name = "N", hide = true)]
    pub slots: Option<u32>,
    /// Memory limit of a worker [default: spec.executors.memory].
    #[arg(long, value_name = "SIZE", hide = true)]
    pub executor_memory: Option<Bytes>,
    /// Tasks that one worker runs at a time [default: spec.executors.cores].
    #[arg(long, value_name = "N", hide = true)]
    pub executor_cores: Option<u32>,
    /// Take credentials for object stores from the environment: for runs on a person's own machine only.
    #[arg(long, hide = true, conflicts_with = "credentials")]
    pub environment: bool,
    /// End when standard input closes: whoever started this process is gone.
    #[arg(long, hide = true)]
    pub until_stdin_closes: bool,
    /// Where relative paths of the job start [default: the manifest's folder].
    #[arg(long, value_name = "DIR", hide = true)]
    pub base: Option<PathBuf>,
    /// Write the addresses that were bound into this file.
    #[arg(long, value_name = "FILE", value_parser = absolute, hide = true)]
    pub announce: Option<PathBuf>,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub resources: ResourceArgs,
    #[command(flatten)]
    pub stores: StoreArgs,
}

/// `trireme worker`.
#[derive(Debug, Group)]
pub struct WorkerArgs {
    /// The driver's control port, as HOST:PORT.
    #[arg(long, value_name = "HOST:PORT")]
    pub driver: String,
    /// The worker's name in reports and logs.
    #[arg(long, value_name = "NAME", default_value = "worker")]
    pub name: String,
    /// Where the data port listens.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:7071")]
    pub data: SocketAddr,
    /// The host under which others reach the data port [default: that of --data].
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,
    /// Health, metrics and the worker's own report.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:7080")]
    pub http: SocketAddr,
    /// Folder with ca.crt, tls.crt and tls.key.
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    pub tls: PathBuf,
    /// A file with the bearer token that the http port asks for.
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    pub token: Option<PathBuf>,
    /// Write what ended the worker, if it is an error, into this file, as JSON that fits into a pod's termination log.
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    pub termination_log: Option<PathBuf>,
    /// After SIGTERM, how long to wait until nothing on it is needed.
    #[arg(long, value_name = "DURATION", default_value_t = Limits::DEFAULT.drain_grace)]
    pub drain_grace: Period,
    /// Take credentials for object stores from the environment: for runs on a person's own machine only.
    #[arg(long, hide = true, conflicts_with = "credentials")]
    pub environment: bool,
    /// End when standard input closes: whoever started this process is gone.
    #[arg(long, hide = true)]
    pub until_stdin_closes: bool,
    #[command(flatten)]
    pub resources: ResourceArgs,
    #[command(flatten)]
    pub stores: StoreArgs,
}

/// An amount of memory that a process can do with, as in a manifest.
fn memory(text: &str) -> Result<Bytes, String> {
    let (least, most) = (Limits::DEFAULT.memory_min, Limits::DEFAULT.memory_max);
    let memory: Bytes = text
        .parse()
        .map_err(|error| format!("{error}; an amount is 512Mi, 2Gi or 1.5G"))?;
    match (least..=most).contains(&memory) {
        true => Ok(memory),
        false => Err(format!("{least} to {most} are allowed")),
    }
}

/// A run's id is part of the name of its journal, so it must not lead elsewhere.
fn run_id(text: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&text.len());
    if fits && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        Ok(text.to_owned())
    } else {
        Err("a run is named by 1 to 64 letters, digits or dashes".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn memory_has_the_bounds_of_a_manifest() {
        assert_eq!(memory("128Mi"), Ok(Limits::DEFAULT.memory_min));
        for text in ["1", "127Mi", "17Ti", "much"] {
            assert!(memory(text).is_err(), "{text}");
        }
    }
}
