//! What the watches have told: jobs, and the pods of each.
//!
//! A copy that may be behind. While a watch begins anew, what it told before stays as it was until it has told everything
//! again; so an API server that comes back does not look like one that has lost its objects.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::watcher::Event;
use parking_lot::Mutex;

use super::Cached;
use crate::api::batch_job::AnyBatchJob;
use crate::names::{JobKey, SPEC_HASH_ANNOTATION, label};

/// What a pair of watches, one of jobs and one of pods, looks at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    AllNamespaces,
    Namespace(String),
}

impl Scope {
    /// The scopes of `namespaces`; of none, one for all there are.
    pub fn of(namespaces: &[String]) -> Vec<Scope> {
        let named: BTreeSet<&String> = namespaces.iter().collect();
        match named.is_empty() {
            true => vec![Scope::AllNamespaces],
            false => named.into_iter().cloned().map(Scope::Namespace).collect(),
        }
    }

    /// The one namespace, if it is one.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Scope::AllNamespaces => None,
            Scope::Namespace(name) => Some(name),
        }
    }

    fn has(&self, key: &JobKey) -> bool {
        self.namespace().is_none_or(|namespace| namespace == key.namespace)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.namespace().unwrap_or("all namespaces"))
    }
}

/// Jobs and their pods, as far as known.
#[derive(Debug)]
pub struct Index {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    jobs: HashMap<JobKey, Arc<AnyBatchJob>>,
    pods: HashMap<JobKey, BTreeMap<String, Arc<Pod>>>,
    scopes: HashMap<Scope, Listing>,
}

/// How far the watches of a scope are.
#[derive(Debug, Default)]
struct Listing {
    /// What a watch that began anew has named so far; whatever else there was is gone once it has named everything.
    named_jobs: HashSet<JobKey>,
    named_pods: HashSet<(JobKey, String)>,
    /// Whether it has named everything once.
    jobs_known: bool,
    pods_known: bool,
}

impl Listing {
    /// Before both watches have told everything once, a job without its pods would look like one that has none.
    fn is_known(&self) -> bool {
        self.jobs_known && self.pods_known
    }
}

impl Index {
    /// Of watches that look at `scopes`, which have nothing in common.
    pub fn new(scopes: &[Scope]) -> Index {
        let scopes = scopes.iter().map(|scope| (scope.clone(), Listing::default())).collect();
        let state = State {
            scopes,
            ..State::default()
        };
        Index {
            state: Mutex::new(state),
        }
    }

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

    /// Whether each scope's watches have told everything once.
    pub fn is_complete(&self) -> bool {
        self.state.lock().scopes.values().all(Listing::is_known)
    }

