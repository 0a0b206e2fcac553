//! A BatchJob of a story, seen through the API server.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::runtime::wait::conditions;
use serde_json::{Value, json};

use crate::faults::kill_processes;
use crate::lab::Lab;

/// One BatchJob.
pub struct Job<'a> {
    lab: &'a Lab,
    pub name: String,
    uid: String,
}

impl<'a> Job<'a> {
    pub fn new(lab: &'a Lab, name: &str, uid: String) -> Job<'a> {
        Job {
            lab,
            name: name.to_owned(),
            uid,
        }
    }

    /// One that somebody else has applied.
    pub async fn find(lab: &'a Lab, name: &str) -> Job<'a> {
        let object = lab.jobs().get(name).await;
        let object = object.unwrap_or_else(|error| panic!("{name}: {error}"));
        Job::new(lab, name, object.uid().unwrap_or_default())
    }

    /// Waits until it has no pods.
    pub async fn until_no_pods(&self) {
        let list = ListParams::default().labels(&format!("trireme.dev/job={}", self.name));
        for pod in self.lab.api::<Pod>().list(&list).await.expect("pods can be listed") {
            let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
            let gone = self
                .lab
                .watched(self.lab.api::<Pod>(), &name, conditions::is_deleted(&uid));
            drop(self.lab.within(&format!("the end of pod {name}"), gone).await);
        }
    }

    /// Waits until its status is as `reached` says, and gives it.
    pub async fn until(&self, what: &str, reached: impl Fn(&Value) -> bool) -> Value {
        let holds = |object: Option<&DynamicObject>| object.is_some_and(|object| reached(&object.data["status"]));
        let waiting = self.lab.watched(self.lab.jobs(), &self.name, holds);
        let object = self.lab.within(&format!("{what} of {}", self.name), waiting).await;
        object.unwrap_or_else(|| panic!("{} is gone", self.name)).data["status"].clone()
    }

    /// Waits until a condition holds.
    pub async fn condition(&self, kind: &str, status: &str) -> Value {
        self.until(&format!("{kind}={status}"), |seen| {
            condition(seen, kind)["status"] == status
        })
        .await
    }

    /// Waits for its good end, and gives its status.
    pub async fn complete(&self) -> Value {
        let status = self
            .until("the end", |status| status["completionTime"].is_string())
            .await;
        assert_eq!(
            status["state"],
            "Complete",
            "{}\n{}",
            pretty(&status),
            self.lab.picture().await
        );
        status
    }

    /// Waits for its bad end, for `reason`, and gives its status.
    pub async fn fails(&self, reason: &str) -> Value {
        let status = self
            .until("the end", |status| status["completionTime"].is_string())
            .await;
        assert_eq!(status["state"], "Failed", "{}", pretty(&status));
        assert_eq!(condition(&status, "Failed")["reason"], reason, "{}", pretty(&status));
        status
    }

    /// Its status now.
    pub async fn status(&self) -> Value {
        let object = self.lab.jobs().get(&self.name).await;
        object.unwrap_or_else(|error| panic!("{}: {error}", self.name)).data["status"].clone()
    }

    /// Its pods of a role that are not on their way out, in the order of their names.
    pub async fn pods(&self, role: &str) -> Vec<Pod> {
        let list = ListParams::default().labels(&format!("trireme.dev/job={},trireme.dev/role={role}", self.name));
        let pods = self.lab.api::<Pod>().list(&list).await.expect("pods can be listed");
        pods.into_iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .collect()
    }

    /// Waits until a pod is there and `reached` says so.
    pub async fn until_pod(&self, pod: &str, what: &str, reached: impl Fn(&Pod) -> bool) -> Pod {
        let holds = |seen: Option<&Pod>| seen.is_some_and(&reached);
        let waiting = self.lab.watched(self.lab.api::<Pod>(), pod, holds);
        let seen = self.lab.within(&format!("{what} of pod {pod}"), waiting).await;
        seen.unwrap_or_else(|| panic!("pod {pod} is gone"))
    }

    /// Waits until a pod of the job runs.
    pub async fn until_runs(&self, pod: &str) -> Pod {
        self.until_pod(pod, "the start", |pod| {
            let statuses = pod
                .status
                .as_ref()
                .and_then(|status| status.container_statuses.as_ref());
            statuses
                .into_iter()
                .flatten()
                .any(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))
        })
        .await
    }

    /// Changes fields of its spec.
    pub async fn patch(&self, spec: Value) {
        if let Err(error) = self.try_patch(spec).await {
            panic!("{} was not changed: {error}", self.name);
        }
    }

    /// The same, for a change that may be refused.
    ///
    /// # Errors
    /// The API server's words.
    pub async fn try_patch(&self, spec: Value) -> Result<(), String> {
        let patch = Patch::Merge(json!({ "spec": spec }));
        let patched = self.lab.jobs().patch(&self.name, &PatchParams::default(), &patch).await;
        match patched {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) => Err(status.message.clone()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Kills the processes of its drivers, with SIGKILL.
    pub async fn kill_driver(&self) {
        let status = self.status().await;
        let run = status["run"].as_str().unwrap_or_default();
        let killed = kill_processes(&format!("trireme driver .*--run={run}"));
        assert!(!run.is_empty() && killed > 0, "no driver of {} runs here", self.name);
    }

    /// Deletes it, and waits until it is gone.
    pub async fn delete(&self) {
        let deleted = self.lab.jobs().delete(&self.name, &DeleteParams::background()).await;
        deleted.unwrap_or_else(|error| panic!("{} cannot be deleted: {error}", self.name));
        self.until_gone().await;
    }

    /// Waits until it is gone.
    pub async fn until_gone(&self) {
        let gone = self
            .lab
            .watched(self.lab.jobs(), &self.name, conditions::is_deleted(&self.uid));
        drop(self.lab.within(&format!("the removal of {}", self.name), gone).await);
    }

    /// Where its driver runs: the pod's name, and its node's.
    pub async fn driver(&self, attempt: u32) -> (String, String) {
        let name = format!("{}-driver-{attempt}", self.name);
        let pod = self.until_runs(&name).await;
        let node = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.clone())
            .expect("a pod that runs is on a node");
        (pod.name_any(), node)
    }
}

/// The condition of a kind.
pub fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions
        .iter()
        .find(|condition| condition["type"] == kind)
        .unwrap_or(&Value::Null)
}

/// A status for people.
pub fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
