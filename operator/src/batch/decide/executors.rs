//! The executors: as many as wanted, each a number that is never used again.
//!
//! Their ends are counted and told, and never fail the job: whether a task is to blame for the workers that die under it is
//! the driver's judgement, and so is how long a job may go without any.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use trireme_spec::quantity::Bytes;

use super::super::seen::{End, LastWords, PodState, Seen};
use super::super::validate::ValidJob;
use super::charge::{more_memory, wait};
use super::{Plan, PodOrder, end_order, is_outdated, pod_name};
use crate::api::condition::Reason;
use crate::api::numbers::Numbers;
use crate::names::PodRole;

/// Executors made in one visit. They are made side by side; the bound leaves other jobs their turn.
const MADE_MAX: u32 = 64;

/// Losses in a row that cost no wait, beyond one for each executor: a whole fleet may go at once.
const FREE_LOSSES: u32 = 3;

/// Before an executor that left by itself is replaced.
const SENT_HOME_PATIENCE: SignedDuration = SignedDuration::from_secs(2);

/// Brings their number to `wanted`.
pub fn step(job: &ValidJob, seen: &Seen, wanted: u32, may_make: bool, now: Timestamp, plan: &mut Plan) {
    plan.status.executors.desired = wanted;
    take_up_unknown(seen, plan);
    let sent_home = settle(job, seen, wanted, now, plan);
    end_settled(seen, plan);
    let mut alive: BTreeSet<u32> = {
        let executors = &plan.status.executors;
        let alive = |number: &u32| seen.executors.get(number).is_some_and(|pod| pod.state.is_alive());
        executors
            .open
            .0
            .iter()
            .copied()
            .filter(|number| !executors.leaving.0.contains(number) && alive(number))
            .collect()
    };
    let made_anew = leave_outdated(job, seen, &mut alive, now, plan);
    let too_many = alive.len().saturating_sub(wanted as usize);
    for number in victims(seen, &alive, too_many) {
        alive.remove(&number);
        plan.status.executors.leaving.0.insert(number);
    }
    count_ready(seen, &alive, plan);
    let there = u32::try_from(alive.len()).unwrap_or(u32::MAX);
    // Those that cannot start hold what the next ones need: they go first.
    if there < wanted && may_make && !sent_home && !made_anew {
        make(job, seen, wanted - there, now, plan);
    }
    end_leaving(seen, plan);
    let executors = &mut plan.status.executors;
    executors.summary = Some(format!("{}/{}", executors.ready, executors.desired));
}

/// Ends all of them, to be charged to nobody.
pub fn release(seen: &Seen, plan: &mut Plan) {
    take_up_unknown(seen, plan);
    let executors = &mut plan.status.executors;
    executors.open.0.retain(|number| {
        let pod = seen.executors.get(number);
        pod.is_some_and(|pod| !matches!(pod.state, PodState::Ended(_)))
    });
    executors.leaving = executors.open.clone();
    executors.desired = 0;
    executors.ready = 0;
    executors.retry_time = None;
    executors.summary = Some("0/0".to_owned());
    end_leaving(seen, plan);
    end_settled(seen, plan);
}

/// Those that were made just before a crash, and not written down.
fn take_up_unknown(seen: &Seen, plan: &mut Plan) {
    let executors = &mut plan.status.executors;
    let unknown = seen.executors.range(executors.highest + 1..).map(|(number, _)| *number);
    executors.open.0.extend(unknown);
    executors.highest = executors
        .open
        .0
        .last()
        .copied()
        .unwrap_or_default()
        .max(executors.highest);
}

/// Takes those whose end is seen out of the open ones, and charges each as it ended. Says whether one has just left by itself:
/// sent home, most likely, because the job is done, and the driver's own end is a moment away.
fn settle(job: &ValidJob, seen: &Seen, wanted: u32, now: Timestamp, plan: &mut Plan) -> bool {
    let mut sent_home = false;
    for number in plan.status.executors.open.clone().0 {
        let state = seen.executors.get(&number).map(|pod| &pod.state);
        let ours = plan.status.executors.leaving.0.contains(&number);
        match state {
            Some(PodState::Waiting(_) | PodState::Running { .. }) => continue,
            // It is counted until it is gone, because its slots and shuffle files are.
            Some(PodState::Leaving { .. }) if ours => continue,
            Some(PodState::Ended(End::Succeeded | End::Reported(_))) if !ours => {
                // By the clock of its machine, which may be far ahead.
                let ended = seen.executors.get(&number).and_then(|pod| pod.ended);
                let due = ended.map(|ended| ended + SENT_HOME_PATIENCE);
                if let Some(due) = due.filter(|due| *due > now && *due <= now + SENT_HOME_PATIENCE * 2) {
                    sent_home = true;
                    plan.look_again([due].into_iter());
                    continue;
                }
            }
            _ => {}
        }
        let executors = &mut plan.status.executors;
        executors.open.0.remove(&number);
        executors.leaving.0.remove(&number);
        let name = pod_name(job, PodRole::Executor, number);
        // One that leaves by a drain, or in order, says so itself.
        if !matches!(
            state,
            Some(PodState::Leaving { .. } | PodState::Ended(End::Succeeded | End::Reported(_)))
        ) {
            plan.gone.push(name.clone());
        }
        if ours {
            continue;
        }
        match state {
            Some(PodState::Ended(End::Succeeded | End::Reported(_))) => continue,
            Some(PodState::Ended(End::OutOfMemory)) => {
                out_of_memory(job, &name, seen.executors.get(&number).and_then(|pod| pod.memory), plan);
            }
            Some(PodState::Ended(End::Crashed { code, last_words })) => {
                executors.crashed += 1;
                let why = match last_words {
                    LastWords::Problem(problem) => format!("{}: {}", problem.code, problem.message),
                    LastWords::Log(log) => format!("exit code {code}: {log}"),
                };
                plan.warn_of(
                    &name,
                    Reason::ExecutorCrashed,
                    format!("executor {name} ended by itself: {why}"),
                );
            }
            Some(PodState::Ended(End::Lost { why }) | PodState::Leaving { why }) => lost(&name, why, plan),
            None | Some(PodState::Waiting(_) | PodState::Running { .. }) => lost(&name, "the pod is gone", plan),
        }
        let executors = &mut plan.status.executors;
        executors.streak += 1;
        let costly = executors.streak.saturating_sub(wanted.saturating_mul(2) + FREE_LOSSES);
        if costly > 0 {
            executors.retry_time = executors
                .retry_time
                .max(Some(now + wait(&job.spec.retries.backoff, costly)));
        }
    }
    sent_home
}

