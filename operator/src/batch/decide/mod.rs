//! What to do next about one job: a pure function of the job, what is remembered in its status, its pods, and now.
//!
//! Level-triggered: nothing here knows why it was called, and calling it again with the same facts orders the same. An order is
//! safe to carry out twice, and safe to be forgotten halfway, because of four habits:
//!
//! - Pods are made first and written down second: their names are their numbers, so that a second try finds them.
//! - A run that follows another is written down first: its number is its own, whatever is asked for before its first pod.
//! - Pods are ended by intent: that a pod was told to leave is written down first, so that its end is charged to nobody.
//! - The end of a pod is charged once, when its number leaves the set of open ones (executors) or comes to lie below the
//!   mark of charged ones (drivers), in the same write as the charge.

mod charge;
mod conditions;
mod driver;
mod executors;
mod progress;
mod refuse;
mod room;

#[cfg(test)]
mod tests;

use jiff::{SignedDuration, Timestamp};
use trireme_spec::pods::Scratch;
use trireme_spec::quantity::Bytes;

use super::seen::{PodSeen, PodState, Seen};
use super::spec_hash::spec_hash;
use super::validate::ValidJob;
use crate::api::condition::Reason;
use crate::api::status::{BatchJobStatus, DriverStatus, JobState};
use crate::names::{self, PodRole, label};
use driver::Driver;
pub use refuse::{Refused, refuse, reject, unreadable, without_sql};

/// What to do, in the order in which it is done: make, write the status, end, remove.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Pods to make.
    pub make: Vec<PodOrder>,
    /// What the status should say.
    pub status: BatchJobStatus,
    /// Pods to end.
    pub end: Vec<EndOrder>,
    /// Executors whose processes have ended, by the names of their pods: the driver need not wait for them to be silent.
    pub gone: Vec<String>,
    /// Remove the object itself: its time after the end is over.
    pub remove: bool,
    /// What to tell people, beside the status.
    pub notes: Vec<Note>,
    /// When to look again, even if nothing is heard.
    pub next: Option<Timestamp>,
}

/// A pod to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodOrder {
    pub role: PodRole,
    pub number: u32,
    pub memory: Bytes,
    /// The image of the driver that an executor is for, if that is there already: an upgrade of the operator meanwhile, or an
    /// edit of the job, must not put two versions of the engine into one job.
    pub image: Option<String>,
}

/// A pod to end: this very one, not another of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndOrder {
    pub name: String,
    pub uid: String,
}

/// Something to tell people as an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub warning: bool,
    pub reason: Reason,
    pub message: String,
    /// The pod that it is about, if it is about one.
    pub pod: Option<String>,
}

/// How a run ended.
#[derive(Clone, Debug)]
struct Over {
    state: JobState,
    reason: Reason,
    message: String,
}

/// Executors that may still be there this long after the job has ended: they leave by themselves.
const LEAVE_PATIENCE: SignedDuration = SignedDuration::from_secs(10);

/// Pods of each role that have ended and stay there while the job is under way: their logs may be of use.
const ENDED_KEPT: usize = 10;

/// A job that is under way is looked at this often even if nothing is heard. It costs no request.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_mins(10);

/// What is to be done about `job`.
pub fn decide(job: &ValidJob, before: &BatchJobStatus, seen: &Seen, now: Timestamp) -> Plan {
    let mut status = of_this_run(job, before);
    conditions::accept(job, &mut status, now);
    let mut plan = Plan {
        make: Vec::new(),
        status,
        end: Vec::new(),
        gone: Vec::new(),
        remove: false,
        notes: Vec::new(),
        next: None,
    };
    if plan.status.state.is_some_and(JobState::is_terminal) {
        after_the_end(job, seen, now, &mut plan);
    } else if !seen.strangers.is_empty() {
        wait_for_strangers(job, seen, now, &mut plan);
    } else if before.run.is_some() && before.run != plan.status.run {
        plan.status.state = Some(JobState::Pending);
        conditions::begins(job, &mut plan.status, now);
    } else if job.spec.suspend {
        // What a driver had brought to its end by then is done, though it may not have been seen.
        match driver::outcome(seen, &mut plan) {
            Some(over) => end(job, &over, seen, now, &mut plan),
            None => release(job, seen, now, &mut plan),
        }
    } else {
        run(job, seen, now, &mut plan);
    }
    if let Some(words) = &job.rejected
        && !conditions::says(before, Reason::InvalidSpec, words)
    {
        plan.note(true, Reason::InvalidSpec, words.clone());
    }
    progress::note(before, seen, now, &mut plan);
    plan.status.observed_generation = Some(job.generation);
    plan
}

