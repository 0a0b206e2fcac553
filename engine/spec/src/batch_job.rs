//! The BatchJob manifest, group `trireme.dev`, version `v1alpha1`.
//!
//! These types are the API: their doc comments are what `kubectl explain` shows, and the schema and rules that admission
//! enforces are derived from them (see [`crate::schema`]). A field that exists here can never be taken away
//! within a version.
//!
//! Unknown fields are refused by the schema, not by serde: a driver may be one version older than the operator that
//! hands it a spec, and then ignores what it does not know.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::duration::Period;
use crate::ids::JobName;
use crate::pods::{
    DNS_LABEL_PATTERN, DNS_SUBDOMAIN_PATTERN, ImagePullPolicy, ObjectName, PodTemplate, Scratch, Toleration,
    label_value,
};
use crate::quantity::Bytes;
use crate::schema::{rule, rule_with_message_expression};

/// The group and version that this build reads.
pub const API_VERSION: &str = "trireme.dev/v1alpha1";

/// A table, column or parameter name: what SQL reads without quotes.
pub const IDENTIFIER_PATTERN: &str = "^[a-z_][a-z0-9_]*$";

/// A text that makes a run differ from others: it becomes part of the run's id, which ends the value of a label.
pub const NONCE_PATTERN: &str = "^[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?$";

/// A job that runs SQL statements over tables in files and object stores, once, to the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct BatchJob {
    /// Group and version of the manifest: `trireme.dev/v1alpha1`.
    pub api_version: ApiVersion,
    /// Kind of the manifest: `BatchJob`.
    pub kind: BatchJobKind,
    /// Name, namespace, labels and annotations.
    pub metadata: Metadata,
    /// What to run, on what, and how.
    pub spec: BatchJobSpec,
}

/// The versions of the API that this build reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApiVersion {
    #[serde(rename = "trireme.dev/v1alpha1")]
    V1Alpha1,
}

/// The kind of a BatchJob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BatchJobKind {
    BatchJob,
}

/// The part of Kubernetes' object metadata that people write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct Metadata {
    /// Name of the job, unique among the BatchJobs of its namespace. Lower case letters, digits and dashes, beginning with a
    /// letter as the name of its driver's Service must; at most 52 characters, so that the names of its pods still fit into a
    /// DNS label.
    pub name: JobName,
    /// Namespace on Kubernetes. Ignored elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL_PATTERN))]
    pub namespace: Option<String>,
    /// Labels, as on any Kubernetes object.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = label_value()))]
    pub labels: BTreeMap<String, String>,
    /// Annotations, as on any Kubernetes object.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = { "type": "string", "maxLength": 65536 }))]
    pub annotations: BTreeMap<String, String>,
}

