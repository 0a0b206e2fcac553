//! Columns in the names of folders, as Trireme and others write them.

use trireme_tests::{Scratch, run_csv};

/// What the last of `statements` prints, without the names of its columns.
fn answer(scratch: &Scratch, statements: &str) -> String {
    let printed = run_csv(scratch, statements, &[]).succeeded().stdout;
    let lines: Vec<_> = printed.lines().skip(1).collect();
    lines.join("|")
}

#[test]
fn null_is_a_value_like_others() {
    let scratch = Scratch::new();
    let write = "COPY (VALUES (1, 5), (2, NULL), (3, 7), (4, NULL)) TO 't' STORED AS PARQUET PARTITIONED BY (column2)";
    assert_eq!(answer(&scratch, write), "");
    let number = "CREATE EXTERNAL TABLE t (column1 BIGINT, column2 BIGINT) STORED AS PARQUET \
                  PARTITIONED BY (column2) LOCATION 't/'";
    let text = "CREATE EXTERNAL TABLE t STORED AS PARQUET PARTITIONED BY (column2) LOCATION 't/'";
    for (table, seven) in [(number, "7"), (text, "'7'")] {
        for (query, expected) in [
            (
                "SELECT count(*), count(column2), max(column2) FROM t".to_owned(),
                "4,2,7",
            ),
            ("SELECT sum(column1) FROM t WHERE column2 IS NULL".to_owned(), "6"),
            ("SELECT sum(column1) FROM t WHERE column2 IS NOT NULL".to_owned(), "4"),
            (format!("SELECT sum(column1) FROM t WHERE column2 = {seven}"), "3"),
            (format!("SELECT sum(column1) FROM t WHERE column2 <> {seven}"), "1"),
            (format!("SELECT sum(column1) FROM t WHERE NOT (column2 = {seven})"), "1"),
            (
                format!("SELECT sum(column1) FROM t WHERE column2 IS DISTINCT FROM {seven}"),
                "7",
            ),
            (
                format!("SELECT sum(column1) FROM t WHERE column2 = {seven} OR column1 = 2"),
                "5",
            ),
            (
                "SELECT column2, sum(column1) FROM t GROUP BY 1 ORDER BY 1 NULLS FIRST".to_owned(),
                ",6|5,1|7,3",
            ),
            ("SELECT column2 IS NULL FROM t WHERE column1 = 4".to_owned(), "true"),
        ] {
            assert_eq!(
                answer(&scratch, &format!("{table}; {query}")),
                expected,
                "{table}: {query}"
            );
        }
    }
    let query = format!("{number}; SELECT column2, sum(column1) AS sum FROM t GROUP BY 1 ORDER BY 1 NULLS LAST");
    let printed = run_csv(&scratch, &query, &["--workers", "1"]).succeeded().stdout;
    assert_eq!(printed, "column2,sum\n5,1\n7,3\n,6\n");
}

#[test]
fn a_value_is_found_however_its_folder_is_called() {
    let scratch = Scratch::new();
    let texts = [
        "plain",
        "a:b",
        "k=v",
        "a b",
        "it''s (here); a&b!",
        "100%",
        "Zürich",
        "a/b",
        "a+b,c@d",
    ];
    let rows: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(at, text)| format!("({at}, '{text}')"))
        .collect();
    let write = format!(
        "COPY (VALUES {}) TO 't' STORED AS PARQUET PARTITIONED BY (column2)",
        rows.join(", ")
    );
    assert_eq!(answer(&scratch, &write), "");
    let table = "CREATE EXTERNAL TABLE t STORED AS PARQUET PARTITIONED BY (column2) LOCATION 't/'";
    for (at, text) in texts.iter().enumerate() {
        let query = format!("{table}; SELECT column1 FROM t WHERE column2 = '{text}'");
        assert_eq!(answer(&scratch, &query), at.to_string(), "{text}");
    }
    let write = "COPY (SELECT 1 AS a, TIMESTAMP '2024-01-31 10:00:00' AS at, DATE '2024-01-31' AS day, 1.5 AS x) TO 'u' \
                 STORED AS PARQUET PARTITIONED BY (at, day, x)";
    assert_eq!(answer(&scratch, write), "");
    let table = "CREATE EXTERNAL TABLE u (a BIGINT, at TIMESTAMP, day DATE, x DOUBLE) STORED AS PARQUET \
                 PARTITIONED BY (at, day, x) LOCATION 'u/'";
    for condition in [
        "at = TIMESTAMP '2024-01-31 10:00:00'",
        "day = DATE '2024-01-31'",
        "x = 1.5",
        "at = TIMESTAMP '2024-01-31 10:00:00' AND day = DATE '2024-01-31' AND x = 1.5",
    ] {
        let query = format!("{table}; SELECT a FROM u WHERE {condition}");
        assert_eq!(answer(&scratch, &query), "1", "{condition}");
    }
}

