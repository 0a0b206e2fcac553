//! The API server and what it keeps: objects with uid, resourceVersion and generation, preconditions, graceful deletion and
//! owners. It answers as a real one does and decides nothing; who asks, and whether the answer arrives, is not its concern.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::core::error_boundary::InvalidObject;
use trireme_operator::api::batch_job::BatchJob;
use trireme_operator::api::status::BatchJobStatus;
use trireme_operator::batch::decide::unreadable;
use trireme_operator::cluster::Failure;
use trireme_spec::batch_job::BatchJobSpec;

use crate::world::timestamp;

/// The one namespace; turns among namespaces are the queue's own tests.
pub(crate) const NAMESPACE: &str = "sales";

/// What a watch tells of one object.
#[derive(Clone)]
pub(crate) enum Change<K> {
    Put(K),
    Gone(K),
}

#[derive(Default)]
pub(crate) struct Store {
    version: u64,
    uids: u64,
    pub(crate) jobs: BTreeMap<String, BatchJob>,
    pub(crate) pods: BTreeMap<String, Pod>,
    pub(crate) secrets: BTreeMap<String, Secret>,
    pub(crate) services: BTreeMap<String, Service>,
    pub(crate) config_maps: BTreeMap<String, ConfigMap>,
    /// Everything that happened to jobs, for watches, in order.
    pub(crate) job_log: Vec<Change<BatchJob>>,
    /// Everything that happened to pods.
    pub(crate) pod_log: Vec<Change<Pod>>,
}

pub(crate) fn seconds(now_ms: i64) -> Time {
    let time = timestamp(now_ms);
    Time(jiff::Timestamp::from_second(time.as_second()).expect("a simulation is short"))
}

impl Store {
    fn stamp(&mut self, metadata: &mut ObjectMeta) {
        self.version += 1;
        metadata.resource_version = Some(self.version.to_string());
    }

    fn christen(&mut self, metadata: &mut ObjectMeta, now_ms: i64) {
        self.uids += 1;
        metadata.uid = Some(format!("uid-{}", self.uids));
        metadata.creation_timestamp = Some(seconds(now_ms));
        self.stamp(metadata);
    }

