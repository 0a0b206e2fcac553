//! TPC-H under memory limits that the kernel holds: a control group around the driver and each of two workers.
//!
//! Continuous integration runs a few queries. All of them, at any size: `TRIREME_MEMORY_RUNS=1:768,10:4096` names scale
//! factors and the workers' limits in MiB; `TRIREME_MEMORY_QUERIES=q09,q18` selects; `TRIREME_MEMORY_DATA` names a folder
//! that keeps data and expected answers between runs; `TRIREME_MEMORY_CORES` is the number of tasks that a worker runs at a
//! time (1). Each run prints a table and says what went wrong.

use std::cell::RefCell;
use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::Pid;
use serde_json::Value;
use trireme_tests::{
    Cluster, Engine, MemoryGroup, Scratch, answers, batch_job, children, command_line, difference, resident_peak,
    trireme, without_cgroups,
};

use crate::tpch::{TABLES, queries, query_folder};

const MIB: u64 = 1 << 20;

/// What the driver may use, whatever the workers have: it holds plans and results, no tables.
const DRIVER_BYTES: u64 = 512 * MIB;

/// One query or one export. At scale factor 10 on two cores, a query that spills takes minutes.
const RUN_LIMIT: Duration = Duration::from_secs(1800);

/// Two queries that spill at this limit, and the one with the most joins.
#[test]
fn a_limit_is_kept_by_spilling() {
    if without_cgroups() {
        return;
    }
    let run = Run {
        scale: "1".to_owned(),
        worker_bytes: 384 * MIB,
        cores: 1,
        only: ["q09", "q18", "q21"].map(str::to_owned).to_vec(),
    };
    let table = run.table(&Data::get(&run.scale, &default_folder()));
    assert!(table.failures.is_empty(), "{}", table.text);
    assert!(table.spilled >= 2, "nothing had to be spilled\n{}", table.text);
}

/// Rows of many columns into one file that is sorted, into sixty that are open at once, and into more than can be.
#[test]
fn a_limit_is_kept_by_writes() {
    if without_cgroups() {
        return;
    }
    let data = Data::get("1", &default_folder());
    let scratch = Scratch::new();
    let totals = "SELECT count(*) AS n, sum(l_orderkey) AS keys, min(l_comment) AS first FROM";
    let out = |name: &str| scratch.path().join(name).display().to_string();
    let divided = |buckets: u32, name: &str| {
        format!(
            "COPY (SELECT *, l_orderkey % {buckets} AS bucket FROM lineitem) TO '{}/' \
             STORED AS PARQUET PARTITIONED BY (bucket);\n",
            out(name)
        )
    };
    let sql = format!(
        "COPY (SELECT * FROM lineitem ORDER BY l_comment) TO '{}/' STORED AS PARQUET;\n{}{}{totals} lineitem",
        out("sorted"),
        divided(60, "divided"),
        divided(300, "spread"),
    );
    let run = Run {
        scale: "1".to_owned(),
        worker_bytes: 384 * MIB,
        cores: 1,
        only: Vec::new(),
    };
    let (mut watched, _work) = run.start(&data, &sql, "");
    let (output, log) = watched.wait();
    let done = output.succeeded().stdout;
    let lost: Vec<_> = log.workers.iter().filter(|worker| worker.lost).collect();
    assert!(lost.is_empty() && watched.oom_kills() == 0, "lost: {lost:?}");
    for name in ["sorted", "divided", "spread"] {
        let table = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}/';", out(name));
        let written = trireme(["sql", "--output", "json", "-c", &format!("{table} {totals} t")]);
        let written = written.run().succeeded().stdout;
        assert_eq!(rows_of_last(&written), rows_of_last(&done), "{name}");
    }
}

fn rows_of_last(output: &str) -> Value {
    let last: Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    last["rows"].clone()
}

/// What `TRIREME_MEMORY_RUNS` asks for.
#[test]
fn limits_of_the_matrix_are_kept() {
    let Ok(runs) = env::var("TRIREME_MEMORY_RUNS") else {
        return;
    };
    if without_cgroups() {
        return;
    }
    let list = |name: &str| {
        let text = env::var(name).unwrap_or_default();
        let words = text.split(',').filter(|word| !word.is_empty()).map(str::to_owned);
        words.collect::<Vec<_>>()
    };
    let folder = env::var_os("TRIREME_MEMORY_DATA").map_or_else(default_folder, PathBuf::from);
    let mut failures = String::new();
    for run in runs.split(',') {
        let (scale, mebibytes) = run.split_once(':').unwrap();
        let run = Run {
            scale: scale.to_owned(),
            worker_bytes: mebibytes.parse::<u64>().unwrap() * MIB,
            cores: env::var("TRIREME_MEMORY_CORES").map_or(1, |cores| cores.parse().unwrap()),
            only: list("TRIREME_MEMORY_QUERIES"),
        };
        let table = run.table(&Data::get(&run.scale, &folder));
        failures.push_str(&table.failures);
    }
    assert!(failures.is_empty(), "{failures}");
}

