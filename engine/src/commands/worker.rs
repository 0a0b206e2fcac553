//! `trireme worker`: runs tasks for one driver until the driver sends it home.

use std::net::{Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trireme_batch::cluster::{DataPort, Ended, Worker};
use trireme_batch::panics;
use trireme_batch::problems::causes;
use trireme_core::tls::{ClientTls, Role, ServerTls, TlsFiles};
use trireme_exchange::bytes_count::ByteCounters;
use trireme_exchange::connect::Dialer;
use trireme_exchange::control::{Attachment, attach};
use trireme_exchange::http::{HttpOptions, HttpSources, Report, router};
use trireme_exchange::limits::{ControlLimits, TransportLimits};
use trireme_exchange::serve::{ServeOptions, Wall, serve};
use trireme_exchange::wire::{Hello, WIRE_VERSION};
use trireme_spec::limits::Limits;
use trireme_spec::problem::{ErrorCode, Problem};
use trireme_spec::worker_status::WorkerStatus;

use super::driver::bind;
use super::metrics;
use crate::args::WorkerArgs;
use crate::process::{self, Scratch};
use crate::termination_log::leave_problem;

/// From one try to reach the driver to the next, by the time since the first: short while both are starting, because a job's
/// first task waits for it, and never long.
fn retry_wait(trying: Duration) -> Duration {
    match trying.as_millis() {
        0..200 => Duration::from_millis(50),
        200..10_000 => Duration::from_millis(250),
        _ => Duration::from_secs(1),
    }
}

/// Largest message of the data port: one block of a shuffle file is 8 MiB.
const DATA_MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Threads for control and data: none of them computes.
const SERVICE_THREADS: usize = 2;

/// Serves the driver. An error that ends it is left in the termination log.
///
/// # Errors
/// A port or folder that cannot be used, a driver that does not answer or does not want this worker.
pub fn run(args: &WorkerArgs) -> Result<ExitCode, Problem> {
    if args.until_stdin_closes {
        process::end_with_stdin();
    }
    work(args).inspect_err(|problem| leave_problem(args.termination_log.as_deref(), problem))
}

fn work(args: &WorkerArgs) -> Result<ExitCode, Problem> {
    let scratch = Scratch::open(&args.resources)?;
    let credentials = process::credentials(&args.stores, args.environment);
    let mut resources = process::resources(&args.resources, &scratch, credentials);
    resources.spill_dir = scratch.path.join("spill");
    // What a worker that was killed here has spilled is of use to nobody.
    process::empty_folder(&resources.spill_dir).map_err(|error| process::no_folder(&resources.spill_dir, &error))?;
    panics::keep_quiet();
    let compute = process::runtime(resources.cores)?;
    let service = process::runtime(SERVICE_THREADS)?;
    let work_dir = scratch.path.join("shuffle");
    let done = service.block_on(panics::caught(async {
        let drain = process::cancel_on_signal().map_err(|error| process::no_signals(&error))?;
        let tls = TlsFiles::in_dir(&args.tls);
        let client = ClientTls::new(tls.clone());
        // Each connection looks at the files; what is wrong with them from the start is better told now.
        client.config().map_err(|error| process::no_tls(&error))?;
        let data_bytes = Arc::new(ByteCounters::default());
        let (listener, http) = (bind(args.data).await?, bind(args.http).await?);
        let address = listener.local_addr().map_err(|error| process::no_signals(&error))?;
        let host = args.advertise.clone().unwrap_or_else(|| address.ip().to_string());
        let stop = CancellationToken::new();
        let data = DataPort::router(&work_dir.display().to_string(), DATA_MESSAGE_BYTES_MAX);
        let wall = Wall::Tls(Arc::new(ServerTls::mutual(tls.clone(), [Role::Driver, Role::Worker])));
        let options = ServeOptions {
            wall,
            limits: TransportLimits::default(),
            counters: Arc::clone(&data_bytes),
        };
        tokio::spawn(serve(listener, data, options, stop.clone()));
        let (status, shown) = watch::channel(WorkerStatus::attaching(&args.name, &args.driver));
        serve_http(args, http, &tls, Arc::clone(&data_bytes), shown, stop.clone());
        let hello = Hello {
            worker_name: args.name.clone(),
            incarnation: String::new(),
            wire_version: WIRE_VERSION,
            engine_version: env!("CARGO_PKG_VERSION").to_owned(),
            data_address: host_and_port(&host, address.port()),
            slots: u32::try_from(resources.cores).unwrap_or(u32::MAX),
            memory_bytes: resources.memory.total,
            pid: std::process::id(),
        };
        let worker = Worker {
            tls: tls.clone(),
            resources,
            work_dir,
            compute: compute.handle().clone(),
            data_bytes,
            status,
            drain_grace: args.drain_grace.get(),
        };
        let dialer = Dialer {
            tls: Arc::new(client),
            limits: TransportLimits::default(),
            counters: Arc::new(ByteCounters::default()),
        };
        let done = attend(&worker, &dialer, &args.driver, hello, drain).await;
        stop.cancel();
        done
    }));
    // Whatever still runs has nobody to report to.
    compute.shutdown_background();
    service.shutdown_background();
    done
}

/// As in a URI: a literal of IPv6 is in brackets.
fn host_and_port(host: &str, port: u16) -> String {
    match host.parse::<Ipv6Addr>() {
        Ok(address) => SocketAddr::from((address, port)).to_string(),
        Err(_) => format!("{host}:{port}"),
    }
}

/// Attaches to the driver again and again until it sends the worker home, or to the one that follows it; never to one that was
/// followed before.
async fn attend(
    worker: &Worker,
    dialer: &Dialer,
    driver: &str,
    mut hello: Hello,
    drain: CancellationToken,
) -> Result<ExitCode, Problem> {
    let mut newest = None;
    loop {
        hello.incarnation = trireme_batch::incarnation();
        let Some(attachment) = reach(dialer, driver, &hello, newest.as_ref(), &drain).await? else {
            return Ok(ExitCode::SUCCESS);
        };
        newest = Some(Followed::of(&attachment));
        let ended = worker.serve(attachment, drain.clone()).await;
        match ended.map_err(|error| Problem::new(ErrorCode::LimitSpill, error.to_string()))? {
            Ended::Shutdown { reason } => {
                tracing::info!(%reason, "sent home");
                return Ok(ExitCode::SUCCESS);
            }
            Ended::Lost { reason } if drain.is_cancelled() => {
                tracing::info!(%reason, "ended while draining");
                return Ok(ExitCode::SUCCESS);
            }
            Ended::GraceOver => {
                tracing::info!(grace = ?worker.drain_grace, "the grace is over; what is still needed has to be made again");
                return Ok(ExitCode::SUCCESS);
            }
            Ended::Lost { reason } => tracing::warn!(%reason, "the driver is gone; trying to reach it again"),
        }
    }
}

/// Attaches, as soon as a driver can be reached that `newest` has not replaced. `None` when the worker was told to end instead.
async fn reach(
    dialer: &Dialer,
    driver: &str,
    hello: &Hello,
    newest: Option<&Followed>,
    drain: &CancellationToken,
) -> Result<Option<Attachment>, Problem> {
    let patience = Limits::default().executor_wait_max.get();
    let started = Instant::now();
    loop {
        // Whoever was told to end waits for nothing, least of all for an address that does not answer.
        let outcome = tokio::select! {
            outcome = try_once(dialer, driver, hello, newest) => outcome?,
            () = drain.cancelled() => return Ok(None),
        };
        let reason = match outcome {
            Try::Attached(attachment) => return Ok(Some(*attachment)),
            Try::Failed { reason } => reason,
        };
        if started.elapsed() > patience {
            return Err(Problem::new(ErrorCode::NetworkUnreachable, reason).remedy("check --driver and the network"));
        }
        tracing::debug!(%reason, "the driver cannot be reached yet");
        tokio::select! {
            () = tokio::time::sleep(retry_wait(started.elapsed())) => {}
            () = drain.cancelled() => return Ok(None),
        }
    }
}

/// What became of one try to attach that may be followed by others.
enum Try {
    Attached(Box<Attachment>),
    Failed { reason: String },
}

/// Looks the driver's name up and attaches to what it leads to.
async fn try_once(dialer: &Dialer, driver: &str, hello: &Hello, newest: Option<&Followed>) -> Result<Try, Problem> {
    let channel = match dialer.connect(driver, Role::Driver).await {
        Ok(channel) => channel,
        Err(error) => return Ok(Try::Failed { reason: causes(&error) }),
    };
    match attach(channel, hello.clone(), &ControlLimits::default()).await {
        Ok(attachment) => Ok(unless_replaced(attachment, newest)),
        Err(error) if error.is_retryable() => Ok(Try::Failed { reason: causes(&error) }),
        Err(error) => Err(Problem::new(ErrorCode::NetworkTls, causes(&error)).remedy(
            "driver and workers must be of one version and hold certificates of one job; one that was declared gone is \
             not let in again",
        )),
    }
}

/// A driver of an older generation than one already seen has been replaced, and may not know it yet: what it would have done
/// here is to nobody's use, and its successor waits for this worker. Dropping the attachment ends its stream.
fn unless_replaced(attachment: Attachment, newest: Option<&Followed>) -> Try {
    let found = Followed::of(&attachment);
    match newest.filter(|newest| newest.replaced(&found)) {
        None => Try::Attached(Box::new(attachment)),
        Some(Followed { run: _, generation }) => Try::Failed {
            reason: format!(
                "the driver of generation {} was replaced by that of generation {generation}",
                found.generation
            ),
        },
    }
}

/// A driver that was followed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Followed {
    run: String,
    generation: u64,
}

