//! What statements write is there for the statements that follow, in the same job and in the next.

use trireme_tests::{Scratch, trireme};

/// Runs statements in a folder of their own and returns what they print as CSV.
fn sql(scratch: &Scratch, statements: &str) -> String {
    trireme(["sql", "--output", "csv", "-c", statements])
        .directory(scratch.path())
        .run()
        .succeeded()
        .stdout
}

#[test]
fn a_later_statement_sees_what_an_earlier_one_wrote() {
    let scratch = Scratch::new();
    let printed = sql(
        &scratch,
        "COPY (SELECT 1 AS a) TO 't' STORED AS PARQUET; \
         CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 't/'; \
         SELECT sum(a) AS before FROM t; \
         INSERT INTO t SELECT 10; \
         SELECT sum(a) AS appended FROM t; \
         INSERT OVERWRITE t SELECT 100; \
         SELECT sum(a) AS replaced FROM t",
    );
    assert_eq!(printed, "before\n1\nappended\n11\nreplaced\n100\n");
    let again = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 't/'; SELECT sum(a) AS replaced FROM t";
    assert_eq!(sql(&scratch, again), "replaced\n100\n");
}

#[test]
fn a_folder_of_compressed_files_is_read_back() {
    let scratch = Scratch::new();
    for (format, compression) in [("CSV", "gzip"), ("CSV", "zstd"), ("JSON", "gzip")] {
        let folder = format!("{format}-{compression}");
        let printed = sql(
            &scratch,
            &format!(
                "COPY (SELECT n_nationkey, n_name FROM tpch.tiny.nation) TO '{folder}' STORED AS {format} \
                 OPTIONS (compression '{compression}'); \
                 CREATE EXTERNAL TABLE t STORED AS {format} LOCATION '{folder}/'; \
                 SELECT count(*) AS n, sum(n_nationkey) AS keys, max(n_name) AS last FROM t"
            ),
        );
        assert_eq!(printed, "n,keys,last\n25,300,VIETNAM\n", "{folder}");
    }
}

#[test]
fn values_in_names_of_folders_come_back_as_a_column() {
    let scratch = Scratch::new();
    let printed = sql(
        &scratch,
        "COPY (SELECT n_name, n_regionkey FROM tpch.tiny.nation) TO 'h' STORED AS PARQUET PARTITIONED BY (n_regionkey); \
         CREATE EXTERNAL TABLE h STORED AS PARQUET PARTITIONED BY (n_regionkey) LOCATION 'h/'; \
         SELECT n_regionkey, count(*) AS n FROM h WHERE n_regionkey IN ('0', '4') GROUP BY 1 ORDER BY 1",
    );
    assert_eq!(printed, "n_regionkey,n\n0,5\n4,5\n");
    assert!(scratch.path().join("h/n_regionkey=3").is_dir());
}

#[test]
fn a_created_table_is_there_for_the_rest_of_the_job() {
    let scratch = Scratch::new();
    let printed = sql(
        &scratch,
        "CREATE TABLE big AS SELECT * FROM tpch.tiny.nation WHERE n_regionkey = 2; \
         CREATE VIEW names AS SELECT n_name FROM big; \
         SELECT count(*) AS n FROM names; \
         CREATE OR REPLACE TABLE big AS SELECT 1 AS one; \
         SELECT * FROM big",
    );
    assert_eq!(printed, "n\n5\none\n1\n");
}

#[test]
fn a_destination_with_data_is_kept_unless_told_otherwise() {
    let scratch = Scratch::new();
    let copy = |options: &str| format!("COPY (SELECT 1 AS a) TO 'd' STORED AS PARQUET {options}");
    let count = "CREATE EXTERNAL TABLE d STORED AS PARQUET LOCATION 'd/'; SELECT count(*) AS n FROM d";
    let _ = sql(&scratch, &copy(""));
    let refused = trireme(["sql", "-c", &copy("")])
        .directory(scratch.path())
        .run()
        .exited(4);
    assert!(refused.stderr.contains("error[DATA-DESTINATION-EXISTS]"), "{refused}");
    let _ = sql(&scratch, &copy("OPTIONS (mode 'append')"));
    assert_eq!(sql(&scratch, count), "n\n2\n");
    let _ = sql(&scratch, &copy("OPTIONS (mode 'overwrite')"));
    assert_eq!(sql(&scratch, count), "n\n1\n");
}
