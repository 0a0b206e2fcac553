//! Jobs against a real S3 server: writes and what reads them back, refusals, kills, races, credentials.

use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::Value;
use trireme_tests::{Cluster, Output, Program, S3Server, Scratch, batch_job, trireme};

/// Two parts, one for each worker, and each large enough for several requests: they are of 8 MiB.
const LARGE: &str = "SELECT * FROM tpch.sf0_1.lineitem";
const LARGE_TOTALS: &str = "count(*) AS n, sum(l_orderkey) AS keys, sum(CAST(l_quantity AS BIGINT)) AS quantity";

/// Runs statements in this process and returns what they print as CSV.
fn sql(server: &S3Server, statements: &str) -> String {
    program(server, statements).run().succeeded().stdout
}

fn program(server: &S3Server, statements: &str) -> Program {
    server.reached_by(trireme(["sql", "--output", "csv", "-c", statements]))
}

/// Totals of a CSV copy of [`LARGE`], as a reader of the folder finds them.
fn totals_of(location: &str) -> String {
    format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{location}'; SELECT {LARGE_TOTALS} FROM t")
}

fn copy(location: &str) -> String {
    format!("COPY ({LARGE}) TO '{location}' STORED AS CSV")
}

/// What is right, computed without any file.
fn expected() -> String {
    let query = format!("SELECT {LARGE_TOTALS} FROM ({LARGE})");
    trireme(["sql", "--output", "csv", "-c", &query])
        .run()
        .succeeded()
        .stdout
}

/// Entry 0 of the log below `prefix`, which must be a commit of several parts.
fn commit(server: &S3Server, prefix: &str) -> Vec<Value> {
    let entry = server.json(&format!("{prefix}/_trireme/commits/0000000000.json"));
    let parts = entry["parts"].as_array().unwrap().clone();
    assert!(parts.len() > 1, "{entry}");
    parts
}

/// Nothing of a write is left but its result.
fn check_swept(server: &S3Server, prefix: &str) {
    assert_eq!(server.open_uploads(), Vec::<PathBuf>::new());
    let keys = server.keys(prefix);
    assert!(keys.contains(&"_SUCCESS".to_owned()), "{keys:?}");
    assert!(!keys.iter().any(|key| key.starts_with("_trireme/tmp")), "{keys:?}");
}

fn check_silent(output: &Output) {
    let said = format!("{}{}", output.stdout, output.stderr);
    assert!(!said.contains(S3Server::SECRET_KEY), "a secret is shown: {said}");
}

#[test]
fn parts_of_many_pieces_are_written_by_one_process_and_by_two_workers() {
    let server = S3Server::start();
    let expected = expected();
    let _ = sql(&server, &copy("s3://bucket/one/"));
    let two = Cluster::program(2, &batch_job(&copy("s3://bucket/two/"), ""));
    let (output, log) = Cluster::start(server.reached_by(two)).wait();
    check_silent(&output.succeeded());
    assert!(
        log.launches
            .iter()
            .any(|launch| launch.worker != log.launches[0].worker),
        "{log:#?}"
    );
    for prefix in ["one", "two"] {
        for part in commit(&server, prefix) {
            let pieces = part["pending"]["etags"].as_array().unwrap().len();
            assert!(pieces > 1, "a part of one piece in {prefix}: {part}");
        }
        check_swept(&server, prefix);
        assert_eq!(sql(&server, &totals_of(&format!("s3://bucket/{prefix}/"))), expected);
    }
}

#[test]
fn a_later_statement_sees_what_an_earlier_one_wrote() {
    let server = S3Server::start();
    // The folder is named without a slash at its end, which only its content can tell from a file.
    let printed = sql(
        &server,
        "COPY (SELECT 1 AS a) TO 's3://bucket/t' STORED AS PARQUET; \
         CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://bucket/t'; \
         SELECT sum(a) AS before FROM t; \
         INSERT INTO t SELECT 10; \
         SELECT sum(a) AS appended FROM t; \
         INSERT OVERWRITE t SELECT 100; \
         SELECT sum(a) AS replaced FROM t",
    );
    assert_eq!(printed, "before\n1\nappended\n11\nreplaced\n100\n");
    check_swept(&server, "t");
    let parts = server.keys("t").into_iter().filter(|key| key.ends_with(".parquet"));
    assert_eq!(parts.count(), 1, "an overwrite removes what it replaces");
}

