//! The command as people and scripts meet it: arguments, streams, formats, exit codes, signals.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use trireme_tests::{Output, Scratch, batch_job, repository, trireme};

/// Generates 600 million rows in constant memory: longer than any test waits.
const ENDLESS: &str = "SELECT sum(l_tax) FROM tpch.sf100.lineitem";

const SEVERAL: &str = "CREATE VIEW v AS SELECT 20 AS x;\nSELECT x + 1 AS last FROM v";

#[test]
fn version_names_the_release() {
    let output = trireme(["version"]).run().succeeded();
    assert!(output.stdout.contains(env!("CARGO_PKG_VERSION")), "{output}");
}

#[test]
fn help_is_an_answer_and_wrong_usage_is_an_error() {
    let help = trireme(["--help"]).run().succeeded();
    for command in ["run", "sql", "validate", "explain", "version"] {
        assert!(help.stdout.contains(command), "{command} is not in\n{help}");
    }
    for arguments in [
        &[][..],
        &["fly"],
        &["run"],
        &["run", "--workers", "many", "-f", "x"],
        &["sql", "-c"],
    ] {
        let output = trireme(arguments).run().exited(2);
        assert!(output.stdout.is_empty(), "what is wrong belongs on stderr\n{output}");
        assert!(output.stderr.contains("--help"), "{output}");
    }
}

#[test]
fn hello_world_greets() {
    let hello = repository().join("manifests/examples/batch/hello.yaml");
    let output = trireme(["run", "-f"].map(Into::into).into_iter().chain([hello]))
        .run()
        .succeeded();
    assert!(output.stdout.contains("hello from 25 nations"), "{output}");
}

#[test]
fn a_manifest_comes_through_standard_input() {
    let output = trireme(["run", "-f", "-"])
        .stdin(batch_job("SELECT 6 * 7 AS answer", ""))
        .run()
        .succeeded();
    assert_table(&output, &["answer", "42"]);
}

#[test]
fn statements_build_on_one_another() {
    let output = trireme(["run", "-f", "-"])
        .stdin(batch_job(SEVERAL, ""))
        .run()
        .succeeded();
    assert_table(&output, &["last", "21"]);
}

#[test]
fn results_and_progress_do_not_mix() {
    let output = trireme(["run", "-f", "-"])
        .stdin(batch_job(SEVERAL, ""))
        .run()
        .succeeded();
    assert!(
        output.stderr.contains("2/2"),
        "a run of several statements says where it is\n{output}"
    );
    assert!(
        !output.stderr.contains('\u{1b}'),
        "no terminal, no colours and cursor movements\n{output}"
    );
    let quiet = trireme(["run", "--quiet", "-f", "-"])
        .stdin(batch_job(SEVERAL, ""))
        .run()
        .succeeded();
    assert_eq!(
        (quiet.stdout.as_str(), quiet.stderr.as_str()),
        (output.stdout.as_str(), "")
    );
}

#[test]
fn a_run_for_machines_is_a_json_object_per_statement() {
    let output = trireme(["run", "--output", "json", "-f", "-"])
        .stdin(batch_job(SEVERAL, ""))
        .run()
        .succeeded();
    let lines = output.json_lines();
    assert_eq!(
        lines.iter().map(|line| &line["statement"]).collect::<Vec<_>>(),
        [1, 2],
        "{output}"
    );
    assert_eq!(lines[1]["rows"], json!([{ "last": 21 }]), "{output}");
}

#[test]
fn sql_prints_text_json_and_csv() {
    let sql = |format| {
        trireme(["sql", "--output", format, "-c", "SELECT 1 AS a, 'x' AS b"])
            .run()
            .succeeded()
    };
    assert_table(&sql("text"), &["a", "b", "1", "x"]);
    assert_eq!(sql("csv").stdout, "a,b\n1,x\n");
    assert_eq!(sql("json").json()["rows"], json!([{ "a": 1, "b": "x" }]));
}

#[test]
fn validate_accepts_what_runs_and_lists_what_does_not() {
    let scratch = Scratch::new();
    let good = scratch.write(
        "good.yaml",
        batch_job("SELECT 1", "executors:\n  min: 2\n  memory: 1Gi"),
    );
    let bad = scratch.write(
        "bad.yaml",
        batch_job("SELECT 1", "executers:\n  min: 2\nretries: often"),
    );
    let validate = |files: &[&std::path::PathBuf]| {
        let arguments = files.iter().flat_map(|file| ["-f".into(), (*file).clone()]);
        trireme(["validate".into()].into_iter().chain(arguments)).run()
    };
    let _ = validate(&[&good]).succeeded();
    let output = validate(&[&good, &bad]).exited(2);
    let text = format!("{}{}", output.stdout, output.stderr);
    for expected in ["bad.yaml:6", "spec.executers", "executors", "spec.retries"] {
        assert!(text.contains(expected), "{expected} is not in\n{output}");
    }
    assert!(!output.stderr.contains("good.yaml"), "{output}");
}

#[test]
fn validation_runs_nothing() {
    let scratch = Scratch::new();
    let written = scratch.path().join("written");
    let sql = format!("COPY (SELECT 1 AS x) TO '{}' STORED AS PARQUET", written.display());
    let _ = trireme(["validate", "-f", "-"])
        .stdin(batch_job(&sql, ""))
        .run()
        .succeeded();
    assert!(!written.exists());
}

#[test]
fn explain_shows_plan_and_limits() {
    let manifest = batch_job("SELECT n_name FROM tpch.tiny.nation ORDER BY n_name", "");
    let output = trireme(["explain", "-f", "-"]).stdin(manifest).run().succeeded();
    assert!(output.stdout.contains("Sort"), "{output}");
    let output = trireme(["explain", "--limits"]).run().succeeded();
    assert!(output.stdout.contains("statements"), "{output}");
}

#[test]
fn an_interrupt_cancels_cleanly() {
    let scratch = Scratch::new();
    let written = scratch.path().join("written");
    for workers in [&[][..], &["--workers", "1"]] {
        let sql = format!(
            "SELECT 1;\nCOPY ({ENDLESS}) TO '{}' STORED AS PARQUET",
            written.display()
        );
        let arguments = ["run", "-f", "-"].iter().chain(workers);
        let mut running = trireme(arguments).stdin(batch_job(&sql, "")).spawn();
        running.wait_for("the second statement", Duration::from_secs(60), |line| {
            line.text.contains("2/2")
        });
        running.signal_group(Signal::INT);
        let output = running.wait().exited(130);
        assert!(output.stderr.contains("error[CANCELLED]"), "{output}");
        let left = std::fs::read_dir(&written).map_or(0, |entries| entries.count());
        assert_eq!(left, 0, "what was not committed is gone\n{output}");
    }
}

fn assert_table(output: &Output, cells: &[&str]) {
    for cell in cells {
        assert!(output.stdout.contains(cell), "no {cell} in\n{output}");
    }
}
