//! Worker processes are killed, stopped, and told to end while a job runs: the job goes on, and its answer stays.
//!
//! A job is interrupted at the moments that its log tells of: when a task is given to a worker. A kill counts when it took
//! work away that had to be done again.

#![expect(
    clippy::print_stdout,
    reason = "which kills there were is shown when a test fails, or is asked for"
)]

use std::collections::BTreeSet;
use std::env;
use std::fmt;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use trireme_tests::{
    Cluster, ClusterLog, Dice, Launch, Mark, Output, Program, Scratch, batch_job, children, command_line, is_alive,
    listeners, repository, trireme,
};

/// Large enough that a query shuffles for seconds in a debug build, small enough that it can be run ten times.
const SCHEMA: &str = "sf0_5";

/// Tables of the query, with the columns that it reads.
const TABLES: [(&str, &str); 3] = [
    ("lineitem", "l_orderkey, l_quantity"),
    ("orders", "o_orderkey, o_custkey, o_orderdate, o_totalprice"),
    ("customer", "c_custkey, c_name"),
];

/// As many tasks in a stage as a job of this length would not get by itself: there are more moments to kill at.
const TWO_WAVES: &str = "SET datafusion.execution.target_partitions = 4;\n";

/// Kills that must count, unless `TRIREME_KILLS` says how many.
const KILLS: u64 = 5;

/// Tries per kill. Most count at once; one in a stage whose output nobody reads any more does not.
const TRIES_MAX: u32 = 5;

