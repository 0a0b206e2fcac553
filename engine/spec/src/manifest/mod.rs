//! From the text of a manifest to a strict value, or to everything that is wrong with it.
//!
//! Four steps, in the order in which Kubernetes takes them, so that `trireme validate` says what admission will say:
//! the text (`yaml`), the kind, the shape (`shape`: the schema), and what goes together (`rules`: the CEL rules beside the
//! schema; `checks`: what neither schema nor CEL can say). A step reports all that it finds; the next one runs only if it
//! found nothing, because a rule about a field of the wrong type would only repeat that in other words.
//!
//! Pure: it opens no file and resolves no reference. No text, however hostile, makes it panic or use more than some tens
//! of megabytes.

mod checks;
mod path;
mod rules;
mod scalar;
mod shape;
mod suggest;
mod yaml;

#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::batch_job::{API_VERSION, BatchJob};
use crate::limits::Limits;
use crate::problem::{ErrorCode, Location, Problem, clip};
use path::FieldPath;
use yaml::{Mark, Node, YamlError, YamlErrorKind};

/// The limits that reading obeys. They are the same everywhere, or admission and a laptop would disagree.
const LIMITS: Limits = Limits::DEFAULT;

/// The kinds that this version runs.
const KINDS: [&str; 1] = ["BatchJob"];

/// The kinds of the group that this version knows by name only.
const KINDS_TO_COME: [&str; 3] = ["StreamJob", "StreamSnapshot", "TaskCluster"];

/// A manifest whose shape, rules and names are in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Manifest {
    /// SQL over files, once, to the end.
    BatchJob(Box<BatchJob>),
}

/// Where a job is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// In processes of this machine.
    Local,
    /// On pods.
    Kubernetes,
}

/// Reads a manifest and checks all that does not depend on where the job is to run. `source` is how messages call the
/// text: the name of the file, or `<stdin>`. On failure, at least one and at most [`Limits::manifest_problems_max`]
/// problems, in the order of the text.
pub fn read_manifest(source: &str, text: &str) -> Result<Manifest, Vec<Problem>> {
    read(source, text, None)
}

/// The same as [`read_manifest`], and checks also that every field means something where the job is to run.
pub fn read_manifest_for(source: &str, text: &str, target: Target) -> Result<Manifest, Vec<Problem>> {
    read(source, text, Some(target))
}

fn read(source: &str, text: &str, target: Option<Target>) -> Result<Manifest, Vec<Problem>> {
    if text.len() > LIMITS.manifest_bytes_max.as_usize() {
        return Err(vec![
            Problem::new(ErrorCode::ManifestTooLarge, "the manifest is too long")
                .at(Location {
                    source: source.to_owned(),
                    line: 1,
                    column: 1,
                    field: String::new(),
                })
                .found(format!("{} bytes", text.len()))
                .allowed(format!("up to {}", LIMITS.manifest_bytes_max))
                .remedy("keep data in files and long SQL in a file named by spec.sqlFrom"),
        ]);
    }
    let tree = yaml::parse(text).map_err(|error| vec![not_a_tree(source, error)])?;
    let mut findings = Findings {
        source,
        tree: &tree,
        problems: Vec::new(),
    };
    check_kind(&mut findings);
    findings.stop_if_any()?;

    let json = tree.to_json();
    shape::check(&mut findings, &json);
    findings.stop_if_any()?;

    let job = strict(&mut findings, &json);
    rules::check(&mut findings, &json);
    if let Some(job) = &job {
        checks::check(&mut findings, job, target);
    }
    findings.stop_if_any()?;
    let job = job.expect("`strict` reports a problem when it has no job");
    Ok(Manifest::BatchJob(Box::new(job)))
}

/// What is wrong so far, with the means to say where.
struct Findings<'a> {
    source: &'a str,
    tree: &'a Node,
    problems: Vec<Problem>,
}

impl Findings<'_> {
    /// Adds a problem with the value at a path, or with what should be there.
    fn at_value(&mut self, path: &FieldPath, problem: Problem) {
        let place = self.tree.locate(path);
        self.add(place.value, path, problem);
    }

    /// Adds a problem with the field at a path as a whole: its key.
    fn at_key(&mut self, path: &FieldPath, problem: Problem) {
        let place = self.tree.locate(path);
        self.add(place.key.unwrap_or(place.value), path, problem);
    }

    fn add(&mut self, at: Mark, path: &FieldPath, problem: Problem) {
        let field = clip(path.to_string(), 256);
        let location = Location {
            source: self.source.to_owned(),
            line: at.line,
            column: at.column,
            field,
        };
        self.problems.push(problem.at(location));
    }

    /// Whether looking for more would be a waste: eight times what is shown is enough to find the first ones of the
    /// text among them, and bounds the work that a hostile text can cause.
    fn are_enough(&self) -> bool {
        self.problems.len() >= 8 * LIMITS.manifest_problems_max as usize
    }

    /// Ends the reading if there is anything to report.
    fn stop_if_any(&mut self) -> Result<(), Vec<Problem>> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let mut problems = std::mem::take(&mut self.problems);
        // By place; the text as well, so that two problems at one place come in the same order in every run.
        problems.sort_by_cached_key(|problem| {
            let place = problem
                .location
                .as_ref()
                .map(|location| (location.line, location.column));
            (place, problem.code.id(), problem.message.clone())
        });
        problems.dedup();
        problems.truncate(LIMITS.manifest_problems_max as usize);
        Err(problems)
    }
}