/// What to run, on what, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(
    deny_unknown_fields,
    extend("x-kubernetes-validations" = [rule_with_message_expression(
        "has(self.sql) != has(self.sqlFrom)",
        "exactly one of sql and sqlFrom must be set",
        "has(self.sql) ? 'both sql and sqlFrom are set: keep one of them' : 'neither sql nor sqlFrom is set: one of them must be'",
    )])
)]
pub struct BatchJobSpec {
    /// The SQL statements to run, one after the other, separated by semicolons. The rows of the last one, if it is a
    /// query, are the result of the job. Exactly one of `sql` and `sqlFrom` must be set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 262144))]
    pub sql: Option<String>,
    /// Where to read the SQL statements from, instead of `sql`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql_from: Option<SqlFrom>,
    /// Values for the parameters of the statements: `$name` in SQL takes the value of `name`. Values are strings, numbers
    /// or booleans.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256))]
    pub parameters: BTreeMap<String, ParameterValue>,
    /// Tables that the statements can use without declaring them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub tables: Vec<Table>,
    /// Where the job keeps its journal and the tables of `CREATE TABLE ... AS`: an `s3://` URL, or a path that driver and
    /// executors share. Without it a new driver begins at the first statement again, and skips writes that are committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub storage: Option<String>,
    /// Number and size of the executors, the processes that do the work.
    #[serde(default)]
    pub executors: Executors,
    /// Size of the driver, the process that plans and coordinates.
    #[serde(default)]
    pub driver: Driver,
    /// How often to try again before the job fails.
    #[serde(default)]
    pub retries: Retries,
    /// Fail the job when it has run this many seconds. On Kubernetes they count from `status.startTime`, over all drivers of the
    /// run, and anew after it was suspended; elsewhere from the start of each driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2147483647))]
    pub active_deadline_seconds: Option<u32>,
    /// Release all pods and wait until this is false again. What was committed stays. With a storage the run then goes on where
    /// it was; without one, at its first statement, and skips writes that are committed.
    #[serde(default)]
    pub suspend: bool,
    /// Delete the job this many seconds after it ended. Without it, finished jobs are kept. Kubernetes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 2147483647))]
    pub ttl_seconds_after_finished: Option<u32>,
    /// Where to write the result of the last statement, which must be a query then. Without it, the first rows are printed or
    /// shown in the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ResultSink>,
    /// Whether and how the number of executors follows the work. It has no effect yet: their number stays at `executors.min`.
    #[serde(default)]
    pub autoscale: Autoscale,
    /// 1 to 20 letters, digits and dashes, no dash at the ends. When it changes, the job runs once more from its beginning, as a
    /// new run. Kubernetes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20), regex(pattern = NONCE_PATTERN))]
    pub rerun_nonce: Option<String>,
    /// Secret in the job's namespace with credentials for object stores: `access-key-id`, `secret-access-key`, and where
    /// needed `session-token`, `endpoint`, `region` and `allow-http`. It is mounted as files; the operator never reads it.
    /// Kubernetes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<ObjectName>,
    /// Container image of driver and executors; without it, the one that the operator was installed with. Kubernetes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// When to pull the image: Always, IfNotPresent or Never. Kubernetes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Secrets in the job's namespace with which the image is pulled. Kubernetes only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub image_pull_secrets: Vec<ObjectName>,
    /// Service account of driver and executors; how jobs get the rights of a cloud identity. Kubernetes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = DNS_SUBDOMAIN_PATTERN))]
    pub service_account_name: Option<String>,
    /// Labels that a node must have to run pods of the job. Kubernetes only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = label_value()))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that pods of the job put up with. Kubernetes only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// What all pods of the job get beside their own: labels, annotations, and any field of a pod, such as `affinity`,
    /// `topologySpreadConstraints`, `priorityClassName`, `schedulerName` or `volumes`. Merged deeply into what the operator
    /// builds; the container is called `trireme`. Kubernetes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

/// Where to read SQL statements from. Exactly one of its fields must be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(
    deny_unknown_fields,
    extend("x-kubernetes-validations" = [rule(
        "has(self.file) != has(self.configMapKeyRef)",
        "exactly one of file and configMapKeyRef must be set",
    )])
)]
pub struct SqlFrom {
    /// Path of a file with SQL statements, readable by the driver. A relative path starts at the manifest's folder. On
    /// Kubernetes, only a file of the image or of a volume that `driver.podTemplate` mounts can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub file: Option<String>,
    /// Key of a ConfigMap in the job's namespace. Kubernetes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<ConfigMapKeyRef>,
}

/// One key of a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct ConfigMapKeyRef {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253), regex(pattern = DNS_SUBDOMAIN_PATTERN))]
    pub name: String,
    /// Key within the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A value for a parameter of the statements: a string, a number or a boolean.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ParameterValue {
    /// A boolean.
    Bool(bool),
    /// A whole number within 64 bits.
    Integer(i64),
    /// Any other number.
    Number(f64),
    /// A string.
    Text(String),
}

/// A table over files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(
    deny_unknown_fields,
    extend("x-kubernetes-validations" = [rule(
        "!has(self.compression) || self.format in ['csv', 'json']",
        "compression is for csv and json; files of the other formats say themselves how they are compressed",
    )])
)]
pub struct Table {
    /// Name of the table in SQL: lower case letters, digits and underscores.
    #[schemars(length(min = 1, max = 63), regex(pattern = IDENTIFIER_PATTERN))]
    pub name: String,
    /// A file, a folder or a pattern such as `data/*.csv`, as a path, a `file:///` URL or an `s3://` URL. On Kubernetes a path is
    /// one in every pod.
    #[schemars(length(min = 1, max = 2048))]
    pub location: String,
    /// Format of the files.
    pub format: FileFormat,
    /// Settings of the format, such as `has_header` and `delimiter` for csv. Never credentials.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = { "type": "string", "maxLength": 1024 }))]
    pub options: BTreeMap<String, String>,
    /// Columns whose values are in the names of folders, outermost first: `year=2024/month=5/`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub partitioned_by: Vec<PartitionColumn>,
    /// How the files are compressed, for csv and json. Without it, the ending of a file's name decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<FileCompression>,
}

