//! Processes are killed at named points of a job that has every kind of statement; nothing of it is lost or done twice.
//!
//! Each run of the job is disturbed once or twice. What it prints and what it leaves at its destinations must be what an
//! undisturbed run prints and leaves. A kill counts when it came at its point: it took away work that was under way, or
//! ended a driver between two things that belong together. `TRIREME_KILLS` says how many must count at each point and
//! `TRIREME_SEED` repeats the choices of an earlier run.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use trireme_tests::{Cluster, ClusterLog, Dice, Mark, Scratch, batch_job, trireme, with_options};

/// Kills that must count at each point, unless `TRIREME_KILLS` says how many.
const KILLS: u64 = 1;

/// What is awaited comes within seconds, or never.
const LIMIT: Duration = Duration::from_secs(60);

/// Tries per kill: what a signal hits is a matter of a millisecond.
const TRIES_MAX: u32 = 8;

/// Where a process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    /// A worker whose task writes outputs for other tasks.
    ShuffleWrite,
    /// The worker whose outputs another worker's task is about to read.
    ShuffleFetch,
    /// The worker that the driver asks for a part of the result.
    ResultFetch,
    /// A worker whose task writes parts of a destination.
    SinkTask,
    /// The driver, between the decision to commit and its end.
    Commit,
    /// The driver, when it has written down what it is about to do.
    JournalBeforeEffect,
    /// The driver, when it has committed and not yet written that down.
    EffectBeforeJournal,
    /// The driver, when a task is given away.
    DriverAnywhere,
}

impl Point {
    const ALL: [Point; 8] = [
        Point::ShuffleWrite,
        Point::ShuffleFetch,
        Point::ResultFetch,
        Point::SinkTask,
        Point::Commit,
        Point::JournalBeforeEffect,
        Point::EffectBeforeJournal,
        Point::DriverAnywhere,
    ];

    /// Whether `mark` says that the job has come to this point.
    fn is_at(self, mark: &Mark) -> bool {
        match self {
            Point::ShuffleWrite => matches!(
                mark,
                Mark::Runs {
                    writes_parts: false,
                    ..
                }
            ),
            Point::ShuffleFetch => matches!(
                mark,
                Mark::Runs {
                    reads_shuffle: true,
                    ..
                }
            ),
            Point::ResultFetch => matches!(mark, Mark::Fetching { .. }),
            Point::SinkTask => matches!(mark, Mark::Runs { writes_parts: true, .. }),
            Point::Commit => matches!(mark, Mark::Committing),
            Point::JournalBeforeEffect => {
                matches!(mark, Mark::Journaled { record } if record == "statement-started" || record == "write-intended")
            }
            Point::EffectBeforeJournal => matches!(mark, Mark::Committed),
            Point::DriverAnywhere => matches!(mark, Mark::Runs { .. }),
        }
    }

    fn kills_driver(self) -> bool {
        match self {
            Point::ShuffleWrite | Point::ShuffleFetch | Point::ResultFetch | Point::SinkTask => false,
            Point::Commit | Point::JournalBeforeEffect | Point::EffectBeforeJournal | Point::DriverAnywhere => true,
        }
    }
}

