//! The loop around visits: watches name jobs, workers visit them, each visit says when to come again.
//!
//! Owns the queue and the workers; knows nothing of what a visit does.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::batch_job::AnyBatchJob;
use crate::batch::build::Settings;
use crate::batch::reconcile::visit;
use crate::cluster::Cluster;
use crate::cluster::index::Index;
use crate::metrics::Metrics;
use crate::names::{JobKey, MANAGER, label};
use crate::queue::{Queue, Visited};

/// A visit makes some tens of requests at most, each with a deadline; what takes longer than this hangs.
const VISIT_PATIENCE: Duration = Duration::from_secs(120);

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
    /// Namespaces to watch; none means all.
    pub namespaces: Vec<String>,
    /// Visits at a time.
    pub concurrency: usize,
}

/// Runs until `stop`: watches, and visits what they name.
pub async fn run(controller: Controller, stop: CancellationToken) {
    let Controller {
        client,
        cluster,
        index,
        mut reported,
        settings,
        metrics,
        namespaces,
        concurrency,
    } = controller;
    let jobs = Arc::new(Waiting::default());
    let mut tasks = JoinSet::new();
    let (first_list, listed) = mpsc::channel(1);
    for scope in scopes(&namespaces) {
        let scope = scope.as_deref();
        let (told, named) = (Arc::clone(&index), Arc::clone(&jobs));
        let tell = move |event| named.name(told.on_job(event));
        tasks.spawn(follow(watch_jobs(&client, scope), first_list.clone(), tell));
        let (told, named) = (Arc::clone(&index), Arc::clone(&jobs));
        let tell = move |event| named.name(told.on_pod(event));
        tasks.spawn(follow(watch_pods(&client, scope), first_list.clone(), tell));
    }
    drop(first_list);
    let named = Arc::clone(&jobs);
    tasks.spawn(async move {
        while let Some(key) = reported.recv().await {
            named.name(vec![key]);
        }
    });
    // Before both watches have told everything once, a job without its pods would look like one that has none.
    tokio::select! {
        () = all_gone(listed) => {}
        () = stop.cancelled() => return,
    }
    tracing::info!(jobs = index.jobs(), "watches are complete");
    metrics.ready();
    for _ in 0..concurrency {
        let (jobs, cluster, settings) = (Arc::clone(&jobs), Arc::clone(&cluster), Arc::clone(&settings));
        let (metrics, stop) = (Arc::clone(&metrics), stop.clone());
        tasks.spawn(async move { work(&jobs, &*cluster, &settings, &metrics, &stop).await });
    }
    stop.cancelled().await;
    tasks.shutdown().await;
}

async fn all_gone(mut senders: mpsc::Receiver<()>) {
    while senders.recv().await.is_some() {}
}

fn scopes(namespaces: &[String]) -> Vec<Option<String>> {
    match namespaces {
        [] => vec![None],
        some => some.iter().cloned().map(Some).collect(),
    }
}

fn watch_jobs(client: &Client, namespace: Option<&str>) -> watcher_stream::Jobs {
    let api: Api<AnyBatchJob> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    watcher(api, watcher::Config::default()).default_backoff().boxed()
}

fn watch_pods(client: &Client, namespace: Option<&str>) -> watcher_stream::Pods {
    let api: Api<Pod> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let ours = watcher::Config::default().labels(&format!("{}={MANAGER},{}", label::MANAGED_BY, label::JOB));
    watcher(api, ours).default_backoff().boxed()
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

/// Passes on what a watch tells; drops `first_list` when it has told everything once.
async fn follow<K>(
    mut events: stream::BoxStream<'static, watcher::Result<watcher::Event<K>>>,
    first_list: mpsc::Sender<()>,
    mut tell: impl FnMut(watcher::Event<K>),
) {
    let mut first_list = Some(first_list);
    loop {
        match events.try_next().await {
            Ok(Some(event)) => {
                let complete = matches!(event, watcher::Event::InitDone);
                tell(event);
                if complete {
                    first_list = None;
                }
            }
            Ok(None) => return,
            // It begins anew by itself, after a while.
            Err(error) if is_unknown(&error) => tracing::error!(
                "the API server does not know what is to be watched: install the chart trireme-crds, or crds/batchjobs.yaml"
            ),
            Err(error) => tracing::warn!(%error, complete = first_list.is_none(), "a watch was broken off"),
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
        let visited = match tokio::time::timeout(VISIT_PATIENCE, visit(cluster, settings, &key)).await {
            Ok(Ok(next)) => Visited::Done(next),
            Ok(Err(error)) => {
                tracing::warn!(job = %key, %error, "a visit was broken off");
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
