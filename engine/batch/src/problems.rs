//! Errors of DataFusion, Arrow, Parquet and the object stores, told in Trireme's terms.
//!
//! One function looks for the innermost cause that says whose fault it is. Where a library only leaves text, the text is
//! matched here and nowhere else, but for one text of a broken connection (`cluster::task`).

use std::error::Error;
use std::io;

use datafusion::arrow::error::ArrowError;
use datafusion::common::{DataFusionError, Diagnostic, SchemaError};
use datafusion::parquet::errors::ParquetError;
use datafusion::sql::sqlparser::parser::ParserError;
use trireme_core::store::{StoreError, StoreFault};
use trireme_spec::problem::{ErrorCode, Location, Problem};

use crate::causes::chain;
use crate::panics::Panic;

/// What `error` means for the person who wrote the job. `source` names the text that spans in the error refer to.
pub fn problem_of(error: &DataFusionError, source: &str) -> Problem {
    if let Some(problem) = carried(error) {
        return problem.clone();
    }
    let diagnostic = error.diagnostic();
    let mut problem = of_root(root(error));
    if let Some(diagnostic) = diagnostic {
        problem = with_diagnostic(problem, diagnostic, source);
    }
    problem
}

fn of_root(root: Root<'_>) -> Problem {
    let problem = of_known(root);
    match (&problem.remedy, &problem.allowed, usual_remedy(problem.code)) {
        (None, None, Some(remedy)) => problem.remedy(remedy),
        _ => problem,
    }
}

/// What usually helps, where the error itself says nothing better.
fn usual_remedy(code: ErrorCode) -> Option<&'static str> {
    match code {
        ErrorCode::SqlType => Some("CAST one side to the type of the other"),
        ErrorCode::SqlUnsupported => {
            Some("say it with statements that are supported; `trireme explain` shows plans without running")
        }
        ErrorCode::SqlUnknownColumn => Some("check the spelling; DESCRIBE shows a table's columns"),
        ErrorCode::SqlUnknownFunction => Some("check the spelling; SHOW FUNCTIONS lists them"),
        ErrorCode::SqlExecution => {
            Some("look at the values: NULLIF guards a division, TRY_CAST gives NULL for what does not fit")
        }
        ErrorCode::DataSchemaMismatch => Some("make the files of one table agree, or declare separate tables"),
        ErrorCode::DataCommitConflict => Some("run the job again when the other writer is done"),
        ErrorCode::NetworkUnreachable | ErrorCode::NetworkTimeout => {
            Some("check the service and the network, then run the job again")
        }
        ErrorCode::Internal => Some("this is a bug in Trireme: please report it with this text"),
        _ => None,
    }
}

fn of_known(root: Root<'_>) -> Problem {
    match root {
        Root::DataFusion(error) => of_datafusion(error),
        Root::Arrow(error) => of_arrow(error),
        Root::Parquet(error) => Problem::new(ErrorCode::DataMalformed, first_line(&error.to_string()))
            .remedy("check that the file is complete and really Parquet; `format` says how a location is read"),
        Root::Store(error) => of_store(error),
        Root::Location(error) => of_store_location(error),
        Root::Io(error) => of_io(error),
        Root::Other(error) => Problem::new(ErrorCode::Internal, first_line(&error.to_string())),
    }
}

