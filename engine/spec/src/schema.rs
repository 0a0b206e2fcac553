//! The JSON schema of a BatchJob, derived from its types, with the rules (CEL) beside the fields they are about.
//!
//! The dialect is what Kubernetes calls structural: no references, one inline tree, no logic but integer-or-string.
//! A CustomResourceDefinition takes it after two changes that the API server asks for, because it says the same by
//! other means: without `additionalProperties: false` (unknown fields are refused by its field validation), and
//! without the list of types of a parameter's value (which may have none there).
//!
//! This module also explains patterns in words. It decides nothing about a manifest; that is [`crate::manifest`].

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use crate::batch_job::{self, BatchJob};
use crate::duration::Period;
use crate::ids::JobName;
use crate::pods;
use crate::quantity::Bytes;

/// The schema of a BatchJob manifest.
pub fn batch_job() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(structural::<BatchJob>);
    &SCHEMA
}

/// What a pattern of the schema means, in words with an example; `None` for a pattern that is not ours.
pub fn explain_pattern(pattern: &str) -> Option<&'static str> {
    PATTERNS
        .iter()
        .find(|(known, _)| *known == pattern)
        .map(|(_, words)| *words)
}

/// Every pattern that the schema uses, in words.
const PATTERNS: [(&str, &str); 8] = [
    (Bytes::PATTERN, "an amount of bytes such as 512Mi, 2Gi or 1.5G"),
    (Period::PATTERN, "a duration such as 500ms, 30s or 1m30s"),
    (
        batch_job::IDENTIFIER_PATTERN,
        "lower case letters, digits and underscores, not beginning with a digit, such as daily_sales",
    ),
    (
        JobName::PATTERN,
        "lower case letters, digits and dashes, beginning with a letter and ending with a letter or digit",
    ),
    (
        batch_job::NONCE_PATTERN,
        "1 to 20 letters, digits and dashes, no dash at the ends, such as 2026-11-26",
    ),
    (
        pods::DNS_LABEL_PATTERN,
        "lower case letters, digits and dashes, beginning and ending with a letter or digit",
    ),
    (
        pods::DNS_SUBDOMAIN_PATTERN,
        "lower case letters, digits, dashes and dots, beginning and ending with a letter or digit",
    ),
    (
        pods::LABEL_VALUE_PATTERN,
        "letters, digits, dashes, underscores and dots, beginning and ending with a letter or digit",
    ),
];

/// A rule for `x-kubernetes-validations`: a CEL expression that must hold, and what to say if it does not.
pub(crate) fn rule(rule: &str, message: &str) -> Value {
    json!({ "rule": rule, "message": message })
}

/// A rule whose message is itself a CEL expression; `message` is said where that cannot be evaluated.
pub(crate) fn rule_with_message_expression(rule: &str, message: &str, message_expression: &str) -> Value {
    json!({ "rule": rule, "message": message, "messageExpression": message_expression })
}

/// The schema of any type of ours, in the structural dialect.
pub fn structural<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    Structural.transform(&mut schema);
    schema.to_value()
}

/// Turns schemars' dialect into the structural one.
#[derive(Clone)]
struct Structural;

impl Transform for Structural {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        drop_null(schema);
        gather_constants(schema);
        // Kubernetes knows only int32 and int64, and warns of the rest; the bounds say it better.
        schema.remove("format");
        schema.remove("title");
    }
}

