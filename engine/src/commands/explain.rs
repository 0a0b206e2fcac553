//! `trireme explain`: what a job would do.

use std::process::ExitCode;
use std::sync::Arc;

use trireme_batch::explain::explain;
use trireme_batch::local::LocalEngine;
use trireme_batch::memory::MemoryBudget;
use trireme_batch::problems::problem_of;
use trireme_batch::session;
use trireme_spec::limits::Limits;
use trireme_spec::manifest::Target;
use trireme_spec::problem::Problem;

use super::manifest::{enter_folder_of, order, read_job};
use super::validate::first_after_telling;
use crate::args::{ExplainArgs, ResourceArgs};
use crate::output;
use crate::process::{self, Scratch};

/// Shows limits, or the plans and stages of a job.
///
/// # Errors
/// A manifest that cannot be read; the first statement that cannot be planned, after the plans of those before it.
pub fn run(args: &ExplainArgs) -> Result<ExitCode, Problem> {
    if args.limits {
        let text = Limits::default()
            .rows()
            .into_iter()
            .map(|row| format!("{:<32} {:>10} {:<12} {}", row.name, row.value, row.unit, row.meaning));
        output::line(&text.collect::<Vec<_>>().join("\n"))?;
    }
    let Some(file) = &args.file else {
        return Ok(ExitCode::SUCCESS);
    };
    let job = read_job(file, Target::Local).map_err(first_after_telling)?;
    enter_folder_of(file)?;
    let folder = job.spec.storage.as_deref().unwrap_or("<scratch>");
    let mut order = order(&job, &format!("{}/tables", folder.trim_end_matches('/')), 0)?;
    order.writer.run = "<run>".to_owned();
    let executor = &job.spec.executors;
    let cores = executor.cores as usize;
    let (slots, memory) = (
        args.workers as usize * cores,
        MemoryBudget::split(executor.memory.get()).per_slot(cores),
    );
    let all = ResourceArgs {
        cores: None,
        memory: None,
        scratch: None,
        spill: job.spec.executors.memory,
    };
    let scratch = Scratch::open(&all)?;
    let resources = process::resources(&all, &scratch, process::credentials(&args.stores, true));
    let explained = process::run_to_end(resources.cores, async {
        let session =
            session::session(&resources, &LocalEngine).map_err(|error| problem_of(&error, "the engine's settings"))?;
        explain(&Arc::new(order), &session, slots, memory).await
    })?;
    output::line(&explained.text)?;
    explained.failure.map_or(Ok(ExitCode::SUCCESS), Err)
}
