//! The cluster as a whole: a clock, an agenda of what happens when, and what befalls it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use trireme_operator::names::{PodRole, label as labels};
use trireme_spec::report::JobReport;

use crate::check::{Cause, Checker};
use crate::dice::Dice;
use crate::engine::Destination;
use crate::kubelet::{Exit, Health, MACHINES, Machines};
use crate::scenario::{Act, Scenario, When, Whose};
use crate::store::{NAMESPACE, Store};

/// 2026-11-26, so that certificates have a time to be valid at.
const BEGIN_MS: i64 = 1_795_651_200_000;

pub(crate) fn timestamp(now_ms: i64) -> Timestamp {
    Timestamp::from_millisecond(BEGIN_MS + now_ms).expect("a simulation is short")
}

pub(crate) fn milliseconds(time: Timestamp) -> i64 {
    time.as_millisecond() - BEGIN_MS
}

/// What is on the agenda.
pub(crate) enum Happening {
    // Of the machines.
    Schedule(String),
    Start(String),
    Probe(String),
    Exit(String, Box<Exit>),
    Sync(String),
    Terminate(String),
    Kill(String),
    Reap(String),
    Tick(String),
    Taint {
        machine: usize,
        trouble: u32,
    },
    Renewed {
        machine: usize,
    },
    // Of the API server.
    CollectGarbage,
    Late(Box<dyn FnOnce(&mut World) + Send>),
    Act(Act),
    // Of an operator.
    Begin,
    Deliver {
        process: u64,
        kind: Kind,
    },
    Report {
        process: u64,
        uid: String,
        report: Box<JobReport>,
    },
    Go {
        process: u64,
    },
    Wake {
        process: u64,
    },
}

/// What a watch is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Jobs,
    Pods,
}

/// What operators are to do, said by what happens in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    WatchAnew,
    Die,
    AnotherBegins,
    OldestStops,
}

pub(crate) struct World {
    pub(crate) now_ms: i64,
    pub(crate) dice: Dice,
    pub(crate) scenario: Scenario,
    pub(crate) store: Store,
    pub(crate) machines: Machines,
    pub(crate) destination: Destination,
    pub(crate) check: Checker,
    agenda: BTreeMap<(i64, u64), Happening>,
    pub(crate) order: u64,
    /// Acts that wait for something else than a time.
    waiting: Vec<(When, Act)>,
    pub(crate) orders: Vec<Order>,
    /// Operators that are there.
    pub(crate) followers: Vec<u64>,
    pub(crate) quota: Option<usize>,
    pub(crate) policy: bool,
    pub(crate) away_until_ms: i64,
    /// Pods by name whose making takes that long.
    pub(crate) made_late: BTreeMap<String, u64>,
    garbage_due: bool,
    trace: Option<Vec<String>>,
}

impl World {
    pub(crate) fn new(scenario: Scenario, traced: bool) -> World {
        let mut world = World {
            now_ms: 0,
            dice: Dice::new(scenario.seed.wrapping_add(1 << 40)),
            store: Store::default(),
            machines: Machines::default(),
            destination: Destination::default(),
            check: Checker::default(),
            agenda: BTreeMap::new(),
            order: 0,
            waiting: Vec::new(),
            orders: Vec::new(),
            followers: Vec::new(),
            quota: None,
            policy: false,
            away_until_ms: 0,
            made_late: BTreeMap::new(),
            garbage_due: false,
            trace: traced.then(Vec::new),
            scenario,
        };
        for job in world.scenario.jobs.clone() {
            world.store.create_job(job.name, job.spec, 0);
        }
        for (when, act) in world.scenario.acts.clone() {
            match when {
                When::At(at_ms) => world.at(at_ms, Happening::Act(act)),
                _ => world.waiting.push((when, act)),
            }
        }
        world
    }

