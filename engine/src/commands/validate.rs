//! `trireme validate`: manifests checked, not run.

use std::path::Path;
use std::process::ExitCode;

use trireme_batch::job::check_sql;
use trireme_spec::batch_job::BatchJob;
use trireme_spec::limits::Limits;
use trireme_spec::manifest;
use trireme_spec::problem::{ErrorCode, Problem};

use super::manifest::{in_source, read_job, read_text, sql_file, unused_result};
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
    let sql = statements(file, &job, target).map_err(|problem| vec![problem])?;
    if let Some((source, sql)) = &sql {
        check_sql(sql, &Limits::default()).map_err(|mut problem| {
            problem.location = problem.location.map(|location| in_source(location, source));
            vec![problem]
        })?;
        if let Some(warning) = unused_result(&job, sql) {
            output::error_line(&warning);
        }
    }
    Ok(job.metadata.name.to_string())
}

/// The statements of `job` and what to call them; `None` if they can be read on a cluster only.
fn statements(file: &Path, job: &BatchJob, target: manifest::Target) -> Result<Option<(String, String)>, Problem> {
    if let Some(sql) = &job.spec.sql {
        return Ok(Some(("spec.sql".to_owned(), sql.clone())));
    }
    let Some(named) = sql_file(job) else {
        return Ok(None);
    };
    match (target, named.is_absolute()) {
        (manifest::Target::Kubernetes, false) => {
            let text = "spec.sqlFrom.file is relative, and no pod has the files beside the manifest";
            Err(Problem::new(ErrorCode::ManifestTarget, text)
                .found(named.display().to_string())
                .remedy(
                    "put the statements into a ConfigMap and name it in spec.sqlFrom.configMapKeyRef; for a run on this \
                     machine, validate with --target local",
                ))
        }
        // In the image, or on a volume that a pod template mounts.
        (manifest::Target::Kubernetes, true) => Ok(None),
        (manifest::Target::Local, _) => {
            let folder = file.parent().filter(|_| file.is_file()).unwrap_or(Path::new(""));
            read_text(&folder.join(named), Limits::default().manifest_bytes_max.get()).map(Some)
        }
    }
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
