//! What a job becomes, as a whole: pods, Service and Secret are kept as snapshots beside this file.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use insta::assert_yaml_snapshot;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use trireme_pki::LEAF_VALIDITY;
use trireme_spec::pods::ImagePullPolicy;
use trireme_spec::quantity::Bytes;

use super::{JobSecret, Settings, pod, renewed, secret, service};
use crate::batch::decide::PodOrder;
use crate::batch::validate::{ValidJob, validate};
use crate::names::{PodRole, RUN_ANNOTATION, secret_key};

fn settings() -> Settings {
    Settings {
        image: "registry.example/trireme:0.1.0".to_owned(),
        image_pull_policy: ImagePullPolicy::IfNotPresent,
        storage: Some("s3://cluster/trireme/".to_owned()),
        engine_log: "info".to_owned(),
    }
}

fn job(spec: Value) -> ValidJob {
    let object = json!({
        "apiVersion": "trireme.dev/v1alpha1",
        "kind": "BatchJob",
        "metadata": { "name": "revenue", "namespace": "sales", "uid": "7d0c", "generation": 3 },
        "spec": spec,
    });
    validate(&serde_json::from_value(object).unwrap()).unwrap()
}

fn small() -> ValidJob {
    job(json!({ "sql": "SELECT 1" }))
}

/// Every field that a pod depends on, and a run that is not the first.
fn full() -> ValidJob {
    let job = job(json!({
        "sql": "SELECT 1",
        "storage": "s3://sales/journal",
        "credentials": { "name": "bucket" },
        "image": "registry.example/trireme:patched",
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{ "name": "registry" }],
        "serviceAccountName": "reader",
        "nodeSelector": { "pool": "spot" },
        "tolerations": [{ "key": "spot", "operator": "Exists", "effect": "NoSchedule" }],
        "rerunNonce": "2",
        "driver": { "cores": 2, "memory": "3Gi", "scratch": { "size": "5Gi" } },
        "executors": {
            "min": 4, "cores": 8, "memory": "16Gi",
            "scratch": { "size": "100Gi", "storageClassName": "fast" },
        },
    }));
    ValidJob {
        run: "7d0c-2".to_owned(),
        run_number: 2,
        ..job
    }
}

fn order(role: PodRole, number: u32, memory: Bytes) -> PodOrder {
    PodOrder {
        role,
        number,
        memory,
        image: None,
    }
}

#[test]
fn a_driver() {
    assert_yaml_snapshot!(pod(&small(), &settings(), &order(PodRole::Driver, 1, Bytes::gib(2))));
}

#[test]
fn an_executor() {
    assert_yaml_snapshot!(pod(&small(), &settings(), &order(PodRole::Executor, 7, Bytes::gib(2))));
}

#[test]
fn a_driver_of_a_job_with_everything_set() {
    assert_yaml_snapshot!(pod(&full(), &settings(), &order(PodRole::Driver, 3, Bytes::gib(3))));
}

#[test]
fn an_executor_of_a_job_with_everything_set() {
    // It has grown, because the one before ran out of it.
    assert_yaml_snapshot!(pod(&full(), &settings(), &order(PodRole::Executor, 12, Bytes::gib(24))));
}

#[test]
fn templates_are_merged_and_what_is_ours_stays() {
    let job = job(json!({
        "sql": "SELECT 1",
        "tolerations": [{ "key": "spot", "operator": "Exists" }],
        "podTemplate": {
            "metadata": {
                "labels": { "team": "sales", "app.kubernetes.io/name": "other" },
                "annotations": { "cluster-autoscaler.kubernetes.io/safe-to-evict": "false" },
            },
            "spec": {
                "priorityClassName": "low",
                "schedulerName": "batch",
                "tolerations": [{ "key": "night", "operator": "Exists" }],
                "volumes": [{ "name": "certificates", "configMap": { "name": "company-ca" } }],
                "containers": [
                    {
                        "name": "trireme",
                        "env": [{ "name": "TZ", "value": "UTC" }],
                        "volumeMounts": [{ "name": "certificates", "mountPath": "/etc/company" }],
                    },
                    { "name": "sidecar", "image": "proxy:1" },
                ],
            },
        },
        "executors": { "podTemplate": { "spec": { "priorityClassName": "lowest" } } },
    }));
    assert_yaml_snapshot!(pod(&job, &settings(), &order(PodRole::Executor, 1, Bytes::gib(2))));
}

