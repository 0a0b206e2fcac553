//! Which job is visited next. Pure: time is an argument.
//!
//! A job is visited by one worker at a time, and once more if it was named meanwhile. Namespaces take turns, so that one with
//! a thousand jobs does not keep the others waiting.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use jiff::{SignedDuration, Timestamp};

use crate::names::JobKey;

/// The wait after the first failure of a job's visits, doubled with each.
const RETRY: SignedDuration = SignedDuration::from_millis(200);

/// The longest such wait: an API server that is back is noticed within it.
const RETRY_MAX: SignedDuration = SignedDuration::from_secs(10);

/// How a visit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visited {
    /// Come again at that time, if nothing is heard before.
    Done(Option<Timestamp>),
    /// Come again soon.
    Failed,
}

/// Jobs that wait for a visit.
#[derive(Debug, Default)]
pub struct Queue {
    /// Jobs to be visited now, by namespace.
    ready: BTreeMap<String, VecDeque<JobKey>>,
    /// Namespaces with jobs to be visited now, in the order of their turns.
    turns: VecDeque<String>,
    queued: HashSet<JobKey>,
    later: BTreeSet<(Timestamp, JobKey)>,
    due: HashMap<JobKey, Timestamp>,
    busy: HashSet<JobKey>,
    /// Jobs that were named while they were visited.
    again: HashSet<JobKey>,
    failures: HashMap<JobKey, u32>,
}

impl Queue {
    /// Something was heard of a job.
    pub fn name(&mut self, key: JobKey) {
        if self.busy.contains(&key) {
            self.again.insert(key);
        } else {
            self.push(key);
        }
    }

    /// The next job to visit, if one is due.
    pub fn take(&mut self, now: Timestamp) -> Option<JobKey> {
        while let Some((time, key)) = self.later.first().cloned() {
            if time > now {
                break;
            }
            self.later.remove(&(time, key.clone()));
            self.due.remove(&key);
            self.name(key);
        }
        let namespace = self.turns.pop_front()?;
        let jobs = self.ready.get_mut(&namespace)?;
        let key = jobs.pop_front()?;
        match jobs.is_empty() {
            true => drop(self.ready.remove(&namespace)),
            false => self.turns.push_back(namespace),
        }
        self.queued.remove(&key);
        self.forget_time(&key);
        self.busy.insert(key.clone());
        Some(key)
    }

    /// A visit has ended.
    pub fn done(&mut self, key: &JobKey, visited: Visited, now: Timestamp) {
        self.busy.remove(key);
        let time = match visited {
            Visited::Done(time) => {
                self.failures.remove(key);
                time
            }
            Visited::Failed => {
                let failures = self.failures.entry(key.clone()).or_default();
                let wait = RETRY.saturating_mul(1 << (*failures).min(16)).min(RETRY_MAX);
                *failures += 1;
                Some(now + wait)
            }
        };
        // A job that fails waits its time even if it is named: its objects may change all the while.
        if self.again.remove(key) && visited != Visited::Failed {
            return self.push(key.clone());
        }
        if let Some(time) = time {
            self.later.insert((time, key.clone()));
            self.due.insert(key.clone(), time);
        }
    }

    /// When a job comes due that is not due yet.
    pub fn next_time(&self) -> Option<Timestamp> {
        self.later.first().map(|(time, _)| *time)
    }

    /// Jobs that are due and not yet visited.
    pub fn len(&self) -> usize {
        self.queued.len()
    }

    /// Whether nothing is due.
    pub fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    fn push(&mut self, key: JobKey) {
        if self.failures.contains_key(&key) && self.due.contains_key(&key) {
            return;
        }
        self.forget_time(&key);
        if !self.queued.insert(key.clone()) {
            return;
        }
        let jobs = self.ready.entry(key.namespace.clone()).or_default();
        if jobs.is_empty() {
            self.turns.push_back(key.namespace.clone());
        }
        jobs.push_back(key);
    }

    fn forget_time(&mut self, key: &JobKey) {
        if let Some(time) = self.due.remove(key) {
            self.later.remove(&(time, key.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(namespace: &str, name: &str) -> JobKey {
        JobKey {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(milliseconds).unwrap()
    }

    #[test]
    fn namespaces_take_turns() {
        let mut queue = Queue::default();
        for name in ["1", "2", "3"] {
            queue.name(key("large", name));
        }
        queue.name(key("small", "1"));
        let order: Vec<_> = std::iter::from_fn(|| queue.take(at(0)))
            .map(|key| key.to_string())
            .collect();
        assert_eq!(order, ["large/1", "small/1", "large/2", "large/3"]);
    }

    #[test]
    fn a_job_is_visited_by_one_at_a_time_and_once_more_if_it_was_named() {
        let mut queue = Queue::default();
        let job = key("a", "1");
        queue.name(job.clone());
        queue.name(job.clone());
        assert_eq!(queue.take(at(0)), Some(job.clone()));
        queue.name(job.clone());
        assert_eq!(queue.take(at(0)), None, "it is being visited");
        queue.done(&job, Visited::Done(Some(at(5000))), at(0));
        assert_eq!(queue.take(at(0)), Some(job.clone()));
        queue.done(&job, Visited::Done(Some(at(5000))), at(0));
        assert_eq!(queue.take(at(4999)), None);
        assert_eq!(queue.next_time(), Some(at(5000)));
        assert_eq!(queue.take(at(5000)), Some(job));
    }

    #[test]
    fn a_failing_job_waits_longer_each_time_even_if_it_is_named() {
        let mut queue = Queue::default();
        let job = key("a", "1");
        queue.name(job.clone());
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert_eq!(queue.take(at(now)), Some(job.clone()));
            queue.name(job.clone());
            queue.done(&job, Visited::Failed, at(now));
            queue.name(job.clone());
            assert_eq!(queue.take(at(now)), None);
            let next = queue.next_time().unwrap().as_millisecond();
            waits.push(next - now);
            now = next;
        }
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(queue.take(at(now)), Some(job.clone()));
        queue.done(&job, Visited::Done(None), at(now));
        queue.name(job.clone());
        assert_eq!(queue.take(at(now)), Some(job), "the failures are forgotten");
    }
}
