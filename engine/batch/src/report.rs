//! A job's report, kept up to date from its events.

use std::sync::Arc;

use trireme_spec::ids::{Generation, JobName};
use trireme_spec::problem::{ErrorClass, Problem};
use trireme_spec::report::{Counters, JobReport, Phase, ResultReport};

use crate::engine::{BatchEngine, PlanCounters};
use crate::job::{JobEvent, StatementResult};

/// Turns events into a [`JobReport`].
pub struct Reporter {
    report: JobReport,
    /// Sums of the statements that are done.
    done: Counters,
    engine: Arc<dyn BatchEngine>,
}

impl Reporter {
    /// Reports on `job`, which driver `generation` runs on `engine`.
    pub fn new(job: &str, generation: Generation, engine: Arc<dyn BatchEngine>) -> Self {
        let name = JobName::new(job)
            .or_else(|_| JobName::new("job"))
            .expect("`job` is a job name");
        Self {
            report: JobReport::starting(name, generation, 0),
            done: Counters::default(),
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
                        self.report.result = Some(ResultReport {
                            preview: String::new(),
                            rows: preview.rows_total,
                            truncated: true,
                            location: None,
                        });
                    }
                    StatementResult::Written(written) => {
                        self.done.rows_out += written.rows;
                        self.report.result = Some(ResultReport {
                            preview: String::new(),
                            rows: written.rows,
                            truncated: false,
                            location: Some(written.location.clone()),
                        });
                    }
                    StatementResult::Session => {}
                    StatementResult::Earlier { rows } => {
                        self.report.result = Some(ResultReport {
                            preview: String::new(),
                            rows: *rows,
                            truncated: true,
                            location: None,
                        });
                    }
                }
                self.report.counters = self.done;
            }
        }
    }

    /// The job ended.
    pub fn ended(&mut self, error: Option<&Problem>) {
        self.report.phase = match error {
            None => Phase::Succeeded,
            Some(problem) if problem.code.class() == ErrorClass::Cancelled => Phase::Cancelled,
            Some(_) => Phase::Failed,
        };
        self.report.last_error = error.cloned();
    }

    /// The report as of now.
    pub fn report(&self) -> JobReport {
        JobReport {
            workers: self.engine.workers(),
            ..self.report.clone()
        }
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
