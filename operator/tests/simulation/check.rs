//! What must hold whatever happens. The checker knows the truth about every pod, which no operator does, and compares with it
//! what operators do and write. Each `assert` ends the run.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use trireme_operator::api::batch_job::BatchJob;
use trireme_operator::api::condition::{Condition, ConditionStatus, ConditionType, Reason};
use trireme_operator::api::status::{BatchJobStatus, JobState, RetriesStatus};
use trireme_operator::names::{IMAGE_ANNOTATION, PodRole, label as labels};

use crate::api::Origin;
use crate::kubelet::{Container, Machines};
use crate::scenario::Act;
use crate::store::{Store, has_ended, is_staying, label, uid_of};
use crate::world::milliseconds;

/// How often each thing that seeds are meant to provoke was met.
pub(crate) type Met = BTreeMap<&'static str, u64>;

/// Without all of these the seeds would prove little.
pub(crate) const TO_BE_MET: [&str; 36] = [
    "answer lost",
    "complete",
    "conflict",
    "counters forgotten",
    "deadline exceeded",
    "driver charged to its program",
    "driver charged to machines",
    "driver charged to memory",
    "driver crashed",
    "driver failed",
    "driver out of memory",
    "driver told of a loss",
    "driver without executors",
    "executor charged to machines",
    "executor charged to memory",
    "executor crashed",
    "executor out of memory",
    "failed",
    "gave way",
    "image pull failed",
    "job removed after its time",
    "number taken by a late request",
    "operator died after a write",
    "pod existed already",
    "refused",
    "replaced at a commit",
    "replaced before it began",
    "report unheard",
    "request done late",
    "request lost",
    "retries of a machine's kind used up",
    "retries of a program's kind used up",
    "scheduling retries used up",
    "suspended",
    "two operators",
    "watch began anew",
];

/// Why a pod ends, as far as anybody can be blamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// Its program.
    Application,
    Memory,
    /// Its machine, or somebody who is not the operator.
    Infrastructure,
    /// The operator, or the end of its job.
    Ours,
    /// It was done.
    Done,
}

/// An order on the word of what was so this long ago is still in time.
const STALE_MS: i64 = 60_000;

#[derive(Default)]
pub(crate) struct Checker {
    pub(crate) met: Met,
    runs: BTreeMap<String, Run>,
    pods: BTreeMap<String, PodBooks>,
    /// Since when two operators act, or requests are done late: then pods may come that nobody asks for any more.
    pub(crate) unsteady: bool,
    /// Ids of runs that were begun.
    begun: BTreeSet<String>,
    pub(crate) objects: u64,
    pub(crate) status_writes: u64,
    /// What people asked for, and until when, before they asked for something else.
    asked: BTreeMap<String, Asked>,
}

#[derive(Default)]
struct Asked {
    suspended_until_ms: Option<i64>,
    running_until_ms: Option<i64>,
    sizes: Vec<(i64, u32)>,
    suspend: bool,
}

#[derive(Default)]
struct Run {
    /// Numbers that pods of the run have had.
    used: BTreeMap<(PodRole, u32), String>,
    refused_drivers: u32,
    /// Images that its drivers were made of.
    driver_images: BTreeSet<String>,
}

struct PodBooks {
    role: PodRole,
    number: u32,
    run: String,
    causes: BTreeSet<Cause>,
    /// Made on an order whose time was over.
    untimely: bool,
    started_ms: Option<i64>,
    image: String,
}

