//! From a file that a person named to a job that an engine can run.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast;
use trireme_batch::job::{JobOrder, check_sql, parameter_value};
use trireme_batch::sink::Writer;
use trireme_spec::batch_job::BatchJob;
use trireme_spec::limits::Limits;
use trireme_spec::manifest::{Manifest, Target, read_manifest_for};
use trireme_spec::problem::{ErrorCode, Location, Problem};

/// How errors call the statements of a job.
const STATEMENTS: &str = "spec.sql";

/// The text of `file`, or of standard input for `-`, and the name to call it by.
///
/// # Errors
/// A file that cannot be read, one over the limit, one that is not UTF-8.
pub fn read_text(file: &Path, bytes_max: u64) -> Result<(String, String), Problem> {
    let (name, bytes) = if file == Path::new("-") {
        let mut bytes = Vec::new();
        let read = io::stdin().lock().take(bytes_max + 1).read_to_end(&mut bytes);
        ("<stdin>".to_owned(), read.map(|_| bytes))
    } else {
        let read = fs::File::open(file).and_then(|file| {
            let mut bytes = Vec::new();
            file.take(bytes_max + 1).read_to_end(&mut bytes).map(|_| bytes)
        });
        (file.display().to_string(), read)
    };
    let bytes = bytes.map_err(|error| {
        Problem::new(ErrorCode::ManifestUnreadable, format!("{name} cannot be read: {error}"))
            .remedy("check the path and its permissions")
    })?;
    if bytes.len() as u64 > bytes_max {
        let text = format!("{name} is larger than {bytes_max} bytes");
        return Err(Problem::new(ErrorCode::ManifestTooLarge, text)
            .remedy("put long SQL into a file and name it in spec.sqlFrom"));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        Problem::new(ErrorCode::ManifestSyntax, format!("{name} is not UTF-8 text: {error}")).remedy("save it as UTF-8")
    })?;
    Ok((name, text))
}

/// The job in `file`, checked for a run on this machine.
///
/// # Errors
/// Every problem of the manifest.
pub fn read_job(file: &Path, target: Target) -> Result<BatchJob, Vec<Problem>> {
    let limits = Limits::default();
    let (name, text) = read_text(file, limits.manifest_bytes_max.get()).map_err(|problem| vec![problem])?;
    let Manifest::BatchJob(job) = read_manifest_for(&name, &text, target)?;
    Ok(*job)
}

/// Moves this process to where relative paths of the job in `file` start: the manifest's folder. Standard input and pipes are
/// in none, so that paths start where the command is run.
///
/// # Errors
/// A folder that cannot be entered.
pub fn enter_folder_of(file: &Path) -> Result<(), Problem> {
    match file.parent() {
        Some(folder) if folder != Path::new("") && file.is_file() => enter(folder),
        _ => Ok(()),
    }
}

/// Moves this process to `folder`.
///
/// # Errors
/// A folder that cannot be entered.
pub fn enter(folder: &Path) -> Result<(), Problem> {
    std::env::set_current_dir(folder).map_err(|error| {
        let text = format!("the folder {} cannot be entered: {error}", folder.display());
        Problem::new(ErrorCode::ManifestUnreadable, text).remedy("check its permissions")
    })
}

/// The file that has the statements of `job`, as the manifest names it.
pub fn sql_file(job: &BatchJob) -> Option<&Path> {
    job.spec.sql_from.as_ref()?.file.as_deref().map(Path::new)
}

/// `location`, in `source` if it is one in a job's statements, which errors take for a field of the manifest.
pub fn in_source(location: Location, source: &str) -> Location {
    match location.source == STATEMENTS {
        true => Location {
            source: source.to_owned(),
            ..location
        },
        false => location,
    }
}

/// A warning if `spec.result` has no effect: the last of the statements in `sql`, which parse, is no query.
pub fn unused_result(job: &BatchJob, sql: &str) -> Option<String> {
    job.spec.result.as_ref()?;
    check_sql(sql, &Limits::default()).ok()?;
    let statements = DFParser::parse_sql(sql).ok()?;
    let is_query = match statements.back()? {
        Statement::Statement(statement) => !matches!(
            **statement,
            ast::Statement::Insert(_)
                | ast::Statement::CreateTable(_)
                | ast::Statement::CreateView(_)
                | ast::Statement::Drop { .. }
                | ast::Statement::Set(_)
        ),
        Statement::CopyTo(_) | Statement::CreateExternalTable(_) | Statement::Explain(_) | Statement::Reset(_) => false,
    };
    let name = &job.metadata.name;
    (!is_query).then(|| format!("warning: spec.result of job {name} has no effect: the last statement is no query"))
}

/// Checks that no statement in `sql` creates a table of its own: its files have to lie where the driver and all workers find them.
///
/// # Errors
/// The first that does.
pub fn check_without_storage(sql: &str) -> Result<(), Problem> {
    // What is too deep, or does not parse, is told where it is run.
    if check_sql(sql, &Limits::default()).is_err() {
        return Ok(());
    }
    let statements = DFParser::parse_sql(sql).unwrap_or_default();
    let creates = |statement: &Statement| match statement {
        Statement::Statement(statement) => matches!(**statement, ast::Statement::CreateTable(_)),
        _ => false,
    };
    match statements.iter().position(creates) {
        None => Ok(()),
        Some(index) => {
            let text = format!(
                "statement {} creates a table, and the job has no storage to put it into",
                index + 1
            );
            Err(Problem::new(ErrorCode::SqlUnsupported, text).remedy(
                "set spec.storage to a folder that every pod reaches, such as s3://bucket/jobs; or name a location: COPY ... TO, and \
                 CREATE EXTERNAL TABLE over it",
            ))
        }
    }
}

/// What an engine needs of `job`. Reads the file that `sqlFrom` names, relative to the folder that the process is in.
/// `warehouse` is where tables go that are created without a location.
///
/// # Errors
/// A file that cannot be read.
pub fn order(job: &BatchJob, warehouse: &str, preview_rows_max: usize) -> Result<JobOrder, Problem> {
    let limits = Limits::default();
    let spec = &job.spec;
    let sql = match (&spec.sql, sql_file(job)) {
        (Some(sql), _) => sql.clone(),
        (None, Some(file)) => read_text(file, limits.manifest_bytes_max.get())?.1,
        (None, None) => {
            return Err(Problem::new(
                ErrorCode::ManifestTarget,
                "the SQL of this job is on a cluster",
            ));
        }
    };
    let name = job.metadata.name.to_string();
    Ok(JobOrder {
        writer: Writer::first(&name),
        warehouse: warehouse.to_owned(),
        name,
        sql,
        parameters: spec
            .parameters
            .iter()
            .map(|(name, value)| (name.clone(), parameter_value(value)))
            .collect(),
        tables: spec.tables.clone(),
        result: spec.result.clone(),
        deadline: spec
            .active_deadline_seconds
            .map(|seconds| Duration::from_secs(u64::from(seconds))),
        preview_rows_max,
        limits,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_created_needs_a_storage() {
        for sql in ["SELECT 1", "CREATE VIEW v AS SELECT 1; COPY v TO 's3://b/v'", "SELEC 1"] {
            assert!(check_without_storage(sql).is_ok(), "{sql}");
        }
        let problem = check_without_storage("SELECT 1; CREATE TABLE t AS SELECT 1").unwrap_err();
        assert_eq!(problem.code, ErrorCode::SqlUnsupported);
        assert!(
            problem.message.starts_with("statement 2 creates a table"),
            "{}",
            problem.message
        );
    }
}
