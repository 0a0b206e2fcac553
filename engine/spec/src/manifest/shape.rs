//! What the schema says of a manifest, in words that name field, value and remedy.

use std::sync::LazyLock;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{ValidationError, Validator};
use serde_json::Value;

use super::path::FieldPath;
use super::{Findings, suggest};
use crate::batch_job::IDENTIFIER_PATTERN;
use crate::duration::Period;
use crate::ids::JobName;
use crate::pods::DNS_LABEL_PATTERN;
use crate::problem::{ErrorCode, Problem, clip};
use crate::schema;

/// Longest piece of a text that a message repeats, in bytes.
const ECHO_BYTES_MAX: usize = 60;

/// Reports everything that the schema refuses.
pub(super) fn check(findings: &mut Findings<'_>, json: &Value) {
    static VALIDATOR: LazyLock<Validator> =
        LazyLock::new(|| jsonschema::validator_for(schema::batch_job()).expect("the derived schema is valid"));
    for error in VALIDATOR.iter_errors(json) {
        if findings.are_enough() {
            break;
        }
        report(findings, schema::batch_job(), &error);
    }
}

fn report(findings: &mut Findings<'_>, schema: &Value, error: &ValidationError<'_>) {
    let path = FieldPath::from_pointer(error.instance_path().as_str());
    let keyword = error.schema_path().as_str();
    let node = keyword
        .rsplit_once('/')
        .and_then(|(node, _)| schema.pointer(node))
        .unwrap_or(schema);
    let value = error.instance().as_ref();
    let name = path.name().unwrap_or("manifest");
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            for field in unexpected {
                if findings.are_enough() {
                    break;
                }
                unknown_field(findings, schema, node, &path, field);
            }
        }
        ValidationErrorKind::Required { property } => {
            missing_field(findings, node, &path, value, property.as_str().unwrap_or_default());
        }
        ValidationErrorKind::Type { kind } => wrong_type(findings, node, &path, value, &types(kind)),
        // The schema's only `anyOf` is integer-or-string.
        ValidationErrorKind::AnyOf { .. } => {
            wrong_type(
                findings,
                node,
                &path,
                value,
                &["integer".to_owned(), "string".to_owned()],
            );
        }
        // A value of the wrong type is also none of the options; once is enough.
        ValidationErrorKind::Enum { .. } if !value.is_string() => {}
        ValidationErrorKind::Enum { options } => not_an_option(findings, &path, value, options),
        ValidationErrorKind::Pattern { pattern } => {
            let code = match pattern.as_str() {
                JobName::PATTERN | DNS_LABEL_PATTERN | IDENTIFIER_PATTERN => ErrorCode::ManifestBadName,
                _ => ErrorCode::ManifestBadValue,
            };
            let form = if code == ErrorCode::ManifestBadName {
                "a valid name"
            } else {
                "of the right form"
            };
            let mut problem = Problem::new(code, format!("{name:?} is not {form}"))
                .found(describe(value))
                .allowed(schema::explain_pattern(pattern).unwrap_or(pattern));
            if let Some(number) = value.as_str().filter(|text| text.parse::<u32>().is_ok())
                && pattern == Period::PATTERN
            {
                problem = problem.remedy(format!("add a unit: {number}s"));
            }
            findings.at_value(&path, problem);
        }
        ValidationErrorKind::MaxLength { .. }
        | ValidationErrorKind::MinLength { .. }
        | ValidationErrorKind::MaxItems { .. }
        | ValidationErrorKind::MinItems { .. }
        | ValidationErrorKind::MaxProperties { .. }
        | ValidationErrorKind::MinProperties { .. }
        | ValidationErrorKind::Maximum { .. }
        | ValidationErrorKind::Minimum { .. } => out_of_range(findings, node, &path, value),
        _ => {
            let message = format!("{name:?}: {}", error.masked());
            findings.at_value(&path, Problem::new(ErrorCode::ManifestBadValue, message));
        }
    }
}

