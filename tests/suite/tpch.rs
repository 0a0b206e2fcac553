//! TPC-H: all 22 queries, equal to two engines that we trust, in process and on workers.
//!
//! The data are made once per test run and exported to Parquet, from which everybody reads. Scale factor 0.1 is the smallest
//! at which every query has rows to answer with.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use trireme_tests::{Cluster, ClusterLog, Engine, Scratch, answers, batch_job, compare, repository, trireme};

const SCHEMA: &str = "sf0_1";

/// Tables and their rows at scale factor 0.1; the specification (clause 4.2.5) gives these numbers, lineitem's for SF 1.
pub const TABLES: [(&str, u32); 8] = [
    ("customer", 15_000),
    ("lineitem", 600_572),
    ("nation", 25),
    ("orders", 150_000),
    ("part", 20_000),
    ("partsupp", 80_000),
    ("region", 5),
    ("supplier", 1_000),
];

/// A query may take this long on two cores that other tests use too.
const QUERY_LIMIT: Duration = Duration::from_secs(120);

#[test]
fn tpch_in_process() {
    check(0, &Source::files());
}

/// The generator read in place of files: another scan, the same answers.
#[test]
fn tpch_generated() {
    check(0, &Source::generator());
}

#[test]
fn tpch_workers_1() {
    check(1, &Source::files());
}

#[test]
fn tpch_workers_2() {
    check(2, &Source::files());
}

#[test]
fn tpch_workers_3() {
    check(3, &Source::files());
}

/// A stage that reads what another wrote and writes it once more costs a round of tasks for nothing.
#[test]
fn tpch_no_stage_only_passes_rows_on() {
    let statements: Vec<_> = queries().into_iter().map(|(_, sql)| sql).collect();
    let sql = format!("{}{}", generator_statements("sf1"), statements.join(";\n"));
    let pictures = trireme(["explain", "-f", "-"])
        .stdin(batch_job(&sql, ""))
        .run()
        .succeeded()
        .stdout;
    let mut stages = 0;
    for picture in pictures.split('┌').skip(1) {
        let operators: Vec<_> = picture.lines().filter(|line| line.starts_with("   │")).collect();
        let idle = operators.len() == 2 && operators[1].contains("UnresolvedShuffleExec");
        assert!(!idle, "{picture}");
        stages += 1;
    }
    assert!(stages > 100, "{pictures}");
}

/// Runs every query on `workers` worker processes (0: in process) and compares the answers with both oracles.
fn check(workers: u32, source: &Source) {
    let oracles = Oracles::get();
    let scratch = Scratch::new();
    let mut exchange = Exchange::default();
    for (name, sql) in queries() {
        let out = scratch.path().join(&name);
        let fields = format!(
            "{}result:\n  location: {}\n  format: parquet\n",
            source.tables,
            out.display()
        );
        let manifest = batch_job(&format!("{}{sql}", source.statements), &fields);
        if workers == 0 {
            let _ = trireme(["run", "-f", "-"])
                .stdin(manifest)
                .limit(QUERY_LIMIT)
                .run()
                .succeeded();
        } else {
            let output = Cluster::program(workers, &manifest)
                .limit(QUERY_LIMIT)
                .run()
                .succeeded();
            exchange.note(&name, workers, &ClusterLog::of(&output.stderr));
        }
    }
    exchange.check(workers);
    for expected in [&oracles.datafusion, &oracles.duckdb] {
        let lines = compare(expected, scratch.path());
        assert_eq!(lines.lines().count(), 22, "{lines}");
    }
}

/// What went between processes, over all queries: that they ran on workers, and not beside them.
#[derive(Default)]
struct Exchange {
    shuffle_bytes: u64,
    /// Most workers that had tasks of one query.
    busy: usize,
}

impl Exchange {
    fn note(&mut self, query: &str, workers: u32, log: &ClusterLog) {
        let pids: BTreeSet<_> = log.workers.iter().map(|worker| worker.pid.as_raw_nonzero()).collect();
        // Not all join in time: a query may be over before the last has started.
        assert!(
            !pids.is_empty() && pids.len() == log.workers.len() && pids.len() <= workers as usize,
            "{query}: {log:#?}"
        );
        let cost = log
            .costs
            .last()
            .unwrap_or_else(|| panic!("{query} has no cost: {log:#?}"));
        assert!(cost.result_bytes > 0, "{query} fetched nothing from workers: {log:#?}");
        self.shuffle_bytes += cost.shuffle_bytes;
        let busy: BTreeSet<_> = log
            .launches
            .iter()
            .map(|launch| log.worker(launch.worker).pid.as_raw_nonzero())
            .collect();
        self.busy = self.busy.max(busy.len());
    }

