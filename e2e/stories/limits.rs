//! What a cluster refuses, and what a person asks for: told with its cause within seconds, and never in a hot loop.

use serde_json::{Value, json};
use trireme_e2e::{Job, Lab, condition, kubectl};

use crate::copy::charged;
use crate::pods::waiting;

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
    // The way out that the status names.
    job.patch(json!({ "image": null })).await;
    let status = job.complete().await;
    assert_eq!(status["driver"]["attempt"], 2, "{status:#}");
    assert_eq!(charged(&status), (0, 0), "{status:#}");
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
    job.patch(json!({ "driver": { "cores": 1 } })).await;
    let status = job.complete().await;
    assert_eq!(charged(&status), (0, 0), "{status:#}");
    lab.close().await;
}

/// A driver whose executors find no room gives its own back for a while, and nobody is charged.
#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn executors_that_no_node_takes() {
    let lab = Lab::open("no-room").await;
    let mut spec = endless();
    spec["executors"] = json!({ "cores": 200 });
    let job = lab.apply("wide", spec).await;
    stuck(&job, "Unschedulable").await;
    let status = stuck(&job, "WaitingForRoom").await;
    assert_eq!(status["driver"]["gaveWay"], 1, "{status:#}");
    let status = job
        .until("another driver", |status| status["driver"]["attempt"] == 2)
        .await;
    assert_eq!(charged(&status), (0, 0), "{status:#}");
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

/// What a pod refers to is refused as a pod is.
#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_quota_of_services() {
    let lab = Lab::open("quota-of-services").await;
    let quota = |verb: &[&str]| {
        kubectl(&[&["--namespace", lab.namespace.as_str()], verb].concat()).unwrap();
    };
    quota(&["create", "quota", "q", "--hard=services=0"]);
    let job = lab.apply("quota", json!({ "sql": "SELECT 1 AS one" })).await;
    let status = stuck(&job, "QuotaExceeded").await;
    let message = condition(&status, "Progressing")["message"].to_string();
    assert!(message.contains("Service quota-driver"), "{message}");
    quota(&["delete", "quota", "q"]);
    job.complete().await;
    lab.close().await;
}

/// A Secret or a Service that has the name of the job's own stays what it is, and whose it is.
#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn names_that_are_taken() {
    let lab = Lab::open("names").await;
    let kubectl =
        |arguments: &[&str]| kubectl(&[&["--namespace", lab.namespace.as_str()], arguments].concat()).unwrap();
    kubectl(&[
        "create",
        "secret",
        "generic",
        "nightly-job",
        "--from-literal=key=theirs",
    ]);
    let job = lab.apply("nightly", json!({ "sql": "SELECT 1 AS one" })).await;
    let status = stuck(&job, "NameTaken").await;
    let message = condition(&status, "Progressing")["message"].to_string();
    assert!(message.contains("Secret nightly-job"), "{message}");
    let theirs = kubectl(&[
        "get",
        "secret",
        "nightly-job",
        "-o",
        "jsonpath={.data.key} {.metadata.ownerReferences}",
    ]);
    assert_eq!(theirs.trim(), "dGhlaXJz");
    kubectl(&["delete", "secret", "nightly-job"]);
    job.complete().await;

    kubectl(&["create", "service", "clusterip", "weekly-driver", "--tcp=80"]);
    let job = lab.apply("weekly", json!({ "sql": "SELECT 1 AS one" })).await;
    let status = stuck(&job, "NameTaken").await;
    let message = condition(&status, "Progressing")["message"].to_string();
    assert!(message.contains("Service weekly-driver"), "{message}");
    let theirs = kubectl(&[
        "get",
        "service",
        "weekly-driver",
        "-o",
        "jsonpath={.spec.ports[0].port} {.metadata.ownerReferences}",
    ]);
    assert_eq!(theirs.trim(), "80");
    kubectl(&["delete", "service", "weekly-driver"]);
    job.complete().await;
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

/// What a statement creates would lie on the disk of one pod.
#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_table_that_is_created_needs_a_storage() {
    let lab = Lab::open("storage").await;
    let sql = "CREATE TABLE t AS SELECT 1 AS a; SELECT * FROM t";
    let job = lab.apply("storage", json!({ "sql": sql })).await;
    let status = job.fails("JobFailed").await;
    let error = status["lastError"].to_string();
    assert!(
        error.contains("statement 1 creates a table") && error.contains("spec.storage"),
        "{error}"
    );
    lab.close().await;
}

