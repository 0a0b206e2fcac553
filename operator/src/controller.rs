//! The loop around visits: watches name jobs, workers visit them, each visit says when to come again.
//!
//! Owns the queue and the workers; knows nothing of what a visit does.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::api::batch_job::AnyBatchJob;
use crate::batch::build::Settings;
use crate::batch::reconcile::visit;
use crate::cluster::Cluster;
use crate::cluster::index::{Index, Scope};
use crate::metrics::Metrics;
use crate::names::{JobKey, MANAGER, label};
use crate::queue::{Queue, Visited};

/// A visit makes some tens of requests at most, each with a deadline; what takes longer than this hangs.
const VISIT_PATIENCE: Duration = Duration::from_secs(120);

/// How long a watch lasts before it is asked for anew, from where it was. One whose connection has died without a word ends a
/// little later.
pub const WATCH_S: u32 = 120;

/// The longest sleep of a worker that knows of nothing to do.
const NAP: Duration = Duration::from_secs(60);

/// What a controller works with.
pub struct Controller {
    pub client: Client,
    pub cluster: Arc<dyn Cluster>,
    pub index: Arc<Index>,
    /// Jobs whose drivers had something to say.
    pub reported: mpsc::Receiver<JobKey>,
    pub settings: Arc<Settings>,
    pub metrics: Arc<Metrics>,
    /// What to watch.
    pub scopes: Vec<Scope>,
    /// Visits at a time.
    pub concurrency: usize,
}

/// A part of the controller has ended that never should.
#[derive(Debug, thiserror::Error)]
#[error("a watch or a worker has ended: this is a bug in Trireme, please report it")]
pub struct Ended(#[source] Option<JoinError>);

/// Runs until `stop`: watches, and visits what they name.
///
/// # Errors
/// A watch or a worker that ended by itself, which would be a mistake of ours.
pub async fn run(controller: Controller, stop: CancellationToken) -> Result<(), Ended> {
    let Controller {
        client,
        cluster,
        index,
        mut reported,
        settings,
        metrics,
        scopes,
        concurrency,
    } = controller;
    let jobs = Arc::new(Waiting::default());
    let mut tasks = JoinSet::new();
    for scope in scopes {
        let namespace = scope.namespace();
        let (of_jobs, of_pods) = (watch_jobs(&client, namespace), watch_pods(&client, namespace));
        let watching = Watching {
            index: Arc::clone(&index),
            jobs: Arc::clone(&jobs),
            metrics: Arc::clone(&metrics),
            scope,
        };
        tasks.spawn(watching.clone().follow(of_jobs, Index::on_job));
        tasks.spawn(watching.follow(of_pods, Index::on_pod));
    }
    let named = Arc::clone(&jobs);
    tasks.spawn(async move {
        while let Some(key) = reported.recv().await {
            named.name(vec![key]);
        }
    });
    for _ in 0..concurrency {
        let (jobs, cluster, settings) = (Arc::clone(&jobs), Arc::clone(&cluster), Arc::clone(&settings));
        let (metrics, stop) = (Arc::clone(&metrics), stop.clone());
        tasks.spawn(async move { work(&jobs, &*cluster, &settings, &metrics, &stop).await });
    }
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        Some(ended) = tasks.join_next() => if stop.is_cancelled() { Ok(()) } else { Err(Ended(ended.err())) },
    };
    tasks.shutdown().await;
    ended
}

fn watch_jobs(client: &Client, namespace: Option<&str>) -> watcher_stream::Jobs {
    let api: Api<AnyBatchJob> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    watcher(api, watcher::Config::default().timeout(WATCH_S))
        .default_backoff()
        .boxed()
}

fn watch_pods(client: &Client, namespace: Option<&str>) -> watcher_stream::Pods {
    let api: Api<Pod> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let ours = format!("{}={MANAGER},{}", label::MANAGED_BY, label::JOB);
    let config = watcher::Config::default().labels(&ours).timeout(WATCH_S);
    watcher(api, config).default_backoff().boxed()
}

/// Names for the types of the watches.
mod watcher_stream {
    use futures::stream::BoxStream;
    use k8s_openapi::api::core::v1::Pod;
    use kube::runtime::watcher::{Event, Result};

    use crate::api::batch_job::AnyBatchJob;