impl Checker {
    /// A pod's process has started.
    pub(crate) fn started(&mut self, uid: &str, now_ms: i64) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.started_ms = Some(now_ms);
        }
    }

    pub(crate) fn meet(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    pub(crate) fn blame(&mut self, uid: &str, cause: Cause) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.causes.insert(cause);
        }
    }

    pub(crate) fn refused(&mut self, run: &str, role: PodRole) {
        self.meet("refused");
        let run = self.runs.entry(run.to_owned()).or_default();
        run.refused_drivers += u32::from(role == PodRole::Driver);
    }

    /// A name was taken by a pod of somebody else, and with it its number.
    pub(crate) fn taken(&mut self, run: &str, role: PodRole, number: u32, uid: String) {
        let run = self.runs.entry(run.to_owned()).or_default();
        run.used.entry((role, number)).or_insert(uid);
    }

    pub(crate) fn acted(&mut self, act: Act, _now_ms: i64) {
        if act == Act::SecondOperator {
            self.unsteady = true;
            self.meet("two operators");
        }
    }

    /// People have changed a spec.
    pub(crate) fn asked(&mut self, job: &BatchJob, now_ms: i64) {
        let asked = self
            .asked
            .entry(job.metadata.name.clone().unwrap_or_default())
            .or_default();
        if asked.suspend && !job.spec.suspend {
            asked.suspended_until_ms = Some(now_ms);
        }
        if !asked.suspend && job.spec.suspend {
            asked.running_until_ms = Some(now_ms);
        }
        asked.suspend = job.spec.suspend;
        asked.sizes.push((now_ms, job.spec.executors.min.max(1)));
    }

    /// A pod was made. Whether somebody wants it is known from the job as it is, or was when its maker looked.
    pub(crate) fn judge_pod(&mut self, store: &Store, origin: Origin, now_ms: i64, pod: &Pod, container: &Container) {
        self.objects += 1;
        let name = &container.name;
        assert!(pod.metadata.owner_references.is_some(), "pod {name} without an owner");
        let (role, number) = (container.role, container.number);
        let run_name = &container.run;
        let job = store.jobs.get(label(pod, labels::JOB));
        let status = job
            .and_then(|job| job.status.as_ref())
            .filter(|status| status.run.as_ref() == Some(run_name));
        let recorded = status.map_or(0, |status| match role {
            PodRole::Driver => status.driver.attempt,
            PodRole::Executor => status.executors.highest,
        });
        let run = self.runs.entry(run_name.clone()).or_default();
        let before = run.used.insert((role, number), uid_of(pod));
        let annotations = pod.metadata.annotations.as_ref();
        let image = annotations.and_then(|annotations| annotations.get(IMAGE_ANNOTATION));
        let image = image.unwrap_or_else(|| panic!("{name} says nothing of its image"));
        if role == PodRole::Driver {
            run.driver_images.insert(image.clone());
        }
        let mixed = !run.driver_images.is_empty() && !run.driver_images.contains(image);
        let reused = before.is_some() && number <= recorded;
        let behind = number <= recorded;
        let untimely = origin.late || (self.unsteady && behind);
        if untimely {
            self.meet("number taken by a late request");
        } else {
            assert!(!reused, "{name} takes a number that another pod of its run has had");
            assert!(!behind, "{name} is made, but {recorded} were written down");
        }
        self.pods.insert(
            uid_of(pod),
            PodBooks {
                role,
                number,
                run: run_name.clone(),
                causes: BTreeSet::new(),
                untimely,
                started_ms: None,
                image: image.clone(),
            },
        );
        let Some(job) = job else { return };
        if origin.late || self.unsteady {
            return;
        }
        let asked = self.asked.get(label(pod, labels::JOB));
        let since = |time: Option<i64>| time.is_some_and(|time| time >= origin.since_ms);
        let ran = asked.is_some_and(|asked| since(asked.running_until_ms));
        assert!(!job.spec.suspend || ran, "{name} is made for a suspended job");
        let over = status
            .and_then(|status| status.state)
            .is_some_and(JobState::is_terminal);
        assert!(!over, "{name} is made for a run that is over");
        assert!(!mixed, "{name} has an image that no driver of its run has had");
        if role == PodRole::Executor {
            let status = status.cloned().unwrap_or_default();
            let staying = store.pods.values().filter(|other| {
                let number: u32 = label(other, labels::NUMBER).parse().unwrap_or_default();
                label(other, labels::RUN) == run_name
                    && label(other, labels::ROLE) == "executor"
                    && is_staying(other)
                    && !status.executors.leaving.0.contains(&number)
            });
            let sizes = asked.iter().flat_map(|asked| &asked.sizes);
            let largest = sizes
                .map(|(_, size)| *size)
                .max()
                .unwrap_or_default()
                .max(job.spec.executors.min)
                .max(1);
            let first = asked.is_none_or(|asked| asked.sizes.iter().all(|(at, _)| *at > now_ms - STALE_MS));
            assert!(
                staying.count() <= largest as usize || (first && asked.is_some()),
                "{name} is one more than anybody asked for"
            );
        }
    }

    /// A pod is told to go. Some rule must ask for it.
    pub(crate) fn judge_end(&mut self, store: &Store, origin: Origin, run: Option<&str>, pod: &Pod) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let job_name = label(pod, labels::JOB);
        let Some(job) = store.jobs.get(job_name) else { return };
        if origin.late || self.unsteady {
            return;
        }
        let number: u32 = label(pod, labels::NUMBER).parse().unwrap_or_default();
        let status = job.status.clone().unwrap_or_default();
        let of_run = run == Some(label(pod, labels::RUN)) && status.run.as_deref() == run;
        let asked = self.asked.get(job_name);
        let was_suspended = asked.is_some_and(|asked| {
            asked
                .suspended_until_ms
                .is_some_and(|until_ms| until_ms >= origin.since_ms)
        });
        let over = status.state.is_some_and(JobState::is_terminal);
        let by_number = match label(pod, labels::ROLE) {
            "driver" => number <= status.driver.charged,
            _ => status.executors.leaving.0.contains(&number) || !status.executors.open.0.contains(&number),
        };
        assert!(
            !of_run || job.spec.suspend || was_suspended || over || by_number,
            "{name} is ended, and no rule asks for it"
        );
    }

    /// A job goes after its time.
    pub(crate) fn judge_removal(&mut self, job: &BatchJob, run: Option<&str>, now_ms: i64) {
        self.meet("job removed after its time");
        let status = job.status.clone().unwrap_or_default();
        assert_eq!(status.run.as_deref(), run, "a job is removed that is to run again");
        assert!(
            status.state.is_some_and(JobState::is_terminal),
            "a job is removed before its end"
        );
        let ttl = job
            .spec
            .ttl_seconds_after_finished
            .expect("a job without a time to live is removed");
        let ended = milliseconds(status.completion_time.expect("one that has ended has a time for it"));
        assert!(
            ended + i64::from(ttl) * 1000 <= now_ms,
            "a job is removed before its time"
        );
    }

    /// A status is written.
    #[expect(clippy::too_many_arguments, reason = "the facts of one judgement")]
    pub(crate) fn judge_status(
        &mut self,
        origin: Origin,
        store: &Store,
        machines: &Machines,
        now_ms: i64,
        job: &BatchJob,
        before: &BatchJobStatus,
        all_committed: bool,
    ) {
        self.status_writes += 1;
        let status = job.status.as_ref().expect("it was written");
        judge_conditions(job, status);
        let Some(run) = &status.run else { return };
        assert!(
            before.run == status.run || self.begun.insert(run.clone()),
            "a run begins under the id {run} of another"
        );
        let old = match before.run == status.run {
            true => before.clone(),
            false => BatchJobStatus::default(),
        };
        self.judge_order(&old, status);
        self.judge_drivers(store, job, &old, status, origin, now_ms);
        self.judge_executors(store, &old, status);
        if old.driver.gave_way < status.driver.gave_way {
            self.meet("gave way");
        }
        if old.state == status.state {
            return;
        }
        match status.state {
            Some(JobState::Complete) => {
                self.meet("complete");
                assert!(all_committed, "complete, and not all statements are");
            }
            Some(JobState::Failed) => {
                self.meet("failed");
                self.judge_failure(machines, now_ms, job, status, run);
            }
            Some(JobState::Suspended) => self.meet("suspended"),
            Some(JobState::Pending | JobState::Running) | None => {}
        }
    }

    /// What goes on never goes back.
    fn judge_order(&self, old: &BatchJobStatus, new: &BatchJobStatus) {
        let over = old.state.is_some_and(JobState::is_terminal);
        assert!(!over || old.state == new.state, "the end of a run is taken back");
        let marks = |status: &BatchJobStatus| [status.driver.attempt, status.driver.charged, status.executors.highest];
        let pairs = marks(old).into_iter().zip(marks(new));
        assert!(
            pairs.clone().all(|(old, new)| old <= new),
            "numbers go back: {:?}",
            pairs.collect::<Vec<_>>()
        );
        assert!(
            new.driver.charged <= new.driver.attempt,
            "a driver is charged that was never made"
        );
        assert!(
            new.executors.leaving.0.is_subset(&new.executors.open.0),
            "an executor leaves that is not there"
        );
    }

    /// Each driver is charged once, to whom it may be charged.
    fn judge_drivers(
        &mut self,
        store: &Store,
        job: &BatchJob,
        old: &BatchJobStatus,
        new: &BatchJobStatus,
        origin: Origin,
        now_ms: i64,
    ) {
        let run = new.run.clone().unwrap_or_default();
        let charged: Vec<u32> = (old.driver.charged + 1..=new.driver.charged).collect();
        let was_made = |number: &u32| self.uid(&run, PodRole::Driver, *number).is_some();
        assert!(
            charged.iter().all(was_made),
            "drivers {charged:?} are charged, and one was never made"
        );
        let sum = |retries: &RetriesStatus| retries.application + retries.infrastructure + retries.out_of_memory;
        let reset_after = job.spec.retries.reset_after.as_millis() as i64;
        let started = |number: &u32| {
            let uid = self.uid(&run, PodRole::Driver, *number)?;
            self.pods.get(uid)?.started_ms
        };
        let oldest = charged.iter().filter_map(started).min();
        // To the second, as Kubernetes' times are.
        let healthy = oldest.is_some_and(|oldest| oldest + reset_after <= now_ms + 1_000);
        let over = new.state.is_some_and(JobState::is_terminal);
        let suspended = new.state == Some(JobState::Suspended);
        // Whoever gives way is charged for nothing.
        let gave_way = new.driver.gave_way > old.driver.gave_way && new.driver.charged > old.driver.charged;
        let ends = charged.len() as i64 - i64::from(gave_way);
        // Nobody is charged for one that never ran, and was to have another image by then.
        let made_anew = charged
            .iter()
            .filter(|number| self.is_outdated(job, &run, **number))
            .count() as i64;
        let most = match over || suspended {
            // The last one of all: its end is the end of the run, or was asked for.
            true => 0..=ends,
            false => ends - made_anew..=ends,
        };
        let mut base = old.retries.clone();
        let mut more = i64::from(sum(&new.retries)) - i64::from(sum(&base));
        if !most.contains(&more) && healthy && !charged.is_empty() {
            self.meet("counters forgotten");
            base = RetriesStatus::default();
            more = i64::from(sum(&new.retries));
        }
        // Of several that are settled at once, the charges of the first are forgotten with the rest.
        let forgotten = base != old.retries && (1..=ends).contains(&more);
        assert!(
            forgotten || most.contains(&more),
            "{more} charges for {ends} ends of drivers {charged:?}: {:?} after {:?}",
            new.retries,
            old.retries
        );
        // The last one was healthy for long before it ended, or anybody looked.
        let pod = self
            .uid(&run, PodRole::Driver, old.driver.attempt)
            .and_then(|uid| store.pod(uid));
        let ended_ms = pod
            .and_then(finished_ms)
            .unwrap_or(origin.since_ms)
            .min(origin.since_ms);
        let since = old.driver.start_time.map(milliseconds);
        let was_healthy = since.is_some_and(|since| since + reset_after <= ended_ms);
        if was_healthy && charged == [old.driver.attempt] && !over && !suspended {
            assert!(sum(&new.retries) <= 1, "charges are kept over a healthy time");
        }
        let with = |cause: Cause, checker: &Checker| {
            let has = |number: &&u32| checker.causes(&run, PodRole::Driver, **number).contains(&cause);
            charged.iter().filter(has).count() as u32
        };
        let application = new.retries.application - base.application.min(new.retries.application);
        let infrastructure = new.retries.infrastructure - base.infrastructure.min(new.retries.infrastructure);
        let memory = new.retries.out_of_memory - base.out_of_memory.min(new.retries.out_of_memory);
        // Memory that cannot grow is the program's affair.
        let by_program = with(Cause::Application, self) + with(Cause::Memory, self);
        assert!(
            application <= by_program,
            "drivers {charged:?} are charged to their program"
        );
        assert!(
            memory <= with(Cause::Memory, self),
            "drivers {charged:?} are charged to their memory"
        );
        let guilty = charged.iter().filter(|number| {
            let causes = self.causes(&run, PodRole::Driver, **number);
            let seen = self
                .uid(&run, PodRole::Driver, **number)
                .and_then(|uid| store.pod(uid))
                .is_some_and(has_ended);
            seen && !causes.contains(&Cause::Infrastructure) && !causes.contains(&Cause::Done) && !causes.is_empty()
        });
        assert!(
            infrastructure + guilty.count() as u32 <= charged.len() as u32,
            "drivers {charged:?} ended by themselves and are charged to machines"
        );
        for (count, what) in [
            (application, "driver charged to its program"),
            (infrastructure, "driver charged to machines"),
            (memory, "driver charged to memory"),
        ] {
            if count > 0 {
                self.meet(what);
            }
        }
        let refused = self.runs.get(&run).map_or(0, |run| run.refused_drivers);
        assert!(
            new.retries.scheduling <= refused,
            "more refusals are counted than there were"
        );
    }

    /// Whether a driver never ran, and was made with another image than its job asks for.
    fn is_outdated(&self, job: &BatchJob, run: &str, number: u32) -> bool {
        let pod = self
            .uid(run, PodRole::Driver, number)
            .and_then(|uid| self.pods.get(uid));
        let asked = job.spec.image.as_ref();
        pod.is_some_and(|pod| pod.started_ms.is_none() && asked.is_some_and(|asked| *asked != pod.image))
    }

    fn judge_executors(&mut self, store: &Store, old: &BatchJobStatus, new: &BatchJobStatus) {
        let run = new.run.clone().unwrap_or_default();
        let mut open = old.executors.open.0.clone();
        open.extend(old.executors.highest + 1..=new.executors.highest);
        let settled: Vec<u32> = open.difference(&new.executors.open.0).copied().collect();
        let theirs: Vec<u32> = settled
            .iter()
            .filter(|number| !old.executors.leaving.0.contains(number))
            .copied()
            .collect();
        let lost = new.executors.lost - old.executors.lost;
        let memory = new.executors.out_of_memory - old.executors.out_of_memory;
        let crashed = new.executors.crashed - old.executors.crashed;
        assert!(
            (lost + memory + crashed) as usize <= theirs.len(),
            "{lost} lost, {memory} out of memory, {crashed} crashed of executors {theirs:?} (settled {settled:?})"
        );
        let with = |cause: Cause, checker: &Checker| {
            let has = |number: &&u32| checker.causes(&run, PodRole::Executor, **number).contains(&cause);
            theirs.iter().filter(has).count() as u32
        };
        assert!(
            crashed <= with(Cause::Application, self),
            "executors {theirs:?} are said to have crashed"
        );
        assert!(
            memory <= with(Cause::Memory, self),
            "executors {theirs:?} are said to be out of memory"
        );
        let guilty = theirs.iter().filter(|number| {
            let causes = self.causes(&run, PodRole::Executor, **number);
            let seen = self
                .uid(&run, PodRole::Executor, **number)
                .and_then(|uid| store.pod(uid))
                .is_some_and(has_ended);
            seen && !causes.contains(&Cause::Infrastructure) && !causes.is_empty()
        });
        assert!(
            lost as usize + guilty.count() <= theirs.len(),
            "executors {theirs:?} ended by themselves and are said to be lost"
        );
        for (count, what) in [
            (lost, "executor charged to machines"),
            (memory, "executor charged to memory"),
            (crashed, "executor crashed"),
        ] {
            if count > 0 {
                self.meet(what);
            }
        }
    }

    /// Nobody gives up who need not.
    fn judge_failure(&mut self, machines: &Machines, now_ms: i64, job: &BatchJob, status: &BatchJobStatus, run: &str) {
        let condition = status
            .conditions
            .iter()
            .find(|condition| condition.kind == ConditionType::Failed);
        let reason = condition.expect("one that failed says so").reason.clone();
        let is = |other: Reason| reason == other.as_str();
        let (retries, spec) = (&status.retries, &job.spec.retries);
        let last = self.causes(run, PodRole::Driver, status.driver.attempt);
        if is(Reason::JobFailed) {
            let mut drivers = machines.containers.values();
            let said = drivers.any(|container| {
                container.run == run && container.number == status.driver.attempt && container.driver.said_failed
            });
            assert!(said, "failed, and the last driver has not said so");
        } else if is(Reason::DeadlineExceeded) {
            self.meet("deadline exceeded");
            let seconds = job.spec.active_deadline_seconds.expect("there is a deadline");
            let start = milliseconds(status.start_time.expect("a run has a start"));
            assert!(start + i64::from(seconds) * 1000 <= now_ms, "the deadline was not over");
        } else if is(Reason::ApplicationRetriesExhausted) {
            self.meet("retries of a program's kind used up");
            assert!(retries.application >= spec.application, "the budget was not used up");
            assert!(
                last.contains(&Cause::Application) || last.contains(&Cause::Memory),
                "the last driver did not end by itself: {last:?}"
            );
        } else if is(Reason::InfrastructureRetriesExhausted) {
            self.meet("retries of a machine's kind used up");
            assert!(
                retries.infrastructure >= spec.infrastructure,
                "the budget was not used up"
            );
        } else if is(Reason::SchedulingRetriesExhausted) {
            self.meet("scheduling retries used up");
            let refused = self.runs.get(run).map_or(0, |run| run.refused_drivers);
            assert!(refused > spec.scheduling, "the budget was not used up");
        } else {
            panic!("failed for {reason}");
        }
    }

    fn uid(&self, run: &str, role: PodRole, number: u32) -> Option<&str> {
        self.runs.get(run)?.used.get(&(role, number)).map(String::as_str)
    }

    /// Of all pods of that number: there may be more than one while operators or requests overtake each other.
    fn causes(&self, run: &str, role: PodRole, number: u32) -> BTreeSet<Cause> {
        let pods = self.pods.values();
        pods.filter(|pod| pod.run == run && pod.role == role && pod.number == number)
            .flat_map(|pod| pod.causes.iter().copied())
            .collect()
    }

    /// To be called after each step.
    pub(crate) fn assert_consistent(&self, store: &Store) {
        let mut staying = BTreeMap::new();
        for pod in store.pods.values() {
            let Some(books) = self.pods.get(pod.metadata.uid.as_deref().unwrap_or_default()) else {
                continue;
            };
            if books.role == PodRole::Driver && is_staying(pod) && !books.untimely {
                let count: &mut u32 = staying.entry(&books.run).or_default();
                *count += 1;
                assert!(*count == 1 || self.unsteady, "two drivers of run {}", books.run);
            }
        }
    }

    /// To be called when all has come to rest: what is left is what the jobs ask for.
    pub(crate) fn assert_settled(&self, store: &Store, run_of: impl Fn(&str) -> Option<String>) {
        for metadata in store.pods.values().map(|pod| &pod.metadata) {
            assert!(!store.is_orphan(metadata), "{:?} is an orphan", metadata.name);
        }
        let rest = store.secrets.values().map(|secret| &secret.metadata);
        for metadata in rest.chain(store.services.values().map(|service| &service.metadata)) {
            assert!(!store.is_orphan(metadata), "{:?} is an orphan", metadata.name);
        }
        for (name, job) in &store.jobs {
            let status = job.status.clone().unwrap_or_default();
            assert_eq!(
                status.observed_generation, job.metadata.generation,
                "{name} was not looked at"
            );
            assert_eq!(status.run, run_of(name), "{name} does not run what it asks for");
            let pods = store.pods.values().filter(|pod| label(pod, labels::JOB) == name);
            let staying: Vec<&Pod> = pods.filter(|pod| !has_ended(pod)).collect();
            let names: Vec<_> = staying.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
            match status.state {
                Some(JobState::Complete | JobState::Failed) => {
                    assert!(staying.is_empty(), "{name} is over and has {names:?}");
                    let of_old = |condition: &&Condition| condition.observed_generation != job.metadata.generation;
                    let of_old = status.conditions.iter().find(of_old);
                    assert!(of_old.is_none(), "{name} is over and says of an older spec: {of_old:?}");
                }
                Some(JobState::Suspended) => {
                    assert!(job.spec.suspend, "{name} is suspended and should not be");
                    assert!(staying.is_empty(), "{name} is suspended and has {names:?}");
                    assert!(status.executors.open.is_empty(), "{name} keeps numbers open");
                    let suspended = status
                        .conditions
                        .iter()
                        .find(|condition| condition.kind == ConditionType::Suspended);
                    assert!(
                        suspended.is_some_and(|condition| condition.status == ConditionStatus::True),
                        "{name} is suspended and does not say so"
                    );
                }
                state => panic!("{name} hangs: {state:?} with {names:?}"),
            }
        }
    }
}

