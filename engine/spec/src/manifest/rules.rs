//! The CEL rules that stand beside the schema, evaluated as the API server does: defaults first, then every rule.

use kube_cel::{CompiledSchema, ErrorKind, Validator};
use serde_json::Value;

use super::Findings;
use super::path::FieldPath;
use crate::problem::{ErrorCode, Problem};
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
            ErrorKind::ValidationFailure => Problem::new(ErrorCode::ManifestRule, failure.message),
            // The rules are ours and the schema has accepted the value: a rule that cannot be evaluated is our bug.
            _ => Problem::new(
                ErrorCode::Internal,
                format!("rule {:?}: {}", failure.rule, failure.message),
            ),
        };
        findings.at_key(&path, problem);
    }
}
