//! What runs in the pods, as far as the operator can tell: drivers that commit one statement after the other, executors
//! without which they get nowhere, and the destination, which takes each commit once and none of a driver that was replaced.

use std::collections::BTreeMap;

use trireme_operator::names::{PodRole, label as labels, service};
use trireme_spec::ids::{Generation, JobName};
use trireme_spec::problem::{ErrorCode, Problem};
use trireme_spec::report::{JobReport, Phase};

use crate::check::Cause;
use crate::kubelet::{Exit, Life};
use crate::scenario::Fate;
use crate::world::{Happening, World};

/// A driver without any executor gives up after this long; a real one after a day, which would never be met. Longer than any
/// waits for room.
const NO_EXECUTORS_MS: i64 = 100_000;

/// How long a driver lingers that is done. No job here has so much time.
const LINGER_MS: u64 = 60_000;

/// What is committed, by run.
#[derive(Default)]
pub(crate) struct Destination {
    runs: BTreeMap<String, Committed>,
}

#[derive(Default)]
struct Committed {
    /// The highest generation that has said that it is the driver.
    claimed: u64,
    statements: u32,
}

impl Destination {
    fn claim(&mut self, run: &str, generation: u64) -> Option<u32> {
        let run = self.runs.entry(run.to_owned()).or_default();
        run.claimed = run.claimed.max(generation);
        (run.claimed == generation).then_some(run.statements)
    }

    /// Commits one statement; refused if a newer driver has claimed the run.
    fn commit(&mut self, run: &str, generation: u64, statement: u32) -> bool {
        let run = self.runs.entry(run.to_owned()).or_default();
        let newest = run.claimed == generation;
        if newest {
            assert_eq!(
                run.statements, statement,
                "a statement is committed twice, or one is left out"
            );
            run.statements += 1;
        }
        newest
    }

    /// How many runs have committed something.
    pub(crate) fn runs_committed(&self) -> usize {
        self.runs.values().filter(|run| run.statements > 0).count()
    }

    pub(crate) fn committed(&self, run: &str) -> u32 {
        self.runs.get(run).map_or(0, |run| run.statements)
    }
}

#[derive(Default)]
pub(crate) struct Driver {
    claimed: bool,
    pub(crate) report: Option<JobReport>,
    ticks_left: u32,
    idle_since_ms: i64,
    pub(crate) said_failed: bool,
}

#[derive(Default)]
pub(crate) struct Executor {
    /// The driver that it works for.
    attached: Option<String>,
    bad: bool,
}

impl World {
    /// A process begins.
    pub(crate) fn begin(&mut self, uid: &str) {
        let container = &self.machines.containers[uid];
        let plan = &self.scenario.jobs[container.job];
        match container.role {
            PodRole::Driver => {
                let report = JobReport::starting(
                    JobName::new(plan.name).expect("names of tests are names"),
                    Generation(u64::from(container.number)),
                    plan.statements,
                );
                let ticks_left = plan.ticks;
                let idle_since_ms = self.now_ms;
                let container = self.machines.containers.get_mut(uid).expect("it begins");
                container.driver.report = Some(report);
                container.driver.ticks_left = ticks_left;
                container.driver.idle_since_ms = idle_since_ms;
            }
            PodRole::Executor => {
                let bad = container.number <= plan.bad_executors;
                self.machines.containers.get_mut(uid).expect("it begins").executor.bad = bad;
            }
        }
        let wait = self.dice.between(200, 1_200);
        self.later(wait, Happening::Tick(uid.to_owned()));
    }

    /// What a probe of readiness is told.
    pub(crate) fn is_ready(&self, uid: &str) -> Option<bool> {
        let container = self.machines.containers.get(uid)?;
        Some(match container.role {
            PodRole::Driver => container.driver.claimed,
            PodRole::Executor => container.executor.attached.is_some(),
        })
    }

    /// A process does its next step.
    pub(crate) fn tick(&mut self, uid: &str) {
        if !self.machines.runs(uid) || self.machines.containers[uid].told_to_end {
            return;
        }
        let goes_on = match self.machines.containers[uid].role {
            PodRole::Driver => self.tick_driver(uid),
            PodRole::Executor => self.tick_executor(uid),
        };
        if goes_on {
            let wait = self.dice.between(300, 1_500);
            self.later(wait, Happening::Tick(uid.to_owned()));
        }
    }