/// A column whose values are in the names of folders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct PartitionColumn {
    /// Name of the column: lower case letters, digits and underscores.
    #[schemars(length(min = 1, max = 63), regex(pattern = IDENTIFIER_PATTERN))]
    pub name: String,
    /// Type of the column.
    #[serde(rename = "type")]
    pub column_type: ColumnType,
}

/// Types that a name of a folder can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    String,
    Boolean,
    Int,
    Bigint,
    Double,
    Date,
    Timestamp,
}

/// Formats of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// Apache Parquet.
    Parquet,
    /// Text with separated values.
    Csv,
    /// One JSON object per line.
    Json,
    /// Arrow IPC files.
    Arrow,
}

/// Compressions of whole files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileCompression {
    None,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

/// Number and size of the executors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(
    deny_unknown_fields,
    extend("x-kubernetes-validations" = [rule(
        "!has(self.max) || self.max >= self.min",
        "max must be at least min: raise max, or leave it out",
    )])
)]
pub struct Executors {
    /// Executors to run on; with 0 there is one all the same. On Kubernetes this many pods are made.
    #[schemars(range(max = 1000))]
    pub min: u32,
    /// Executors that plans are made for: the driver plans `max * cores` tasks at a time. Without it, as many as `min`, but at
    /// least one. No pods are made beyond `min` yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max: Option<u32>,
    /// Cores of one executor, and the number of tasks that it runs at once.
    #[schemars(range(min = 1, max = 256))]
    pub cores: u32,
    /// Memory of one executor, all of it: the limit of its pod. At least 128Mi.
    pub memory: Bytes,
    /// Disk of one executor for shuffle files and for what does not fit in memory. At least 64Mi. Kubernetes only.
    pub scratch: Scratch,
    /// As `spec.podTemplate`, for executors only; goes before it. Kubernetes only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

/// Size of the driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub struct Driver {
    /// Cores of the driver: how much it may do at once. It computes little, so that its pod asks its node for a quarter of them.
    #[schemars(range(min = 1, max = 256))]
    pub cores: u32,
    /// Memory of the driver, all of it: the limit of its pod. At least 128Mi.
    pub memory: Bytes,
    /// Disk of the driver for what does not fit in memory. At least 64Mi. Kubernetes only.
    pub scratch: Scratch,
    /// As `spec.podTemplate`, for the driver only; goes before it. Kubernetes only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

/// How often to try again before the job fails. Each kind of failure has a budget of its own, so that unsteady machines
/// do not use up the patience meant for unsteady data, and the other way round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub struct Retries {
    /// How often one task is tried again after an error of its own, and how often another driver is started after drivers that
    /// ended by themselves without a report.
    #[schemars(range(max = 100))]
    pub application: u32,
    /// How often one task is tried again after its worker, its inputs or its network were lost, and how often another driver is
    /// started after drivers that were lost.
    #[schemars(range(max = 1000))]
    pub infrastructure: u32,
    /// How often the job asks again for pods that the cluster refused to take, as a quota does.
    #[schemars(range(max = 1000))]
    pub scheduling: u32,
    /// A driver that ran for this long was healthy: what was charged before is forgotten.
    pub reset_after: Period,
    /// How long to wait between tries.
    pub backoff: Backoff,
}

/// How long to wait between tries: twice as long each time, from `initial` to `max`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(
    deny_unknown_fields,
    extend("x-kubernetes-validations" = [rule(
        "duration(self.initial) <= duration(self.max)",
        "initial must not be longer than max: lower initial, or raise max",
    )])
)]
pub struct Backoff {
    /// Wait before the first retry, such as `500ms` or `1s`.
    pub initial: Period,
    /// Longest wait before a retry, such as `1m`.
    pub max: Period,
}