#[test]
fn the_service_leads_to_one_attempt() {
    assert_yaml_snapshot!(service(&small(), 4));
}

#[test]
fn the_secret_holds_all_that_pods_need_and_the_authority() {
    let secret = secret(&full(), &settings(), None, "a-token".to_owned(), SystemTime::now()).unwrap();
    assert_yaml_snapshot!(redacted(&secret));
}

/// A Secret with the kind of each value in its place. The manifest is no secret.
fn redacted(secret: &Secret) -> Value {
    let kind = |(key, ByteString(bytes)): (&String, &ByteString)| {
        let text = std::str::from_utf8(bytes).unwrap();
        let value = match key.as_str() {
            secret_key::JOB => serde_json::from_str(text).unwrap(),
            secret_key::TOKEN => json!("the token"),
            _ => json!(text.lines().next().unwrap().trim_matches('-')),
        };
        (key.clone(), value)
    };
    let data: BTreeMap<String, Value> = secret.data.iter().flatten().map(kind).collect();
    json!({ "metadata": secret.metadata, "type": secret.type_, "data": data })
}

fn manifest(secret: &Secret) -> Value {
    serde_json::from_slice(&secret.data.as_ref().unwrap()[secret_key::JOB].0).unwrap()
}

#[test]
fn the_manifest_has_its_statements_and_its_storage() {
    let from = job(json!({ "sqlFrom": { "configMapKeyRef": { "name": "queries", "key": "q" } } }));
    let statements = Some("SELECT 2".to_owned());
    let secret = secret(&from, &settings(), statements, "a".to_owned(), SystemTime::now()).unwrap();
    let spec = &manifest(&secret)["spec"];
    assert_eq!(spec["sql"], "SELECT 2");
    assert!(spec.get("sqlFrom").is_none());
    assert_eq!(spec["storage"], "s3://cluster/trireme/sales/revenue");
}

#[test]
fn a_secret_that_is_written_can_be_read() {
    let secret = secret(&full(), &settings(), None, "a-token".to_owned(), SystemTime::now()).unwrap();
    let read = JobSecret::read(&secret).unwrap();
    assert_eq!((&*read.token, read.run.as_deref()), ("a-token", Some("7d0c-2")));
    let annotations = secret.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations[RUN_ANNOTATION], "7d0c-2");
    let mut without = secret.clone();
    without.data.as_mut().unwrap().remove(secret_key::TOKEN);
    assert!(JobSecret::read(&without).is_none());
    assert!(!format!("{read:?}").contains("a-token"), "a token is for nobody's log");
}

#[test]
fn leaves_are_made_anew_when_a_third_of_their_time_is_left() {
    let (job, begin) = (small(), SystemTime::now());
    let old = secret(&job, &settings(), None, "a".to_owned(), begin).unwrap();
    let hour = Duration::from_secs(60 * 60);
    let early = begin + LEAF_VALIDITY * 2 / 3 - hour;
    assert!(renewed(&job, &old, early).unwrap().is_none());
    let late = begin + LEAF_VALIDITY * 2 / 3 + hour;
    let new = renewed(&job, &old, late).unwrap().unwrap();
    let (old, new) = (old.data.unwrap(), new.data.unwrap());
    for key in [secret_key::CA, secret_key::CA_KEY, secret_key::TOKEN, secret_key::JOB] {
        assert_eq!(old[key], new[key], "{key} stays");
    }
    for key in [
        secret_key::DRIVER,
        secret_key::DRIVER_KEY,
        secret_key::EXECUTOR,
        secret_key::EXECUTOR_KEY,
    ] {
        assert_ne!(old[key], new[key], "{key} is new");
    }
}
