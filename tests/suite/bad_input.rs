//! Whatever goes in, what comes out is an error of the published list with its cause and a remedy, never a panic.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::thread;

use trireme_tests::{Output, Program, Scratch, batch_job, repository, trireme};

/// A secret that a test passes in and that must not come out.
const SECRET: &str = "hunter2hunter2";

/// One manifest for each code; the exact texts are held beside the reader.
#[test]
fn manifests() {
    let job = |fields: &str| batch_job("SELECT 1", fields);
    let table = |field: &str| job(&format!("tables:\n- name: t\n  format: csv\n  {field}"));
    let cases: &[(String, &str, &[&str])] = &[
        (String::new(), "MANIFEST-DOCUMENTS", &["<stdin>:1"]),
        (format!("{0}---\n{0}", job("")), "MANIFEST-DOCUMENTS", &["one document"]),
        ("kind: [BatchJob".into(), "MANIFEST-SYNTAX", &["<stdin>:"]),
        ("\0\u{1}\u{2}".into(), "MANIFEST-SYNTAX", &["<stdin>:1"]),
        ("- a\n- b\n".into(), "MANIFEST-WRONG-TYPE", &["<stdin>:1"]),
        (
            job("executors:\n  min: two"),
            "MANIFEST-WRONG-TYPE",
            &["<stdin>:7:10", "spec.executors.min", "two"],
        ),
        (
            job("").replace("BatchJob", "BatchJobs"),
            "MANIFEST-WRONG-KIND",
            &["BatchJobs", "did you mean"],
        ),
        (
            job("").replace("v1alpha1", "v9"),
            "MANIFEST-WRONG-API-VERSION",
            &["trireme.dev/v9"],
        ),
        (
            job("").replace("name: test", "name: Test_1"),
            "MANIFEST-BAD-NAME",
            &["Test_1", "metadata.name"],
        ),
        (
            job("executers:\n  min: 1"),
            "MANIFEST-UNKNOWN-FIELD",
            &["<stdin>:6:3", "did you mean \"executors\""],
        ),
        (
            job("executors:\n  cores: 0"),
            "MANIFEST-OUT-OF-RANGE",
            &["spec.executors.cores"],
        ),
        (
            job("executors:\n  memory: 1Gb"),
            "MANIFEST-BAD-VALUE",
            &["spec.executors.memory", "1Gb"],
        ),
        (
            job("executors:\n  min: 3\n  max: 2"),
            "MANIFEST-RULE",
            &["spec.executors", "max must be at least min"],
        ),
        (job("suspend: yes"), "MANIFEST-AMBIGUOUS-VALUE", &["true"]),
        (
            job("suspend: true\nsuspend: false"),
            "MANIFEST-DUPLICATE-KEY",
            &["suspend"],
        ),
        (
            table("options: {}"),
            "MANIFEST-MISSING-FIELD",
            &["spec.tables[0].location"],
        ),
        (
            table("location: gopher://host/t"),
            "MANIFEST-BAD-LOCATION",
            &["spec.tables[0].location", "gopher"],
        ),
        (
            table(&format!("location: s3://key:{SECRET}@bucket/t")),
            "MANIFEST-CREDENTIAL",
            &["spec.tables[0].location"],
        ),
        (
            format!("a: {}", "[".repeat(100_000)),
            "MANIFEST-TOO-LARGE",
            &["<stdin>:1"],
        ),
        (billion_laughs(), "MANIFEST-TOO-LARGE", &["<stdin>:"]),
        ("#".repeat(5_000_000), "MANIFEST-TOO-LARGE", &["<stdin>"]),
    ];
    for (manifest, code, says) in cases {
        for command in ["validate", "run"] {
            let output = trireme([command, "-f", "-"]).stdin(manifest.clone()).run();
            assert_error(&output, 2, code, says);
        }
    }
}

#[test]
fn manifest_files() {
    let scratch = Scratch::new();
    let missing = scratch.path().join("nowhere.yaml");
    for command in ["validate", "run", "explain"] {
        let output = trireme([command, "-f", missing.to_str().unwrap()]).run();
        assert_error(&output, 2, "MANIFEST-UNREADABLE", &["nowhere.yaml"]);
    }
    let latin1 = scratch.write("latin1.yaml", b"kind: caf\xe9");
    let output = trireme(["run", "-f", latin1.to_str().unwrap()]).run();
    assert_error(&output, 2, "MANIFEST-SYNTAX", &["latin1.yaml", "UTF-8"]);
    let manifest = batch_job("", "").replace("sql: |", "sqlFrom:\n    file: nowhere.sql");
    let job = scratch.write("job.yaml", manifest);
    assert_error(
        &trireme(["run", "-f", job.to_str().unwrap()]).run(),
        2,
        "MANIFEST-UNREADABLE",
        &["nowhere.sql"],
    );
}

