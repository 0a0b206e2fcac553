//! Runs one job on one engine and shows what happens.

use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use trireme_batch::engine::BatchEngine;
use trireme_batch::job::{Job, JobEvent, JobOrder};
use trireme_batch::journal::JobJournal;
use trireme_batch::problems::problem_of;
use trireme_batch::report::Reporter;
use trireme_batch::session::{self, Resources};
use trireme_batch::sink::Decisions;
use trireme_exchange::http::Report;
use trireme_spec::ids::Generation;
use trireme_spec::problem::Problem;
use trireme_spec::report::JobReport;

use crate::args::OutputArgs;
use crate::output;

/// Events that wait for a terminal to catch up; progress beyond it is skipped.
const EVENTS_WAITING_MAX: usize = 64;

/// A job that has ended.
pub struct Ended {
    /// The last word of it.
    pub report: JobReport,
    /// How: well, or with what stopped it.
    pub done: Result<(), Problem>,
}

impl Ended {
    /// The exit code of a process that was there for this job.
    ///
    /// # Errors
    /// What stopped the job.
    pub fn code(self) -> Result<ExitCode, Problem> {
        self.done.map(|()| ExitCode::SUCCESS)
    }
}

/// Runs `order` to its end; with a journal, from where an earlier driver was.
pub async fn run_on(
    engine: Arc<dyn BatchEngine>,
    order: JobOrder,
    journal: Option<JobJournal>,
    resources: &Resources,
    output: &OutputArgs,
    report: Option<watch::Sender<Report>>,
    cancel: CancellationToken,
) -> Ended {
    let generation = Generation(order.writer.generation.get());
    let mut reporter = Reporter::new(&order.name, generation, order.limits.clone(), Arc::clone(&engine));
    let session = match session::session(resources, engine.as_ref()) {
        Ok(session) => session,
        Err(error) => {
            let problem = problem_of(&error, "the engine's settings");
            reporter.ended(Some(&problem));
            return Ended {
                report: reporter.report(),
                done: Err(problem),
            };
        }
    };
    if let Some(journal) = journal.as_ref().filter(|journal| journal.ended().is_some()) {
        reporter.ended_before(journal.so_far());
    }
    let (events, happened) = mpsc::channel(EVENTS_WAITING_MAX);
    let (tell, seen) = mpsc::channel(EVENTS_WAITING_MAX);
    let stop = cancel.clone();
    let job = Job {
        order,
        session,
        engine,
        events,
        cancel,
        decisions: Decisions::default(),
    };
    let running = async {
        let done = job.run(journal).await;
        drop(job);
        done
    };
    let telling = pass_on(happened, tell, reporter, report);
    let showing = async {
        let shown = output::show(output, seen).await;
        // Nobody reads what it finds.
        shown.inspect_err(|_| stop.cancel())
    };
    let (done, mut told, shown) = tokio::join!(running, telling, showing);
    // A job that was stopped because it could not show its results ended for that reason.
    let done = shown.and(done);
    told.ended(done.as_ref().err());
    Ended {
        report: told.reporter.report(),
        done,
    }
}

/// Events on their way to whoever shows them, with the report made of them on the way.
struct Told {
    reporter: Reporter,
    report: Option<watch::Sender<Report>>,
}

impl Told {
    fn publish(&self) {
        if let Some(report) = &self.report {
            let json = serde_json::to_vec(&self.reporter.report()).unwrap_or_default();
            report.send_if_modified(|shown| {
                let changed = shown.json != json;
                if changed {
                    *shown = Report {
                        version: shown.version + 1,
                        json: json.into(),
                    };
                }
                changed
            });
        }
    }

    fn ended(&mut self, error: Option<&Problem>) {
        self.reporter.ended(error);
        self.publish();
    }
}

async fn pass_on(
    mut happened: mpsc::Receiver<JobEvent>,
    tell: mpsc::Sender<JobEvent>,
    reporter: Reporter,
    report: Option<watch::Sender<Report>>,
) -> Told {
    let mut told = Told { reporter, report };
    told.publish();
    while let Some(event) = happened.recv().await {
        told.reporter.on_event(&event);
        told.publish();
        if tell.send(event).await.is_err() {
            break;
        }
    }
    told
}