    /// A line of the trace, if there is one.
    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let line = format!("{:>9.3} {}", self.now_ms as f64 / 1000.0, line());
            trace.push(line);
        }
    }

    pub(crate) fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default()
    }

    pub(crate) fn at(&mut self, at_ms: i64, what: Happening) {
        self.order += 1;
        self.agenda.insert((at_ms.max(self.now_ms), self.order), what);
    }

    pub(crate) fn later(&mut self, wait_ms: u64, what: Happening) {
        self.at(self.now_ms + wait_ms as i64, what);
    }

    /// Whether a fault of that chance befalls now.
    pub(crate) fn trouble(&mut self, percent: u64) -> bool {
        percent > 0 && self.now_ms < self.scenario.chaos.until_ms && self.dice.percent(percent)
    }

    /// The next thing on the agenda, and the time goes on to it.
    pub(crate) fn next(&mut self) -> Option<Happening> {
        let ((at_ms, _), happening) = self.agenda.pop_first()?;
        self.now_ms = at_ms;
        Some(happening)
    }

    pub(crate) fn next_ms(&self) -> Option<i64> {
        self.agenda.first_key_value().map(|((at_ms, _), _)| *at_ms)
    }

    /// What happens outside of operators.
    pub(crate) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Schedule(uid) => self.schedule(&uid),
            Happening::Start(uid) => self.start(&uid),
            Happening::Probe(uid) => self.probe(&uid),
            Happening::Exit(uid, exit) => self.exit(&uid, *exit),
            Happening::Sync(uid) => self.sync(&uid),
            Happening::Terminate(uid) => self.terminate(&uid),
            Happening::Kill(uid) => self.exit(&uid, Exit::killed()),
            Happening::Reap(uid) => {
                if self.machines.is_heard(&uid) {
                    self.store.remove_pod(&uid);
                }
            }
            Happening::Tick(uid) => self.tick(&uid),
            Happening::Taint { machine, trouble } => self.taint(machine, trouble),
            Happening::Renewed { machine } => self.renewed(machine),
            Happening::CollectGarbage => self.collect_garbage(),
            Happening::Late(request) => request(self),
            Happening::Act(act) => self.act(act),
            Happening::Begin
            | Happening::Deliver { .. }
            | Happening::Report { .. }
            | Happening::Go { .. }
            | Happening::Wake { .. } => unreachable!("operators do that"),
        }
    }

    /// Puts acts on the agenda whose time has come.
    pub(crate) fn look_at_acts(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        for (when, act) in std::mem::take(&mut self.waiting) {
            match self.is_so(when) {
                Some(wait_ms) => self.later(wait_ms as u64, Happening::Act(act)),
                None => self.waiting.push((when, act)),
            }
        }
    }

    fn is_so(&self, when: When) -> Option<i64> {
        let name = |job: usize| self.scenario.jobs[job].name;
        let (holds, wait_ms) = match when {
            When::At(_) => (true, 0),
            When::Committed(job, count) => {
                let run = self.run_of(name(job))?;
                (self.destination.committed(&run) >= count, 0)
            }
            When::Runs(job, number) => {
                let mut containers = self.machines.containers.values();
                let runs = containers.any(|container| {
                    container.job == job
                        && container.role == PodRole::Driver
                        && container.number >= number
                        && self.machines.runs(&container.uid)
                });
                (runs, 0)
            }
            When::In(job, state, wait_ms) => {
                let status = self.store.jobs.get(name(job))?.status.as_ref()?;
                (status.state == Some(state), wait_ms)
            }
        };
        holds.then_some(wait_ms)
    }

    /// The run that a job asks for.
    pub(crate) fn run_of(&self, name: &str) -> Option<String> {
        let job = self.store.jobs.get(name)?;
        let uid = job.metadata.uid.clone()?;
        let status = job.status.clone().unwrap_or_default();
        Some(match status.run {
            None => uid,
            Some(run) if status.rerun_nonce == job.spec.rerun_nonce => run,
            Some(_) => format!("{uid}-{}", status.runs + 1),
        })
    }

    fn act(&mut self, act: Act) {
        self.say(|| format!("ACT {act:?}"));
        self.check.acted(act, self.now_ms);
        let name = |world: &World, job: usize| world.scenario.jobs[job].name;
        match act {
            Act::Suspend(job, suspend) => self.change(name(self, job), |spec| spec.suspend = suspend),
            Act::Scale(job, count) => self.change(name(self, job), |spec| spec.executors.min = count),
            Act::MendImage(job) => self.change(name(self, job), |spec| spec.image = Some("trireme:mended".to_owned())),
            Act::Rerun(job, nonce) => self.change(name(self, job), |spec| {
                spec.rerun_nonce = (nonce > 0).then(|| format!("r{nonce}"));
            }),
            Act::Delete { job, foreground } => self.delete_job(name(self, job), foreground),
            Act::Replace(job) => {
                let plan = self.scenario.jobs[job].clone();
                self.delete_job(plan.name, false);
                self.store.create_job(plan.name, plan.spec, self.now_ms);
            }
            Act::MachineDies(job, whose) => self.on_machine(job, whose, |world, machine| {
                world.machine_leaves(machine, Health::Dead);
            }),
            Act::MachineCutOff(job, whose) => self.on_machine(job, whose, |world, machine| {
                world.machine_leaves(machine, Health::CutOff);
            }),
            Act::MachineDrained(job, whose) => self.on_machine(job, whose, World::drain),
            Act::MachinesBack => {
                for machine in 0..MACHINES {
                    if self.machines.all[machine].health != Health::Well {
                        self.machine_returns(machine);
                    }
                }
            }
            Act::MachinesStruckOff => {
                for machine in 0..MACHINES {
                    match self.machines.all[machine].health {
                        Health::Well => {}
                        Health::Cordoned => self.machine_returns(machine),
                        Health::CutOff | Health::Dead => self.machine_struck_off(machine),
                    }
                }
            }
            Act::Evict(job, whose) => self.on_pod(job, whose, |world, uid| world.evict(uid, "EvictionByEvictionAPI")),
            Act::Preempt(job, whose) => {
                self.on_pod(job, whose, |world, uid| world.evict(uid, "PreemptionByScheduler"));
            }
            Act::Pressure(job, whose) => self.on_pod(job, whose, World::pressure),
            Act::Kill(job, whose) => self.on_pod(job, whose, |world, uid| {
                if world.machines.runs(uid) {
                    world.check.blame(uid, Cause::Infrastructure);
                    world.exit(uid, Exit::killed());
                }
            }),
            Act::DeletePod(job, whose) => self.on_pod(job, whose, |world, uid| {
                world.check.blame(uid, Cause::Infrastructure);
                world.delete_pod(uid);
            }),
            Act::TakeName(job) => {
                let name = trireme_operator::names::pod(name(self, job), PodRole::Driver, 1);
                self.take_name(&name);
            }
            Act::LoseService(job) => {
                let service = trireme_operator::names::service(name(self, job));
                self.store.services.remove(&service);
            }
            Act::Quota(quota) => self.quota = quota,
            Act::Policy(policy) => self.policy = policy,
            Act::Images(images) => self.machines.images = images,
            Act::ConfigMap(there) => {
                let data = there.then(|| BTreeMap::from([("sql".to_owned(), "SELECT 1".to_owned())]));
                let map = ConfigMap {
                    data,
                    ..ConfigMap::default()
                };
                self.store.config_maps.insert("queries".to_owned(), map);
            }
            Act::ApiAway(wait_ms) => self.away_until_ms = self.now_ms + wait_ms,
            Act::MadeLate { job, number, wait_ms } => {
                let name = trireme_operator::names::pod(name(self, job), PodRole::Executor, number);
                self.made_late.insert(name, wait_ms);
            }
            Act::WatchesAnew => self.orders.push(Order::WatchAnew),
            Act::OperatorDies => self.orders.push(Order::Die),
            Act::SecondOperator => self.orders.push(Order::AnotherBegins),
            Act::FirstOperatorStops => self.orders.push(Order::OldestStops),
        }
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut trireme_spec::batch_job::BatchJobSpec)) {
        self.store.change_spec(name, change);
        if let Some(job) = self.store.jobs.get(name) {
            self.check.asked(job, self.now_ms);
        }
    }

    pub(crate) fn delete_job(&mut self, name: &str, foreground: bool) {
        self.store.delete_job(name, foreground, self.now_ms);
        self.garbage();
    }

    /// Somebody who has nothing to do with jobs makes a pod, if the name is free.
    pub(crate) fn take_name(&mut self, pod: &str) {
        let metadata = ObjectMeta {
            name: Some(pod.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        };
        let pod = Pod {
            metadata,
            ..Pod::default()
        };
        _ = self.store.create_pod(&pod, self.now_ms);
    }

    fn on_pod(&mut self, job: usize, whose: Whose, act: impl FnOnce(&mut World, &str)) {
        if let Some(uid) = self.some_pod(job, whose) {
            self.say(|| format!("it befalls {uid}"));
            act(self, &uid);
        }
    }

    fn on_machine(&mut self, job: usize, whose: Whose, act: impl FnOnce(&mut World, usize)) {
        if let Some(machine) = self.machine_of(job, whose) {
            act(self, machine);
        }
    }

    /// The collector comes in a while.
    pub(crate) fn garbage(&mut self) {
        if !self.garbage_due {
            self.garbage_due = true;
            let wait = self.dice.between(50, 2_000);
            self.later(wait, Happening::CollectGarbage);
        }
    }

    fn collect_garbage(&mut self) {
        self.garbage_due = false;
        let store = &mut self.store;
        let pods: Vec<String> = store
            .pods
            .values()
            .filter(|pod| store.is_orphan(&pod.metadata))
            .filter_map(|pod| pod.metadata.uid.clone())
            .collect();
        let secrets = store
            .secrets
            .values()
            .filter(|secret| store.is_orphan(&secret.metadata));
        for name in secrets
            .filter_map(|secret| secret.metadata.name.clone())
            .collect::<Vec<_>>()
        {
            store.secrets.remove(&name);
        }
        let services = store
            .services
            .values()
            .filter(|service| store.is_orphan(&service.metadata));
        for name in services
            .filter_map(|service| service.metadata.name.clone())
            .collect::<Vec<_>>()
        {
            store.services.remove(&name);
        }
        for uid in pods {
            self.check.blame(&uid, Cause::Ours);
            self.delete_pod(&uid);
        }
        let marked = self
            .store
            .jobs
            .values()
            .filter(|job| job.metadata.deletion_timestamp.is_some());
        for name in marked.filter_map(|job| job.metadata.name.clone()).collect::<Vec<_>>() {
            self.store.delete_job(&name, false, self.now_ms);
        }
    }

    pub(crate) fn job_index(&self, name: &str) -> usize {
        let mut jobs = self.scenario.jobs.iter();
        jobs.position(|job| job.name == name).expect("no other jobs are there")
    }

    pub(crate) fn pods_of(&self, name: &str) -> Vec<&Pod> {
        let pods = self.store.pods.values();
        pods.filter(|pod| crate::store::label(pod, labels::JOB) == name)
            .collect()
    }
}

pub(crate) fn key(name: &str) -> trireme_operator::names::JobKey {
    trireme_operator::names::JobKey {
        namespace: NAMESPACE.to_owned(),
        name: name.to_owned(),
    }
}
