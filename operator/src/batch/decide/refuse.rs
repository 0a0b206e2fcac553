//! What becomes of a plan when the cluster does not take its pods, and of an object that cannot be run.

use jiff::Timestamp;
use kube::core::error_boundary::InvalidObject;

use super::super::validate::ValidJob;
use super::charge::wait;
use super::{Note, Over, Plan, PodOrder, conditions, end_run, of_this_run};
use crate::api::batch_job::BatchJob;
use crate::api::condition::{Condition, ConditionType, Reason, set};
use crate::api::status::{BatchJobStatus, JobState};
use crate::names::PodRole;

/// A pod that the cluster did not take.
#[derive(Clone, Debug)]
pub struct Refused {
    pub order: PodOrder,
    pub reason: Reason,
    pub message: String,
}

/// Takes back from `plan` what was refused.
pub fn refuse(job: &ValidJob, plan: &mut Plan, refused: &[Refused], now: Timestamp) {
    let driver_first = |refused: &&Refused| refused.order.role == PodRole::Driver;
    let Some(Refused { reason, message, .. }) = refused.iter().max_by_key(driver_first) else {
        return;
    };
    let reason = *reason;
    let (mut drivers, mut executors) = (0, 0);
    for Refused { order, .. } in refused {
        match order.role {
            PodRole::Driver => {
                // Its number was not used.
                plan.status.driver.attempt = order.number - 1;
                drivers += 1;
            }
            PodRole::Executor => {
                plan.status.executors.open.0.remove(&order.number);
                executors += 1;
            }
        }
    }
    if drivers > 0 {
        // Executors are asked for after the driver: these were not, and their numbers are free.
        let unasked = plan.make.iter().filter(|order| order.role == PodRole::Executor);
        for order in unasked.rev() {
            plan.status.executors.open.0.remove(&order.number);
            plan.status.executors.highest = order.number - 1;
        }
    }
    let backoff = &job.spec.retries.backoff;
    if executors > 0 {
        plan.status.executors.streak += 1;
        let time = now + wait(backoff, plan.status.executors.streak);
        plan.status.executors.retry_time = Some(time);
        plan.look_again([time].into_iter());
    }
    if drivers > 0 {
        let budget = job.spec.retries.scheduling;
        let refusals = plan.status.retries.scheduling;
        if refusals >= budget {
            let over = Over {
                state: JobState::Failed,
                reason: Reason::SchedulingRetriesExhausted,
                message: format!(
                    "the driver was refused {} times; spec.retries.scheduling is {budget}: {message}",
                    refusals + 1
                ),
            };
            return end_run(job, &over, now, plan);
        }
        plan.status.retries.scheduling = refusals + 1;
        let time = now + wait(backoff, refusals + 1);
        plan.status.retries.retry_time = Some(time);
        plan.look_again([time].into_iter());
    }
    let whose = match drivers {
        0 => conditions::AN_EXECUTOR,
        _ => conditions::THE_DRIVER,
    };
    if drivers > 0 || plan.status.executors.ready == 0 {
        conditions::refused(job, reason, whose, message, &mut plan.status, now);
    }
    plan.note(true, reason, format!("{whose} was refused: {message}"));
}

/// The status of an object that cannot be run, and of which nothing runs.
pub fn reject(
    object: &BatchJob,
    before: &BatchJobStatus,
    message: &str,
    now: Timestamp,
) -> (BatchJobStatus, Vec<Note>) {
    let reason = Reason::InvalidSpec;
    let mut status = before.clone();
    status.observed_generation = object.metadata.generation;
    status.state.get_or_insert(JobState::Pending);
    let mut text = message.to_owned();
    text.truncate(text.floor_char_boundary(4096));
    for kind in [ConditionType::Accepted, ConditionType::Progressing] {
        let condition = Condition {
            kind,
            status: false.into(),
            reason: reason.as_str().to_owned(),
            message: text.clone(),
            last_transition_time: conditions::whole_seconds(now),
            observed_generation: object.metadata.generation,
        };
        set(&mut status.conditions, condition);
    }
    (status, vec![warning(reason, text)])
}

/// The status of a job whose SQL is not there. Where no driver was made yet, the run has not begun.
pub fn without_sql(
    job: &ValidJob,
    before: &BatchJobStatus,
    message: &str,
    now: Timestamp,
) -> (BatchJobStatus, Vec<Note>) {
    let mut status = of_this_run(job, before);
    status.observed_generation = Some(job.generation);
    status.state = Some(match status.state {
        Some(JobState::Running) => JobState::Running,
        _ => JobState::Pending,
    });
    conditions::without_sql(job, message, &mut status, now);
    (status, vec![warning(Reason::SqlNotFound, message.to_owned())])
}

fn warning(reason: Reason, message: String) -> Note {
    Note {
        warning: true,
        reason,
        message,
        pod: None,
    }
}

/// What is said of an object that cannot be read. The same at each try, so that saying it twice changes nothing.
pub fn unreadable(object: &InvalidObject) -> Condition {
    let InvalidObject { error, metadata } = object;
    let mut message = format!("{error}; {}", Reason::UnreadableObject.remedy());
    message.truncate(message.floor_char_boundary(4096));
    let created = metadata.creation_timestamp.as_ref();
    Condition {
        kind: ConditionType::Accepted,
        status: false.into(),
        reason: Reason::UnreadableObject.as_str().to_owned(),
        message,
        last_transition_time: created.map(|time| time.0).unwrap_or_default(),
        observed_generation: metadata.generation,
    }
}