    fn check(&self, workers: u32) {
        assert_eq!(self.busy, workers as usize, "no query ran on all workers");
        assert!(
            workers < 2 || self.shuffle_bytes > 0,
            "workers fetched nothing from each other"
        );
    }
}

pub fn queries() -> Vec<(String, String)> {
    let files = fs::read_dir(query_folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut queries: Vec<_> = files
        .map(|file| {
            (
                file.file_stem().unwrap().to_string_lossy().into_owned(),
                fs::read_to_string(&file).unwrap(),
            )
        })
        .collect();
    queries.sort();
    assert_eq!(queries.len(), 22);
    queries
}

fn generator_statements(schema: &str) -> String {
    format!("SET datafusion.catalog.default_catalog = 'tpch';\nSET datafusion.catalog.default_schema = '{schema}';\n")
}

pub fn query_folder() -> PathBuf {
    repository().join("tests/tpch")
}

/// Where a query's tables come from.
struct Source {
    /// Statements before the query.
    statements: String,
    /// Fields of `spec`.
    tables: String,
}

impl Source {
    fn files() -> Source {
        let data = &Oracles::get().data;
        let table = |(name, _): &(&str, u32)| {
            format!(
                "- name: {name}\n  location: {}/\n  format: parquet\n",
                data.join(name).display()
            )
        };
        let tables = format!("tables:\n{}", TABLES.iter().map(table).collect::<String>());
        Source {
            statements: String::new(),
            tables,
        }
    }

    fn generator() -> Source {
        Source {
            statements: generator_statements(SCHEMA),
            tables: String::new(),
        }
    }
}

/// The data as Parquet, and the trusted answers over them.
struct Oracles {
    data: PathBuf,
    datafusion: PathBuf,
    duckdb: PathBuf,
}

impl Oracles {
    /// Made by the first test that asks, below cargo's folder for tests' files, and made anew in every run: answers of an
    /// older exporter must not vouch for a newer one.
    fn get() -> &'static Oracles {
        static ORACLES: OnceLock<Oracles> = OnceLock::new();
        ORACLES.get_or_init(|| {
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tpch");
            if folder.exists() {
                fs::remove_dir_all(&folder).unwrap();
            }
            let (data, datafusion, duckdb) = (folder.join("data"), folder.join("datafusion"), folder.join("duckdb"));
            export(&data);
            answers(Engine::DataFusion, &data, &query_folder(), &datafusion);
            answers(Engine::DuckDb, &data, &query_folder(), &duckdb);
            compare(&datafusion, &duckdb);
            Oracles {
                data,
                datafusion,
                duckdb,
            }
        })
    }
}

/// Writes every table with COPY, and checks that all of it arrived.
fn export(data: &Path) {
    fs::create_dir_all(data).unwrap();
    let copy = |(name, _): &(&str, u32)| {
        format!(
            "COPY tpch.{SCHEMA}.{name} TO '{}/' STORED AS PARQUET;\n",
            data.join(name).display()
        )
    };
    let manifest = batch_job(&TABLES.iter().map(copy).collect::<String>(), "");
    let _ = trireme(["run", "-f", "-"]).stdin(manifest).run().succeeded();
    let count = |(name, _): &(&str, u32)| format!("SELECT '{name}' AS name, count(*) AS rows FROM {name}");
    let sql = format!(
        "{} ORDER BY name",
        TABLES.iter().map(count).collect::<Vec<_>>().join(" UNION ALL ")
    );
    let scratch = Scratch::new();
    let queries = scratch.path().join("queries");
    scratch.write("queries/rows.sql", format!("-- order: 1\n{sql}"));
    answers(Engine::DuckDb, data, &queries, &scratch.path().join("found"));
    let row = |(name, rows): &(&str, u32)| format!("('{name}', {rows})");
    let rows = TABLES.iter().map(row).collect::<Vec<_>>().join(", ");
    scratch.write(
        "queries/rows.sql",
        format!("SELECT * FROM (VALUES {rows}) AS t(name, rows)"),
    );
    answers(Engine::DuckDb, data, &queries, &scratch.path().join("expected"));
    compare(&scratch.path().join("expected"), &scratch.path().join("found"));
}