#[test]
fn kills_at_named_points_change_nothing() {
    let job = Job::get();
    let mut dice = Dice::from_environment();
    let kills = env::var("TRIREME_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let mut table = Vec::new();
    for point in Point::ALL {
        for number in 0..kills {
            let strike =
                (0..TRIES_MAX).find_map(|_| Some(strike(job, point, &mut dice)).filter(|strike| strike.counts));
            let strike =
                strike.unwrap_or_else(|| panic!("kill {number} at {point:?}: none of {TRIES_MAX} tries hit it"));
            println!("{strike}");
            table.push(strike);
        }
    }
    let drivers = table.iter().filter(|strike| strike.point.kills_driver()).count();
    println!(
        "{} kills counted: {} of workers, {drivers} of drivers; 0 failed jobs, 0 other results",
        table.len(),
        table.len() - drivers
    );
}

/// Two drivers of one run in a row are killed: the third has two journals' worth to go by.
#[test]
fn a_driver_that_follows_a_killed_one_is_killed_too() {
    let job = Job::get();
    let scratch = Scratch::new();
    let mut cluster = Cluster::start(job.program(scratch.path()));
    for generation in [1, 2] {
        cluster.wait_until("a commit of this driver", |log| {
            log.generation == generation && log.marks.contains(&Mark::Committed)
        });
        assert!(cluster.signal_driver(Signal::KILL));
    }
    let (output, log) = cluster.wait();
    let output = output.succeeded();
    assert!(log.generation >= 3, "{output}");
    job.check(&output.stdout, scratch.path());
}

/// A stopped driver is no dead one: it wakes up when its successor has done all, and must not do any of it again.
#[test]
fn a_driver_that_was_replaced_stops_and_commits_nothing() {
    let job = Job::get();
    let scratch = Scratch::new();
    let mut cluster = Cluster::start(job.program(scratch.path()));
    cluster.wait_until("the first write", |log| {
        log.marks
            .iter()
            .any(|mark| matches!(mark, Mark::Runs { writes_parts: true, .. }))
    });
    assert!(cluster.signal_driver(Signal::STOP));
    let announced = scratch.path().join("second.json");
    let driver = cluster.arguments_of("driver");
    let options = [
        ("--control", "127.0.0.1:0"),
        ("--announce", announced.to_str().unwrap()),
        ("--log", "info"),
    ];
    let mut second = trireme(with_options(&driver, &options)).spawn();
    let listens = second.wait_for("the second driver's ports", LIMIT, |line| {
        line.text.contains("driver listens")
    });
    let control = listens
        .text
        .split("control=")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .unwrap();
    let folder = scratch.path().join("third-worker");
    let options = [
        ("--driver", control),
        ("--name", "third"),
        ("--scratch", folder.to_str().unwrap()),
    ];
    let worker = trireme(with_options(&cluster.arguments_of("worker"), &options)).spawn();
    let output = second.wait().succeeded();
    let _ = worker.wait().succeeded();
    let printed: String = output
        .json_lines()
        .iter()
        .map(|block| block["text"].as_str().unwrap())
        .collect();
    job.check(&printed, scratch.path());
    assert!(cluster.signal_driver(Signal::CONT));
    let (output, _) = cluster.wait();
    let output = output.exited(130);
    assert!(output.stderr.contains("error[CANCELLED-REPLACED]"), "{output}");
    job.check(&printed, scratch.path());
}

#[test]
fn a_run_that_has_ended_stays_ended_and_an_edited_job_is_another() {
    let scratch = Scratch::new();
    let out = scratch.path().join("out");
    let sql = format!(
        "COPY (SELECT 1 AS a) TO '{}/' STORED AS PARQUET OPTIONS (mode 'append');
         SELECT max(l_comment) > '' AS b FROM tpch.sf0_5.lineitem",
        out.display()
    );
    let mut cluster = Cluster::start(Cluster::program(1, &batch_job(&sql, "")));
    cluster.wait_until("the first driver", |log| log.generation == 1);
    let driver = cluster.arguments_of("driver");
    cluster.wait_until("the worker", |log| log.workers.len() == 1);
    // A stopped parent removes no certificates and starts nothing again.
    cluster.signal_parent(Signal::STOP);
    let deadline = Instant::now() + LIMIT;
    while cluster.driver().is_some() {
        assert!(Instant::now() < deadline, "the job does not end");
        std::thread::yield_now();
    }
    let announced = scratch.path().join("second.json");
    let options = [
        ("--control", "127.0.0.1:0"),
        ("--announce", announced.to_str().unwrap()),
    ];
    let again = with_options(&driver, &options);
    let output = trireme(&again).run().succeeded();
    assert_eq!(output.stdout, "", "nothing runs again");
    let edited = scratch.write("edited.yaml", batch_job(&format!("{sql} WHERE true"), ""));
    let output = trireme(with_options(&again, &[("--job", edited.to_str().unwrap())]))
        .run()
        .exited(2);
    assert!(
        output.stderr.contains("error[MANIFEST-CHANGED]") && output.stderr.contains("start a new run"),
        "{output}"
    );
    cluster.signal_parent(Signal::CONT);
    let (output, _) = cluster.wait();
    assert_eq!(output.succeeded().stdout, "b\ntrue\n");
    let count = format!(
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}/'; SELECT count(*) AS n FROM t",
        out.display()
    );
    assert_eq!(
        trireme(["sql", "--output", "csv", "-c", &count])
            .run()
            .succeeded()
            .stdout,
        "n\n1\n"
    );
}