/// What is remembered of the run that the object asks for: nothing, if it is a new one.
fn of_this_run(job: &ValidJob, before: &BatchJobStatus) -> BatchJobStatus {
    let mut status = match before.run.as_ref() == Some(&job.run) {
        true => before.clone(),
        false => BatchJobStatus {
            // Their times of transition tell when things really changed.
            conditions: before.conditions.clone(),
            run: Some(job.run.clone()),
            runs: job.run_number,
            rerun_nonce: job.spec.rerun_nonce.clone(),
            ..BatchJobStatus::default()
        },
    };
    status.selector = Some(format!(
        "{}={},{}={}",
        label::JOB,
        job.key.name,
        label::ROLE,
        PodRole::Executor.as_str()
    ));
    status
}

fn run(job: &ValidJob, seen: &Seen, now: Timestamp, plan: &mut Plan) {
    if plan.status.state == Some(JobState::Suspended) {
        // What it waited for does not count against its deadline.
        plan.status.start_time = None;
        plan.status.state = None;
    }
    let driver = match deadline(job, &plan.status, now) {
        // What the driver had done by then is done, whenever somebody looks.
        Some(over) => Driver::Over(driver::outcome_by_now(seen, plan).unwrap_or(over)),
        None => driver::step(job, seen, now, plan),
    };
    // By a spec that cannot be run nothing is made.
    let driver = match driver {
        Driver::Missing if job.rejected.is_some() => Driver::Waits,
        driver => driver,
    };
    if plan.status.driver.attempt > 0 || matches!(driver, Driver::Missing) {
        plan.status.start_time.get_or_insert(now);
    }
    match driver {
        Driver::Over(over) => end(job, &over, seen, now, plan),
        driver => {
            if let Driver::Missing = driver {
                let attempt = plan.status.driver.attempt + 1;
                plan.make.push(PodOrder {
                    role: PodRole::Driver,
                    number: attempt,
                    memory: plan.status.driver.memory.unwrap_or(job.spec.driver.memory),
                    image: None,
                });
                plan.status.driver = DriverStatus {
                    attempt,
                    since: Some(now),
                    start_time: None,
                    ..plan.status.driver.clone()
                };
                plan.status.retries.retry_time = None;
            }
            if is_ending(&driver, seen, &plan.status) {
                // Nothing is to be done about its executors, nor told.
            } else if let Driver::Alive { .. } = driver
                && room::gives_way(job, seen, wanted(job), now, plan)
            {
                let driver = match plan.status.driver.charged == plan.status.driver.attempt {
                    true => Driver::Waits,
                    false => driver,
                };
                conditions::underway(job, &driver, seen, now, plan);
            } else {
                // What one that waits would do without its driver is to take the driver's place in a quota.
                let may_make = !matches!(driver, Driver::Waits) && job.rejected.is_none() && room::may_make(seen, plan);
                executors::step(job, seen, wanted(job), may_make, now, plan);
                conditions::underway(job, &driver, seen, now, plan);
            }
            end_oldest(job, seen, plan);
            // By a spec that cannot be run nothing is tried again.
            let retry = plan.status.retries.retry_time.filter(|_| job.rejected.is_none());
            plan.look_again([now + LOOK_AGAIN].into_iter());
            let deadline = deadline_time(job, &plan.status);
            plan.look_again([retry, deadline].into_iter().flatten());
        }
    }
}

/// Whether the driver has said that nothing will follow, and is about to go. Its executors are on their way home, and what
/// they say no more is not worth telling.
fn is_ending(driver: &Driver, seen: &Seen, status: &BatchJobStatus) -> bool {
    let said = seen.report.as_ref().filter(|(of, _)| *of == status.driver.attempt);
    matches!(driver, Driver::Alive { .. })
        && status.state == Some(JobState::Running)
        && said.is_some_and(|(_, report)| report.phase.is_terminal())
}

