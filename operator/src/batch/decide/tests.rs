//! Decisions as people see them: one snapshot with a case for each reason that a condition or an event may have, and laws
//! that hold for all of them.

use std::collections::{BTreeMap, BTreeSet};

use insta::assert_yaml_snapshot;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use trireme_spec::ids::{Generation, JobName};
use trireme_spec::problem::{ErrorCode, Problem};
use trireme_spec::report::{JobReport, Phase, ResultReport};

use super::super::seen::{End, LastWords, PodSeen, PodState, Seen, Trouble};
use super::super::spec_hash::spec_hash;
use super::super::validate::{ValidJob, validate};
use super::{Plan, PodOrder, Refused, decide, refuse, reject, without_sql};
use crate::api::batch_job::BatchJob;
use crate::api::condition::{Condition, ConditionType, Reason};
use crate::api::status::{BatchJobStatus, JobState};
use crate::names::{self, PodRole};

fn at(seconds: i64) -> Timestamp {
    "2026-11-26T12:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
}

fn object(spec: Value) -> BatchJob {
    let mut all = json!({ "sql": "SELECT 1", "executors": { "min": 2 } });
    for (name, value) in spec.as_object().unwrap() {
        all[name] = value.clone();
    }
    serde_json::from_value(json!({
        "apiVersion": "trireme.dev/v1alpha1",
        "kind": "BatchJob",
        "metadata": { "name": "revenue", "namespace": "sales", "uid": "7d0c", "generation": 3 },
        "spec": all,
    }))
    .unwrap()
}

fn job(spec: Value) -> ValidJob {
    validate(&object(spec)).unwrap()
}

/// What a job comes to: facts by and by, each decision on the status that the one before has written.
#[derive(Clone)]
struct Story {
    job: ValidJob,
    seen: Seen,
    status: BatchJobStatus,
    now: i64,
    plan: Plan,
}

impl Story {
    /// A new job, and what was made for it.
    fn begin(spec: Value) -> Story {
        let (job, seen) = (job(spec), Seen::default());
        let plan = decide(&job, &BatchJobStatus::default(), &seen, at(0));
        let status = plan.status.clone();
        let now = 0;
        Story {
            job,
            seen,
            status,
            now,
            plan,
        }
    }

    /// One whose driver and executors run.
    fn running(spec: Value) -> Story {
        let mut story = Story::begin(spec);
        story.driver(1, PodState::Running { ready: true });
        for number in story.status.executors.open.0.clone() {
            story.executor(number, PodState::Running { ready: true });
        }
        story.says(1, report(Phase::Running));
        story.decide(5)
    }

    fn driver(&mut self, attempt: u32, state: PodState) {
        self.seen.drivers.insert(attempt, pod(PodRole::Driver, attempt, state));
    }

    fn executor(&mut self, number: u32, state: PodState) {
        self.seen
            .executors
            .insert(number, pod(PodRole::Executor, number, state));
    }

    fn says(&mut self, attempt: u32, report: JobReport) {
        self.seen.report = Some((attempt, report));
    }

    fn decide(mut self, now: i64) -> Story {
        self.now = now;
        self.plan = decide(&self.job, &self.status, &self.seen, at(now));
        self.status = self.plan.status.clone();
        self
    }

    fn driver_is(spec: Value, state: PodState) -> Story {
        let mut story = Story::running(spec);
        story.driver(1, state);
        story.decide(60)
    }

    fn executor_is(state: PodState) -> Story {
        let mut story = Story::running(json!({}));
        story.executor(2, state);
        story.decide(60)
    }

    fn refused(spec: Value, reason: Reason) -> Story {
        let mut story = Story::begin(spec);
        story.refuse(0, reason);
        story
    }

    /// The cluster does not take the pod that was ordered as number `at` of all.
    fn refuse(&mut self, order: usize, reason: Reason) {
        let refused = Refused {
            order: self.plan.make[order].clone(),
            reason,
            message: "exceeded quota: pods".to_owned(),
        };
        refuse(&self.job, &mut self.plan, &[refused], at(self.now));
        self.status = self.plan.status.clone();
    }

    fn reason(&self, kind: ConditionType) -> &str {
        let condition = self.status.conditions.iter().find(|condition| condition.kind == kind);
        &condition.unwrap().reason
    }
}

fn pod(role: PodRole, number: u32, state: PodState) -> PodSeen {
    let name = names::pod("revenue", role, number);
    PodSeen {
        uid: format!("uid of {name}"),
        name,
        created: Some(at(0)),
        started: None,
        ended: None,
        memory: None,
        image: None,
        spec_hash: None,
        is_told_to_end: false,
        state,
        all_ended: true,
    }
}

