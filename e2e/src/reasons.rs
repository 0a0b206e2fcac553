//! Which of the published reasons the stories have met: each is an interface, and one that nothing provokes is a promise that
//! nobody has tried.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{DynamicObject, ListParams};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::task::AbortHandle;

/// Collects the reasons of a namespace's jobs, in their conditions and events.
pub struct Reasons {
    seen: Arc<Mutex<BTreeSet<String>>>,
    task: AbortHandle,
}

impl Reasons {
    /// Begins to watch.
    pub fn of(jobs: Api<DynamicObject>) -> Reasons {
        let seen: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let into = Arc::clone(&seen);
        let watching = async move {
            let watch = watcher(jobs, watcher::Config::default())
                .default_backoff()
                .applied_objects();
            let mut watch = std::pin::pin!(watch);
            while let Some(job) = watch.next().await {
                let Ok(job) = job else { continue };
                let conditions = job.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
                let reasons = conditions.iter().filter_map(|condition| condition["reason"].as_str());
                let mut seen = into.lock().unwrap_or_else(PoisonError::into_inner);
                seen.extend(reasons.map(str::to_owned));
            }
        };
        Reasons {
            seen,
            task: tokio::spawn(watching).abort_handle(),
        }
    }

    /// Adds what was met to the file that `TRIREME_E2E_REASONS` names, one on a line.
    pub async fn write_down(&self, events: Api<Event>) {
        let Some(path) = std::env::var_os("TRIREME_E2E_REASONS") else {
            return;
        };
        let events = events.list(&ListParams::default()).await.expect("events can be listed");
        let ours = events.into_iter().filter(|event| {
            let regarding = event.regarding.as_ref().and_then(|object| object.kind.as_deref());
            regarding == Some("BatchJob")
        });
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.extend(ours.filter_map(|event| event.reason));
        let lines: String = all.iter().map(|reason| format!("{reason}\n")).collect();
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(lines.as_bytes()));
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

impl Drop for Reasons {
    fn drop(&mut self) {
        self.task.abort();
    }
}