/// Shows a line at once: a run takes long, and cargo's harness shows the output of tests that fail only.
fn show(text: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
}

fn default_folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("memory")
}

/// Queries over one set of data under one limit.
struct Run {
    scale: String,
    worker_bytes: u64,
    cores: u32,
    /// Empty: all.
    only: Vec<String>,
}

/// What happened, for people, as a table in Markdown.
struct Table {
    text: String,
    failures: String,
    /// Queries that spilled.
    spilled: u32,
}

impl Run {
    fn table(&self, data: &Data) -> Table {
        let Run {
            scale,
            worker_bytes,
            cores,
            only,
        } = self;
        let mut table = Table {
            text: format!(
                "\n### Scale factor {scale}, two workers of {} MiB and {cores} task(s) at a time, driver {} MiB\n\n\
                 Peaks in MiB: of the process, its program's own pages included / of its control group, where cached files count too.\n\n\
                 | query | seconds | driver | worker 1 | worker 2 | spilled MiB | answer |\n|---|---|---|---|---|---|---|\n",
                worker_bytes / MIB,
                DRIVER_BYTES / MIB,
            ),
            failures: String::new(),
            spilled: 0,
        };
        show(&table.text);
        for (name, sql) in queries() {
            if !only.is_empty() && !only.contains(&name) {
                continue;
            }
            let row = self.query(data, &name, &sql);
            let answer = row
                .failure
                .as_deref()
                .map_or("ok", |failure| failure.lines().next().unwrap_or(""));
            let peaks = row.peaks.iter().fold(String::new(), |mut text, (own, group)| {
                let _ = write!(text, "{} / {} | ", own / MIB, group / MIB);
                text
            });
            let (seconds, spilled) = (row.seconds, row.spilled_bytes as f64 / MIB as f64);
            let line = format!("| {name} | {seconds:.1} | {peaks}{spilled:.1} | {answer} |\n");
            show(&line);
            table.text.push_str(&line);
            table.spilled += u32::from(row.spilled_bytes > 0);
            if let Some(failure) = row.failure {
                let _ = writeln!(table.failures, "scale factor {scale}, {name}: {failure}");
            }
        }
        show(&format!("\n{} queries spilled.\n", table.spilled));
        table
    }

    /// Starts a job of `sql` over the tables of `data`, with further `fields` of its spec.
    fn start(&self, data: &Data, sql: &str, fields: &str) -> (Watched, Scratch) {
        let fields = format!(
            "executors:\n  cores: {}\n  memory: {}Mi\ndriver:\n  memory: {}Mi\n{}{fields}",
            self.cores,
            self.worker_bytes / MIB,
            DRIVER_BYTES / MIB,
            data.tables(),
        );
        let work = Scratch::new();
        let folder = work.path().join("work").display().to_string();
        let arguments = ["--output", "json", "--quiet", "--scratch", &folder];
        let program = Cluster::program_with(2, &batch_job(sql, &fields), &arguments);
        let watched = Watched::start(Cluster::start(program.limit(RUN_LIMIT)), self.worker_bytes);
        (watched, work)
    }

    fn query(&self, data: &Data, name: &str, sql: &str) -> Row {
        let scratch = Scratch::new();
        let out = scratch.path().join(name);
        let fields = format!("result:\n  location: {}\n  format: parquet\n", out.display());
        let (mut watched, _work) = self.start(data, sql, &fields);
        let (output, log) = watched.wait();
        let mut failure = None;
        let mut fail = |text: String| {
            failure.get_or_insert(text);
        };
        if watched.oom_kills() > 0 {
            fail(format!("the kernel killed {} processes", watched.oom_kills()));
        }
        if log.workers.len() > 2 || log.workers.iter().any(|worker| worker.lost) {
            fail("a worker was lost".to_owned());
        }
        let last = output.stdout.lines().last().unwrap_or_default();
        let done: Value = serde_json::from_str(last).unwrap_or_default();
        if !output.status.success() {
            let told = output.stderr.lines().filter(|line| !line.starts_with("20"));
            fail(told.collect::<Vec<_>>().join(" "));
        } else if let Some(text) = difference(&data.answers, scratch.path(), name) {
            fail(text);
        }
        Row {
            seconds: done["elapsedMs"]
                .as_f64()
                .map_or(output.duration.as_secs_f64(), |ms| ms / 1000.0),
            peaks: watched.peaks(),
            spilled_bytes: done["spilledBytes"].as_u64().unwrap_or(0),
            failure,
        }
    }
}