fn report(phase: Phase) -> JobReport {
    let mut report = JobReport::starting(JobName::new("revenue").unwrap(), Generation(1), 3);
    report.phase = phase;
    report.statements_done = 1;
    report
}

fn reported(phase: Phase) -> PodState {
    let mut report = report(phase);
    match phase {
        Phase::Succeeded => report.statements_done = 3,
        Phase::Failed => report.last_error = Some(Problem::new(ErrorCode::SqlExecution, "division by zero")),
        _ => {}
    }
    PodState::Ended(End::Reported(Box::new(report)))
}

fn crashed() -> PodState {
    PodState::Ended(End::Crashed {
        code: 101,
        last_words: LastWords::Log("thread 'main' panicked at shell.rs:7".to_owned()),
    })
}

fn leaving() -> PodState {
    PodState::Leaving {
        why: "EvictionByEvictionAPI".to_owned(),
    }
}

fn lost() -> PodState {
    PodState::Ended(End::Lost {
        why: "Evicted: low on memory".to_owned(),
    })
}

fn waits(reason: Reason, message: &str) -> PodState {
    let message = message.to_owned();
    PodState::Waiting(Some(Trouble { reason, message }))
}

/// One for each thing that may befall a job.
fn cases() -> BTreeMap<&'static str, Story> {
    let mut cases = BTreeMap::new();
    let mut put = |name, story| assert!(cases.insert(name, story).is_none(), "{name}");
    put("a new job", Story::begin(json!({})));
    put("a job that runs", Story::running(json!({})));

    let mut no_executors = Story::begin(json!({}));
    no_executors.driver(1, PodState::Running { ready: true });
    put("a driver without executors", no_executors.decide(5));
    let mut slow = Story::begin(json!({}));
    slow.driver(1, PodState::Waiting(None));
    slow.executor(1, PodState::Waiting(None));
    slow.executor(2, PodState::Waiting(None));
    put("a driver that starts slowly", slow.decide(8));
    let no_image = || waits(Reason::ImagePullFailed, "Back-off pulling image");
    put("a driver without an image", Story::driver_is(json!({}), no_image()));
    let no_start = waits(Reason::ContainerFailed, "secret \"bucket\" not found");
    put("a driver that cannot start", Story::driver_is(json!({}), no_start));
    let no_node = waits(Reason::Unschedulable, "0/3 nodes are available");
    put("a driver without a machine", Story::driver_is(json!({}), no_node));
    let mut no_executors = Story::begin(json!({}));
    no_executors.driver(1, PodState::Running { ready: true });
    no_executors.executor(1, no_image());
    no_executors.executor(2, no_image());
    put("executors without an image", no_executors.decide(5));

    let no_room = || waits(Reason::Unschedulable, "0/3 nodes are available: 3 Insufficient cpu");
    let mut gives_way = Story::begin(json!({}));
    gives_way.driver(1, PodState::Running { ready: true });
    gives_way.executor(1, no_room());
    gives_way.executor(2, no_room());
    put("no room for executors", gives_way.clone().decide(29));
    let gives_way = gives_way.decide(61);
    put("no room for executors for too long", gives_way.clone());
    let mut comes_back = gives_way;
    comes_back.seen = Seen::default();
    put("no room for executors, and the wait is over", comes_back.decide(65));

    put("a driver evicted", Story::driver_is(json!({}), leaving()));
    put("a driver lost", Story::driver_is(json!({}), lost()));
    let mut gone = Story::running(json!({}));
    gone.seen.drivers.clear();
    put("a driver gone", gone.decide(60));
    put(
        "a driver told to end",
        Story::driver_is(json!({}), reported(Phase::Cancelled)),
    );
    put(
        "a driver lost once too often",
        Story::driver_is(json!({ "retries": { "infrastructure": 0 } }), lost()),
    );
    put("a driver crashed", Story::driver_is(json!({}), crashed()));
    put(
        "a driver crashed, and its wait is over",
        Story::driver_is(json!({}), crashed()).decide(62),
    );
    put(
        "a driver crashed once too often",
        Story::driver_is(json!({ "retries": { "application": 0 } }), crashed()),
    );
    let out_of_memory = || PodState::Ended(End::OutOfMemory);
    put("a driver out of memory", Story::driver_is(json!({}), out_of_memory()));

    put("an executor evicted", Story::executor_is(leaving()));
    put("an executor lost", Story::executor_is(lost()));
    put("an executor crashed", Story::executor_is(crashed()));
    put("an executor out of memory", Story::executor_is(out_of_memory()));

    put("a quota", Story::refused(json!({}), Reason::QuotaExceeded));
    put("a policy", Story::refused(json!({}), Reason::PodRefused));
    put("a name that is taken", Story::refused(json!({}), Reason::NameTaken));
    put(
        "a quota once too often",
        Story::refused(json!({ "retries": { "scheduling": 0 } }), Reason::QuotaExceeded),
    );

    put("done", Story::driver_is(json!({}), reported(Phase::Succeeded)));
    put("failed", Story::driver_is(json!({}), reported(Phase::Failed)));
    put(
        "done, and its time is over",
        Story::driver_is(json!({ "ttlSecondsAfterFinished": 30 }), reported(Phase::Succeeded)).decide(91),
    );
    let mut smaller = Story::running(json!({ "executors": { "min": 4 } }));
    smaller.job.spec.executors.min = 2;
    put("scaled down", smaller.decide(60));
    let mut larger = Story::running(json!({}));
    larger.job.spec.executors.min = 4;
    put("scaled up", larger.decide(60));
    put(
        "a deadline",
        Story::running(json!({ "activeDeadlineSeconds": 60 })).decide(60),
    );

    let mut suspended = Story::running(json!({}));
    suspended.job.spec.suspend = true;
    put("suspended", suspended.clone().decide(60));
    suspended.seen = Seen::default();
    put("suspended, and all pods are gone", suspended.decide(60));

    let mut again = Story::running(json!({}));
    let old = std::mem::take(&mut again.seen);
    again.seen.strangers = old.drivers.into_values().chain(old.executors.into_values()).collect();
    again.job.run = "7d0c-2".to_owned();
    put("run again", again.decide(60));
    cases
}

