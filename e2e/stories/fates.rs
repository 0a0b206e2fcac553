//! The fate of pods: whatever takes them away, the job ends with the right table, and the right budget pays.

use std::collections::HashSet;

use kube::ResourceExt;
use serde_json::{Value, json};
use trireme_e2e::{Job, Lab, Node, Operator, Store, kill_processes, kubectl};

/// Rows of the table that the jobs of these stories write.
const LINES: u64 = 6_001_215;

/// A job of some seconds that writes a table to the store. Nodes of the test cluster have room for two of its pods at most:
/// stories that take a node away ask for one executor.
async fn copy<'a>(lab: &'a Lab, store: &Store, executors: u32) -> Job<'a> {
    let mut spec = store.fields();
    spec["sql"] = json!(format!(
        "COPY (SELECT l_orderkey, l_linenumber, l_quantity FROM tpch.sf1.lineitem ORDER BY l_orderkey, l_linenumber) \
         TO '{}' STORED AS PARQUET;\nSELECT 1 AS done",
        store.url("lines")
    ));
    spec["executors"] = json!({ "min": executors, "memory": "1Gi" });
    spec["driver"] = json!({ "memory": "1Gi" });
    lab.apply("copy", spec).await
}

/// The table is there once, whole.
fn check(store: &Store) {
    let rows = store.query(&format!(
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}'; \
         SELECT count(*) AS lines, count(DISTINCT l_orderkey * 8 + l_linenumber) AS keys FROM t",
        store.url("lines")
    ));
    assert_eq!(
        (rows[0]["lines"].as_u64(), rows[0]["keys"].as_u64()),
        (Some(LINES), Some(LINES)),
        "{rows}"
    );
}

fn charged(status: &Value) -> (u64, u64) {
    let count = |budget: &str| status["retries"][budget].as_u64().unwrap_or_default();
    (count("application"), count("infrastructure"))
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_killed_driver_is_followed_by_another() {
    let lab = Lab::open("kill-driver").await;
    let store = Store::open(&lab).await;
    let job = copy(&lab, &store, 2).await;
    job.condition("Ready", "True").await;
    let run = job.status().await["run"].as_str().unwrap().to_owned();
    assert!(
        kill_processes(&format!("trireme driver .*--run={run}")) > 0,
        "no driver runs here"
    );
    let status = job.complete().await;
    assert_eq!(charged(&status), (0, 1), "{status:#}");
    assert_eq!(status["driver"]["attempt"], 2);
    check(&store);
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_deleted_driver_is_followed_by_another() {
    let lab = Lab::open("delete-driver").await;
    let store = Store::open(&lab).await;
    let job = copy(&lab, &store, 2).await;
    job.condition("Ready", "True").await;
    kubectl(&[
        "--namespace",
        &lab.namespace,
        "delete",
        "pod",
        "copy-driver-1",
        "--wait=false",
    ])
    .unwrap();
    let status = job.complete().await;
    assert_eq!(charged(&status), (0, 1), "{status:#}");
    check(&store);
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn executors_killed_in_a_loop_cost_nobody_anything() {
    let lab = Lab::open("kill-executors").await;
    let store = Store::open(&lab).await;
    let job = copy(&lab, &store, 2).await;
    let mut killed = HashSet::new();
    for _ in 0..4 {
        let status = job
            .until("a fresh executor", |status| {
                status["executors"]["ready"].as_u64() > Some(0) || status["completionTime"].is_string()
            })
            .await;
        if status["completionTime"].is_string() {
            break;
        }
        let pods = job.pods("executor").await;
        let Some(victim) = pods
            .iter()
            .map(ResourceExt::name_any)
            .find(|name| !killed.contains(name))
        else {
            continue;
        };
        job.until_runs(&victim).await;
        kill_processes(&format!("trireme worker .*--name={victim}"));
        killed.insert(victim);
    }
    let status = job.complete().await;
    assert_eq!(charged(&status), (0, 0), "{status:#}");
    assert!(status["executors"]["lost"].as_u64() >= Some(1), "{status:#}");
    check(&store);
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_drained_node_takes_nothing_with_it() {
    let lab = Lab::open("drain").await;
    let store = Store::open(&lab).await;
    let job = copy(&lab, &store, 1).await;
    job.condition("Ready", "True").await;
    let (_, node) = job.driver(1).await;
    let selector = format!("--pod-selector=trireme.dev/job={}", job.name);
    kubectl(&[
        "drain",
        &node,
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--force",
        &selector,
    ])
    .unwrap();
    let status = job.complete().await;
    kubectl(&["uncordon", &node]).unwrap();
    assert_eq!(charged(&status).0, 0, "{status:#}");
    check(&store);
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn power_loss_of_the_drivers_node() {
    let lab = Lab::open("power").await;
    let store = Store::open(&lab).await;
    let job = copy(&lab, &store, 1).await;
    job.condition("Ready", "True").await;
    let (_, node) = job.driver(1).await;
    let mut node = Node::named(&node);
    node.crash();
    let status = job.complete().await;
    node.mend();
    assert_eq!(charged(&status), (0, 1), "{status:#}");
    check(&store);
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_driver_that_is_cut_off_commits_nothing_twice() {
    let lab = Lab::open("partition").await;
    let store = Store::open(&lab).await;
    let job = copy(&lab, &store, 1).await;
    job.condition("Ready", "True").await;
    let (_, node) = job.driver(1).await;
    let mut node = Node::named(&node);
    node.cut();
    job.until("a second driver", |status| {
        status["driver"]["attempt"] == 2 || status["completionTime"].is_string()
    })
    .await;
    node.mend();
    let status = job.complete().await;
    assert_eq!(charged(&status).0, 0, "{status:#}");
    check(&store);
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn an_operator_that_is_killed_loses_no_job() {
    let lab = Lab::open("kill-operator").await;
    let mut killed = 0;
    // Two at a time: that is the room there is.
    for round in 0..3 {
        let mut jobs = Vec::new();
        for number in [round * 2, round * 2 + 1] {
            let spec = json!({ "sql": format!("SELECT {number} AS number, count(*) AS c FROM tpch.sf1.orders") });
            jobs.push((number, lab.apply(&format!("job-{number}"), spec).await));
            // The second time it may not be back yet.
            killed += Operator::kill();
        }
        for (number, job) in jobs {
            let status = job.complete().await;
            assert_eq!(status["driver"]["attempt"], 1, "{status:#}");
            let preview = status["result"]["preview"].as_str().unwrap_or_default();
            assert!(preview.contains(&number.to_string()), "{status:#}");
            job.delete().await;
        }
    }
    assert!(killed > 0, "no operator runs here");
    lab.close().await;
}
