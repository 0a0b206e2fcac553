//! From the object as it was written to a job that can be built: everything that a later step would have to doubt is decided
//! here, and what cannot be run is told with its field.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value, json};
use trireme_spec::batch_job::{API_VERSION, BatchJobSpec};
use trireme_spec::manifest::{Target, read_manifest_for};
use trireme_spec::pods::PodTemplate;
use trireme_spec::problem::{ErrorCode, Problem};

use crate::api::batch_job::BatchJob;
use crate::api::condition::{ConditionStatus, ConditionType};
use crate::api::status::JobState;
use crate::names::JobKey;

/// A job that can be built without another error.
#[derive(Clone, Debug)]
pub struct ValidJob {
    /// Why its spec cannot be run, where it was changed while a run was under way. What runs is looked after, and nothing is made.
    pub rejected: Option<String>,
    pub key: JobKey,
    pub uid: String,
    pub generation: i64,
    pub created: Option<Timestamp>,
    pub spec: BatchJobSpec,
    /// The run that the object asks for: its own id, and the number of the run if it is not the first.
    pub run: String,
    pub run_number: u32,
    /// What people want merged into each driver, the general before the particular.
    pub driver_overlays: Vec<Pod>,
    /// The same for executors.
    pub executor_overlays: Vec<Pod>,
}

/// Checks `job`.
///
/// # Errors
/// Every problem that was found, each with its field.
pub fn validate(job: &BatchJob) -> Result<ValidJob, Vec<Problem>> {
    if !was_accepted(job) {
        check_spec(job)?;
    }
    let spec = &job.spec;
    let mut problems = Vec::new();
    let mut overlay = |field: &str, template: &Option<PodTemplate>| {
        let template = template.as_ref()?;
        overlay(field, template).map_err(|problem| problems.push(problem)).ok()
    };
    let common = overlay("spec.podTemplate", &spec.pod_template);
    let driver = overlay("spec.driver.podTemplate", &spec.driver.pod_template);
    let executor = overlay("spec.executors.podTemplate", &spec.executors.pod_template);
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(ValidJob {
        driver_overlays: common.iter().cloned().chain(driver).collect(),
        executor_overlays: common.into_iter().chain(executor).collect(),
        ..without_overlays(job)
    })
}

/// A job of which nothing may be made, for `problems`: as much of it as it takes to look after the run that is under way, if one
/// has begun.
pub fn rejected(job: &BatchJob, problems: &[Problem]) -> Option<ValidJob> {
    let rejected = ValidJob {
        rejected: Some(words(problems)),
        ..without_overlays(job)
    };
    let status = job.status.as_ref()?;
    let run = status.run.clone()?;
    let is_over = status.state.is_some_and(JobState::is_terminal);
    // A run that another is asked for after ends first: what is left of it would be looked after by nobody.
    let begun = status.start_time.is_some() && (run == rejected.run || !is_over);
    begun.then_some(ValidJob { run, ..rejected })
}

fn without_overlays(job: &BatchJob) -> ValidJob {
    let (metadata, spec) = (&job.metadata, &job.spec);
    let uid = metadata.uid.clone().unwrap_or_default();
    let (run, run_number) = run(job, &uid);
    ValidJob {
        rejected: None,
        key: JobKey {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        },
        generation: metadata.generation.unwrap_or_default(),
        created: metadata.creation_timestamp.as_ref().map(|time| time.0),
        run,
        run_number,
        uid,
        spec: spec.clone(),
        driver_overlays: Vec::new(),
        executor_overlays: Vec::new(),
    }
}

/// The run that the object asks for, and its number: the one that its status is about, if that has the same nonce, or the next. No
/// id is used again, whatever the nonces: what a run has done is found under its id in journals and at destinations.
fn run(job: &BatchJob, uid: &str) -> (String, u32) {
    let status = job.status.as_ref();
    match status.and_then(|status| Some((status, status.run.clone()?))) {
        None => (uid.to_owned(), 1),
        Some((status, run)) if status.rerun_nonce == job.spec.rerun_nonce => (run, status.runs),
        Some((status, _)) => {
            let number = status.runs.saturating_add(1);
            (format!("{uid}-{number}"), number)
        }
    }
}

/// All that is wrong with an object, for people.
pub fn words(problems: &[Problem]) -> String {
    let one = |problem: &Problem| {
        let field = problem
            .location
            .as_ref()
            .map(|location| &location.field)
            .filter(|field| !field.is_empty());
        let place = field.map(|field| format!("{field}: ")).unwrap_or_default();
        let found = problem
            .found
            .as_ref()
            .map(|found| format!(", found {found}"))
            .unwrap_or_default();
        let allowed = problem
            .allowed
            .as_ref()
            .map(|allowed| format!(", allowed: {allowed}"))
            .unwrap_or_default();
        let remedy = problem
            .remedy
            .as_ref()
            .map(|remedy| format!("; {remedy}"))
            .unwrap_or_default();
        format!("{place}{}{found}{allowed}{remedy}", problem.message)
    };
    problems.iter().map(one).collect::<Vec<_>>().join("\n")
}