/// A decision as people see it.
fn told(story: &Story) -> Value {
    let Plan {
        make,
        status,
        end,
        gone,
        remove,
        notes,
        next,
    } = &story.plan;
    let retries = &status.retries;
    let condition = |condition: &Condition| {
        let Condition {
            kind,
            status,
            reason,
            message,
            ..
        } = condition;
        format!("{kind:?} {status:?} {reason}: {message}")
            .trim_end_matches([' ', ':'])
            .to_owned()
    };
    let order = |order: &PodOrder| format!("{} {} of {}", order.role.as_str(), order.number, order.memory);
    json!({
        "make": make.iter().map(order).collect::<Vec<_>>(),
        "end": end.iter().map(|order| &order.name).collect::<Vec<_>>(),
        "the driver is told of": gone,
        "remove": remove,
        "state": status.state,
        "conditions": status.conditions.iter().map(condition).collect::<Vec<_>>(),
        "driver": format!("attempt {}, {} charged", status.driver.attempt, status.driver.charged),
        "retries": format!(
            "application {}, infrastructure {}, scheduling {}, out of memory {}",
            retries.application, retries.infrastructure, retries.scheduling, retries.out_of_memory
        ),
        "executors": status.executors,
        "last error": status.last_error,
        "events": notes
            .iter()
            .map(|note| format!("{} {}: {}", if note.warning { "Warning" } else { "Normal" }, note.reason.as_str(), note.message))
            .collect::<Vec<_>>(),
        "next": next.map(|next| format!("{:#}", next.duration_since(at(story.now)))),
    })
}

#[test]
fn what_is_decided() {
    let told: BTreeMap<_, _> = cases().iter().map(|(name, story)| (*name, told(story))).collect();
    assert_yaml_snapshot!(told);
}

#[test]
fn each_reason_has_a_case() {
    let mut given = BTreeSet::new();
    for story in cases().values() {
        given.extend(story.status.conditions.iter().map(|condition| condition.reason.clone()));
        given.extend(story.plan.notes.iter().map(|note| note.reason.as_str().to_owned()));
    }
    // Of objects that are not run: told by the visit, and provoked in its own tests.
    let elsewhere = [Reason::InvalidSpec, Reason::UnreadableObject, Reason::SqlNotFound];
    for reason in Reason::ALL.iter().filter(|reason| !elsewhere.contains(reason)) {
        assert!(given.contains(reason.as_str()), "{reason:?} has no case");
    }
}

#[test]
fn the_same_facts_order_the_same() {
    for (name, story) in cases() {
        // What was ordered to be made would be there the next time.
        if !story.plan.make.is_empty() {
            continue;
        }
        let again = decide(&story.job, &story.status, &story.seen, at(story.now));
        assert_eq!(again.status, story.status, "{name}");
        assert!(again.notes.is_empty(), "{name}: is told twice");
        let refused = story.status.retries.scheduling > 0;
        assert!(again.make.is_empty() || refused, "{name}: makes {:?}", again.make);
    }
}