    fn tick_driver(&mut self, uid: &str) -> bool {
        let container = &self.machines.containers[uid];
        let (run, generation) = (container.run.clone(), u64::from(container.number));
        if !container.driver.claimed {
            let Some(done) = self.destination.claim(&run, generation) else {
                self.check.meet("replaced before it began");
                return self.end_driver(uid, Some(&replaced()));
            };
            let driver = &mut self.machines.containers.get_mut(uid).expect("it ticks").driver;
            driver.claimed = true;
            driver.report.as_mut().expect("it began").statements_done = done;
            self.later(300, Happening::Probe(uid.to_owned()));
            self.tell(uid);
            return true;
        }
        let plan = &self.scenario.jobs[container.job];
        let (needs, fate, total) = (plan.driver_needs, plan.fates.get(&generation).copied(), plan.statements);
        let ticks = plan.ticks;
        let report = container.driver.report.as_ref().expect("it began");
        let done = report.statements_done;
        if done < total && needs.get() > container.memory_bytes {
            self.check.blame(uid, Cause::Memory);
            self.check.meet("driver out of memory");
            self.exit(uid, out_of_memory());
            return false;
        }
        match fate {
            Some((at, Fate::Crash(code))) if at == done => {
                self.check.blame(uid, Cause::Application);
                self.check.meet("driver crashed");
                self.exit(uid, panicked(code));
                return false;
            }
            Some((at, Fate::Fail)) if at == done => {
                self.check.meet("driver failed");
                return self.end_driver(uid, Some(&Problem::new(ErrorCode::SqlExecution, "division by zero")));
            }
            _ => {}
        }
        if done == total {
            return self.end_driver(uid, None);
        }
        let container = &self.machines.containers[uid];
        let helpers = self
            .machines
            .containers
            .values()
            .filter(|other| other.life == Life::Running && other.executor.attached.as_deref() == Some(uid));
        if helpers.count() == 0 {
            if self.now_ms - container.driver.idle_since_ms > NO_EXECUTORS_MS {
                self.check.meet("driver without executors");
                return self.end_driver(uid, Some(&Problem::new(ErrorCode::LimitNoExecutors, "no executors")));
            }
            return true;
        }
        let now_ms = self.now_ms;
        let driver = &mut self.machines.containers.get_mut(uid).expect("it ticks").driver;
        driver.idle_since_ms = now_ms;
        let report = driver.report.as_mut().expect("it began");
        if report.phase == Phase::Starting {
            report.phase = Phase::Running;
            self.tell(uid);
            return true;
        }
        driver.ticks_left -= 1;
        if driver.ticks_left > 0 {
            return true;
        }
        driver.ticks_left = ticks;
        if !self.destination.commit(&run, generation, done) {
            self.check.meet("replaced at a commit");
            return self.end_driver(uid, Some(&replaced()));
        }
        self.say(|| format!("generation {generation} of {run} commits statement {done}"));
        let driver = &mut self.machines.containers.get_mut(uid).expect("it ticks").driver;
        driver.report.as_mut().expect("it began").statements_done = done + 1;
        self.tell(uid);
        true
    }

    /// The driver says how it ended, by wire and by its last words.
    fn end_driver(&mut self, uid: &str, problem: Option<&Problem>) -> bool {
        let driver = &mut self.machines.containers.get_mut(uid).expect("it ends").driver;
        let report = driver.report.as_mut().expect("it began");
        report.end(problem);
        driver.said_failed = report.phase == Phase::Failed;
        let cause = match report.phase {
            Phase::Succeeded | Phase::Failed => Cause::Done,
            // Told to, or replaced, which is nobody's fault but the machines'.
            _ => Cause::Infrastructure,
        };
        let code = match report.phase {
            Phase::Succeeded => 0,
            Phase::Cancelled => 130,
            _ => 1,
        };
        let message = Some(report.to_json_within(4096));
        let reason = if code == 0 { "Completed" } else { "Error" };
        let done = report.phase == Phase::Succeeded;
        self.check.blame(uid, cause);
        self.tell(uid);
        if done {
            self.send_home(uid);
        }
        let container = &self.machines.containers[uid];
        let fates = &self.scenario.jobs[container.job].fates;
        let wait = match fates.get(&u64::from(container.number)) {
            Some((_, Fate::Linger)) => LINGER_MS,
            _ => self.dice.between(50, 1_500),
        };
        let exit = Exit {
            code,
            reason,
            message,
            at_ms: 0,
        };
        self.later(wait, Happening::Exit(uid.to_owned(), Box::new(exit)));
        false
    }