#[test]
fn statements() {
    let deep = format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000));
    let cases: &[(&str, &str, &[&str])] = &[
        ("SELEC 1", "SQL-SYNTAX", &["SELEC"]),
        ("SELECT 1 FROM", "SQL-SYNTAX", &[]),
        (";", "SQL-SYNTAX", &["no statement"]),
        (&deep, "SQL-SYNTAX", &["recursion"]),
        ("SELECT * FROM nowhere", "SQL-UNKNOWN-TABLE", &["nowhere"]),
        ("SELECT * FROM tpch.tiny.nations", "SQL-UNKNOWN-TABLE", &["nations"]),
        (
            "SELECT n_nam FROM tpch.tiny.nation",
            "SQL-UNKNOWN-COLUMN",
            &["n_nam", "n_name"],
        ),
        (
            "SELECT n_name FROM tpch.tiny.nation a JOIN tpch.tiny.nation b ON a.n_nationkey = b.n_nationkey",
            "SQL-UNKNOWN-COLUMN",
            &["n_name", "ambiguous"],
        ),
        ("SELECT fly(1)", "SQL-UNKNOWN-FUNCTION", &["fly"]),
        ("SELECT date '1995-01-01' * true", "SQL-TYPE", &["Date", "Boolean"]),
        ("SELECT $limit", "SQL-PARAMETER-MISSING", &["limit", "spec.parameters"]),
        ("DELETE FROM tpch.tiny.nation", "SQL-UNSUPPORTED", &[]),
        (
            "PREPARE p AS SELECT 1; EXECUTE p",
            "SQL-UNSUPPORTED",
            &["statement 1 of 2", "spec.parameters"],
        ),
        (
            "EXPLAIN ANALYZE COPY (SELECT 1 AS a) TO 'never.csv'",
            "SQL-UNSUPPORTED",
            &["EXPLAIN ANALYZE"],
        ),
        ("SELECT $1", "SQL-PARAMETER-MISSING", &["parameters have names"]),
        (
            "SELECT 1 / (n_nationkey - n_nationkey) FROM tpch.tiny.nation",
            "SQL-EXECUTION",
            &["zero"],
        ),
        (
            "SELECT CAST(n_name AS INT) FROM tpch.tiny.nation",
            "SQL-EXECUTION",
            &["TRY_CAST"],
        ),
    ];
    for (sql, code, says) in cases {
        assert_error(
            &trireme(["run", "-f", "-"]).stdin(batch_job(sql, "")).run(),
            3,
            code,
            says,
        );
    }
    let output = trireme(["sql", "-c", "SELECT * FROM nowhere"]).run();
    assert_error(&output, 3, "SQL-UNKNOWN-TABLE", &["nowhere"]);
    let several = batch_job(
        "CREATE VIEW a AS SELECT 1;\nCREATE VIEW b AS SELECT 2;\nSELECT x FROM a",
        "",
    );
    let output = trireme(["run", "-f", "-"]).stdin(several).run();
    assert_error(&output, 3, "SQL-UNKNOWN-COLUMN", &["statement 3 of 3"]);
}