    pub(crate) fn create_job(&mut self, name: &str, spec: BatchJobSpec, now_ms: i64) {
        let mut metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            generation: Some(1),
            ..ObjectMeta::default()
        };
        self.christen(&mut metadata, now_ms);
        let types = None;
        let status = None;
        self.put_job(BatchJob {
            types,
            metadata,
            spec,
            status,
        });
    }

    fn put_job(&mut self, job: BatchJob) {
        self.job_log.push(Change::Put(job.clone()));
        self.jobs.insert(job.metadata.name.clone().unwrap_or_default(), job);
    }

    /// People change what they ask for.
    pub(crate) fn change_spec(&mut self, name: &str, change: impl FnOnce(&mut BatchJobSpec)) {
        let Some(mut job) = self.jobs.get(name).cloned() else {
            return;
        };
        let before = job.spec.clone();
        change(&mut job.spec);
        if job.spec != before {
            job.metadata.generation = job.metadata.generation.map(|generation| generation + 1);
            self.stamp(&mut job.metadata);
            self.put_job(job);
        }
    }

    /// In the foreground the object stays, marked, until what it owns was told to go. The mark is a change of what is asked for.
    pub(crate) fn delete_job(&mut self, name: &str, foreground: bool, now_ms: i64) {
        let Some(mut job) = self.jobs.get(name).cloned() else {
            return;
        };
        let marked = job.metadata.deletion_timestamp.is_some();
        if foreground && marked {
            return;
        }
        self.stamp(&mut job.metadata);
        if foreground {
            job.metadata.deletion_timestamp = Some(seconds(now_ms));
            job.metadata.generation = job.metadata.generation.map(|generation| generation + 1);
            self.put_job(job);
        } else {
            self.jobs.remove(name);
            self.job_log.push(Change::Gone(job));
        }
    }

    /// A status as a patch that names a version writes it: whose uid it is, nobody asks. One that changes nothing is not a write.
    pub(crate) fn write_status(&mut self, of: &BatchJob, status: &BatchJobStatus) -> Result<bool, Failure> {
        let name = of.metadata.name.clone().unwrap_or_default();
        let what = format!("status of {name}");
        let Some(mut job) = self.jobs.get(&name).cloned() else {
            return Err(Failure::NotFound { what });
        };
        if of.metadata.resource_version.is_none() {
            let message = "metadata.resourceVersion: must be specified for an update".to_owned();
            let quota = false;
            return Err(Failure::Refused { what, quota, message });
        }
        if job.metadata.resource_version != of.metadata.resource_version {
            return Err(Failure::Conflict { what });
        }
        let text = serde_json::to_string(status).expect("a status is plain data");
        let read: BatchJobStatus = serde_json::from_str(&text).expect("a status that was written can be read");
        assert_eq!(read, *status, "a status does not survive being written");
        if job.status.as_ref() == Some(&read) {
            return Ok(false);
        }
        job.status = Some(read);
        self.stamp(&mut job.metadata);
        self.put_job(job);
        Ok(true)
    }

    /// Says so in the status, whatever version it has, beside what is said there of other kinds.
    pub(crate) fn write_unreadable(&mut self, object: &InvalidObject) -> Result<(), Failure> {
        let name = object.metadata.name.clone().unwrap_or_default();
        let Some(mut job) = self.jobs.get(&name).cloned() else {
            let what = format!("status of {name}");
            return Err(Failure::NotFound { what });
        };
        let mut status = job.status.clone().unwrap_or_default();
        let said = unreadable(object);
        status.observed_generation = object.metadata.generation;
        status.conditions.retain(|condition| condition.kind != said.kind);
        status.conditions.push(said);
        status.conditions.sort_by_key(|condition| condition.kind);
        if job.status.as_ref() != Some(&status) {
            job.status = Some(status);
            self.stamp(&mut job.metadata);
            self.put_job(job);
        }
        Ok(())
    }

    pub(crate) fn create_secret(&mut self, secret: &Secret, now_ms: i64) -> Result<(), Failure> {
        let name = secret.metadata.name.clone().unwrap_or_default();
        if self.secrets.contains_key(&name) {
            let what = format!("create Secret {name}");
            return Err(Failure::Exists { what });
        }
        let mut secret = secret.clone();
        self.christen(&mut secret.metadata, now_ms);
        self.secrets.insert(name, secret);
        Ok(())
    }

    pub(crate) fn replace_secret(&mut self, secret: &Secret) -> Result<(), Failure> {
        let name = secret.metadata.name.clone().unwrap_or_default();
        let what = format!("replace Secret {name}");
        let Some(old) = self.secrets.get(&name) else {
            return Err(Failure::NotFound { what });
        };
        let (is, expected) = (&old.metadata, &secret.metadata);
        let outdated = expected.resource_version.is_some() && expected.resource_version != is.resource_version;
        let another = expected.uid.is_some() && expected.uid != is.uid;
        if outdated || another {
            return Err(Failure::Conflict { what });
        }
        let mut secret = secret.clone();
        keep_identity(&mut secret.metadata, is);
        if secret != *old {
            self.stamp(&mut secret.metadata);
            self.secrets.insert(name, secret);
        }
        Ok(())
    }

    /// Server-side apply: makes or changes. Whether it made one.
    pub(crate) fn apply_service(&mut self, service: &Service, now_ms: i64) -> bool {
        let name = service.metadata.name.clone().unwrap_or_default();
        let mut service = service.clone();
        let Some(old) = self.services.get(&name) else {
            self.christen(&mut service.metadata, now_ms);
            self.services.insert(name, service);
            return true;
        };
        keep_identity(&mut service.metadata, &old.metadata);
        if service != *old {
            self.stamp(&mut service.metadata);
            self.services.insert(name, service);
        }
        false
    }

    /// Keeps what the control plane goes by; what a container is made of, whoever runs it takes from the request.
    pub(crate) fn create_pod(&mut self, pod: &Pod, now_ms: i64) -> Result<Pod, Failure> {
        let name = pod.metadata.name.clone().unwrap_or_default();
        if self.pods.contains_key(&name) {
            let what = format!("create Pod {name}");
            return Err(Failure::Exists { what });
        }
        let mut metadata = pod.metadata.clone();
        self.christen(&mut metadata, now_ms);
        let status = PodStatus {
            phase: Some("Pending".to_owned()),
            ..PodStatus::default()
        };
        let pod = Pod {
            metadata,
            spec: None,
            status: Some(status),
        };
        self.put_pod(pod.clone());
        Ok(pod)
    }

    fn put_pod(&mut self, pod: Pod) {
        self.pod_log.push(Change::Put(pod.clone()));
        self.pods.insert(pod.metadata.name.clone().unwrap_or_default(), pod);
    }

    pub(crate) fn pod(&self, uid: &str) -> Option<&Pod> {
        self.pods.values().find(|pod| pod.metadata.uid.as_deref() == Some(uid))
    }

    pub(crate) fn update_pod(&mut self, uid: &str, change: impl FnOnce(&mut Pod)) {
        let Some(mut pod) = self.pod(uid).cloned() else { return };
        change(&mut pod);
        self.stamp(&mut pod.metadata);
        self.put_pod(pod);
    }

    /// Tells a pod to go. One that is on no machine, or has ended, goes at once. Whether it had been told nothing before.
    pub(crate) fn delete_pod(&mut self, uid: &str, placed: bool, now_ms: i64) -> bool {
        let Some(pod) = self.pod(uid) else { return false };
        if has_ended(pod) || !placed {
            self.remove_pod(uid);
            return true;
        }
        if is_leaving(pod) {
            return false;
        }
        self.update_pod(uid, |pod| pod.metadata.deletion_timestamp = Some(seconds(now_ms)));
        true
    }

    pub(crate) fn remove_pod(&mut self, uid: &str) {
        let Some(mut pod) = self.pod(uid).cloned() else { return };
        self.stamp(&mut pod.metadata);
        self.pods.remove(pod.metadata.name.as_deref().unwrap_or_default());
        self.pod_log.push(Change::Gone(pod));
    }

    /// Whether an object's owner is no more, or marked as going.
    pub(crate) fn is_orphan(&self, metadata: &ObjectMeta) -> bool {
        let owners = metadata.owner_references.iter().flatten();
        let mut owners = owners.peekable();
        owners.peek().is_some()
            && owners.all(|owner| {
                let job = self.jobs.get(&owner.name);
                job.is_none_or(|job| {
                    job.metadata.uid.as_ref() != Some(&owner.uid) || job.metadata.deletion_timestamp.is_some()
                })
            })
    }
}

/// What an object is told by, which no request changes.
fn keep_identity(metadata: &mut ObjectMeta, old: &ObjectMeta) {
    metadata.uid.clone_from(&old.uid);
    metadata.creation_timestamp.clone_from(&old.creation_timestamp);
    metadata.resource_version.clone_from(&old.resource_version);
}

pub(crate) fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

pub(crate) fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Neither ended nor told to.
pub(crate) fn is_staying(pod: &Pod) -> bool {
    !has_ended(pod) && !is_leaving(pod)
}

pub(crate) fn uid_of(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

pub(crate) fn label<'a>(pod: &'a Pod, name: &str) -> &'a str {
    let labels = pod.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(name)).map_or("", String::as_str)
}
