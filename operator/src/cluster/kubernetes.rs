//! The cluster behind an API server.
//!
//! Every request has a deadline, and none is tried again here: who asked decides whether to ask again, by what is so then.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::core::error_boundary::InvalidObject;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use trireme_spec::batch_job::API_VERSION;

use super::events::Events;
use super::index::Index;
use super::reports::Reports;
use super::{Cached, Cluster, Failure, Follow, Said};
use crate::api::batch_job::{AnyBatchJob, BatchJob};
use crate::api::status::BatchJobStatus;
use crate::batch::decide::{EndOrder, Note, unreadable};
use crate::names::{JobKey, MANAGER, label};

/// An API server that does not answer for so long is away.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who says in `managedFields` that an object cannot be read.
const READER: &str = "trireme-operator-reader";

/// A cluster, by its API server.
pub struct Kubernetes {
    client: Client,
    index: Arc<Index>,
    reports: Reports,
    events: Events,
}

impl Kubernetes {
    /// Speaks through `client`; knows by `index` what the watches tell.
    pub fn new(client: Client, index: Arc<Index>, reports: Reports, instance: Option<String>) -> Kubernetes {
        let reporter = Reporter {
            controller: MANAGER.to_owned(),
            instance,
        };
        Kubernetes {
            events: Events::new(Recorder::new(client.clone(), reporter), PATIENCE),
            client,
            index,
            reports,
        }
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn create<K>(&self, object: &K) -> Result<(), Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Serialize
            + std::fmt::Debug,
    {
        let api = self.api::<K>(&object.namespace().unwrap_or_default());
        let what = format!("create {} {}", K::kind(&()), object.name_any());
        let parameters = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        within(what, api.create(&parameters, object)).await.map(drop)
    }
}

/// The answer to a request, within our patience.
async fn within<T>(what: String, asking: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failure(what, &error)),
        Err(_) => Err(Failure::Away {
            what,
            message: format!("no answer within {} s", PATIENCE.as_secs()),
        }),
    }
}

fn failure(what: String, error: &kube::Error) -> Failure {
    let kube::Error::Api(status) = error else {
        let message = error.to_string();
        return Failure::Away { what, message };
    };
    let message = status.message.clone();
    match (status.code, status.reason.as_str()) {
        (404, _) => Failure::NotFound { what },
        (409, "AlreadyExists") => Failure::Exists { what },
        (409, _) => Failure::Conflict { what },
        (403, _) => Failure::Refused {
            what,
            quota: message.contains("exceeded quota"),
            message,
        },
        (400 | 405 | 422, _) => Failure::Refused {
            what,
            quota: false,
            message,
        },
        _ => Failure::Away { what, message },
    }
}

#[async_trait]
impl Cluster for Kubernetes {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn system_time(&self) -> SystemTime {
        SystemTime::now()
    }

    fn token(&self) -> String {
        // Two of 122 random bits each.
        format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
    }

    fn cached(&self, key: &JobKey) -> Option<Cached> {
        self.index.get(key)
    }

    async fn job(&self, key: &JobKey) -> Result<Option<AnyBatchJob>, Failure> {
        let api: Api<AnyBatchJob> = self.api(&key.namespace);
        within(format!("get BatchJob {}", key.name), api.get_opt(&key.name)).await
    }