#[test]
fn no_decision_asks_for_another_at_once() {
    for (name, story) in cases() {
        assert!(story.plan.next.is_none_or(|next| next > at(story.now)), "{name}");
    }
}

#[test]
fn a_number_that_was_refused_is_free() {
    let story = Story::refused(json!({}), Reason::QuotaExceeded);
    assert_eq!((story.status.driver.attempt, story.status.executors.highest), (0, 0));
    assert!(story.status.executors.open.is_empty());
    let early = story.clone().decide(0);
    assert!(early.plan.make.is_empty(), "it waits");
    let again = story.decide(1);
    assert_eq!(
        (again.plan.make[0].role, again.plan.make[0].number),
        (PodRole::Driver, 1)
    );
    assert_eq!(again.plan.make.len(), 3);
}

#[test]
fn executors_that_are_refused_are_tried_again_later() {
    let mut story = Story::begin(json!({}));
    story.refuse(2, Reason::QuotaExceeded);
    assert_eq!(story.status.executors.open.to_string(), "1");
    story.driver(1, PodState::Running { ready: true });
    story.executor(1, PodState::Waiting(None));
    let early = story.clone().decide(0);
    assert!(early.plan.make.is_empty());
    let numbers = |plan: &Plan| plan.make.iter().map(|order| order.number).collect::<Vec<_>>();
    assert_eq!(numbers(&story.decide(2).plan), [3]);
}

#[test]
fn the_word_of_a_driver_that_was_replaced_counts_if_it_is_a_good_one() {
    for (phase, state) in [
        (Phase::Succeeded, JobState::Complete),
        (Phase::Failed, JobState::Running),
        (Phase::Cancelled, JobState::Running),
    ] {
        let mut story = Story::driver_is(json!({}), leaving());
        story.driver(2, PodState::Running { ready: true });
        story.driver(1, reported(phase));
        let story = story.decide(70);
        assert_eq!(story.status.state, Some(state), "{phase:?}");
        assert_eq!(story.status.retries.infrastructure, 1, "{phase:?}");
    }
}

#[test]
fn a_driver_that_has_said_that_it_is_done_is_believed_when_it_is_gone() {
    let mut story = Story::running(json!({}));
    let mut done = report(Phase::Succeeded);
    done.statements_done = 3;
    done.result = Some(ResultReport {
        preview: "| 1 |".to_owned(),
        rows: 1,
        truncated: false,
        location: None,
    });
    story.says(1, done);
    let waits = story.clone().decide(60);
    assert_eq!(waits.status.state, Some(JobState::Running), "its pod ends in a moment");
    assert!(waits.plan.make.is_empty() && waits.plan.end.is_empty());
    story.driver(1, lost());
    let story = story.decide(60);
    assert_eq!(story.status.state, Some(JobState::Complete));
    assert_eq!(story.status.result.unwrap().preview, "| 1 |");
}

#[test]
fn a_healthy_driver_wipes_the_slate() {
    let mut story = Story::driver_is(json!({ "retries": { "resetAfter": "10m" } }), crashed()).decide(62);
    assert_eq!((story.status.retries.application, story.status.driver.attempt), (1, 2));
    story.driver(2, crashed());
    let crashes = |story: &Story, now: i64| story.clone().decide(now).status.retries.application;
    assert_eq!(
        crashes(&story, 9_000),
        2,
        "it may have waited for a machine all the time"
    );
    story.seen.drivers.get_mut(&2).unwrap().started = Some(at(70));
    assert_eq!(crashes(&story, 70 + 599), 2);
    assert_eq!(crashes(&story, 70 + 600), 1);
    // It had crashed long before anybody looked.
    story.seen.drivers.get_mut(&2).unwrap().ended = Some(at(80));
    assert_eq!(crashes(&story, 70 + 600), 2);
}

#[test]
fn a_driver_that_was_healthy_and_is_gone_was_healthy() {
    let mut story = Story::running(json!({ "retries": { "resetAfter": "10m" } }));
    story.status.retries.infrastructure = 3;
    assert_eq!(story.status.driver.start_time, Some(at(5)), "seen ready");
    story.seen.drivers.clear();
    let losses = |now: i64| story.clone().decide(now).status.retries.infrastructure;
    assert_eq!((losses(5 + 599), losses(5 + 600)), (4, 1));
}

