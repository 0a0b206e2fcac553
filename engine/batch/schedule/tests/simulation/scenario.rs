//! What a seed stands for: the queries, the workers, the faults, and which end each run must come to.

use std::collections::{BTreeMap, BTreeSet};

use trireme_batch_schedule::{RunId, RunPlan, StageId, StageSpec, TaskId};

use crate::dice::{Dice, mix};

/// (run, position of the stage, partition)
pub(crate) type Key = (RunId, usize, u32);

pub(crate) struct Scenario {
    pub(crate) flavour: Flavour,
    pub(crate) queries: BTreeMap<RunId, Query>,
    /// Slots of the workers that are there at the start.
    pub(crate) workers: Vec<u32>,
    /// When which fault strikes, in ms.
    pub(crate) faults: Vec<(u64, Fault)>,
    pub(crate) bad_tasks: BTreeMap<Key, BadTask>,
    /// No fault after this time, in ms; then two fresh workers join.
    pub(crate) calm_ms: u64,
    pub(crate) task_ms_max: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// Machines fail, the queries are good: every run must succeed. At most two deaths, so that nobody can be blamed.
    Machines,
    /// Deaths without number: a run may also end in blame, if the blamed task really was on board, alone in the end.
    Storm,
    /// Some tasks fail and then do not: every run must succeed.
    Flaky,
    /// One task always fails: its run must fail, naming it, and no other.
    Doomed,
    /// One task kills its worker: its run must fail, blaming it, and no other.
    Poison,
    /// Somebody kills workers, idle ones first and then any, while tasks take long. With a task that kills its worker, its
    /// run must fail; without, every run must succeed: by then too many have died without any task to blame one.
    Killer,
}

pub(crate) struct Query {
    pub(crate) submit_ms: u64,
    pub(crate) cancel_ms: Option<u64>,
    pub(crate) stages: Vec<StageSpec>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// SIGKILL. Noticed: the stream breaks. Otherwise the node is gone and there is only silence.
    Kill {
        noticed: bool,
    },
    /// SIGSTOP, and SIGCONT after so long.
    Stop {
        ms: u64,
    },
    /// The worker is told to leave; the shell closes it after so long.
    Drain {
        deadline_ms: u64,
    },
    Join {
        slots: u32,
    },
    /// The driver itself is stopped for so long; its mail waits.
    DriverStop {
        ms: u64,
    },
    /// A worker loses one output that it holds, and lives.
    LoseOutput,
    /// Nobody can read from this worker for so long, though it talks to the driver.
    Unreachable {
        ms: u64,
    },
    /// Nobody can read from this worker any more, though it talks to the driver.
    DataPortDies,
    /// The next task that starts on some worker finds its disk full.
    DiskFull,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadTask {
    FailsTimes(u32),
    FailsAlways { retryable: bool },
    KillsWorker,
}

impl Scenario {
    pub(crate) fn new(seed: u64) -> Scenario {
        let mut dice = Dice::new(seed);
        let flavour = match seed % 8 {
            0 => Flavour::Poison,
            1 => Flavour::Doomed,
            2 => Flavour::Flaky,
            3 => Flavour::Storm,
            4 => Flavour::Killer,
            _ => Flavour::Machines,
        };
        let calm_ms = dice.between(5_000, 40_000);
        // The deaths under a task that kills would use up the budgets of other queries as well.
        let queries_max = if flavour == Flavour::Killer { 1 } else { 3 };
        let queries: BTreeMap<RunId, Query> = (1..=dice.between(1, queries_max))
            .map(|run| (RunId(run), query(&mut dice, flavour, calm_ms)))
            .collect();
        let workers_min = if flavour == Flavour::Killer {
            KILLS_BEFORE as u64
        } else {
            1
        };
        let workers = (0..dice.between(workers_min, 4))
            .map(|_| dice.between(1, 4) as u32)
            .collect();
        let faults = match flavour {
            Flavour::Killer => kills(&mut dice, calm_ms),
            _ => faults(&mut dice, flavour, calm_ms),
        };
        let bad_tasks = bad_tasks(&mut dice, flavour, &queries);
        Scenario {
            flavour,
            queries,
            workers,
            faults,
            bad_tasks,
            calm_ms,
            task_ms_max: if flavour == Flavour::Killer { 15_000 } else { 4_000 },
        }
    }

    pub(crate) fn is_repeatable(&self, (run, stage, _): Key) -> bool {
        self.queries[&run].stages[stage].repeatable
    }

    /// The positions of the stages that read the stage, or what was read from it.
    pub(crate) fn derived_from(&self, run: RunId, stage: usize) -> BTreeSet<usize> {
        let mut derived = BTreeSet::from([stage]);
        for (position, reader) in self.queries[&run].stages.iter().enumerate() {
            if reader.inputs.iter().any(|input| derived.contains(&(input.0 as usize))) {
                derived.insert(position);
            }
        }
        derived.remove(&stage);
        derived
    }