/// The classic ways to overflow a planner's stack: as much as the limits allow works, more is refused.
#[test]
fn statements_that_are_deep_are_answered_or_refused() {
    let rows = |count: usize, row: &str, between: &str| vec![row; count].join(between);
    let sum = |terms: usize| format!("SELECT {} AS terms", rows(terms, "1", " + "));
    let mixed = |terms: usize| {
        let chain = "+ n_nationkey - n_regionkey ".repeat(terms / 2);
        format!("SELECT n_nationkey {chain} AS terms FROM tpch.tiny.nation WHERE n_nationkey = 0")
    };
    let condition = |terms: usize| {
        let any = (1..=terms)
            .map(|key| format!("n_nationkey = {key}"))
            .collect::<Vec<_>>();
        format!(
            "SELECT count(*) AS terms FROM tpch.tiny.nation WHERE {}",
            any.join(" OR ")
        )
    };
    let nested = |terms: usize| format!("SELECT {}1{}", "(".repeat(terms), ")".repeat(terms));
    let calls = |terms: usize| format!("SELECT {}1{}", "abs(".repeat(terms), ")".repeat(terms));
    let not = |terms: usize| format!("SELECT {}true", "NOT ".repeat(terms));
    let union = |terms: usize| rows(terms, "SELECT 1, 2", " UNION ALL ");
    let path = |terms: usize| format!("SELECT a{}", ".a".repeat(terms));
    let case = |terms: usize| {
        let branches = "WHEN n_nationkey = 1 THEN 2 ".repeat(terms);
        format!("SELECT count(CASE {branches} END) AS terms FROM tpch.tiny.nation")
    };
    let answered: &[(String, &str)] = &[
        (sum(1_000), "1000"),
        (mixed(200), "0"),
        (condition(490), "24"),
        (case(900), "1"),
    ];
    for (sql, answer) in answered {
        let output = trireme(["sql", "-f", "-", "--output", "csv"])
            .stdin(sql.as_str())
            .run()
            .succeeded();
        assert_eq!(output.stdout, format!("terms\n{answer}\n"), "{}", &sql[..40]);
    }
    let refused: &[String] = &[
        sum(10_000),
        sum(200_000),
        mixed(10_000),
        condition(10_000),
        nested(10_000),
        calls(10_000),
        not(10_000),
        union(10_000),
        path(10_000),
    ];
    for sql in refused {
        assert_error(&trireme(["sql", "-f", "-"]).stdin(sql.as_str()).run(), 3, "SQL-", &[]);
        let manifest = batch_job(sql, "");
        if manifest.len() < 200_000 {
            assert_error(&trireme(["validate", "-f", "-"]).stdin(manifest).run(), 3, "SQL-", &[]);
        }
    }
}

/// What runs in one process may be too deep for the way to a worker. It is refused before anybody gets it.
#[test]
fn a_plan_that_is_too_deep_for_workers_is_refused_by_the_driver() {
    let chain = "+ n_nationkey - n_regionkey ".repeat(200);
    let sql = format!("SELECT sum(n_nationkey {chain}) AS deep FROM tpch.tiny.nation");
    let run = |workers: &[&str]| {
        let arguments = ["run", "--output", "csv", "-f", "-"].iter().chain(workers);
        trireme(arguments).stdin(batch_job(&sql, "")).run()
    };
    assert_eq!(run(&[]).succeeded().stdout.lines().next(), Some("deep"));
    assert_error(
        &run(&["--workers", "1"]),
        3,
        "SQL-UNSUPPORTED",
        &["nested more deeply", "CREATE TABLE"],
    );
}

/// What workers cannot be told is refused as such, and what only the driver knows is answered by it.
#[test]
fn statements_about_the_session_need_no_workers() {
    let run = |sql: &str, workers: &[&str]| {
        let arguments = ["run", "--output", "csv", "-f", "-"].iter().chain(workers);
        trireme(arguments).stdin(batch_job(sql, "")).run()
    };
    let recursive =
        "WITH RECURSIVE n AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM n WHERE a < 3) SELECT sum(a) AS sum FROM n";
    for workers in [&[][..], &["--workers", "1"]] {
        let shown = run("CREATE VIEW mine AS SELECT 1 AS a; SHOW TABLES", workers).succeeded();
        assert!(shown.stdout.contains(",mine,VIEW"), "{shown}");
        let described = run("DESCRIBE tpch.tiny.nation", workers).succeeded();
        assert!(described.stdout.contains("n_nationkey"), "{described}");
    }
    assert_eq!(run(recursive, &[]).succeeded().stdout, "sum\n6\n");
    assert_error(
        &run(recursive, &["--workers", "1"]),
        3,
        "SQL-UNSUPPORTED",
        &["cannot be sent to workers"],
    );
}

