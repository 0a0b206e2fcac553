//! What neither schema nor CEL can say: names that must differ, locations, secrets, least sizes, fields of pods that are not
//! people's to decide, and fields that mean nothing where the job is to run.

use std::collections::HashMap;

use serde_json::Value;

use super::path::FieldPath;
use super::{Findings, LIMITS, Target, suggest};
use crate::batch_job::{BatchJob, BatchJobSpec, IDENTIFIER_PATTERN};
use crate::limits::Limits;
use crate::pods::{
    CONTAINER, LABEL_PREFIX, OPERATORS_CONTAINER_FIELDS, OPERATORS_FIELDS, POD_FIELDS, PodTemplate, Scratch,
};
use crate::problem::{ErrorCode, Problem, clip};
use crate::quantity::Bytes;
use crate::schema;
use crate::secrets::{has_user, is_name_of_secret};

/// Schemes that people will try and that are not there yet.
const SCHEMES_TO_COME: [&str; 8] = ["gs", "gcs", "abfs", "abfss", "az", "wasbs", "http", "https"];

/// Reports what is left to check of a job whose shape is in order.
pub(super) fn check(findings: &mut Findings<'_>, job: &BatchJob, target: Option<Target>) {
    let root = FieldPath::default();
    let spec = root.key("spec");
    check_label_keys(findings, job, &root.key("metadata"));
    check_sql(findings, &job.spec, &spec, target);
    check_parameter_names(findings, &job.spec, &spec.key("parameters"));
    check_tables(findings, &job.spec, &spec.key("tables"));
    let BatchJobSpec { executors, driver, .. } = &job.spec;
    for (role, memory, scratch, template) in [
        (
            spec.key("executors"),
            executors.memory,
            &executors.scratch,
            &executors.pod_template,
        ),
        (spec.key("driver"), driver.memory, &driver.scratch, &driver.pod_template),
    ] {
        check_memory(findings, &role.key("memory"), memory);
        check_scratch(findings, &role.key("scratch").key("size"), scratch);
        check_pod_template(findings, &role.key("podTemplate"), template.as_ref());
    }
    check_pod_template(findings, &spec.key("podTemplate"), job.spec.pod_template.as_ref());
    if let Some(storage) = &job.spec.storage {
        check_location(findings, &spec.key("storage"), storage);
    }
    if let Some(result) = &job.spec.result {
        check_location(findings, &spec.key("result").key("location"), &result.location);
    }
}

fn check_label_keys(findings: &mut Findings<'_>, job: &BatchJob, metadata: &FieldPath) {
    for (field, keys) in [
        ("labels", &job.metadata.labels),
        ("annotations", &job.metadata.annotations),
    ] {
        for key in keys.keys().filter(|key| !is_label_key(key)) {
            let problem = Problem::new(ErrorCode::ManifestBadName, format!("not a key for {field}")).allowed(
                "a name of up to 63 letters, digits, dashes, underscores and dots, after an optional domain and slash",
            );
            findings.at_key(&metadata.key(field).key(key), problem);
        }
    }
}

/// `name` or `prefix/name`, after Kubernetes' `IsQualifiedName`.
fn is_label_key(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let edges = |text: &str, inner: &[u8]| {
        let bytes = text.as_bytes();
        let alphanumeric = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        alphanumeric(bytes.first())
            && alphanumeric(bytes.last())
            && bytes
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || inner.contains(byte))
    };
    name.len() <= 63 && edges(name, b"-_.") && prefix.is_none_or(|prefix| prefix.len() <= 253 && edges(prefix, b"-."))
}

fn check_sql(findings: &mut Findings<'_>, job: &BatchJobSpec, spec: &FieldPath, target: Option<Target>) {
    if job.sql.as_ref().is_some_and(|sql| sql.trim().is_empty()) {
        let problem = Problem::new(ErrorCode::ManifestBadValue, "\"sql\" holds no statement").found("only white space");
        findings.at_value(&spec.key("sql"), problem);
    }
    let reads_config_map = job
        .sql_from
        .as_ref()
        .is_some_and(|from| from.config_map_key_ref.is_some());
    if reads_config_map && target == Some(Target::Local) {
        let problem = Problem::new(ErrorCode::ManifestTarget, "a ConfigMap can only be read on Kubernetes")
            .remedy("to run this job here, name a file with spec.sqlFrom.file");
        findings.at_key(&spec.key("sqlFrom").key("configMapKeyRef"), problem);
    }
}

