//! What can keep a job from running, each told by the reason that is published for it. Others are met in other stories; at the
//! end of `e2e/run` none may be missing.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams};
use serde_json::{Value, json};
use trireme_e2e::{Job, Lab, condition, kubectl};

use crate::pods::{NO_ENGINE, waiting};

/// The container of a pod template that changes the image of the engine to one that has no engine.
fn no_engine() -> Value {
    json!({ "spec": { "containers": [{ "name": "trireme", "image": NO_ENGINE }] } })
}

async fn told(job: &Job<'_>, kind: &str, reason: &str) -> Value {
    job.until(reason, |status| condition(status, kind)["reason"] == reason)
        .await
}

/// The events of a reason that the job has had.
fn events(lab: &Lab, reason: &str) -> String {
    let selector = format!("reason={reason},involvedObject.kind=BatchJob");
    kubectl(&[
        "--namespace",
        &lab.namespace,
        "get",
        "events",
        "--field-selector",
        &selector,
    ])
    .unwrap()
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_pod_template_that_no_pod_has() {
    let lab = Lab::open("template").await;
    let template = json!({ "spec": { "affinty": { "a": 1 } } });
    let job = lab
        .apply("template", json!({ "sql": "SELECT 1", "podTemplate": template }))
        .await;
    let status = told(&job, "Accepted", "InvalidSpec").await;
    assert!(
        condition(&status, "Accepted")["message"]
            .to_string()
            .contains("affinty"),
        "{status:#}"
    );
    lab.close().await;
}

/// A job that runs is looked after though its spec has become one that cannot be run.
#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_wrong_edit_of_a_job_that_runs() {
    let lab = Lab::open("edit").await;
    let job = lab.apply("edited", waiting()).await;
    job.until("the driver", |status| status["state"] == "Running").await;
    let template = |spec: Value| json!({ "driver": { "podTemplate": { "spec": spec } } });
    job.patch(template(json!({ "affinty": { "a": 1 } }))).await;
    told(&job, "Accepted", "InvalidSpec").await;
    job.kill_driver().await;
    let status = told(&job, "Progressing", "InvalidSpec").await;
    assert_eq!(status["driver"]["attempt"], 1, "{status:#}");
    job.patch(template(json!({ "affinty": null }))).await;
    let status = job
        .until("another driver", |status| status["driver"]["attempt"] == 2)
        .await;
    assert_eq!(condition(&status, "Accepted")["status"], "True", "{status:#}");
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn statements_that_come_later() {
    let lab = Lab::open("sql-from").await;
    let from = json!({ "configMapKeyRef": { "name": "statements", "key": "job.sql" } });
    let job = lab.apply("later", json!({ "sqlFrom": from })).await;
    told(&job, "Accepted", "SqlNotFound").await;
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some("statements".to_owned()),
            ..ObjectMeta::default()
        },
        data: Some([("job.sql".to_owned(), "SELECT 'from a map' AS text".to_owned())].into()),
        ..ConfigMap::default()
    };
    lab.api::<ConfigMap>()
        .create(&PostParams::default(), &map)
        .await
        .unwrap();
    let status = job.complete().await;
    assert!(
        status["result"]["preview"].to_string().contains("from a map"),
        "{status:#}"
    );
    lab.close().await;
}

/// The definition of BatchJobs as it was, put back when this is dropped. Changed in the name of whoever installed it, who would
/// otherwise find that somebody else has a hand in it.
struct Definition {
    manager: String,
    object: Value,
}

impl Definition {
    fn now() -> Definition {
        let command = [
            "get",
            "crd",
            "batchjobs.trireme.dev",
            "-o",
            "json",
            "--show-managed-fields",
        ];
        let object: Value = serde_json::from_str(&kubectl(&command).unwrap()).unwrap();
        let (metadata, none) = (&object["metadata"], Vec::new());
        let managers = metadata["managedFields"].as_array().unwrap_or(&none);
        let applied = managers.iter().find(|manager| manager["operation"] == "Apply");
        let manager = applied
            .and_then(|manager| manager["manager"].as_str())
            .unwrap_or("kubectl");
        Definition {
            manager: manager.to_owned(),
            object: json!({
                "apiVersion": object["apiVersion"],
                "kind": object["kind"],
                "metadata": { "name": metadata["name"], "labels": metadata["labels"], "annotations": metadata["annotations"] },
                "spec": object["spec"],
            }),
        }
    }

    fn put(&self, object: &Value) -> Result<String, String> {
        let file = std::env::temp_dir().join(format!("trireme-e2e-{}.json", std::process::id()));
        std::fs::write(&file, object.to_string()).map_err(|error| error.to_string())?;
        let manager = format!("--field-manager={}", self.manager);
        let path = file.display().to_string();
        let put = kubectl(&["apply", "--server-side", "--force-conflicts", &manager, "-f", &path]);
        drop(std::fs::remove_file(&file));
        put
    }
}