#[test]
fn files() {
    let scratch = Scratch::new();
    scratch.write("garbage.parquet", "this is not Parquet at all, not even close to it");
    // A footer that claims to be 2 GiB long.
    scratch.write(
        "lying.parquet",
        [&b"PAR1"[..], &[0; 16], &[0xff, 0xff, 0xff, 0x7f], b"PAR1"].concat(),
    );
    scratch.write("empty.parquet", "");
    scratch.write("garbage.arrow", "ARROW1\0\0 and then nothing of the kind ARROW1");
    scratch.write("ragged.csv", "a,b\n1,2\n3\n");
    scratch.write("broken.json", "{\"a\": 1}\n{\"a\": \n");
    scratch.write("broken.csv.gz", "no gzip");
    scratch.write("broken.csv.zst", "no frame of Zstandard");
    scratch.write("partly.csv", format!("a\n{}words\n", "1\n".repeat(5_000)));
    let long = "x".repeat(300);
    let cases: &[(&str, &str, &str, &str)] = &[
        ("nowhere.parquet", "parquet", "DATA-NOT-FOUND", "nowhere.parquet"),
        ("nowhere/*.csv", "csv", "DATA-NOT-FOUND", "nowhere"),
        ("garbage.parquet", "parquet", "DATA-MALFORMED", "garbage.parquet"),
        ("lying.parquet", "parquet", "DATA-MALFORMED", "lying.parquet"),
        ("empty.parquet", "parquet", "DATA-MALFORMED", "empty.parquet"),
        ("garbage.arrow", "arrow", "DATA-MALFORMED", "garbage.arrow"),
        ("ragged.csv", "csv", "DATA-MALFORMED", "ragged.csv"),
        ("broken.json", "json", "DATA-MALFORMED", "broken.json"),
        ("broken.csv.gz", "csv", "DATA-MALFORMED", "broken.csv.gz"),
        ("broken.csv.zst", "csv", "DATA-MALFORMED", "broken.csv.zst"),
        (&long, "csv", "DATA-IO", "255 bytes"),
        ("partly.csv", "csv", "DATA-MALFORMED", "partly.csv"),
    ];
    for (file, format, code, says) in cases {
        let output = read_table(scratch.path().join(file).to_str().unwrap(), format).run();
        assert_error(&output, 4, code, &[says]);
    }
}

#[test]
fn destinations() {
    let scratch = Scratch::new();
    scratch.write("taken/report.parquet", "somebody's data");
    let fields = format!("result:\n  location: {}\n", scratch.path().join("taken").display());
    let output = trireme(["run", "-f", "-"])
        .stdin(batch_job("SELECT 1 AS x", &fields))
        .run();
    assert_error(&output, 4, "DATA-DESTINATION-EXISTS", &["taken"]);

    // A folder's name, and one made of a value.
    let long = "x".repeat(300);
    let out = scratch.path().join("out").display().to_string();
    for sql in [
        format!("COPY (SELECT 1 AS n) TO '{out}/{long}/' STORED AS PARQUET"),
        format!("COPY (SELECT 1 AS n, '{long}' AS day) TO '{out}/' STORED AS PARQUET PARTITIONED BY (day)"),
    ] {
        let output = trireme(["run", "-f", "-"]).stdin(batch_job(&sql, "")).run();
        assert_error(&output, 4, "DATA-IO", &["File name too long", "255 bytes"]);
    }
}

#[test]
fn credentials_that_are_refused() {
    let output = with_s3(read_table("s3://bucket/table.parquet", "parquet"), refusing_server()).run();
    assert_error(&output, 5, "CREDENTIALS-REFUSED", &["bucket"]);
}

#[test]
fn a_store_that_cannot_be_reached() {
    let output = with_s3(read_table("s3://bucket/table.parquet", "parquet"), closed_port()).run();
    assert_error(&output, 6, "NETWORK-UNREACHABLE", &["127.0.0.1", "endpoint"]);
}

#[test]
fn a_deadline_that_passes() {
    let manifest = batch_job("SELECT sum(l_tax) FROM tpch.sf100.lineitem", "activeDeadlineSeconds: 1");
    let output = trireme(["run", "-f", "-"]).stdin(manifest).run();
    assert_error(&output, 7, "LIMIT-DEADLINE", &["activeDeadlineSeconds"]);
}

#[test]
fn more_statements_than_allowed() {
    let output = trireme(["run", "-f", "-"])
        .stdin(batch_job(&"SELECT 1;\n".repeat(20_000), ""))
        .run();
    assert_error(&output, 7, "LIMIT-STATEMENTS", &["20000"]);
}

