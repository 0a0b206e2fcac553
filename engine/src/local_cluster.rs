//! `trireme run --workers N`: a driver and workers as processes of this machine, on loopback, with certificates of their
//! own. The processes are the ones that pods run; this is the operator's part, as far as one machine needs it: start them,
//! start again what dies, end what is left.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use trireme_core::tls::{Identity, JobAuthority, LEAF_VALIDITY, Role};
use trireme_spec::batch_job::BatchJob;
use trireme_spec::problem::{ErrorCode, Problem};

use crate::args::{OutputFormat, RunArgs};
use crate::process::{self, Scratch};

/// The driver has this long to bind its ports.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// Workers have this long to leave after the job has ended; then they are killed, because nobody needs them.
const LEAVE_PATIENCE: Duration = Duration::from_secs(3);

/// A worker that dies is started again, this often in all: the budget is the job's, not ours, so it is generous.
const WORKER_STARTS_MAX: u32 = 100;

/// Before a worker is started again, so that one that cannot start does not keep the machine busy.
const RESTART_WAIT: Duration = Duration::from_millis(200);

/// Runs `job` on a driver and `workers` worker processes.
///
/// # Errors
/// Processes that cannot be started. What stops the job itself is told by the driver, whose exit code becomes ours.
pub fn run(args: &RunArgs, job: &BatchJob, scratch: &Scratch, workers: u32, log: &str) -> Result<ExitCode, Problem> {
    process::run_to_end(1, async {
        let cancel = process::cancel_on_signal().map_err(|error| process::no_signals(&error))?;
        let cluster = LocalCluster::prepare(args, job, scratch, workers, log)?;
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
    log: String,
}

impl<'a> LocalCluster<'a> {
    fn prepare(
        args: &'a RunArgs,
        job: &'a BatchJob,
        scratch: &Scratch,
        workers: u32,
        log: &str,
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
            authority
                .write_files(&place, &leaf)
                .map_err(|error| no_certificates(&error))?;
        }
        if args.file == Path::new("-") {
            // The driver may start more than once; standard input can be read once. The checked manifest is as good.
            let text = serde_json::to_vec(job).map_err(|error| failed("the manifest cannot be written", &error))?;
            fs::write(folder.join("job.json"), text).map_err(|error| failed("no room for the manifest", &error))?;
        }
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
            log: log.to_owned(),
        })
    }

    async fn run(&self, cancel: CancellationToken) -> Result<ExitCode, Problem> {
        let mut driver = self.start_driver()?;
        let control = self.address_of(&mut driver).await?;
        let Some(control) = control else {
            return code(driver.child.wait().await);
        };
        let mut crew = Crew::default();
        for number in 1..=self.workers {
            crew.watch(number, self.start_worker(number, 0, &control)?);
        }
        let mut starts = 0;
        let mut told = false;
        let ended = loop {
            tokio::select! {
                biased;
                ended = driver.child.wait() => break ended,
                Some(number) = crew.lost() => {
                    starts += 1;
                    // Workers that were sent home may end a moment before the driver does.
                    tokio::time::sleep(RESTART_WAIT).await;
                    let running = matches!(driver.child.try_wait(), Ok(None));
                    if running && starts <= WORKER_STARTS_MAX {
                        crew.watch(number, self.start_worker(number, starts, &control)?);
                    }
                }
                () = cancel.cancelled(), if !told => {
                    told = true;
                    signal(&driver.child, Signal::TERM);
                }
            }
        };
        crew.end().await;
        code(ended)
    }

    fn start_driver(&self) -> Result<RoleProcess, Problem> {
        let mut command = self.role("driver", "driver");
        let stdin = self.folder.join("job.json");
        let file = if stdin.exists() { stdin } else { self.args.file.clone() };
        command
            .arg("--job")
            .arg(file)
            .args(["--control", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        command.arg("--announce").arg(self.folder.join("driver.json"));
        command.arg("--slots").arg((self.workers * self.cores).to_string());
        command.arg("--memory").arg(self.job.spec.driver.memory.to_string());
        let format = match self.args.output.output {
            OutputFormat::Text => "text",
            OutputFormat::Json => "json",
            OutputFormat::Csv => "csv",
        };
        command.args(["--output", format, "--max-rows", &self.args.output.max_rows.to_string()]);
        if self.args.output.quiet {
            command.arg("--quiet");
        }
        RoleProcess::start(command).map_err(|error| failed("the driver cannot be started", &error))
    }

    fn start_worker(&self, number: u32, start: u32, control: &str) -> Result<RoleProcess, Problem> {
        let instance = format!("worker-{number}");
        let mut command = self.role("worker", &instance);
        command.args([
            "--driver",
            control,
            "--name",
            &instance,
            "--data",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
        ]);
        let memory = self.args.resources.memory.unwrap_or(self.job.spec.executors.memory);
        command.args(["--memory", &memory.to_string(), "--cores", &self.cores.to_string()]);
        command
            .arg("--scratch")
            .arg(self.folder.join("work").join(format!("{instance}-{start}")));
        command.args(["--spill", &self.args.resources.spill.to_string()]);
        command.stdout(Stdio::null());
        RoleProcess::start(command).map_err(|error| failed("a worker cannot be started", &error))
    }

    /// A process of this program. It ends when its standard input closes, which happens when this process is gone, however
    /// it ended; and it is in a group of its own, so that Ctrl-C reaches us alone and we end the others in order.
    fn role(&self, role: &str, instance: &str) -> Command {
        let mut command = std::process::Command::new(&self.program);
        command.process_group(0);
        let mut command = Command::from(command);
        command
            .arg(role)
            .args(["--log", &self.log, "--environment", "--until-stdin-closes"]);
        command.arg("--tls").arg(self.folder.join("tls").join(instance));
        command.stdin(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Where the driver's control port is; `None` when the driver ended first, which it has explained.
    async fn address_of(&self, driver: &mut RoleProcess) -> Result<Option<String>, Problem> {
        let file = self.folder.join("driver.json");
        let announced = async {
            loop {
                if let Ok(text) = fs::read(&file) {
                    let facts: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
                    break facts["control"].as_str().map(str::to_owned);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            address = tokio::time::timeout(START_PATIENCE, announced) => match address {
                Ok(address) => Ok(address),
                Err(_) => Err(Problem::new(ErrorCode::Internal, "the driver did not bind its ports in time")),
            },
            _ = driver.child.wait() => Ok(None),
        }
    }
}

/// A process of ours. Its lifeline is its standard input: the process ends when that closes.
struct RoleProcess {
    child: Child,
    /// Held apart, because waiting for a child closes the input that it still has.
    _lifeline: Option<ChildStdin>,
}

impl RoleProcess {
    fn start(mut command: Command) -> io::Result<Self> {
        let mut child = command.spawn()?;
        Ok(Self {
            _lifeline: child.stdin.take(),
            child,
        })
    }
}

/// The workers that run, each watched by a task.
#[derive(Default)]
struct Crew {
    watched: JoinSet<u32>,
    stop: CancellationToken,
}

impl Crew {
    fn watch(&mut self, number: u32, worker: RoleProcess) {
        let stop = self.stop.clone();
        self.watched.spawn(async move {
            // All of it moves in here: its lifeline must last as long as the process.
            let mut worker = worker;
            tokio::select! {
                status = worker.child.wait() => {
                    if let Ok(status) = status && !status.success() {
                        tracing::warn!(worker = number, %status, "a worker process ended; starting another");
                    }
                }
                () = stop.cancelled() => {
                    // One that the driver sent home is on its way; one that came too late does not know yet.
                    signal(&worker.child, Signal::TERM);
                    if tokio::time::timeout(LEAVE_PATIENCE, worker.child.wait()).await.is_err() {
                        // Dropping the child kills it.
                        tracing::warn!(worker = number, "a worker did not leave in time; killing it");
                    }
                }
            }
            number
        });
    }

    /// The next worker that ends.
    async fn lost(&mut self) -> Option<u32> {
        self.watched.join_next().await?.ok()
    }

    /// Waits for all to leave.
    async fn end(mut self) {
        self.stop.cancel();
        while self.watched.join_next().await.is_some() {}
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, signal)
    {
        tracing::debug!(%error, "the process is gone already");
    }
}

/// The driver's exit code as ours.
fn code(ended: io::Result<ExitStatus>) -> Result<ExitCode, Problem> {
    let status = ended.map_err(|error| failed("the driver's end was missed", &error))?;
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(code) => Ok(ExitCode::from(code)),
        None => Err(
            Problem::new(ErrorCode::Internal, format!("the driver was killed: {status}"))
                .remedy("look at the system's log: the kernel kills what uses too much memory"),
        ),
    }
}

fn failed(what: &str, error: &dyn std::error::Error) -> Problem {
    Problem::new(ErrorCode::Internal, format!("{what}: {error}"))
}

fn no_certificates(error: &dyn std::error::Error) -> Problem {
    failed("certificates for the local cluster cannot be made", error)
}