/// Not every writer leaves a log, or calls 5 `5`.
#[test]
fn folders_of_others_are_read_as_they_mean_it() {
    let scratch = Scratch::new();
    for folder in [
        "month=05/x=1.0",
        "month=12/x=2.50",
        "month=__HIVE_DEFAULT_PARTITION__/x=3",
    ] {
        scratch.write(&format!("t/{folder}/rows.csv"), "a\n1\n");
    }
    let table = "CREATE EXTERNAL TABLE t (a BIGINT, month INT, x DOUBLE) STORED AS CSV PARTITIONED BY (month, x) \
                 LOCATION 't/'";
    for (condition, rows) in [
        ("month = 5", "1"),
        ("5 = month AND x = 1", "1"),
        ("x = 2.5", "1"),
        ("month = 6", "0"),
        ("month IS NULL", "1"),
        ("month > 4", "2"),
        ("month % 5 = 0", "1"),
    ] {
        let query = format!("{table}; SELECT count(*) FROM t WHERE {condition}");
        assert_eq!(answer(&scratch, &query), rows, "{condition}");
    }
}

#[test]
fn folders_that_do_not_fit_are_told_of() {
    let scratch = Scratch::new();
    for folder in ["month=5", "month=May"] {
        scratch.write(&format!("t/{folder}/rows.csv"), "a\n1\n");
    }
    let table = "CREATE EXTERNAL TABLE t (a BIGINT, month INT) STORED AS CSV PARTITIONED BY (month) LOCATION 't/'";
    for condition in ["true", "month = 5", "month IS NULL"] {
        let output = run_csv(&scratch, &format!("{table}; SELECT a FROM t WHERE {condition}"), &[]);
        let told = output.status.code() == Some(4) && output.stderr.contains("DATA-MALFORMED");
        assert!(told && output.stderr.contains("month=May"), "{condition}: {output}");
    }
    let text = "CREATE EXTERNAL TABLE t (a BIGINT) STORED AS CSV PARTITIONED BY (month) LOCATION 't/'";
    assert_eq!(answer(&scratch, &format!("{text}; SELECT max(month) FROM t")), "May");
    let other = text.replace("(month)", "(moth)");
    let output = run_csv(&scratch, &format!("{other}; SELECT a FROM t"), &[]);
    assert_eq!(output.status.code(), Some(4), "{output}");
    assert!(output.stderr.contains("no file is in a folder moth=..."), "{output}");
}

/// Strays beside the folders are no rows, and no reason to refuse the table.
#[test]
fn files_beside_the_folders_are_left_out() {
    let scratch = Scratch::new();
    scratch.write("t/readme.csv", "a\n7\n");
    let table = "CREATE EXTERNAL TABLE t (a BIGINT, b BIGINT) STORED AS CSV PARTITIONED BY (b) LOCATION 't/'";
    assert_eq!(answer(&scratch, &format!("{table}; SELECT count(*) FROM t")), "0");
    let query = format!("{table}; INSERT INTO t VALUES (1, 2); SELECT a, b FROM t");
    assert_eq!(answer(&scratch, &query), "1,2");
}

#[test]
fn columns_of_folders_are_called_as_others_are() {
    let scratch = Scratch::new();
    for (at, (declared, folders, selected)) in [
        ("a INT, \"day\" INT", "\"day\"", "day"),
        ("a INT, Day INT", "Day", "DAY"),
        ("a INT, \"Day\" INT", "\"Day\"", "\"Day\""),
        ("a INT, \"the day\" INT", "\"the day\"", "\"the day\""),
        ("a INT, \"a:b=c\" INT", "\"a:b=c\"", "\"a:b=c\""),
    ]
    .into_iter()
    .enumerate()
    {
        let table = format!(
            "CREATE EXTERNAL TABLE t ({declared}) STORED AS PARQUET PARTITIONED BY ({folders}) LOCATION 'i{at}/'; \
             INSERT INTO t VALUES (1, 2); SELECT {selected} AS d, * FROM t"
        );
        assert_eq!(answer(&scratch, &table), "2,1,2", "{declared}");
        let copy = format!(
            "COPY (SELECT 1 AS a, 2 AS {folders}) TO 'c{at}' STORED AS PARQUET PARTITIONED BY ({folders}); \
             CREATE EXTERNAL TABLE t ({declared}) STORED AS PARQUET PARTITIONED BY ({folders}) LOCATION 'c{at}/'; \
             SELECT * FROM t WHERE {selected} = 2"
        );
        assert_eq!(answer(&scratch, &copy), "1,2", "{declared}");
    }
}
