//! The conditions of a job, made of what was decided.

use jiff::{SignedDuration, Timestamp};
use trireme_spec::report::Phase;

use super::super::seen::{PodSeen, PodState, Seen, Trouble};
use super::super::validate::ValidJob;
use super::driver::Driver;
use super::{Over, Plan};
use crate::api::condition::{Condition, ConditionType, Reason, set};
use crate::api::status::{BatchJobStatus, JobState};

/// A container usually starts within a second or two of its pod. What keeps one for so long is worth a look.
const SLOW: SignedDuration = SignedDuration::from_secs(8);

/// The object can be run.
pub fn accept(job: &ValidJob, status: &mut BatchJobStatus, now: Timestamp) {
    put(job, status, ConditionType::Accepted, true, Reason::Valid, "", now);
}

/// A run that is under way.
pub fn underway(job: &ValidJob, driver: &Driver, seen: &Seen, now: Timestamp, plan: &mut Plan) {
    let status = &mut plan.status;
    let works = match driver {
        Driver::Alive { ready, trouble: None } => *ready || reports_work(seen, status.driver.attempt),
        // What one said that is gone says nothing about the next.
        Driver::Alive { .. } | Driver::Missing | Driver::Waits | Driver::Over(_) => false,
    };
    status.state = Some(match works {
        true => JobState::Running,
        // It does not go back to waiting: that a driver is replaced is told by Progressing.
        false if status.state == Some(JobState::Running) => JobState::Running,
        false => JobState::Pending,
    });
    let unstarted: Vec<&PodSeen> = unstarted(seen, status.driver.attempt).collect();
    let slow = unstarted.iter().find(|pod| slow_at(pod) <= Some(now));
    let later = unstarted
        .iter()
        .filter_map(|pod| slow_at(pod))
        .filter(|time| *time > now);
    plan.next = later.chain(plan.next).min();
    let (going, reason, message) = progress(driver, seen, status, works, slow.map(|pod| pod.name.as_str()));
    let ready = works && status.executors.ready > 0;
    put(job, status, ConditionType::Progressing, going, reason, &message, now);
    put(job, status, ConditionType::Ready, ready, reason, &message, now);
    put(
        job,
        status,
        ConditionType::Suspended,
        false,
        Reason::NotSuspended,
        "",
        now,
    );
    for kind in [ConditionType::Complete, ConditionType::Failed] {
        put(job, status, kind, false, Reason::NotFinished, "", now);
    }
}

/// Whether a run that is under way comes nearer to its end, why or why not, and in which words. `slow` is a pod whose container
/// should have started by now.
fn progress(
    driver: &Driver,
    seen: &Seen,
    status: &BatchJobStatus,
    works: bool,
    slow: Option<&str>,
) -> (bool, Reason, String) {
    match (driver, executor_trouble(seen)) {
        (
            Driver::Alive {
                trouble: Some(trouble), ..
            },
            _,
        ) => told("the driver", trouble),
        (Driver::Waits, _) if status.driver.gave_way > 0 => (
            false,
            Reason::WaitingForRoom,
            match status.retries.retry_time {
                Some(time) => format!("no node had room for an executor; the job asks again at {time:.0}"),
                None => "no node had room for an executor; the job asks again soon".to_owned(),
            },
        ),
        (Driver::Waits, _) => match status.retries.retry_time {
            Some(time) => (true, Reason::Retrying, format!("another driver is made at {time:.0}")),
            None => (true, Reason::Retrying, "another driver is made soon".to_owned()),
        },
        (_, Some(trouble)) if status.executors.ready == 0 => told("an executor", &trouble),
        (Driver::Missing, _) if status.driver.attempt > 1 => (
            true,
            Reason::Retrying,
            format!("driver attempt {} was made", status.driver.attempt),
        ),
        _ if let Some(pod) = slow.filter(|_| !works || status.executors.ready == 0) => (
            true,
            Reason::SlowStart,
            format!(
                "the container of pod {pod} has not started yet: {}",
                Reason::SlowStart.remedy()
            ),
        ),
        _ if !works => (true, Reason::Starting, "pods were made".to_owned()),
        _ if status.executors.ready == 0 => (
            true,
            Reason::WaitingForExecutors,
            "no executor is attached yet".to_owned(),
        ),
        _ => (true, Reason::Running, String::new()),
    }
}

