//! A large COPY on two workers, while a driver and workers are killed and somebody reads the destination all the time: a
//! reader sees nothing or everything, and the driver stays small however much is written.
//!
//! `TRIREME_COPY_SCALE` makes it larger than the usual run's, as a TPC-H scale factor: 7 is 5 GB of text.

use std::env;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use trireme_tests::{Cluster, Mark, Scratch, batch_job, resident_peak, trireme};

/// Small enough for every run of the tests, large enough for a driver to be killed in the middle.
const SCALE: &str = "0.2";

/// A debug build on two busy cores writes a scale factor in less.
const SECONDS_PER_SCALE: f64 = 120.0;

/// One read of all of it.
const READ_LIMIT: Duration = Duration::from_secs(600);

/// A driver holds plans, receipts and the results that it shows, none of which grow with what is copied.
const DRIVER_MIB_MAX: u64 = 400;

#[test]
fn a_reader_sees_a_large_copy_whole_or_not_at_all() {
    let scale = env::var("TRIREME_COPY_SCALE").unwrap_or_else(|_| SCALE.to_owned());
    let schema = format!("sf{}", scale.replace('.', "_"));
    let scratch = Scratch::new();
    let out = scratch.path().join("out");
    let sql = format!(
        "COPY (SELECT * FROM tpch.{schema}.lineitem) TO '{}/' STORED AS CSV",
        out.display()
    );
    let expected = rows(&format!("SELECT count(*) AS n FROM tpch.{schema}.lineitem"));
    let limit = Duration::from_secs_f64(60.0 + SECONDS_PER_SCALE * scale.parse::<f64>().unwrap());
    let program = Cluster::program(2, &batch_job(&sql, "")).limit(limit * 3);
    let mut cluster = Cluster::start(program).patient(limit);
    let done = AtomicBool::new(false);
    let (seen, driver_mib, log) = thread::scope(|scope| {
        // Also when this test fails in between: the scope waits for the reader.
        let ended = Ended(&done);
        let reader = scope.spawn(|| {
            let mut seen = Vec::new();
            while !done.load(Ordering::Relaxed) {
                seen.push(rows(&read(&out)));
            }
            seen
        });
        // A worker in the middle of its parts; the driver before and after the commit point, each time another one.
        cluster.wait_until("a part", |log| {
            log.marks
                .iter()
                .any(|mark| matches!(mark, Mark::Runs { writes_parts: true, .. }))
        });
        let victim = cluster.log().workers[0].id;
        assert!(cluster.signal_worker(victim, Signal::KILL));
        let mut driver_mib = Vec::new();
        for generation in [1, 2] {
            // On a busy machine a kill may come after the commit, and the next driver has nothing left to do.
            cluster.wait_until("a commit", |log| {
                let done = !log.costs.is_empty();
                log.generation == generation && (done || log.marks.contains(&Mark::Committing))
            });
            if !cluster.log().marks.contains(&Mark::Committing) {
                break;
            }
            let peak = cluster.driver().and_then(resident_peak);
            driver_mib.extend(peak.map(|bytes| bytes >> 20));
            assert!(cluster.signal_driver(Signal::KILL));
        }
        let (output, log) = cluster.wait();
        drop(ended);
        let _ = output.succeeded();
        (reader.join().unwrap(), driver_mib, log)
    });
    let whole = seen.iter().filter(|rows| **rows == expected).count();
    println!(
        "scale {scale}: {expected} rows in {} bytes; {} reads, {whole} of them of everything, the others of nothing; drivers' \
         peak memory {driver_mib:?} MiB; {} drivers",
        size(&out),
        seen.len(),
        log.generation
    );
    for rows in seen {
        assert!(
            rows == "0" || rows == expected,
            "a reader saw {rows} of {expected} rows"
        );
    }
    assert_eq!(rows(&read(&out)), expected);
    assert!(parts(&out).len() > 1, "one task wrote all of it");
    assert!(out.join("_SUCCESS").is_file());
    let peak = driver_mib.into_iter().max().unwrap_or(0);
    assert!((1..DRIVER_MIB_MAX).contains(&peak), "a driver took {peak} MiB");
}

/// Says that it is over.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A query over the destination. The columns are declared: there may be no file yet to read them from.
fn read(folder: &Path) -> String {
    format!(
        "CREATE EXTERNAL TABLE copy (l_orderkey BIGINT, l_partkey BIGINT, l_suppkey BIGINT, l_linenumber INT,
           l_quantity DECIMAL(15, 2), l_extendedprice DECIMAL(15, 2), l_discount DECIMAL(15, 2), l_tax DECIMAL(15, 2),
           l_returnflag VARCHAR, l_linestatus VARCHAR, l_shipdate DATE, l_commitdate DATE, l_receiptdate DATE,
           l_shipinstruct VARCHAR, l_shipmode VARCHAR, l_comment VARCHAR)
         STORED AS CSV LOCATION '{}/' OPTIONS ('format.has_header' 'true');
         SELECT count(*) AS n FROM copy",
        folder.display()
    )
}

/// The one number that a query yields.
fn rows(sql: &str) -> String {
    let output = trireme(["sql", "--output", "csv", "-c", sql])
        .limit(READ_LIMIT)
        .run()
        .succeeded();
    output
        .stdout
        .lines()
        .nth(1)
        .unwrap_or_else(|| panic!("{output}"))
        .to_owned()
}

fn parts(folder: &Path) -> Vec<std::fs::DirEntry> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("part-"))
        .collect()
}

fn size(folder: &Path) -> u64 {
    parts(folder).iter().map(|part| part.metadata().unwrap().len()).sum()
}