/// What `error` means, found by looking for a cause that we know.
pub fn problem_of_cause(error: &(dyn Error + 'static)) -> Problem {
    of_root(root(error))
}

/// A [`Problem`] as an error, so that it can travel through DataFusion's streams unchanged.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Told(pub Problem);

/// Wraps `problem` for the way through DataFusion.
pub fn told(problem: Problem) -> DataFusionError {
    DataFusionError::External(Box::new(Told(problem)))
}

/// A problem that is on its way through DataFusion.
pub fn carried<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Problem> {
    chain(error).find_map(|cause| cause.downcast_ref::<Told>().map(|told| &told.0))
}

enum Root<'a> {
    DataFusion(&'a DataFusionError),
    Arrow(&'a ArrowError),
    Parquet(&'a ParquetError),
    Store(&'a object_store::Error),
    Location(&'a StoreError),
    Io(&'a io::Error),
    Other(&'a (dyn Error + 'static)),
}

/// The first cause that says what is wrong, and not only that something inside it is; from DataFusion's innermost error on,
/// because streams of other libraries carry its errors too.
fn root<'a>(error: &'a (dyn Error + 'static)) -> Root<'a> {
    let causes: Vec<_> = chain(error).collect();
    let innermost = causes.iter().rposition(|cause| cause.is::<DataFusionError>());
    let mut wrapper = None;
    for &cause in &causes[innermost.unwrap_or(0)..] {
        if let Some(error) = cause.downcast_ref::<object_store::Error>() {
            return Root::Store(error);
        }
        if let Some(error) = cause.downcast_ref::<StoreError>() {
            return Root::Location(error);
        }
        match cause.downcast_ref::<ParquetError>() {
            Some(ParquetError::External(_)) | None => {}
            Some(error) => return Root::Parquet(error),
        }
        match cause.downcast_ref::<ArrowError>() {
            Some(ArrowError::ExternalError(_) | ArrowError::IoError(..)) | None => {}
            Some(error) => return Root::Arrow(error),
        }
        match cause.downcast_ref::<io::Error>() {
            Some(error) if error.get_ref().is_none() => return Root::Io(error),
            Some(error) => wrapper = Some(Root::Io(error)),
            None => {}
        }
        if let Some(error) = cause.downcast_ref::<DataFusionError>() {
            wrapper = Some(Root::DataFusion(error));
        }
    }
    wrapper.unwrap_or(Root::Other(error))
}

fn of_datafusion(error: &DataFusionError) -> Problem {
    let text = first_line(&error.message());
    match error {
        DataFusionError::SQL(parser, _) if matches!(**parser, ParserError::RecursionLimitExceeded) => Problem::new(
            ErrorCode::SqlSyntax,
            "the statement is nested too deeply for the parser's recursion limit",
        )
        .remedy("take it apart: a view or WITH can name the inner parts"),
        DataFusionError::ExecutionJoin(join) if join.is_panic() => {
            Panic::of_task(join).map_or_else(|| Problem::new(ErrorCode::Internal, text), |panic| panic.problem())
        }
        DataFusionError::SQL(..) => Problem::new(ErrorCode::SqlSyntax, sql_text(&error.strip_backtrace()))
            .remedy("the statement does not parse; check the text near that position"),
        DataFusionError::SchemaError(schema, _) => of_schema(schema),
        DataFusionError::NotImplemented(_) => Problem::new(ErrorCode::SqlUnsupported, text),
        DataFusionError::Plan(_) | DataFusionError::Configuration(_) => of_plan(text),
        DataFusionError::Execution(_) => Problem::new(ErrorCode::SqlExecution, text),
        _ if text.contains("failed to parse") => malformed(text),
        DataFusionError::ResourcesExhausted(_) => of_exhaustion(error.message().into_owned()),
        _ => Problem::new(ErrorCode::Internal, text),
    }
}

fn of_plan(text: String) -> Problem {
    let lower = text.to_lowercase();
    let code = if lower.contains("table '") && lower.contains("not found") || lower.contains("failed to resolve") {
        return Problem::new(ErrorCode::SqlUnknownTable, text)
            .remedy("declare it under spec.tables, create it in an earlier statement, or check the spelling");
    } else if lower.contains("invalid function") {
        ErrorCode::SqlUnknownFunction
    } else if lower.contains("placeholder") {
        return Problem::new(ErrorCode::SqlParameterMissing, text).remedy("give it a value under spec.parameters");
    } else if lower.contains("column") && (lower.contains("not found") || lower.contains("ambiguous")) {
        ErrorCode::SqlUnknownColumn
    } else if lower.contains("coerc") || lower.contains("type") || lower.contains("cast") {
        ErrorCode::SqlType
    } else {
        ErrorCode::SqlUnsupported
    };
    Problem::new(code, text)
}

fn of_schema(error: &SchemaError) -> Problem {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let problem = Problem::new(
                ErrorCode::SqlUnknownColumn,
                format!("no column named {}", field.quoted_flat_name()),
            );
            let names: Vec<_> = valid_fields.iter().map(|field| field.quoted_flat_name()).collect();
            let near = names
                .iter()
                .map(|name| {
                    (
                        strsim::jaro_winkler(&field.name, name.rsplit('.').next().unwrap_or(name)),
                        name,
                    )
                })
                .filter(|(score, _)| *score > 0.8)
                .max_by(|(a, _), (b, _)| a.total_cmp(b));
            let problem = problem.allowed(names.join(", "));
            match near {
                Some((_, name)) => problem.remedy(format!("did you mean {name}?")),
                None => problem,
            }
        }
        SchemaError::AmbiguousReference { .. }
        | SchemaError::DuplicateQualifiedField { .. }
        | SchemaError::DuplicateUnqualifiedField { .. } => {
            Problem::new(ErrorCode::SqlUnknownColumn, first_line(&error.to_string()))
                .remedy("put the table's name or alias before the column's")
        }
    }
}

fn of_exhaustion(text: String) -> Problem {
    let text = text.replace('\n', " ");
    if text.contains("disk") || text.contains("temp") || text.contains("spill file") {
        return Problem::new(ErrorCode::LimitSpill, text)
            .remedy("give the role more scratch space, or read less in one statement");
    }
    Problem::new(ErrorCode::LimitMemory, text).remedy("raise the role's memory, or spread the work over more executors")
}

fn of_arrow(error: &ArrowError) -> Problem {
    let text = first_line(&error.to_string());
    match error {
        ArrowError::DivideByZero | ArrowError::ArithmeticOverflow(_) | ArrowError::ComputeError(_) => {
            Problem::new(ErrorCode::SqlExecution, text)
        }
        ArrowError::CastError(_) => {
            Problem::new(ErrorCode::SqlExecution, text).remedy("TRY_CAST gives NULL for a value that does not fit")
        }
        ArrowError::ParseError(_) if text.contains("Error parsing line") || text.contains("while parsing") => {
            malformed(text)
        }
        ArrowError::ParseError(_) => Problem::new(ErrorCode::SqlExecution, text),
        ArrowError::CsvError(_) | ArrowError::JsonError(_) | ArrowError::IpcError(_) | ArrowError::AvroError(_) => {
            malformed(text)
        }
        ArrowError::SchemaError(_) => Problem::new(ErrorCode::DataSchemaMismatch, text),
        ArrowError::IoError(_, inner) => of_io(inner),
        ArrowError::MemoryError(_) => of_exhaustion(text),
        _ if text.contains("failed to parse") => malformed(text),
        _ => Problem::new(ErrorCode::Internal, text),
    }
}

fn malformed(text: String) -> Problem {
    Problem::new(ErrorCode::DataMalformed, text)
        .remedy("check the file, and that `format`, `compression` and `options` describe it")
}

/// The kernel's number for "too many open files", which has no kind of its own.
const EMFILE: i32 = 24;

fn of_io(error: &io::Error) -> Problem {
    of_io_told(error, error.to_string())
}

/// What `error` means, told as `text`.
fn of_io_told(error: &io::Error, text: String) -> Problem {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::NotFound | Kind::NotADirectory => Problem::new(ErrorCode::DataNotFound, text).remedy(
            "check the location; relative paths start at the manifest's folder, without one at the working folder",
        ),
        Kind::PermissionDenied => Problem::new(ErrorCode::CredentialsRefused, text)
            .remedy("give the user that runs the process the right to this file"),
        Kind::StorageFull | Kind::QuotaExceeded => {
            Problem::new(ErrorCode::LimitSpill, text).remedy("free some space on the disk")
        }
        Kind::InvalidData | Kind::InvalidInput | Kind::UnexpectedEof => malformed(text),
        Kind::TimedOut => Problem::new(ErrorCode::NetworkTimeout, text),
        kind if is_network(kind) => Problem::new(ErrorCode::NetworkUnreachable, text),
        Kind::InvalidFilename => Problem::new(ErrorCode::DataIo, text)
            .remedy("shorten it: file systems take names of up to 255 bytes")
            .retryable(false),
        Kind::ReadOnlyFilesystem => Problem::new(ErrorCode::DataIo, text)
            .remedy("choose a place that can be written to, or mount it so")
            .retryable(false),
        Kind::IsADirectory => Problem::new(ErrorCode::DataIo, text)
            .remedy("check the location: a folder's ends with /")
            .retryable(false),
        _ => match error.raw_os_error() {
            Some(EMFILE) => Problem::new(ErrorCode::DataIo, text).remedy("raise the limit of open files (ulimit -n)"),
            // What a library says that has no kinds: a decompressor, for one. A scan knows of which file.
            None if error.kind() == Kind::Other => Problem::new(ErrorCode::Internal, text),
            Some(_) | None => Problem::new(ErrorCode::DataIo, text)
                .remedy("look at the disk and at what the kernel's log says of it, then run the job again"),
        },
    }
}

fn is_network(kind: io::ErrorKind) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        kind,
        Kind::AddrInUse
            | Kind::AddrNotAvailable
            | Kind::BrokenPipe
            | Kind::ConnectionAborted
            | Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::HostUnreachable
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::NotConnected
    )
}

fn of_store(error: &object_store::Error) -> Problem {
    let text = store_text(&error.to_string());
    match StoreFault::of(error) {
        StoreFault::NotFound => Problem::new(ErrorCode::DataNotFound, text).remedy(
            "check the location; relative paths start at the manifest's folder, without one at the working folder",
        ),
        StoreFault::Refused => Problem::new(ErrorCode::CredentialsRefused, text)
            .remedy("check the credentials and what they permit at this location"),
        StoreFault::Unreachable => Problem::new(ErrorCode::NetworkUnreachable, text)
            .remedy("check the endpoint and that this machine can reach it"),
        StoreFault::Other => match error {
            object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
                Problem::new(ErrorCode::DataCommitConflict, text)
            }
            // No network is between us and a local file, whose path is in the text.
            object_store::Error::Generic { store: LOCAL, .. } => {
                match chain(error).find_map(|cause| cause.downcast_ref()) {
                    Some(cause) => of_io_told(cause, text),
                    None => Problem::new(ErrorCode::DataIo, text).remedy("look at the file and at its disk"),
                }
            }
            _ => Problem::new(ErrorCode::NetworkUnreachable, text),
        },
    }
}

