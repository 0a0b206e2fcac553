//! `trireme driver`: one job, its tasks given to workers that attach.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use trireme_batch::cluster::{ClusterEngine, ClusterInputs, ClusterOptions};
use trireme_batch::journal::JobJournal;
use trireme_batch::memory::MemoryBudget;
use trireme_batch::problems::problem_of;
use trireme_batch::sink::{Generation, Writer};
use trireme_core::tls::{Role, ServerTls, TlsFiles};
use trireme_exchange::bytes_count::ByteCounters;
use trireme_exchange::control::ControlServer;
use trireme_exchange::http::{HttpOptions, HttpSources, Report, router};
use trireme_exchange::limits::{ControlLimits, TransportLimits};
use trireme_exchange::serve::{ServeOptions, Wall, serve};
use trireme_spec::ids::{self, JobName};
use trireme_spec::manifest::Target;
use trireme_spec::problem::{ErrorCode, Problem};
use trireme_spec::report::{JobReport, Phase};

use super::manifest::{check_without_storage, enter, enter_folder_of, order, read_job};
use super::validate::first_after_telling;
use super::{job, metrics};
use crate::args::DriverArgs;
use crate::process::{self, Scratch};
use crate::termination_log::leave_report;

/// Workers reported lost that the engine has yet to hear of: it listens all the time.
const LOSSES_WAITING_MAX: usize = 64;

/// Drives the job to its end. However it ends, its last word is left in the termination log.
///
/// # Errors
/// What stopped the job, or a port or file that cannot be used.
pub fn run(args: &DriverArgs) -> Result<ExitCode, Problem> {
    if args.until_stdin_closes {
        process::end_with_stdin();
    }
    // What ends it before the manifest has been read is said of a job of no name.
    let nameless = JobName::new("job").expect("`job` is a job name");
    let mut last = LastWord::of(nameless, given_generation(args));
    let done = drive(args, &mut last);
    if let Err(problem) = &done
        && !last.is_left
    {
        last.report.end(Some(problem));
        last.leave(args);
    }
    done
}

/// What is to be left in the termination log.
struct LastWord {
    report: JobReport,
    is_left: bool,
}

impl LastWord {
    fn of(job: JobName, generation: Generation) -> Self {
        Self {
            report: JobReport::starting(job, ids::Generation(generation.get()), 0),
            is_left: false,
        }
    }

    /// At once when there is nothing more to come: closing ports takes time in which the process may be killed.
    fn leave(&mut self, args: &DriverArgs) {
        leave_report(args.termination_log.as_deref(), &self.report);
        self.is_left = true;
    }
}

fn given_generation(args: &DriverArgs) -> Generation {
    args.generation
        .map_or(Generation::FIRST, |number| Generation::new(u64::from(number)))
}