    async fn pods(&self, key: &JobKey) -> Result<Vec<Pod>, Failure> {
        let api: Api<Pod> = self.api(&key.namespace);
        let selector = format!("{}={},{}={MANAGER}", label::JOB, key.name, label::MANAGED_BY);
        let list = ListParams::default().labels(&selector);
        let pods = within(format!("list pods of {}", key.name), api.list(&list)).await?;
        Ok(pods.items)
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, Failure> {
        let api: Api<Secret> = self.api(namespace);
        within(format!("get Secret {name}"), api.get_opt(name)).await
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, Failure> {
        let api: Api<ConfigMap> = self.api(namespace);
        within(format!("get ConfigMap {name}"), api.get_opt(name)).await
    }

    async fn create_secret(&self, secret: &Secret) -> Result<(), Failure> {
        self.create(secret).await
    }

    async fn replace_secret(&self, secret: &Secret) -> Result<(), Failure> {
        let api: Api<Secret> = self.api(&secret.namespace().unwrap_or_default());
        let name = secret.name_any();
        let parameters = PostParams::default();
        let replacing = api.replace(&name, &parameters, secret);
        within(format!("replace Secret {name}"), replacing).await.map(drop)
    }

    async fn apply_service(&self, service: &Service) -> Result<(), Failure> {
        let api: Api<Service> = self.api(&service.namespace().unwrap_or_default());
        let name = service.name_any();
        // Not by force: fields that another has written make it another's.
        let parameters = PatchParams::apply(MANAGER);
        let patch = Patch::Apply(service);
        let applying = api.patch(&name, &parameters, &patch);
        within(format!("apply Service {name}"), applying).await.map(drop)
    }

    async fn create_pod(&self, pod: &Pod) -> Result<(), Failure> {
        self.create(pod).await
    }

    async fn delete_pod(&self, namespace: &str, pod: &EndOrder) -> Result<(), Failure> {
        let api: Api<Pod> = self.api(namespace);
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(pod.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match within(format!("delete pod {}", pod.name), api.delete(&pod.name, &parameters)).await {
            // Another pod of that name is not the one.
            Ok(_) | Err(Failure::NotFound { .. } | Failure::Conflict { .. }) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    async fn write_status(&self, job: &BatchJob, status: &BatchJobStatus) -> Result<(), Failure> {
        let api: Api<BatchJob> = self.api(&job.namespace().unwrap_or_default());
        let name = job.name_any();
        // The version tells it from another of its name, too. Of a uid the API server takes no notice here.
        let written = json!({
            "apiVersion": API_VERSION,
            "kind": "BatchJob",
            "metadata": { "name": name, "resourceVersion": job.metadata.resource_version },
            "status": status,
        });
        let parameters = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(written);
        let writing = api.patch_status(&name, &parameters, &patch);
        within(format!("write the status of BatchJob {name}"), writing)
            .await
            .map(drop)
    }

    async fn write_unreadable(&self, object: &InvalidObject) -> Result<(), Failure> {
        let metadata = &object.metadata;
        let api: Api<AnyBatchJob> = self.api(metadata.namespace.as_deref().unwrap_or_default());
        let name = metadata.name.clone().unwrap_or_default();
        // Under a name of its own: what was said of the object while it could be read stays.
        let written = json!({
            "apiVersion": API_VERSION,
            "kind": "BatchJob",
            "metadata": { "name": name },
            "status": { "observedGeneration": metadata.generation, "conditions": [unreadable(object)] },
        });
        let (parameters, patch) = (PatchParams::apply(READER).force(), Patch::Apply(written));
        let writing = api.patch_status(&name, &parameters, &patch);
        within(format!("write the status of BatchJob {name}"), writing)
            .await
            .map(drop)
    }

    async fn delete_job(&self, job: &BatchJob) -> Result<(), Failure> {
        let api: Api<AnyBatchJob> = self.api(&job.namespace().unwrap_or_default());
        let name = job.name_any();
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: job.metadata.uid.clone(),
                resource_version: job.metadata.resource_version.clone(),
            }),
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        match within(format!("delete BatchJob {name}"), api.delete(&name, &parameters)).await {
            Ok(_) | Err(Failure::NotFound { .. } | Failure::Conflict { .. }) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    async fn publish(&self, job: &BatchJob, notes: &[Note]) {
        self.events.publish(job, notes).await;
    }

    fn report(&self, key: &JobKey) -> Option<Said> {
        self.reports.get(key)
    }

    fn follows(&self, key: &JobKey, pod_uid: &str) -> bool {
        self.reports.follows(key, pod_uid)
    }

    fn follow(&self, driver: Follow) {
        self.reports.follow(driver);
    }

    fn tell_lost(&self, key: &JobKey, executors: &[String]) {
        self.reports.tell_lost(key, executors);
    }

    fn forget(&self, key: &JobKey) {
        self.reports.forget(key);
    }
}
