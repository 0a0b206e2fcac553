//! Single courses of events. Each is told whole once, and then again with an operator that dies after its first write, its
//! second, and so on; what it comes to has to be the same.

use serde_json::json;
use trireme_operator::api::condition::{ConditionType, Reason};
use trireme_operator::api::status::{BatchJobStatus, JobState};
use trireme_operator::names::PodRole;
use trireme_spec::quantity::Bytes;

use crate::scenario::{Act, Fate, JobPlan, NO_IMAGE, Scenario, When, Whose};
use crate::sim::{self, Done};
use crate::store::is_staying;
use crate::world::World;

const JOB: &str = "north";

fn job(statements: u32, spec: serde_json::Value) -> JobPlan {
    JobPlan::new(JOB, statements, spec)
}

/// Tells it whole.
fn tell_once(name: &str, scenario: &Scenario, check: &dyn Fn(&World)) -> Done {
    sim::run(scenario, check).unwrap_or_else(|trace| {
        let why = sim::tell(&trace);
        panic!("story {name} fails ({why})")
    })
}

/// Tells it whole, and with a crash after each write.
fn tell(name: &str, scenario: &Scenario, check: &dyn Fn(&World)) {
    let whole = tell_once(name, scenario, check);
    for write in 1..=whole.writes {
        let scenario = Scenario {
            crash_after_write: Some(write),
            ..scenario.clone()
        };
        if let Err(trace) = sim::run(&scenario, check) {
            let why = sim::tell(&trace);
            panic!("story {name} fails with a crash after write {write} ({why})");
        }
    }
}

fn status(world: &World) -> BatchJobStatus {
    world.store.jobs[JOB].status.clone().unwrap_or_default()
}

fn is_complete(world: &World) -> BatchJobStatus {
    let status = status(world);
    assert_eq!(status.state, Some(JobState::Complete), "state");
    let run = status.run.clone().unwrap_or_default();
    assert_eq!(
        world.destination.committed(&run),
        world.scenario.jobs[0].statements,
        "committed statements"
    );
    status
}

fn has_failed(world: &World, reason: Reason) -> BatchJobStatus {
    let status = status(world);
    assert_eq!(status.state, Some(JobState::Failed), "state");
    let failed = status
        .conditions
        .iter()
        .find(|condition| condition.kind == ConditionType::Failed);
    assert_eq!(
        failed.map(|condition| &*condition.reason),
        Some(reason.as_str()),
        "reason"
    );
    status
}

fn nothing_is_left(world: &World) {
    let store = &world.store;
    assert!(store.jobs.is_empty(), "the job is left");
    assert!(store.pods.is_empty(), "pods are left");
    assert!(store.secrets.is_empty(), "the Secret is left");
    assert!(store.services.is_empty(), "the Service is left");
}

fn staying(world: &World, role: PodRole) -> usize {
    let pods = world.pods_of(JOB).into_iter().filter(|pod| is_staying(pod));
    pods.filter(|pod| crate::store::label(pod, trireme_operator::names::label::ROLE) == role.as_str())
        .count()
}

#[test]
fn hello_world() {
    for seed in 0..20 {
        let scenario = Scenario {
            seed,
            ..Scenario::story(vec![job(1, json!({}))], vec![])
        };
        tell_once("hello world, undisturbed", &scenario, &|world| {
            is_complete(world);
            assert_eq!(world.check.objects, 4, "Secret, Service, driver, executor");
            assert!(
                world.check.status_writes <= 4,
                "{} writes of status",
                world.check.status_writes
            );
        });
    }
    let scenario = Scenario::story(vec![job(2, json!({ "executors": { "min": 3 } }))], vec![]);
    tell("hello world", &scenario, &|world| {
        let status = is_complete(world);
        assert_eq!(status.driver.attempt, 1, "drivers");
        assert_eq!(status.executors.highest, 3, "executors");
        assert_eq!(status.progress.as_deref(), Some("2/2 statements"));
    });
}

