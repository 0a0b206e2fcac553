//! What a seed or a story fixes beforehand: the jobs, what befalls them and when, and how badly requests and watches go.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use trireme_operator::api::status::JobState;
use trireme_spec::batch_job::BatchJobSpec;
use trireme_spec::quantity::Bytes;

use crate::dice::Dice;

/// So few nonces that they come again.
const NONCES: u32 = 3;

/// An image that no machine can pull.
pub(crate) const NO_IMAGE: &str = "trireme:none";

/// Everything that does not come from the code under test.
#[derive(Clone)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) jobs: Vec<JobPlan>,
    pub(crate) acts: Vec<(When, Act)>,
    pub(crate) chaos: Chaos,
    /// What each machine has room for: a driver takes 1, an executor 4.
    pub(crate) room: usize,
    /// How much later than drivers the scheduler comes to executors.
    pub(crate) executors_late_ms: u64,
    /// The first operator dies after so many writes.
    pub(crate) crash_after_write: Option<u64>,
    /// How long it takes until another one is there.
    pub(crate) restart_ms: i64,
    /// When the run is looked at, whether it has come to rest or not.
    pub(crate) end_ms: i64,
    /// Whether it has come to rest then.
    pub(crate) rests: bool,
}

/// One job, and how its statements go.
#[derive(Clone)]
pub(crate) struct JobPlan {
    pub(crate) name: &'static str,
    pub(crate) spec: BatchJobSpec,
    pub(crate) statements: u32,
    /// Steps of a driver between two commits.
    pub(crate) ticks: u32,
    /// Drivers and executors with less die of it.
    pub(crate) driver_needs: Bytes,
    pub(crate) executor_needs: Bytes,
    /// What becomes of the driver of a generation when it is to run that statement.
    pub(crate) fates: BTreeMap<u64, (u32, Fate)>,
    /// The first executors of a run that end by themselves.
    pub(crate) bad_executors: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Ends with this exit code and no report.
    Crash(i32),
    /// Says that the job cannot be done.
    Fail,
    /// When told to end it fails for want of what was taken from it, instead of saying that it was told.
    FailWhenTold,
    /// Told to end it ends by a bug of its own.
    CrashWhenTold,
    /// Does not end when it is told to.
    Hang,
    /// Takes its time to end when it has said that it is done.
    Linger,
}

/// When something befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    At(i64),
    /// So many statements of the run are committed.
    Committed(usize, u32),
    /// The driver of this attempt, or a later one, runs.
    Runs(usize, u32),
    /// So long after the job came to this state.
    In(usize, JobState, i64),
}

/// Which pod or machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Driver,
    Executor,
}

/// What befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Suspend(usize, bool),
    Scale(usize, u32),
    /// Asks for an image that there is.
    MendImage(usize),
    /// With that nonce, which may have been there before, or without one by 0.
    Rerun(usize, u32),
    Delete {
        job: usize,
        foreground: bool,
    },
    /// Deletes and makes it again under the same name.
    Replace(usize),
    /// The machine of such a pod dies, is cut off from the API server, or is emptied.
    MachineDies(usize, Whose),
    MachineCutOff(usize, Whose),
    MachineDrained(usize, Whose),
    /// All machines that are not well come back, or those that are away are struck off.
    MachinesBack,
    MachinesStruckOff,
    /// The pod alone.
    Evict(usize, Whose),
    Preempt(usize, Whose),
    Pressure(usize, Whose),
    Kill(usize, Whose),
    DeletePod(usize, Whose),
    /// Somebody else has a pod by the name of the first driver.
    TakeName(usize),
    /// Somebody removes the job's Service.
    LoseService(usize),
    Quota(Option<usize>),
    Policy(bool),
    Images(bool),
    ConfigMap(bool),
    /// Requests and watches.
    ApiAway(i64),
    /// The executor of that number is made so long after it is asked for, when its maker has given it up.
    MadeLate {
        job: usize,
        number: u32,
        wait_ms: u64,
    },
    WatchesAnew,
    OperatorDies,
    SecondOperator,
    FirstOperatorStops,
}