fn unknown_field(findings: &mut Findings<'_>, schema: &Value, node: &Value, parent: &FieldPath, field: &str) {
    let known: Vec<&str> = properties(node).map(|(name, _)| name).collect();
    let shown = clip(field.to_owned(), ECHO_BYTES_MAX);
    let mut problem = Problem::new(ErrorCode::ManifestUnknownField, format!("unknown field {shown:?}"));
    let mut elsewhere = Vec::new();
    homes(schema, &mut String::new(), field, &mut elsewhere);
    // Who is told the right name need not read all the others.
    if let Some(near) = suggest::nearest(field, known.iter().copied()) {
        problem = problem.remedy(format!("did you mean {near:?}?"));
    } else {
        problem = problem.allowed(known.join(", "));
        if !elsewhere.is_empty() {
            problem = problem.remedy(format!("{field:?} belongs to {}", elsewhere.join(" or ")));
        }
    }
    findings.at_key(&parent.key(field), problem);
}

fn missing_field(findings: &mut Findings<'_>, node: &Value, parent: &FieldPath, value: &Value, field: &str) {
    let known: Vec<&str> = properties(node).map(|(name, _)| name).collect();
    // A misspelt field is reported as unknown, with the right name; that it is missing too is no news.
    let misspelt = |written: &String| {
        !known.contains(&written.as_str()) && suggest::nearest(written, known.iter().copied()) == Some(field)
    };
    if value.as_object().is_some_and(|fields| fields.keys().any(misspelt)) {
        return;
    }
    let mut problem = Problem::new(ErrorCode::ManifestMissingField, format!("{field:?} is missing"));
    if let Some((_, inner)) = properties(node).find(|(name, _)| *name == field)
        && let Some(words) = allowed(inner).or_else(|| first_sentence(inner))
    {
        problem = problem.allowed(words);
    }
    findings.at_value(&parent.key(field), problem);
}

/// The beginning of a field's documentation, as part of a sentence.
fn first_sentence(node: &Value) -> Option<String> {
    let words = node.get("description")?.as_str()?;
    let sentence = words
        .split(". ")
        .next()?
        .trim_end_matches('.')
        .replace('`', "")
        .replace('\n', " ");
    let mut letters = sentence.chars();
    let first = letters.next()?;
    Some(first.to_lowercase().chain(letters).collect())
}

/// Collects the paths of all objects in the schema that have a field of this name.
fn homes(node: &Value, path: &mut String, field: &str, found: &mut Vec<String>) {
    for (name, inner) in properties(node) {
        if name == field {
            found.push(if path.is_empty() {
                "the top level".to_owned()
            } else {
                path.clone()
            });
        }
        let length = path.len();
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
        if let Some(items) = inner.get("items") {
            path.push_str("[]");
            homes(items, path, field, found);
        }
        homes(inner, path, field, found);
        path.truncate(length);
    }
}

fn properties(node: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let properties = node.get("properties").and_then(Value::as_object);
    properties
        .into_iter()
        .flatten()
        .map(|(name, inner)| (name.as_str(), inner))
}

fn wrong_type(findings: &mut Findings<'_>, node: &Value, path: &FieldPath, value: &Value, types: &[String]) {
    let name = path.name().unwrap_or("manifest");
    let wanted = alternatives(types.iter().map(|name| type_in_words(name)));
    let mut problem =
        Problem::new(ErrorCode::ManifestWrongType, format!("{name:?} must be {wanted}")).found(describe(value));
    if let Some(words) = allowed(node).filter(|words| *words != wanted) {
        problem = problem.allowed(words);
    }
    let wants = |name: &str| types.iter().any(|wanted| wanted == name);
    let remedy = match value {
        Value::Null => Some("give it a value, or leave the field out".to_owned()),
        Value::Number(number) if node["pattern"] == Period::PATTERN => Some(format!("add a unit: {number}s")),
        Value::Number(_) | Value::Bool(_) if wants("string") && takes(node, &value.to_string()) => {
            Some(format!("put it in quotes: \"{value}\""))
        }
        Value::String(text) if wants("integer") && text.parse::<i64>().is_ok() => {
            Some(format!("leave out the quotes: {text}"))
        }
        Value::String(text) if wants("boolean") && matches!(text.as_str(), "true" | "false") => {
            Some(format!("leave out the quotes: {text}"))
        }
        _ => None,
    };
    if let Some(remedy) = remedy {
        problem = problem.remedy(remedy);
    }
    findings.at_value(path, problem);
}

/// Whether `text` would be right where something else was written.
fn takes(node: &Value, text: &str) -> bool {
    jsonschema::is_valid(node, &Value::from(text))
}

