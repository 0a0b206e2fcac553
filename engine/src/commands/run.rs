//! `trireme run`: a job from its manifest, on this machine.

use std::process::ExitCode;
use std::sync::Arc;

use trireme_batch::local::LocalEngine;
use trireme_spec::manifest::Target;
use trireme_spec::problem::Problem;

use super::validate::first_after_telling;
use super::{job, manifest};
use crate::args::{Logging, RunArgs};
use crate::process::{self, Scratch};
use crate::{local_cluster, output};

/// Runs the job; in this process unless workers were asked for. `logging` is for driver and workers.
///
/// # Errors
/// What stopped the job.
pub fn run(args: &RunArgs, logging: Logging) -> Result<ExitCode, Problem> {
    let job = manifest::read_job(&args.file, Target::Local).map_err(first_after_telling)?;
    if job.spec.suspend {
        output::error_line(&format!(
            "job {} is suspended: spec.suspend is true, so nothing was run",
            job.metadata.name
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let scratch = Scratch::open(&args.resources)?;
    let args = &RunArgs {
        output: scratch.shown(&args.output),
        ..args.clone()
    };
    let warehouse = scratch.path.join("tables").display().to_string();
    manifest::enter_folder_of(&args.file)?;
    let order = manifest::order(&job, &warehouse, args.output.max_rows as usize)?;
    if let Some(warning) = manifest::unused_result(&job, &order.sql) {
        output::error_line(&warning);
    }
    if let Some(workers) = args.workers {
        return local_cluster::run(args, &job, &scratch, workers, logging);
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
        .code()
    })
}
