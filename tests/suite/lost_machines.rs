//! Machines that vanish: nothing comes from them any more, not even the end of a connection. A stopped process is one, because
//! the kernel goes on taking what is sent to it.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use trireme_tests::{Cluster, ClusterLog, Mark, batch_job, connections_to, listeners};

/// A join whose tasks read large outputs of the other worker, slowly: digests keep them at each batch, so that most of a block is
/// still with the worker that made it. A full join sends neither side to all tasks.
const JOIN: &str = "SET datafusion.execution.target_partitions = 4;\n\
    SELECT count(*) AS n FROM tpch.sf0_5.lineitem FULL JOIN tpch.sf0_5.orders ON l_orderkey = o_orderkey \
    WHERE md5(md5(md5(concat(l_comment, o_comment)))) < '8'";

/// The stage of [`JOIN`] that joins.
const JOINS: u64 = 3;

/// A dial takes milliseconds.
const DIAL_LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_machine_that_vanishes_while_it_is_read_costs_a_rerun_never_the_answer() {
    let manifest = batch_job(JOIN, "");
    let (calm, log) = Cluster::start(Cluster::program(2, &manifest)).wait();
    let answer = calm.succeeded().stdout;
    assert!(log.launches.iter().any(|launch| launch.place.stage > JOINS), "{log:#?}");

    let mut cluster = Cluster::start(Cluster::program(2, &manifest));
    cluster.wait_until("a join", |log| reader(log).is_some());
    let reader = reader(cluster.log()).unwrap();
    let log = cluster.log();
    let vanishing = log.workers.iter().find(|worker| worker.id != reader).unwrap().clone();
    let ports = listeners(vanishing.pid);
    let dialled = || ports.iter().map(|port| connections_to(*port)).sum::<usize>() > 0;
    let started = Instant::now();
    while !dialled() {
        assert!(
            started.elapsed() < DIAL_LIMIT,
            "nobody reads from worker {}",
            vanishing.id
        );
        thread::yield_now();
    }
    assert!(cluster.signal_worker(vanishing.id, Signal::STOP));
    // Nobody wakes it up. Its parent kills it when the job is done.
    let (output, log) = cluster.wait();
    let output = output.succeeded();
    assert_eq!(output.stdout, answer, "{output}");
    assert!(log.worker(vanishing.id).lost, "{output}");
    let unreadable = format!("failure=FetchFailed {{ from_worker: WorkerId({})", vanishing.id);
    assert!(output.stderr.contains(&unreadable), "no reader gave up\n{output}");
}

/// The first worker that joins.
fn reader(log: &ClusterLog) -> Option<u64> {
    let runs = |task| {
        log.marks
            .iter()
            .any(|mark| matches!(mark, Mark::Runs { task: runs, .. } if *runs == task))
    };
    let mut joins = log.launches.iter().filter(|launch| launch.place.stage == JOINS);
    joins.find(|launch| runs(launch.task)).map(|launch| launch.worker)
}
