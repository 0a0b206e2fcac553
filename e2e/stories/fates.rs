//! The fate of pods: whatever takes them away, the job ends with the right table, and the right budget pays.

use std::collections::HashSet;

use kube::ResourceExt;
use serde_json::json;
use trireme_e2e::{Lab, Node, Store, kill_processes, kubectl};

use crate::copy::{self, charged, check, copy, under_way};
use crate::pods::configured_by;

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_killed_driver_is_followed_by_another() {
    let lab = Lab::open("kill-driver").await;
    let store = Store::open(&lab).await;
    let job = under_way(&lab, &store, 2).await;
    job.kill_driver().await;
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
    let job = under_way(&lab, &store, 2).await;
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
    let job = under_way(&lab, &store, 1).await;
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
    let job = under_way(&lab, &store, 1).await;
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
    let job = under_way(&lab, &store, 1).await;
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

/// The driver on node 1, the executor anywhere else.
fn apart(store: &Store) -> serde_json::Value {
    let mut spec = copy::spec(store, 1);
    spec["driver"]["podTemplate"] = json!({ "spec": { "nodeSelector": { "kubernetes.io/hostname": "node1" } } });
    let elsewhere = json!({ "key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["node1"] });
    spec["executors"]["podTemplate"] = json!({ "spec": { "affinity": { "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [{ "matchExpressions": [elsewhere] }] },
    } } } });
    spec
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn power_loss_of_an_executors_node() {
    let lab = Lab::open("power-executor").await;
    let store = Store::open(&lab).await;
    let job = lab.apply("copy", apart(&store)).await;
    job.condition("Ready", "True").await;
    let executor = job.until_runs("copy-exec-1").await;
    let mut node = Node::named(&executor.spec.and_then(|spec| spec.node_name).unwrap_or_default());
    node.crash();
    let status = job.complete().await;
    node.mend();
    assert_eq!(charged(&status), (0, 0), "{status:#}");
    assert_eq!(status["driver"]["attempt"], 1, "{status:#}");
    assert_eq!(status["executors"]["lost"], 1, "{status:#}");
    check(&store);
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_driver_evicted_for_its_disk_is_followed_by_another() {
    let lab = Lab::open("disk-driver").await;
    let store = Store::open(&lab).await;
    let mut spec = copy::spec(&store, 1);
    spec["driver"]["scratch"] = json!({ "size": "64Mi" });
    // Executors that cannot start at first: a kubelet looks at disks only now and then.
    spec["executors"]["podTemplate"] = configured_by("later");
    let job = lab.apply("copy", spec).await;
    let (name, node) = job.driver(1).await;
    let pod = job.until_runs(&name).await;
    Node::named(&node).fill(&pod, "scratch", 80 << 20);
    let told = job
        .until("an eviction", |status| status["driver"]["attempt"] == 2)
        .await;
    kubectl(&[
        "--namespace",
        &lab.namespace,
        "create",
        "configmap",
        "later",
        "--from-literal=text=now",
    ])
    .unwrap();
    assert_eq!(charged(&told), (0, 1), "{told:#}");
    let status = job.complete().await;
    assert_eq!(charged(&status), (0, 1), "{status:#}");
    let events = kubectl(&[
        "--namespace",
        &lab.namespace,
        "get",
        "events",
        "--field-selector",
        "reason=DriverLost",
    ]);
    let events = events.unwrap();
    assert!(events.contains("exceeds the limit"), "{events}");
    check(&store);
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn an_executor_that_runs_out_of_memory_is_followed_by_a_larger_one() {
    let lab = Lab::open("memory").await;
    let store = Store::open(&lab).await;
    let job = lab.apply("copy", copy::spec_short_of_memory(&store)).await;
    let status = job.complete().await;
    assert_eq!(charged(&status), (0, 0), "{status:#}");
    assert!(status["executors"]["outOfMemory"].as_u64() >= Some(1), "{status:#}");
    assert!(status["executors"]["memory"].is_string(), "{status:#}");
    check(&store);
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn suspended_in_the_middle_and_resumed() {
    let lab = Lab::open("suspend-copy").await;
    let store = Store::open(&lab).await;
    let job = under_way(&lab, &store, 1).await;
    job.patch(json!({ "suspend": true })).await;
    job.condition("Suspended", "True").await;
    for role in ["driver", "executor"] {
        assert!(job.pods(role).await.is_empty(), "a {role} of a suspended job");
    }
    job.patch(json!({ "suspend": false })).await;
    let status = job.complete().await;
    assert_eq!(charged(&status), (0, 0), "{status:#}");
    check(&store);
    lab.close().await;
}

/// On the way down an executor is drained: it finishes what it runs, and what it has made is read before it leaves.
#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn scaled_up_and_down_in_the_middle() {
    let lab = Lab::open("scale-copy").await;
    let store = Store::open(&lab).await;
    let job = lab.apply("copy", copy::spec_of_many_statements(&store)).await;
    job.condition("Ready", "True").await;
    let scale = |count: &str| {
        let replicas = format!("--replicas={count}");
        kubectl(&["--namespace", &lab.namespace, "scale", "batchjob/copy", &replicas])
    };
    scale("2").unwrap();
    job.until("two executors", |status| status["executors"]["ready"] == 2)
        .await;
    scale("1").unwrap();
    let status = job.complete().await;
    assert_eq!(charged(&status), (0, 0), "{status:#}");
    assert_eq!(status["executors"]["highest"], 2, "{status:#}");
    assert_eq!(status["executors"]["lost"], 0, "{status:#}");
    assert_eq!(status["tasksRerun"], 0, "{status:#}");
    check(&store);
    lab.close().await;
}
