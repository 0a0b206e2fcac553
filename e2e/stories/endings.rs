//! A job that is deleted is gone within its grace time, whatever it was doing, and takes everything with it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use trireme_e2e::{Job, Lab, Operator, Store, condition, kubectl};

use crate::copy;
use crate::pods::{NO_ENGINE, nowhere, waiting};

/// The longest grace time of a pod, an executor's, and what the machine of the tests adds to it.
const GRACE: Duration = Duration::from_secs(75 + 15);

fn progressing(status: &Value, reason: &str) -> bool {
    condition(status, "Progressing")["reason"] == reason
}

/// Deletes it, and measures until nothing is left.
async fn delete(lab: &Lab, job: &Job<'_>, state: &str) {
    let begun = Instant::now();
    job.delete().await;
    lab.assert_empty().await;
    let took = begun.elapsed();
    println!("deleted {state}: gone after {:.1} s", took.as_secs_f64());
    assert!(took < GRACE, "{state}: gone only after {took:?}");
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn deleted_before_its_pods_run() {
    let lab = Lab::open("delete-early").await;
    let job = lab.apply("at-once", json!({ "sql": "SELECT 1" })).await;
    delete(&lab, &job, "at once").await;

    let job = lab
        .apply("pending", json!({ "sql": "SELECT 1", "podTemplate": nowhere() }))
        .await;
    job.until("no node", |status| progressing(status, "Unschedulable"))
        .await;
    delete(&lab, &job, "unschedulable").await;

    let job = lab
        .apply("image", json!({ "sql": "SELECT 1", "image": "trireme.invalid/none:1" }))
        .await;
    job.until("no image", |status| progressing(status, "ImagePullFailed"))
        .await;
    delete(&lab, &job, "without an image").await;

    let job = lab
        .apply("suspended", json!({ "sql": "SELECT 1", "suspend": true }))
        .await;
    job.condition("Suspended", "True").await;
    delete(&lab, &job, "suspended").await;
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn deleted_while_it_runs() {
    let lab = Lab::open("delete-running").await;
    let store = Store::open(&lab).await;
    let job = lab.apply("waiting", waiting()).await;
    job.until("the driver", |status| status["state"] == "Running").await;
    delete(&lab, &job, "without executors").await;

    let job = copy::under_way(&lab, &store, 1).await;
    delete(&lab, &job, "at work").await;

    // What the operator does not get to see, the owner references see to.
    let job = copy::under_way(&lab, &store, 1).await;
    Operator::kill();
    delete(&lab, &job, "at work, without an operator").await;

    let job = copy::under_way(&lab, &store, 1).await;
    job.patch(json!({ "suspend": true })).await;
    delete(&lab, &job, "about to be suspended").await;

    let job = copy::under_way(&lab, &store, 1).await;
    let begun = Instant::now();
    let foreground = ["delete", "batchjob", "copy", "--cascade=foreground", "--timeout=120s"];
    kubectl(&[&["--namespace", lab.namespace.as_str()][..], &foreground].concat()).unwrap();
    lab.assert_empty().await;
    assert!(
        begun.elapsed() < GRACE,
        "in the foreground: gone only after {:?}",
        begun.elapsed()
    );
    drop(job);
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn deleted_after_its_end() {
    let lab = Lab::open("delete-late").await;
    let job = lab.apply("complete", json!({ "sql": "SELECT 1" })).await;
    job.complete().await;
    delete(&lab, &job, "complete").await;

    let job = lab
        .apply("failed", json!({ "sql": "SELECT nothing FROM nowhere" }))
        .await;
    job.fails("JobFailed").await;
    delete(&lab, &job, "failed").await;
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn deleted_between_two_drivers() {
    let lab = Lab::open("delete-retry").await;
    // An image without the engine: its container cannot start, and the next one waits.
    let backoff = json!({ "initial": "1m", "max": "1m" });
    let spec = json!({ "sql": "SELECT 1", "image": NO_ENGINE, "retries": { "backoff": backoff } });
    let job = lab.apply("retrying", spec).await;
    job.until("a retry", |status| progressing(status, "Retrying")).await;
    delete(&lab, &job, "between two drivers").await;
    lab.close().await;
}
