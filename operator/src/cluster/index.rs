//! What the watches have told: jobs, and the pods of each.
//!
//! A copy that may be behind. While a watch begins anew, what it told before stays as it was until it has told everything
//! again; so an API server that comes back does not look like one that has lost its objects.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::watcher::Event;
use parking_lot::Mutex;

use super::Cached;
use crate::api::batch_job::AnyBatchJob;
use crate::names::{JobKey, label};

/// Jobs and their pods, as far as known.
#[derive(Debug, Default)]
pub struct Index {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    jobs: HashMap<JobKey, Arc<AnyBatchJob>>,
    pods: HashMap<JobKey, BTreeMap<String, Arc<Pod>>>,
    /// What a watch that began anew has named so far; whatever else there was is gone once it has named everything.
    named_jobs: HashSet<JobKey>,
    named_pods: HashSet<(JobKey, String)>,
}

impl Index {
    /// What is known of a job; nothing if there is no such job.
    pub fn get(&self, key: &JobKey) -> Option<Cached> {
        let state = self.state.lock();
        let job = Arc::clone(state.jobs.get(key)?);
        let pods = state
            .pods
            .get(key)
            .into_iter()
            .flat_map(BTreeMap::values)
            .cloned()
            .collect();
        Some(Cached { job, pods })
    }

    /// How many jobs there are.
    pub fn jobs(&self) -> usize {
        self.state.lock().jobs.len()
    }

    /// Takes what the watch of jobs tells, and says which jobs to visit.
    pub fn on_job(&self, event: Event<AnyBatchJob>) -> Vec<JobKey> {
        let mut state = self.state.lock();
        match event {
            Event::Apply(job) => {
                let key = key_of(&job);
                state.jobs.insert(key.clone(), Arc::new(job));
                vec![key]
            }
            Event::Delete(job) => {
                let key = key_of(&job);
                state.jobs.remove(&key);
                vec![key]
            }
            Event::Init => {
                state.named_jobs.clear();
                Vec::new()
            }
            Event::InitApply(job) => {
                let key = key_of(&job);
                state.named_jobs.insert(key.clone());
                state.jobs.insert(key.clone(), Arc::new(job));
                vec![key]
            }
            Event::InitDone => {
                let named = std::mem::take(&mut state.named_jobs);
                let gone: Vec<JobKey> = state.jobs.keys().filter(|key| !named.contains(key)).cloned().collect();
                for key in &gone {
                    state.jobs.remove(key);
                }
                gone
            }
        }
    }

    /// Takes what the watch of pods tells, and says which jobs to visit.
    pub fn on_pod(&self, event: Event<Pod>) -> Vec<JobKey> {
        let mut state = self.state.lock();
        match event {
            Event::Apply(pod) => state.put(pod).into_iter().collect(),
            Event::Delete(pod) => match job_of(&pod) {
                Some(key) => {
                    state.drop_pod(&key, &pod.name_any());
                    vec![key]
                }
                None => Vec::new(),
            },
            Event::Init => {
                state.named_pods.clear();
                Vec::new()
            }
            Event::InitApply(pod) => {
                let name = pod.name_any();
                let key = state.put(pod);
                if let Some(key) = &key {
                    state.named_pods.insert((key.clone(), name));
                }
                key.into_iter().collect()
            }
            Event::InitDone => {
                let named = std::mem::take(&mut state.named_pods);
                let all = state
                    .pods
                    .iter()
                    .flat_map(|(key, pods)| pods.keys().map(|name| (key.clone(), name.clone())));
                let gone: Vec<(JobKey, String)> = all.filter(|pod| !named.contains(pod)).collect();
                for (key, name) in &gone {
                    state.drop_pod(key, name);
                }
                gone.into_iter().map(|(key, _)| key).collect()
            }
        }
    }
}

impl State {
    fn put(&mut self, mut pod: Pod) -> Option<JobKey> {
        let key = job_of(&pod)?;
        slim(&mut pod);
        self.pods
            .entry(key.clone())
            .or_default()
            .insert(pod.name_any(), Arc::new(pod));
        Some(key)
    }

    fn drop_pod(&mut self, key: &JobKey, name: &str) {
        if let Some(pods) = self.pods.get_mut(key) {
            pods.remove(name);
            if pods.is_empty() {
                self.pods.remove(key);
            }
        }
    }
}

/// Facts about a pod are in its labels and its status; the rest is most of its bytes, and there may be many pods.
fn slim(pod: &mut Pod) {
    pod.spec = None;
    pod.metadata.managed_fields = None;
    pod.metadata.annotations = None;
}

fn key_of(job: &AnyBatchJob) -> JobKey {
    JobKey {
        namespace: job.namespace().unwrap_or_default(),
        name: job.name_any(),
    }
}

fn job_of(pod: &Pod) -> Option<JobKey> {
    Some(JobKey {
        namespace: pod.namespace()?,
        name: pod.metadata.labels.as_ref()?.get(label::JOB)?.clone(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": "sales", "labels": { "trireme.dev/job": "revenue" } },
            "spec": { "containers": [] },
        }))
        .unwrap()
    }

    fn job() -> AnyBatchJob {
        let object = json!({ "metadata": { "name": "revenue", "namespace": "sales" }, "spec": { "sql": "SELECT 1" } });
        serde_json::from_value(object).unwrap()
    }

    fn names(index: &Index) -> Vec<String> {
        let key = key_of(&job());
        let pods = index.get(&key).unwrap().pods;
        pods.iter().map(|pod| pod.name_any()).collect()
    }

    #[test]
    fn a_watch_that_begins_anew_takes_nothing_away_before_it_is_done() {
        let index = Index::default();
        index.on_job(Event::Apply(job()));
        for name in ["a", "b"] {
            assert_eq!(index.on_pod(Event::Apply(pod(name))), [key_of(&job())]);
        }
        index.on_pod(Event::Init);
        index.on_pod(Event::InitApply(pod("b")));
        assert_eq!(names(&index), ["a", "b"]);
        assert_eq!(index.on_pod(Event::InitDone), [key_of(&job())]);
        assert_eq!(names(&index), ["b"]);
    }

    #[test]
    fn an_unreadable_object_is_kept_as_what_it_is() {
        let index = Index::default();
        let object = json!({ "metadata": { "name": "revenue", "namespace": "sales" }, "spec": { "sql": 7 } });
        index.on_job(Event::Apply(serde_json::from_value(object).unwrap()));
        assert!(index.get(&key_of(&job())).unwrap().job.0.is_err());
    }
}