    /// Takes what the watch of jobs in `scope` tells, and says which jobs to visit: none of a scope before all of it is known.
    pub fn on_job(&self, scope: &Scope, event: Event<AnyBatchJob>) -> Vec<JobKey> {
        let mut state = self.state.lock();
        let named = match event {
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
                state.listing(scope).named_jobs.clear();
                Vec::new()
            }
            Event::InitApply(job) => {
                let key = key_of(&job);
                state.listing(scope).named_jobs.insert(key.clone());
                state.jobs.insert(key.clone(), Arc::new(job));
                vec![key]
            }
            Event::InitDone => {
                let listing = state.listing(scope);
                let named = std::mem::take(&mut listing.named_jobs);
                let first = !std::mem::replace(&mut listing.jobs_known, true);
                let gone = |key: &&JobKey| scope.has(key) && !named.contains(key);
                let gone: Vec<JobKey> = state.jobs.keys().filter(gone).cloned().collect();
                for key in &gone {
                    state.jobs.remove(key);
                }
                return state.visits(scope, gone, first);
            }
        };
        state.visits(scope, named, false)
    }

    /// Takes what the watch of pods in `scope` tells, and says which jobs to visit, as [`Self::on_job`].
    pub fn on_pod(&self, scope: &Scope, event: Event<Pod>) -> Vec<JobKey> {
        let mut state = self.state.lock();
        let named = match event {
            Event::Apply(pod) => state.put(pod).into_iter().collect(),
            Event::Delete(pod) => match job_of(&pod) {
                Some(key) => {
                    state.drop_pod(&key, &pod.name_any());
                    vec![key]
                }
                None => Vec::new(),
            },
            Event::Init => {
                state.listing(scope).named_pods.clear();
                Vec::new()
            }
            Event::InitApply(pod) => {
                let name = pod.name_any();
                let key = state.put(pod);
                if let Some(key) = &key {
                    state.listing(scope).named_pods.insert((key.clone(), name));
                }
                key.into_iter().collect()
            }
            Event::InitDone => {
                let listing = state.listing(scope);
                let named = std::mem::take(&mut listing.named_pods);
                let first = !std::mem::replace(&mut listing.pods_known, true);
                let of_scope = state.pods.iter().filter(|(key, _)| scope.has(key));
                let all = of_scope.flat_map(|(key, pods)| pods.keys().map(|name| (key.clone(), name.clone())));
                let gone: Vec<(JobKey, String)> = all.filter(|pod| !named.contains(pod)).collect();
                for (key, name) in &gone {
                    state.drop_pod(key, name);
                }
                let gone = gone.into_iter().map(|(key, _)| key).collect();
                return state.visits(scope, gone, first);
            }
        };
        state.visits(scope, named, false)
    }
}

impl State {
    fn listing(&mut self, scope: &Scope) -> &mut Listing {
        self.scopes.entry(scope.clone()).or_default()
    }

