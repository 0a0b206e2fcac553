//! A namespace of one story. It enforces Pod Security "restricted", and at its end nothing may be left in it.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, Service, ServiceAccount};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::wait::{Condition, await_condition, conditions};
use kube::{Client, Config, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::job::Job;
use crate::reasons::Reasons;

/// A debug build on two cores that also run the cluster: what needs more than this hangs.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// A story's namespace.
pub struct Lab {
    pub client: Client,
    pub namespace: String,
    reasons: Reasons,
}

impl Lab {
    /// A fresh namespace, named after the story.
    pub async fn open(story: &str) -> Lab {
        let mut config = Config::infer()
            .await
            .unwrap_or_else(|error| panic!("no cluster: set KUBECONFIG: {error}"));
        config.read_timeout = None;
        let client = Client::try_from(config).expect("the kubeconfig has been read");
        let namespace = format!("e2e-{story}-{}", &uuid::Uuid::new_v4().simple().to_string()[..6]);
        let reasons = Reasons::of(Api::namespaced_with(client.clone(), &namespace, &batch_jobs()));
        let lab = Lab {
            client,
            namespace,
            reasons,
        };
        let object = Namespace {
            metadata: ObjectMeta {
                name: Some(lab.namespace.clone()),
                labels: Some([("pod-security.kubernetes.io/enforce".to_owned(), "restricted".to_owned())].into()),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        let all: Api<Namespace> = Api::all(lab.client.clone());
        all.create(&PostParams::default(), &object)
            .await
            .expect("a namespace can be made");
        // Pods are refused until their service account is there.
        let accounts: Api<ServiceAccount> = lab.api();
        let there = await_condition(accounts, "default", |account: Option<&ServiceAccount>| {
            account.is_some()
        });
        lab.within("the default service account", there)
            .await
            .expect("a watch of service accounts");
        lab
    }

    /// The objects of a kind in the namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The BatchJobs of the namespace.
    pub fn jobs(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &batch_jobs())
    }

    /// Waits for `done`, but not for ever.
    pub async fn within<T>(&self, what: &str, done: impl Future<Output = T>) -> T {
        match tokio::time::timeout(PATIENCE, done).await {
            Ok(done) => done,
            Err(_) => panic!(
                "{what} did not come within {PATIENCE:?} in {}\n{}",
                self.namespace,
                self.picture().await
            ),
        }
    }

    /// Waits until an object is as `holds` says, and gives it. A watch that breaks off, as it does when the API server is away
    /// or a definition changes, begins anew.
    pub async fn watched<K>(&self, api: Api<K>, name: &str, holds: impl Condition<K>) -> Option<K>
    where
        K: Clone + Debug + Send + DeserializeOwned + kube::Resource + 'static,
    {
        loop {
            let watching = await_condition(api.clone(), name, |object: Option<&K>| holds.matches_object(object));
            if let Ok(object) = watching.await {
                return object;
            }
        }
    }

    /// Applies a BatchJob called `name` with `spec`, as `kubectl apply --server-side` does.
    pub async fn apply(&self, name: &str, spec: Value) -> Job<'_> {
        match self.try_apply(name, spec).await {
            Ok(job) => job,
            Err(error) => panic!("{name} was refused: {error}"),
        }
    }

    /// The same, for a job that may be refused.
    ///
    /// # Errors
    /// The API server's words.
    pub async fn try_apply(&self, name: &str, spec: Value) -> Result<Job<'_>, String> {
        let object = json!({
            "apiVersion": "trireme.dev/v1alpha1",
            "kind": "BatchJob",
            "metadata": { "name": name },
            "spec": spec,
        });
        let parameters = PatchParams {
            field_manager: Some("e2e".to_owned()),
            field_validation: Some(kube::api::ValidationDirective::Strict),
            ..PatchParams::default()
        };
        let applied = self.jobs().patch(name, &parameters, &Patch::Apply(object)).await;
        match applied {
            Ok(object) => Ok(Job::new(self, name, object.uid().unwrap_or_default())),
            Err(kube::Error::Api(status)) => Err(status.message.clone()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What is in the namespace, for the message of a failing story.
    pub async fn picture(&self) -> String {
        let see = |arguments: &[&str]| {
            let mut all = vec!["--namespace", &self.namespace];
            all.extend(arguments);
            crate::process::kubectl(&all).unwrap_or_else(|error| error)
        };
        let jobs = see(&["get", "batchjobs", "-o", "yaml"]);
        let pods = see(&["get", "pods", "-o", "wide"]);
        let events = see(&["get", "events", "--sort-by=.lastTimestamp"]);
        format!("{jobs}\n{pods}\n{events}")
    }

    /// Removes the namespace, after it was seen that its jobs have left nothing behind.
    pub async fn close(self) {
        self.reasons.write_down(self.api()).await;
        let jobs = self
            .jobs()
            .list(&ListParams::default())
            .await
            .expect("jobs can be listed");
        for job in jobs {
            Job::new(&self, &job.name_any(), job.uid().unwrap_or_default())
                .delete()
                .await;
        }
        self.assert_empty().await;
        let all: Api<Namespace> = Api::all(self.client.clone());
        let deleted = all.delete(&self.namespace, &DeleteParams::default()).await;
        deleted.expect("a namespace can be deleted");
    }

    /// Nothing of Trireme's is left in the namespace.
    pub async fn assert_empty(&self) {
        self.until_none::<Pod>().await;
        self.until_none::<Service>().await;
        self.until_none::<Secret>().await;
    }

    /// Waits until no object of a kind is left that the operator made.
    async fn until_none<K>(&self)
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + 'static,
    {
        let ours = ListParams::default().labels("app.kubernetes.io/managed-by=trireme-operator");
        for object in self.api::<K>().list(&ours).await.expect("objects can be listed") {
            let (name, uid) = (object.name_any(), object.uid().unwrap_or_default());
            let gone = self.watched(self.api::<K>(), &name, conditions::is_deleted(&uid));
            drop(self.within(&format!("the end of {} {name}", K::kind(&())), gone).await);
        }
    }
}

/// The kind, for a client that has no types of ours.
pub fn batch_jobs() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("trireme.dev", "v1alpha1", "BatchJob"))
}
