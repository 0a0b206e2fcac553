//! The operator and the API server come and go; jobs do not care.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DynamicObject;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use trireme_e2e::{ApiServer, Lab, Operator, Store, Upgrade, condition, kill_processes};

use crate::copy::{charged, check, is_there, under_way};
use crate::pods::{nowhere, waiting_on};

/// Jobs of the story of the killed operator.
const JOBS: usize = 20;

/// Rows of the table that each of them writes.
const LINES: u64 = 60_175;

/// Kills the operator after about a third of the changes that anybody sees: just when it is in the middle of something.
async fn kill_at_random(jobs: Api<DynamicObject>, killed: &AtomicUsize) {
    let changes = watcher(jobs, watcher::Config::default())
        .default_backoff()
        .touched_objects();
    let mut changes = std::pin::pin!(changes);
    while let Some(change) = changes.next().await {
        let dice = uuid::Uuid::new_v4().as_u128() % 3;
        if change.is_ok() && dice == 0 {
            killed.fetch_add(Operator::kill(), Ordering::Relaxed);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: make e2e"]
async fn an_operator_that_is_killed_at_random_loses_no_job() {
    let lab = Lab::open("kill-operator").await;
    let store = Store::open(&lab).await;
    let killed = AtomicUsize::new(0);
    let work = async {
        let mut jobs = Vec::new();
        for number in 0..JOBS {
            let mut spec = store.fields();
            let table = store.url(&format!("lines-{number}"));
            spec["sql"] = json!(format!(
                "COPY (SELECT l_orderkey, l_linenumber FROM tpch.tiny.lineitem) TO '{table}' STORED AS PARQUET; \
                 SELECT {number} AS number"
            ));
            spec["driver"] = json!({ "memory": "512Mi" });
            spec["executors"] = json!({ "memory": "512Mi" });
            jobs.push(lab.apply(&format!("job-{number}"), spec).await);
        }
        for (number, job) in jobs.iter().enumerate() {
            let status = job.complete().await;
            // There is no room for all at once: some of their drivers give way for a while, which nobody is charged for.
            assert_eq!(charged(&status), (0, 0), "{status:#}");
            let preview = status["result"]["preview"].as_str().unwrap_or_default();
            assert!(preview.contains(&format!("| {number} ")), "{status:#}");
        }
    };
    tokio::select! {
        () = work => {}
        () = kill_at_random(lab.jobs(), &killed) => panic!("the watch has ended"),
    }
    let killed = killed.into_inner();
    println!("the operator was killed {killed} times");
    assert!(killed > 0, "no operator runs here");
    let tables: String = (0..JOBS)
        .map(|number| {
            format!(
                "CREATE EXTERNAL TABLE t{number} STORED AS PARQUET LOCATION '{}'; ",
                store.url(&format!("lines-{number}"))
            )
        })
        .collect();
    let counts: Vec<String> = (0..JOBS)
        .map(|number| {
            format!("SELECT count(*) AS lines, count(DISTINCT l_orderkey * 8 + l_linenumber) AS keys FROM t{number}")
        })
        .collect();
    let counts = store.query(&format!("{tables}{}", counts.join(" UNION ALL ")));
    let counts = counts.as_array().expect("rows are a list");
    assert_eq!(counts.len(), JOBS, "{counts:?}");
    for count in counts {
        assert_eq!(
            (count["lines"].as_u64(), count["keys"].as_u64()),
            (Some(LINES), Some(LINES)),
            "{counts:?}"
        );
    }
    lab.close().await;
}

/// The job goes on and ends while nobody can be told, and is found to have ended well.
async fn api_server_away(story: &str, outage: Duration, meanwhile: impl FnOnce()) {
    let lab = Lab::open(story).await;
    Operator::wait_until_ready();
    let store = Store::open(&lab).await;
    let job = under_way(&lab, &store, 1).await;
    let gone = ApiServer::stop();
    meanwhile();
    // So long is it away: this is what is tried, not a wait for something.
    tokio::time::sleep(outage).await;
    assert!(is_there(&store), "the job did not go on without the API server");
    drop(gone);
    let status = job.complete().await;
    assert_eq!(charged(&status), (0, 0), "{status:#}");
    assert_eq!(status["driver"]["attempt"], 1, "{status:#}");
    check(&store);
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn an_api_server_that_is_away_for_two_minutes() {
    api_server_away("no-api", Duration::from_secs(120), || {}).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn an_operator_that_is_killed_while_the_api_server_is_away() {
    api_server_away("no-operator", Duration::from_secs(60), || {
        assert!(Operator::kill() > 0, "no operator runs here");
    })
    .await;
}

/// Values of the chart change, and with them the operator's own pods; those of a job are the same afterwards.
#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn an_upgrade_of_the_chart_disturbs_no_job() {
    let lab = Lab::open("upgrade").await;
    let store = Store::open(&lab).await;
    let job = under_way(&lab, &store, 1).await;
    let level = format!("log.level=info\\,upgraded_{}=debug", lab.namespace.replace('-', "_"));
    let upgraded = Upgrade::to(&level);
    let status = job.complete().await;
    assert_eq!(charged(&status), (0, 0), "{status:#}");
    assert_eq!(status["driver"]["attempt"], 1, "{status:#}");
    assert_eq!(status["executors"]["highest"], 1, "{status:#}");
    drop(upgraded);
    check(&store);
    lab.close().await;
}

/// The operator comes with an engine that nobody has; a job that runs goes on with its own, and so does its next executor.
#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn an_upgrade_puts_no_second_engine_into_a_job() {
    let lab = Lab::open("engines").await;
    // It takes longer than any upgrade; nobody waits for its end.
    let spec = json!({
        "sql": "SELECT count(*) FROM tpch.sf100.lineitem WHERE l_quantity < 2",
        "driver": { "memory": "512Mi" },
        "executors": { "memory": "512Mi" },
    });
    let job = lab.apply("long", spec).await;
    job.condition("Ready", "True").await;
    let image = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone());
    let engine = image(&job.pods("driver").await[0]);
    let upgraded = Upgrade::to("engineImage.repository=trireme.dev/no-such-engine");
    let victim = format!("trireme worker .*--name={}-exec-1", job.name);
    assert!(kill_processes(&victim) > 0, "no executor runs here");
    let next = job.until_runs(&format!("{}-exec-2", job.name)).await;
    assert_eq!(image(&next), engine);
    let status = job.status().await;
    assert_eq!(charged(&status), (0, 0), "{status:#}");
    assert_eq!(status["driver"]["attempt"], 1, "{status:#}");
    drop(upgraded);
    job.delete().await;
    job.until_gone().await;
    lab.close().await;
}

/// Each namespace has watches of its own, and none takes a job of another for gone: not when the operator starts, nor later.
#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn an_operator_that_watches_some_namespaces() {
    let labs = [Lab::open("watched").await, Lab::open("watched-too").await];
    let jobs = [
        labs[0].apply("one", waiting_on()).await,
        labs[1].apply("two", waiting_on()).await,
    ];
    let running = |status: &Value| status["state"] == "Running";
    for job in &jobs {
        job.until("the driver", running).await;
    }
    let namespaces = labs.each_ref().map(|lab| lab.namespace.as_str()).join(",");
    let upgraded = Upgrade::to(&format!("watchNamespaces={{{namespaces}}}"));
    for job in &jobs {
        job.kill_driver().await;
    }
    for job in &jobs {
        job.until("another driver", |status| status["driver"]["attempt"] == 2)
            .await;
    }
    for lab in &labs {
        lab.apply("new", json!({ "sql": "SELECT 1 AS one" }))
            .await
            .complete()
            .await;
    }
    drop(upgraded);
    for lab in labs {
        lab.close().await;
    }
}

/// In the middle of a hundred submissions the operator dies. Pods that no node takes keep the machine out of it.
#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn an_operator_that_is_killed_in_the_middle_of_a_hundred_submissions() {
    const SUBMISSIONS: usize = 100;
    let lab = Lab::open("submissions").await;
    Operator::wait_until_ready();
    let mut jobs = Vec::new();
    for number in 0..SUBMISSIONS {
        let spec = json!({ "sql": "SELECT 1", "podTemplate": nowhere() });
        jobs.push(lab.apply(&format!("job-{number}"), spec).await);
        if number == SUBMISSIONS / 2 {
            assert!(Operator::kill() > 0, "no operator runs here");
        }
    }
    let mut last = None;
    for job in &jobs {
        let status = job
            .until("to be handled", |status| status["driver"]["attempt"] == 1)
            .await;
        assert_ne!(status["state"], "Failed", "{status:#}");
        let handled = condition(&status, "Accepted")["lastTransitionTime"]
            .as_str()
            .map(str::to_owned);
        last = last.max(handled);
    }
    let started = Operator::last_start(&lab.client).await;
    println!("the operator started at {started:?}; the last of {SUBMISSIONS} jobs was accepted at {last:?}");
    for job in &jobs {
        for role in ["driver", "executor"] {
            let pods = job.pods(role).await;
            let names: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
            assert_eq!(names.len(), 1, "{names:?}");
            assert!(names[0].ends_with("-1"), "{names:?}");
        }
        assert_eq!(charged(&job.status().await), (0, 0), "{}", job.name);
    }
    lab.close().await;
}