#[test]
fn values_in_names_of_folders_come_back_as_a_column() {
    let server = S3Server::start();
    let printed = sql(
        &server,
        "COPY (SELECT n_name, n_regionkey, concat('a/b ', n_regionkey) AS odd FROM tpch.tiny.nation) \
         TO 's3://bucket/h/' STORED AS PARQUET PARTITIONED BY (n_regionkey, odd); \
         CREATE EXTERNAL TABLE h (n_name VARCHAR, n_regionkey INT, odd VARCHAR) \
         STORED AS PARQUET PARTITIONED BY (n_regionkey, odd) LOCATION 's3://bucket/h/'; \
         SELECT n_regionkey, odd, count(*) AS n FROM h WHERE n_regionkey > 2 AND odd <> 'a/b 4' GROUP BY 1, 2 ORDER BY 1",
    );
    assert_eq!(printed, "n_regionkey,odd,n\n3,a/b 3,5\n");
    let plan = sql(
        &server,
        "CREATE EXTERNAL TABLE h (n_name VARCHAR, n_regionkey INT, odd VARCHAR) \
         STORED AS PARQUET PARTITIONED BY (n_regionkey, odd) LOCATION 's3://bucket/h/'; \
         EXPLAIN SELECT n_name FROM h WHERE n_regionkey = 3",
    );
    assert!(
        plan.contains("n_regionkey=3/") && !plan.contains("n_regionkey=2/"),
        "{plan}"
    );
}

#[test]
fn plain_objects_are_read_by_name_by_folder_and_by_pattern() {
    let server = S3Server::start();
    for (number, text) in ["a\n1\n", "a\n2\n", "a\n40\n"].iter().enumerate() {
        server.put(&format!("plain/part{number}.csv"), text);
    }
    let _ = sql(
        &server,
        "COPY (SELECT 7 AS a) TO 's3://bucket/zipped/' STORED AS CSV OPTIONS (compression 'gzip')",
    );
    for (location, sum) in [
        ("plain/part2.csv", 40),
        ("plain/", 43),
        ("plain", 43),
        ("plain/part[01].csv", 3),
        ("plain/*.csv", 43),
        ("zipped", 7),
    ] {
        let statements = format!(
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 's3://bucket/{location}'; SELECT sum(a) AS sum FROM t"
        );
        assert_eq!(sql(&server, &statements), format!("sum\n{sum}\n"), "{location}");
    }
}

#[test]
fn refusals_say_what_to_do_and_keep_the_secret() {
    let server = S3Server::start();
    server.put("t/a.csv", "a\n1\n");
    let read = "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 's3://bucket/t/'; SELECT * FROM t";
    let write = "COPY (SELECT 1 AS a) TO 's3://bucket/new/' STORED AS CSV";
    let elsewhere = |statement: &str| statement.replace("s3://bucket/", "s3://nobucket/");
    // Nobody listens where a server was a moment ago.
    let gone = S3Server::start().endpoint();
    for statement in [read, write] {
        let wrong_key = program(&server, statement).variable("AWS_SECRET_ACCESS_KEY", "hunter3-hunter3");
        let no_bucket = program(&server, &elsewhere(statement));
        let no_server = program(&server, statement).variable("AWS_ENDPOINT_URL_S3", &gone);
        for (program, exit, code) in [
            (wrong_key, 5, "CREDENTIALS-REFUSED"),
            (no_bucket, 4, "DATA-NOT-FOUND"),
            (no_server, 6, "NETWORK-UNREACHABLE"),
        ] {
            let output = program.run().exited(exit);
            assert!(output.stderr.contains(&format!("error[{code}]")), "{output}");
            assert!(output.stderr.contains("help: "), "{output}");
            assert!(!output.stderr.contains("hunter3"), "{output}");
            check_silent(&output);
        }
    }
}

#[test]
fn a_killed_worker_changes_nothing_and_leaves_nothing() {
    let mut server = S3Server::start();
    let job = batch_job(&copy("s3://bucket/stormy/"), "");
    let mut cluster = Cluster::start(server.reached_by(Cluster::program(2, &job)));
    cluster.wait_until("both parts", |log| log.launches.len() == 2);
    // The first piece of a part is there: its worker is in the middle of it.
    server.wait_until("a piece of a part", |line| {
        line.contains("| PUT |") && line.contains("partNumber=1")
    });
    let victim = cluster.log().launches[0].worker;
    assert!(cluster.signal_worker(victim, Signal::KILL));
    assert_eq!(
        parts(&server, "stormy"),
        [""; 0],
        "a reader sees a part of what is written"
    );
    let (output, log) = cluster.wait();
    check_silent(&output.succeeded());
    assert!(log.worker(victim).lost, "{log:#?}");
    check_swept(&server, "stormy");
    assert_eq!(parts(&server, "stormy").len(), commit(&server, "stormy").len());
    assert_eq!(sql(&server, &totals_of("s3://bucket/stormy/")), expected());
}

#[test]
fn a_write_that_is_stopped_leaves_nothing_that_is_paid_for() {
    let mut server = S3Server::start();
    let job = batch_job(&copy("s3://bucket/stopped/"), "");
    let cluster = Cluster::start(server.reached_by(Cluster::program(2, &job)));
    // Both workers are in the middle of a part. Between a request for an upload and its answer nobody knows its name, and
    // a stop would leave it to the bucket's own rules.
    for number in ["first", "second"] {
        server.wait_until(&format!("a piece of the {number} part"), |line| {
            line.contains("| PUT |") && line.contains("partNumber=1&")
        });
    }
    cluster.signal_parent(Signal::INT);
    let (output, _) = cluster.wait();
    let _ = output.exited(130);
    assert_eq!(server.open_uploads(), Vec::<PathBuf>::new());
    let keys = server.keys("stopped");
    assert!(keys.iter().all(|key| key.starts_with("_trireme/commits")), "{keys:?}");
}