/// How the store of local files calls itself.
const LOCAL: &str = "LocalFileSystem";

/// The text of a store's error. A server answers in XML, of which the code and the message say what people need; the rest
/// names keys and signatures.
fn store_text(text: &str) -> String {
    let Some(answer) = text.find("<?xml").or_else(|| text.find("<Error>")) else {
        return first_line(text);
    };
    let (said, answer) = text.split_at(answer);
    let said = first_line(said.trim_end_matches([' ', ':']));
    let element = |name: &str| {
        let (_, rest) = answer.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(value, _)| value)
    };
    match (element("Code"), element("Message")) {
        (Some(code), Some(message)) => format!("{said}: {code}: {}", first_line(message)),
        _ => said,
    }
}

/// What it means that a location leads to no store.
pub fn of_store_location(error: &StoreError) -> Problem {
    match error {
        StoreError::Location { .. } | StoreError::Unsupported { .. } => {
            Problem::new(ErrorCode::ManifestBadLocation, error.to_string())
        }
        StoreError::WorkingDirectory { source, .. } => of_io(source),
        StoreError::Credentials { .. } => Problem::new(ErrorCode::CredentialsMissing, causes(error)).remedy(format!(
            "the folder of --credentials holds a file for each value: {}; the first two are needed",
            trireme_core::store::CREDENTIAL_FILES.join(", ")
        )),
        StoreError::Plaintext { .. } => Problem::new(ErrorCode::ManifestBadLocation, error.to_string()).remedy(
            "use https://, or permit it: AWS_ALLOW_HTTP=true in the environment, or true in the credentials' file allow-http",
        ),
        StoreError::Client { source, .. } => of_store(source),
    }
}

