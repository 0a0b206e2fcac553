//! The world around the core: a heap of things to come, toy workers with streams that delay and break, a driver's shell
//! that does what the effects say, and faults that strike it all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trireme_batch_schedule::{
    CloseCause, Effect, Event, Failure, Limits, Millis, PartitionSize, RunId, RunPlan, Schedule, StageOutputs, TaskId,
    WorkerId,
};

use crate::check::{Checker, Met};
use crate::dice::Dice;
use crate::scenario::{BadTask, Fault, Flavour, Key, Scenario, compute};
use crate::toy::{Job, Power, Toy, Value};

const HEARTBEAT_MS: u64 = 2_000;
const TICK_MS: u64 = 1_000;
/// After the calm begins, every run is over within this time, or it hangs.
const PATIENCE_MS: u64 = 3_600_000;

pub(crate) struct World {
    scenario: Scenario,
    dice: Dice,
    now_ms: u64,
    /// Ordered by time, then by the order in which they were put in.
    to_come: BTreeMap<(u64, u64), Occurrence>,
    sequence: u64,
    schedule: Schedule,
    checker: Checker,
    toys: BTreeMap<WorkerId, Toy>,
    driver_stopped_until_ms: u64,
    /// What the driver has fetched.
    spools: BTreeMap<TaskId, Value>,
    /// What the user sees, written once.
    visible: BTreeMap<(RunId, u32), Value>,
    failed_times: BTreeMap<Key, u32>,
    steps: u64,
}

enum Occurrence {
    /// Mail for the core; `from` breaks with its stream.
    Mail {
        from: Option<WorkerId>,
        event: Event,
    },
    /// The driver tries to read a result partition.
    Fetch {
        run: RunId,
        partition: u32,
        worker: WorkerId,
        task: TaskId,
    },
    Tick,
    Order {
        to: WorkerId,
        order: Order,
    },
    /// The task opens its inputs.
    Read {
        worker: WorkerId,
        task: TaskId,
    },
    Complete {
        worker: WorkerId,
        task: TaskId,
    },
    /// The task gives up on its inputs.
    FetchTimeout {
        worker: WorkerId,
        task: TaskId,
        from: WorkerId,
        lost: TaskId,
    },
    Beat {
        worker: WorkerId,
    },
    Spawn {
        slots: u32,
    },
    Strike(Fault),
}

