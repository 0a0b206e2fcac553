//! What the loss of one of two workers costs: `make bench-recovery`.
//!
//! Each round runs the same query three times: undisturbed; with a worker killed in the middle and a replacement that
//! joins 3 s later; with a worker killed and none that follows. It prints seconds and the ratio to the undisturbed run of
//! the same round. The parent of driver and workers is stopped meanwhile, so that it starts nothing by itself.

#![expect(clippy::print_stdout, reason = "it prints a table")]

use std::env;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use trireme_tests::{Cluster, Running, batch_job, repository, trireme, with_options};

/// When a replacement joins after a kill: what a pod takes to start on a node that has the image.
const REPLACED_AFTER: Duration = Duration::from_secs(3);

/// Nothing here takes longer.
const LIMIT: Duration = Duration::from_secs(300);

fn main() {
    let rounds: u32 = argument(1, "5")
        .parse()
        .expect("the first argument is a number of rounds");
    let data = argument(2, "");
    assert!(
        Path::new(&data).join("lineitem").is_dir(),
        "the second argument is a folder with TPC-H tables as folders of Parquet files"
    );
    println!("| round | undisturbed | killed at | replaced after 3 s | ratio | not replaced | ratio |");
    println!("|---|---|---|---|---|---|---|");
    for round in 1..=rounds {
        let calm = run(&data, None, None);
        let half = Some(calm.launches / 2);
        let replaced = run(&data, half, Some(REPLACED_AFTER));
        let alone = run(&data, half, None);
        let seconds = |run: &Run| run.elapsed.as_secs_f64();
        println!(
            "| {round} | {:.1} s | {:.1} s | {:.1} s | {:.2} | {:.1} s | {:.2} |",
            seconds(&calm),
            replaced.killed.as_secs_f64(),
            seconds(&replaced),
            seconds(&replaced) / seconds(&calm),
            seconds(&alone),
            seconds(&alone) / seconds(&calm),
        );
    }
}

fn argument(number: usize, usual: &str) -> String {
    env::args().nth(number).unwrap_or_else(|| usual.to_owned())
}

/// One run, from when both workers were there.
struct Run {
    elapsed: Duration,
    /// When the kill came.
    killed: Duration,
    /// Tasks that were given away.
    launches: usize,
}

/// Runs the queries; kills a worker at launch `kill` and starts another `replace` after that.
fn run(data: &str, kill: Option<usize>, replace: Option<Duration>) -> Run {
    let program = Cluster::program(2, &job(data)).limit(LIMIT);
    let mut cluster = Cluster::start(program).patient(LIMIT);
    cluster.wait_until("both workers", |log| log.workers.len() == 2);
    let started = Instant::now();
    cluster.signal_parent(Signal::STOP);
    let mut killed = Duration::ZERO;
    let mut replacement: Option<Running> = None;
    if let Some(kill) = kill {
        cluster.wait_until("the middle", |log| log.launches.len() >= kill);
        let worker = cluster.arguments_of("worker");
        let victim = cluster.log().workers[0].id;
        assert!(cluster.signal_worker(victim, Signal::KILL), "the worker had ended");
        killed = started.elapsed();
        if let Some(wait) = replace {
            // What is measured: there is nothing to wait for but the time that a pod takes.
            thread::sleep(wait);
            let scratch = env::temp_dir().join(format!("trireme-replacement-{}", std::process::id()));
            let options = [
                ("--name", "replacement"),
                ("--scratch", scratch.to_str().expect("a path of ours")),
            ];
            replacement = Some(trireme(with_options(&worker, &options)).limit(LIMIT).spawn());
        }
    }
    cluster.wait_until("the end of both queries", |log| log.costs.len() == 2);
    let elapsed = started.elapsed();
    let launches = cluster.log().launches.len();
    cluster.signal_parent(Signal::CONT);
    let (output, _) = cluster.wait();
    let _ = output.succeeded();
    // One that came too late would look for its driver for minutes.
    drop(replacement);
    Run {
        elapsed,
        killed,
        launches,
    }
}

/// TPC-H Q18 and Q9: joins and aggregations of the largest tables.
fn job(data: &str) -> String {
    let query = |name: &str| {
        let file = repository().join("tests/tpch").join(name);
        fs::read_to_string(file).expect("the queries are part of the repository")
    };
    let tables = [
        "customer", "lineitem", "nation", "orders", "part", "partsupp", "supplier",
    ]
    .map(|table| format!("- name: {table}\n  location: {data}/{table}/\n  format: parquet\n"));
    let sql = format!(
        "{};\n{}",
        query("q18.sql").trim_end().trim_end_matches(';'),
        query("q09.sql")
    );
    batch_job(&sql, &format!("tables:\n{}", tables.concat()))
}
