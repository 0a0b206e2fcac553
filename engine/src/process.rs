//! What a process needs before it can do anything: threads, signals, resources.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use trireme_batch::memory::MemoryBudget;
use trireme_batch::panics;
use trireme_batch::session::Resources;
use trireme_core::store::{Credentials, S3Options, StoreFactory};
use trireme_core::tls::TlsError;
use trireme_spec::problem::{ErrorCode, Problem};

use crate::allocator::keep_freed_memory;
use crate::args::{OutputArgs, ResourceArgs, StoreArgs};

/// Exit code of a process that a second Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Stack of each thread that plans or runs plans, taken only when it is used. A statement within the limits was planned in a
/// tenth of it.
pub const STACK_BYTES: usize = 64 << 20;

/// Threads for `cores` tasks.
///
/// # Errors
/// A system that gives no threads.
pub fn runtime(cores: usize) -> Result<Runtime, Problem> {
    Builder::new_multi_thread()
        .worker_threads(cores)
        .thread_name("trireme")
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .map_err(|error| Problem::new(ErrorCode::Internal, format!("no threads could be started: {error}")))
}

/// Runs `work` on `cores` threads. What it leaves running when it ends is not waited for: nobody wants it any more.
///
/// # Errors
/// As [`runtime`], and those of `work`; a panic in it is one.
pub fn run_to_end<T>(cores: usize, work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    panics::keep_quiet();
    let runtime = runtime(cores)?;
    let done = runtime.block_on(panics::caught(work));
    runtime.shutdown_background();
    done
}

/// Cores to use where none were asked for: those that this process may run on.
pub fn cores(args: &ResourceArgs) -> usize {
    let machine = || std::thread::available_parallelism().map_or(1, usize::from);
    args.cores.map_or_else(machine, |cores| cores as usize)
}

/// A token that the first SIGINT, SIGTERM or SIGHUP cancels. A second SIGINT or SIGTERM ends the process at once; of SIGHUP,
/// the closing of a terminal may send several.
///
/// # Errors
/// A system that lets no handler be installed.
pub fn cancel_on_signal() -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut interrupts, mut terminations) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hangups = (!outlives_its_terminal())
        .then(|| signal(SignalKind::hangup()))
        .transpose()?;
    let cancel = token.clone();
    tokio::spawn(async move {
        loop {
            let asked = tokio::select! {
                _ = interrupts.recv() => true,
                _ = terminations.recv() => true,
                () = received(hangups.as_mut()) => false,
            };
            if asked && cancel.is_cancelled() {
                end_at_once();
            }
            cancel.cancel();
        }
    });
    Ok(token)
}

async fn received(signals: Option<&mut Signal>) {
    match signals {
        Some(signals) => drop(signals.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether SIGHUP is to be ignored, as `nohup` has it: a handler would undo that. Where the system does not tell, what it does by
/// itself is left to it.
fn outlives_its_terminal() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_none_or(|mask| mask & 1 != 0)
}

/// Ends the process when its standard input closes.
pub fn end_with_stdin() {
    std::thread::spawn(|| {
        // Nothing is ever written to it; it ends with the process that holds the other end.
        drop(io::copy(&mut io::stdin().lock(), &mut io::sink()));
        end_at_once();
    });
}

/// The temporary scratch folder of this process. Whoever ends it without dropping anything has to remove it: there may be private
/// keys in it.
static TEMPORARY: OnceLock<PathBuf> = OnceLock::new();

fn end_at_once() -> ! {
    if let Some(folder) = TEMPORARY.get() {
        // Others may be writing into it still.
        let _ = (0..3).find(|_| std::fs::remove_dir_all(folder).is_ok());
    }
    std::process::exit(INTERRUPTED)
}

/// A scratch folder: the one that was asked for, or a temporary one that goes with the process.
#[derive(Debug)]
pub struct Scratch {
    pub path: PathBuf,
    /// Removes the folder when dropped.
    temporary: Option<tempfile::TempDir>,
}

impl Scratch {
    /// Opens the folder of `args`, or makes one.
    ///
    /// # Errors
    /// A folder that cannot be made.
    pub fn open(args: &ResourceArgs) -> Result<Self, Problem> {
        match &args.scratch {
            Some(path) => {
                std::fs::create_dir_all(path).map_err(|error| no_folder(path, &error))?;
                Ok(Self {
                    path: path.clone(),
                    temporary: None,
                })
            }
            None => {
                let made = tempfile::Builder::new().prefix("trireme-").tempdir();
                let folder = made.map_err(|error| no_folder(&std::env::temp_dir(), &error))?;
                TEMPORARY.get_or_init(|| folder.path().to_owned());
                Ok(Self {
                    path: folder.path().to_owned(),
                    temporary: Some(folder),
                })
            }
        }
    }

    /// `output`, knowing which folder is gone when the command ends.
    pub fn shown(&self, output: &OutputArgs) -> OutputArgs {
        OutputArgs {
            temporary: self.temporary.as_ref().map(|folder| folder.path().to_owned()),
            ..output.clone()
        }
    }
}

/// A scratch folder cannot be used.
pub fn no_folder(path: &Path, error: &io::Error) -> Problem {
    let text = format!("the scratch folder {} cannot be used: {error}", path.display());
    Problem::new(ErrorCode::LimitSpill, text).remedy("name another one with --scratch")
}

/// Makes a folder that is empty.
///
/// # Errors
/// A folder that cannot be made or emptied.
pub fn empty_folder(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    std::fs::create_dir_all(path)
}

/// Where credentials for object stores come from: the folder that was named, or else the environment, if this is a
/// person's own machine, or the cloud's identity.
pub fn credentials(args: &StoreArgs, environment: bool) -> Credentials {
    match &args.credentials {
        Some(folder) => Credentials::Files(folder.clone()),
        None if environment => Credentials::Environment,
        None => Credentials::CloudIdentity,
    }
}

/// What plans of this process may use; from here on, the allocator knows the limit too. `credentials` says where those for
/// object stores come from.
pub fn resources(args: &ResourceArgs, scratch: &Scratch, credentials: Credentials) -> Resources {
    let memory = args.memory.map_or_else(MemoryBudget::of_this_process, |memory| {
        MemoryBudget::split(memory.get())
    });
    keep_freed_memory(memory.total);
    Resources {
        memory,
        cores: cores(args),
        spill_dir: scratch.path.clone(),
        spill_bytes_max: args.spill.get(),
        stores: Arc::new(StoreFactory::new(credentials, S3Options::default())),
    }
}

/// Tells `problem` on standard error and gives the exit code that goes with it.
pub fn fail(problem: &Problem) -> ExitCode {
    // `trireme ... | head` is how people read a part of an answer: nothing went wrong.
    if problem.code != ErrorCode::CancelledOutputClosed {
        crate::output::error_line(&problem.to_string());
    }
    ExitCode::from(problem.exit_code())
}

/// Certificate or key cannot be used.
pub fn no_tls(error: &TlsError) -> Problem {
    let problem = Problem::new(ErrorCode::NetworkTls, trireme_batch::problems::causes(error));
    problem.remedy("--tls names a folder with ca.crt, tls.crt and tls.key, of one job and readable by this process")
}

/// Signal handlers could not be installed.
pub fn no_signals(error: &io::Error) -> Problem {
    Problem::new(ErrorCode::Internal, format!("signals cannot be handled: {error}"))
}