fn parts(server: &S3Server, prefix: &str) -> Vec<String> {
    let keys = server.keys(prefix).into_iter();
    keys.filter(|key| !key.starts_with('_')).collect()
}

#[test]
fn a_write_that_died_after_its_commit_is_left_out_until_a_write_completes_it() {
    let mut server = S3Server::start();
    let _ = sql(
        &server,
        "COPY (SELECT 1 AS a, 0 AS folder) TO 's3://bucket/t/' STORED AS CSV PARTITIONED BY (folder)",
    );
    let table =
        "CREATE EXTERNAL TABLE t (a INT, folder INT) STORED AS CSV PARTITIONED BY (folder) LOCATION 's3://bucket/t/'";
    let append = format!("{table}; INSERT INTO t SELECT c_custkey, c_custkey % 60 + 1 FROM tpch.tiny.customer");
    let writer = program(&server, &append).spawn();
    // 60 parts or more are being completed, 16 at a time, when the server stands still and the driver dies.
    server.wait_until("the commit", |line| {
        line.contains("| 200 |") && line.contains("commits/0000000001.json")
    });
    server.signal(Signal::STOP);
    writer.signal(Signal::KILL);
    assert!(!writer.wait().status.success());
    server.signal(Signal::CONT);

    let count = format!("{table}; SELECT count(*) AS n FROM t");
    let read = program(&server, &count).run().succeeded();
    let complete = parts(&server, "t").len() - 1;
    assert!(complete < 60, "the write was complete before its driver died");
    assert_eq!(read.stdout, "n\n1\n", "{complete} of 60 parts are complete\n{read}");
    assert!(read.stderr.contains("left out a write"), "{read}");

    let again = format!("{table}; INSERT INTO t SELECT 2, 0; SELECT count(*) AS n FROM t");
    assert_eq!(sql(&server, &again), "n\n1502\n");
    check_swept(&server, "t");
}

#[test]
fn of_two_jobs_that_create_one_table_exactly_one_wins() {
    let server = S3Server::start();
    let racers = ["1", "2"].map(|n| {
        let statement =
            format!("COPY (SELECT {n} AS winner, * FROM tpch.tiny.orders) TO 's3://bucket/t/' STORED AS PARQUET");
        program(&server, &statement).spawn()
    });
    let outputs = racers.map(trireme_tests::Running::wait);
    let mut codes = outputs.iter().map(|output| output.status.code()).collect::<Vec<_>>();
    codes.sort_unstable();
    let [first, second] = &outputs;
    assert_eq!(codes, [Some(0), Some(4)], "{first}\n{second}");
    let loser = outputs.iter().find(|output| !output.status.success()).unwrap();
    assert!(loser.stderr.contains("error[DATA-DESTINATION-EXISTS]"), "{loser}");
    let winner = if first.status.success() { 1 } else { 2 };
    let found = sql(
        &server,
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://bucket/t/'; \
         SELECT count(*) AS n, min(winner) AS least, max(winner) AS most FROM t",
    );
    assert_eq!(found, format!("n,least,most\n15000,{winner},{winner}\n"));
    check_swept(&server, "t");
}

#[test]
fn credentials_come_from_a_folder() {
    let (server, scratch) = (S3Server::start(), Scratch::new());
    let folder = server.credentials(&scratch);
    let folder = folder.to_str().unwrap();
    let copy = "COPY (SELECT 1 AS a) TO 's3://bucket/t/' STORED AS CSV OPTIONS (mode 'overwrite')";
    let read = "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 's3://bucket/t/'; SELECT a FROM t";
    let sql = [
        "sql",
        "--credentials",
        folder,
        "--output",
        "csv",
        "-c",
        &format!("{copy}; {read}"),
    ];
    assert_eq!(trireme(sql).run().succeeded().stdout, "a\n1\n");
    let job = batch_job(&format!("{copy};\n{read}"), "");
    for workers in [&[][..], &["--workers", "2"]] {
        let arguments = ["run", "--credentials", folder, "--output", "csv", "-f", "-"];
        let output = trireme(arguments.iter().chain(workers))
            .stdin(job.as_str())
            .run()
            .succeeded();
        assert_eq!(output.stdout, "a\n1\n", "{output}");
        check_silent(&output);
    }

    // What the environment says counts for nothing then.
    let poor = scratch.write("poor/access-key-id", S3Server::ACCESS_KEY);
    let poor = poor.parent().unwrap().to_str().unwrap();
    let refused = server
        .reached_by(trireme(["sql", "--credentials", poor, "-c", read]))
        .run()
        .exited(5);
    assert!(refused.stderr.contains("error[CREDENTIALS-MISSING]"), "{refused}");
    assert!(refused.stderr.contains("secret-access-key"), "{refused}");
    check_silent(&refused);
}
