//! What a person or a script sees: results on standard output, everything else on standard error.

pub mod blocks;
mod progress;
mod rows;

use std::io::{self, Write};

use tokio::sync::mpsc;
use trireme_batch::job::{JobEvent, StatementOutcome, StatementResult};
use trireme_spec::problem::{ErrorCode, Problem};

use crate::args::{OutputArgs, OutputFormat};
use progress::Progress;

/// A line on standard error. A closed standard error is no reason to fail.
pub fn error_line(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// A line on standard output.
///
/// # Errors
/// A closed pipe, a full disk.
pub fn line(line: &str) -> Result<(), Problem> {
    text(format!("{line}\n").as_bytes())
}

/// Text on standard output, at once.
///
/// # Errors
/// A closed pipe, a full disk.
pub fn text(text: &[u8]) -> Result<(), Problem> {
    let mut out = io::stdout().lock();
    out.write_all(text)
        .and_then(|()| out.flush())
        .map_err(|error| unwritten(&error))
}

/// Standard output cannot be written to.
fn unwritten(error: &io::Error) -> Problem {
    let code = match error.kind() {
        io::ErrorKind::BrokenPipe => ErrorCode::CancelledOutputClosed,
        io::ErrorKind::StorageFull => ErrorCode::LimitSpill,
        _ => ErrorCode::Internal,
    };
    Problem::new(code, format!("cannot write to standard output: {error}"))
}

/// Shows a job's events until it ends.
///
/// # Errors
/// Standard output that cannot be written to.
pub async fn show(args: &OutputArgs, mut events: mpsc::Receiver<JobEvent>) -> Result<(), Problem> {
    let mut progress = Progress::new(args.quiet);
    let mut total = 1;
    while let Some(event) = events.recv().await {
        match event {
            JobEvent::StatementStarted {
                index,
                total: statements,
                summary,
            } => {
                total = statements;
                progress.start(index, statements, &summary);
            }
            JobEvent::Progress { stages, counters, .. } => progress.update(&stages, counters),
            JobEvent::StatementFinished { index, outcome, shown } => {
                progress.finish(&outcome);
                progress.aside(|| show_result(args, index, total, &outcome))?;
                drop(shown);
            }
        }
    }
    progress.clear();
    Ok(())
}

fn show_result(args: &OutputArgs, index: usize, total: usize, outcome: &StatementOutcome) -> Result<(), Problem> {
    let mut written = Vec::new();
    write_result(&mut written, args, index, total, outcome).map_err(|error| unwritten(&error))?;
    if !args.blocks {
        return text(&written);
    }
    let mut block = Vec::new();
    blocks::write(&mut block, index, &written).map_err(|error| unwritten(&error))?;
    text(&block)
}

fn write_result(
    out: &mut impl Write,
    args: &OutputArgs,
    index: usize,
    total: usize,
    outcome: &StatementOutcome,
) -> io::Result<()> {
    match (args.output, &outcome.result) {
        (OutputFormat::Json, _) => rows::write_json(out, index, outcome),
        (OutputFormat::Text, StatementResult::Rows(preview)) => rows::write_table(out, preview),
        (OutputFormat::Csv, StatementResult::Rows(preview)) => rows::write_csv(out, preview),
        (OutputFormat::Text, StatementResult::Written(written)) => {
            let number = if total > 1 {
                format!("statement {}: ", index + 1)
            } else {
                String::new()
            };
            writeln!(
                out,
                "{number}{}",
                rows::describe_write(written, args.temporary.as_deref())
            )
        }
        (OutputFormat::Text, StatementResult::Earlier(kept)) => {
            if !kept.preview.is_empty() {
                writeln!(out, "{}", kept.preview)?;
            }
            let (number, rows) = (index + 1, rows::count(kept.rows, "row"));
            writeln!(out, "statement {number}: {rows}, shown by an earlier driver")
        }
        (OutputFormat::Csv, StatementResult::Written(_) | StatementResult::Earlier(_))
        | (OutputFormat::Csv | OutputFormat::Text, StatementResult::Session) => Ok(()),
    }
}
