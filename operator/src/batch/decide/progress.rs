//! What the driver says about itself, on its way into the status: often enough to watch, seldom enough for the API server.

use jiff::{SignedDuration, Timestamp};
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
    if let Some(problem) = &report.last_error {
        plan.status.last_error = Some(of_problem(problem));
    }
    let text = Some(words(report));
    if text == plan.status.progress {
        return;
    }
    // The first comes with what else is written of a beginning.
    let last = plan.status.progress_time.or(plan.status.driver.since);
    let due = last.is_none_or(|time| now >= time + EVERY);
    let written_anyway = *before != plan.status;
    if due || written_anyway {
        plan.status.progress = text;
        plan.status.progress_time = Some(now);
        take_result(report, &mut plan.status);
    } else if let Some(time) = last {
        plan.look_again([time + EVERY].into_iter());
    }
}

/// Takes over the result, as soon as there is one: a driver that dies a moment later takes it with it.
pub fn take_result(report: &JobReport, status: &mut BatchJobStatus) {
    if report.phase.is_terminal() {
        status.progress = Some(words(report));
    }
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