struct Row {
    seconds: f64,
    /// Driver, worker 1, worker 2: of the process, of its group.
    peaks: Vec<(u64, u64)>,
    spilled_bytes: u64,
    failure: Option<String>,
}

/// A cluster whose processes are in groups.
struct Watched {
    cluster: Option<Cluster>,
    processes: Vec<Process>,
}

struct Process {
    pid: Pid,
    group: MemoryGroup,
    /// As far as it was seen: a process that has ended tells no more.
    resident: RefCell<u64>,
}

impl Process {
    fn new(pid: Pid, name: &str, limit: u64) -> Process {
        let group = MemoryGroup::new(name, limit);
        group.add(pid);
        Process {
            pid,
            group,
            resident: RefCell::default(),
        }
    }

    fn look(&self) {
        if let Some(peak) = resident_peak(self.pid) {
            *self.resident.borrow_mut() = peak;
        }
    }
}

impl Watched {
    /// Moves each process into its group as soon as it is known: workers when they join, before they can have done much.
    fn start(mut cluster: Cluster, worker_bytes: u64) -> Watched {
        let mut processes = Vec::new();
        for count in 1..=2 {
            cluster.wait_until("a worker", |log| log.workers.len() >= count);
            let worker = &cluster.log().workers[count - 1];
            processes.push(Process::new(worker.pid, &format!("worker-{count}"), worker_bytes));
        }
        let driver = children(cluster.pid())
            .into_iter()
            .find(|pid| command_line(*pid).contains(" driver "));
        processes.insert(0, Process::new(driver.unwrap(), "driver", DRIVER_BYTES));
        Watched {
            cluster: Some(cluster),
            processes,
        }
    }

    fn wait(&mut self) -> (trireme_tests::Output, trireme_tests::ClusterLog) {
        let cluster = self.cluster.take().unwrap();
        cluster.wait_watching(|| self.processes.iter().for_each(Process::look))
    }

    fn oom_kills(&self) -> u64 {
        self.processes
            .iter()
            .map(|process| process.group.usage().oom_kills)
            .sum()
    }

    fn peaks(&self) -> Vec<(u64, u64)> {
        let peaks = self.processes.iter();
        peaks
            .map(|process| (*process.resident.borrow(), process.group.usage().peak))
            .collect()
    }
}

/// Tables as Parquet, and the answers of DuckDB, which reads the same files.
struct Data {
    tables: PathBuf,
    answers: PathBuf,
}

impl Data {
    /// Made where it is not there, by one test while others wait for it.
    fn get(scale: &str, folder: &Path) -> Data {
        static MAKING: Mutex<()> = Mutex::new(());
        let _making = MAKING.lock().unwrap();
        let folder = folder.join(format!("sf{scale}"));
        let (tables, expected) = (folder.join("tables"), folder.join("answers"));
        if !expected.exists() {
            let copy = |(name, _): &(&str, u32)| {
                let (schema, location) = (scale.replace('.', "_"), tables.join(name));
                format!(
                    "COPY tpch.sf{schema}.{name} TO '{}/' STORED AS PARQUET;\n",
                    location.display()
                )
            };
            let manifest = batch_job(&TABLES.iter().map(copy).collect::<String>(), "");
            // What an interrupted export left would be refused.
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&tables).unwrap();
            let export = trireme(["run", "-f", "-"]).stdin(manifest).limit(RUN_LIMIT);
            let _ = export.run().succeeded();
            let unfinished = folder.join("answers.part");
            answers(Engine::DuckDb, &tables, &query_folder(), &unfinished);
            fs::rename(&unfinished, &expected).unwrap();
        }
        Data {
            tables,
            answers: expected,
        }
    }

    /// `spec.tables`.
    fn tables(&self) -> String {
        let table = |(name, _): &(&str, u32)| {
            let location = self.tables.join(name);
            format!(
                "- name: {name}\n  location: {}/\n  format: parquet\n",
                location.display()
            )
        };
        format!("tables:\n{}", TABLES.iter().map(table).collect::<String>())
    }
}
