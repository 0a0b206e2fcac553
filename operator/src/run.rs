//! `trireme-operator run`: waits for its turn, then acts until it is told to stop or its turn is over.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::config::Config;
use kube_lease_manager::{LeaseCreateMode, LeaseManagerBuilder};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use trireme_spec::pods::ImagePullPolicy;

use crate::args::{LogFormat, PullPolicy, RunArgs};
use crate::batch::build::Settings;
use crate::cluster::index::{Index, Scope};
use crate::cluster::kubernetes::Kubernetes;
use crate::cluster::reports::Reports;
use crate::controller::{self, Controller};
use crate::http;
use crate::metrics::Metrics;

/// A Lease that is not renewed for so long is for others to take. Whoever held it finds out as soon as it can ask again. Two that
/// act meanwhile do no harm: pods have names, and each write names the version that it was decided by.
const LEASE_S: u64 = 15;

/// It is renewed so long before that.
const LEASE_GRACE_S: u64 = 5;

/// An API server that says nothing for so long about the Lease is asked anew, on another connection.
const LEASE_PATIENCE: Duration = Duration::from_secs(4);

/// For a connection to the API server.
const CONNECT_PATIENCE: Duration = Duration::from_secs(4);

/// A connection that is silent for so long is dead: a watch is never, because it is asked for anew before.
const SILENCE_MAX: Duration = Duration::from_secs(controller::WATCH_S as u64 + 10);

/// Reports of drivers that wait for a place in the queue of jobs.
const REPORTED_MAX: usize = 1024;

/// Runs until SIGTERM, SIGINT, or the loss of the Lease.
///
/// # Errors
/// A cluster that cannot be reached, a port that is taken, a Lease that was lost.
pub async fn run(args: &RunArgs) -> Result<(), Box<dyn Error + Send + Sync>> {
    log(args)?;
    let stop = stop_on_signal()?;
    let metrics = Arc::new(Metrics::new()?);
    let listener = TcpListener::bind(args.http)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", args.http))?;
    let serving = tokio::spawn(http::serve(listener, Arc::clone(&metrics), stop.clone()));
    let acting = act(args, client(SILENCE_MAX).await?, Arc::clone(&metrics), stop.clone());
    let done = match args.without_lease {
        true => acting.await,
        false => in_turn(args, client(LEASE_PATIENCE).await?, acting, stop.clone()).await,
    };
    stop.cancel();
    serving.await??;
    done
}

fn log(args: &RunArgs) -> Result<(), Box<dyn Error + Send + Sync>> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_new(&args.log)?)
        .with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
}

fn stop_on_signal() -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut interrupts, mut terminations) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupts.recv() => {}
            _ = terminations.recv() => {}
        }
        tracing::info!("told to stop");
        told.cancel();
    });
    Ok(stop)
}

/// A client that gives up connections that are silent for `silence_max`. Visits decide whether a request is made again, by what is
/// so then; a client that repeats it unasked only adds to the load.
async fn client(silence_max: Duration) -> Result<Client, Box<dyn Error + Send + Sync>> {
    let mut config = Config::infer().await?;
    config.default_retry = false;
    config.read_timeout = Some(silence_max);
    config.connect_timeout = Some(CONNECT_PATIENCE);
    Ok(Client::try_from(config)?)
}

/// Runs `acting` while this replica holds the Lease.
async fn in_turn(
    args: &RunArgs,
    client: Client,
    acting: impl Future<Output = Result<(), Box<dyn Error + Send + Sync>>>,
    stop: CancellationToken,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let identity = args
        .identity
        .clone()
        .unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let manager = LeaseManagerBuilder::new(client, &args.lease_name)
        .with_namespace(&args.lease_namespace)
        .with_create_mode(LeaseCreateMode::AutoCreate)
        .with_identity(&identity)
        .with_duration(LEASE_S)
        .with_grace(LEASE_GRACE_S)
        .build()
        .await?;
    let (mut held, task) = manager.watch().await;
    tracing::info!(identity, lease = args.lease_name, "waits for its turn");
    tokio::select! {
        waited = held.wait_for(|held| *held) => drop(waited?),
        () = stop.cancelled() => return Ok(()),
    }
    tracing::info!(identity, "it is this one's turn");
    let done = tokio::select! {
        done = acting => done,
        // Whoever has it now acts already: nothing may be finished here.
        lost = held.wait_for(|held| !*held) => {
            drop(lost);
            Err("the Lease was lost".into())
        }
    };
    // Gives the Lease back, so that the next one need not wait for it to run out.
    drop(held);
    drop(tokio::time::timeout(Duration::from_secs(2), task).await);
    done
}

async fn act(
    args: &RunArgs,
    client: Client,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    metrics.leads();
    let scopes = Scope::of(&args.namespaces);
    let index = Arc::new(Index::new(&scopes));
    let (changed, reported) = mpsc::channel(REPORTED_MAX);
    let cluster = Kubernetes::new(
        client.clone(),
        Arc::clone(&index),
        Reports::new(changed),
        args.identity.clone(),
    );
    let settings = Settings {
        image: args.engine_image.clone(),
        image_pull_policy: match args.engine_image_pull_policy {
            PullPolicy::Always => ImagePullPolicy::Always,
            PullPolicy::IfNotPresent => ImagePullPolicy::IfNotPresent,
            PullPolicy::Never => ImagePullPolicy::Never,
        },
        storage: args.storage.clone(),
        engine_log: args.engine_log.clone(),
    };
    let controller = Controller {
        client,
        cluster: Arc::new(cluster),
        index,
        reported,
        settings: Arc::new(settings),
        metrics,
        scopes,
        concurrency: usize::from(args.concurrency),
    };
    Ok(controller::run(controller, stop).await?)
}