/// Where to write the result of the last statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(
    deny_unknown_fields,
    extend("x-kubernetes-validations" = [
        rule(
            "!has(self.compression) || self.format != 'parquet' || self.compression in ['none', 'snappy', 'gzip', 'lz4', 'zstd']",
            "parquet is compressed with none, snappy, gzip, lz4 or zstd",
        ),
        rule(
            "!has(self.compression) || self.format != 'arrow' || self.compression == 'lz4'",
            "arrow is always compressed with lz4",
        ),
        rule(
            "!has(self.compression) || !(self.format in ['csv', 'json']) || self.compression in ['none', 'gzip', 'zstd']",
            "csv and json are compressed with none, gzip or zstd",
        ),
    ])
)]
pub struct ResultSink {
    /// Folder to write to, as a path, a `file:///` URL or an `s3://` URL. It must be empty or absent. On Kubernetes a path is one
    /// in every pod.
    #[schemars(length(min = 1, max = 2048))]
    pub location: String,
    /// Format of the files.
    #[serde(default = "parquet")]
    pub format: FileFormat,
    /// How to compress the files. Without it: zstd for parquet, none for csv and json. Arrow is always compressed with lz4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<ResultCompression>,
}

fn parquet() -> FileFormat {
    FileFormat::Parquet
}

/// Compressions of a result; which of them go with a format is a rule of [`ResultSink`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ResultCompression {
    None,
    Snappy,
    Gzip,
    Bzip2,
    Xz,
    Lz4,
    Zstd,
}

/// Whether and how the number of executors follows the work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub struct Autoscale {
    /// Who decides on the number of executors.
    pub mode: AutoscaleMode,
}

/// Who decides on the number of executors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AutoscaleMode {
    /// Trireme is to move the number between `executors.min` and `executors.max`; it does not yet.
    #[default]
    Auto,
    /// Trireme is to say in the status what it would do, and stays at `executors.min`; it says nothing yet.
    Recommend,
    /// The number stays at `executors.min`.
    Off,
}

impl Executors {
    /// Most executors to run on, with the default applied.
    pub fn ceiling(&self) -> u32 {
        self.max.unwrap_or(self.min).max(1)
    }
}

impl Default for Executors {
    fn default() -> Executors {
        Executors {
            min: 1,
            max: None,
            cores: 1,
            memory: Bytes::gib(2),
            scratch: Scratch::default(),
            pod_template: None,
        }
    }
}

impl Default for Driver {
    fn default() -> Driver {
        Driver {
            cores: 1,
            memory: Bytes::gib(2),
            scratch: Scratch::default(),
            pod_template: None,
        }
    }
}

impl Default for Retries {
    fn default() -> Retries {
        // Errors of data rarely go away, so a few tries tell; machines come and go, and a preempted fleet may take a
        // task with it many times before it is done.
        Retries {
            application: 3,
            infrastructure: 20,
            scheduling: 10,
            reset_after: Period::minutes(10),
            backoff: Backoff::default(),
        }
    }
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff {
            initial: Period::seconds(1),
            max: Period::minutes(1),
        }
    }
}

/// Written out, because serde's own way for untagged enums cannot say what would have been allowed.
impl<'de> Deserialize<'de> for ParameterValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ParameterValue, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = ParameterValue;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string, a number or a boolean")
            }

            fn visit_bool<E>(self, value: bool) -> Result<ParameterValue, E> {
                Ok(ParameterValue::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<ParameterValue, E> {
                Ok(ParameterValue::Integer(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<ParameterValue, E> {
                // Beyond i64 a whole number is as inexact here as it is in JSON anywhere else.
                Ok(i64::try_from(value).map_or(ParameterValue::Number(value as f64), ParameterValue::Integer))
            }

            fn visit_f64<E>(self, value: f64) -> Result<ParameterValue, E> {
                Ok(ParameterValue::Number(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<ParameterValue, E> {
                Ok(ParameterValue::Text(value.to_owned()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for ParameterValue {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ParameterValue".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": ["string", "number", "boolean"],
            "x-kubernetes-preserve-unknown-fields": true,
            "maxLength": 65536,
        })
    }
}