#[test]
fn a_driver_lost_with_its_machine() {
    let lost = (When::Committed(0, 1), Act::MachineDies(0, Whose::Driver));
    let back = (When::At(120_000), Act::MachinesStruckOff);
    let scenario = Scenario::story(vec![job(3, json!({}))], vec![lost, back]);
    tell("driver lost", &scenario, &|world| {
        let status = is_complete(world);
        assert_eq!(status.driver.attempt, 2, "drivers");
        assert_eq!(
            (status.retries.infrastructure, status.retries.application),
            (1, 0),
            "charges"
        );
    });
}

#[test]
fn a_machine_that_starts_again_is_to_blame() {
    let lost = (When::Committed(0, 1), Act::MachineDies(0, Whose::Driver));
    let back = (When::At(30_000), Act::MachinesBack);
    for seed in 0..4 {
        let scenario = Scenario {
            seed,
            ..Scenario::story(vec![job(3, json!({}))], vec![lost, back])
        };
        tell("reboot", &scenario, &|world| {
            let status = is_complete(world);
            assert_eq!(
                (status.retries.infrastructure, status.retries.application),
                (1, 0),
                "charges"
            );
        });
    }
}

#[test]
fn executors_lost_in_a_loop() {
    let mut plan = job(4, json!({ "executors": { "min": 2 } }));
    plan.bad_executors = 14;
    plan.ticks = 20;
    tell(
        "executors lost in a loop",
        &Scenario::story(vec![plan], vec![]),
        &|world| {
            let status = is_complete(world);
            assert_eq!(status.executors.crashed, 14, "crashed");
            assert_eq!(status.executors.lost, 0, "lost");
            assert_eq!(status.driver.attempt, 1, "drivers");
        },
    );
    let mut plan = job(2, json!({ "executors": { "min": 3 } }));
    plan.ticks = 20;
    let evictions = (1..=6)
        .map(|at| (When::At(at * 4_000), Act::Evict(0, Whose::Executor)))
        .collect();
    tell(
        "executors evicted in a loop",
        &Scenario::story(vec![plan], evictions),
        &|world| {
            let status = is_complete(world);
            assert_eq!(
                (status.executors.lost, status.executors.crashed),
                (6, 0),
                "lost, crashed"
            );
        },
    );
}

#[test]
fn a_drained_machine() {
    let mut plan = job(3, json!({ "executors": { "min": 2 } }));
    plan.ticks = 4;
    let drain = (When::Committed(0, 1), Act::MachineDrained(0, Whose::Driver));
    tell("drain", &Scenario::story(vec![plan], vec![drain]), &|world| {
        let status = is_complete(world);
        assert_eq!(status.driver.attempt, 2, "drivers");
        assert_eq!(
            (status.retries.infrastructure, status.retries.application),
            (1, 0),
            "charges"
        );
    });
}

#[test]
fn a_driver_that_nobody_sees_any_more() {
    let mut plan = job(3, json!({ "executors": { "min": 2 } }));
    plan.ticks = 60;
    let cut_off = (When::Committed(0, 1), Act::MachineCutOff(0, Whose::Driver));
    let back = (When::At(400_000), Act::MachinesBack);
    let scenario = Scenario::story(vec![plan], vec![cut_off, back]);
    tell("partition", &scenario, &|world| {
        let status = is_complete(world);
        assert_eq!(status.driver.attempt, 2, "drivers");
        assert_eq!(
            (status.retries.infrastructure, status.retries.application),
            (1, 0),
            "charges"
        );
        assert!(
            world.check.met.contains_key("replaced at a commit"),
            "the old driver was refused"
        );
    });
}

#[test]
fn a_driver_that_needs_more_memory() {
    let mut plan = job(2, json!({ "driver": { "memory": "1Gi" } }));
    plan.driver_needs = Bytes::gib(3);
    tell(
        "driver out of memory",
        &Scenario::story(vec![plan.clone()], vec![]),
        &|world| {
            let status = is_complete(world);
            assert_eq!(
                status.driver.memory.map(|memory| memory.to_string()).as_deref(),
                Some("4Gi")
            );
            assert_eq!(
                (status.retries.out_of_memory, status.retries.application),
                (2, 0),
                "charges"
            );
        },
    );
    plan.driver_needs = Bytes::gib(5);
    tell(
        "driver beyond its memory",
        &Scenario::story(vec![plan], vec![]),
        &|world| {
            let status = has_failed(world, Reason::ApplicationRetriesExhausted);
            assert_eq!(
                status.last_error.map(|error| error.code).as_deref(),
                Some("OutOfMemory")
            );
            assert_eq!(
                (status.retries.out_of_memory, status.retries.application),
                (2, 3),
                "charges"
            );
        },
    );
}