/// Whether a pod cannot start, and would be made otherwise by the spec as it is now.
fn is_outdated(job: &ValidJob, role: PodRole, pod: &PodSeen, now: Timestamp) -> bool {
    let cannot_start = match pod.state {
        PodState::Waiting(Some(_)) => true,
        PodState::Waiting(None) => conditions::is_slow(pod, now),
        PodState::Running { .. } | PodState::Leaving { .. } | PodState::Ended(_) => false,
    };
    // By a spec that cannot be run nothing is made.
    let made_of = pod
        .spec_hash
        .as_ref()
        .filter(|_| cannot_start && job.rejected.is_none());
    made_of.is_some_and(|made_of| *made_of != spec_hash(&job.spec, role))
}

/// How many executors there should be.
fn wanted(job: &ValidJob) -> u32 {
    job.spec.executors.min.max(1)
}

fn deadline_time(job: &ValidJob, status: &BatchJobStatus) -> Option<Timestamp> {
    let seconds = job.spec.active_deadline_seconds?;
    Some(status.start_time? + SignedDuration::from_secs(i64::from(seconds)))
}

fn deadline(job: &ValidJob, status: &BatchJobStatus, now: Timestamp) -> Option<Over> {
    (deadline_time(job, status)? <= now).then(|| Over {
        state: JobState::Failed,
        reason: Reason::DeadlineExceeded,
        message: format!(
            "the job ran longer than the {} s of spec.activeDeadlineSeconds",
            job.spec.active_deadline_seconds.unwrap_or_default()
        ),
    })
}

/// Ends the run, and at once what still works at one that has failed.
fn end(job: &ValidJob, over: &Over, seen: &Seen, now: Timestamp, plan: &mut Plan) {
    end_run(job, over, now, plan);
    if over.state == JobState::Failed {
        end_all(seen, plan);
    }
}

fn end_run(job: &ValidJob, over: &Over, now: Timestamp, plan: &mut Plan) {
    plan.status.state = Some(over.state);
    plan.status.completion_time = Some(now);
    plan.status.executors.desired = 0;
    plan.status.executors.summary = Some("0/0".to_owned());
    conditions::ended(job, over, &mut plan.status, now);
    plan.note(over.state == JobState::Failed, over.reason, over.message.clone());
    let ttl = ttl_time(job, &plan.status);
    plan.look_again([Some(now + LEAVE_PATIENCE), ttl].into_iter().flatten());
}

/// Ends what is left of a run, and in time the object.
fn after_the_end(job: &ValidJob, seen: &Seen, now: Timestamp, plan: &mut Plan) {
    let ended = plan.status.completion_time.unwrap_or(now);
    if now >= ended + LEAVE_PATIENCE {
        end_all(seen, plan);
    } else {
        plan.look_again([ended + LEAVE_PATIENCE].into_iter());
    }
    plan.status.executors.ready = 0;
    conditions::still_ended(job, &mut plan.status);
    end_with_volumes(job, seen, plan);
    match ttl_time(job, &plan.status) {
        Some(due) if due <= now => plan.remove = true,
        Some(due) => plan.look_again([due].into_iter()),
        None => {}
    }
}

fn ttl_time(job: &ValidJob, status: &BatchJobStatus) -> Option<Timestamp> {
    let seconds = job.spec.ttl_seconds_after_finished?;
    Some(status.completion_time? + SignedDuration::from_secs(i64::from(seconds)))
}

/// A run begins when nothing of another one is left: two runs of one job write to the same places.
fn wait_for_strangers(job: &ValidJob, seen: &Seen, now: Timestamp, plan: &mut Plan) {
    let staying = seen.strangers.iter().filter(|pod| !pod.is_told_to_end);
    plan.end.extend(staying.map(end_order));
    plan.status.state = Some(JobState::Pending);
    conditions::waiting(
        job,
        Reason::WaitingForPreviousRun,
        seen.strangers.len(),
        &mut plan.status,
        now,
    );
}

