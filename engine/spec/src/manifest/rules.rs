//! The CEL rules that stand beside the schema, evaluated as the API server does: defaults first, then every rule.

use kube_cel::{CompiledSchema, ErrorKind, Validator};
use serde_json::Value;

use super::Findings;
use super::path::{FieldPath, Step};
use crate::problem::{ErrorCode, Problem, clip};
use crate::schema;

thread_local! {
    // Compiled once for each thread that reads manifests: neither can be shared between threads.
    static RULES: (Validator, CompiledSchema) = (Validator::new(), kube_cel::compile_schema(schema::batch_job()));
}

/// Reports every rule that does not hold.
pub(super) fn check(findings: &mut Findings<'_>, json: &Value) {
    let failures = RULES.with(|(validator, rules)| validator.validate_compiled(rules, json, None));
    for failure in failures.err().into_iter().flatten() {
        let path = FieldPath::parse(&failure.field_path);
        let problem = match failure.kind {
            ErrorKind::ValidationFailure => broken(json, &path, &failure.rule, failure.message),
            // The rules are ours and the schema has accepted the value: a rule that cannot be evaluated is our bug.
            _ => Problem::new(
                ErrorCode::Internal,
                format!("rule {:?}: {}", failure.rule, failure.message),
            ),
        };
        findings.at_key(&path, problem);
    }
}

/// A rule that does not hold, with the values that it compares.
fn broken(json: &Value, path: &FieldPath, rule: &str, message: String) -> Problem {
    let problem = Problem::new(ErrorCode::ManifestRule, message);
    match compared(json, path, rule) {
        found if found.is_empty() => problem,
        found => problem.found(found.join(", ")),
    }
}

/// `max: 2`, `min: 4`: the numbers and short texts among the fields that `rule` compares. What it only asks for (`has`) is no
/// news. A field that was left out has its default, as it has for the rule.
fn compared(json: &Value, path: &FieldPath, rule: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in rule.match_indices("self.") {
        if rule[..at].ends_with("has(") {
            continue;
        }
        let name = rule[at + "self.".len()..].split(|c: char| !c.is_ascii_alphanumeric());
        let field = path.key(name.into_iter().next().unwrap_or_default());
        let text = match written(json, &field).or_else(|| default(&field)) {
            Some(Value::String(text)) => clip(text.clone(), 60),
            Some(Value::Number(number)) => number.to_string(),
            _ => continue,
        };
        let pair = format!("{}: {text}", field.name().unwrap_or_default());
        if !found.contains(&pair) {
            found.push(pair);
        }
    }
    found
}

fn written<'a>(json: &'a Value, field: &FieldPath) -> Option<&'a Value> {
    field.0.iter().try_fold(json, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::Index(index) => value.get(index),
    })
}

fn default(field: &FieldPath) -> Option<&'static Value> {
    let node = field.0.iter().try_fold(schema::batch_job(), |node, step| match step {
        Step::Key(key) => node.get("properties")?.get(key),
        Step::Index(_) => node.get("items"),
    });
    node?.get("default")
}