/// When a pod's process ended, as its kubelet says.
fn finished_ms(pod: &Pod) -> Option<i64> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    let terminated = containers.first()?.state.as_ref()?.terminated.as_ref()?;
    Some(milliseconds(terminated.finished_at.as_ref()?.0))
}

/// What the conditions say is what the state says.
fn judge_conditions(job: &BatchJob, status: &BatchJobStatus) {
    let holds = |kind: ConditionType| {
        let condition = status.conditions.iter().find(|condition| condition.kind == kind);
        condition.is_some_and(|condition| condition.status == ConditionStatus::True)
    };
    let mut kinds: Vec<ConditionType> = status.conditions.iter().map(|condition| condition.kind).collect();
    kinds.dedup();
    assert_eq!(kinds.len(), status.conditions.len(), "a condition is there twice");
    if status.run.is_none() {
        return;
    }
    let state = status.state;
    assert_eq!(
        holds(ConditionType::Complete),
        state == Some(JobState::Complete),
        "Complete"
    );
    assert_eq!(holds(ConditionType::Failed), state == Some(JobState::Failed), "Failed");
    assert!(
        !holds(ConditionType::Suspended) || state == Some(JobState::Suspended),
        "Suspended"
    );
    let over = state.is_some_and(JobState::is_terminal);
    assert!(!over || !holds(ConditionType::Progressing), "Progressing");
    assert!(
        !holds(ConditionType::Ready) || state == Some(JobState::Running),
        "Ready"
    );
    assert_eq!(over, status.completion_time.is_some(), "completion time");
    let observed = status.observed_generation;
    assert!(
        observed <= job.metadata.generation,
        "a generation was observed that is still to come"
    );
}
