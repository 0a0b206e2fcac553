//! The script's surroundings on a real cluster: a namespace of its own, and whatever `KUBECONFIG` allows.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ResourceQuota, Secret, Service, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, TypeMeta};
use kube::runtime::wait::{Condition, await_condition, conditions};
use kube::{Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use trireme_operator::api::batch_job::BatchJob;
use trireme_operator::cluster::Cluster;
use trireme_operator::cluster::index::{Index, Scope};
use trireme_operator::cluster::kubernetes::Kubernetes;
use trireme_operator::cluster::reports::Reports;

use super::script::{self, NOWHERE};
use super::{Kind, Surroundings};
use crate::store::has_ended;

/// As long as the stories wait on two cores that also run the cluster: what needs more than this hangs.
const PATIENCE: Duration = Duration::from_secs(180);

/// Keeps a job that was deleted until the script has seen it.
const FINALIZER: &str = "trireme.dev/answers";

const QUOTA: &str = "pods";

pub(super) struct Real {
    client: Client,
    namespace: String,
    index: Arc<Index>,
    cluster: Kubernetes,
}

fn cluster(client: &Client, index: &Arc<Index>) -> Kubernetes {
    let (changed, _) = mpsc::channel(1);
    Kubernetes::new(client.clone(), Arc::clone(index), Reports::new(changed), None)
}

async fn within<T>(what: &str, done: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, done).await;
    done.unwrap_or_else(|_| panic!("{what} did not come within {PATIENCE:?}"))
}

impl Real {
    /// Opens a fresh namespace.
    pub(super) async fn open() -> Real {
        let mut config = Config::infer().await.expect("KUBECONFIG names a cluster");
        // As the operator has it.
        config.default_retry = false;
        let client = Client::try_from(config).expect("the kubeconfig has been read");
        let index = Arc::new(Index::new(&[Scope::AllNamespaces]));
        let real = Real {
            namespace: format!("answers-{}", &uuid::Uuid::new_v4().simple().to_string()[..6]),
            cluster: cluster(&client, &index),
            client,
            index,
        };
        let namespace = Namespace {
            metadata: real.named(&real.namespace),
            ..Namespace::default()
        };
        let all: Api<Namespace> = Api::all(real.client.clone());
        let made = all.create(&PostParams::default(), &namespace).await;
        made.expect("a namespace can be made");
        real
    }

    pub(super) async fn version(&self) -> String {
        let version = self.client.apiserver_version().await;
        version.expect("the API server says its version").git_version
    }

    /// Puts the script, and removes the namespace, whatever came of it.
    pub(super) async fn answers(&self) -> Vec<String> {
        let asking = async {
            // Pods are refused until it is there.
            let there = |account: Option<&ServiceAccount>| account.is_some();
            self.until("default", there).await;
            script::put(self).await
        };
        let done = AssertUnwindSafe(asking).catch_unwind().await;
        let jobs: Api<BatchJob> = self.api();
        for job in jobs
            .list_metadata(&ListParams::default())
            .await
            .expect("jobs are listed")
        {
            self.let_job_go(&job.name_any()).await;
        }
        // Nobody else takes them away from a machine that is not there.
        let pods: Api<Pod> = self.api();
        let now = DeleteParams::default().grace_period(0);
        let deleted = pods.delete_collection(&now, &ListParams::default()).await;
        deleted.expect("pods can be deleted");
        let all: Api<Namespace> = Api::all(self.client.clone());
        let deleted = all.delete(&self.namespace, &DeleteParams::default()).await;
        deleted.expect("the namespace can be deleted");
        done.unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn named(&self, name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        }
    }

    async fn until<K>(&self, name: &str, condition: impl Condition<K>)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + 'static,
    {
        let what = format!("{} {name}", K::kind(&()));
        let found = within(&what, await_condition(self.api::<K>(), name, condition)).await;
        found.unwrap_or_else(|error| panic!("{what}: {error}"));
    }

    async fn metadata<K>(&self, name: &str) -> Option<ObjectMeta>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let found = self.api::<K>().get_metadata_opt(name).await;
        found.expect("the API server answers").map(|object| object.metadata)
    }

    async fn gone<K>(&self, name: &str, seen: &ObjectMeta)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + 'static,
    {
        let uid = seen.uid.as_deref().unwrap_or_default();
        self.until::<K>(name, conditions::is_deleted(uid)).await;
    }

    async fn patch_job(&self, name: &str, patch: Value) {
        let jobs: Api<BatchJob> = self.api();
        let patched = jobs
            .patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        match patched {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => panic!("BatchJob {name} cannot be changed: {error}"),
        }
    }

    fn jobs(&self) -> Api<DynamicObject> {
        Api::namespaced_with(
            self.client.clone(),
            &self.namespace,
            &ApiResource::erase::<BatchJob>(&()),
        )
    }
}

#[async_trait]
impl Surroundings for Real {
    fn cluster(&self) -> &dyn Cluster {
        &self.cluster
    }

    fn cut_off(&self) -> Box<dyn Cluster> {
        // A port that nobody listens on.
        let config = Config::new("http://127.0.0.1:1".parse().expect("it is an address"));
        let client = Client::try_from(config).expect("it needs no certificates");
        Box::new(cluster(&client, &self.index))
    }

    fn namespace(&self) -> &str {
        &self.namespace
    }

    fn index(&self) -> &Index {
        &self.index
    }

