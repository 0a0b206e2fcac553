//! What people may say about the pods of a job, whatever its kind. Nothing here means anything outside a cluster, and the
//! inside of a pod template is kept as it was written: only a cluster knows its fields.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::quantity::Bytes;

/// A label of RFC 1123: names of namespaces and service accounts.
pub const DNS_LABEL_PATTERN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// A subdomain of RFC 1123: names of most other Kubernetes objects.
pub const DNS_SUBDOMAIN_PATTERN: &str = "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$";

/// The value of a Kubernetes label.
pub const LABEL_VALUE_PATTERN: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";

/// The container of a pod that runs the engine.
pub const CONTAINER: &str = "trireme";

/// Labels with this prefix are the operator's alone.
pub const LABEL_PREFIX: &str = "trireme.dev/";

/// Fields of a pod that are the operator's to decide: without them a job would not be one.
pub const OPERATORS_FIELDS: [&str; 8] = [
    "restartPolicy",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "nodeName",
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "ephemeralContainers",
];

/// The same for the container that runs the engine.
pub const OPERATORS_CONTAINER_FIELDS: [&str; 4] = ["command", "args", "resources", "terminationMessagePath"];

/// The fields of a pod's `spec` in Kubernetes 1.33, the oldest that the operator runs on. What is inside of them only the
/// operator checks.
pub const POD_FIELDS: [&str; 40] = [
    "activeDeadlineSeconds",
    "affinity",
    "automountServiceAccountToken",
    "containers",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "ephemeralContainers",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostUsers",
    "hostname",
    "imagePullSecrets",
    "initContainers",
    "nodeName",
    "nodeSelector",
    "os",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "resourceClaims",
    "resources",
    "restartPolicy",
    "runtimeClassName",
    "schedulerName",
    "schedulingGates",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
];

/// The schema of a label's value. schemars has bounds for the items of a list, but none for the values of a map.
pub(crate) fn label_value() -> serde_json::Value {
    serde_json::json!({ "type": "string", "maxLength": 63, "pattern": LABEL_VALUE_PATTERN })
}

/// The name of an object in the job's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct ObjectName {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253), regex(pattern = DNS_SUBDOMAIN_PATTERN))]
    pub name: String,
}

/// When a node pulls an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// Disk of one pod. Without `storageClassName` it is the node's own, and counts as the pod's ephemeral storage: a pod that
/// uses more is evicted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub struct Scratch {
    /// How much there is, at least 64Mi.
    pub size: Bytes,
    /// Class of a volume that lives as long as the pod; without it, the disk of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = DNS_SUBDOMAIN_PATTERN))]
    pub storage_class_name: Option<String>,
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch {
            size: Bytes::gib(10),
            storage_class_name: None,
        }
    }
}

/// Fields to merge into a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub struct PodTemplate {
    /// Labels and annotations of the pods.
    pub metadata: TemplateMetadata,
    /// Fields of a Kubernetes pod's `spec`, as in any pod template.
    pub spec: PodFields,
}

/// Labels and annotations of pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub struct TemplateMetadata {
    /// Labels of the pods; those of `trireme.dev/` are the operator's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = label_value()))]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pods.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = { "type": "string", "maxLength": 65536 }))]
    pub annotations: BTreeMap<String, String>,
}

/// The fields of a pod's `spec`, unread: the whole schema of a pod would make a definition too large to apply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PodFields(pub Map<String, Value>);

impl JsonSchema for PodFields {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PodFields".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "maxProperties": 64,
            "x-kubernetes-preserve-unknown-fields": true,
        })
    }
}

/// A taint of nodes that pods put up with, as in a Kubernetes pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct Toleration {
    /// Key of the taint; without it, every key, and `operator` must be `Exists`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 317))]
    pub key: Option<String>,
    /// How to compare: `Equal` (the default) or `Exists`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<TolerationOperator>,
    /// Value of the taint, for `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), regex(pattern = LABEL_VALUE_PATTERN))]
    pub value: Option<String>,
    /// Effect of the taint; without it, every effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
    /// How long, in seconds, a pod stays on a node that gets a `NoExecute` taint; without it, for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2147483647))]
    pub toleration_seconds: Option<i64>,
}

/// How a toleration compares with a taint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TolerationOperator {
    Equal,
    Exists,
}

/// What a taint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TaintEffect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}