    /// Of `named` jobs those to visit now. Where the end of a `first` list has made a scope known, these are all that it has.
    fn visits(&mut self, scope: &Scope, named: Vec<JobKey>, first: bool) -> Vec<JobKey> {
        match (self.listing(scope).is_known(), first) {
            (false, _) => Vec::new(),
            (true, false) => named,
            (true, true) => self.jobs.keys().filter(|key| scope.has(key)).cloned().collect(),
        }
    }

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

/// Facts about a pod are in its labels, its status and one annotation; the rest is most of its bytes, and there may be many pods.
fn slim(pod: &mut Pod) {
    pod.spec = None;
    pod.metadata.managed_fields = None;
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.retain(|name, _| name == SPEC_HASH_ANNOTATION);
    }
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
        pod_in("sales", name)
    }

    fn pod_in(namespace: &str, name: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": namespace, "labels": { "trireme.dev/job": "revenue" } },
            "spec": { "containers": [] },
        }))
        .unwrap()
    }

    fn job() -> AnyBatchJob {
        job_in("sales")
    }

    fn job_in(namespace: &str) -> AnyBatchJob {
        let object = json!({
            "metadata": { "name": "revenue", "namespace": namespace }, "spec": { "sql": "SELECT 1" },
        });
        serde_json::from_value(object).unwrap()
    }

    fn key_in(namespace: &str) -> JobKey {
        key_of(&job_in(namespace))
    }

    fn names(index: &Index, namespace: &str) -> Vec<String> {
        let pods = index.get(&key_in(namespace)).unwrap().pods;
        pods.iter().map(|pod| pod.name_any()).collect()
    }

    /// Of watches that have listed a cluster with nothing in it.
    fn listed(scopes: &[Scope]) -> Index {
        let index = Index::new(scopes);
        for scope in scopes {
            for event in [Event::Init, Event::InitDone] {
                index.on_job(scope, event);
            }
            for event in [Event::Init, Event::InitDone] {
                index.on_pod(scope, event);
            }
        }
        index
    }

    #[test]
    fn of_a_pod_its_labels_its_status_and_what_it_was_made_of_are_kept() {
        let index = Index::new(&[Scope::AllNamespaces]);
        let mut pod = pod("revenue-exec-1");
        let annotations = [(SPEC_HASH_ANNOTATION, "0f"), ("other", "long")];
        pod.metadata.annotations = Some(
            annotations
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        );
        index.on_job(&Scope::AllNamespaces, Event::Apply(job()));
        index.on_pod(&Scope::AllNamespaces, Event::Apply(pod));
        let cached = index.get(&key_of(&job())).unwrap();
        let kept = cached.pods[0].metadata.annotations.clone().unwrap();
        assert_eq!(kept.into_keys().collect::<Vec<_>>(), [SPEC_HASH_ANNOTATION]);
        assert!(cached.pods[0].spec.is_none());
    }

    #[test]
    fn a_watch_that_begins_anew_takes_nothing_away_before_it_is_done() {
        let all = &Scope::AllNamespaces;
        let index = listed(std::slice::from_ref(all));
        index.on_job(all, Event::Apply(job()));
        for name in ["a", "b"] {
            assert_eq!(index.on_pod(all, Event::Apply(pod(name))), [key_of(&job())]);
        }
        index.on_pod(all, Event::Init);
        index.on_pod(all, Event::InitApply(pod("b")));
        assert_eq!(names(&index, "sales"), ["a", "b"]);
        assert_eq!(index.on_pod(all, Event::InitDone), [key_of(&job())]);
        assert_eq!(names(&index, "sales"), ["b"]);
    }

    #[test]
    fn watches_of_one_namespace_take_nothing_from_another() {
        let scopes = ["sales", "reports"].map(|name| Scope::Namespace(name.to_owned()));
        let index = Index::new(&scopes);
        for scope in &scopes {
            index.on_job(scope, Event::Init);
            index.on_pod(scope, Event::Init);
        }
        for (scope, namespace) in scopes.iter().zip(["sales", "reports"]) {
            index.on_job(scope, Event::InitApply(job_in(namespace)));
            index.on_pod(scope, Event::InitApply(pod_in(namespace, "a")));
        }
        for (scope, namespace) in scopes.iter().zip(["sales", "reports"]) {
            assert_eq!(index.on_pod(scope, Event::InitDone), []);
            assert_eq!(index.on_job(scope, Event::InitDone), [key_in(namespace)]);
        }
        let [sales, _] = &scopes;
        index.on_job(sales, Event::Init);
        assert_eq!(index.on_job(sales, Event::InitDone), [key_in("sales")]);
        assert!(index.get(&key_in("sales")).is_none());
        assert_eq!(names(&index, "reports"), ["a"]);
    }

    #[test]
    fn no_job_is_visited_before_its_pods_are_known() {
        let scopes = ["sales", "reports"].map(|name| Scope::Namespace(name.to_owned()));
        let [sales, reports] = &scopes;
        let index = Index::new(&scopes);
        index.on_job(sales, Event::Init);
        assert_eq!(index.on_job(sales, Event::InitApply(job())), []);
        assert_eq!(index.on_job(sales, Event::InitDone), []);
        assert_eq!(index.on_job(sales, Event::Apply(job())), []);
        index.on_pod(sales, Event::Init);
        assert_eq!(index.on_pod(sales, Event::InitApply(pod("a"))), []);
        assert_eq!(index.on_pod(sales, Event::InitDone), [key_of(&job())]);
        assert_eq!(index.on_job(sales, Event::Apply(job())), [key_of(&job())]);
        // Of a namespace that cannot be listed the others know nothing.
        assert!(!index.is_complete());
        assert_eq!(index.on_job(reports, Event::Init), []);
    }

    #[test]
    fn an_unreadable_object_is_kept_as_what_it_is() {
        let all = &Scope::AllNamespaces;
        let index = listed(std::slice::from_ref(all));
        let object = json!({ "metadata": { "name": "revenue", "namespace": "sales" }, "spec": { "sql": 7 } });
        index.on_job(all, Event::Apply(serde_json::from_value(object).unwrap()));
        assert!(index.get(&key_of(&job())).unwrap().job.0.is_err());
    }
}
