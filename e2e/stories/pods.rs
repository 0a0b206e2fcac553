//! What stories have pods be: some that no node takes, some that cannot do their work.

use serde_json::{Value, json};

/// An image that every node of the test cluster has, and that has no engine.
pub const NO_ENGINE: &str = "localhost/toolbox:1";

/// A pod template for a label that no node has: pods of it wait, and cost the machine nothing.
pub fn nowhere() -> Value {
    json!({ "spec": { "nodeSelector": { "trireme.dev/no-such-node": "true" } } })
}

/// A job that stays as it is for half a minute: its driver runs and waits for an executor that no node takes, and then gives
/// its own room back.
pub fn waiting() -> Value {
    json!({ "sql": "SELECT 1 AS one", "executors": { "podTemplate": nowhere() } })
}

/// A pod that has a node, and does not start before there is a ConfigMap `name` with a `text`.
pub fn configured_by(name: &str) -> Value {
    let from = json!({ "configMapKeyRef": { "name": name, "key": "text" } });
    let container = json!({ "name": "trireme", "env": [{ "name": "CONFIGURED", "valueFrom": from }] });
    json!({ "spec": { "containers": [container] } })
}

/// A job that stays as it is: its driver runs and waits for an executor that does not start.
pub fn waiting_on() -> Value {
    json!({ "sql": "SELECT 1 AS one", "executors": { "podTemplate": configured_by("never") } })
}
