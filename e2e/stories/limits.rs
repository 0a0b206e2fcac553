//! What a cluster refuses, and what a person asks for: told with its cause within seconds, and never in a hot loop.

use serde_json::{Value, json};
use trireme_e2e::{Job, Lab, kubectl};

/// A job that stays as it is: its driver runs and waits for an executor that no node takes, and costs the machine nothing.
fn waiting() -> Value {
    json!({
        "sql": "SELECT 1 AS one",
        "executors": { "podTemplate": { "spec": { "nodeSelector": { "trireme.dev/no-such-node": "true" } } } },
    })
}

/// A job that keeps one core busy for many minutes.
fn endless() -> Value {
    json!({ "sql": "SELECT sum(l_tax) FROM tpch.sf1000.lineitem" })
}

async fn stuck(job: &Job<'_>, reason: &str) -> Value {
    job.until(reason, |status| {
        let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        conditions.iter().any(|condition| {
            condition["type"] == "Progressing" && condition["status"] == "False" && condition["reason"] == reason
        })
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn an_image_that_is_not_there() {
    let lab = Lab::open("image").await;
    let job = lab
        .apply("image", json!({ "sql": "SELECT 1", "image": "trireme.invalid/none:1" }))
        .await;
    stuck(&job, "ImagePullFailed").await;
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_pod_that_no_node_takes() {
    let lab = Lab::open("unschedulable").await;
    let job = lab
        .apply("big", json!({ "sql": "SELECT 1", "driver": { "cores": 200 } }))
        .await;
    stuck(&job, "Unschedulable").await;
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_quota_that_is_raised() {
    let lab = Lab::open("quota").await;
    kubectl(&["--namespace", &lab.namespace, "create", "quota", "q", "--hard=pods=0"]).unwrap();
    let job = lab.apply("quota", json!({ "sql": "SELECT 1 AS one" })).await;
    stuck(&job, "QuotaExceeded").await;
    kubectl(&["--namespace", &lab.namespace, "delete", "quota", "q"]).unwrap();
    let status = job.complete().await;
    assert!(status["retries"]["scheduling"].as_u64() >= Some(1), "{status:#}");
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn suspended_and_resumed() {
    let lab = Lab::open("suspend").await;
    let mut spec = waiting();
    spec["suspend"] = json!(true);
    let job = lab.apply("suspend", spec).await;
    job.condition("Suspended", "True").await;
    assert!(job.pods("driver").await.is_empty());
    job.patch(json!({ "suspend": false })).await;
    job.until("the driver", |status| status["state"] == "Running").await;
    job.patch(json!({ "suspend": true })).await;
    let status = job.condition("Suspended", "True").await;
    assert_eq!(status["retries"]["infrastructure"], 0, "{status:#}");
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn scaled_up_and_down() {
    let lab = Lab::open("scale").await;
    let job = lab.apply("scale", endless()).await;
    job.condition("Ready", "True").await;
    let scale = |count: &str| {
        kubectl(&[
            "--namespace",
            &lab.namespace,
            "scale",
            "batchjob/scale",
            &format!("--replicas={count}"),
        ])
    };
    scale("3").unwrap();
    job.until("three executors", |status| status["executors"]["ready"] == 3)
        .await;
    scale("1").unwrap();
    let status = job
        .until("one executor", |status| status["executors"]["summary"] == "1/1")
        .await;
    assert_eq!(status["executors"]["lost"], 0, "{status:#}");
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_deadline_ends_a_job() {
    let lab = Lab::open("deadline").await;
    let mut spec = waiting();
    spec["activeDeadlineSeconds"] = json!(8);
    let job = lab.apply("deadline", spec).await;
    job.fails("DeadlineExceeded").await;
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_finished_job_goes_after_its_time() {
    let lab = Lab::open("ttl").await;
    let job = lab
        .apply("ttl", json!({ "sql": "SELECT 1 AS one", "ttlSecondsAfterFinished": 1 }))
        .await;
    job.until_gone().await;
    lab.assert_empty().await;
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_wrong_statement_is_the_users() {
    let lab = Lab::open("sql").await;
    let job = lab.apply("sql", json!({ "sql": "SELECT nothing FROM nowhere" })).await;
    let status = job.fails("JobFailed").await;
    assert_eq!(status["lastError"]["fault"], "User", "{status:#}");
    assert_eq!(status["driver"]["attempt"], 1, "{status:#}");
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn what_cannot_be_run_is_refused_with_its_reason() {
    let lab = Lab::open("invalid").await;
    for (name, spec, told) in [
        (
            "both",
            json!({ "sql": "SELECT 1", "sqlFrom": { "file": "x" } }),
            "both sql and sqlFrom are set",
        ),
        ("neither", json!({}), "neither sql nor sqlFrom is set"),
        (
            "max",
            json!({ "sql": "SELECT 1", "executors": { "min": 4, "max": 2 } }),
            "max must be at least min",
        ),
        ("unknown", json!({ "sql": "SELECT 1", "executers": {} }), "executers"),
        ("a.b", json!({ "sql": "SELECT 1" }), "the name must be"),
        (
            "backoff",
            json!({ "sql": "SELECT 1", "retries": { "backoff": { "initial": "2m", "max": "1m" } } }),
            "initial must not be longer than max",
        ),
    ] {
        let refused = lab
            .try_apply(name, spec)
            .await
            .err()
            .unwrap_or_else(|| panic!("{name} was let in"));
        assert!(refused.contains(told), "{name}: {refused}");
    }
    let job = lab
        .apply(
            "template",
            json!({ "sql": "SELECT 1", "podTemplate": { "spec": { "affinty": { "a": 1 } } } }),
        )
        .await;
    let status = job.condition("Accepted", "False").await;
    assert!(status.to_string().contains("affinty"), "{status:#}");
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn what_a_running_job_was_made_of_does_not_change() {
    let lab = Lab::open("immutable").await;
    let job = lab.apply("immutable", waiting()).await;
    job.until("the start", |status| status["startTime"].is_string()).await;
    let refused = job.try_patch(json!({ "sql": "SELECT 2" })).await.unwrap_err();
    assert!(
        refused.contains("spec.sql cannot be changed while the job runs"),
        "{refused}"
    );
    job.patch(json!({ "ttlSecondsAfterFinished": 60 })).await;
    lab.close().await;
}
