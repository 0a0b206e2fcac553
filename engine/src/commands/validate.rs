//! `trireme validate`: manifests checked, not run.

use std::path::Path;
use std::process::ExitCode;

use trireme_batch::job::check_sql;
use trireme_spec::limits::Limits;
use trireme_spec::manifest;
use trireme_spec::problem::{ErrorCode, Problem};

use super::manifest::read_job;
use crate::args::{Target, ValidateArgs};
use crate::output;

/// Checks every file and tells every problem.
///
/// # Errors
/// Standard output that cannot be written to.
pub fn run(args: &ValidateArgs) -> Result<ExitCode, Problem> {
    let target = match args.target {
        Target::Local => manifest::Target::Local,
        Target::Kubernetes => manifest::Target::Kubernetes,
    };
    let mut code = ExitCode::SUCCESS;
    for file in &args.file {
        match check(file, target) {
            Ok(name) if args.json => drop(name),
            Ok(name) => {
                let line = format!("{}: BatchJob {name} is valid", file.display());
                output::line(&line)?;
            }
            Err(problems) => {
                code = ExitCode::from(problems.first().map_or(1, Problem::exit_code));
                for problem in &problems {
                    tell(problem, args.json)?;
                }
            }
        }
    }
    Ok(code)
}

fn tell(problem: &Problem, json: bool) -> Result<(), Problem> {
    if !json {
        output::error_line(&problem.to_string());
        return Ok(());
    }
    let text = serde_json::to_string(problem)
        .map_err(|error| Problem::new(ErrorCode::Internal, format!("a problem cannot be written: {error}")))?;
    output::line(&text)
}

fn check(file: &Path, target: manifest::Target) -> Result<String, Vec<Problem>> {
    let job = read_job(file, target)?;
    if let Some(sql) = &job.spec.sql {
        check_sql(sql, &Limits::default()).map_err(|problem| vec![problem])?;
    }
    Ok(job.metadata.name.to_string())
}

/// Tells all problems but the first, and returns the first: the caller tells it and exits with its code.
pub fn first_after_telling(problems: Vec<Problem>) -> Problem {
    let mut problems = problems.into_iter();
    let first = problems.next();
    for problem in problems {
        output::error_line(&problem.to_string());
    }
    first.unwrap_or_else(|| Problem::new(ErrorCode::Internal, "a manifest was refused without a reason"))
}