#[test]
fn executors_that_need_more_memory() {
    let mut plan = job(2, json!({ "executors": { "min": 2, "memory": "1Gi" } }));
    plan.executor_needs = Bytes::gib(2);
    tell(
        "executors out of memory",
        &Scenario::story(vec![plan], vec![]),
        &|world| {
            let status = is_complete(world);
            assert!(status.executors.out_of_memory >= 2, "counted");
            assert_eq!((status.executors.lost, status.retries.application), (0, 0), "charges");
        },
    );
}

#[test]
fn a_quota_that_is_raised() {
    let mut plan = job(2, json!({ "executors": { "min": 2 } }));
    let quota = |pods| (When::At(0), Act::Quota(Some(pods)));
    let raised = (When::At(25_000), Act::Quota(None));
    tell(
        "no room for the driver",
        &Scenario::story(vec![plan.clone()], vec![quota(0), raised]),
        &|world| {
            let status = is_complete(world);
            assert_eq!(status.driver.attempt, 1, "a number that was refused is not used up");
            assert!(status.retries.scheduling > 0, "counted");
        },
    );
    tell(
        "no room for executors",
        &Scenario::story(vec![plan.clone()], vec![quota(1), raised]),
        &|world| {
            let status = is_complete(world);
            assert_eq!(
                (status.driver.attempt, status.retries.scheduling),
                (1, 0),
                "drivers and charges"
            );
        },
    );
    plan.spec.retries.scheduling = 3;
    tell(
        "a quota that is not raised",
        &Scenario::story(vec![plan], vec![quota(0)]),
        &|world| {
            let status = has_failed(world, Reason::SchedulingRetriesExhausted);
            assert_eq!(status.driver.attempt, 0, "drivers");
        },
    );
}

/// Drivers take all the room there is, and wait for executors that find none: no job may hang for that.
#[test]
fn more_jobs_than_room() {
    let budgets = json!({ "retries": { "infrastructure": 0, "application": 0, "scheduling": 0 } });
    let names: Vec<&str> = (0..16).map(|number| &*format!("job-{number}").leak()).collect();
    let jobs = names.iter().map(|name| JobPlan::new(name, 1, budgets.clone()));
    let mut scenario = Scenario::story(jobs.collect(), Vec::new());
    scenario.room = 4;
    scenario.executors_late_ms = 5_000;
    let all_complete = |world: &World| {
        for name in &names {
            let status = world.store.jobs[*name].status.clone().unwrap_or_default();
            assert_eq!(status.state, Some(JobState::Complete), "state of {name}");
        }
    };
    let done = tell_once("more jobs than room", &scenario, &all_complete);
    assert!(done.met.contains_key("gave way"), "there was room");
    for write in (1..=done.writes).step_by(7) {
        scenario.crash_after_write = Some(write);
        tell_once("more jobs than room, with a crash", &scenario, &all_complete);
    }
}

#[test]
fn suspended_and_resumed() {
    let mut plan = job(3, json!({ "executors": { "min": 2 } }));
    plan.ticks = 4;
    let suspend = (When::Committed(0, 1), Act::Suspend(0, true));
    let scenario = Scenario::story(vec![plan.clone()], vec![suspend]);
    tell("suspended", &scenario, &|world| {
        let status = status(world);
        assert_eq!(status.state, Some(JobState::Suspended), "state");
        assert_eq!(
            (status.retries.infrastructure, status.executors.lost),
            (0, 0),
            "charges"
        );
    });
    for wait_ms in [0, 30, 300, 3_000, 30_000] {
        let resume = (When::In(0, JobState::Suspended, wait_ms), Act::Suspend(0, false));
        let scenario = Scenario::story(vec![plan.clone()], vec![suspend, resume]);
        tell("suspended and resumed", &scenario, &|world| {
            let status = is_complete(world);
            let charges = (
                status.retries.infrastructure,
                status.retries.application,
                status.executors.lost,
            );
            assert_eq!(charges, (0, 0, 0), "charges");
        });
    }
    plan.spec.suspend = true;
    let resume = (When::At(10_000), Act::Suspend(0, false));
    tell(
        "suspended from the beginning",
        &Scenario::story(vec![plan], vec![resume]),
        &|world| {
            let status = is_complete(world);
            assert_eq!(status.driver.attempt, 1, "drivers");
        },
    );
}

