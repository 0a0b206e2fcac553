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
    let sql = match (&args.command, &args.file) {
        (Some(sql), _) => sql.clone(),
        (None, Some(file)) => manifest::read_text(file, limits.manifest_bytes_max.get())?.1,
        (None, None) => return Err(Problem::new(ErrorCode::SqlSyntax, "no statement was given")),
    };
    let scratch = Scratch::open(&args.resources)?;
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
        job::run_on(
            Arc::new(LocalEngine),
            order,
            None,
            &resources,
            &args.output,
            None,
            cancel,
        )
        .await
        .code()
    })
}