fn check_parameter_names(findings: &mut Findings<'_>, job: &BatchJobSpec, path: &FieldPath) {
    let is_identifier = |name: &str| {
        name.len() <= 63
            && name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    for name in job.parameters.keys().filter(|name| !is_identifier(name)) {
        let problem = Problem::new(ErrorCode::ManifestBadName, "not a name for a parameter")
            .found(format!("{:?}", clip(name.clone(), 80)))
            .allowed(format!(
                "up to 63 characters: {}",
                schema::explain_pattern(IDENTIFIER_PATTERN).unwrap_or_default()
            ));
        findings.at_key(&path.key(name), problem);
    }
}

fn check_tables(findings: &mut Findings<'_>, job: &BatchJobSpec, tables: &FieldPath) {
    let names = job.tables.iter().map(|table| table.name.as_str());
    check_unique(findings, "tables", tables, names);
    for (at, table) in job.tables.iter().enumerate() {
        let path = tables.index(at);
        check_location(findings, &path.key("location"), &table.location);
        let columns = table.partitioned_by.iter().map(|column| column.name.as_str());
        check_unique(findings, "partition columns", &path.key("partitionedBy"), columns);
        for option in table.options.keys().filter(|option| is_name_of_secret(option)) {
            let problem = Problem::new(ErrorCode::ManifestCredential, "a manifest must not hold secrets")
                .remedy("remove it: credentials come from mounted files or the identity of the machine, and in local runs from the environment");
            findings.at_key(&path.key("options").key(option), problem);
        }
    }
}

fn check_unique<'a>(findings: &mut Findings<'_>, what: &str, list: &FieldPath, names: impl Iterator<Item = &'a str>) {
    let mut first_at = HashMap::new();
    for (at, name) in names.enumerate() {
        let first = *first_at.entry(name).or_insert(at);
        if first != at {
            let first = findings.tree.locate(&list.index(first).key("name")).value;
            let problem = Problem::new(
                ErrorCode::ManifestDuplicateName,
                format!("two {what} are called {name:?}"),
            )
            .found(format!("the first one is at line {}", first.line));
            findings.at_value(&list.index(at).key("name"), problem);
        }
    }
}

fn check_memory(findings: &mut Findings<'_>, path: &FieldPath, memory: Bytes) {
    let Limits {
        memory_min, memory_max, ..
    } = LIMITS;
    if !(memory_min..=memory_max).contains(&memory) {
        let mut problem = Problem::new(ErrorCode::ManifestOutOfRange, "\"memory\" is out of range")
            .found(memory.to_string())
            .allowed(format!("{memory_min} to {memory_max}"));
        if memory.get() < 1 << 20 {
            problem = problem.remedy("did you forget the unit, as in 2Gi?");
        }
        findings.at_value(path, problem);
    }
}

fn check_scratch(findings: &mut Findings<'_>, path: &FieldPath, scratch: &Scratch) {
    let least = LIMITS.scratch_min;
    if scratch.size < least {
        let problem = Problem::new(ErrorCode::ManifestOutOfRange, "\"size\" is out of range")
            .found(scratch.size.to_string())
            .allowed(format!("{least} or more"))
            .remedy("a pod that writes more than this to its disk is evicted");
        findings.at_value(path, problem);
    }
}

/// The names in a pod template; what is behind them only the operator can tell.
fn check_pod_template(findings: &mut Findings<'_>, path: &FieldPath, template: Option<&PodTemplate>) {
    let Some(PodTemplate { metadata, spec }) = template else {
        return;
    };
    let taken = |what: String| Problem::new(ErrorCode::ManifestBadValue, what);
    let labels = path.key("metadata").key("labels");
    for label in metadata.labels.keys().filter(|label| label.starts_with(LABEL_PREFIX)) {
        let shown = clip(label.clone(), 80);
        let problem = taken(format!("{labels}: {shown} is the operator's label")).remedy("give it another name");
        findings.at_key(&labels.key(label), problem);
    }
    let pod = path.key("spec");
    for (field, value) in &spec.0 {
        let at = pod.key(field);
        if OPERATORS_FIELDS.contains(&field.as_str()) {
            let problem = taken(format!("{at} is the operator's to decide")).remedy("remove the field");
            findings.at_key(&at, problem);
        } else if !POD_FIELDS.contains(&field.as_str()) && !is_empty(value) {
            let remedy = match suggest::nearest(field, POD_FIELDS) {
                Some(near) => format!("did you mean {near:?}?"),
                None => "look for a typing error; kubectl explain pod.spec lists the fields".to_owned(),
            };
            let shown = clip(at.to_string(), 256);
            let problem = Problem::new(
                ErrorCode::ManifestUnknownField,
                format!("{shown}: a pod has no such field"),
            );
            findings.at_key(&at, problem.remedy(remedy));
        }
    }
    let containers = spec.0.get("containers").and_then(Value::as_array);
    let ours = containers
        .into_iter()
        .flatten()
        .enumerate()
        .find(|(_, container)| container["name"] == CONTAINER);
    if let Some((index, container)) = ours {
        let fields = OPERATORS_CONTAINER_FIELDS.iter();
        for field in fields.filter(|field| container.get(field).is_some()) {
            let problem = taken(format!(
                "{pod}.containers[{CONTAINER}].{field} is the operator's to decide"
            ))
            .remedy("size a pod with cores, memory and scratch of spec.driver and spec.executors");
            findings.at_key(&pod.key("containers").index(index).key(field), problem);
        }
    }
}

