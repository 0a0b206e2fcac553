//! Events: what `kubectl describe` shows of a job's past. They are told, never asked for, and none is worth a second try.
//!
//! A job whose pods die for hours would fill the API server with them, so each job has a budget; its status tells how it stands
//! in any case.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Resource, ResourceExt};

use crate::api::batch_job::BatchJob;
use crate::batch::decide::Note;
use crate::names::JobKey;

/// Events of one job in a row, as in Kubernetes' own client.
const BURST: NonZeroU32 = NonZeroU32::new(25).unwrap();

/// Beyond that.
const EACH_MINUTE: NonZeroU32 = NonZeroU32::MIN;

/// Longest note that an event may have, in bytes.
const NOTE_BYTES_MAX: usize = 1024;

/// Publishes events.
pub struct Events {
    recorder: Recorder,
    budgets: DefaultKeyedRateLimiter<JobKey>,
    patience: Duration,
}

impl Events {
    /// Publishes by `recorder`, and waits for no answer longer than `patience`.
    pub fn new(recorder: Recorder, patience: Duration) -> Events {
        Events {
            recorder,
            budgets: budgets(),
            patience,
        }
    }

    /// Tells `notes` of `job`, as many as its budget allows.
    pub async fn publish(&self, job: &BatchJob, notes: &[Note]) {
        // Budgets that are whole again are those of jobs that are gone, or might as well be.
        self.budgets.retain_recent();
        let regarding = job.object_ref(&());
        let key = JobKey {
            namespace: job.namespace().unwrap_or_default(),
            name: job.name_any(),
        };
        for note in notes {
            if self.budgets.check_key(&key).is_err() {
                tracing::info!(job = %key, reason = note.reason.as_str(), message = note.message, "an event is held back");
                continue;
            }
            let event = event(note, &key.namespace);
            let publishing = tokio::time::timeout(self.patience, self.recorder.publish(&event, &regarding));
            if let Ok(Err(error)) = publishing.await {
                tracing::warn!(%error, reason = event.reason, "an event was not published");
            }
        }
    }
}

fn budgets() -> DefaultKeyedRateLimiter<JobKey> {
    RateLimiter::keyed(Quota::per_minute(EACH_MINUTE).allow_burst(BURST))
}

/// `note` as an event. That it is about a pod tells it from those about others: the recorder takes events that differ in nothing but
/// their words for repetitions of the first.
fn event(note: &Note, namespace: &str) -> Event {
    let pod = note.pod.as_ref().map(|name| ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(name.clone()),
        namespace: Some(namespace.to_owned()),
        ..ObjectReference::default()
    });
    let mut text = note.message.clone();
    text.truncate(text.floor_char_boundary(NOTE_BYTES_MAX));
    Event {
        type_: match note.warning {
            true => EventType::Warning,
            false => EventType::Normal,
        },
        reason: note.reason.as_str().to_owned(),
        note: Some(text),
        action: "Reconcile".to_owned(),
        secondary: pod,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_says_too_much_takes_nothing_from_others() {
        let budgets = budgets();
        let [noisy, quiet] = ["noisy", "quiet"].map(|name| JobKey {
            namespace: "team".to_owned(),
            name: name.to_owned(),
        });
        let told = (0..1000).filter(|_| budgets.check_key(&noisy).is_ok()).count();
        assert_eq!(told, 25);
        assert!(budgets.check_key(&quiet).is_ok());
        assert_eq!(budgets.len(), 2);
    }
}
