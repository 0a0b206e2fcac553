//! Whole manifests, good and bad. `bad_manifests.txt` holds one example of everything that can be wrong, with the exact
//! text that users see; `UPDATE_GOLDEN=1 cargo test -p trireme-spec` writes it anew, for a person to read the difference.

use std::fmt::Write as _;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::batch_job::{AutoscaleMode, FileFormat, ParameterValue};
use crate::error_code::ErrorClass;
use crate::quantity::Bytes;
use crate::schema;

const SMALLEST: &str = "\
apiVersion: trireme.dev/v1alpha1
kind: BatchJob
metadata:
  name: revenue
spec:
  sql: |
    SELECT 1
";

/// Every field of the API once.
const LARGEST: &str = include_str!("complete.yaml");

fn job(text: &str) -> BatchJob {
    match read_manifest("job.yaml", text) {
        Ok(Manifest::BatchJob(job)) => *job,
        Err(problems) => panic!("{}", render(&problems)),
    }
}

fn problems(text: &str) -> Vec<Problem> {
    read_manifest("job.yaml", text).expect_err("the manifest is bad")
}

fn render(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

#[test]
fn smallest_manifest_has_safe_defaults() {
    let job = job(SMALLEST);
    assert_eq!(job.metadata.name.as_str(), "revenue");
    let spec = job.spec;
    assert_eq!(spec.sql.as_deref(), Some("SELECT 1\n"));
    assert_eq!(
        (spec.executors.min, spec.executors.ceiling(), spec.executors.cores),
        (1, 1, 1)
    );
    assert_eq!(
        (spec.executors.memory, spec.driver.memory),
        (Bytes::gib(2), Bytes::gib(2))
    );
    assert_eq!(
        (spec.retries.application, spec.autoscale.mode),
        (3, AutoscaleMode::Auto)
    );
    assert!(!spec.suspend && spec.result.is_none() && spec.storage.is_none());
}

#[test]
fn complete_manifest_uses_every_field_of_the_schema() {
    let job = job(LARGEST);
    assert_eq!(job.spec.tables[0].format, FileFormat::Csv);
    assert_eq!(job.spec.parameters["ratio"], ParameterValue::Number(0.25));
    assert_eq!(job.spec.parameters["year"], ParameterValue::Integer(2024));

    let value = yaml::parse(LARGEST).unwrap().to_json();
    let mut absent = Vec::new();
    fields_not_in(schema::batch_job(), &value, "", &mut absent);
    assert_eq!(absent, ["spec.sqlFrom"], "of sql and sqlFrom a manifest has one");
}

/// Paths of the schema's fields that a value has not.
fn fields_not_in(node: &Value, value: &Value, path: &str, absent: &mut Vec<String>) {
    for (name, inner) in node["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        match value.get(name) {
            None => absent.push(path),
            Some(Value::Array(items)) => fields_not_in(&inner["items"], &items[0], &format!("{path}[0]"), absent),
            Some(value) => fields_not_in(inner, value, &path, absent),
        }
    }
}

/// Kubernetes fills in what the schema says, a laptop what serde says: the same job must come out.
#[test]
fn defaults_of_schema_and_types_agree() {
    for text in [SMALLEST, LARGEST] {
        let value = yaml::parse(text).unwrap().to_json();
        let defaulted = kube_cel::apply_defaults(schema::batch_job(), &value);
        let typed = serde_json::to_value(job(text)).unwrap();
        assert_eq!(serde_json::from_value::<BatchJob>(defaulted).unwrap(), job(text));
        // And the typed form is itself a valid manifest.
        assert_eq!(job(&typed.to_string()), job(text));
    }
}

#[test]
fn json_manifests_are_read_too() {
    let text = serde_json::to_string_pretty(&yaml::parse(LARGEST).unwrap().to_json()).unwrap();
    assert_eq!(job(&text), job(LARGEST));
}

#[test]
fn bad_manifests_are_told_as_recorded() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/manifest/bad_manifests.txt");
    let recorded = std::fs::read_to_string(&file).unwrap();
    let (head, cases) = recorded.split_once("=== ").unwrap();
    let mut told = head.to_owned();
    let mut count = 0;
    for case in cases.split("\n=== ") {
        let (name, rest) = case.split_once('\n').unwrap();
        let (text, _) = rest.split_once("\n~~~\n").unwrap();
        let target = if name.ends_with("(local)") {
            Some(Target::Local)
        } else {
            None
        };
        let problems = read("job.yaml", text, target).expect_err(name);
        for problem in &problems {
            assert_eq!(problem.code.class(), ErrorClass::Manifest, "{name}");
            assert!(problem.location.is_some(), "{name}");
        }
        let separator = if count == 0 { "" } else { "\n" };
        write!(told, "{separator}=== {name}\n{text}\n~~~\n{}", render(&problems)).unwrap();
        count += 1;
    }
    assert!(count >= 25);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return std::fs::write(&file, &told).unwrap();
    }
    for (told, recorded) in told.split("=== ").zip(recorded.split("=== ")) {
        assert_eq!(told, recorded);
    }
}