/// The number that was asked for in vain is given up once a later one is there, and then its pod comes after all.
#[test]
fn suspended_before_an_executor_is_made() {
    let mut plan = job(3, json!({ "executors": { "min": 2 } }));
    plan.ticks = 10;
    let late = Act::MadeLate {
        job: 0,
        number: 3,
        wait_ms: 60_000,
    };
    let acts = vec![
        (When::At(0), late),
        (When::Committed(0, 1), Act::Scale(0, 4)),
        (When::Committed(0, 2), Act::Suspend(0, true)),
    ];
    let scenario = Scenario::story(vec![plan], acts);
    let is_suspended = |world: &World| {
        let status = status(world);
        assert_eq!(status.state, Some(JobState::Suspended), "state");
        let charges = (status.retries.infrastructure, status.executors.lost);
        assert_eq!(charges, (0, 0), "charges");
    };
    let whole = tell_once("suspended, and an executor made", &scenario, &is_suspended);
    assert!(
        whole.met.contains_key("number taken by a late request"),
        "it was not late"
    );
    tell("suspended, and an executor made", &scenario, &is_suspended);
}

#[test]
fn scaled_up_and_down() {
    let mut plan = job(1, json!({ "executors": { "min": 2 } }));
    plan.ticks = u32::MAX;
    for sizes in [[5, 1], [1, 4], [0, 3], [6, 0]] {
        let [first, second] = sizes;
        let acts = vec![
            (When::At(10_000), Act::Scale(0, first)),
            (When::At(30_000), Act::Scale(0, second)),
        ];
        let scenario = Scenario {
            end_ms: 120_000,
            rests: false,
            ..Scenario::story(vec![plan.clone()], acts)
        };
        tell("scaled", &scenario, &|world| {
            let status = status(world);
            assert_eq!(status.state, Some(JobState::Running), "state");
            assert_eq!(staying(world, PodRole::Executor), second.max(1) as usize, "executors");
            assert_eq!(status.executors.ready, second.max(1), "ready");
            assert_eq!(status.executors.open.0.len(), second.max(1) as usize, "open numbers");
            assert_eq!((status.executors.lost, status.executors.crashed), (0, 0), "charges");
            assert_eq!(
                (staying(world, PodRole::Driver), status.driver.attempt),
                (1, 1),
                "drivers"
            );
        });
    }
}

#[test]
fn a_deadline() {
    let mut plan = job(1, json!({ "executors": { "min": 2 }, "activeDeadlineSeconds": 20 }));
    plan.ticks = 1_000;
    tell("deadline", &Scenario::story(vec![plan], vec![]), &|world| {
        let status = has_failed(world, Reason::DeadlineExceeded);
        let ran = status
            .completion_time
            .unwrap()
            .duration_since(status.start_time.unwrap());
        assert!((20..25).contains(&ran.as_secs()), "it ran for {} s", ran.as_secs());
    });
}

#[test]
fn a_deadline_after_all_is_done() {
    let mut plan = job(1, json!({ "activeDeadlineSeconds": 20 }));
    plan.fates.insert(1, (0, Fate::Linger));
    let scenario = Scenario::story(vec![plan], vec![]);
    tell_once("done, with a deadline", &scenario, &|world| {
        let status = is_complete(world);
        let ran = status
            .completion_time
            .unwrap()
            .duration_since(status.start_time.unwrap());
        assert!((20..25).contains(&ran.as_secs()), "it ended after {} s", ran.as_secs());
    });
}

#[test]
fn a_job_that_goes_after_its_time() {
    for seconds in [0, 10] {
        let plan = job(1, json!({ "ttlSecondsAfterFinished": seconds }));
        tell("time to live", &Scenario::story(vec![plan], vec![]), &nothing_is_left);
    }
}

