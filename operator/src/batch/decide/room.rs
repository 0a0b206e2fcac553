//! Giving way. A driver whose executors find no room holds room itself, and so do executors whose driver finds none; where there
//! are many of them they hold all there is, each waiting for what the others have. So whoever has waited long enough gives up
//! what it holds, at a time of its own; the journal makes coming back cheap. Nothing is charged for it.

use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::{SignedDuration, Timestamp};
use trireme_spec::batch_job::Backoff;
use trireme_spec::duration::Period;

use super::super::seen::{PodSeen, PodState, Seen};
use super::super::validate::ValidJob;
use super::charge::wait;
use super::{Plan, end_order, executors};
use crate::api::condition::Reason;

/// How long one may find no room before the others give way; up to twice that, by chance. An autoscaler takes a minute or two to
/// bring a node, and finds new pods that wait for it as good as old ones.
const PATIENCE: SignedDuration = SignedDuration::from_secs(30);

/// How long it stays away the first time, and doubled with each: up to twice that, by chance.
const PAUSE: Backoff = Backoff {
    initial: Period::seconds(10),
    max: Period::minutes(5),
};

/// How the pods that there are stand in each other's way.
enum Held {
    /// The driver runs, and each executor has found no room since then.
    ByDriver(Timestamp),
    /// Executors run, and the driver has found no room since then.
    ByExecutors(Timestamp),
}

/// Whether executors may be asked for: not by a driver that waits for the room that its own gave back.
pub fn may_make(seen: &Seen, plan: &Plan) -> bool {
    let driver = seen.drivers.get(&plan.status.driver.attempt);
    plan.status.driver.gave_way == 0 || !driver.is_some_and(finds_no_room)
}

/// Gives way if it is time, or says when to look whether it is.
pub fn gives_way(job: &ValidJob, seen: &Seen, wanted: u32, now: Timestamp, plan: &mut Plan) -> bool {
    let attempt = plan.status.driver.attempt;
    let Some((driver, held)) = seen
        .drivers
        .get(&attempt)
        .and_then(|driver| Some((driver, held(driver, seen, plan)?)))
    else {
        return false;
    };
    let (Held::ByDriver(since) | Held::ByExecutors(since)) = held;
    let due = since + PATIENCE + by_chance(job, attempt, PATIENCE);
    if now < due {
        plan.look_again([due].into_iter());
        return false;
    }
    let status = &mut plan.status;
    status.driver.gave_way += 1;
    let told = match held {
        Held::ByDriver(_) => {
            status.driver.charged = attempt;
            let pause = wait(&PAUSE, status.driver.gave_way);
            status.retries.retry_time = Some(now + pause + by_chance(job, attempt, pause));
            plan.end.push(end_order(driver));
            format!(
                "no node has room for an executor: driver {} gives its own back for a while",
                driver.name
            )
        }
        Held::ByExecutors(_) => format!(
            "no node has room for driver {}: its executors give theirs back",
            driver.name
        ),
    };
    plan.note(false, Reason::WaitingForRoom, told);
    executors::release(seen, plan);
    plan.status.executors.desired = wanted;
    plan.status.executors.summary = Some(format!("0/{wanted}"));
    true
}

fn held(driver: &PodSeen, seen: &Seen, plan: &Plan) -> Option<Held> {
    let there = || {
        seen.executors
            .values()
            .filter(|pod| !matches!(pod.state, PodState::Ended(_)))
    };
    // What was given back is on its way.
    let leaving = &plan.status.executors.leaving;
    let holds_on = |(number, pod): (&u32, &PodSeen)| runs(pod) && !leaving.0.contains(number);
    match driver.state {
        PodState::Running { .. } if there().all(finds_no_room) => {
            Some(Held::ByDriver(there().filter_map(|pod| pod.created).max()?))
        }
        PodState::Waiting(_) if finds_no_room(driver) && seen.executors.iter().any(holds_on) => {
            Some(Held::ByExecutors(driver.created?))
        }
        _ => None,
    }
}

fn runs(pod: &PodSeen) -> bool {
    matches!(pod.state, PodState::Running { .. })
}

fn finds_no_room(pod: &PodSeen) -> bool {
    matches!(&pod.state, PodState::Waiting(Some(trouble)) if trouble.reason == Reason::Unschedulable)
}

/// A part of `most` that is the same each time for this attempt, and another for others.
fn by_chance(job: &ValidJob, attempt: u32, most: SignedDuration) -> SignedDuration {
    let mut hasher = DefaultHasher::new();
    (&job.uid, attempt).hash(&mut hasher);
    let percent = i32::try_from(hasher.finish() % 101).unwrap_or_default();
    most * percent / 100
}