/// Has those leave that cannot start, by a spec that is no more, and says whether there were any. Nobody is charged.
fn leave_outdated(job: &ValidJob, seen: &Seen, alive: &mut BTreeSet<u32>, now: Timestamp, plan: &mut Plan) -> bool {
    let is_outdated = |number: &u32| is_outdated(job, PodRole::Executor, &seen.executors[number], now);
    let outdated: Vec<u32> = alive.iter().copied().filter(is_outdated).collect();
    for number in &outdated {
        alive.remove(number);
        plan.status.executors.leaving.0.insert(*number);
    }
    if !outdated.is_empty() {
        let count = outdated.len();
        let message = format!("{count} executors did not start, and others are made by the spec as it is now");
        plan.note(false, Reason::Retrying, message);
    }
    !outdated.is_empty()
}

fn lost(name: &str, why: &str, plan: &mut Plan) {
    plan.status.executors.lost += 1;
    plan.warn_of(name, Reason::ExecutorLost, format!("executor {name} was lost: {why}"));
}

/// Several may run out of the same memory at once: it grows once for all of them.
fn out_of_memory(job: &ValidJob, name: &str, had: Option<Bytes>, plan: &mut Plan) {
    let asked = job.spec.executors.memory;
    let now = plan.status.executors.memory.unwrap_or(asked);
    let had = had.unwrap_or(now);
    plan.status.executors.out_of_memory += 1;
    let message = match more_memory(had, asked) {
        Some(more) => {
            let more = more.max(now);
            plan.status.executors.memory = Some(more);
            format!("executor {name} ran out of its memory of {had}; the next ones get {more}")
        }
        None => format!("executor {name} ran out of its memory of {had}, which is as much as it may grow to"),
    };
    plan.warn_of(name, Reason::OutOfMemory, message);
}

fn count_ready(seen: &Seen, alive: &BTreeSet<u32>, plan: &mut Plan) {
    let ready = |number: &&u32| matches!(seen.executors[*number].state, PodState::Running { ready: true });
    let ready = u32::try_from(alive.iter().filter(ready).count()).unwrap_or(u32::MAX);
    let executors = &mut plan.status.executors;
    if ready > executors.ready {
        executors.streak = 0;
        executors.retry_time = None;
        plan.status.driver.gave_way = 0;
    }
    plan.status.executors.ready = ready;
}

fn make(job: &ValidJob, seen: &Seen, missing: u32, now: Timestamp, plan: &mut Plan) {
    let executors = &mut plan.status.executors;
    if let Some(time) = executors.retry_time.filter(|time| *time > now) {
        return plan.look_again([time].into_iter());
    }
    let memory = executors.memory.unwrap_or(job.spec.executors.memory);
    let driver = seen.drivers.get(&plan.status.driver.attempt);
    let image = driver.and_then(|driver| driver.image.clone());
    for _ in 0..missing.min(MADE_MAX) {
        executors.highest += 1;
        executors.open.0.insert(executors.highest);
        plan.make.push(PodOrder {
            role: PodRole::Executor,
            number: executors.highest,
            memory,
            image: image.clone(),
        });
    }
    if missing > MADE_MAX {
        plan.look_again([now].into_iter());
    }
}

/// Who leaves: first those that do nothing yet, then the youngest, which hold the least that others still want to read.
fn victims(seen: &Seen, alive: &BTreeSet<u32>, count: usize) -> Vec<u32> {
    let mut order: Vec<u32> = alive.iter().copied().collect();
    order.sort_by_key(|number| {
        let ready = matches!(seen.executors[number].state, PodState::Running { ready: true });
        (ready, std::cmp::Reverse(*number))
    });
    order.truncate(count);
    order
}

/// Orders that were given once are given again until the pod has heard of them.
fn end_leaving(seen: &Seen, plan: &mut Plan) {
    let Numbers(leaving) = &plan.status.executors.leaving;
    let pods = leaving.iter().filter_map(|number| seen.executors.get(number));
    plan.end.extend(pods.filter(|pod| pod.state.is_alive()).map(end_order));
}

/// One that lives though it was settled: its making was given up and done all the same, or a status went back in time. Or it has
/// ended, and another container of its pod has not.
fn end_settled(seen: &Seen, plan: &mut Plan) {
    let open = &plan.status.executors.open;
    let settled = seen
        .executors
        .iter()
        .filter(|(number, pod)| !open.0.contains(number) && pod.holds_room());
    plan.end.extend(settled.map(|(_, pod)| end_order(pod)));
}