/// The kind comes first: it decides what everything else should look like.
fn check_kind(findings: &mut Findings<'_>) {
    let root = FieldPath::default();
    let yaml::Data::Mapping(_) = findings.tree.data else {
        let found = shape::describe(&findings.tree.to_json());
        let problem = Problem::new(ErrorCode::ManifestWrongType, "a manifest is a mapping of fields")
            .found(found)
            .allowed("the fields apiVersion, kind, metadata and spec");
        return findings.at_value(&root, problem);
    };
    let kinds = KINDS.join(", ");
    let path = root.key("kind");
    let Some(field) = findings.tree.field("kind") else {
        let problem = Problem::new(ErrorCode::ManifestMissingField, "\"kind\" is missing").allowed(kinds);
        return findings.at_value(&path, problem);
    };
    let found = field.value.to_json();
    match found.as_str() {
        Some(kind) if KINDS.contains(&kind) => {}
        Some(kind) if KINDS_TO_COME.contains(&kind) => {
            let message = format!("{kind} is not available in this version");
            findings.at_value(
                &path,
                Problem::new(ErrorCode::ManifestWrongKind, message).allowed(kinds),
            );
        }
        Some(kind) => {
            let mut problem = Problem::new(ErrorCode::ManifestWrongKind, "unknown kind")
                .found(shape::describe(&found))
                .allowed(&kinds);
            if let Some(near) = suggest::nearest(kind, KINDS) {
                problem = problem.remedy(format!("did you mean {near:?}?"));
            }
            findings.at_value(&path, problem);
        }
        None => {
            let problem = Problem::new(ErrorCode::ManifestWrongType, "\"kind\" must be text")
                .found(shape::describe(&found))
                .allowed(kinds);
            findings.at_value(&path, problem);
        }
    }
}

/// Turns a value that the schema accepted into the strict type. What the schema cannot say of a single value, such as that
/// a quantity fits into 64 bits, is found here.
fn strict(findings: &mut Findings<'_>, json: &Value) -> Option<BatchJob> {
    match serde_path_to_error::deserialize(json) {
        Ok(job) => Some(job),
        Err(error) => {
            let path = FieldPath::parse(&error.path().to_string());
            let message = format!(
                "{:?} is not valid: {}",
                path.name().unwrap_or("manifest"),
                error.inner()
            );
            findings.at_value(&path, Problem::new(ErrorCode::ManifestBadValue, message));
            None
        }
    }
}

fn not_a_tree(source: &str, YamlError { at, kind }: YamlError) -> Problem {
    let problem = match kind {
        YamlErrorKind::Syntax(words) => {
            Problem::new(ErrorCode::ManifestSyntax, format!("not well-formed YAML: {words}"))
        }
        YamlErrorKind::DuplicateKey { key, first } => Problem::new(
            ErrorCode::ManifestDuplicateKey,
            format!("{:?} is written twice", clip(key, 80)),
        )
        .found(format!(
            "the first one is at line {}, column {}",
            first.line, first.column
        ))
        .remedy("keep one of them"),
        YamlErrorKind::ComplexKey => Problem::new(
            ErrorCode::ManifestSyntax,
            "a list, a mapping or an alias cannot be the name of a field",
        ),
        YamlErrorKind::MergeKey => Problem::new(ErrorCode::ManifestSyntax, "merge keys (\"<<\") are not supported")
            .remedy("write the fields out, or repeat a whole value with an alias"),
        YamlErrorKind::SecondDocument => Problem::new(ErrorCode::ManifestDocuments, "a second document begins here")
            .allowed("one document in each file")
            .remedy("put each job into a file of its own"),
        YamlErrorKind::NoDocument => Problem::new(ErrorCode::ManifestDocuments, "the manifest is empty").remedy(
            format!("begin with \"apiVersion: {API_VERSION}\" and \"kind: {}\"", KINDS[0]),
        ),
        YamlErrorKind::Tag(tag) => Problem::new(
            ErrorCode::ManifestSyntax,
            format!("the YAML tag {} is not supported", clip(tag, 80)),
        ),
        YamlErrorKind::NotFinite(text) => {
            Problem::new(ErrorCode::ManifestBadValue, "a number must be finite").found(clip(text, 80))
        }
        YamlErrorKind::AliasToItself => Problem::new(
            ErrorCode::ManifestSyntax,
            "an alias stands for a value that it is itself part of",
        ),
        YamlErrorKind::TooDeep => Problem::new(ErrorCode::ManifestTooLarge, "lists and mappings are nested too deeply")
            .allowed(format!("up to {} levels", LIMITS.manifest_depth_max)),
        YamlErrorKind::TooManyValues => Problem::new(
            ErrorCode::ManifestTooLarge,
            "the manifest holds too many values, counting what aliases repeat",
        )
        .allowed(format!("up to {}", LIMITS.manifest_values_max)),
        YamlErrorKind::Ambiguous { text, kubernetes } => {
            let text = clip(text, 80);
            let remedy = match kubernetes {
                "true" | "false" => format!("write {kubernetes}, or \"{text}\" if you mean the text"),
                _ => format!("write \"{text}\" if you mean the text, or a decimal number"),
            };
            Problem::new(
                ErrorCode::ManifestAmbiguousValue,
                format!("Kubernetes would read {text} as {kubernetes}"),
            )
            .remedy(remedy)
        }
    };
    problem.at(Location {
        source: source.to_owned(),
        line: at.line,
        column: at.column,
        field: String::new(),
    })
}