#[test]
fn a_job_that_waits_for_nothing_does_not_wait() {
    let mut story = Story::driver_is(json!({}), crashed());
    assert!(story.status.retries.retry_time.is_some());
    // Made by an operator that died before it wrote it down.
    story.driver(2, PodState::Waiting(None));
    let story = story.decide(90);
    assert_eq!(
        (story.status.driver.attempt, story.status.retries.retry_time),
        (2, None)
    );
    assert_eq!(story.status.retries.application, 1, "charged once");
}

#[test]
fn a_pod_that_cannot_start_is_made_anew_when_its_spec_is_mended() {
    let mut story = Story::begin(json!({ "image": "engine:none" }));
    let no_image = || waits(Reason::ImagePullFailed, "Back-off pulling image");
    story.driver(1, no_image());
    story.executor(1, no_image());
    story.executor(2, PodState::Running { ready: false });
    let [of_driver, of_executor] =
        [PodRole::Driver, PodRole::Executor].map(|role| Some(spec_hash(&story.job.spec, role)));
    story.seen.drivers.get_mut(&1).unwrap().spec_hash = of_driver;
    for executor in story.seen.executors.values_mut() {
        executor.spec_hash.clone_from(&of_executor);
    }
    let mut other = story.clone();
    other.job.spec.ttl_seconds_after_finished = Some(60);
    let other = other.decide(60).plan;
    assert!(
        other.make.is_empty() && other.end.is_empty(),
        "it would be made the same"
    );

    story.job.spec.image = Some("engine:1".to_owned());
    let mut rejected = story.clone();
    rejected.job.rejected = Some("spec.podTemplate.spec.affinty: a pod has no such field".to_owned());
    assert!(
        rejected.decide(60).plan.end.is_empty(),
        "nothing could be made in its place"
    );
    let mut story = story.decide(60);
    let ends: Vec<_> = story.plan.end.iter().map(|pod| pod.name.as_str()).collect();
    assert_eq!(ends, ["revenue-driver-1", "revenue-exec-1"], "those that do not run");
    assert!(story.plan.make.is_empty(), "the old ones go first");
    story.seen.drivers.clear();
    story.seen.executors.remove(&1);
    let story = story.decide(61);
    let made: Vec<_> = story.plan.make.iter().map(|order| (order.role, order.number)).collect();
    assert_eq!(made, [(PodRole::Driver, 2), (PodRole::Executor, 3)]);
    assert_eq!(story.status.retries, Default::default(), "nobody is charged");
    assert_eq!(story.status.executors.lost, 0);
}

#[test]
fn a_pod_whose_volume_is_not_there_is_made_anew_too() {
    let mut story = Story::begin(json!({ "executors": { "min": 1 } }));
    story.driver(1, PodState::Waiting(None));
    story.seen.drivers.get_mut(&1).unwrap().spec_hash = Some("another".to_owned());
    let made_anew = |now: i64| story.clone().decide(now).plan.end.len();
    assert_eq!((made_anew(7), made_anew(8)), (0, 1), "once it should have started");
}

#[test]
fn executors_get_the_image_of_their_driver() {
    let mut story = Story::running(json!({ "executors": { "min": 2 } }));
    story.seen.drivers.get_mut(&1).unwrap().image = Some("engine:old".to_owned());
    story.executor(2, lost());
    let replaced = story.clone().decide(60);
    let image = |story: &Story, role: PodRole| {
        let orders = story.plan.make.iter().filter(|order| order.role == role);
        orders.map(|order| order.image.clone()).collect::<Vec<_>>()
    };
    assert_eq!(image(&replaced, PodRole::Executor), [Some("engine:old".to_owned())]);
    story.driver(1, lost());
    let anew = story.decide(60);
    assert_eq!(image(&anew, PodRole::Driver), [None], "what is installed now");
    assert_eq!(image(&anew, PodRole::Executor), [None], "as its driver");
}

#[test]
fn progress_is_written_every_fifteen_seconds() {
    let mut story = Story::running(json!({}));
    assert_eq!(story.status.progress.as_deref(), Some("1/3 statements"));
    let mut more = report(Phase::Running);
    more.statements_done = 2;
    story.says(1, more);
    let early = story.clone().decide(19);
    assert_eq!(early.status, story.status);
    assert_eq!(early.plan.next, Some(at(20)));
    assert_eq!(story.decide(20).status.progress.as_deref(), Some("2/3 statements"));
}

