//! The command as people and scripts meet it: arguments, streams, formats, exit codes, signals.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use trireme_tests::{Output, Program, Scratch, batch_job, binary, repository, trireme};

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
fn what_is_missing_on_the_command_line_is_told_with_every_way_to_give_it() {
    for (command, ways) in [("sql", ["--command", "--file"]), ("explain", ["--file", "--limits"])] {
        let output = trireme([command]).run().exited(2);
        for way in ways {
            assert!(output.stderr.contains(way), "{way} is not in\n{output}");
        }
    }
    let output = trireme(["sql", "--memory", "1", "-c", "SELECT 1"]).run().exited(2);
    assert!(output.stderr.contains("128Mi to 16Ti"), "{output}");
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

/// Sums of money are decimals, and programs read JSON.
#[test]
fn numbers_in_json_keep_their_digits() {
    let sql = "SELECT CAST('12345678901234567.89' AS DECIMAL(20,2)) AS a, CAST('1.10' AS DECIMAL(3,2)) AS b";
    let output = trireme(["sql", "--output", "json", "-c", sql]).run().succeeded();
    assert!(
        output
            .stdout
            .contains(r#""rows":[{"a":12345678901234567.89,"b":1.10}]"#),
        "{output}"
    );
}

#[test]
fn a_table_that_is_cut_says_how_to_see_more() {
    let output = trireme(["sql", "--max-rows", "2", "-c", "SELECT n_name FROM tpch.tiny.nation"])
        .run()
        .succeeded();
    assert!(
        output
            .stdout
            .ends_with("2 of 25 rows; --max-rows shows more, COPY keeps them all\n"),
        "{output}"
    );
}

/// Who writes statements alone has no fields to mend.
#[test]
fn errors_of_statements_alone_speak_of_no_manifest() {
    let insert = "INSERT INTO tpch.tiny.nation SELECT * FROM tpch.tiny.nation";
    for (sql, exit) in [
        (";", 3),
        ("SELEC 1", 3),
        ("SELECT x FROM nowhere", 3),
        ("SELECT nothing FROM tpch.tiny.nation", 3),
        ("SELECT $limit", 3),
        (insert, 3),
        ("SELECT n_name, count(*) FROM tpch.tiny.nation", 3),
    ] {
        let output = trireme(["sql", "-q", "-c", sql]).run().exited(exit);
        assert!(!output.stderr.contains("spec."), "{sql}\n{output}");
    }
    let scratch = Scratch::new();
    let file = scratch.write("query.sql", "SELECT 1;\nSELECT nothing FROM tpch.tiny.nation");
    let output = trireme(["sql", "-q", "-f", file.to_str().unwrap()]).run().exited(3);
    assert!(output.stderr.contains("query.sql:2:8"), "{output}");
    let long = scratch.write("long.sql", vec![b' '; (1 << 20) + 1]);
    let output = trireme(["sql", "-f", long.to_str().unwrap()]).run().exited(2);
    assert!(!output.stderr.contains("spec."), "{output}");
}

#[test]
fn a_write_says_how_much_of_what_went_where() {
    let scratch = Scratch::new();
    let create = "CREATE TABLE visits AS SELECT 1 AS a";
    let temporary = "wrote 1 row in 1 file to temporary table visits\n";
    assert_eq!(trireme(["sql", "-c", create]).run().succeeded().stdout, temporary);
    for workers in [&[][..], &["--workers", "1"]] {
        let arguments = ["run", "-f", "-"].iter().chain(workers);
        let output = trireme(arguments).stdin(batch_job(create, "")).run().succeeded();
        assert_eq!(output.stdout, temporary, "{workers:?}");
    }
    let kept = trireme(["sql", "--scratch", "kept", "-c", create])
        .directory(scratch.path())
        .run()
        .succeeded();
    let (_, place) = kept.stdout.trim_end().split_once(" to ").unwrap();
    assert!(scratch.path().join(place).join("_SUCCESS").is_file(), "{kept}");

    let copy = "COPY (VALUES (1), (2)) TO 'two.csv' STORED AS CSV";
    let output = trireme(["sql", "-c", copy]).directory(scratch.path()).run().succeeded();
    assert_eq!(output.stdout, "wrote 2 rows in 1 file to two.csv\n");
    assert!(
        scratch.path().join("two.csv/_SUCCESS").is_file(),
        "a destination is a folder"
    );
}

#[test]
fn a_result_of_no_query_is_warned_of() {
    let scratch = Scratch::new();
    let result = format!("result:\n  location: {}", scratch.path().join("out").display());
    let of = |sql: &str, arguments: &[&str]| {
        trireme(arguments.iter().chain(&["-f", "-"]))
            .stdin(batch_job(sql, &result))
            .run()
            .succeeded()
            .stderr
    };
    for command in [&["validate"][..], &["run", "-q"], &["run", "-q", "--workers", "1"]] {
        let warning = "warning: spec.result of job test has no effect: the last statement is no query\n";
        assert_eq!(
            of("SELECT 1;\nCREATE VIEW v AS SELECT 2", command),
            warning,
            "{command:?}"
        );
    }
    assert_eq!(of("CREATE VIEW v AS SELECT 2;\nSELECT 1", &["validate"]), "");
}

#[test]
fn validate_reads_the_file_that_has_the_statements_where_there_is_one() {
    let scratch = Scratch::new();
    let manifest = batch_job("", "").replace("sql: |", "sqlFrom:\n    file: query.sql");
    let job = scratch.write("jobs/job.yaml", manifest);
    let validate = |target: &str| trireme(["validate", "--target", target, "-f", job.to_str().unwrap()]).run();
    scratch.write("jobs/query.sql", "SELECT 1");
    let _ = validate("local").succeeded();
    let output = validate("kubernetes").exited(2);
    for told in ["error[MANIFEST-TARGET]", "query.sql", "configMapKeyRef"] {
        assert!(output.stderr.contains(told), "{told} is not in\n{output}");
    }
    scratch.write("jobs/query.sql", "SELECT 1;\nSELECT 'no end");
    let output = validate("local").exited(3);
    assert!(output.stderr.contains("error[SQL-SYNTAX]"), "{output}");
    std::fs::remove_file(scratch.path().join("jobs/query.sql")).unwrap();
    let output = validate("local").exited(2);
    assert!(output.stderr.contains("error[MANIFEST-UNREADABLE]"), "{output}");
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

/// All of them: of the SQL file, in the SQL, of tables, of the result, whoever reads the manifest.
#[test]
fn relative_paths_start_at_the_manifests_folder() {
    let manifest = batch_job(
        "",
        "tables:\n- name: numbers\n  location: numbers.csv\n  format: csv\n  options:\n    has_header: 'true'\nresult:\n  \
         location: result\n  format: csv",
    );
    let manifest = manifest.replace("sql: |", "sqlFrom:\n    file: query.sql");
    let query = "COPY (SELECT sum(n) AS n FROM numbers) TO 'sum/' STORED AS CSV; SELECT 1 AS one";
    for workers in [&[][..], &["--workers", "1"]] {
        for through_stdin in [false, true] {
            let scratch = Scratch::new();
            let file = scratch.write("jobs/job.yaml", &manifest);
            scratch.write("jobs/query.sql", query);
            scratch.write("jobs/numbers.csv", "n\n20\n22\n");
            let (program, folder) = match through_stdin {
                false => (
                    trireme(["run", "-f", "jobs/job.yaml"].iter().chain(workers)),
                    scratch.path(),
                ),
                true => (
                    trireme(["run", "-f", "-"].iter().chain(workers)).stdin(manifest.as_str()),
                    file.parent().unwrap(),
                ),
            };
            let _ = program.directory(folder).run().succeeded();
            for written in ["jobs/sum", "jobs/result"] {
                assert!(
                    scratch.path().join(written).join("_SUCCESS").is_file(),
                    "{written} {workers:?}"
                );
            }
        }
    }
}

#[test]
fn explain_shows_plan_and_limits() {
    let manifest = batch_job("SELECT n_name FROM tpch.tiny.nation ORDER BY n_name", "");
    let output = trireme(["explain", "-f", "-"]).stdin(manifest).run().succeeded();
    assert!(output.stdout.contains("Sort"), "{output}");
    let output = trireme(["explain", "--limits"]).run().succeeded();
    assert!(output.stdout.contains("statements"), "{output}");
}

/// What later statements read is not there: it would have been written by earlier ones.
#[test]
fn explain_takes_what_earlier_statements_write_as_written() {
    let scratch = Scratch::new();
    let sql = "CREATE TABLE big AS SELECT n_name, n_regionkey FROM tpch.tiny.nation WHERE n_nationkey > 3;\n\
               INSERT INTO big SELECT r_name, 0 FROM tpch.tiny.region;\n\
               COPY big TO 'out/' STORED AS PARQUET PARTITIONED BY (n_regionkey);\n\
               CREATE EXTERNAL TABLE outcome STORED AS PARQUET PARTITIONED BY (n_regionkey) LOCATION 'out/';\n\
               SELECT n_regionkey, count(n_name) FROM outcome GROUP BY n_regionkey;\n\
               CREATE OR REPLACE TABLE big AS SELECT 1 AS one;\n\
               SELECT one FROM big";
    let explain = |sql: &str| {
        let explain = trireme(["explain", "-f", "-"]).stdin(batch_job(sql, "storage: store"));
        explain.directory(scratch.path()).run()
    };
    let output = explain(sql).succeeded();
    for told in [
        "Statement 7 of 7",
        "writes parquet to store/tables/<run>/1-big\n",
        "writes parquet to store/tables/<run>/6-big\n",
        "writes parquet to out/\n",
    ] {
        assert!(output.stdout.contains(told), "{told} is not in\n{output}");
    }
    assert_eq!(
        output.stdout.matches("to store/tables/<run>/1-big\n").count(),
        2,
        "{output}"
    );
    assert_eq!(output.stdout.matches("as if it were empty").count(), 3, "{output}");
    assert_eq!(
        std::fs::read_dir(scratch.path()).unwrap().count(),
        0,
        "nothing is written"
    );

    let output = explain("SELECT 1 AS one;\nSELECT two FROM nowhere;\nSELECT 3").exited(3);
    for told in [
        "Statement 1 of 3",
        "In one process",
        "Statement 2 of 3",
        "cannot be planned",
    ] {
        assert!(output.stdout.contains(told), "{told} is not in\n{output}");
    }
    assert!(!output.stdout.contains("Statement 3 of 3"), "{output}");
    assert!(output.stderr.contains("statement 2 of 3"), "{output}");
}

#[test]
fn log_lines_of_a_task_say_which_it_is() {
    let sql = "SELECT n_regionkey, count(*) FROM tpch.tiny.nation GROUP BY n_regionkey";
    let output = trireme([
        "run",
        "--workers",
        "1",
        "--quiet",
        "--log",
        "trireme=debug",
        "--log-format",
        "json",
        "-f",
        "-",
    ])
    .stdin(batch_job(sql, ""))
    .run()
    .succeeded();
    let lines: Vec<Value> = output
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let of_message = |message: &str| {
        lines
            .iter()
            .filter(|line| line["message"] == message)
            .collect::<Vec<_>>()
    };
    let tasks = of_message("task finished");
    assert!(!tasks.is_empty(), "{output}");
    for line in tasks {
        let span = &line["span"];
        assert_eq!(
            (&span["name"], &span["job"]),
            (&"task".into(), &"test".into()),
            "{line}"
        );
        for field in ["stage", "task", "attempt"] {
            assert!(span[field].is_u64(), "no {field} in {line}");
        }
    }
    let launch = &of_message("launch")[0];
    assert_eq!(launch["span"]["job"], "test", "{launch}");
    let finished = &of_message("statement finished")[0];
    assert_eq!(finished["job"], "test", "{finished}");
    assert!(finished["result_bytes"].as_u64() > Some(0), "{finished}");
}

/// What `head` and `less` do: they read what they want, and go.
#[test]
fn a_reader_that_goes_away_ends_a_command_without_a_word() {
    let scratch = Scratch::new();
    let job = scratch.write("job.yaml", batch_job(&format!("SELECT 1;\n{ENDLESS}"), ""));
    let job = job.to_str().unwrap();
    for arguments in [
        &["version"][..],
        &["completions", "bash"],
        &["explain", "--limits"],
        &["validate", "-f", job],
        &["run", "-f", job],
        &["run", "--workers", "1", "-f", job],
    ] {
        let output = trireme(arguments).reader_gone().run().exited(130);
        for word in ["error", "panic", "WARN"] {
            assert!(!output.stderr.contains(word), "{output}");
        }
    }
}

#[test]
fn an_interrupt_cancels_cleanly() {
    for workers in [&[][..], &["--workers", "1"]] {
        let scratch = Scratch::new();
        let written = scratch.path().join("written");
        let copy = |rows: &str| format!("COPY ({rows}) TO '{}' STORED AS PARQUET", written.display());
        let sql = format!("SELECT 1;\n{}", copy(ENDLESS));
        let arguments = ["run", "-f", "-"].iter().chain(workers);
        let mut running = trireme(arguments).stdin(batch_job(&sql, "")).spawn();
        running.wait_for("the second statement", Duration::from_secs(60), |line| {
            line.text.contains("2/2")
        });
        running.signal_group(Signal::INT);
        let output = running.wait().exited(130);
        assert!(output.stderr.contains("error[CANCELLED]"), "{output}");
        // The destination's log may say that somebody was here; there is no data, finished or not, and room for the next.
        let entries = std::fs::read_dir(&written).into_iter().flatten();
        let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.iter().all(|name| name == "_trireme"), "{names:?}\n{output}");
        let pending = std::fs::read_dir(written.join("_trireme/tmp")).into_iter().flatten();
        let pending = pending.flat_map(|write| std::fs::read_dir(write.unwrap().path()).unwrap());
        assert_eq!(pending.count(), 0, "parts are left\n{output}");
        let _ = trireme(["sql", "-c", &copy("SELECT 1 AS a")]).run().succeeded();
    }
}

/// Also where a planner wants to know values before it plans.
#[test]
fn a_parameter_is_a_value_wherever_one_may_stand() {
    let parameters = "parameters:\n  count: 3\n  share: -0.5\n  flag: true\n  name: \"O'Neil; DROP TABLE t\"";
    for (sql, last) in [
        (
            "CREATE TABLE t AS SELECT 1 AS a; INSERT INTO t VALUES ($count); SELECT sum(a) FROM t",
            "4",
        ),
        ("SELECT sum(value) FROM generate_series(1, $count)", "6"),
        (
            "SELECT count(*) FROM (SELECT 1 FROM tpch.tiny.nation LIMIT $count)",
            "3",
        ),
        ("CREATE VIEW v AS SELECT $share * 2 AS a; SELECT a FROM v", "-1.0"),
        ("SELECT CASE WHEN $flag THEN length($name) END", "20"),
        (
            "COPY (SELECT $name AS n) TO 'n.csv'; CREATE EXTERNAL TABLE n STORED AS CSV LOCATION 'n.csv'; SELECT n FROM n",
            "O'Neil; DROP TABLE t",
        ),
        (
            "SET datafusion.execution.batch_size = $count; SHOW datafusion.execution.batch_size",
            "datafusion.execution.batch_size,3",
        ),
    ] {
        let scratch = Scratch::new();
        let program = trireme(["run", "--output", "csv", "-f", "-"]).directory(scratch.path());
        let output = program.stdin(batch_job(sql, parameters)).run().succeeded();
        assert_eq!(output.stdout.lines().last(), Some(last), "{sql}: {output}");
    }
}

/// The temporary folder has private keys in it, and what was spilled.
#[test]
fn no_end_leaves_the_temporary_folder() {
    for (signals, workers) in [
        (&[Signal::HUP][..], &[][..]),
        (&[Signal::HUP, Signal::HUP], &["--workers", "1"]),
        (&[Signal::INT, Signal::INT], &[]),
        (&[Signal::INT, Signal::INT], &["--workers", "1"]),
    ] {
        let scratch = Scratch::new();
        let arguments = ["run", "-f", "-"].iter().chain(workers);
        let sql = format!("SELECT 1;\n{ENDLESS}");
        let program = trireme(arguments).stdin(batch_job(&sql, ""));
        let mut running = program.variable("TMPDIR", scratch.path()).spawn();
        running.wait_for("the second statement", Duration::from_secs(60), |line| {
            line.text.contains("2/2")
        });
        let entries = || std::fs::read_dir(scratch.path()).unwrap().count();
        assert_eq!(entries(), 1, "no temporary folder");
        for signal in signals {
            running.signal_group(*signal);
        }
        let output = running.wait().exited(130);
        assert_eq!(entries(), 0, "{signals:?}\n{output}");
    }
}

#[test]
fn a_job_outlives_its_terminal_where_it_is_told_to() {
    let scratch = Scratch::new();
    let sql = "SELECT 1;\nSELECT count(DISTINCT l_orderkey) FROM tpch.sf1.lineitem";
    let job = scratch.write("job.yaml", batch_job(sql, ""));
    let script = format!("trap '' HUP; exec {} run -f {}", binary().display(), job.display());
    let mut running = Program::new("sh", ["-c", &script]).spawn();
    running.wait_for("the second statement", Duration::from_secs(60), |line| {
        line.text.contains("2/2")
    });
    running.signal_group(Signal::HUP);
    let _ = running.wait().succeeded();
}

fn assert_table(output: &Output, cells: &[&str]) {
    for cell in cells {
        assert!(output.stdout.contains(cell), "no {cell} in\n{output}");
    }
}
