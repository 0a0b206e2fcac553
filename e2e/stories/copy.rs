//! The job of most stories: it writes a table to the store, long enough for something to happen to it, and what came of it can
//! be counted.

use serde_json::{Value, json};
use trireme_e2e::{Job, Lab, Store};

/// Rows of the table.
const LINES: u64 = 6_001_215;

/// What is asked for. Nodes of the test cluster have room for few pods: stories that take a node away ask for one executor.
pub fn spec(store: &Store, executors: u32) -> Value {
    let mut spec = store.fields();
    spec["sql"] = json!(sql(store, "l_quantity"));
    spec["executors"] = json!({ "min": executors, "memory": "1Gi" });
    spec["driver"] = json!({ "memory": "1Gi" });
    spec
}

/// The same, with executors of 256 MiB, which is less than comments take: their generator alone holds 300 MiB of text.
pub fn spec_short_of_memory(store: &Store) -> Value {
    let mut spec = spec(store, 1);
    spec["sql"] = json!(sql(store, "l_comment"));
    spec["executors"]["memory"] = json!("256Mi");
    spec
}

/// The same after ten statements more: a job that is still under way when a pod has come and gone, on any machine, and whose
/// tasks are all over soon.
pub fn spec_of_many_statements(store: &Store) -> Value {
    let mut spec = spec(store, 1);
    let before = "SELECT count(DISTINCT l_orderkey) AS orders FROM tpch.sf1.lineitem;\n".repeat(10);
    spec["sql"] = json!(before + &sql(store, "l_quantity"));
    spec
}

fn sql(store: &Store, column: &str) -> String {
    format!(
        "COPY (SELECT l_orderkey, l_linenumber, {column} FROM tpch.sf1.lineitem ORDER BY l_orderkey, l_linenumber) \
         TO '{}' STORED AS PARQUET;\nSELECT 1 AS done",
        store.url("lines")
    )
}

/// The job, applied.
pub async fn copy<'a>(lab: &'a Lab, store: &Store, executors: u32) -> Job<'a> {
    lab.apply("copy", spec(store, executors)).await
}

/// The job, with its driver and an executor at work.
pub async fn under_way<'a>(lab: &'a Lab, store: &Store, executors: u32) -> Job<'a> {
    let job = copy(lab, store, executors).await;
    job.condition("Ready", "True").await;
    job
}

/// Whether the table is there, whole; never a part of it.
pub fn is_there(store: &Store) -> bool {
    let rows = store.try_query(&format!(
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}'; \
         SELECT count(*) AS lines, count(DISTINCT l_orderkey * 8 + l_linenumber) AS keys FROM t",
        store.url("lines")
    ));
    let Ok(rows) = rows else { return false };
    let count = |column: &str| rows[0][column].as_u64();
    assert_eq!((count("lines"), count("keys")), (Some(LINES), Some(LINES)), "{rows}");
    true
}

/// The table is there once, whole.
pub fn check(store: &Store) {
    assert!(is_there(store), "there is no table");
}

/// What was charged to the budgets of application and infrastructure.
pub fn charged(status: &Value) -> (u64, u64) {
    let count = |budget: &str| status["retries"][budget].as_u64().unwrap_or_default();
    (count("application"), count("infrastructure"))
}
