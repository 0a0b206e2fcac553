//! Secrets stay secret: whatever becomes of a job, its keys appear in no log, status, event, argument or environment.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{ListParams, ObjectMeta, PostParams};
use serde_json::json;
use trireme_e2e::{Lab, Store, cluster_folder, kubectl};

use crate::copy;

/// Keys that no object store knows.
const WRONG_ACCESS_KEY: &str = "CANARYACCESSKEY0";
const WRONG_SECRET_KEY: &str = "canary-secret-key-that-nobody-may-see";

/// What is looked for: the values of every Secret of the namespace, as they are and as base64.
async fn canaries(lab: &Lab) -> BTreeMap<String, Vec<u8>> {
    let mut canaries = BTreeMap::new();
    for secret in lab.api::<Secret>().list(&ListParams::default()).await.unwrap() {
        let name = secret.name_any();
        let encoded = serde_json::to_value(&secret).unwrap()["data"].clone();
        for (key, ByteString(value)) in secret.data.unwrap_or_default() {
            // Addresses, regions and certificates are no secrets; what the driver runs is in its manifest.
            if !(key.ends_with("key") || key == "token" || key == "access-key-id") {
                continue;
            }
            let base64 = encoded[&key]
                .as_str()
                .unwrap_or_default()
                .trim_end_matches('=')
                .to_owned();
            // A line of a PEM file is found where the whole is not.
            let text = String::from_utf8_lossy(&value).into_owned();
            let plain = text
                .lines()
                .filter(|line| !line.starts_with("-----"))
                .max_by_key(|line| line.len());
            canaries.insert(format!("{name}/{key}"), plain.unwrap_or_default().as_bytes().to_vec());
            canaries.insert(format!("{name}/{key} as base64"), base64.into_bytes());
        }
    }
    assert!(canaries.len() >= 8, "{:?}", canaries.keys());
    canaries
}

/// Fails if one of `canaries` is in `text`.
fn search(canaries: &BTreeMap<String, Vec<u8>>, place: &str, text: &[u8]) {
    for (name, value) in canaries {
        let found = !value.is_empty() && text.windows(value.len()).any(|window| window == value);
        assert!(!found, "{name} is in {place}");
    }
}

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => files(&path, into),
            false => into.push(path),
        }
    }
}

/// Arguments and environment of all processes of ours on this machine.
fn search_processes(canaries: &BTreeMap<String, Vec<u8>>) -> usize {
    let mut searched = 0;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let folder = entry.path();
        let ours = fs::read_link(folder.join("exe")).is_ok_and(|exe| {
            exe.file_name()
                .and_then(OsStr::to_str)
                .is_some_and(|name| name.starts_with("trireme"))
        });
        if !ours {
            continue;
        }
        for part in ["cmdline", "environ"] {
            // It may have ended in the meantime.
            let Ok(text) = fs::read(folder.join(part)) else {
                continue;
            };
            search(canaries, &format!("{part} of {}", folder.display()), &text);
            searched += 1;
        }
    }
    searched
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn keys_appear_nowhere() {
    let lab = Lab::open("secrecy").await;
    let store = Store::open(&lab).await;
    let mut wrong = lab.api::<Secret>().get("s3").await.unwrap().data.unwrap_or_default();
    for (key, value) in [
        ("access-key-id", WRONG_ACCESS_KEY),
        ("secret-access-key", WRONG_SECRET_KEY),
    ] {
        wrong.insert(key.to_owned(), ByteString(value.as_bytes().to_vec()));
    }
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some("wrong".to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(wrong),
        ..Secret::default()
    };
    lab.api::<Secret>()
        .create(&PostParams::default(), &secret)
        .await
        .unwrap();

    // One whose keys are refused, and one that is killed in the middle and ends well.
    let mut spec = store.fields();
    spec["credentials"] = json!({ "name": "wrong" });
    spec["sql"] = json!(format!(
        "COPY (SELECT 1 AS one) TO '{}' STORED AS PARQUET",
        store.url("denied")
    ));
    let denied = lab.apply("denied", spec).await;
    let status = denied
        .until("the end", |status| status["completionTime"].is_string())
        .await;
    assert_eq!(status["state"], "Failed", "{status:#}");
    let job = copy::under_way(&lab, &store, 1).await;
    let canaries = canaries(&lab).await;
    assert!(search_processes(&canaries) >= 4, "no processes were found");
    job.kill_driver().await;
    job.complete().await;
    search_processes(&canaries);

    let kinds = "batchjobs,pods,services,configmaps,events,replicasets";
    let objects = kubectl(&[
        "--namespace",
        &lab.namespace,
        "get",
        kinds,
        "-o",
        "yaml",
        "--show-managed-fields",
    ])
    .unwrap();
    search(&canaries, "an object", objects.as_bytes());
    let mut logs = Vec::new();
    files(&cluster_folder().join("logs"), &mut logs);
    for node in ["node1", "node2", "node3"] {
        files(&cluster_folder().join(node).join("var/log"), &mut logs);
    }
    let of_drivers = logs
        .iter()
        .filter(|path| path.display().to_string().contains("-driver-"));
    assert!(of_drivers.count() >= 2, "{logs:?}");
    for path in &logs {
        search(
            &canaries,
            &path.display().to_string(),
            &fs::read(path).unwrap_or_default(),
        );
    }
    lab.close().await;
}
