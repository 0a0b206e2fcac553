//! The driver: which attempt is the one, how those before it ended, who pays for it, and whether the run is over.
//!
//! That there is one driver is not decided here. A machine that was cut off may still run one that nobody sees; each commit
//! carries its driver's generation, and an older one is refused where it matters. So a new attempt need not wait.

use jiff::{SignedDuration, Timestamp};
use trireme_spec::problem::{Fault, Problem};
use trireme_spec::quantity::Bytes;
use trireme_spec::report::{JobReport, Phase};

use super::super::seen::{End, LastWords, PodSeen, PodState, Seen, Trouble};
use super::super::validate::ValidJob;
use super::charge::{more_memory, wait};
use super::{Over, Plan, end_order, is_outdated, pod_name, progress};
use crate::api::condition::Reason;
use crate::api::status::{JobState, LastError, RetriesStatus};
use crate::names::PodRole;

/// How the driver stands.
pub enum Driver {
    /// There is one.
    Alive { ready: bool, trouble: Option<Trouble> },
    /// There is none, and one is to be made now.
    Missing,
    /// There is none, and none is to be made before this time.
    Waits,
    /// None is needed.
    Over(Over),
}

/// How one attempt ended, as far as the budgets are concerned.
enum Charge {
    Application { code: i32, last_words: LastWords },
    Infrastructure { why: String },
    Memory,
}

/// Settles what became of every attempt so far.
pub fn step(job: &ValidJob, seen: &Seen, now: Timestamp, plan: &mut Plan) -> Driver {
    let highest = seen.drivers.keys().next_back().copied().unwrap_or_default();
    let written = plan.status.driver.clone();
    if highest > written.attempt {
        // Made just before a crash, and not written down.
        plan.status.driver.attempt = highest;
        plan.status.driver.since = seen.drivers[&highest].created.or(Some(now));
        plan.status.driver.start_time = None;
    }
    if let Some(over) = outcome(seen, plan) {
        return Driver::Over(over);
    }
    let last = plan.status.driver.attempt;
    // An attempt that was given up and lives on is ended.
    let given_up = seen.drivers.range(..=plan.status.driver.charged);
    plan.end.extend(
        given_up
            .filter(|(_, pod)| pod.holds_room())
            .map(|(_, pod)| end_order(pod)),
    );
    for attempt in plan.status.driver.charged + 1..=last {
        let pod = seen.drivers.get(&attempt);
        if let Some(pod) = pod.filter(|pod| attempt == last && is_outdated(job, PodRole::Driver, pod, now)) {
            make_anew(pod, plan);
            break;
        }
        let alive = match pod.map(|pod| &pod.state) {
            Some(PodState::Waiting(trouble)) if attempt == last => Some((false, trouble.clone())),
            Some(PodState::Running { ready }) if attempt == last => Some((*ready, None)),
            _ => None,
        };
        if let Some((ready, trouble)) = alive {
            // What was waited for is there.
            plan.status.retries.retry_time = None;
            // With what else is written when it is ready.
            if ready && plan.status.driver.start_time.is_none() {
                plan.status.driver.start_time = pod.and_then(|pod| pod.started).or(Some(now));
            }
            return Driver::Alive { ready, trouble };
        }
        plan.status.driver.charged = attempt;
        plan.end.extend(pod.filter(|pod| pod.holds_room()).map(end_order));
        // One that waits for a machine is not healthy meanwhile, nor is one that ended while nobody looked.
        let written = written.start_time.filter(|_| attempt == written.attempt);
        let started = pod.and_then(|pod| pod.started).or(written);
        let ended = pod.and_then(|pod| pod.ended).map_or(now, |ended| ended.min(now));
        forget_if_healthy(job, started, ended, plan);
        if let Some(over) = settle(job, attempt, pod, now, plan) {
            return Driver::Over(over);
        }
    }
    match plan.status.retries.retry_time {
        Some(time) if time > now => Driver::Waits,
        // One that was given up is told to end before another one is made.
        _ if !plan.end.is_empty() => Driver::Waits,
        _ => Driver::Missing,
    }
}

/// Gives up one that cannot start, by a spec that is no more. Nobody is charged.
fn make_anew(pod: &PodSeen, plan: &mut Plan) {
    plan.status.driver.charged = plan.status.driver.attempt;
    plan.status.retries.retry_time = None;
    plan.end.push(end_order(pod));
    let message = format!(
        "driver {} did not start, and another one is made by the spec as it is now",
        pod.name
    );
    plan.note(false, Reason::Retrying, message);
}