fn not_an_option(findings: &mut Findings<'_>, path: &FieldPath, value: &Value, options: &Value) {
    let options: Vec<&str> = options
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let (code, message) = match path.to_string().as_str() {
        "apiVersion" => (ErrorCode::ManifestWrongApiVersion, "unknown apiVersion".to_owned()),
        _ => (
            ErrorCode::ManifestBadValue,
            format!("unknown value for {:?}", path.name().unwrap_or("manifest")),
        ),
    };
    let mut problem = Problem::new(code, message)
        .found(describe(value))
        .allowed(options.join(", "));
    if let Some(near) = value
        .as_str()
        .and_then(|written| suggest::nearest(written, options.iter().copied()))
    {
        problem = problem.remedy(format!("did you mean {near:?}?"));
    }
    findings.at_value(path, problem);
}

fn out_of_range(findings: &mut Findings<'_>, node: &Value, path: &FieldPath, value: &Value) {
    let name = path.name().unwrap_or("manifest");
    let (message, found) = match value {
        Value::String(text) if text.is_empty() => (format!("{name:?} is empty"), "an empty text".to_owned()),
        Value::String(text) => (
            format!("{name:?} has the wrong length"),
            count(text.chars().count(), "character"),
        ),
        Value::Array(items) => (format!("{name:?} has the wrong length"), count(items.len(), "item")),
        Value::Object(fields) => (format!("{name:?} has the wrong length"), count(fields.len(), "field")),
        _ => (format!("{name:?} is out of range"), value.to_string()),
    };
    let mut problem = Problem::new(ErrorCode::ManifestOutOfRange, message).found(found);
    if let Some(words) = size_range(node).or_else(|| allowed(node)) {
        problem = problem.allowed(words);
    }
    findings.at_value(path, problem);
}

/// The number of characters, items or fields that a node of the schema allows, in words.
fn size_range(node: &Value) -> Option<String> {
    let (low, high, unit) = match node.get("type").and_then(Value::as_str)? {
        "string" => ("minLength", "maxLength", "characters"),
        "array" => ("minItems", "maxItems", "items"),
        "object" => ("minProperties", "maxProperties", "fields"),
        _ => return None,
    };
    let high = node.get(high)?;
    match node.get(low) {
        Some(low) => Some(format!("{low} to {high} {unit}")),
        None => Some(format!("up to {high} {unit}")),
    }
}

/// What a node of the schema allows of a single value, in words; `None` if its type says it all.
fn allowed(node: &Value) -> Option<String> {
    if let Some(options) = node.get("enum").and_then(Value::as_array) {
        return Some(options.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "));
    }
    if let Some(pattern) = node.get("pattern").and_then(Value::as_str) {
        return Some(schema::explain_pattern(pattern).unwrap_or(pattern).to_owned());
    }
    if let (Some(low), Some(high)) = (node.get("minimum"), node.get("maximum")) {
        return Some(format!("a whole number, {low} to {high}"));
    }
    if node.get("properties").is_some() {
        let fields = properties(node).map(|(name, _)| name).collect::<Vec<_>>().join(", ");
        return Some(format!("a mapping with the fields {fields}"));
    }
    None
}

/// `a, b or c`.
fn alternatives<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

fn types(kind: &TypeKind) -> Vec<String> {
    match kind {
        TypeKind::Single(one) => vec![one.to_string()],
        // In the order of the schema's only list of types, not of the bits of the set.
        TypeKind::Multiple(several) => {
            let mut names: Vec<String> = several.iter().map(|one| one.to_string()).collect();
            names.sort_by_key(|name| std::cmp::Reverse(name.clone()));
            names
        }
    }
}

fn type_in_words(name: &str) -> &str {
    match name {
        "string" => "text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a mapping",
        other => other,
    }
}

/// A value as messages call it, in a few words.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the text {:?}", clip(text.clone(), ECHO_BYTES_MAX)),
        Value::Array(items) => format!("a list of {}", count(items.len(), "item")),
        Value::Object(fields) => format!("a mapping of {}", count(fields.len(), "field")),
    }
}

fn count(number: usize, unit: &str) -> String {
    if number == 1 {
        format!("1 {unit}")
    } else {
        format!("{number} {unit}s")
    }
}