/// Objects that are refused, and others that are changed while they run: between them they break every rule of the definition.
fn invalid() -> (Vec<(&'static str, Value)>, Vec<Value>) {
    let with = |name: &str, value: Value| {
        let mut spec = json!({ "sql": "SELECT 1" });
        spec[name] = value;
        spec
    };
    let table = |compression: Value| json!([{ "name": "t", "location": "s3://b/t", "format": "parquet", "compression": compression }]);
    let result = |format: &str, compression: &str| {
        with(
            "result",
            json!({ "location": "s3://b/r", "format": format, "compression": compression }),
        )
    };
    let made = vec![
        ("both", with("sqlFrom", json!({ "file": "x" }))),
        ("neither", json!({})),
        (
            "two-sources",
            json!({ "sqlFrom": { "file": "x", "configMapKeyRef": { "name": "x", "key": "x" } } }),
        ),
        ("max", with("executors", json!({ "min": 4, "max": 2 }))),
        ("a.b", json!({ "sql": "SELECT 1" })),
        (
            "backoff",
            with("retries", json!({ "backoff": { "initial": "2m", "max": "1m" } })),
        ),
        ("table", with("tables", table(json!("gzip")))),
        ("parquet", result("parquet", "xz")),
        ("arrow", result("arrow", "gzip")),
        ("csv", result("csv", "snappy")),
    ];
    let changed = vec![
        json!({ "sql": "SELECT 2" }),
        json!({ "sql": null, "sqlFrom": { "file": "x" } }),
        json!({ "tables": table(Value::Null) }),
        json!({ "storage": "s3://b/s" }),
        json!({ "result": { "location": "s3://b/r" } }),
        json!({ "credentials": { "name": "other" } }),
    ];
    (made, changed)
}

/// What the rules of a schema say, at whatever depth: one text of each rule, or several of which one is said.
fn messages(schema: &Value, into: &mut Vec<Vec<String>>) {
    match schema {
        Value::Object(fields) => {
            for rule in fields
                .get("x-kubernetes-validations")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let quoted = rule["messageExpression"]
                    .as_str()
                    .map(|expression| expression.split('\'').skip(1).step_by(2));
                let said = quoted.map(|texts| texts.map(str::to_owned).collect());
                into.push(said.unwrap_or_else(|| vec![rule["message"].as_str().unwrap_or_default().to_owned()]));
            }
            fields.values().for_each(|field| messages(field, into));
        }
        Value::Array(items) => items.iter().for_each(|item| messages(item, into)),
        _ => {}
    }
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn every_rule_refuses_in_its_words() {
    let lab = Lab::open("invalid").await;
    let (made, changed) = invalid();
    let mut told = Vec::new();
    for (name, spec) in made {
        let refused = lab.try_apply(name, spec).await.err();
        told.push(refused.unwrap_or_else(|| panic!("{name} was let in")));
    }
    let job = lab.apply("running", waiting()).await;
    job.until("the start", |status| status["startTime"].is_string()).await;
    for change in changed {
        let refused = job.try_patch(change.clone()).await.err();
        told.push(refused.unwrap_or_else(|| panic!("{change} was let in")));
    }
    // What may be changed, may be.
    job.patch(json!({ "ttlSecondsAfterFinished": 60, "activeDeadlineSeconds": 3600 }))
        .await;
    let definition = kubectl(&["get", "crd", "batchjobs.trireme.dev", "-o", "json"]).unwrap();
    let mut rules = Vec::new();
    messages(&serde_json::from_str(&definition).unwrap(), &mut rules);
    assert!(rules.len() >= 15, "{rules:#?}");
    for rule in rules {
        let said = rule.iter().any(|text| told.iter().any(|told| told.contains(text)));
        assert!(said, "nothing was refused with {rule:?}:\n{}", told.join("\n"));
    }
    let unknown = lab
        .try_apply("unknown", json!({ "sql": "SELECT 1", "executers": {} }))
        .await
        .err();
    assert!(unknown.is_some_and(|told| told.contains("executers")));
    lab.close().await;
}