/// The end of the run, if a driver has brought it about. That all statements are done is so whoever says it; that the job has
/// failed is for the last driver to say, because one that was replaced fails for that reason.
pub fn outcome(seen: &Seen, plan: &mut Plan) -> Option<Over> {
    // A pod that still runs, but has said that it is done, ends in a moment with a fuller report than a lost one can give.
    let is_alive = |attempt: u32| seen.drivers.get(&attempt).is_some_and(|pod| pod.state.is_alive());
    let by_wire = seen.report.as_ref().filter(|(attempt, _)| !is_alive(*attempt));
    brought_about(seen, by_wire, plan)
}

/// The same where nobody waits any more for the end of a pod that has said that it is done.
pub fn outcome_by_now(seen: &Seen, plan: &mut Plan) -> Option<Over> {
    brought_about(seen, seen.report.as_ref(), plan)
}

/// By a pod that ended with its report, or by a report that came `by_wire`.
fn brought_about(seen: &Seen, by_wire: Option<&(u32, JobReport)>, plan: &mut Plan) -> Option<Over> {
    let highest = seen.drivers.keys().next_back().copied().unwrap_or_default();
    let last = plan.status.driver.attempt.max(highest);
    let by_pods = seen.drivers.iter().filter_map(|(attempt, pod)| match &pod.state {
        PodState::Ended(End::Reported(report)) => Some((*attempt, &**report)),
        _ => None,
    });
    let by_wire = by_wire.map(|(attempt, report)| (*attempt, report));
    let (attempt, report) = by_pods
        .chain(by_wire)
        .filter(|(attempt, report)| match report.phase {
            Phase::Succeeded => true,
            Phase::Failed => *attempt == last,
            Phase::Starting | Phase::Running | Phase::Draining | Phase::Cancelled => false,
        })
        .max_by_key(|(attempt, report)| (report.phase == Phase::Succeeded, *attempt))?;
    if let Some((_, said)) = seen.report.as_ref().filter(|(of, _)| *of == attempt) {
        progress::take_facts(said, &mut plan.status);
    }
    progress::take_facts(report, &mut plan.status);
    let driver = &mut plan.status.driver;
    // It may have been made just before a crash, and not written down.
    driver.attempt = driver.attempt.max(attempt);
    driver.charged = driver.charged.max(attempt);
    Some(match report.phase {
        Phase::Succeeded => Over {
            state: JobState::Complete,
            reason: Reason::AllStatementsDone,
            message: all_done(report),
        },
        _ => failed(report, plan),
    })
}

fn all_done(report: &JobReport) -> String {
    match report.statements_total {
        1 => "the statement is done".to_owned(),
        total => format!("all {total} statements are done"),
    }
}

fn failed(report: &JobReport, plan: &mut Plan) -> Over {
    let message = match &report.last_error {
        Some(problem) => {
            plan.status.last_error = Some(of_problem(problem));
            format!("{}: {}", problem.code, problem.message)
        }
        None => "the driver gave no reason".to_owned(),
    };
    Over {
        state: JobState::Failed,
        reason: Reason::JobFailed,
        message,
    }
}

/// Charges the end of `attempt`, and says when the next one may come, or that there will be none.
fn settle(job: &ValidJob, attempt: u32, pod: Option<&PodSeen>, now: Timestamp, plan: &mut Plan) -> Option<Over> {
    let name = pod_name(job, PodRole::Driver, attempt);
    let charge = match pod.map(|pod| &pod.state) {
        None => infrastructure("the pod is gone"),
        Some(PodState::Waiting(_) | PodState::Running { .. }) => {
            infrastructure("a later attempt had begun when it was seen")
        }
        Some(PodState::Leaving { why }) => infrastructure(why),
        Some(PodState::Ended(end)) => match end {
            // Told to end by somebody who had not asked us, such as a drain.
            End::Reported(report) => infrastructure(match report.phase {
                Phase::Cancelled => "it was told to end",
                _ => "a later attempt had begun when it ended",
            }),
            End::Succeeded => infrastructure("it ended without a word"),
            End::Lost { why } => infrastructure(why),
            End::OutOfMemory => Charge::Memory,
            End::Crashed { code, last_words } => Charge::Application {
                code: *code,
                last_words: last_words.clone(),
            },
        },
    };
    match charge {
        Charge::Infrastructure { why } => lost(job, &name, &why, now, plan),
        Charge::Memory => out_of_memory(job, &name, pod.and_then(|pod| pod.memory), now, plan),
        Charge::Application { code, last_words } => {
            let how = format!("exit code {code}");
            let error = match last_words {
                LastWords::Problem(problem) => of_problem(&problem),
                LastWords::Log(log) => without_report(&name, &how, &log),
            };
            crashed(job, &name, &how, error, now, plan)
        }
    }
}