#[test]
fn run_again_when_its_time_is_over() {
    for wait_ms in (9_900..10_100).step_by(4) {
        for seed in 0..4 {
            let plan = job(1, json!({ "ttlSecondsAfterFinished": 10 }));
            let rerun = (When::In(0, JobState::Complete, wait_ms), Act::Rerun(0, 1));
            let scenario = Scenario {
                seed,
                ..Scenario::story(vec![plan], vec![rerun])
            };
            // Either it was gone before, or it runs again and goes after that.
            tell_once("run again when its time is over", &scenario, &nothing_is_left);
        }
    }
}

#[test]
fn deleted_in_every_state() {
    let mut plan = job(2, json!({ "executors": { "min": 2 } }));
    plan.ticks = 4;
    let suspend = (When::Runs(0, 1), Act::Suspend(0, true));
    let quota = (When::At(0), Act::Quota(Some(0)));
    for foreground in [false, true] {
        let delete = Act::Delete { job: 0, foreground };
        for acts in [
            vec![(When::At(0), delete)],
            vec![(When::At(50), delete)],
            vec![(When::At(150), delete)],
            vec![(When::At(300), delete)],
            vec![(When::At(1_000), delete)],
            vec![quota, (When::At(5_000), delete)],
            vec![(When::Runs(0, 1), delete)],
            vec![(When::In(0, JobState::Running, 0), delete)],
            vec![(When::Committed(0, 1), delete)],
            vec![(When::Committed(0, 2), delete)],
            vec![suspend, (When::In(0, JobState::Suspended, 0), delete)],
            vec![suspend, (When::In(0, JobState::Suspended, 60_000), delete)],
            vec![(When::In(0, JobState::Complete, 0), delete)],
            vec![(When::In(0, JobState::Complete, 60_000), delete)],
        ] {
            tell("deleted", &Scenario::story(vec![plan.clone()], acts), &nothing_is_left);
        }
    }
}

#[test]
fn run_again() {
    let mut plan = job(2, json!({ "executors": { "min": 2 } }));
    plan.ticks = 4;
    let rerun = Act::Rerun(0, 1);
    for when in [
        When::At(100),
        When::At(400),
        When::Runs(0, 1),
        When::Committed(0, 1),
        When::Committed(0, 2),
        When::In(0, JobState::Complete, 0),
        When::In(0, JobState::Complete, 60_000),
    ] {
        let scenario = Scenario::story(vec![plan.clone()], vec![(when, rerun)]);
        tell("run again", &scenario, &|world| {
            let status = is_complete(world);
            assert_eq!(status.rerun_nonce.as_deref(), Some("r1"), "nonce");
            assert_eq!(status.driver.attempt, 1, "drivers");
        });
    }
}

#[test]
fn run_again_with_nonces_that_were_there_before() {
    let plan = job(1, json!({}));
    let nonces = [1, 2, 1, 0, 1];
    let acts = (1..)
        .zip(nonces)
        .map(|(time, nonce)| (When::At(time * 100_000), Act::Rerun(0, nonce)));
    let scenario = Scenario::story(vec![plan], acts.collect());
    tell("nonces used again", &scenario, &|world| {
        let status = is_complete(world);
        assert_eq!(status.runs as usize, nonces.len() + 1, "runs");
        let ran = world.destination.runs_committed();
        assert_eq!(ran, nonces.len() + 1, "runs that committed something");
    });
}

#[test]
fn replaced_by_one_of_the_same_name() {
    let mut plan = job(2, json!({ "executors": { "min": 2 } }));
    plan.ticks = 4;
    for when in [
        When::At(100),
        When::Runs(0, 1),
        When::Committed(0, 2),
        When::In(0, JobState::Complete, 0),
    ] {
        for seed in 0..3 {
            let scenario = Scenario {
                seed,
                ..Scenario::story(vec![plan.clone()], vec![(when, Act::Replace(0))])
            };
            tell("replaced", &scenario, &|world| {
                let status = is_complete(world);
                assert_eq!(
                    (status.driver.attempt, status.retries.infrastructure),
                    (1, 0),
                    "drivers and charges"
                );
            });
        }
    }
}