    pub type Jobs = BoxStream<'static, Result<Event<AnyBatchJob>>>;
    pub type Pods = BoxStream<'static, Result<Event<Pod>>>;
}

/// Who hears what the watches of one scope tell.
#[derive(Clone)]
struct Watching {
    index: Arc<Index>,
    jobs: Arc<Waiting>,
    metrics: Arc<Metrics>,
    scope: Scope,
}

impl Watching {
    /// Passes on what a watch tells.
    async fn follow<K>(
        self,
        mut events: stream::BoxStream<'static, watcher::Result<watcher::Event<K>>>,
        tell: fn(&Index, &Scope, watcher::Event<K>) -> Vec<JobKey>,
    ) {
        let scope = &self.scope;
        loop {
            match events.try_next().await {
                Ok(Some(event)) => {
                    let listed = matches!(event, watcher::Event::InitDone);
                    self.jobs.name(tell(&self.index, scope, event));
                    if listed {
                        tracing::info!(%scope, jobs = self.index.jobs(), "a watch has told everything");
                        // Two that find this out at a time say the same.
                        if self.index.is_complete() {
                            self.metrics.complete();
                        }
                    }
                }
                Ok(None) => return,
                // It begins anew by itself, after a while.
                Err(error) if is_unknown(&error) => tracing::error!(
                    "the API server does not know what is to be watched: install the chart trireme-crds, or crds/batchjobs.yaml"
                ),
                Err(error) => tracing::warn!(%error, %scope, "a watch was broken off"),
            }
        }
    }
}

/// Whether the API server has no such kind of object. It says so in no form that a client could read, but for the code.
fn is_unknown(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchStartFailed};
    let (InitialListFailed(cause) | WatchStartFailed(cause)) = error else {
        return false;
    };
    matches!(cause, kube::Error::Api(status) if status.code == 404)
}

/// The queue, for those who name and those who visit.
#[derive(Debug, Default)]
struct Waiting {
    queue: Mutex<Queue>,
    news: Notify,
}

impl Waiting {
    fn name(&self, keys: Vec<JobKey>) {
        if keys.is_empty() {
            return;
        }
        let mut queue = self.queue.lock();
        for key in keys {
            queue.name(key);
        }
        drop(queue);
        self.news.notify_waiters();
    }

    /// The next job that is due.
    async fn next(&self) -> JobKey {
        loop {
            let heard = self.news.notified();
            tokio::pin!(heard);
            heard.as_mut().enable();
            let nap = {
                let mut queue = self.queue.lock();
                let now = Timestamp::now();
                if let Some(key) = queue.take(now) {
                    return key;
                }
                queue.next_time().map_or(NAP, |time| {
                    Duration::try_from(time.duration_since(now)).unwrap_or_default()
                })
            };
            drop(tokio::time::timeout(nap.min(NAP), heard).await);
        }
    }

    fn done(&self, key: &JobKey, visited: Visited) {
        self.queue.lock().done(key, visited, Timestamp::now());
        self.news.notify_waiters();
    }
}

async fn work(jobs: &Waiting, cluster: &dyn Cluster, settings: &Settings, metrics: &Metrics, stop: &CancellationToken) {
    loop {
        let key = tokio::select! {
            key = jobs.next() => key,
            () = stop.cancelled() => return,
        };
        let started = std::time::Instant::now();
        // Nothing is shared with a visit but what its requests go through: one that panics leaves nothing half done in here.
        let visiting = AssertUnwindSafe(visit(cluster, settings, &key)).catch_unwind();
        let visited = match tokio::time::timeout(VISIT_PATIENCE, visiting).await {
            Ok(Ok(Ok(next))) => Visited::Done(next),
            Ok(Ok(Err(error))) => {
                tracing::warn!(job = %key, %error, "a visit was broken off");
                Visited::Failed
            }
            Ok(Err(_)) => {
                tracing::error!(job = %key, "a visit panicked: this is a bug in Trireme, please report it");
                Visited::Failed
            }
            Err(_) => {
                tracing::error!(job = %key, "a visit hung");
                Visited::Failed
            }
        };
        metrics.visited(visited != Visited::Failed, started.elapsed());
        jobs.done(&key, visited);
        metrics.waiting(jobs.queue.lock().len());
    }
}