fn with_diagnostic(mut problem: Problem, diagnostic: &Diagnostic, source: &str) -> Problem {
    if let Some(span) = diagnostic.span {
        let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        problem = problem.at(Location {
            source: source.to_owned(),
            line: number(span.start.line),
            column: number(span.start.column),
            field: String::new(),
        });
    }
    match (&problem.remedy, diagnostic.helps.first()) {
        (None, Some(help)) => problem.remedy(help.message.clone()),
        _ => problem,
    }
}

/// `sql parser error: ...` without the layers of quoting around it.
fn sql_text(text: &str) -> String {
    let text = text.trim_start_matches("SQL error: ");
    let inner = text
        .split_once("ParserError(\"")
        .and_then(|(_, rest)| rest.rsplit_once("\")").map(|(inner, _)| inner));
    inner.unwrap_or(text).replace("\\\"", "\"")
}

/// The first line, as a phrase: libraries append backtraces and advice to report bugs to them.
fn first_line(text: &str) -> String {
    let line = text
        .lines()
        .next()
        .unwrap_or_default()
        .trim_end_matches(['.', ':', ' ']);
    let mut letters = line.chars();
    match (letters.next(), letters.clone().next()) {
        // A capital alone begins a sentence; two in a row begin a name.
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => line.to_owned(),
    }
}