enum Order {
    Launch {
        task: TaskId,
        key: Key,
        inputs: Vec<Arc<StageOutputs>>,
    },
    Cancel {
        task: TaskId,
    },
    Delete {
        run: RunId,
    },
    Leave,
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let scenario = Scenario::new(seed);
        let mut world = World {
            dice: Dice::new(!seed),
            now_ms: 0,
            to_come: BTreeMap::new(),
            sequence: 0,
            schedule: Schedule::new(Limits::default()),
            checker: Checker::default(),
            toys: BTreeMap::new(),
            driver_stopped_until_ms: 0,
            spools: BTreeMap::new(),
            visible: BTreeMap::new(),
            failed_times: BTreeMap::new(),
            steps: 0,
            scenario,
        };
        world.set_out();
        world
    }

    fn set_out(&mut self) {
        self.at(0, Occurrence::Tick);
        for slots in self.scenario.workers.clone() {
            self.at(0, Occurrence::Spawn { slots });
        }
        for (at_ms, fault) in self.scenario.faults.clone() {
            self.at(at_ms, Occurrence::Strike(fault));
        }
        for slots in [1, 2] {
            self.at(self.scenario.calm_ms, Occurrence::Spawn { slots });
        }
        let mut mail = Vec::new();
        for (run, query) in &self.scenario.queries {
            let plan = RunPlan::new(query.stages.clone()).expect("scenarios are valid");
            mail.push((query.submit_ms, Event::RunSubmitted { run: *run, plan }));
            mail.extend(query.cancel_ms.map(|at_ms| (at_ms, Event::RunCancelled { run: *run })));
        }
        for (at_ms, event) in mail {
            self.at(at_ms, Occurrence::Mail { from: None, event });
        }
    }

    /// Runs until every query has ended.
    pub(crate) fn run(&mut self) {
        while self.checker.ended.len() < self.scenario.queries.len() {
            let (key, occurrence) = self.to_come.pop_first().expect("ticks never end");
            self.now_ms = key.0;
            if self.now_ms > self.scenario.calm_ms + PATIENCE_MS {
                let stuck = self
                    .scenario
                    .queries
                    .keys()
                    .map(|run| (run, self.schedule.progress(*run)));
                panic!("a run hangs: {:?}", stuck.collect::<Vec<_>>());
            }
            match self.asleep_until(&occurrence) {
                Some(until_ms) => _ = self.to_come.insert((until_ms, key.1), occurrence),
                None => self.happen(occurrence),
            }
        }
    }

    /// What was met on the way, and the number of events.
    pub(crate) fn met(self) -> (Met, u64) {
        (self.checker.met, self.steps)
    }

    fn at(&mut self, at_ms: u64, occurrence: Occurrence) {
        self.sequence += 1;
        self.to_come.insert((at_ms, self.sequence), occurrence);
    }

    fn after(&mut self, least_ms: u64, most_ms: u64, occurrence: Occurrence) {
        let at_ms = self.now_ms + self.dice.between(least_ms, most_ms);
        self.at(at_ms, occurrence);
    }

    /// When whoever this happens to is stopped: until when.
    fn asleep_until(&self, occurrence: &Occurrence) -> Option<u64> {
        let until_ms = match occurrence {
            Occurrence::Mail { .. } | Occurrence::Fetch { .. } | Occurrence::Tick => self.driver_stopped_until_ms,
            Occurrence::Order { to: worker, .. }
            | Occurrence::Read { worker, .. }
            | Occurrence::Complete { worker, .. }
            | Occurrence::FetchTimeout { worker, .. }
            | Occurrence::Beat { worker } => match self.toys[worker].power {
                Power::Stopped { until_ms } => until_ms,
                Power::Up | Power::Dead => 0,
            },
            Occurrence::Spawn { .. } | Occurrence::Strike(_) => 0,
        };
        (until_ms > self.now_ms).then_some(until_ms)
    }

    fn happen(&mut self, occurrence: Occurrence) {
        match occurrence {
            Occurrence::Mail { event, .. } => self.tell_core(event),
            Occurrence::Fetch {
                run,
                partition,
                worker,
                task,
            } => self.fetch(run, partition, worker, task),
            Occurrence::Tick => {
                self.after(TICK_MS, TICK_MS, Occurrence::Tick);
                self.tell_core(Event::Tick);
            }
            Occurrence::Spawn { slots } => self.spawn(slots),
            Occurrence::Strike(fault) => self.strike(fault),
            Occurrence::Order { to: worker, .. }
            | Occurrence::Read { worker, .. }
            | Occurrence::Complete { worker, .. }
            | Occurrence::FetchTimeout { worker, .. }
            | Occurrence::Beat { worker }
                if self.toys[&worker].power == Power::Dead => {}
            Occurrence::Order { to, order } => self.obey(to, order),
            Occurrence::Read { worker, task } => self.read_inputs(worker, task),
            Occurrence::Complete { worker, task } => self.complete(worker, task),
            Occurrence::FetchTimeout {
                worker,
                task,
                from,
                lost,
            } => {
                if self.toy(worker).running.remove(&task).is_some() {
                    let failure = Failure::FetchFailed {
                        from_worker: from,
                        lost_task: lost,
                    };
                    self.send(worker, Event::TaskFailed { worker, task, failure });
                }
            }
            Occurrence::Beat { worker } => {
                self.send(worker, Event::Heartbeat { worker });
                self.after(HEARTBEAT_MS, HEARTBEAT_MS, Occurrence::Beat { worker });
            }
        }
    }

    // --- the driver's shell ---

    fn tell_core(&mut self, event: Event) {
        self.steps += 1;
        self.checker.observe(self.now_ms, &event);
        let mut effects = Vec::new();
        self.schedule.step(Millis(self.now_ms), event, &mut effects);
        self.schedule.assert_consistent();
        for effect in effects {
            self.checker.judge(&self.scenario, &effect);
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Launch {
                worker,
                run,
                stage,
                partition,
                task,
                inputs,
            } => {
                self.order(
                    worker,
                    Order::Launch {
                        task,
                        key: (run, stage.0 as usize, partition),
                        inputs,
                    },
                );
            }
            Effect::CancelTask { worker, task } => self.order(worker, Order::Cancel { task }),
            // The word may be long in coming: until then a zombie does what it likes.
            Effect::Fence { worker, .. } => self.after(
                0,
                8_000,
                Occurrence::Order {
                    to: worker,
                    order: Order::Leave,
                },
            ),
            Effect::ReleaseWorker { worker } => self.order(worker, Order::Leave),
            Effect::ReadyToFetch {
                run,
                partition,
                worker,
                task,
            } => {
                self.after(
                    1,
                    1_500,
                    Occurrence::Fetch {
                        run,
                        partition,
                        worker,
                        task,
                    },
                );
            }
            Effect::ReleaseRun { run } => {
                for worker in self.toys.keys().copied().collect::<Vec<_>>() {
                    self.order(worker, Order::Delete { run });
                }
            }
            Effect::HandOn { run, partition, task } => {
                let value = self
                    .spools
                    .remove(&task)
                    .expect("only what was fetched can be handed on");
                let before = self.visible.insert((run, partition), value);
                assert!(
                    before.is_none(),
                    "partition {partition} of run {run} is handed on twice"
                );
            }
            Effect::Discard { task, .. } => {
                let spool = self.spools.remove(&task);
                assert!(spool.is_some(), "only what was fetched can be discarded");
            }
            Effect::RunSucceeded { run } => self.judge_answer(run),
            Effect::RunFailed { .. } | Effect::RolledBack { .. } => {}
        }
    }

    /// One version of each partition, and the answer that follows from those.
    fn judge_answer(&self, run: RunId) {
        let of_run = || self.visible.range((run, 0)..=(run, u32::MAX)).map(|(_, value)| value);
        let mut versions = BTreeMap::new();
        for (key, task) in of_run().flat_map(|value| &value.versions) {
            let other = versions.insert(*key, *task).filter(|other| other != task);
            assert_eq!(
                other, None,
                "the answer of run {run} mixes versions of {key:?}: {task} and"
            );
        }
        let answer: Vec<u64> = of_run().map(|value| value.number).collect();
        assert_eq!(
            answer,
            self.scenario.answer(run, &versions),
            "run {run} has a wrong answer"
        );
    }

    fn fetch(&mut self, run: RunId, partition: u32, worker: WorkerId, task: TaskId) {
        let event = match self.toys[&worker].read(task, self.now_ms) {
            Some(value) => {
                self.spools.insert(task, value.clone());
                Event::ResultFetched { run, partition, task }
            }
            None => Event::ResultFetchFailed { run, partition, task },
        };
        let timeout_ms = if matches!(event, Event::ResultFetched { .. }) {
            0
        } else {
            3_000
        };
        self.after(0, timeout_ms, Occurrence::Mail { from: None, event });
    }

    fn order(&mut self, to: WorkerId, order: Order) {
        let at_ms = (self.now_ms + self.dice.between(0, 100)).max(self.toys[&to].last_down_ms);
        self.toy(to).last_down_ms = at_ms;
        self.at(at_ms, Occurrence::Order { to, order });
    }

    // --- the workers ---

    fn toy(&mut self, worker: WorkerId) -> &mut Toy {
        self.toys.get_mut(&worker).expect("toys are never forgotten")
    }

    fn spawn(&mut self, slots: u32) {
        let worker = WorkerId(self.toys.len() as u64 + 1);
        self.toys.insert(worker, Toy::new(slots));
        self.send(worker, Event::WorkerJoined { worker, slots });
        self.after(0, HEARTBEAT_MS, Occurrence::Beat { worker });
    }

    /// In order on the worker's stream; now and then a copy turns up later, on its own.
    fn send(&mut self, worker: WorkerId, event: Event) {
        let at_ms = (self.now_ms + self.dice.between(0, 200)).max(self.toys[&worker].last_up_ms);
        self.toy(worker).last_up_ms = at_ms;
        if self.dice.percent(8) {
            let copy_ms = at_ms + self.dice.between(0, 20_000);
            self.at(
                copy_ms,
                Occurrence::Mail {
                    from: None,
                    event: event.clone(),
                },
            );
        }
        self.at(
            at_ms,
            Occurrence::Mail {
                from: Some(worker),
                event,
            },
        );
    }

    fn obey(&mut self, worker: WorkerId, order: Order) {
        match order {
            Order::Launch { task, key, inputs } => {
                let toy = self.toy(worker);
                if std::mem::take(&mut toy.disk_full_once) {
                    let failure = Failure::Infrastructure {
                        message: "no space left on device".into(),
                    };
                    return self.send(worker, Event::TaskFailed { worker, task, failure });
                }
                toy.running.insert(
                    task,
                    Job {
                        key,
                        inputs,
                        value: None,
                    },
                );
                assert!(
                    toy.running.len() <= toy.slots as usize,
                    "worker {worker} runs more than it can"
                );
                self.after(0, 1_500, Occurrence::Read { worker, task });
            }
            Order::Cancel { task } => {
                if self.toy(worker).running.remove(&task).is_some() {
                    self.send(
                        worker,
                        Event::TaskFailed {
                            worker,
                            task,
                            failure: Failure::Cancelled,
                        },
                    );
                }
            }
            Order::Delete { run } => self.toy(worker).store.retain(|_, (key, _)| key.0 != run),
            Order::Leave => {
                self.toy(worker).power = Power::Dead;
                self.respawn(worker);
            }
        }
    }

    fn read_inputs(&mut self, worker: WorkerId, task: TaskId) {
        let Some(job) = self.toys[&worker].running.get(&task) else {
            return;
        };
        let (mut numbers, mut versions) = (Vec::new(), BTreeSet::new());
        for output in job.inputs.iter().flat_map(|input| &input.outputs) {
            match self.toys[&output.worker].read(output.task, self.now_ms) {
                Some(value) => {
                    numbers.push(value.number);
                    versions.extend(&value.versions);
                }
                None => {
                    let (from, lost) = (output.worker, output.task);
                    return self.after(
                        100,
                        3_000,
                        Occurrence::FetchTimeout {
                            worker,
                            task,
                            from,
                            lost,
                        },
                    );
                }
            }
        }
        let key = job.key;
        let version = (!self.scenario.is_repeatable(key)).then_some(task);
        versions.extend(version.map(|task| (key, task)));
        let number = compute(key, version, numbers.into_iter());
        match self.scenario.bad_tasks.get(&key).copied() {
            Some(BadTask::KillsWorker) => self.kill(worker, true),
            Some(BadTask::FailsAlways { retryable }) => self.fail(worker, task, retryable),
            Some(BadTask::FailsTimes(times)) if self.failed_times.get(&key).is_none_or(|failed| *failed < times) => {
                *self.failed_times.entry(key).or_default() += 1;
                self.fail(worker, task, true);
            }
            Some(BadTask::FailsTimes(_)) | None => {
                let value = Some(Value { number, versions });
                self.toy(worker).running.get_mut(&task).expect("seen above").value = value;
                self.after(0, self.scenario.task_ms_max, Occurrence::Complete { worker, task });
            }
        }
    }

    fn fail(&mut self, worker: WorkerId, task: TaskId, retryable: bool) {
        self.toy(worker).running.remove(&task);
        let failure = Failure::Application {
            message: "cannot cast 'x' to Int64".into(),
            retryable,
        };
        self.send(worker, Event::TaskFailed { worker, task, failure });
    }

    fn complete(&mut self, worker: WorkerId, task: TaskId) {
        let Some(Job {
            key,
            value: Some(value),
            ..
        }) = self.toy(worker).running.remove(&task)
        else {
            return;
        };
        let number = value.number;
        self.toy(worker).store.insert(task, (key, value));
        let widths = 0..self.scenario.queries[&key.0].stages[key.1].output_partitions;
        let size = |partition| {
            let rows = number.rotate_right(partition) % 1_000;
            PartitionSize {
                partition,
                rows,
                bytes: rows * 8,
            }
        };
        let output = widths.rev().map(size).collect();
        self.send(worker, Event::TaskFinished { worker, task, output });
    }

    // --- the faults ---

    fn strike(&mut self, fault: Fault) {
        if let Fault::DriverStop { ms } = fault {
            self.driver_stopped_until_ms = self.driver_stopped_until_ms.max(self.now_ms + ms);
            return;
        }
        if let Fault::Join { slots } = fault {
            return self.spawn(slots);
        }
        let is_up = |toy: &Toy| toy.power == Power::Up;
        let up: Vec<WorkerId> = self
            .toys
            .iter()
            .filter(|(_, toy)| is_up(toy))
            .map(|(worker, _)| *worker)
            .collect();
        let Some(worker) = self.dice.pick(&up) else { return };
        match fault {
            Fault::Kill { noticed } => self.kill(worker, noticed),
            Fault::Stop { ms } => {
                self.toy(worker).power = Power::Stopped {
                    until_ms: self.now_ms + ms,
                }
            }
            Fault::Drain { deadline_ms } => self.drain(worker, deadline_ms),
            Fault::LoseOutput => {
                let stored: Vec<TaskId> = self.toys[&worker].store.keys().copied().collect();
                if let Some(task) = self.dice.pick(&stored) {
                    self.toy(worker).store.remove(&task);
                }
            }
            Fault::Unreachable { ms } => self.toy(worker).unreachable_until_ms = self.now_ms + ms,
            Fault::DataPortDies => self.toy(worker).unreachable_until_ms = u64::MAX,
            Fault::DiskFull => self.toy(worker).disk_full_once = true,
            Fault::DriverStop { .. } | Fault::Join { .. } => unreachable!("struck above"),
        }
    }

    /// What it had sent may still arrive, but for some tail of it; then the stream breaks, or nothing tells of it.
    fn kill(&mut self, worker: WorkerId, noticed: bool) {
        self.toy(worker).power = Power::Dead;
        let cut_ms = self
            .dice
            .between(self.now_ms, self.toys[&worker].last_up_ms.max(self.now_ms));
        let lost = |(at_ms, occurrence): (u64, &Occurrence)| {
            at_ms > cut_ms && matches!(occurrence, Occurrence::Mail { from: Some(from), .. } if *from == worker)
        };
        self.to_come.retain(|key, occurrence| !lost((key.0, occurrence)));
        if noticed {
            let cause = CloseCause::Died {
                detail: "connection reset".into(),
            };
            let closed = Occurrence::Mail {
                from: None,
                event: Event::WorkerClosed { worker, cause },
            };
            let at_ms = cut_ms + self.dice.between(0, 300);
            self.at(at_ms, closed);
        }
        self.respawn(worker);
    }

    /// The shell closes the stream if the worker is still here at its deadline; the process goes with it.
    fn drain(&mut self, worker: WorkerId, deadline_ms: u64) {
        self.send(worker, Event::WorkerDraining { worker });
        let event = Event::WorkerClosed {
            worker,
            cause: CloseCause::Drained,
        };
        self.at(self.now_ms + deadline_ms, Occurrence::Mail { from: None, event });
    }

    /// Something restarts most of what ends, under a new id; where tasks or somebody kill, always.
    fn respawn(&mut self, worker: WorkerId) {
        let slots = self.toys[&worker].slots;
        let always = matches!(self.scenario.flavour, Flavour::Poison | Flavour::Killer);
        if always || self.dice.percent(60) {
            self.after(300, 6_000, Occurrence::Spawn { slots });
        }
    }
}