/// How soon all must be gone after Ctrl-C.
const END_LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_killed_worker_costs_a_rerun_never_the_answer() {
    let job = Job::get();
    let mut dice = Dice::from_environment();
    let kills = env::var("TRIREME_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let mut table = Vec::new();
    for number in 0..kills {
        let kill = (0..TRIES_MAX).find_map(|_| {
            // The kills spread over the whole run: each has its share of the launches to fall into.
            let launch = (number * job.launches + dice.below(job.launches)) / kills;
            let other = dice.below(2) == 1;
            println!("kill {number} comes at launch {launch}, to the other worker: {other}");
            Some(kill_one(job, launch as usize, other)).filter(|kill| kill.cost_work)
        });
        table.push(kill.unwrap_or_else(|| panic!("kill {number}: none of {TRIES_MAX} tries took work away")));
    }
    println!(
        "{} kills that counted, of a query that takes {:?}:",
        table.len(),
        job.duration
    );
    table.iter().for_each(|kill| println!("{kill}"));
    assert!(
        table.iter().any(|kill| kill.replaced),
        "nobody ever came for a killed worker"
    );
}

/// Each attempt deals the rows out anew, so that a reader of one deal beside a reader of another counts some rows twice and
/// others not at all.
#[test]
fn rows_dealt_out_at_random_are_counted_once_each() {
    let job = Job::get();
    let sql = "SELECT sum(rows), max(digest) IS NOT NULL FROM (SELECT bucket, count(*) AS rows, md5(CAST(bucket AS VARCHAR)) AS digest \
               FROM (SELECT CAST(floor(random() * 1000000) AS BIGINT) AS bucket FROM lineitem) GROUP BY bucket)";
    let manifest = batch_job(&format!("{TWO_WAVES}{sql}"), &job.tables);
    let start = || Cluster::start(Cluster::program(2, &manifest));
    let (calm, _) = start().wait();
    let answer = calm.succeeded().stdout;
    let counts = (0..TRIES_MAX).any(|_| {
        let mut cluster = start();
        let readers = |log: &ClusterLog| log.launches.iter().filter(|launch| launch.place.stage == 2).count();
        cluster.wait_until("a reader that is done", |log| readers(log) > 2);
        let victim = cluster.log().launches.last().unwrap().worker;
        cluster.signal_worker(victim, Signal::KILL);
        let (output, _) = cluster.wait();
        let output = output.succeeded();
        assert_eq!(output.stdout, answer, "{output}");
        output.stderr.contains("an output that differs each time is made again")
    });
    assert!(counts, "no kill came while some readers were done and others were not");
}

#[test]
fn losing_both_workers_waits_for_new_ones() {
    let job = Job::get();
    let mut cluster = job.start();
    cluster.wait_until("the middle of the job", |log| {
        log.launches.len() as u64 > job.launches / 2
    });
    let workers: Vec<u64> = cluster.log().workers.iter().map(|worker| worker.id).collect();
    for worker in &workers {
        assert!(cluster.signal_worker(*worker, Signal::KILL));
    }
    let log = job.finish(cluster);
    for worker in workers {
        assert!(log.worker(worker).lost && log.is_replaced(worker), "{log:#?}");
    }
    let newest = log.launches.last().unwrap();
    assert!(newest.worker > 2, "a dead worker got the last task: {log:#?}");
}

#[test]
fn a_stopped_worker_that_wakes_up_does_no_harm() {
    let job = Job::get();
    let mut cluster = job.start();
    let launch = nth_launch(&mut cluster, job.launches as usize / 2);
    let stopped = launch.worker;
    assert!(cluster.signal_worker(stopped, Signal::STOP));
    cluster.wait_until("the loss of the stopped worker", |log| log.worker(stopped).lost);
    // It goes on with its task, which somebody else has been given meanwhile.
    assert!(cluster.signal_worker(stopped, Signal::CONT));
    let log = job.finish(cluster);
    let again = log.launches.iter().filter(|again| again.place == launch.place).count();
    assert!(
        again > 1,
        "the stopped worker's task was not given away again: {log:#?}"
    );
}

#[test]
fn a_worker_told_to_end_drains() {
    let job = Job::get();
    let mut cluster = job.start();
    let leaving = nth_launch(&mut cluster, job.launches as usize / 3).worker;
    assert!(cluster.signal_worker(leaving, Signal::TERM));
    let log = job.finish(cluster);
    assert!(log.worker(leaving).drains, "the driver was not told: {log:#?}");
}

#[test]
fn a_write_survives_kills_whole() {
    let job = Job::get();
    let scratch = Scratch::new();
    let (calm, stormy) = (scratch.path().join("calm"), scratch.path().join("stormy"));
    let (output, _) = Cluster::start(job.write_to(&calm)).wait();
    let _ = output.succeeded();
    let mut cluster = Cluster::start(job.write_to(&stormy));
    let mut killed = Vec::new();
    // As the first parts are begun, and when the worker has finished some and begins another.
    for launch in [1, 4] {
        let worker = nth_launch(&mut cluster, launch).worker;
        assert!(cluster.signal_worker(worker, Signal::KILL));
        assert_eq!(parts(&stormy), [""; 0], "a reader sees a part of what is written");
        killed.push(worker);
    }
    let (output, log) = cluster.wait();
    println!("{output}");
    let output = output.succeeded();
    assert!(killed.iter().all(|worker| log.worker(*worker).lost), "{log:#?}");
    assert!(log.reruns() >= killed.len(), "no work was lost: {log:#?}");
    assert_eq!(totals(&stormy), totals(&calm));
    for folder in [calm, stormy] {
        assert!(folder.join("_SUCCESS").is_file(), "{}", folder.display());
        // part-NNNNN
        let partitions: BTreeSet<_> = parts(&folder).iter().map(|name| name[..10].to_owned()).collect();
        assert!(partitions.len() > 1, "{partitions:?} in {}", folder.display());
        assert_eq!(partitions.len(), parts(&folder).len(), "one file for each partition");
        let pending = fs::read_dir(folder.join("_trireme/tmp")).unwrap();
        let pending = pending.flat_map(|write| fs::read_dir(write.unwrap().path()).unwrap());
        assert_eq!(
            pending.count(),
            0,
            "parts of dead tasks are left in {}",
            folder.display()
        );
    }
    check_end(&output);
}

/// The view reads a table whose name another table has by the time the driver is killed, with none of the view's columns.
#[test]
fn a_driver_that_follows_knows_tables_that_were_replaced() {
    let sql = "CREATE TABLE big AS SELECT n_name FROM tpch.tiny.nation;\n\
               CREATE VIEW names AS SELECT n_name FROM big;\n\
               CREATE OR REPLACE TABLE big AS SELECT 1 AS one;\n\
               CREATE TABLE IF NOT EXISTS big AS SELECT 2 AS two;\n\
               SELECT one, (SELECT max(n_name) FROM names) AS last, \
               (SELECT count(DISTINCT l_comment) FROM tpch.sf0_1.lineitem) AS comments FROM big";
    let start = || Cluster::start(Cluster::program(1, &batch_job(sql, "")));
    let (calm, _) = start().wait();
    let calm = calm.succeeded();
    assert!(calm.stdout.starts_with("one,last,comments\n1,VIETNAM,"), "{calm}");
    let mut cluster = start();
    let started = Mark::Journaled {
        record: "statement-started".to_owned(),
    };
    cluster.wait_until("the last statement", |log| {
        log.marks.iter().filter(|mark| **mark == started).count() == 5
    });
    assert!(cluster.signal_driver(Signal::KILL));
    let (output, log) = cluster.wait();
    let output = output.succeeded();
    assert_eq!(output.stdout, calm.stdout, "{output}");
    assert_eq!(log.generation, 2, "{output}");
}

#[test]
fn ctrl_c_ends_everything() {
    let job = Job::get();
    let temporary = Scratch::new();
    let mut cluster = Cluster::start(job.program().variable("TMPDIR", temporary.path()));
    let _ = nth_launch(&mut cluster, job.launches as usize / 3);
    let pids = children(cluster.pid());
    assert_eq!(pids.len(), 3, "a driver and two workers");
    let told = Instant::now();
    cluster.signal_parent(Signal::INT);
    let (output, _) = cluster.wait();
    let output = output.exited(130);
    // All have closed their standard error. What is left of a process then is a matter of moments.
    while pids.iter().any(|pid| is_alive(*pid)) {
        assert!(told.elapsed() < END_LIMIT, "processes are left of {pids:?}\n{output}");
        std::thread::yield_now();
    }
    assert!(told.elapsed() < END_LIMIT, "it took {:?}\n{output}", told.elapsed());
    let left: Vec<_> = fs::read_dir(temporary.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(left.is_empty(), "files are left: {left:?}");
}

#[test]
fn every_listener_is_documented_and_closed_to_strangers() {
    let job = Job::get();
    let mut cluster = job.start();
    let _ = nth_launch(&mut cluster, 1);
    let parent = cluster.pid();
    assert_eq!(listeners(parent), [], "the parent listens");
    let processes = children(parent);
    assert_eq!(processes.len(), 3, "a driver and two workers");
    for process in processes {
        // The driver: control and http. A worker: data and http.
        let listeners = listeners(process);
        assert_eq!(listeners.len(), 2, "{listeners:?} of {}", command_line(process));
        for address in listeners {
            assert!(
                address.ip() == Ipv4Addr::LOCALHOST,
                "{address} of {}",
                command_line(process)
            );
            let answer = plain_request(address);
            assert!(
                says_nothing(&answer),
                "{address} of {} says {answer:?}",
                command_line(process)
            );
        }
    }
    let _ = job.finish(cluster);
}

/// The query that is interrupted, and how it goes when nobody does.
struct Job {
    /// `spec.tables`.
    tables: String,
    manifest: String,
    /// Answers of an undisturbed run.
    answer: String,
    /// Tasks that it takes.
    launches: u64,
    duration: Duration,
}

impl Job {
    /// Made by the first test that asks. The tables lie in files, because a generator makes the same rows again so fast
    /// that scans would be all that a kill can hit.
    fn get() -> &'static Job {
        static JOB: OnceLock<Job> = OnceLock::new();
        JOB.get_or_init(|| {
            let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join("recovery");
            if data.exists() {
                fs::remove_dir_all(&data).unwrap();
            }
            let copies = TABLES.map(|(table, columns)| {
                let folder = data.join(table);
                format!(
                    "COPY (SELECT {columns} FROM tpch.{SCHEMA}.{table}) TO '{}/' STORED AS PARQUET;\n",
                    folder.display()
                )
            });
            let copies = batch_job(&copies.concat(), "");
            let _ = trireme(["run", "-f", "-"]).stdin(copies).run().succeeded();
            let tables = TABLES.map(|(table, _)| {
                let folder = data.join(table);
                format!(
                    "- name: {table}\n  location: {}/\n  format: parquet\n",
                    folder.display()
                )
            });
            // TPC-H Q18: two joins and two aggregations over the largest tables, and an order that leaves no choice.
            let query = fs::read_to_string(repository().join("tests/tpch/q18.sql")).unwrap();
            let tables = format!("tables:\n{}", tables.concat());
            let manifest = batch_job(&format!("{TWO_WAVES}{query}"), &tables);
            let (output, log) = Cluster::start(Cluster::program(2, &manifest)).wait();
            let output = output.succeeded();
            assert!(output.stdout.lines().count() > 10, "{output}");
            assert!(log.launches.len() > 10, "{output}");
            assert_eq!(log.reruns(), 0, "{output}");
            Job {
                tables,
                manifest,
                answer: output.stdout,
                launches: log.launches.len() as u64,
                duration: output.duration,
            }
        })
    }

    fn program(&self) -> Program {
        Cluster::program(2, &self.manifest)
    }

    /// A write of several parts. Digests keep its tasks busy, and its files large.
    fn write_to(&self, folder: &Path) -> Program {
        let sql = format!(
            "{TWO_WAVES}COPY (SELECT *, md5(CAST(l_orderkey AS VARCHAR)) AS digest FROM lineitem) TO '{}/' STORED AS PARQUET",
            folder.display()
        );
        Cluster::program(2, &batch_job(&sql, &self.tables))
    }

    fn start(&self) -> Cluster {
        Cluster::start(self.program())
    }

    /// Waits for the end of a disturbed run, which must give the answer of an undisturbed one.
    fn finish(&self, cluster: Cluster) -> ClusterLog {
        let (output, log) = cluster.wait();
        println!("{output}");
        self.check(&output.succeeded());
        log
    }

    fn check(&self, output: &Output) {
        assert_eq!(output.stdout, self.answer, "another answer\n{output}");
        check_end(output);
    }
}

/// A job that is done is not held up by workers that nobody needs any more.
fn check_end(output: &Output) {
    let complaint = "a worker did not leave in time";
    assert!(
        !output.stderr.contains(complaint),
        "a worker was started for a job that had ended\n{output}"
    );
}

/// One kill and what it cost.
struct Kill {
    /// The launch after which it came, from 0.
    after: usize,
    /// What the worker was given last.
    victim: Option<Launch>,
    /// That work was given away again.
    cost_work: bool,
    launches_after: usize,
    reruns: usize,
    replaced: bool,
    duration: Duration,
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let victim = self.victim.map_or_else(
            || "idle".to_owned(),
            |launch| {
                format!(
                    "worker {} stage {:2} partition {}",
                    launch.worker, launch.place.stage, launch.place.partition
                )
            },
        );
        write!(
            f,
            "kill at launch {:2} of {victim}: {} launches after it, {} reruns, counts: {}, replaced: {}, {:.1} s",
            self.after,
            self.launches_after,
            self.reruns,
            self.cost_work,
            self.replaced,
            self.duration.as_secs_f64(),
        )
    }
}