/// How badly requests and watches go, in percent, until `until_ms`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chaos {
    pub(crate) until_ms: i64,
    /// A request that never arrives.
    pub(crate) lost: u64,
    /// One that is done, and whose answer is lost.
    pub(crate) answer_lost: u64,
    /// One that is done long after its sender has given it up.
    pub(crate) late: u64,
    /// A watch that falls far behind, tells twice, or begins anew.
    pub(crate) behind: u64,
    pub(crate) twice: u64,
    pub(crate) anew: u64,
    /// Reports of drivers that get lost.
    pub(crate) unheard: u64,
    /// An operator that dies after a write.
    pub(crate) dies: u64,
}

impl JobPlan {
    pub(crate) fn new(name: &'static str, statements: u32, spec: Value) -> JobPlan {
        let mut all = json!({ "sql": "SELECT 1" });
        for (key, value) in spec.as_object().expect("a spec is an object") {
            all[key] = value.clone();
        }
        if all.get("sqlFrom").is_some() {
            all.as_object_mut().expect("it is one").remove("sql");
        }
        JobPlan {
            name,
            spec: serde_json::from_value(all).expect("a spec of a test has the form of one"),
            statements,
            ticks: 2,
            driver_needs: Bytes::new(0),
            executor_needs: Bytes::new(0),
            fates: BTreeMap::new(),
            bad_executors: 0,
        }
    }
}

impl Scenario {
    /// A story: nothing goes wrong but what it tells.
    pub(crate) fn story(jobs: Vec<JobPlan>, acts: Vec<(When, Act)>) -> Scenario {
        Scenario {
            seed: 0,
            jobs,
            acts,
            chaos: Chaos::default(),
            room: usize::MAX,
            executors_late_ms: 0,
            crash_after_write: None,
            restart_ms: 2_000,
            end_ms: 1_800_000,
            rests: true,
        }
    }

    pub(crate) fn random(seed: u64) -> Scenario {
        let mut dice = Dice::new(seed);
        let jobs = match dice.percent(15) {
            true => vec![random_job(&mut dice, "north"), random_job(&mut dice, "south")],
            false => vec![random_job(&mut dice, "north")],
        };
        let until_ms = dice.between(5_000, 120_000) as i64;
        let mut acts = Vec::new();
        for _ in 0..dice.between(0, 6) {
            let at = dice.between(0, until_ms as u64) as i64;
            let job = dice.between(0, jobs.len() as u64 - 1) as usize;
            random_act(&mut dice, &mut acts, at, job, until_ms);
        }
        for (nonce, (_, act)) in (1..).zip(&mut acts) {
            if let Act::Rerun(_, of_act) = act {
                *of_act = nonce % NONCES;
            }
        }
        // Whatever was taken comes back, in one way or another.
        let back = match dice.percent(50) {
            true => Act::MachinesBack,
            false => Act::MachinesStruckOff,
        };
        acts.push((When::At(until_ms + dice.between(0, 90_000) as i64), back));
        let chaos = match dice.percent(60) {
            false => Chaos::default(),
            true => Chaos {
                until_ms,
                lost: dice.between(0, 10),
                answer_lost: dice.between(0, 10),
                late: dice.between(0, 4).saturating_sub(2),
                behind: dice.between(0, 10),
                twice: dice.between(0, 10),
                anew: dice.between(0, 3),
                unheard: dice.between(0, 30),
                dies: dice.between(0, 8).saturating_sub(3),
            },
        };
        Scenario {
            seed,
            jobs,
            acts,
            chaos,
            room: match dice.percent(15) {
                true => dice.between(4, 8) as usize,
                false => usize::MAX,
            },
            executors_late_ms: 0,
            crash_after_write: None,
            restart_ms: dice.between(500, 20_000) as i64,
            end_ms: until_ms + 1_800_000,
            rests: true,
        }
    }
}