/// Gives back everything that the job holds, and remembers that this was asked for.
fn release(job: &ValidJob, seen: &Seen, now: Timestamp, plan: &mut Plan) {
    let highest = seen.drivers.keys().next_back().copied().unwrap_or_default();
    let status = &mut plan.status;
    status.driver.attempt = status.driver.attempt.max(highest);
    status.driver.charged = status.driver.attempt;
    status.retries.retry_time = None;
    executors::release(seen, plan);
    plan.end
        .extend(seen.drivers.values().filter(|pod| pod.holds_room()).map(end_order));
    end_oldest(job, seen, plan);
    plan.status.state = Some(JobState::Suspended);
    let left = seen
        .drivers
        .values()
        .chain(seen.executors.values())
        .filter(|pod| !pod.is_over())
        .count();
    conditions::suspended(job, left, &mut plan.status, now);
}

fn end_all(seen: &Seen, plan: &mut Plan) {
    // Of another run too: a request to make one may be done long after it was given up.
    let ours = seen.drivers.values().chain(seen.executors.values());
    let pods = ours.chain(&seen.strangers);
    plan.end.extend(pods.filter(|pod| pod.holds_room()).map(end_order));
}

/// Removes the oldest pods that have ended, beyond those that are kept for their logs: a job that loses pods for weeks must not fill
/// the cluster with them.
fn end_oldest(job: &ValidJob, seen: &Seen, plan: &mut Plan) {
    let (charged, open) = (plan.status.driver.charged, &plan.status.executors.open);
    let drivers = seen.drivers.range(..=charged).map(|(_, pod)| pod);
    let settled = |(number, _): &(&u32, &PodSeen)| !open.0.contains(number);
    let executors = seen.executors.iter().filter(settled).map(|(_, pod)| pod);
    let mut oldest = surplus(drivers, &job.spec.driver.scratch);
    oldest.extend(surplus(executors, &job.spec.executors.scratch));
    plan.end.extend(oldest);
}

/// Removes pods that have ended and whose scratch is a volume of their own, which goes with them and not before.
fn end_with_volumes(job: &ValidJob, seen: &Seen, plan: &mut Plan) {
    let roles = [
        (&job.spec.driver.scratch, &seen.drivers),
        (&job.spec.executors.scratch, &seen.executors),
    ];
    let with_volumes = roles.into_iter().filter(|(scratch, _)| has_volume(scratch));
    let pods = with_volumes.flat_map(|(_, pods)| pods.values());
    let ended = pods.filter(|pod| pod.is_over() && !pod.is_told_to_end);
    plan.end.extend(ended.map(end_order));
}

fn has_volume(scratch: &Scratch) -> bool {
    scratch.storage_class_name.is_some()
}

/// Of ended pods with that `scratch`, from the oldest to the youngest, those that are not kept.
fn surplus<'a>(pods: impl Iterator<Item = &'a PodSeen>, scratch: &Scratch) -> Vec<EndOrder> {
    let ended: Vec<&PodSeen> = pods.filter(|pod| pod.is_over() && !pod.is_told_to_end).collect();
    let kept = if has_volume(scratch) { 0 } else { ENDED_KEPT };
    let surplus = ended.len().saturating_sub(kept);
    ended[..surplus].iter().map(|pod| end_order(pod)).collect()
}

fn end_order(pod: &PodSeen) -> EndOrder {
    EndOrder {
        name: pod.name.clone(),
        uid: pod.uid.clone(),
    }
}

impl Plan {
    /// Asks for a visit at the earliest of `times`.
    fn look_again(&mut self, times: impl Iterator<Item = Timestamp>) {
        self.next = self.next.into_iter().chain(times).min();
    }

    fn note(&mut self, warning: bool, reason: Reason, message: String) {
        self.notes.push(Note {
            warning,
            reason,
            message,
            pod: None,
        });
    }

    /// A warning about the pod called `name`.
    fn warn_of(&mut self, name: &str, reason: Reason, message: String) {
        self.notes.push(Note {
            warning: true,
            reason,
            message,
            pod: Some(name.to_owned()),
        });
    }
}

/// The name of a pod of `job`.
fn pod_name(job: &ValidJob, role: PodRole, number: u32) -> String {
    names::pod(&job.key.name, role, number)
}