    async fn look(&self, kind: Kind, name: &str) -> Option<ObjectMeta> {
        match kind {
            Kind::Job => self.metadata::<BatchJob>(name).await,
            Kind::Pod => self.metadata::<Pod>(name).await,
            Kind::Secret => self.metadata::<Secret>(name).await,
            Kind::Service => self.metadata::<Service>(name).await,
        }
    }

    async fn until_gone(&self, kind: Kind, name: &str, seen: &ObjectMeta) {
        match kind {
            Kind::Job => self.gone::<BatchJob>(name, seen).await,
            Kind::Pod => self.gone::<Pod>(name, seen).await,
            Kind::Secret => self.gone::<Secret>(name, seen).await,
            Kind::Service => self.gone::<Service>(name, seen).await,
        }
    }

    async fn make_job(&self, name: &str, spec: Value) {
        let job = DynamicObject {
            types: Some(TypeMeta::resource::<BatchJob>()),
            metadata: self.named(name),
            data: json!({ "spec": spec }),
        };
        let made = self.jobs().create(&PostParams::default(), &job).await;
        made.expect("the job is accepted");
    }

    async fn change_job(&self, name: &str, spec: Value) {
        let jobs = self.jobs();
        let mut job = jobs.get(name).await.expect("the job is there");
        job.data["spec"] = spec;
        let changed = jobs.replace(name, &PostParams::default(), &job).await;
        changed.expect("nobody else changes the job");
    }

    async fn delete_job(&self, name: &str) {
        let jobs: Api<BatchJob> = self.api();
        let deleted = jobs.delete(name, &DeleteParams::background()).await;
        deleted.expect("the job can be deleted");
    }

    async fn mark_job(&self, name: &str) {
        self.patch_job(name, json!({ "metadata": { "finalizers": [FINALIZER] } }))
            .await;
        let jobs: Api<BatchJob> = self.api();
        let deleted = jobs.delete(name, &DeleteParams::foreground()).await;
        deleted.expect("the job can be deleted");
        // The collector takes away its own finalizer when it is done.
        let held = |job: Option<&BatchJob>| job.is_some_and(|job| job.finalizers() == [FINALIZER]);
        self.until(name, held).await;
    }

    async fn let_job_go(&self, name: &str) {
        self.patch_job(name, json!({ "metadata": { "finalizers": null } }))
            .await;
    }

    async fn make_config_map(&self, name: &str) {
        let map = ConfigMap {
            metadata: self.named(name),
            ..ConfigMap::default()
        };
        let made = self.api().create(&PostParams::default(), &map).await;
        made.expect("a ConfigMap can be made");
    }

    async fn delete_secret(&self, name: &str) {
        let secrets: Api<Secret> = self.api();
        let deleted = secrets.delete(name, &DeleteParams::default()).await;
        deleted.expect("the Secret can be deleted");
    }

    async fn take_name(&self, pod: &str) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": pod },
            "spec": { "nodeSelector": { NOWHERE: "true" }, "containers": [{ "name": "other", "image": "other" }] },
        }))
        .expect("it has the form of a pod");
        let made = self.api().create(&PostParams::default(), &pod).await;
        made.expect("the pod is accepted");
    }

    async fn set_quota(&self, pods: Option<usize>) {
        let quotas: Api<ResourceQuota> = self.api();
        let Some(pods) = pods else {
            let deleted = quotas.delete(QUOTA, &DeleteParams::default()).await;
            return drop(deleted.expect("the quota can be deleted"));
        };
        let quota = json!({
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": { "name": QUOTA },
            "spec": { "hard": { "pods": pods.to_string() } },
        });
        let applied = quotas
            .patch(QUOTA, &PatchParams::apply("answers"), &Patch::Apply(quota))
            .await;
        applied.expect("a quota can be set");
        let all = self.api::<Pod>().list(&ListParams::default()).await;
        let all = all.expect("pods can be listed");
        let used = all.iter().filter(|pod| !has_ended(pod)).count().to_string();
        let counted = |quota: Option<&ResourceQuota>| {
            let status = quota.and_then(|quota| quota.status.as_ref());
            let counted = status.and_then(|status| status.used.as_ref()?.get("pods"));
            let hard = status.and_then(|status| status.hard.as_ref()?.get("pods"));
            counted.is_some_and(|counted| counted.0 == used) && hard.is_some_and(|hard| hard.0 == pods.to_string())
        };
        self.until(QUOTA, counted).await;
    }

    async fn place(&self, pod: &str) {
        // The scheduler has looked at it, and will not again while it is there.
        let looked_at = |pod: Option<&Pod>| {
            let conditions = pod.and_then(|pod| pod.status.as_ref()?.conditions.as_ref());
            let mut conditions = conditions.into_iter().flatten();
            conditions.any(|condition| condition.type_ == "PodScheduled")
        };
        self.until(pod, looked_at).await;
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": { "name": pod },
            "target": { "kind": "Node", "name": "nowhere" },
        });
        let pods: Api<Pod> = self.api();
        let bound: kube::Result<Status> = pods
            .create_subresource("binding", pod, &PostParams::default(), &binding)
            .await;
        bound.expect("a pod can be placed");
    }

    async fn fail(&self, pod: &str) {
        let pods: Api<Pod> = self.api();
        let failed = json!({ "status": { "phase": "Failed" } });
        let written = pods
            .patch_status(pod, &PatchParams::default(), &Patch::Merge(failed))
            .await;
        written.expect("a pod's status can be written");
    }

    async fn reap(&self, pod: &str) {
        let pods: Api<Pod> = self.api();
        let reaped = pods.delete(pod, &DeleteParams::default().grace_period(0)).await;
        reaped.expect("a pod can be taken away");
    }
}