/// Whether this very spec has been checked before.
fn was_accepted(job: &BatchJob) -> bool {
    job.status.as_ref().is_some_and(|status| {
        status.conditions.iter().any(|condition| {
            condition.kind == ConditionType::Accepted
                && condition.status == ConditionStatus::True
                && condition.observed_generation == job.metadata.generation
        })
    })
}

/// The checks of `trireme validate`, all of them: an object may have been written past the API server's, by an older
/// definition for instance.
fn check_spec(job: &BatchJob) -> Result<(), Vec<Problem>> {
    let manifest = json!({
        "apiVersion": API_VERSION,
        "kind": "BatchJob",
        "metadata": { "name": job.metadata.name, "namespace": job.metadata.namespace },
        "spec": job.spec,
    });
    read_manifest_for("the object", &manifest.to_string(), Target::Kubernetes).map(drop)
}

/// A template as a pod. That it leaves alone what is the operator's to decide has been checked with the spec.
fn overlay(field: &str, template: &PodTemplate) -> Result<Pod, Problem> {
    let bad = |message: String| Problem::new(ErrorCode::ManifestBadValue, message);
    let fields = &template.spec.0;
    let spec: PodSpec = with_containers(fields)
        .and_then(serde_json::from_value)
        .map_err(|error| bad(format!("{field}.spec: {error}")))?;
    let read = serde_json::to_value(&spec).map_err(|error| bad(format!("{field}.spec: {error}")))?;
    if let Some(unread) = unread_field(&Value::Object(fields.clone()), &read, &format!("{field}.spec")) {
        return Err(Problem::new(
            ErrorCode::ManifestUnknownField,
            format!("{unread}: a pod has no such field"),
        )
        .remedy("look for a typing error; kubectl explain pod.spec lists the fields"));
    }
    Ok(Pod {
        metadata: ObjectMeta {
            labels: Some(template.metadata.labels.clone()),
            annotations: Some(template.metadata.annotations.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    })
}

/// A pod must have containers, which a template need not.
fn with_containers(fields: &Map<String, Value>) -> Result<Value, serde_json::Error> {
    let mut fields = fields.clone();
    fields.entry("containers").or_insert_with(|| json!([]));
    Ok(Value::Object(fields))
}

/// The path of the first field of `written` that is not in `read`: one that no pod has.
fn unread_field(written: &Value, read: &Value, path: &str) -> Option<String> {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => written.iter().find_map(|(name, value)| {
            let path = format!("{path}.{name}");
            let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
            match read.get(name) {
                Some(read) => unread_field(value, read, &path),
                None if empty || value.as_array().is_some_and(Vec::is_empty) => None,
                None => Some(path),
            }
        }),
        (Value::Array(written), Value::Array(read)) => written
            .iter()
            .zip(read)
            .enumerate()
            .find_map(|(at, (written, read))| unread_field(written, read, &format!("{path}[{at}]"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde::de::{Deserialize, Deserializer, Error, Visitor, value};
    use serde::forward_to_deserialize_any;
    use trireme_spec::pods::POD_FIELDS;

    use super::*;

    fn job(spec: Value) -> BatchJob {
        serde_json::from_value(json!({
            "apiVersion": API_VERSION,
            "kind": "BatchJob",
            "metadata": { "name": "revenue", "namespace": "sales", "uid": "7d0", "generation": 3 },
            "spec": spec,
        }))
        .unwrap()
    }

    fn told(spec: Value) -> String {
        let problems = validate(&job(spec)).unwrap_err();
        problems
            .iter()
            .map(|problem| problem.message.clone())
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// A job with that nonce, and what its status says of runs.
    fn with_runs(nonce: Option<&str>, status: Value) -> BatchJob {
        let mut object = job(json!({ "sql": "SELECT 1", "rerunNonce": nonce }));
        object.status = Some(serde_json::from_value(status).unwrap());
        object
    }

    #[test]
    fn each_run_has_an_id_of_its_own_whatever_its_nonce() {
        let asked = |nonce: Option<&str>, status: Value| {
            let job = validate(&with_runs(nonce, status)).unwrap();
            (job.run, job.run_number)
        };
        assert_eq!(asked(None, json!({})), ("7d0".to_owned(), 1));
        assert_eq!(asked(Some("a"), json!({})), ("7d0".to_owned(), 1), "the first");
        let first = json!({ "run": "7d0", "runs": 1, "rerunNonce": "a" });
        assert_eq!(asked(Some("a"), first.clone()), ("7d0".to_owned(), 1));
        assert_eq!(asked(Some("b"), first.clone()), ("7d0-2".to_owned(), 2));
        assert_eq!(asked(None, first), ("7d0-2".to_owned(), 2), "taken away");
        let second = json!({ "run": "7d0-2", "runs": 2, "rerunNonce": "b" });
        assert_eq!(
            asked(Some("a"), second),
            ("7d0-3".to_owned(), 3),
            "one that was there before"
        );
    }

    #[test]
    fn the_longest_id_of_a_run_fits_into_a_label() {
        let mut object = with_runs(None, json!({ "run": "x", "runs": u32::MAX, "rerunNonce": "a" }));
        object.metadata.uid = Some("7d0c5a3e-0000-4000-8000-1234567890ab".to_owned());
        let job = validate(&object).unwrap();
        assert!(job.run.len() <= 63, "{}", job.run);
    }

    #[test]
    fn a_run_goes_on_though_no_other_can_begin() {
        let looked_after = |run: &str, state: &str| {
            let (runs, nonce) = if run == "7d0" { (1, "a") } else { (2, "b") };
            let status = json!({
                "run": run, "runs": runs, "rerunNonce": nonce, "state": state, "startTime": "2026-11-26T12:00:00Z",
            });
            rejected(&with_runs(Some("b"), status), &[]).map(|job| job.run)
        };
        assert_eq!(looked_after("7d0-2", "Running").as_deref(), Some("7d0-2"));
        assert_eq!(looked_after("7d0", "Running").as_deref(), Some("7d0"), "the run before");
        assert_eq!(looked_after("7d0", "Complete"), None);
        assert_eq!(
            looked_after("7d0-2", "Complete").as_deref(),
            Some("7d0-2"),
            "for its time to live"
        );
    }

    #[test]
    fn templates_come_from_the_general_to_the_particular() {
        let spec = json!({
            "sql": "SELECT 1",
            "podTemplate": { "spec": { "priorityClassName": "low" } },
            "driver": { "podTemplate": { "spec": { "priorityClassName": "high" } } },
        });
        let job = validate(&job(spec)).unwrap();
        let classes = |overlays: &[Pod]| -> Vec<String> {
            let class = |pod: &Pod| pod.spec.as_ref().unwrap().priority_class_name.clone().unwrap();
            overlays.iter().map(class).collect()
        };
        assert_eq!(classes(&job.driver_overlays), ["low", "high"]);
        assert_eq!(classes(&job.executor_overlays), ["low"]);
    }

    #[test]
    fn what_no_pod_has_is_refused_with_its_path() {
        let template = |spec: Value| json!({ "sql": "SELECT 1", "podTemplate": { "spec": spec } });
        assert_eq!(
            told(template(
                json!({ "affinty": {} , "nodeSelector": {"a": "b"}, "tolerations": [{ "kee": "x" }] })
            )),
            "spec.podTemplate.spec.tolerations[0].kee: a pod has no such field"
        );
        assert!(told(template(json!({ "volumes": "none" }))).starts_with("spec.podTemplate.spec: "));
        assert_eq!(
            told(template(json!({ "restartPolicy": "Always" }))),
            "spec.podTemplate.spec.restartPolicy is the operator's to decide"
        );
        assert_eq!(
            told(template(
                json!({ "containers": [{ "name": "trireme", "args": ["x"] }] })
            )),
            "spec.podTemplate.spec.containers[trireme].args is the operator's to decide"
        );
    }

    #[test]
    fn the_checks_of_a_laptop_hold_here_too() {
        assert_eq!(
            told(json!({ "sql": "SELECT 1", "executors": { "memory": "1" } })),
            "\"memory\" is out of range"
        );
    }

    /// Notes which fields a type asks for.
    struct Fields<'a>(&'a mut Vec<&'static str>);

    impl<'de> Deserializer<'de> for Fields<'_> {
        type Error = value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, value::Error> {
            Err(value::Error::custom("not a struct"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            fields: &'static [&'static str],
            _visitor: V,
        ) -> Result<V::Value, value::Error> {
            self.0.extend(fields);
            Err(value::Error::custom("seen enough"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    /// The engine's side, which knows no Kubernetes, has a list of them.
    #[test]
    fn both_sides_know_the_same_fields_of_a_pod() {
        let mut fields = Vec::new();
        drop(PodSpec::deserialize(Fields(&mut fields)));
        let (ours, theirs) = (BTreeSet::from(POD_FIELDS), BTreeSet::from_iter(fields));
        assert_eq!(ours, theirs);
    }
}