fn infrastructure(why: &str) -> Charge {
    Charge::Infrastructure { why: why.to_owned() }
}

/// A driver that ran long enough has shown that neither the program nor its surroundings are at their end.
fn forget_if_healthy(job: &ValidJob, started: Option<Timestamp>, ended: Timestamp, plan: &mut Plan) {
    let enough = i64::try_from(job.spec.retries.reset_after.as_millis()).unwrap_or(i64::MAX);
    let ran = started.map(|started| ended.duration_since(started));
    if ran.is_some_and(|ran| ran >= SignedDuration::from_millis(enough)) {
        plan.status.retries = RetriesStatus::default();
    }
}

fn lost(job: &ValidJob, name: &str, why: &str, now: Timestamp, plan: &mut Plan) -> Option<Over> {
    let budget = job.spec.retries.infrastructure;
    let losses = plan.status.retries.infrastructure;
    if losses >= budget {
        return Some(Over {
            state: JobState::Failed,
            reason: Reason::InfrastructureRetriesExhausted,
            message: format!(
                "driver {name} was lost ({why}), after {losses} others; spec.retries.infrastructure is {budget}"
            ),
        });
    }
    plan.status.retries.infrastructure = losses + 1;
    // The first loss is usual and costs no wait.
    plan.status.retries.retry_time = Some(now + wait(&job.spec.retries.backoff, losses));
    plan.warn_of(name, Reason::DriverLost, format!("driver {name} was lost: {why}"));
    None
}

fn out_of_memory(job: &ValidJob, name: &str, had: Option<Bytes>, now: Timestamp, plan: &mut Plan) -> Option<Over> {
    let asked = job.spec.driver.memory;
    let had = had.unwrap_or_else(|| plan.status.driver.memory.unwrap_or(asked));
    let Some(more) = more_memory(had, asked) else {
        let error = LastError {
            code: Reason::OutOfMemory.as_str().to_owned(),
            message: format!("driver {name} ran out of its memory of {had}, which is as much as it may grow to"),
            remedy: Some("raise spec.driver.memory".to_owned()),
            fault: Fault::User,
        };
        return crashed(job, name, &format!("it ran out of {had} of memory"), error, now, plan);
    };
    plan.status.driver.memory = Some(more);
    plan.status.retries.out_of_memory += 1;
    plan.status.retries.retry_time = None;
    plan.warn_of(
        name,
        Reason::OutOfMemory,
        format!("driver {name} ran out of its memory of {had}; the next one gets {more}"),
    );
    None
}

fn crashed(job: &ValidJob, name: &str, how: &str, error: LastError, now: Timestamp, plan: &mut Plan) -> Option<Over> {
    let budget = job.spec.retries.application;
    let crashes = plan.status.retries.application;
    plan.status.last_error = Some(error);
    if crashes >= budget {
        return Some(Over {
            state: JobState::Failed,
            reason: Reason::ApplicationRetriesExhausted,
            message: format!(
                "driver {name} ended by itself ({how}), after {crashes} others; spec.retries.application is {budget}"
            ),
        });
    }
    plan.status.retries.application = crashes + 1;
    plan.status.retries.retry_time = Some(now + wait(&job.spec.retries.backoff, crashes + 1));
    plan.warn_of(
        name,
        Reason::DriverCrashed,
        format!("driver {name} ended by itself: {how}"),
    );
    None
}

/// The error of a driver that ended without saying why.
fn without_report(name: &str, how: &str, log: &str) -> LastError {
    let end_of_log = match log {
        "" => String::new(),
        log => format!("; the end of its log:\n{log}"),
    };
    let mut message = format!("driver {name} ended without a report: {how}{end_of_log}");
    message.truncate(message.floor_char_boundary(2048));
    LastError {
        code: Reason::DriverCrashed.as_str().to_owned(),
        message,
        remedy: Some(format!("see kubectl logs {name}, and report what looks like a bug")),
        fault: Fault::Internal,
    }
}

/// A problem as a status has it.
pub fn of_problem(problem: &Problem) -> LastError {
    let found = problem
        .found
        .as_ref()
        .map(|found| format!("; found {found}"))
        .unwrap_or_default();
    let allowed = problem
        .allowed
        .as_ref()
        .map(|allowed| format!("; allowed: {allowed}"))
        .unwrap_or_default();
    let mut message = format!("{}{found}{allowed}", problem.message);
    message.truncate(message.floor_char_boundary(2048));
    LastError {
        code: problem.code.to_string(),
        message,
        remedy: problem.remedy.clone(),
        fault: problem.fault,
    }
}