#[test]
fn errors_of_a_driver_that_goes_on_are_written_every_fifteen_seconds() {
    let story = Story::running(json!({}));
    let troubled = |message: &str, now: i64| {
        let mut story = story.clone();
        let mut report = report(Phase::Running);
        report.last_error = Some(Problem::new(ErrorCode::SqlExecution, message));
        story.says(1, report);
        story.decide(now)
    };
    for (message, now) in [("one", 6), ("another", 19)] {
        let early = troubled(message, now);
        assert_eq!(early.status, story.status, "{message}");
        assert_eq!(early.plan.next, Some(at(20)));
    }
    let error = troubled("a third", 20).status.last_error;
    assert_eq!(error.unwrap().message, "a third");
}

#[test]
fn who_does_least_leaves_first() {
    let mut story = Story::running(json!({ "executors": { "min": 4 } }));
    story.executor(2, PodState::Running { ready: false });
    story.job.spec.executors.min = 2;
    let story = story.decide(60);
    assert_eq!(story.status.executors.leaving.to_string(), "2,4");
    assert_eq!(story.plan.end.len(), 2);
    assert_eq!((story.status.executors.ready, story.status.executors.lost), (2, 0));
}

#[test]
fn executors_that_end_too_fast_are_waited_for() {
    let mut story = Story::running(json!({}));
    let mut waits = Vec::new();
    for _ in 0..12 {
        let open = story.status.executors.open.0.clone();
        let last = *open.last().unwrap();
        story.executor(last, crashed());
        story = story.decide(60);
        let wait = story
            .status
            .executors
            .retry_time
            .map(|time| time.duration_since(at(60)).as_secs());
        waits.push(wait.unwrap_or_default());
        // Time goes on, and the next one is made.
        if story.plan.make.is_empty() {
            story.status.executors.retry_time = None;
            story = story.decide(60);
        }
    }
    assert_eq!(waits, [0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16]);
    assert_eq!(story.status.executors.crashed, 12);
}

#[test]
fn one_that_left_by_itself_is_replaced_after_a_moment_whatever_its_clock_says() {
    let mut story = Story::running(json!({}));
    story.executor(2, PodState::Ended(End::Succeeded));
    let made = |ended: i64, now: i64| {
        let mut story = story.clone();
        story.seen.executors.get_mut(&2).unwrap().ended = Some(at(ended));
        let plan = story.decide(now).plan;
        (plan.make.len(), plan.next)
    };
    assert_eq!(made(60, 61), (0, Some(at(62))));
    assert_eq!(made(60, 62).0, 1);
    assert_eq!(made(61, 60).0, 0, "a clock that is a little ahead");
    assert_eq!(made(3_660, 60).0, 1, "a clock that is an hour ahead");
}

#[test]
fn what_was_refused_stays_refused_until_it_is_asked_for_again() {
    let driver = Story::refused(json!({}), Reason::QuotaExceeded).decide(0);
    assert_eq!(driver.reason(ConditionType::Progressing), "QuotaExceeded");
    assert!(driver.plan.notes.is_empty());
    let mut executors = Story::begin(json!({}));
    executors.refuse(1, Reason::PodRefused);
    executors.driver(1, PodState::Running { ready: true });
    let executors = executors.decide(0);
    assert_eq!(executors.reason(ConditionType::Progressing), "PodRefused");
    let asked = executors.decide(60);
    assert_eq!(asked.reason(ConditionType::Progressing), "WaitingForExecutors");
}

#[test]
fn a_refusal_is_told_of_whom_it_befell() {
    let mut story = Story::begin(json!({}));
    story.refuse(1, Reason::QuotaExceeded);
    let mut no_image = story.clone();
    no_image.driver(1, waits(Reason::ImagePullFailed, "Back-off pulling image"));
    assert_eq!(no_image.decide(0).reason(ConditionType::Progressing), "ImagePullFailed");
    story.driver(1, crashed());
    let waits_for_driver = story.decide(0);
    assert!(waits_for_driver.status.retries.retry_time > Some(at(0)));
    assert_eq!(waits_for_driver.reason(ConditionType::Progressing), "Retrying");
}

#[test]
fn a_job_is_not_suspended_that_has_ended() {
    let mut story = Story::running(json!({}));
    story.job.spec.suspend = true;
    for (phase, expected) in [
        (Phase::Succeeded, JobState::Complete),
        (Phase::Failed, JobState::Failed),
        (Phase::Cancelled, JobState::Suspended),
    ] {
        let mut story = story.clone();
        story.driver(1, reported(phase));
        assert_eq!(story.decide(60).status.state, Some(expected), "{phase:?}");
    }
}