impl Drop for Definition {
    fn drop(&mut self) {
        if let Err(error) = self.put(&self.object) {
            eprintln!("the definition was not put back: {error}");
        }
    }
}

/// Schema and operator of different versions: one that is older lets in what the operator cannot read.
#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn an_object_that_cannot_be_read_stops_no_other() {
    let lab = Lab::open("unreadable").await;
    let strict = Definition::now();
    let mut loose = strict.object.clone();
    loose["spec"]["versions"][0]["schema"] = json!({ "openAPIV3Schema": {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
    } });
    strict.put(&loose).unwrap();
    let bad = loop {
        // The API server takes a moment to go by the new schema.
        match lab.try_apply("unreadable", json!({ "sql": ["SELECT 1"] })).await {
            Ok(job) => break job,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    told(&bad, "Accepted", "UnreadableObject").await;
    drop(strict);
    let good = lab.apply("readable", json!({ "sql": "SELECT 1 AS one" })).await;
    good.complete().await;
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_container_that_cannot_be_made() {
    let lab = Lab::open("container").await;
    let from = json!({ "configMapKeyRef": { "name": "nothing", "key": "nothing" } });
    let container = json!({ "name": "trireme", "env": [{ "name": "NOTHING", "valueFrom": from }] });
    let template = json!({ "spec": { "containers": [container] } });
    let job = lab
        .apply("container", json!({ "sql": "SELECT 1", "podTemplate": template }))
        .await;
    told(&job, "Progressing", "ContainerFailed").await;
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_secret_that_is_not_there() {
    let lab = Lab::open("no-secret").await;
    let spec = json!({ "sql": "SELECT 1", "credentials": { "name": "nothing" } });
    let job = lab.apply("no-secret", spec).await;
    told(&job, "Progressing", "SlowStart").await;
    lab.close().await;
}

/// The namespace enforces Pod Security "restricted", and this is not.
#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_pod_that_a_policy_refuses() {
    let lab = Lab::open("policy").await;
    let volume = json!({ "name": "host", "hostPath": { "path": "/" } });
    let spec = json!({ "sql": "SELECT 1", "podTemplate": { "spec": { "volumes": [volume] } }, "retries": { "scheduling": 0 } });
    let job = lab.apply("policy", spec).await;
    let status = job.fails("SchedulingRetriesExhausted").await;
    assert!(
        condition(&status, "Failed")["message"].to_string().contains("hostPath"),
        "{status:#}"
    );
    let patient = json!({ "sql": "SELECT 1", "podTemplate": { "spec": { "volumes": [{ "name": "host", "hostPath": { "path": "/" } }] } } });
    let job = lab.apply("patient", patient).await;
    told(&job, "Progressing", "PodRefused").await;
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_job_that_runs_again() {
    let lab = Lab::open("again").await;
    let job = lab.apply("again", waiting()).await;
    job.until("the driver", |status| status["state"] == "Running").await;
    job.patch(json!({ "rerunNonce": "2" })).await;
    told(&job, "Progressing", "WaitingForPreviousRun").await;
    let status = job.until("the next run", |status| status["state"] == "Running").await;
    assert!(status["run"].as_str().unwrap_or_default().ends_with("-2"), "{status:#}");
    lab.close().await;
}

/// Drivers that end by themselves, once and once too often.
#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn an_image_without_an_engine() {
    let lab = Lab::open("no-engine").await;
    let retries = json!({ "application": 1, "backoff": { "initial": "1s", "max": "1s" } });
    let job = lab
        .apply(
            "driver",
            json!({ "sql": "SELECT 1", "image": NO_ENGINE, "retries": retries }),
        )
        .await;
    let status = job.fails("ApplicationRetriesExhausted").await;
    assert_eq!(status["retries"]["application"], 1, "{status:#}");
    assert_eq!(status["driver"]["attempt"], 2, "{status:#}");
    assert!(events(&lab, "DriverCrashed").contains("driver-1"), "{status:#}");
    job.delete().await;

    let job = lab
        .apply(
            "executor",
            json!({ "sql": "SELECT 1", "executors": { "podTemplate": no_engine() } }),
        )
        .await;
    let status = job
        .until("crashes", |status| status["executors"]["crashed"].as_u64() >= Some(2))
        .await;
    assert_eq!(status["retries"]["application"], 0, "{status:#}");
    assert!(events(&lab, "ExecutorCrashed").contains("exec-1"), "{status:#}");
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_driver_lost_once_too_often() {
    let lab = Lab::open("lost-driver").await;
    let mut spec = waiting();
    spec["retries"] = json!({ "infrastructure": 0 });
    let job = lab.apply("lost", spec).await;
    job.until("the driver", |status| status["state"] == "Running").await;
    job.kill_driver().await;
    job.fails("InfrastructureRetriesExhausted").await;
    lab.close().await;
}