/// Whether a value changes nothing when it is merged, whatever its name.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// A location is a path, or a URL of a known scheme that carries no secret.
fn check_location(findings: &mut Findings<'_>, path: &FieldPath, location: &str) {
    if let Some(problem) = location_problem(location) {
        let allowed = "a path, file:///path or s3://bucket/path";
        findings.at_value(
            path,
            Problem {
                allowed: problem.allowed.or(Some(allowed.to_owned())),
                ..problem
            },
        );
    }
}

/// What is wrong with a location. Repeats no more of it than scheme and host: the rest may hold a secret.
fn location_problem(location: &str) -> Option<Problem> {
    let bad = |message: &str| Some(Problem::new(ErrorCode::ManifestBadLocation, message));
    if location.trim() != location {
        return bad("a location must not begin or end with white space");
    }
    if location.contains('\0') {
        return bad("a location must not hold a null character");
    }
    let Some((scheme, rest)) = location.split_once("://") else {
        // `s3:bucket/key` is a path to nobody.
        let forgot = ["s3:", "s3a:", "file:"]
            .iter()
            .any(|scheme| location.starts_with(scheme));
        return if forgot {
            bad("a URL has two slashes after the colon")
        } else {
            None
        };
    };
    let authority = rest.split('/').next().unwrap_or_default();
    if has_user(location) {
        return Some(
            Problem::new(ErrorCode::ManifestCredential, "a URL must not hold a user or a secret").remedy(
                "remove the part before the @; credentials come from mounted files or the identity of the machine",
            ),
        );
    }
    match scheme {
        "file" if authority.is_empty() && rest.len() > 1 => None,
        "file" => bad("a file URL has three slashes and an absolute path")
            .map(|problem| problem.found(format!("the host {:?}", clip(authority.to_owned(), 63)))),
        "s3" if authority.is_empty() => bad("the URL names no bucket"),
        "s3" if url::Url::parse(location).is_err() => bad("not a URL"),
        "s3" => None,
        "s3a" | "s3n" => bad("unknown scheme").map(|problem| problem.found(scheme).remedy("write s3:// instead")),
        scheme if SCHEMES_TO_COME.contains(&scheme) => {
            bad("this version cannot read or write here yet").map(|problem| problem.found(format!("{scheme}://")))
        }
        scheme => bad("unknown scheme").map(|problem| problem.found(clip(scheme.to_owned(), 32))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_known_urls_are_locations() {
        for location in [
            "data",
            "data/*.csv",
            "/a b/c",
            "file:///data/x",
            "s3://bucket",
            "s3://bucket/y=*/x?.parquet",
            "a:b",
        ] {
            assert_eq!(location_problem(location), None, "{location}");
        }
    }

    #[test]
    fn other_urls_are_not_and_their_secrets_are_not_repeated() {
        for location in [
            "gs://b/x",
            "s3a://b/x",
            "S3://b/x",
            "://x",
            "file://x/y",
            "file://",
            "file:///",
            "s3://",
            "s3:b/x",
            "s3://key:hush@b/x",
            "s3://b hush/x",
            " s3://b",
            "hush\0",
        ] {
            let problem = location_problem(location).unwrap_or_else(|| panic!("{location:?} is accepted"));
            assert!(!problem.to_string().contains("hush"), "{problem}");
        }
    }

    #[test]
    fn label_keys_are_those_of_kubernetes() {
        for key in ["app", "app.kubernetes.io/name", "a_b-c.d", "x/Y"] {
            assert!(is_label_key(key), "{key}");
        }
        for key in ["", "/", "a/", "/a", "-a", "a b", "a/b/c", &"a".repeat(64)] {
            assert!(!is_label_key(key), "{key}");
        }
    }
}