/// Whether the driver of the last attempt has said that it is at work: sooner than its probe.
fn reports_work(seen: &Seen, attempt: u32) -> bool {
    let said = seen.report.as_ref().filter(|(of, _)| *of == attempt);
    said.is_some_and(|(_, report)| report.phase == Phase::Running)
}

/// Pods whose containers have not started, for no reason that they give: the driver of the last attempt, and executors.
fn unstarted(seen: &Seen, attempt: u32) -> impl Iterator<Item = &PodSeen> {
    let pods = seen.drivers.get(&attempt).into_iter().chain(seen.executors.values());
    pods.filter(|pod| matches!(pod.state, PodState::Waiting(None)))
}

fn slow_at(pod: &PodSeen) -> Option<Timestamp> {
    Some(pod.created? + SLOW)
}

fn executor_trouble(seen: &Seen) -> Option<Trouble> {
    seen.executors.values().find_map(|pod| match &pod.state {
        PodState::Waiting(trouble) => trouble.clone(),
        PodState::Running { .. } | PodState::Leaving { .. } | PodState::Ended(_) => None,
    })
}

fn told(whose: &str, trouble: &Trouble) -> (bool, Reason, String) {
    let Trouble { reason, message } = trouble;
    (
        false,
        *reason,
        format!("{whose} does not start: {message}. Way out: {}", reason.remedy()),
    )
}

/// A run whose pods the cluster does not take.
pub fn refused(job: &ValidJob, reason: Reason, whose: &str, why: &str, status: &mut BatchJobStatus, now: Timestamp) {
    let message = format!("{whose} was refused: {why}. Way out: {}", reason.remedy());
    put(job, status, ConditionType::Progressing, false, reason, &message, now);
    put(job, status, ConditionType::Ready, false, reason, &message, now);
}

/// A run that waits for something before it begins.
pub fn waiting(job: &ValidJob, reason: Reason, pods: usize, status: &mut BatchJobStatus, now: Timestamp) {
    let message = format!("{pods} pods of the run before are on their way out");
    put(job, status, ConditionType::Progressing, true, reason, &message, now);
    put(job, status, ConditionType::Ready, false, reason, &message, now);
    // Of a suspended job too: it is when these pods are gone.
    put(job, status, ConditionType::Suspended, false, reason, &message, now);
    for kind in [ConditionType::Complete, ConditionType::Failed] {
        put(job, status, kind, false, Reason::NotFinished, "", now);
    }
}

/// A job that has released its pods, or is about to.
pub fn suspended(job: &ValidJob, left: usize, status: &mut BatchJobStatus, now: Timestamp) {
    let message = match left {
        0 => "all pods are gone; what was committed stays".to_owned(),
        left => format!("{left} pods are on their way out"),
    };
    let reason = Reason::Suspended;
    put(job, status, ConditionType::Suspended, left == 0, reason, &message, now);
    put(job, status, ConditionType::Progressing, false, reason, &message, now);
    put(job, status, ConditionType::Ready, false, reason, &message, now);
    // A run before may have ended.
    for kind in [ConditionType::Complete, ConditionType::Failed] {
        put(job, status, kind, false, Reason::NotFinished, "", now);
    }
}

/// A run that has ended.
pub fn ended(job: &ValidJob, over: &Over, status: &mut BatchJobStatus, now: Timestamp) {
    let complete = over.state == JobState::Complete;
    put(
        job,
        status,
        ConditionType::Complete,
        complete,
        over.reason,
        &over.message,
        now,
    );
    put(
        job,
        status,
        ConditionType::Failed,
        !complete,
        over.reason,
        &over.message,
        now,
    );
    put(
        job,
        status,
        ConditionType::Progressing,
        false,
        Reason::Finished,
        "",
        now,
    );
    put(job, status, ConditionType::Ready, false, Reason::Finished, "", now);
    put(
        job,
        status,
        ConditionType::Suspended,
        false,
        Reason::NotSuspended,
        "",
        now,
    );
    status.executors.ready = 0;
}

fn put(
    job: &ValidJob,
    status: &mut BatchJobStatus,
    kind: ConditionType,
    holds: bool,
    reason: Reason,
    message: &str,
    now: Timestamp,
) {
    let mut message = message.to_owned();
    message.truncate(message.floor_char_boundary(4096));
    set(
        &mut status.conditions,
        Condition {
            kind,
            status: holds.into(),
            reason: reason.as_str().to_owned(),
            message,
            last_transition_time: whole_seconds(now),
            observed_generation: Some(job.generation),
        },
    );
}

/// Kubernetes' times have no fractions.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