/// One disturbed run.
struct Strike {
    point: Point,
    /// Which of the job's moments at that point it was to be, from 0.
    moment: usize,
    /// What the driver was last known to be at.
    phase: String,
    running: usize,
    reruns: usize,
    generations: u64,
    counts: bool,
    seconds: f64,
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Strike {
            point,
            moment,
            phase,
            running,
            reruns,
            generations,
            counts,
            seconds,
        } = self;
        let point = format!("{point:?}");
        write!(
            f,
            "{point:<20} moment {moment:3}, {running} tasks running, {phase}: {reruns} tasks again, {generations} drivers, \
             {seconds:.1} s, counts: {counts}"
        )
    }
}

/// Runs the job and kills at `point`.
fn strike(job: &Job, point: Point, dice: &mut Dice) -> Strike {
    let scratch = Scratch::new();
    let moments = job.calm.marks.iter().filter(|mark| point.is_at(mark)).count() as u64;
    let moment = dice.below(moments) as usize;
    let mut cluster = Cluster::start(job.program(scratch.path()));
    cluster.wait_until(&format!("moment {moment} of {point:?}"), |log| {
        at(log, point, moment).is_some()
    });
    let before = cluster.log().clone();
    let mark = at(&before, point, moment).unwrap().clone();
    let victim = victim(&before, point, &mark);
    let hit = match victim {
        Some(worker) => cluster.signal_worker(worker, Signal::KILL),
        None => cluster.signal_driver(Signal::KILL),
    };
    let (output, log) = cluster.wait();
    let output = output.succeeded();
    job.check(&output.stdout, scratch.path());
    let lives: Vec<&ClusterLog> = log.earlier.iter().chain([&log]).collect();
    let counts = hit
        && match victim {
            Some(worker) => lost_work(lives[0], worker),
            None => lives.len() > 1 && was_at(lives[0], point, moment),
        };
    Strike {
        point,
        moment,
        phase: before.marks.last().map_or_else(String::new, |mark| format!("{mark:?}")),
        running: before.running().len(),
        reruns: lives.iter().map(|life| life.reruns()).sum(),
        generations: log.generation,
        counts,
        seconds: output.duration.as_secs_f64(),
    }
}

fn at(log: &ClusterLog, point: Point, moment: usize) -> Option<&Mark> {
    log.marks.iter().filter(|mark| point.is_at(mark)).nth(moment)
}

/// The worker to kill at `mark`; `None` for the driver.
fn victim(log: &ClusterLog, point: Point, mark: &Mark) -> Option<u64> {
    if point.kills_driver() {
        return None;
    }
    match *mark {
        Mark::Fetching { worker, .. } => Some(worker),
        Mark::Runs { task, .. } => {
            let worker = log.worker_of(task).expect("a task that runs was given away");
            let other = |launch: &&trireme_tests::Launch| launch.worker != worker;
            match point {
                // Whoever else has worked holds outputs that this task reads.
                Point::ShuffleFetch => Some(log.launches.iter().find(other).map_or(worker, |launch| launch.worker)),
                _ => Some(worker),
            }
        }
        _ => None,
    }
}

/// Whether something that `worker` had been given was given away again.
fn lost_work(life: &ClusterLog, worker: u64) -> bool {
    let mine = life.launches.iter().filter(|launch| launch.worker == worker);
    mine.into_iter().any(|mine| {
        let mut others = life.launches.iter();
        others.any(|again| again.place == mine.place && again.task > mine.task)
    })
}

/// Whether the driver of this life ended before it was past `moment`.
fn was_at(life: &ClusterLog, point: Point, moment: usize) -> bool {
    let mut marks = life.marks.iter();
    let reached = marks.by_ref().filter(|mark| point.is_at(mark)).nth(moment).is_some();
    let past = |mark: &Mark| match point {
        Point::Commit => matches!(mark, Mark::Committed),
        Point::JournalBeforeEffect => matches!(mark, Mark::Journaled { .. } | Mark::Committing),
        Point::EffectBeforeJournal => matches!(mark, Mark::Journaled { .. }),
        _ => false,
    };
    reached && !marks.any(past) && (point != Point::DriverAnywhere || !life.running().is_empty())
}