impl Followed {
    fn of(attachment: &Attachment) -> Self {
        Self {
            run: attachment.welcome.run.clone(),
            generation: attachment.welcome.generation,
        }
    }

    /// Generations count within a run. Drivers of another one replace nobody.
    fn replaced(&self, other: &Self) -> bool {
        self.run == other.run && other.generation < self.generation
    }
}

fn serve_http(
    args: &WorkerArgs,
    listener: tokio::net::TcpListener,
    tls: &TlsFiles,
    data: Arc<ByteCounters>,
    status: watch::Receiver<WorkerStatus>,
    stop: CancellationToken,
) {
    let scrape: metrics::Scrape = Arc::new(move || {
        metrics::text(&[
            (
                "trireme_worker_data_sent_bytes",
                "Bytes that the data port sent.",
                data.sent(),
            ),
            (
                "trireme_worker_data_received_bytes",
                "Bytes that the data port received.",
                data.received(),
            ),
        ])
    });
    let (tell_ready, ready) = watch::channel(false);
    let (tell_report, report) = watch::channel(Report::default());
    tokio::spawn(publish(status, tell_ready, tell_report));
    let sources = HttpSources {
        ready,
        metrics: scrape,
        report,
        losses: None,
    };
    let options = ServeOptions {
        wall: Wall::Tls(Arc::new(ServerTls::server_only(tls.clone()))),
        limits: TransportLimits::http(),
        counters: Arc::new(ByteCounters::default()),
    };
    tokio::spawn(serve(
        listener,
        router(sources, HttpOptions::new(args.token.clone())),
        options,
        stop,
    ));
}

/// Shows the worker's status on the http port for as long as there is a worker.
async fn publish(mut status: watch::Receiver<WorkerStatus>, ready: watch::Sender<bool>, report: watch::Sender<Report>) {
    loop {
        let now = status.borrow_and_update().clone();
        ready.send_replace(now.is_attached());
        let json = serde_json::to_vec(&now).unwrap_or_default().into();
        report.send_modify(|shown| {
            *shown = Report {
                version: shown.version + 1,
                json,
            };
        });
        if status.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(run: &str, generation: u64) -> Followed {
        Followed {
            run: run.to_owned(),
            generation,
        }
    }

    #[test]
    fn generations_count_within_a_run() {
        assert!(driver("a", 2).replaced(&driver("a", 1)));
        assert!(!driver("a", 2).replaced(&driver("a", 2)));
        assert!(!driver("a", 2).replaced(&driver("a", 3)));
        assert!(!driver("a", 2).replaced(&driver("b", 1)));
    }
}
