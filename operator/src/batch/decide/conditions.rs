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

/// Whether the object can be run.
pub fn accept(job: &ValidJob, status: &mut BatchJobStatus, now: Timestamp) {
    let (holds, reason, words) = match &job.rejected {
        None => (true, Reason::Valid, ""),
        Some(words) => (false, Reason::InvalidSpec, words.as_str()),
    };
    put(job, status, ConditionType::Accepted, holds, reason, words, now);
}

/// Whether `status` refuses the object for `reason` in these words already.
pub fn says(status: &BatchJobStatus, reason: Reason, words: &str) -> bool {
    of_kind(status, ConditionType::Accepted)
        .is_some_and(|condition| condition.reason == reason.as_str() && condition.message == cut(words))
}

fn of_kind(status: &BatchJobStatus, kind: ConditionType) -> Option<&Condition> {
    status.conditions.iter().find(|condition| condition.kind == kind)
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
    let slow = unstarted.iter().find(|pod| is_slow(pod, now));
    let later = unstarted
        .iter()
        .filter_map(|pod| slow_at(pod))
        .filter(|time| *time > now);
    plan.next = later.chain(plan.next).min();
    let slow = slow.map(|pod| pod.name.as_str());
    let (going, reason, message) =
        kept_from(job, driver, seen, status, now).unwrap_or_else(|| progress(driver, seen, status, works, slow));
    let ready = works && status.executors.ready > 0;
    put(job, status, ConditionType::Progressing, going, reason, &message, now);
    put(job, status, ConditionType::Ready, ready, reason, &message, now);
    not_suspended(job, status, now);
    not_ended(job, status, now);
}

/// What keeps the operator from making the pods that are missing, if something does.
fn kept_from(
    job: &ValidJob,
    driver: &Driver,
    seen: &Seen,
    status: &BatchJobStatus,
    now: Timestamp,
) -> Option<(bool, Reason, String)> {
    let no_driver = matches!(driver, Driver::Waits) && status.driver.gave_way == 0;
    let has_trouble = matches!(driver, Driver::Alive { trouble: Some(_), .. });
    let no_executor = status.executors.ready == 0 && executor_trouble(seen).is_none() && !has_trouble;
    let nobody = !seen.executors.values().any(|pod| pod.state.is_alive());
    if let Some(words) = &job.rejected
        && (no_driver || (no_executor && nobody))
    {
        return Some((false, Reason::InvalidSpec, words.clone()));
    }
    // Once refused, a pod is asked for again after a while. Until then it stays refused.
    let waits = |time: Option<Timestamp>| time.is_some_and(|time| time > now);
    let (whose, refused) = match driver {
        Driver::Waits => (THE_DRIVER, no_driver && waits(status.retries.retry_time)),
        _ => (AN_EXECUTOR, no_executor && waits(status.executors.retry_time)),
    };
    let before = of_kind(status, ConditionType::Progressing)?;
    if !refused || !before.message.starts_with(&was_refused(whose)) {
        return None;
    }
    let reason = [Reason::QuotaExceeded, Reason::PodRefused, Reason::NameTaken]
        .into_iter()
        .find(|reason| before.reason == reason.as_str())?;
    Some((false, reason, before.message.clone()))
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

/// Whether the container of a pod that waits for nothing that is known should have started by now.
pub fn is_slow(pod: &PodSeen, now: Timestamp) -> bool {
    slow_at(pod).is_some_and(|time| time <= now)
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

/// A job whose SQL is not there.
pub fn without_sql(job: &ValidJob, message: &str, status: &mut BatchJobStatus, now: Timestamp) {
    let reason = Reason::SqlNotFound;
    for kind in [
        ConditionType::Accepted,
        ConditionType::Progressing,
        ConditionType::Ready,
    ] {
        put(job, status, kind, false, reason, message, now);
    }
    not_suspended(job, status, now);
    not_ended(job, status, now);
}

/// Whose pod was refused.
pub const THE_DRIVER: &str = "the driver";
/// Whose pod was refused.
pub const AN_EXECUTOR: &str = "an executor";

fn was_refused(whose: &str) -> String {
    format!("{whose} was refused")
}

/// A run whose pods the cluster does not take.
pub fn refused(job: &ValidJob, reason: Reason, whose: &str, why: &str, status: &mut BatchJobStatus, now: Timestamp) {
    let message = format!("{}: {why}. Way out: {}", was_refused(whose), reason.remedy());
    put(job, status, ConditionType::Progressing, false, reason, &message, now);
    put(job, status, ConditionType::Ready, false, reason, &message, now);
}

/// A run that follows another, and of which nothing is made yet.
pub fn begins(job: &ValidJob, status: &mut BatchJobStatus, now: Timestamp) {
    let (reason, message) = (Reason::Starting, "another run begins");
    put(job, status, ConditionType::Progressing, true, reason, message, now);
    put(job, status, ConditionType::Ready, false, reason, message, now);
    not_suspended(job, status, now);
    not_ended(job, status, now);
}

/// A run that waits for something before it begins.
pub fn waiting(job: &ValidJob, reason: Reason, pods: usize, status: &mut BatchJobStatus, now: Timestamp) {
    let message = format!("{pods} pods of the run before are on their way out");
    put(job, status, ConditionType::Progressing, true, reason, &message, now);
    put(job, status, ConditionType::Ready, false, reason, &message, now);
    // Of a suspended job too: it is when these pods are gone.
    put(job, status, ConditionType::Suspended, false, reason, &message, now);
    not_ended(job, status, now);
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
    not_ended(job, status, now);
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
    not_suspended(job, status, now);
    status.executors.ready = 0;
}

/// A run that has ended stays ended, whatever is asked of its object since: kubectl waits for no condition of an older
/// generation.
pub fn still_ended(job: &ValidJob, status: &mut BatchJobStatus) {
    for condition in &mut status.conditions {
        condition.observed_generation = Some(job.generation);
    }
}

fn not_suspended(job: &ValidJob, status: &mut BatchJobStatus, now: Timestamp) {
    let (kind, reason) = (ConditionType::Suspended, Reason::NotSuspended);
    put(job, status, kind, false, reason, "", now);
}

fn not_ended(job: &ValidJob, status: &mut BatchJobStatus, now: Timestamp) {
    for kind in [ConditionType::Complete, ConditionType::Failed] {
        put(job, status, kind, false, Reason::NotFinished, "", now);
    }
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
    let message = cut(message);
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

/// As much of `message` as a condition may have.
fn cut(message: &str) -> String {
    message[..message.floor_char_boundary(4096)].to_owned()
}

/// Kubernetes' times have no fractions.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
