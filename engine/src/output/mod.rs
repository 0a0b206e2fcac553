//! What a person or a script sees: results on standard output, everything else on standard error.

mod progress;
mod rows;

use std::io::{self, Write};

use tokio::sync::mpsc;
use trireme_batch::job::{JobEvent, StatementOutcome, StatementResult};

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
pub fn line(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Shows a job's events until it ends.
///
/// # Errors
/// Standard output that cannot be written to.
pub async fn show(args: &OutputArgs, mut events: mpsc::Receiver<JobEvent>) -> io::Result<()> {
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
            JobEvent::StatementFinished { index, outcome } => {
                progress.finish(&outcome);
                show_result(args, index, total, &outcome)?;
            }
        }
    }
    progress.clear();
    Ok(())
}

fn show_result(args: &OutputArgs, index: usize, total: usize, outcome: &StatementOutcome) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match (args.output, &outcome.result) {
        (OutputFormat::Json, result) => rows::write_json(&mut out, index, outcome.elapsed, result)?,
        (OutputFormat::Text, StatementResult::Rows(preview)) => rows::write_table(&mut out, preview)?,
        (OutputFormat::Csv, StatementResult::Rows(preview)) => rows::write_csv(&mut out, preview)?,
        (OutputFormat::Text, StatementResult::Written(written)) => {
            let number = if total > 1 {
                format!("statement {}: ", index + 1)
            } else {
                String::new()
            };
            writeln!(out, "{number}{}", rows::describe_write(written))?;
        }
        (OutputFormat::Csv, StatementResult::Written(_))
        | (OutputFormat::Csv | OutputFormat::Text, StatementResult::Session) => {}
    }
    out.flush()
}