fn drive(args: &DriverArgs, last: &mut LastWord) -> Result<ExitCode, Problem> {
    let scratch = Scratch::open(&args.resources)?;
    let credentials = process::credentials(&args.stores, args.environment);
    let mut resources = process::resources(&args.resources, &scratch, credentials);
    resources.spill_dir = scratch.path.join("spill");
    let results = scratch.path.join("results");
    for folder in [&resources.spill_dir, &results] {
        // What a driver that was killed here has left is of use to nobody.
        process::empty_folder(folder).map_err(|error| process::no_folder(folder, &error))?;
    }
    // A thread of its own for who asks how it is: one that plans, or runs what the driver runs itself, answers nobody.
    let health = process::runtime(1)?;
    let done = process::run_to_end(resources.cores.max(2), async {
        let cancel = process::cancel_on_signal().map_err(|error| process::no_signals(&error))?;
        let manifest = read_job(&args.job, Target::Kubernetes).map_err(first_after_telling)?;
        *last = LastWord::of(manifest.metadata.name.clone(), given_generation(args));
        let files = TlsFiles::in_dir(&args.tls);
        let wall = ServerTls::mutual(files.clone(), [Role::Worker]);
        // Each connection looks at the files; what is wrong with them from the start is better told now.
        wall.config().map_err(|error| process::no_tls(&error))?;
        let given = args.storage.as_deref().map(from_here).transpose()?;
        match &args.base {
            Some(folder) => enter(folder)?,
            None => enter_folder_of(&args.job)?,
        }
        let storage = given.or_else(|| manifest.spec.storage.clone());
        let warehouse = match &storage {
            Some(storage) => format!("{}/tables", storage.trim_end_matches('/')),
            None => scratch.path.join("tables").display().to_string(),
        };
        let mut order = order(&manifest, &warehouse, args.output.max_rows as usize)?;
        if storage.is_none() && !args.control.ip().is_loopback() {
            check_without_storage(&order.sql)?;
        }
        order.limits.executor_wait_max = args.executor_wait;
        order.writer = Writer {
            job: order.name.clone(),
            run: args.run.clone().unwrap_or_else(trireme_batch::incarnation),
            generation: given_generation(args),
        };
        let journal = match &storage {
            Some(storage) => Some(JobJournal::open(&resources.stores, storage, &order).await?),
            None => None,
        };
        if let Some(journal) = &journal {
            order.writer.generation = journal.generation();
        }
        let generation = order.writer.generation;
        last.report.generation = ids::Generation(generation.get());
        let (control, events) = ControlServer::new(ControlLimits::default());
        let spec = &manifest.spec;
        let executor = MemoryBudget::split(args.executor_memory.unwrap_or(spec.executors.memory).get());
        let cores = args.executor_cores.unwrap_or(spec.executors.cores);
        let options = ClusterOptions {
            job: order.name.clone(),
            run: order.writer.run.clone(),
            generation: generation.get(),
            slots: args.slots.unwrap_or_else(|| spec.executors.ceiling().max(1) * cores) as usize,
            slot_memory: executor.per_slot(cores as usize),
            // Nobody can attach from elsewhere.
            one_machine: args.control.ip().is_loopback(),
            tls: files.clone(),
            scratch: results.clone(),
            fetch_bytes: resources.memory.data_plane,
            limits: order.limits.clone(),
            application_attempts: spec.retries.application + 1,
            infrastructure_losses: spec.retries.infrastructure,
        };
        let (tell_loss, losses) = mpsc::channel(LOSSES_WAITING_MAX);
        let engine = ClusterEngine::start(options, ClusterInputs { events, losses });
        let engine = Arc::new(engine.map_err(|error| problem_of(&error, "the driver's settings"))?);
        let (report, shown) = watch::channel(Report::default());
        let (tell_ready, ready) = watch::channel(false);
        let listener = bind(args.control).await?;
        let http = health.spawn(bind(args.http)).await;
        let http = http.map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()))??;
        announce(args.announce.as_deref(), &listener, &http)?;
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(
            listener,
            control.into_router(),
            ServeOptions {
                wall: Wall::Tls(Arc::new(wall)),
                limits: TransportLimits::default(),
                counters: Arc::new(ByteCounters::default()),
            },
            stop.clone(),
        ));
        // Both ports are bound, and workers are let in.
        tell_ready.send_replace(true);
        let sources = HttpSources {
            ready,
            metrics: metrics::of_report(shown.clone()),
            report: shown,
            losses: Some(tell_loss),
        };
        let showing = health.spawn(serve(
            http,
            router(sources, HttpOptions::new(args.token.clone())),
            ServeOptions {
                wall: Wall::Tls(Arc::new(ServerTls::server_only(files))),
                limits: TransportLimits::http(),
                counters: Arc::new(ByteCounters::default()),
            },
            stop.clone(),
        ));
        let runs_plans = Arc::clone(&engine);
        let ended = job::run_on(
            runs_plans,
            order,
            journal,
            &resources,
            &args.output,
            Some(report),
            cancel,
        )
        .await;
        last.report = ended.report.clone();
        last.leave(args);
        // Another driver may go on with a job that was stopped, or does so already: its workers look for that one.
        if ended.report.phase != Phase::Cancelled {
            engine.send_home().await;
        }
        // With the engine the control streams end, and then the ports close.
        drop(engine);
        stop.cancel();
        for port in [serving, showing] {
            if let Err(error) = port.await {
                tracing::error!(%error, "a port ended badly");
            }
        }
        ended.code()
    });
    health.shutdown_background();
    done
}

/// A storage as it is seen from where the command is run; the job moves the process to its own folder.
fn from_here(storage: &str) -> Result<String, Problem> {
    if storage.contains("://") {
        return Ok(storage.to_owned());
    }
    let path = std::path::absolute(storage);
    let path = path.map_err(|error| {
        let text = format!("--storage {storage:?}: {error}");
        Problem::new(ErrorCode::ManifestBadLocation, text)
    })?;
    Ok(path.display().to_string())
}

/// Binds a port.
///
/// # Errors
/// An address that is taken or not ours.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Problem> {
    TcpListener::bind(address).await.map_err(|error| {
        Problem::new(
            ErrorCode::NetworkUnreachable,
            format!("cannot listen on {address}: {error}"),
        )
        .remedy("choose another address, or end the process that has it")
    })
}

/// Tells whoever started this process which addresses were bound, and the log.
fn announce(file: Option<&Path>, control: &TcpListener, http: &TcpListener) -> Result<(), Problem> {
    let failed = |error: std::io::Error| {
        let file = file.unwrap_or(Path::new("the addresses")).display();
        Problem::new(ErrorCode::Internal, format!("{file} cannot be written: {error}"))
    };
    let (control, http) = (
        control.local_addr().map_err(failed)?,
        http.local_addr().map_err(failed)?,
    );
    tracing::info!(%control, %http, "driver listens");
    let Some(file) = file else { return Ok(()) };
    let text = json!({ "control": control, "http": http, "pid": std::process::id() }).to_string();
    let unfinished = file.with_extension("part");
    std::fs::write(&unfinished, text)
        .and_then(|()| std::fs::rename(&unfinished, file))
        .map_err(failed)
}