    fn tick_executor(&mut self, uid: &str) -> bool {
        let container = &self.machines.containers[uid];
        let plan = &self.scenario.jobs[container.job];
        let attached = container.executor.attached.clone();
        match attached {
            Some(driver) if self.machines.runs(&driver) => {
                if container.executor.bad {
                    self.check.blame(uid, Cause::Application);
                    self.exit(uid, panicked(101));
                    return false;
                }
                if plan.executor_needs.get() > container.memory_bytes {
                    self.check.blame(uid, Cause::Memory);
                    self.check.meet("executor out of memory");
                    self.exit(uid, out_of_memory());
                    return false;
                }
                true
            }
            Some(_) => {
                self.machines
                    .containers
                    .get_mut(uid)
                    .expect("it ticks")
                    .executor
                    .attached = None;
                self.later(200, Happening::Probe(uid.to_owned()));
                true
            }
            None => {
                let driver = self.driver_by_service(uid);
                if driver.is_some() {
                    self.later(400, Happening::Probe(uid.to_owned()));
                }
                self.machines
                    .containers
                    .get_mut(uid)
                    .expect("it ticks")
                    .executor
                    .attached = driver;
                true
            }
        }
    }

    /// Whom the Service of its job leads to.
    fn driver_by_service(&self, uid: &str) -> Option<String> {
        let own = &self.machines.containers[uid];
        let service = self.store.services.get(&service(self.scenario.jobs[own.job].name))?;
        let selector = service.spec.as_ref()?.selector.as_ref()?;
        let number: u32 = selector.get(labels::NUMBER)?.parse().ok()?;
        let mut drivers = self.machines.containers.values().filter(|other| {
            other.role == PodRole::Driver && other.run == own.run && other.number == number && other.driver.claimed
        });
        let driver = drivers.find(|driver| driver.life == Life::Running)?;
        Some(driver.uid.clone())
    }

    /// SIGTERM.
    pub(crate) fn tell_to_end(&mut self, uid: &str) {
        let container = &self.machines.containers[uid];
        let plan = &self.scenario.jobs[container.job];
        match container.role {
            PodRole::Driver => {
                if container
                    .driver
                    .report
                    .as_ref()
                    .is_some_and(|report| report.phase.is_terminal())
                {
                    return;
                }
                let fate = plan.fates.get(&u64::from(container.number)).map(|(_, fate)| *fate);
                match fate {
                    Some(Fate::Hang) => {}
                    Some(Fate::CrashWhenTold) => self.exit(uid, panicked(101)),
                    Some(Fate::FailWhenTold) => {
                        let problem = Problem::new(ErrorCode::NetworkUnreachable, "the executors went away");
                        _ = self.end_driver(uid, Some(&problem));
                    }
                    _ => {
                        let problem = Problem::new(ErrorCode::Cancelled, "the job was told to end");
                        _ = self.end_driver(uid, Some(&problem));
                    }
                }
            }
            PodRole::Executor => {
                let wait = self.dice.between(50, 5_000);
                // Some fail over what is taken from them.
                let exit = if self.dice.percent(10) { panicked(101) } else { left() };
                self.later(wait, Happening::Exit(uid.to_owned(), Box::new(exit)));
            }
        }
    }

    /// A driver that is done sends its executors home.
    fn send_home(&mut self, uid: &str) {
        let attached = self
            .machines
            .containers
            .values()
            .filter(|other| other.life == Life::Running && other.executor.attached.as_deref() == Some(uid));
        for executor in attached.map(|other| other.uid.clone()).collect::<Vec<_>>() {
            self.check.blame(&executor, Cause::Done);
            let wait = self.dice.between(50, 2_000);
            self.later(wait, Happening::Exit(executor, Box::new(left())));
        }
    }

    /// What a driver has to say goes to whoever follows it.
    fn tell(&mut self, uid: &str) {
        if !self.machines.is_heard(uid) {
            return;
        }
        let report = self.machines.containers[uid].driver.report.clone();
        let Some(report) = report else { return };
        for process in self.followers.clone() {
            if self.trouble(self.scenario.chaos.unheard) {
                self.check.meet("report unheard");
                continue;
            }
            let wait = match self.dice.percent(10) {
                true => self.dice.between(300, 2_000),
                false => self.dice.between(5, 100),
            };
            let report = Box::new(report.clone());
            let uid = uid.to_owned();
            self.later(wait, Happening::Report { process, uid, report });
        }
    }
}

fn replaced() -> Problem {
    Problem::new(ErrorCode::CancelledReplaced, "a newer driver has taken over")
}

pub(crate) fn panicked(code: i32) -> Exit {
    Exit {
        code,
        reason: "Error",
        message: Some("thread 'main' panicked".to_owned()),
        at_ms: 0,
    }
}

fn out_of_memory() -> Exit {
    Exit {
        code: 137,
        reason: "OOMKilled",
        message: None,
        at_ms: 0,
    }
}

fn left() -> Exit {
    Exit {
        code: 0,
        reason: "Completed",
        message: None,
        at_ms: 0,
    }
}
