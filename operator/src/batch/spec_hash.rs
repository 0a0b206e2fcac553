//! What of a spec pods of a role are made of, in a few digits: whether one that cannot start would be made otherwise today.
//! What can be changed without another pod (the number of executors, `suspend`, times) does not count.

use std::hash::Hasher as _;

use fnv::FnvHasher;
use serde_json::json;
use trireme_spec::batch_job::{BatchJobSpec, Driver, Executors};

use crate::names::PodRole;

/// The hash of what a pod of that role is made of by `spec`.
pub fn spec_hash(spec: &BatchJobSpec, role: PodRole) -> String {
    let BatchJobSpec {
        image,
        image_pull_policy,
        image_pull_secrets,
        service_account_name,
        node_selector,
        tolerations,
        credentials,
        pod_template,
        driver,
        executors,
        sql: _,
        sql_from: _,
        parameters: _,
        tables: _,
        storage: _,
        retries: _,
        active_deadline_seconds: _,
        suspend: _,
        ttl_seconds_after_finished: _,
        result: _,
        autoscale: _,
        rerun_nonce: _,
    } = spec;
    let size = match role {
        PodRole::Driver => {
            let Driver {
                cores,
                memory,
                scratch,
                pod_template,
            } = driver;
            json!([cores, memory, scratch, pod_template])
        }
        PodRole::Executor => {
            let Executors {
                cores,
                memory,
                scratch,
                pod_template,
                min: _,
                max: _,
            } = executors;
            json!([cores, memory, scratch, pod_template])
        }
    };
    let made_of = json!([
        image,
        image_pull_policy,
        image_pull_secrets,
        service_account_name,
        node_selector,
        tolerations,
        credentials,
        pod_template,
        size,
    ]);
    // The same in every build, which the standard library's hash need not be.
    let mut hash = FnvHasher::default();
    hash.write(made_of.to_string().as_bytes());
    format!("{:016x}", hash.finish())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn hashes(spec: Value) -> [String; 2] {
        let mut all = json!({ "sql": "SELECT 1" });
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let spec: BatchJobSpec = serde_json::from_value(all).unwrap();
        [PodRole::Driver, PodRole::Executor].map(|role| spec_hash(&spec, role))
    }

    #[test]
    fn only_what_a_pod_is_made_of_counts() {
        let [driver, executor] = hashes(json!({}));
        for same in [
            json!({ "suspend": true }),
            json!({ "ttlSecondsAfterFinished": 9, "activeDeadlineSeconds": 9 }),
            json!({ "executors": { "min": 7, "max": 9 } }),
            json!({ "rerunNonce": "b", "parameters": { "day": "monday" } }),
        ] {
            assert_eq!(hashes(same.clone()), [driver.clone(), executor.clone()], "{same}");
        }
        for (other, is_other) in [
            (json!({ "image": "engine:2" }), [true, true]),
            (json!({ "nodeSelector": { "pool": "spot" } }), [true, true]),
            (
                json!({ "podTemplate": { "spec": { "priorityClassName": "low" } } }),
                [true, true],
            ),
            (json!({ "driver": { "cores": 2 } }), [true, false]),
            (json!({ "executors": { "memory": "3Gi" } }), [false, true]),
        ] {
            let [new_driver, new_executor] = hashes(other.clone());
            assert_eq!([new_driver != driver, new_executor != executor], is_other, "{other}");
        }
    }
}
