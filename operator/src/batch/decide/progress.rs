//! What the driver says about itself, on its way into the status: often enough to watch, seldom enough for the API server.

use jiff::{SignedDuration, Timestamp};
use trireme_spec::problem::ErrorClass;
use trireme_spec::report::{JobReport, TaskCounts};

use super::super::seen::Seen;
use super::Plan;
use super::driver::of_problem;
use crate::api::status::{BatchJobStatus, JobState, ResultStatus};

/// Between two writes that bring nothing but progress.
const EVERY: SignedDuration = SignedDuration::from_secs(15);

/// Takes progress from the report, at most every so often unless something else is written anyway.
pub fn note(before: &BatchJobStatus, seen: &Seen, now: Timestamp, plan: &mut Plan) {
    let Some((attempt, report)) = &seen.report else { return };
    if *attempt != plan.status.driver.attempt || plan.status.state != Some(JobState::Running) {
        return;
    }
    // That one was told to end is no error, whoever told it.
    let problem = report.last_error.as_ref();
    let problem = problem.filter(|problem| problem.code.class() != ErrorClass::Cancelled);
    let error = problem.map(of_problem).or_else(|| plan.status.last_error.clone());
    let text = Some(words(report));
    let knows_first_task = report.first_task_ms.is_some() == plan.status.first_task_time.is_some();
    if text == plan.status.progress && knows_first_task && error == plan.status.last_error {
        return;
    }
    // The first comes with what else is written of a beginning.
    let last = plan.status.progress_time.or(plan.status.driver.since);
    let due = last.is_none_or(|time| now >= time + EVERY);
    let written_anyway = *before != plan.status;
    if due || written_anyway {
        plan.status.last_error = error;
        plan.status.progress = text;
        plan.status.progress_time = Some(now);
        take_facts(report, &mut plan.status);
    } else if let Some(time) = last {
        plan.look_again([time + EVERY].into_iter());
    }
}

/// Takes over the result and the sums, as soon as there are any: a driver that dies a moment later takes them with it.
pub fn take_facts(report: &JobReport, status: &mut BatchJobStatus) {
    if report.phase.is_terminal() {
        status.progress = Some(words(report));
    }
    status.tasks_rerun = report.counters.tasks_rerun;
    status.first_task_time = report
        .first_task_ms
        .and_then(|time| Timestamp::from_millisecond(i64::try_from(time).ok()?).ok());
    if let Some(result) = &report.result {
        let known = status
            .result
            .as_ref()
            .map(|result| result.preview.clone())
            .unwrap_or_default();
        status.result = Some(ResultStatus {
            // A termination log has no room for a preview, which came with an earlier report.
            preview: if result.preview.is_empty() {
                known
            } else {
                result.preview.clone()
            },
            rows: result.rows,
            truncated: result.truncated,
            location: result.location.clone(),
        });
    }
}

fn words(report: &JobReport) -> String {
    let statements = format!("{}/{} statements", report.statements_done, report.statements_total);
    let tasks = report
        .stages
        .iter()
        .fold(TaskCounts::default(), |sum, stage| TaskCounts {
            total: sum.total + stage.tasks.total,
            running: sum.running + stage.tasks.running,
            done: sum.done + stage.tasks.done,
            failed: sum.failed + stage.tasks.failed,
        });
    match tasks.total {
        _ if report.phase.is_terminal() => statements,
        0 => statements,
        total => format!("{statements}, {}/{total} tasks", tasks.done),
    }
}