#[test]
fn an_api_server_that_is_away() {
    let mut plan = job(3, json!({ "executors": { "min": 2 } }));
    plan.ticks = 10;
    for acts in [
        vec![(When::At(0), Act::ApiAway(40_000))],
        vec![(When::Runs(0, 1), Act::ApiAway(40_000))],
        vec![
            (When::Committed(0, 3), Act::ApiAway(600_000)),
            (When::Committed(0, 3), Act::WatchesAnew),
        ],
    ] {
        tell(
            "API server away",
            &Scenario::story(vec![plan.clone()], acts),
            &|world| {
                let status = is_complete(world);
                assert_eq!(status.driver.attempt, 1, "drivers");
                assert!(world.check.objects <= 5, "objects");
            },
        );
    }
}

#[test]
fn statements_that_come_later() {
    let plan = job(
        1,
        json!({ "sqlFrom": { "configMapKeyRef": { "name": "queries", "key": "sql" } } }),
    );
    let missing = Scenario {
        end_ms: 20_000,
        rests: false,
        ..Scenario::story(vec![plan.clone()], vec![])
    };
    tell("no ConfigMap", &missing, &|world| {
        let status = status(world);
        let accepted = &status.conditions[0];
        assert_eq!(
            (accepted.kind, &*accepted.reason),
            (ConditionType::Accepted, "SqlNotFound")
        );
        assert!(world.store.pods.is_empty(), "pods");
        assert_eq!(world.check.status_writes, 1, "it is said once");
    });
    let comes = (When::At(20_000), Act::ConfigMap(true));
    tell(
        "a ConfigMap that comes later",
        &Scenario::story(vec![plan], vec![comes]),
        &|world| {
            is_complete(world);
        },
    );
}

#[test]
fn two_operators() {
    let mut plan = job(3, json!({ "executors": { "min": 3 } }));
    plan.ticks = 4;
    for seed in 0..30 {
        let acts = vec![
            (When::At(0), Act::SecondOperator),
            (When::Committed(0, 1), Act::Evict(0, Whose::Driver)),
            (When::Committed(0, 2), Act::FirstOperatorStops),
        ];
        let scenario = Scenario {
            seed,
            ..Scenario::story(vec![plan.clone()], acts)
        };
        tell_once("two operators", &scenario, &|world| {
            let status = is_complete(world);
            assert_eq!(status.driver.attempt, 2, "drivers");
            assert!(status.executors.highest <= 6, "executors");
        });
    }
}

#[test]
fn a_driver_that_gives_up() {
    let mut plan = job(2, json!({}));
    plan.fates.insert(1, (1, Fate::Fail));
    tell("the job fails", &Scenario::story(vec![plan], vec![]), &|world| {
        let status = has_failed(world, Reason::JobFailed);
        assert_eq!(
            status.last_error.map(|error| error.code).as_deref(),
            Some("SQL-EXECUTION")
        );
        assert_eq!(status.driver.attempt, 1, "drivers");
    });
}

#[test]
fn drivers_that_crash() {
    let mut plan = job(2, json!({ "retries": { "application": 2 } }));
    plan.fates = (1..=2).map(|generation| (generation, (1, Fate::Crash(101)))).collect();
    tell("two crashes", &Scenario::story(vec![plan.clone()], vec![]), &|world| {
        let status = is_complete(world);
        assert_eq!(
            (status.retries.application, status.retries.infrastructure),
            (2, 0),
            "charges"
        );
    });
    plan.fates.insert(3, (1, Fate::Crash(139)));
    tell("three crashes", &Scenario::story(vec![plan], vec![]), &|world| {
        let status = has_failed(world, Reason::ApplicationRetriesExhausted);
        assert_eq!(status.driver.attempt, 3, "drivers");
    });
}

#[test]
fn an_evicted_driver_that_fails_over_it() {
    for fate in [Fate::FailWhenTold, Fate::CrashWhenTold, Fate::Hang] {
        let mut plan = job(3, json!({}));
        plan.ticks = 4;
        plan.fates.insert(1, (0, fate));
        let acts = vec![(When::Committed(0, 1), Act::Evict(0, Whose::Driver))];
        tell_once("evicted", &Scenario::story(vec![plan], acts), &|world| {
            let status = is_complete(world);
            assert_eq!(
                (status.retries.application, status.retries.infrastructure),
                (0, 1),
                "charges"
            );
        });
    }
}