/// The job that is disturbed, and what it does when it is not.
struct Job {
    data: PathBuf,
    printed: String,
    left: String,
    calm: ClusterLog,
}

impl Job {
    /// Made by the first test that asks. Tables lie in files: a generator makes its rows again too fast to be hit.
    fn get() -> &'static Job {
        static JOB: OnceLock<Job> = OnceLock::new();
        JOB.get_or_init(|| {
            let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kills");
            if data.exists() {
                fs::remove_dir_all(&data).unwrap();
            }
            let copies = ["lineitem", "orders"].map(|table| {
                let folder = data.join(table);
                format!(
                    "COPY tpch.sf0_1.{table} TO '{}/' STORED AS PARQUET;\n",
                    folder.display()
                )
            });
            let _ = trireme(["run", "-f", "-"])
                .stdin(batch_job(&copies.concat(), ""))
                .run()
                .succeeded();
            let scratch = Scratch::new();
            let mut job = Job {
                data,
                printed: String::new(),
                left: String::new(),
                calm: ClusterLog::default(),
            };
            let (output, calm) = Cluster::start(job.program(scratch.path())).wait();
            let output = output.succeeded();
            assert_eq!((calm.generation, calm.reruns()), (1, 0), "{output}");
            assert!(output.stdout.lines().count() > 20, "{output}");
            (job.printed, job.left, job.calm) = (output.stdout, left(scratch.path()), calm);
            job
        })
    }

    /// Session state, a write, a table made of a query, an append (which shows if it is done twice), a result of several
    /// parts, and a query over all of it.
    fn program(&self, folder: &Path) -> trireme_tests::Program {
        let folder = folder.display();
        let sql = format!(
            "SET datafusion.execution.batch_size = 4096;
             CREATE VIEW late AS SELECT * FROM lineitem WHERE l_receiptdate > l_commitdate;
             COPY (SELECT l_orderkey, l_quantity, md5(l_comment) AS digest FROM late) TO '{folder}/late/' STORED AS PARQUET;
             CREATE TABLE spent AS SELECT o_custkey, sum(o_totalprice) AS total, count(*) AS orders
               FROM orders GROUP BY o_custkey;
             CREATE EXTERNAL TABLE log (customer BIGINT, total DECIMAL(25, 2)) STORED AS PARQUET LOCATION '{folder}/log/';
             INSERT INTO log SELECT o_custkey, total FROM spent WHERE orders > 20;
             INSERT INTO log SELECT o_custkey, total FROM spent WHERE orders < 3;
             SELECT o_orderkey, o_totalprice, o_comment FROM orders JOIN late ON l_orderkey = o_orderkey
               WHERE l_quantity > 45 ORDER BY o_totalprice DESC, o_orderkey, o_comment;
             SELECT count(*) AS customers, sum(total) AS total FROM log"
        );
        let table = |name: &str| {
            let location = self.data.join(name);
            format!(
                "- name: {name}\n  location: {}/\n  format: parquet\n",
                location.display()
            )
        };
        let tables = format!("tables:\n{}{}", table("lineitem"), table("orders"));
        Cluster::program(2, &batch_job(&sql, &tables))
    }

    /// Fails the test unless a run printed, and left in `folder`, what an undisturbed one does.
    fn check(&self, printed: &str, folder: &Path) {
        assert_eq!(printed, self.printed, "another answer");
        assert_eq!(left(folder), self.left, "another result at the destinations");
        for written in ["late", "log"] {
            assert!(
                folder.join(written).join("_SUCCESS").is_file(),
                "{written} is not complete"
            );
        }
    }
}

/// What a reader finds at the job's destinations.
fn left(folder: &Path) -> String {
    let folder = folder.display();
    let sql = format!(
        "CREATE EXTERNAL TABLE late STORED AS PARQUET LOCATION '{folder}/late/';
         CREATE EXTERNAL TABLE log STORED AS PARQUET LOCATION '{folder}/log/';
         SELECT count(*) AS n, sum(l_orderkey) AS keys, sum(l_quantity) AS quantity, min(digest), max(digest) FROM late;
         SELECT count(*) AS n, sum(customer) AS customers, sum(total) AS total FROM log"
    );
    trireme(["sql", "--output", "csv", "-c", &sql]).run().succeeded().stdout
}
