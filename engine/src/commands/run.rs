//! `trireme run`: a job from its manifest, on this machine.

use std::process::ExitCode;
use std::sync::Arc;

use trireme_batch::local::LocalEngine;
use trireme_spec::manifest::Target;
use trireme_spec::problem::Problem;

use super::validate::first_after_telling;
use super::{job, manifest};
use crate::args::RunArgs;
use crate::process::{self, Scratch};
use crate::{local_cluster, output};

/// Runs the job; in this process unless workers were asked for. `log` is the filter that driver and workers log by.
///
/// # Errors
/// What stopped the job.
pub fn run(args: &RunArgs, log: &str) -> Result<ExitCode, Problem> {
    let job = manifest::read_job(&args.file, Target::Local).map_err(first_after_telling)?;
    if job.spec.suspend {
        output::error_line(&format!(
            "job {} is suspended: spec.suspend is true, so nothing was run",
            job.metadata.name
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let scratch = Scratch::open(&args.resources)?;
    let warehouse = scratch.path.join("tables").display().to_string();
    let order = manifest::order(&job, &warehouse, args.output.max_rows as usize)?;
    if let Some(workers) = args.workers {
        return local_cluster::run(args, &job, &scratch, workers, log);
    }
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
    })
}