/// Every code of the class Manifest that reading can give has its example, so that the list of errors is a list of facts.
#[test]
fn every_manifest_error_has_an_example() {
    let recorded = include_str!("bad_manifests.txt");
    for code in ErrorCode::ALL
        .iter()
        .filter(|code| code.class() == ErrorClass::Manifest)
    {
        // Told by who opens the file, and by who compares it with a journal.
        let not_of_the_text = matches!(code, ErrorCode::ManifestUnreadable | ErrorCode::ManifestChanged);
        assert!(
            not_of_the_text || recorded.contains(&format!("error[{code}]")),
            "{code}"
        );
    }
}

#[test]
fn long_texts_are_refused_unread() {
    let text = format!("{SMALLEST}# {}", "x".repeat(1 << 20));
    assert_eq!(
        render(&problems(&text)),
        "error[MANIFEST-TOO-LARGE]: the manifest is too long\n \
         --> job.yaml:1:1\n  \
         = found: 1048680 bytes\n  \
         = allowed: up to 1Mi\n  \
         = help: keep data in files and long SQL in a file named by spec.sqlFrom\n"
    );
}

#[test]
fn problems_are_few_and_in_the_order_of_the_text() {
    let many: String = (0..300).map(|at| format!("  unknown{at}: 1\n")).collect();
    let problems = problems(&format!("{SMALLEST}{many}"));
    assert_eq!(problems.len(), 20);
    let lines: Vec<u32> = problems
        .iter()
        .map(|problem| problem.location.as_ref().unwrap().line)
        .collect();
    assert_eq!(lines, (8..28).collect::<Vec<_>>());
}

#[test]
fn a_problem_names_the_source_as_the_user_did() {
    let problems = read_manifest("<stdin>", "kind: [").unwrap_err();
    assert_eq!(problems[0].location.as_ref().unwrap().source, "<stdin>");
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}|[-a-z:{}\\[\\]&*!|>'\"#%@, \\n\\t?0-9.]{0,200}") {
        check_outcome(&text);
    }

    /// Damaged manifests come further than noise: most of them fail in the schema, the rules or the checks.
    #[test]
    fn no_damage_panics(
        base in prop_oneof![Just(SMALLEST), Just(LARGEST)],
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, "\\PC{0,6}"), 1..6),
    ) {
        let mut text = base.to_owned();
        for (at, length, replacement) in damage {
            let start = text.floor_char_boundary(at.index(text.len() + 1));
            let end = text.floor_char_boundary((start + length).min(text.len())).max(start);
            text.replace_range(start..end, &replacement);
        }
        check_outcome(&text);
    }

    /// Well-formed values in wrong places: what the text steps let through.
    #[test]
    fn no_value_panics(field in any::<prop::sample::Index>(), value in any_value()) {
        let mut manifest = yaml::parse(LARGEST).unwrap().to_json();
        let mut pointers = Vec::new();
        collect_pointers(&manifest, String::new(), &mut pointers);
        let pointer: &String = field.get(&pointers);
        *manifest.pointer_mut(pointer).unwrap() = value;
        check_outcome(&manifest.to_string());
    }
}

/// Either a job, or problems that are bounded, placed in the text and not our own fault.
fn check_outcome(text: &str) {
    if let Err(problems) = read_manifest_for("job.yaml", text, Target::Local) {
        assert!((1..=20).contains(&problems.len()));
        let lines = text.split('\n').count() as u32;
        for problem in problems {
            assert_eq!(problem.code.class(), ErrorClass::Manifest, "{problem}");
            let location = problem.location.as_ref().unwrap();
            assert!((1..=lines + 1).contains(&location.line), "{problem}");
        }
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "[0-9]{1,15}(Ki|Pi|h|ms|s)?".prop_map(Value::from),
        "(s3|s3a|gs|file|x)://[a-z@:/*]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,4}|name|min|max", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

fn collect_pointers(value: &Value, path: String, pointers: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                collect_pointers(
                    inner,
                    format!("{path}/{}", name.replace('~', "~0").replace('/', "~1")),
                    pointers,
                );
            }
        }
        Value::Array(items) => {
            for (at, inner) in items.iter().enumerate() {
                collect_pointers(inner, format!("{path}/{at}"), pointers);
            }
        }
        _ => {}
    }
    pointers.push(path);
}
