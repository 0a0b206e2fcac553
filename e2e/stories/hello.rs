//! What a person does first.

use serde_json::json;
use trireme_e2e::{Audit, Job, Lab, Store, kubectl};

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn hello_world_by_kubectl() {
    let lab = Lab::open("hello").await;
    let audit = Audit::begin();
    let in_namespace = ["--namespace", &lab.namespace];
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/examples/batch/hello.yaml");
    kubectl(&[&in_namespace[..], &["apply", "-f", file]].concat()).unwrap();
    let wait = ["wait", "--for=condition=Complete", "--timeout=120s", "batchjob/hello"];
    if let Err(error) = kubectl(&[&in_namespace[..], &wait].concat()) {
        panic!("{error}\n{}", lab.picture().await);
    }
    let table = kubectl(&[&in_namespace[..], &["get", "bj", "hello"]].concat()).unwrap();
    assert!(
        table.contains("Complete") && table.contains("1/1 statements"),
        "{table}"
    );
    let preview = ["get", "bj", "hello", "-o", "jsonpath={.status.result.preview}"];
    let preview = kubectl(&[&in_namespace[..], &preview].concat()).unwrap();
    assert!(preview.contains("hello"), "{preview}");
    if let Some(audit) = audit {
        let writes: Vec<_> = audit
            .writes()
            .into_iter()
            .filter(|write| write.namespace == lab.namespace)
            .collect();
        let made = writes.iter().filter(|write| write.code == 201).count();
        let status = writes.iter().filter(|write| write.subresource == "status").count();
        assert!(made <= 6, "{made} objects were made: {writes:#?}");
        // Three or four on a quiet cluster; on a busy one, what is usually seen together comes apart.
        assert!(status <= 6, "{status} writes of the status: {writes:#?}");
        println!(
            "hello world: {made} objects, {status} writes of the status, {} writes in all",
            writes.len()
        );
    }
    lab.close().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_result_goes_to_storage() {
    let lab = Lab::open("result").await;
    let store = Store::open(&lab).await;
    let mut spec = store.fields();
    spec["sql"] = json!("SELECT l_returnflag, count(*) AS lines FROM tpch.sf1.lineitem GROUP BY l_returnflag");
    spec["result"] = json!({ "location": store.url("result"), "format": "parquet" });
    spec["executors"] = json!({ "min": 2 });
    let job = lab.apply("result", spec).await;
    let status = job.complete().await;
    assert_eq!(status["result"]["location"], store.url("result"));
    assert_eq!(status["result"]["rows"], 3);
    let total = store.query(&format!(
        "CREATE EXTERNAL TABLE r STORED AS PARQUET LOCATION '{}'; SELECT sum(lines) AS total FROM r",
        store.url("result")
    ));
    assert_eq!(total[0]["total"], 6_001_215, "{total}");
    lab.close().await;
}

/// As they stand, but for the name of the bucket.
#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn every_example_runs() {
    let lab = Lab::open("examples").await;
    let store = Store::open_as(&lab, "shop-bucket").await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/kubernetes");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{folder} is empty");
    let ours = lab.namespace.clone() + ".yaml";
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file)
            .unwrap()
            .replace("s3://shop/", &store.url(""));
        let copy = std::env::temp_dir().join(&ours);
        std::fs::write(&copy, text).unwrap();
        kubectl(&[
            "--namespace",
            &lab.namespace,
            "apply",
            "-f",
            &copy.display().to_string(),
        ])
        .unwrap();
        std::fs::remove_file(&copy).unwrap();
        let job = Job::find(&lab, &name).await;
        if name == "suspended" {
            job.condition("Suspended", "True").await;
            job.patch(json!({ "suspend": false })).await;
        }
        let status = job.complete().await;
        assert!(status["result"]["rows"].as_u64() >= Some(1), "{name}: {status:#}");
    }
    lab.close().await;
}

/// What the definitions say is what `kubectl explain` shows; a field without words would be a riddle.
#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn every_field_is_explained() {
    let told = kubectl(&["explain", "batchjob.spec", "--recursive"]).unwrap();
    assert!(told.contains("ttlSecondsAfterFinished"), "{told}");
    let told = kubectl(&["explain", "batchjob.spec.retries"]).unwrap();
    assert!(told.contains("How often"), "{told}");
}
