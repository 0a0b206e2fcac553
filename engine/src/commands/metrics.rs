//! Metrics in Prometheus' text form, made from the report at each scrape.

use std::sync::Arc;

use prometheus::{Encoder, IntGauge, Opts, Registry, TextEncoder};
use tokio::sync::watch;
use trireme_exchange::http::Report;
use trireme_spec::report::{JobReport, WorkerState};

/// The text for one scrape.
pub type Scrape = Arc<dyn Fn() -> String + Send + Sync>;

/// A job's metrics. They are gauges: a new driver starts its counts anew, and says so.
pub fn of_report(report: watch::Receiver<Report>) -> Scrape {
    Arc::new(
        move || match serde_json::from_slice::<JobReport>(&report.borrow().json) {
            Ok(report) => text(&facts(&report)),
            Err(_) => String::new(),
        },
    )
}

type Fact = (&'static str, &'static str, u64);

fn facts(report: &JobReport) -> Vec<Fact> {
    let active = report
        .workers
        .iter()
        .filter(|worker| worker.state == WorkerState::Active)
        .count();
    let tasks = |count: fn(&trireme_spec::report::TaskCounts) -> u32| {
        report.stages.iter().map(|stage| u64::from(count(&stage.tasks))).sum()
    };
    vec![
        (
            "trireme_batch_statements",
            "Statements of the job.",
            u64::from(report.statements_total),
        ),
        (
            "trireme_batch_statements_done",
            "Statements that are done.",
            u64::from(report.statements_done),
        ),
        (
            "trireme_batch_tasks_running",
            "Tasks of the current statement that run.",
            tasks(|tasks| tasks.running),
        ),
        (
            "trireme_batch_tasks_done",
            "Tasks of the current statement that are done.",
            tasks(|tasks| tasks.done),
        ),
        (
            "trireme_batch_tasks_rerun",
            "Tasks run again because what they made was lost.",
            report.counters.tasks_rerun,
        ),
        (
            "trireme_batch_spilled_bytes",
            "Bytes written to disk for lack of memory.",
            report.counters.spilled_bytes,
        ),
        (
            "trireme_batch_shuffle_bytes",
            "Bytes that data ports sent.",
            report.counters.shuffle_bytes,
        ),
        (
            "trireme_batch_workers_active",
            "Workers that take tasks.",
            active as u64,
        ),
    ]
}

/// `facts` in Prometheus' text form.
pub fn text(facts: &[Fact]) -> String {
    let registry = Registry::new();
    for (name, help, value) in facts {
        // Names are constants and differ; a registry of one scrape cannot refuse them.
        if let Ok(gauge) = IntGauge::with_opts(Opts::new(*name, *help)) {
            gauge.set(i64::try_from(*value).unwrap_or(i64::MAX));
            drop(registry.register(Box::new(gauge)));
        }
    }
    let mut bytes = Vec::new();
    match TextEncoder::new().encode(&registry.gather(), &mut bytes) {
        Ok(()) => String::from_utf8(bytes).unwrap_or_default(),
        Err(_) => String::new(),
    }
}
