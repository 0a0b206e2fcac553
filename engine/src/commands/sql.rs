//! `trireme sql`: statements without a manifest.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;

use trireme_batch::job::JobOrder;
use trireme_batch::local::LocalEngine;
use trireme_batch::sink::Writer;
use trireme_spec::limits::Limits;
use trireme_spec::problem::{ErrorCode, Problem};

use super::{job, manifest};
use crate::args::SqlArgs;
use crate::process::{self, Scratch};

/// Runs the statements in this process.
///
/// # Errors
/// What stopped them.
pub fn run(args: &SqlArgs) -> Result<ExitCode, Problem> {
    let limits = Limits::default();
    let (source, sql) = match (&args.command, &args.file) {
        (Some(sql), _) => ("--command".to_owned(), sql.clone()),
        (None, Some(file)) => manifest::read_text(file, limits.manifest_bytes_max.get())
            .map_err(|problem| without_manifest(problem, "--file"))?,
        (None, None) => return Err(Problem::new(ErrorCode::SqlSyntax, "no statement was given")),
    };
    let scratch = Scratch::open(&args.resources)?;
    let output = scratch.shown(&args.output);
    let order = JobOrder {
        name: "sql".to_owned(),
        writer: Writer::first("sql"),
        warehouse: scratch.path.join("tables").display().to_string(),
        sql,
        parameters: HashMap::new(),
        tables: Vec::new(),
        result: None,
        deadline: None,
        preview_rows_max: args.output.max_rows as usize,
        limits,
    };
    let resources = process::resources(&args.resources, &scratch, process::credentials(&args.stores, true));
    process::run_to_end(resources.cores, async {
        let cancel = process::cancel_on_signal().map_err(|error| process::no_signals(&error))?;
        job::run_on(Arc::new(LocalEngine), order, None, &resources, &output, None, cancel)
            .await
            .code()
    })
    .map_err(|problem| without_manifest(problem, &source))
}

/// What remedies say of a manifest, and what is left of that without one.
const REWORDED: [(&str, &str); 4] = [
    ("declare it under spec.tables, create it", "create it"),
    (
        "write at least one statement into spec.sql",
        "write at least one statement",
    ),
    (", or spec.tables", ""),
    (
        "put long SQL into a file and name it in spec.sqlFrom",
        "split it into several files",
    ),
];

const NO_PARAMETERS: &str = "write the value in its place: parameters are given by a manifest";

/// A problem of statements that are in no manifest: `source` is where they are, and no field of a manifest mends it.
fn without_manifest(problem: Problem, source: &str) -> Problem {
    let remedy = problem.remedy.map(|remedy| {
        if remedy.ends_with("under spec.parameters") {
            return NO_PARAMETERS.to_owned();
        }
        REWORDED
            .iter()
            .fold(remedy, |remedy, (said, instead)| remedy.replace(said, instead))
    });
    let location = problem.location.map(|location| manifest::in_source(location, source));
    Problem {
        remedy,
        location,
        ..problem
    }
}