/// An error with its causes, on one line.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |&error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(problem: &Problem) -> (ErrorCode, bool) {
        assert!(problem.remedy.is_some(), "{problem}");
        (problem.code, problem.retry)
    }

    #[test]
    fn an_error_of_a_local_file_is_not_the_networks() {
        // Linux's numbers: EIO, EMFILE, ENOTDIR, EISDIR, EROFS, ENAMETOOLONG, ECONNRESET, EHOSTUNREACH.
        for (number, code, retry) in [
            (5, ErrorCode::DataIo, true),
            (EMFILE, ErrorCode::DataIo, true),
            (20, ErrorCode::DataNotFound, false),
            (21, ErrorCode::DataIo, false),
            (30, ErrorCode::DataIo, false),
            (36, ErrorCode::DataIo, false),
            (104, ErrorCode::NetworkUnreachable, true),
            (113, ErrorCode::NetworkUnreachable, true),
        ] {
            let error = || io::Error::from_raw_os_error(number);
            let alone = problem_of(&DataFusionError::IoError(error()), "");
            assert_eq!(told(&alone), (code, retry), "{alone}");
            let stored = |store| object_store::Error::Generic {
                store,
                source: Box::new(error()),
            };
            let local = of_root(root(&stored(LOCAL)));
            assert_eq!(told(&local), (code, retry), "{local}");
            let far = of_root(root(&stored("S3")));
            assert_eq!(far.code, ErrorCode::NetworkUnreachable, "{far}");
        }
        let unknown = problem_of(
            &DataFusionError::IoError(io::Error::other("unknown frame descriptor")),
            "",
        );
        assert_eq!(unknown.code, ErrorCode::Internal);
    }
}