fn random_job(dice: &mut Dice, name: &'static str) -> JobPlan {
    let mut spec =
        json!({ "executors": { "min": dice.between(0, 4), "memory": "1Gi" }, "driver": { "memory": "1Gi" } });
    let mut retries = json!({});
    if dice.percent(30) {
        retries["infrastructure"] = dice.between(0, 3).into();
        retries["application"] = dice.between(0, 2).into();
        retries["scheduling"] = dice.between(1, 4).into();
    }
    if dice.percent(30) {
        retries["resetAfter"] = format!("{}s", dice.between(5, 60)).into();
    }
    spec["retries"] = retries;
    if dice.percent(15) {
        spec["activeDeadlineSeconds"] = dice.between(5, 200).into();
    }
    if dice.percent(20) {
        spec["ttlSecondsAfterFinished"] = dice.between(0, 60).into();
    }
    if dice.percent(10) {
        spec["suspend"] = true.into();
    }
    let mut job = JobPlan::new(name, dice.between(1, 4) as u32, spec);
    job.ticks = match dice.percent(10) {
        true => dice.between(20, 80) as u32,
        false => dice.between(1, 8) as u32,
    };
    if dice.percent(15) {
        job.driver_needs = Bytes::gib(dice.between(1, 5) as u32);
    }
    if dice.percent(15) {
        job.executor_needs = Bytes::gib(dice.between(1, 4) as u32);
    }
    if dice.percent(15) {
        job.bad_executors = dice.between(1, 12) as u32;
    }
    for generation in 1..=5 {
        if dice.percent(25) {
            let at = dice.between(0, u64::from(job.statements)) as u32;
            let fate = match dice.between(0, 9) {
                0..=3 => Fate::Crash(101),
                4 => Fate::Crash(139),
                5 => Fate::Fail,
                6 | 7 => Fate::FailWhenTold,
                8 => Fate::CrashWhenTold,
                _ => Fate::Hang,
            };
            job.fates.insert(generation, (at, fate));
        }
    }
    job
}

fn random_act(dice: &mut Dice, acts: &mut Vec<(When, Act)>, at: i64, job: usize, until_ms: i64) {
    let whose = match dice.percent(60) {
        true => Whose::Driver,
        false => Whose::Executor,
    };
    let later = at + dice.between(0, (until_ms - at).max(0) as u64) as i64;
    let mut put = |at, act| acts.push((When::At(at), act));
    match dice.between(0, 25) {
        0 => {
            put(at, Act::Suspend(job, true));
            put(later, Act::Suspend(job, false));
        }
        1 => put(at, Act::Suspend(job, true)),
        2 => put(at, Act::Suspend(job, false)),
        3 => put(at, Act::Scale(job, dice.between(0, 6) as u32)),
        4 => {
            put(at, Act::Scale(job, dice.between(0, 6) as u32));
            put(later, Act::Scale(job, dice.between(0, 6) as u32));
        }
        5 => put(at, Act::Rerun(job, 0)),
        6 => {
            put(at, Act::Rerun(job, 0));
            put(later, Act::Rerun(job, 0));
        }
        7 => {
            let foreground = dice.percent(40);
            put(at, Act::Delete { job, foreground });
        }
        8 => put(at, Act::Replace(job)),
        9 => put(at, Act::MachineDies(job, whose)),
        10 => put(at, Act::MachineCutOff(job, whose)),
        11 => put(at, Act::MachineDrained(job, whose)),
        12 => put(at, Act::Evict(job, whose)),
        13 => put(at, Act::Preempt(job, whose)),
        14 => put(at, Act::Pressure(job, whose)),
        15 => put(at, Act::Kill(job, whose)),
        16 => put(at, Act::DeletePod(job, whose)),
        17 => {
            put(at, Act::Quota(Some(dice.between(0, 3) as usize)));
            put(later, Act::Quota(None));
        }
        18 => {
            put(at, Act::Policy(true));
            put(later, Act::Policy(false));
        }
        19 => {
            put(at, Act::Images(false));
            put(later, Act::Images(true));
        }
        20 => put(at, Act::ApiAway(dice.between(1_000, 60_000) as i64)),
        21 => put(at, Act::WatchesAnew),
        22 => put(at, Act::OperatorDies),
        23 => {
            put(at, Act::SecondOperator);
            put(later, Act::FirstOperatorStops);
        }
        24 => {
            // A driver that nobody sees any more runs on beside the next one.
            put(at.min(20_000), Act::MachineCutOff(job, Whose::Driver));
            put(at.min(20_000) + 90_000, Act::MachinesBack);
        }
        _ => put(at, Act::MachinesBack),
    }
}