#[test]
fn a_job_that_is_edited_after_its_end_has_ended_all_the_same() {
    let done = Story::driver_is(json!({}), reported(Phase::Succeeded));
    let again = done.clone().decide(80);
    assert_eq!(again.status, done.status, "nothing is written for nothing");
    let mut edited = done.clone();
    edited.job.generation += 1;
    let edited = edited.decide(80);
    assert_eq!(edited.status.conditions.len(), done.status.conditions.len());
    for (new, old) in edited.status.conditions.iter().zip(&done.status.conditions) {
        let expected = Condition {
            observed_generation: Some(4),
            ..old.clone()
        };
        assert_eq!(*new, expected, "nothing else changes");
    }
}

#[test]
fn what_cannot_be_run_says_so() {
    let new = object(json!({}));
    let (status, notes) = reject(&new, &BatchJobStatus::default(), "spec.sql: empty", at(0));
    assert_eq!(notes[0].reason, Reason::InvalidSpec);
    let story = Story {
        status,
        ..Story::begin(json!({}))
    };
    assert_eq!(story.reason(ConditionType::Accepted), "InvalidSpec");
    assert_eq!((story.status.observed_generation, story.status.run), (Some(3), None));
}

/// A job that runs, and whose spec was changed into one that cannot be run.
fn running_by_a_spec_that_is_no_more() -> Story {
    let mut story = Story::running(json!({}));
    story.job.rejected = Some("spec.podTemplate.spec.affinty: a pod has no such field".to_owned());
    story
}

#[test]
fn what_runs_is_looked_after_though_its_spec_cannot_be_run() {
    let story = running_by_a_spec_that_is_no_more();
    let told = story.clone().decide(60);
    assert_eq!(told.reason(ConditionType::Accepted), "InvalidSpec");
    assert_eq!(told.reason(ConditionType::Progressing), "Running");
    assert_eq!(told.plan.notes.len(), 1);
    assert!(told.decide(61).plan.notes.is_empty(), "it is said once");

    let mut done = story.clone();
    done.driver(1, reported(Phase::Succeeded));
    assert_eq!(done.decide(60).status.state, Some(JobState::Complete));

    let mut lost_one = story.clone();
    lost_one.executor(2, lost());
    let lost_one = lost_one.decide(60);
    assert!(lost_one.plan.make.is_empty());
    assert_eq!(lost_one.status.executors.lost, 1);
    let mut lost_driver = story;
    lost_driver.driver(1, lost());
    let mut lost_driver = lost_driver.decide(60);
    assert!(lost_driver.plan.make.is_empty());
    assert!(
        lost_driver.plan.next > Some(at(60)),
        "it waits for another spec, not for a time"
    );
    assert_eq!(lost_driver.reason(ConditionType::Progressing), "InvalidSpec");
    lost_driver.job.rejected = None;
    let mended = lost_driver.decide(90);
    assert_eq!(
        (mended.plan.make[0].role, mended.plan.make[0].number),
        (PodRole::Driver, 2)
    );
    assert_eq!(mended.reason(ConditionType::Accepted), "Valid");
}

#[test]
fn a_run_that_follows_another_is_written_down_before_anything_of_it_is_made() {
    let mut again = Story::driver_is(json!({}), reported(Phase::Succeeded));
    again.seen = Seen::default();
    again.job.spec.rerun_nonce = Some("b".to_owned());
    (again.job.run, again.job.run_number) = ("7d0c-2".to_owned(), 2);
    let begins = again.decide(90);
    assert!(begins.plan.make.is_empty());
    let BatchJobStatus {
        run,
        runs,
        rerun_nonce,
        state,
        ..
    } = begins.status.clone();
    assert_eq!(
        (run.as_deref(), runs, rerun_nonce.as_deref()),
        (Some("7d0c-2"), 2, Some("b"))
    );
    assert_eq!(state, Some(JobState::Pending));
    assert_eq!(begins.decide(91).plan.make.len(), 3);
}

#[test]
fn a_run_without_its_sql_has_not_begun() {
    let ended = Story::driver_is(json!({}), reported(Phase::Succeeded));
    let mut again = ended.clone();
    again.job.run = "7d0c-2".to_owned();
    let (status, notes) = without_sql(
        &again.job,
        &ended.status,
        "key q of ConfigMap sql does not exist",
        at(90),
    );
    again.status = status;
    assert_eq!(notes[0].reason, Reason::SqlNotFound);
    assert_eq!(
        (again.status.start_time, again.status.state),
        (None, Some(JobState::Pending))
    );
    for kind in [ConditionType::Accepted, ConditionType::Progressing] {
        assert_eq!(again.reason(kind), "SqlNotFound");
    }
    assert_eq!(again.reason(ConditionType::Complete), "NotFinished");
    let (same, _) = without_sql(
        &again.job,
        &again.status,
        "key q of ConfigMap sql does not exist",
        at(95),
    );
    assert_eq!(same, again.status, "nothing is written twice");
}

