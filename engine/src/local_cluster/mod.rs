//! `trireme run --workers N`: a driver and workers as processes of this machine, on loopback, with certificates of their
//! own. The processes are the ones that pods run; this is the operator's part, as far as one machine needs it: start them,
//! start again what dies, end what is left.

mod crew;
mod driver;
mod role;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, SystemTime};

use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use trireme_core::tls::{Identity, JobAuthority, LEAF_VALIDITY, Role, write_files};
use trireme_spec::batch_job::BatchJob;
use trireme_spec::problem::{ErrorCode, Problem};
use trireme_spec::quantity::Bytes;

use crew::Crew;
use driver::Driver;
use role::RoleProcess;

use crate::args::{LogFormat, Logging, OutputFormat, RunArgs};
use crate::output::blocks::Shown;
use crate::process::{self, Scratch};

/// The kernel chooses the port.
const ANY_PORT: &str = "127.0.0.1:0";

/// A driver that is killed is started again, this often in all: one that dies of its job would die for ever.
const DRIVER_STARTS_MAX: u32 = 10;

/// A worker that dies is started again, this often in all: the budget is the job's, not ours, so it is generous.
const WORKER_STARTS_MAX: u32 = 100;

/// Before a worker is started again, so that one that cannot start does not keep the machine busy.
const RESTART_WAIT: Duration = Duration::from_millis(200);

/// Runs `job` on a driver and `workers` worker processes.
///
/// # Errors
/// Processes that cannot be started. What stops the job itself is told by the driver, whose exit code becomes ours.
pub fn run(
    args: &RunArgs,
    job: &BatchJob,
    scratch: &Scratch,
    workers: u32,
    logging: Logging,
) -> Result<ExitCode, Problem> {
    process::run_to_end(1, async {
        let cancel = process::cancel_on_signal().map_err(|error| process::no_signals(&error))?;
        let cluster = LocalCluster::prepare(args, job, scratch, workers, logging)?;
        cluster.run(cancel).await
    })
}

struct LocalCluster<'a> {
    args: &'a RunArgs,
    job: &'a BatchJob,
    program: PathBuf,
    folder: PathBuf,
    workers: u32,
    cores: u32,
    logging: Logging,
    /// The same for all drivers of this run of the job.
    run: String,
}

impl<'a> LocalCluster<'a> {
    fn prepare(
        args: &'a RunArgs,
        job: &'a BatchJob,
        scratch: &Scratch,
        workers: u32,
        logging: Logging,
    ) -> Result<Self, Problem> {
        let program = std::env::current_exe().map_err(|error| failed("this program cannot be found", &error))?;
        let folder = scratch.path.clone();
        let now = SystemTime::now();
        let name = job.metadata.name.as_str();
        let authority = JobAuthority::generate(name, now).map_err(|error| no_certificates(&error))?;
        let roles = (1..=workers).map(|number| (Role::Worker, format!("worker-{number}")));
        for (role, instance) in roles.chain([(Role::Driver, "driver".to_owned())]) {
            let identity = Identity::new(role, name, &*instance).map_err(|error| no_certificates(&error))?;
            let leaf = authority
                .issue(&identity, now, LEAF_VALIDITY)
                .map_err(|error| no_certificates(&error))?;
            let place = folder.join("tls").join(&instance);
            fs::create_dir_all(&place).map_err(|error| failed("no folder for certificates", &error))?;
            write_files(&place, &authority, &leaf).map_err(|error| no_certificates(&error))?;
        }
        // The manifest may be a pipe, which can be read once; what was checked is as good.
        let text = serde_json::to_vec(job).map_err(|error| failed("the manifest cannot be written", &error))?;
        fs::write(folder.join("job.json"), text).map_err(|error| failed("no room for the manifest", &error))?;
        let machine = u32::try_from(process::cores(&args.resources)).unwrap_or(1);
        let cores = if args.resources.cores.is_some() {
            machine
        } else {
            job.spec.executors.cores
        };
        Ok(Self {
            args,
            job,
            program,
            folder,
            workers,
            cores,
            logging,
            run: trireme_batch::incarnation(),
        })
    }