/// One error of each class that a person can cause, word for word: what they read is part of the product. After a wanted change:
/// `UPDATE_GOLDEN=1`, and read the difference.
#[test]
fn one_of_each_class_in_full() {
    let scratch = Scratch::new();
    let garbage = scratch.write("garbage.parquet", "this is not Parquet at all, not even close to it");
    let closed = closed_port();
    let refusing = refusing_server();
    let job = |sql: &str, fields: &str| trireme(["run", "-f", "-"]).stdin(batch_job(sql, fields));
    let cases = [
        ("Manifest", job("SELECT 1", "executors:\n  min: 2\n  memroy: 1Gi")),
        (
            "Sql",
            job("CREATE VIEW a AS SELECT 1 AS one;\nSELECT one, tow FROM a", ""),
        ),
        ("Data", read_table(garbage.to_str().unwrap(), "parquet")),
        (
            "Credentials",
            with_s3(read_table("s3://bucket/table.parquet", "parquet"), refusing),
        ),
        (
            "Network",
            with_s3(read_table("s3://bucket/table.parquet", "parquet"), closed),
        ),
        (
            "Limit",
            job("SELECT sum(l_tax) FROM tpch.sf100.lineitem", "activeDeadlineSeconds: 1"),
        ),
    ];
    let mut told = String::new();
    for (class, program) in cases {
        let output = program.arguments(["--quiet"]).run();
        let mut text = output
            .stderr
            .replace(&scratch.path().display().to_string(), "<scratch>");
        for port in [closed, refusing] {
            text = text.replace(&format!(":{port}"), ":<port>");
        }
        let words = text
            .split(' ')
            .map(|word| if is_duration(word) { "<time>" } else { word });
        let text = words.collect::<Vec<_>>().join(" ");
        let exit = output.status.code().unwrap_or(-1);
        told.push_str(&format!("=== {class}: exit code {exit}\n{text}\n"));
    }
    let golden = repository().join("tests/suite/errors.txt");
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &told).unwrap();
    }
    let expected = fs::read_to_string(&golden).unwrap_or_default();
    assert!(told == expected, "{} differs; what was told:\n{told}", golden.display());
}

/// The contract of an error: its exit code, its code, its cause (`says`), and what to do about it: the place, what would be
/// allowed, or a remedy. Nothing on stdout, no panic, no text of a library's, no secret.
fn assert_error(output: &Output, exit: i32, code: &str, says: &[&str]) {
    assert_eq!(
        output.status.code(),
        Some(exit),
        "expected {code} with exit code {exit}\n{output}"
    );
    for expected in [&format!("error[{code}")]
        .into_iter()
        .map(String::as_str)
        .chain(says.iter().copied())
    {
        assert!(output.stderr.contains(expected), "{expected:?} is not in\n{output}");
    }
    let guides = [" --> ", "  = allowed: ", "  = help: "];
    assert!(
        guides.iter().any(|guide| output.stderr.contains(guide)),
        "no way out of\n{output}"
    );
    assert!(output.stdout.is_empty(), "what failed has no result\n{output}");
    for unwanted in ["panicked", "RUST_BACKTRACE", "DataFusion error", SECRET] {
        assert!(!output.stderr.contains(unwanted), "{unwanted:?} is in\n{output}");
    }
}

/// A job that reads all of a table over `location`.
fn read_table(location: &str, format: &str) -> Program {
    let fields = format!("tables:\n- name: t\n  location: {location}\n  format: {format}");
    trireme(["run", "-f", "-"]).stdin(batch_job("SELECT * FROM t", &fields))
}

fn with_s3(program: Program, port: u16) -> Program {
    let variables = [
        ("AWS_ENDPOINT_URL_S3", format!("http://127.0.0.1:{port}")),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
    ];
    variables
        .into_iter()
        .fold(program, |program, (name, value)| program.variable(name, value))
}

/// `2.28s`, `21.9ms`: how long something took is no part of what is told.
fn is_duration(word: &str) -> bool {
    let number = word
        .trim_end_matches(',')
        .trim_end_matches('s')
        .trim_end_matches(['m', 'µ', 'n']);
    word.contains('s') && number.contains('.') && number.parse::<f64>().is_ok()
}

/// A port that was ours a moment ago and listens no more.
fn closed_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// An S3 server that knows nobody. Its thread ends with the test binary: it holds nothing but a socket.
fn refusing_server() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let body = "<?xml version=\"1.0\"?><Error><Code>InvalidAccessKeyId</Code><Message>no such key</Message></Error>";
    let response = format!(
        "HTTP/1.1 403 Forbidden\r\ncontent-type: application/xml\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // The head of the request ends with an empty line; these requests have no body.
            let lines = BufReader::new(&mut stream).lines().map_while(Result::ok);
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            // A client that went away is its own problem.
            let _ = stream.write_all(response.as_bytes());
        }
    });
    port
}

/// Each alias doubles what it stands for: 2^64 leaves in a kilobyte.
fn billion_laughs() -> String {
    let levels = (1..64).map(|level| format!("a{level}: &a{level} [*a{0}, *a{0}]\n", level - 1));
    format!("a0: &a0 x\n{}", levels.collect::<String>())
}
