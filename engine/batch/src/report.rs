//! A job's report, kept up to date from its events.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use datafusion::arrow::util::pretty::pretty_format_batches_with_schema;
use trireme_spec::ids::{Generation, JobName};
use trireme_spec::limits::Limits;
use trireme_spec::problem::Problem;
use trireme_spec::report::{Counters, JobReport, Phase, ResultReport};

use crate::engine::{BatchEngine, PlanCounters};
use crate::job::{JobEvent, Preview, StatementResult};
use crate::journal::SoFar;
use crate::sink::Written;

/// Turns events into a [`JobReport`].
pub struct Reporter {
    report: JobReport,
    /// Sums of the statements that are done.
    done: Counters,
    limits: Limits,
    engine: Arc<dyn BatchEngine>,
}

impl Reporter {
    /// Reports on `job`, which driver `generation` runs on `engine`; a result's preview keeps to `limits`.
    pub fn new(job: &str, generation: Generation, limits: Limits, engine: Arc<dyn BatchEngine>) -> Self {
        let name = JobName::new(job)
            .or_else(|_| JobName::new("job"))
            .expect("`job` is a job name");
        Self {
            report: JobReport::starting(name, generation, 0),
            done: Counters::default(),
            limits,
            engine,
        }
    }

    /// Takes in what happened.
    pub fn on_event(&mut self, event: &JobEvent) {
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        match event {
            JobEvent::StatementStarted { total, .. } => {
                self.report.phase = Phase::Running;
                self.report.statements_total = small(*total);
                self.report.stages.clear();
            }
            JobEvent::Progress { stages, counters, .. } => {
                self.report.stages.clone_from(stages);
                self.report.counters = plus(self.done, *counters);
            }
            JobEvent::StatementFinished {
                index,
                outcome,
                shown: _,
            } => {
                self.report.statements_done = small(index + 1);
                self.done = plus(self.done, outcome.counters);
                match &outcome.result {
                    StatementResult::Rows(preview) => {
                        self.report.result = Some(shown(preview, &self.limits));
                    }
                    StatementResult::Written(Written { location, rows, .. }) => {
                        self.done.rows_out += rows;
                        self.report.result = Some(written(location, *rows));
                    }
                    StatementResult::Session => {}
                    StatementResult::Earlier(result) => self.report.result = Some(result.clone()),
                }
                self.report.counters = self.done;
            }
        }
    }

    /// Earlier drivers have brought the job to its end: of this one, nothing will be heard.
    pub fn ended_before(&mut self, so_far: SoFar) {
        let SoFar {
            statements,
            statements_done,
            rows_written,
            result,
        } = so_far;
        self.report.statements_total = statements;
        self.report.statements_done = statements_done;
        self.report.counters.rows_out = rows_written;
        self.report.result = result;
    }

    /// The job ended.
    pub fn ended(&mut self, error: Option<&Problem>) {
        self.report.end(error);
    }

    /// The report as of now.
    pub fn report(&self) -> JobReport {
        let since_1970 = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let milliseconds = |time| u64::try_from(since_1970(time).as_millis()).unwrap_or(u64::MAX);
        JobReport {
            workers: self.engine.workers(),
            first_task_ms: self.engine.first_task().map(milliseconds),
            ..self.report.clone()
        }
    }
}

/// A write as the result of its job.
pub fn written(location: &str, rows: u64) -> ResultReport {
    ResultReport {
        preview: String::new(),
        rows,
        truncated: false,
        location: Some(location.to_owned()),
    }
}

/// The first rows as a table, cut at the end of a line.
pub fn shown(preview: &Preview, limits: &Limits) -> ResultReport {
    let mut left = limits.result_preview_rows_max as usize;
    let mut first = Vec::new();
    for batch in &preview.batches {
        let rows = batch.num_rows().min(left);
        first.push(batch.slice(0, rows));
        left -= rows;
    }
    let rows = limits.result_preview_rows_max as usize - left;
    // A type that has no text form has no preview; its rows are counted.
    let table = pretty_format_batches_with_schema(Arc::clone(&preview.schema), &first);
    let mut text = table.as_ref().map_or_else(|_| String::new(), ToString::to_string);
    let bytes_max = usize::try_from(limits.result_preview_bytes_max.get()).unwrap_or(usize::MAX);
    let cut = text.len() > bytes_max;
    if cut {
        let end = text[..text.floor_char_boundary(bytes_max)].rfind('\n').unwrap_or(0);
        text.truncate(end);
    }
    ResultReport {
        preview: text,
        rows: preview.rows_total,
        truncated: cut || table.is_err() || preview.rows_total > rows as u64,
        location: None,
    }
}

fn plus(done: Counters, running: PlanCounters) -> Counters {
    Counters {
        tasks_rerun: done.tasks_rerun + running.tasks_rerun,
        spilled_bytes: done.spilled_bytes + running.spilled_bytes,
        // A total of the workers' data ports, not of one statement.
        shuffle_bytes: done.shuffle_bytes.max(running.shuffle_bytes),
        rows_out: done.rows_out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};

    /// Rows 0 to `rows - 1` in two batches, each with a text of `width` letters.
    fn preview(rows: i64, width: usize) -> Preview {
        let batch = |numbers: std::ops::Range<i64>| {
            let texts = StringArray::from_iter_values(numbers.clone().map(|_| "é".repeat(width)));
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers));
            let texts: ArrayRef = Arc::new(texts);
            RecordBatch::try_from_iter([("n", numbers), ("text", texts)]).unwrap()
        };
        let batches = vec![batch(0..rows / 2), batch(rows / 2..rows)];
        Preview {
            schema: batches[0].schema(),
            batches,
            rows_total: rows as u64,
        }
    }

    #[test]
    fn a_preview_shows_the_first_rows() {
        let small = shown(&preview(3, 1), &Limits::default());
        assert_eq!(
            small.preview,
            "+---+------+\n| n | text |\n+---+------+\n| 0 | é    |\n| 1 | é    |\n| 2 | é    |\n+---+------+"
        );
        assert_eq!((small.rows, small.truncated), (3, false));
        let many = shown(&preview(100, 1), &Limits::default());
        assert!(
            many.preview.contains("| 19 |") && !many.preview.contains("| 20 |"),
            "{}",
            many.preview
        );
        assert_eq!((many.rows, many.truncated), (100, true));
    }

    #[test]
    fn a_preview_is_cut_at_a_line() {
        let limits = Limits::default();
        let bytes_max = limits.result_preview_bytes_max.get() as usize;
        let wide = shown(&preview(10, 700), &limits);
        assert!(
            wide.truncated && wide.preview.len() <= bytes_max,
            "{}",
            wide.preview.len()
        );
        assert!(wide.preview.len() > bytes_max / 2 && wide.preview.ends_with('|'));
        let wider = shown(&preview(1, 100_000), &limits);
        assert_eq!((wider.preview.as_str(), wider.rows, wider.truncated), ("", 1, true));
    }
}