#[test]
fn a_name_that_somebody_else_has() {
    let taken = (When::At(0), Act::TakeName(0));
    let scenario = Scenario::story(vec![job(2, json!({}))], vec![taken]);
    tell("a name that is taken", &scenario, &|world| {
        let status = is_complete(world);
        assert_eq!(status.driver.attempt, 2, "drivers");
    });
}

#[test]
fn an_image_that_is_mended() {
    let plan = job(2, json!({ "executors": { "min": 2 }, "image": NO_IMAGE }));
    let mended = (When::At(20_000), Act::MendImage(0));
    tell(
        "an image mended",
        &Scenario::story(vec![plan], vec![mended]),
        &|world| {
            let status = is_complete(world);
            assert_eq!((status.driver.attempt, status.driver.charged), (2, 2), "drivers");
            let charges = (status.retries.infrastructure, status.retries.application);
            assert_eq!((charges, status.executors.lost), ((0, 0), 0), "charges");
        },
    );
}

#[test]
fn volumes_go_with_the_pods_that_have_them() {
    let scratch = json!({ "size": "1Gi", "storageClassName": "fast" });
    let spec = json!({ "executors": { "min": 2, "scratch": scratch }, "driver": { "scratch": scratch } });
    let mut plan = job(3, spec);
    plan.bad_executors = 3;
    tell("volumes", &Scenario::story(vec![plan], vec![]), &|world| {
        is_complete(world);
        assert!(world.store.pods.is_empty(), "pods are left");
    });
}

#[test]
fn a_service_that_somebody_removes() {
    let mut plan = job(3, json!({ "executors": { "min": 2 } }));
    plan.ticks = 20;
    let acts = vec![
        (When::Committed(0, 1), Act::LoseService(0)),
        (When::At(40_000), Act::Evict(0, Whose::Executor)),
        (When::At(45_000), Act::Evict(0, Whose::Executor)),
    ];
    tell("a Service removed", &Scenario::story(vec![plan], acts), &|world| {
        let status = is_complete(world);
        assert_eq!(status.driver.attempt, 1, "drivers");
        assert!(!world.store.services.is_empty(), "the Service is there again");
    });
}

#[test]
fn counters_of_a_healthy_driver() {
    let mut plan = job(4, json!({ "retries": { "application": 1, "resetAfter": "10s" } }));
    plan.ticks = 12;
    plan.fates = (1..=4)
        .map(|generation| (generation, (u32::try_from(generation).unwrap(), Fate::Crash(101))))
        .collect();
    tell(
        "crashes far from each other",
        &Scenario::story(vec![plan], vec![]),
        &|world| {
            let status = is_complete(world);
            assert_eq!(
                (status.driver.attempt, status.retries.application),
                (5, 1),
                "drivers and charges"
            );
        },
    );
}

#[test]
fn a_machine_short_of_disk() {
    for whose in [Whose::Driver, Whose::Executor] {
        for seed in 0..6 {
            let mut plan = job(2, json!({}));
            plan.ticks = 6;
            let pressure = (When::Committed(0, 1), Act::Pressure(0, whose));
            let scenario = Scenario {
                seed,
                ..Scenario::story(vec![plan], vec![pressure])
            };
            tell("disk pressure", &scenario, &|world| {
                let status = is_complete(world);
                assert_eq!(
                    (status.retries.application, status.executors.crashed),
                    (0, 0),
                    "charges"
                );
                assert_eq!(
                    status.retries.infrastructure + status.executors.lost,
                    1,
                    "charges of machines"
                );
            });
        }
    }
}

#[test]
fn crashes_while_nobody_looks() {
    let mut plan = job(2, json!({ "retries": { "application": 1, "resetAfter": "60s" } }));
    plan.fates = (1..=3).map(|generation| (generation, (1, Fate::Crash(101)))).collect();
    let away = (When::Runs(0, 2), Act::ApiAway(100_000));
    tell_once("crashes unseen", &Scenario::story(vec![plan], vec![away]), &|world| {
        let status = has_failed(world, Reason::ApplicationRetriesExhausted);
        assert_eq!(status.driver.attempt, 2, "drivers");
    });
}