    /// The values of the result's partitions when nothing disturbs the run and these attempts made what is not repeatable.
    pub(crate) fn answer(&self, run: RunId, versions: &BTreeMap<Key, TaskId>) -> Vec<u64> {
        let stages = &self.queries[&run].stages;
        let mut outputs: Vec<Vec<u64>> = Vec::new();
        for (position, stage) in stages.iter().enumerate() {
            let values = (0..stage.partitions).map(|partition| {
                let read = stage
                    .inputs
                    .iter()
                    .flat_map(|input| outputs[input.0 as usize].iter().copied());
                let key = (run, position, partition);
                compute(key, versions.get(&key).copied(), read)
            });
            outputs.push(values.collect());
        }
        outputs.pop().unwrap_or_default()
    }
}

/// What a toy task computes from the values of all tasks it reads, in order; and from its attempt, if it is not repeatable.
pub(crate) fn compute((run, stage, partition): Key, version: Option<TaskId>, read: impl Iterator<Item = u64>) -> u64 {
    let name = mix(mix(run.0, stage as u64), u64::from(partition));
    let name = version.map_or(name, |task| mix(name, task.0));
    read.fold(name, |value, input| mix(value, mix(input, u64::from(partition))))
}

fn query(dice: &mut Dice, flavour: Flavour, calm_ms: u64) -> Query {
    let count = dice.between(1, 5) as u32;
    let mut stages: Vec<StageSpec> = Vec::new();
    for id in 0..count {
        // The stage before is always read, which makes every stage but the last read by a later one.
        let inputs = (0..id)
            .filter(|input| *input + 1 == id || dice.percent(25))
            .map(StageId)
            .collect();
        let (partitions, output_partitions) = (dice.between(1, 6) as u32, dice.between(1, 6) as u32);
        stages.push(StageSpec {
            id: StageId(id),
            partitions,
            inputs,
            output_partitions,
            repeatable: dice.percent(75),
        });
    }
    RunPlan::new(stages.clone()).expect("a chain with shortcuts is a plan");
    let cancelled = matches!(flavour, Flavour::Machines | Flavour::Storm) && dice.percent(10);
    let submit_ms = match flavour {
        Flavour::Killer => KILLED_BEFORE_MS,
        _ => dice.between(0, calm_ms / 2),
    };
    Query {
        submit_ms,
        cancel_ms: cancelled.then(|| dice.between(submit_ms, calm_ms)),
        stages,
    }
}

fn faults(dice: &mut Dice, flavour: Flavour, calm_ms: u64) -> Vec<(u64, Fault)> {
    let mut kills_left = match flavour {
        Flavour::Machines | Flavour::Flaky | Flavour::Doomed => 2,
        Flavour::Storm => 40,
        Flavour::Poison | Flavour::Killer => 0,
    };
    let mut faults = Vec::new();
    for _ in 0..dice.between(0, if flavour == Flavour::Storm { 24 } else { 10 }) {
        let fault = match dice.between(0, 9) {
            0..=2 if kills_left > 0 => {
                kills_left -= 1;
                Fault::Kill {
                    noticed: dice.percent(80),
                }
            }
            3 | 4 => Fault::Stop {
                ms: dice.between(100, 30_000),
            },
            5 => Fault::Drain {
                deadline_ms: dice.between(500, 20_000),
            },
            6 => Fault::LoseOutput,
            7 if dice.percent(30) => Fault::DataPortDies,
            7 => Fault::Unreachable {
                ms: dice.between(500, 6_000),
            },
            8 if dice.percent(30) => Fault::DriverStop {
                ms: dice.between(1_000, 40_000),
            },
            8 => Fault::DiskFull,
            _ => Fault::Join {
                slots: dice.between(1, 4) as u32,
            },
        };
        faults.push((dice.between(0, calm_ms), fault));
    }
    faults
}

/// Idle workers that a killer begins with. All of them are gone before anybody can have taken their place.
const KILLS_BEFORE: usize = 3;
/// By then the driver knows.
const KILLED_BEFORE_MS: u64 = 2_000;

/// Kills at random: together with the two deaths that a task may meet in bad company fewer than it takes to blame it.
fn kills(dice: &mut Dice, calm_ms: u64) -> Vec<(u64, Fault)> {
    let kill = Fault::Kill { noticed: true };
    let before = (0..KILLS_BEFORE).map(|_| (1_000, kill));
    let after = (0..dice.between(3, 9)).map(|_| (dice.between(KILLED_BEFORE_MS, calm_ms), kill));
    before.chain(after).collect()
}

fn bad_tasks(dice: &mut Dice, flavour: Flavour, queries: &BTreeMap<RunId, Query>) -> BTreeMap<Key, BadTask> {
    let keys = queries.iter().flat_map(|(run, query)| {
        let of_stage = |(position, stage): (usize, &StageSpec)| {
            (0..stage.partitions)
                .map(|partition| (*run, position, partition))
                .collect::<Vec<Key>>()
        };
        query.stages.iter().enumerate().flat_map(of_stage).collect::<Vec<Key>>()
    });
    let keys: Vec<Key> = keys.collect();
    let any = |dice: &mut Dice| dice.pick(&keys).expect("every query has a task");
    match flavour {
        Flavour::Machines | Flavour::Storm => BTreeMap::new(),
        Flavour::Flaky => (0..dice.between(1, 5))
            .map(|_| (any(dice), BadTask::FailsTimes(dice.between(1, 3) as u32)))
            .collect(),
        Flavour::Doomed => BTreeMap::from([(
            any(dice),
            BadTask::FailsAlways {
                retryable: dice.percent(60),
            },
        )]),
        Flavour::Killer if dice.percent(50) => BTreeMap::new(),
        Flavour::Poison | Flavour::Killer => BTreeMap::from([(any(dice), BadTask::KillsWorker)]),
    }
}