#[test]
fn what_a_driver_had_done_counts_after_the_deadline_too() {
    let spec = json!({ "activeDeadlineSeconds": 60 });
    let done = Story::driver_is(spec.clone(), reported(Phase::Succeeded));
    assert_eq!(done.reason(ConditionType::Complete), "AllStatementsDone");
    let failed = Story::driver_is(spec, reported(Phase::Failed));
    assert_eq!(failed.reason(ConditionType::Failed), "JobFailed");
}

#[test]
fn what_a_driver_has_said_at_its_deadline_counts_before_its_pod_ends() {
    let story = Story::running(json!({ "activeDeadlineSeconds": 60 }));
    for (phase, expected) in [
        (Phase::Succeeded, Reason::AllStatementsDone),
        (Phase::Failed, Reason::JobFailed),
        (Phase::Running, Reason::DeadlineExceeded),
        (Phase::Cancelled, Reason::DeadlineExceeded),
    ] {
        let mut story = story.clone();
        story.says(1, report(phase));
        let before = story.clone().decide(59);
        assert_eq!(before.status.state, Some(JobState::Running), "its pod ends in a moment");
        let story = story.decide(60);
        let kind = match phase {
            Phase::Succeeded => ConditionType::Complete,
            _ => ConditionType::Failed,
        };
        assert_eq!(story.reason(kind), expected.as_str(), "{phase:?}");
    }
}

#[test]
fn a_pod_that_another_container_keeps_is_told_to_end() {
    let mut story = Story::running(json!({}));
    story.executor(2, crashed());
    story.seen.executors.get_mut(&2).unwrap().all_ended = false;
    let ends = |story: &Story| story.plan.end.iter().map(|pod| pod.name.clone()).collect::<Vec<_>>();
    let mut story = story.decide(60);
    assert_eq!(ends(&story), ["revenue-exec-2"]);
    story.job.spec.suspend = true;
    let story = story.decide(61);
    assert!(ends(&story).contains(&"revenue-exec-2".to_owned()));
    let mut last = story;
    last.seen.drivers.clear();
    last.seen.executors.retain(|number, _| *number == 2);
    let held = |story: &Story| {
        let suspended = story
            .status
            .conditions
            .iter()
            .find(|condition| condition.kind == ConditionType::Suspended);
        suspended.unwrap().message.clone()
    };
    let mut last = last.decide(62);
    assert_eq!(held(&last), "1 pods are on their way out");
    last.seen.executors.get_mut(&2).unwrap().all_ended = true;
    assert_eq!(held(&last.decide(63)), "all pods are gone; what was committed stays");
}

#[test]
fn of_pods_that_ended_the_youngest_are_kept() {
    let mut story = Story::running(json!({ "executors": { "min": 1 } }));
    story.status.executors.highest = 30;
    for number in 2..=30 {
        story.executor(number, crashed());
    }
    let story = story.decide(60);
    let ends: Vec<_> = story.plan.end.iter().map(|pod| pod.name.clone()).collect();
    assert_eq!(ends.len(), 19);
    assert_eq!(
        (ends[0].as_str(), ends[18].as_str()),
        ("revenue-exec-2", "revenue-exec-20")
    );
}

#[test]
fn no_pod_is_kept_with_a_volume_of_its_own() {
    let scratch = json!({ "size": "1Gi", "storageClassName": "fast" });
    let mut story = Story::running(json!({ "executors": { "min": 2, "scratch": scratch } }));
    let ends = |story: &Story| story.plan.end.iter().map(|pod| pod.name.clone()).collect::<Vec<_>>();
    story.executor(2, crashed());
    let mut story = story.decide(60);
    assert_eq!(ends(&story), ["revenue-exec-2"], "once its end is charged");
    assert_eq!(story.status.executors.crashed, 1);
    story.executor(1, PodState::Ended(End::Succeeded));
    story.driver(1, reported(Phase::Succeeded));
    let story = story.decide(61);
    assert_eq!(story.status.state, Some(JobState::Complete));
    let mut story = story.decide(62);
    assert_eq!(
        ends(&story),
        ["revenue-exec-1", "revenue-exec-2"],
        "the driver has none"
    );
    story.job.spec.executors.scratch.storage_class_name = None;
    assert!(ends(&story.decide(62)).is_empty(), "they stay for their logs");
}