/// Runs `job` and kills the worker that gets the task of launch `after`, as it begins; or the `other` one, which may be
/// anywhere in what it does.
fn kill_one(job: &Job, after: usize, other: bool) -> Kill {
    let mut cluster = job.start();
    cluster.wait_until("both workers", |log| log.workers.len() == 2);
    let target = nth_launch(&mut cluster, after).worker;
    let victim = if other { 3 - target } else { target };
    let launches_before = cluster.log().launches.len();
    let hit = cluster.signal_worker(victim, Signal::KILL);
    let (output, log) = cluster.wait();
    let output = output.succeeded();
    job.check(&output);
    let last = log.last_launch(victim);
    let cost_work = hit && last.is_some_and(|last| log.launches.iter().any(|again| is_rerun(again, &last)));
    if cost_work {
        assert!(log.worker(victim).lost, "the driver did not notice\n{output}");
        let restart = "a worker process ended; starting another";
        assert!(output.stderr.contains(restart), "the parent did not notice\n{output}");
    }
    Kill {
        after,
        victim: last,
        cost_work,
        launches_after: log.launches.len() - launches_before,
        reruns: log.reruns(),
        replaced: log.is_replaced(victim),
        duration: output.duration,
    }
}

/// Blocks until launch `number`, from 0, has been told.
fn nth_launch(cluster: &mut Cluster, number: usize) -> Launch {
    cluster.wait_until(&format!("launch {number}"), |log| log.launches.len() > number);
    cluster.log().launches[number]
}

fn is_rerun(again: &Launch, first: &Launch) -> bool {
    again.place == first.place && again.task > first.task
}

/// What a reader finds in a folder that was written to.
fn totals(folder: &Path) -> String {
    let sql = format!(
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}/'; \
         SELECT count(*), sum(l_orderkey), sum(l_quantity), min(digest), max(digest) FROM t",
        folder.display()
    );
    trireme(["sql", "--output", "csv", "-c", &sql]).run().succeeded().stdout
}

/// Names of the data files that a reader sees in a folder, `part-NNNNN-...`; none if there is no folder yet.
fn parts(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("part-")).collect()
}

/// Speaks HTTP without TLS to a port, and returns all that comes back until the port closes.
fn plain_request(address: SocketAddr) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{address} neither answers nor closes: {error}"),
    }
    answer
}

/// Nothing, or the alert of seven bytes (content type 21) by which TLS refuses what is not TLS.
fn says_nothing(answer: &[u8]) -> bool {
    answer.is_empty() || (answer.len() == 7 && answer[0] == 21)
}
