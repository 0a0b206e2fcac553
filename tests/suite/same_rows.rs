//! Statements that workers could answer otherwise than one process, each over tables of several files.

use trireme_tests::{Scratch, run_csv};

/// Twenty-five rows in five files, with a NULL, as the table `t`.
fn table(scratch: &Scratch) -> &'static str {
    for file in 0..5 {
        let rows: Vec<_> = (0..5).map(|row| format!("{},{}", file * 5 + row, row)).collect();
        scratch.write(&format!("t/{file}.csv"), format!("a,b\n{}\n", rows.join("\n")));
    }
    scratch.write("n/0.csv", "c\n3\n");
    scratch.write("n/1.csv", "c\n\"\"\n");
    scratch.write("n/2.csv", "c\n7\n");
    "CREATE EXTERNAL TABLE t (a BIGINT, b BIGINT) STORED AS CSV LOCATION 't/'; \
     CREATE EXTERNAL TABLE n (c BIGINT) STORED AS CSV LOCATION 'n/'; "
}

#[test]
fn joins_without_an_equality_and_not_in() {
    let scratch = Scratch::new();
    let table = table(&scratch);
    for query in [
        "SELECT count(*) FROM t x LEFT JOIN t y ON x.a < y.a - 22",
        "SELECT count(*) FROM t x RIGHT JOIN t y ON x.a < y.a - 22",
        "SELECT count(*) FROM t x FULL JOIN t y ON x.a < y.a - 22",
        "SELECT count(*) FROM t x JOIN t y ON x.a < y.a - 22",
        "SELECT count(*) FROM t x WHERE EXISTS (SELECT 1 FROM t y WHERE x.a > y.a)",
        "SELECT count(*) FROM t x WHERE NOT EXISTS (SELECT 1 FROM t y WHERE x.a > y.a + 1)",
        "SELECT count(*) FROM t x WHERE x.b = 1 OR EXISTS (SELECT 1 FROM t y WHERE x.a > y.a + 20)",
        "SELECT b, count(*) FROM t x WHERE NOT EXISTS (SELECT 1 FROM t y WHERE x.a > y.a + 1) GROUP BY b ORDER BY b",
        "SELECT count(*) FROM t WHERE a NOT IN (SELECT c FROM n)",
        "SELECT count(*) FROM t WHERE a NOT IN (SELECT c FROM n WHERE c IS NOT NULL)",
        "SELECT b, count(*) FROM t WHERE a NOT IN (SELECT NULLIF(c, 3) FROM n WHERE c IS NOT NULL) GROUP BY b ORDER BY b",
        "SELECT x.a, y.a FROM t x LEFT JOIN t y ON x.a < y.a - 22 ORDER BY 1, 2 LIMIT 5",
    ] {
        let statements = format!("{table}{query}");
        let here = run_csv(&scratch, &statements, &[]).succeeded().stdout;
        let there = run_csv(&scratch, &statements, &["--workers", "2"]).succeeded().stdout;
        assert_eq!(here, there, "{query}");
    }
}

#[test]
fn rows_of_such_a_join_are_written_once() {
    let scratch = Scratch::new();
    let write = format!(
        "{}COPY (SELECT x.a FROM t x WHERE NOT EXISTS (SELECT 1 FROM t y WHERE x.a > y.a + 1)) TO 'out' STORED AS CSV; \
         CREATE EXTERNAL TABLE o (a BIGINT) STORED AS CSV LOCATION 'out/'; SELECT count(*), sum(a) FROM o",
        table(&scratch)
    );
    let output = run_csv(&scratch, &write, &["--workers", "2"]).succeeded();
    assert!(output.stdout.ends_with("\n2,1\n"), "{output}");
}

/// The wire form of plans has no place for these.
#[test]
fn what_workers_would_not_hear_of_is_refused() {
    let scratch = Scratch::new();
    let table = table(&scratch);
    scratch.write("arrays.json", "[{\"a\": 1}, {\"a\": 2}]");
    for (query, says) in [
        (
            "SELECT sum(a) FILTER (WHERE a > 3) OVER (PARTITION BY b) FROM t",
            "FILTER",
        ),
        (
            "CREATE VIEW v AS SELECT sum(a) FILTER (WHERE a > 3) OVER (PARTITION BY b) AS s FROM t; SELECT max(s) FROM v",
            "FILTER",
        ),
        (
            "SELECT first_value(a) IGNORE NULLS OVER (PARTITION BY b ORDER BY a) FROM t",
            "IGNORE NULLS",
        ),
        (
            "SELECT lag(a) IGNORE NULLS OVER (PARTITION BY b ORDER BY a) FROM t",
            "IGNORE NULLS",
        ),
        (
            "CREATE EXTERNAL TABLE j STORED AS JSON LOCATION 'arrays.json' OPTIONS (format.newline_delimited 'false'); \
             SELECT sum(a) FROM j",
            "arrays of JSON",
        ),
    ] {
        let statements = format!("{table}{query}");
        let _ = run_csv(&scratch, &statements, &[]).succeeded();
        let output = run_csv(&scratch, &statements, &["--workers", "1"]).exited(3);
        let told = output.stderr.contains("SQL-UNSUPPORTED") && output.stderr.contains(says);
        assert!(told, "{query}: {output}");
    }
}

#[test]
fn settings_of_files_and_sessions_reach_workers() {
    let scratch = Scratch::new();
    scratch.write("lines.csv", "1|x;2|y\n3|z");
    let compressed = |format: &str, compression: &str| {
        format!(
            "COPY (SELECT n_nationkey, n_name FROM tpch.tiny.nation) TO '{format}-{compression}' STORED AS {format} \
             OPTIONS (compression '{compression}'); \
             CREATE EXTERNAL TABLE t STORED AS {format} LOCATION '{format}-{compression}/'; \
             SELECT count(*) AS n, sum(n_nationkey) AS keys, max(n_name) AS last FROM t"
        )
    };
    for (format, compression) in [("CSV", "gzip"), ("CSV", "zstd"), ("JSON", "gzip"), ("JSON", "zstd")] {
        let output = run_csv(&scratch, &compressed(format, compression), &["--workers", "1"]).succeeded();
        assert!(output.stdout.ends_with("n,keys,last\n25,300,VIETNAM\n"), "{output}");
    }
    for statements in [
        "CREATE EXTERNAL TABLE t (a TEXT) STORED AS CSV LOCATION 'lines.csv' \
         OPTIONS (format.terminator ';', format.has_header 'false'); SELECT count(*), max(length(a)) FROM t",
        "SET TIME ZONE = '+05:00'; SELECT max(to_timestamp(o_orderkey)) FROM tpch.tiny.orders",
    ] {
        let here = run_csv(&scratch, statements, &[]).succeeded().stdout;
        let there = run_csv(&scratch, statements, &["--workers", "1"]).succeeded().stdout;
        assert_eq!(here, there, "{statements}");
    }
}