    async fn run(&self, cancel: CancellationToken) -> Result<ExitCode, Problem> {
        let mut shown = Shown::default();
        let mut driver = self.start_driver(ANY_PORT)?;
        let Some(control) = driver.address(&self.announced()).await? else {
            return driver.explained(&mut shown).await;
        };
        let mut crew = Crew::default();
        for number in 1..=self.workers {
            crew.watch(number, self.start_worker(number, &control)?);
        }
        let (mut worker_starts, mut driver_starts) = (0, 0);
        let mut told = false;
        let ended = loop {
            tokio::select! {
                biased;
                ended = driver.run(&mut shown) => {
                    let ended = ended?;
                    // Not one that was told to end, and not one that ended with an error, which it has explained.
                    let killed = ended.code().is_none() && !told;
                    if !killed || driver_starts == DRIVER_STARTS_MAX {
                        break ended;
                    }
                    driver_starts += 1;
                    tracing::warn!(status = %ended, "the driver was killed; starting another, which goes on where it was");
                    tokio::time::sleep(RESTART_WAIT).await;
                    // Workers go on looking for the driver where they knew it.
                    driver = self.start_driver(&control)?;
                }
                Some(number) = crew.lost() => {
                    worker_starts += 1;
                    // Workers that were sent home may end a moment before the driver does.
                    tokio::time::sleep(RESTART_WAIT).await;
                    if driver.is_running() && worker_starts <= WORKER_STARTS_MAX {
                        crew.watch(number, self.start_worker(number, &control)?);
                    }
                }
                () = cancel.cancelled(), if !told => {
                    told = true;
                    driver.end();
                }
            }
        };
        crew.end().await;
        driver::code(ended)
    }

    /// Where a driver tells which addresses it has bound.
    fn announced(&self) -> PathBuf {
        self.folder.join("driver.json")
    }

    fn start_driver(&self, control: &str) -> Result<Driver, Problem> {
        let mut command = self.role("driver", "driver");
        // This process is where the job's relative paths start.
        let file = self.folder.join("job.json");
        command.arg("--job").arg(file).args(["--base", ".", "--run", &self.run]);
        command.args(["--control", control, "--http", ANY_PORT]);
        command.arg("--announce").arg(self.announced());
        command.arg("--scratch").arg(self.folder.join("work/driver"));
        if self.job.spec.storage.is_none() {
            command.arg("--storage").arg(self.folder.join("storage"));
        }
        command.arg("--slots").arg((self.workers * self.cores).to_string());
        command.arg("--executor-memory").arg(self.executor_memory().to_string());
        command.arg("--executor-cores").arg(self.cores.to_string());
        command.arg("--memory").arg(self.job.spec.driver.memory.to_string());
        let format = match self.args.output.output {
            OutputFormat::Text => "text",
            OutputFormat::Json => "json",
            OutputFormat::Csv => "csv",
        };
        let rows = self.args.output.max_rows.to_string();
        command.args(["--output", format, "--max-rows", &rows, "--blocks"]);
        if let Some(folder) = &self.args.output.temporary {
            command.arg("--temporary").arg(folder);
        }
        if self.args.output.quiet {
            command.arg("--quiet");
        }
        Driver::start(command)
    }

    fn start_worker(&self, number: u32, control: &str) -> Result<RoleProcess, Problem> {
        let instance = format!("worker-{number}");
        let mut command = self.role("worker", &instance);
        command.args([
            "--driver", control, "--name", &instance, "--data", ANY_PORT, "--http", ANY_PORT,
        ]);
        let (memory, cores) = (self.executor_memory().to_string(), self.cores.to_string());
        command.args(["--memory", &memory, "--cores", &cores]);
        command.arg("--scratch").arg(self.folder.join("work").join(&instance));
        command.args(["--spill", &self.args.resources.spill.to_string()]);
        command.stdout(Stdio::null());
        RoleProcess::start(command).map_err(|error| failed("a worker cannot be started", &error))
    }

    fn executor_memory(&self) -> Bytes {
        self.args.resources.memory.unwrap_or(self.job.spec.executors.memory)
    }

    /// A process of this program. It ends when its standard input closes, which happens when this process is gone, however
    /// it ended; and it is in a group of its own, so that Ctrl-C reaches us alone and we end the others in order.
    fn role(&self, role: &str, instance: &str) -> Command {
        let mut command = std::process::Command::new(&self.program);
        command.process_group(0);
        let mut command = Command::from(command);
        let format = match self.logging.format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        let filter = &self.logging.filter;
        command
            .arg(role)
            .args(["--log", filter, "--log-format", format, "--until-stdin-closes"]);
        match &self.args.stores.credentials {
            Some(folder) => command.arg("--credentials").arg(folder),
            None => command.arg("--environment"),
        };
        command.arg("--tls").arg(self.folder.join("tls").join(instance));
        command.stdin(Stdio::piped()).kill_on_drop(true);
        command
    }
}

fn failed(what: &str, error: &dyn std::error::Error) -> Problem {
    Problem::new(ErrorCode::Internal, format!("{what}: {error}"))
}

fn no_certificates(error: &dyn std::error::Error) -> Problem {
    failed("certificates for the local cluster cannot be made", error)
}