/// `Option<T>` means that a field may be absent, not that it may be null: a key with nothing behind it is a mistake.
fn drop_null(schema: &mut Schema) {
    if let Some(Value::Array(types)) = schema.get_mut("type")
        && let Some(at) = types.iter().position(|name| name == "null")
    {
        types.remove(at);
        if let [only] = types.as_mut_slice() {
            let only = only.take();
            schema.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    let is_null = |branch: &Value| branch == &json!({ "type": "null" });
    if let Some(Value::Array(branches)) = schema.get("anyOf")
        && let [Value::Object(inner), null] = branches.as_slice()
        && is_null(null)
    {
        let inner = inner.clone();
        schema.remove("anyOf");
        merge(schema, inner);
    }
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
}

/// schemars writes documented variants of an enum as one `const` each; structural schemas want one `enum`, and the
/// documentation of the variants goes to the end of the description.
fn gather_constants(schema: &mut Schema) {
    let Some(Value::Array(variants)) = schema.get("oneOf") else {
        return;
    };
    let constant = |variant: &Value| Some((variant.get("const")?.clone(), variant.get("description").cloned()));
    let Some(variants) = variants.iter().map(constant).collect::<Option<Vec<_>>>() else {
        return;
    };
    let mut description = schema
        .get("description")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    for (name, words) in &variants {
        if let (Some(name), Some(words)) = (name.as_str(), words.as_ref().and_then(Value::as_str)) {
            description.push_str(&format!("\n- {name}: {words}"));
        }
    }
    schema.remove("oneOf");
    schema.insert("type".to_owned(), json!("string"));
    schema.insert("description".to_owned(), json!(description.trim_start()));
    schema.insert("enum".to_owned(), variants.into_iter().map(|(name, _)| name).collect());
}

/// Adds what is not there yet: the field's own words and bounds go before those of its type.
fn merge(schema: &mut Schema, inner: serde_json::Map<String, Value>) {
    let object = schema.ensure_object();
    for (key, value) in inner {
        object.entry(key).or_insert(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `visit` with every node of the schema and its path.
    fn walk(node: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
        visit(path, node);
        for (name, inner) in node["properties"].as_object().into_iter().flatten() {
            walk(inner, &format!("{path}.{name}"), visit);
        }
        if let Some(items) = node.get("items") {
            walk(items, &format!("{path}[]"), visit);
        }
        if let Some(values @ Value::Object(_)) = node.get("additionalProperties") {
            walk(values, &format!("{path}.*"), visit);
        }
    }

    fn at<'a>(path: &str) -> &'a Value {
        let pointer: String = path.split('.').map(|name| format!("/properties/{name}")).collect();
        batch_job().pointer(&pointer.replace("[]", "/items")).unwrap()
    }

    #[test]
    fn is_structural() {
        walk(batch_job(), "", &mut |path, node| {
            for keyword in [
                "$ref", "$schema", "$defs", "oneOf", "allOf", "not", "const", "nullable", "format", "title",
            ] {
                assert!(node.get(keyword).is_none(), "{path} has {keyword}");
            }
            let int_or_string = node.get("x-kubernetes-int-or-string").is_some();
            assert_eq!(node.get("anyOf").is_some(), int_or_string, "{path}");
            let any = node.get("x-kubernetes-preserve-unknown-fields").is_some();
            assert!(
                int_or_string || any || node["type"].is_string(),
                "{path} has the type {}",
                node["type"]
            );
            if node.get("properties").is_some() {
                assert_eq!(node["additionalProperties"], json!(false), "{path}");
            }
        });
    }

    /// What `kubectl explain` and error messages show, and what keeps an object small and a rule cheap.
    #[test]
    fn every_field_is_documented_and_bounded() {
        walk(batch_job(), "", &mut |path, node| {
            let is_field = !path.ends_with('*') && !path.ends_with("[]");
            if is_field {
                let words = node["description"].as_str().unwrap_or_default();
                assert!(words.contains('.'), "{path} has no description");
            }
            let bounded = |keyword: &str| assert!(node.get(keyword).is_some(), "{path} has no {keyword}");
            match node["type"].as_str() {
                Some("string") if node.get("enum").is_none() => bounded("maxLength"),
                Some("array") => bounded("maxItems"),
                Some("integer") => {
                    bounded("minimum");
                    bounded("maximum");
                }
                Some("object") if node.get("properties").is_none() => bounded("maxProperties"),
                Some("string" | "object" | "boolean") | None => {}
                Some(other) => panic!("{path} has the type {other}"),
            }
        });
    }

    #[test]
    fn every_pattern_is_explained() {
        let mut used = std::collections::HashSet::new();
        walk(batch_job(), "", &mut |path, node| {
            if let Some(pattern) = node.get("pattern").and_then(Value::as_str) {
                assert!(explain_pattern(pattern).is_some(), "{path}: {pattern}");
                used.insert(pattern.to_owned());
            }
        });
        for (pattern, words) in PATTERNS {
            assert!(used.contains(pattern), "nothing has the pattern of {words}");
        }
    }

    #[test]
    fn every_rule_compiles() {
        let mut rules = 0;
        walk(batch_job(), "", &mut |path, node| {
            let compiled = kube_cel::compile_schema(node);
            assert!(!compiled.has_errors(), "{path}: {:?}", compiled.compilation_errors());
            rules += compiled.validations.len();
        });
        assert_eq!(rules, 8);
    }

    #[test]
    fn defaults_are_visible() {
        // The scale subresource reads and writes this field, so it must exist in every object.
        assert_eq!(
            at("spec.executors")["default"],
            json!({ "min": 1, "cores": 1, "memory": "2Gi", "scratch": { "size": "10Gi" } })
        );
        assert_eq!(at("spec.executors.min")["default"], json!(1));
        assert_eq!(at("spec.retries.backoff.initial")["default"], json!("1s"));
        assert_eq!(at("spec.autoscale.mode")["default"], json!("Auto"));
        assert_eq!(at("spec.suspend")["default"], json!(false));
        assert_eq!(at("spec.result.format")["default"], json!("parquet"));
    }

    #[test]
    fn reads_well_in_kubectl_explain() {
        let field = serde_json::to_string_pretty(at("spec.autoscale.mode")).unwrap();
        assert_eq!(
            field,
            r#"{
  "default": "Auto",
  "description": "Who decides on the number of executors.\n- Auto: Trireme is to move the number between `executors.min` and `executors.max`; it does not yet.\n- Recommend: Trireme is to say in the status what it would do, and stays at `executors.min`; it says nothing yet.\n- Off: The number stays at `executors.min`.",
  "type": "string",
  "enum": [
    "Auto",
    "Recommend",
    "Off"
  ]
}"#
        );
    }
}
