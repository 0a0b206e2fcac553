//! What statements write is there for the statements that follow, in the same job and in the next.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use trireme_tests::{Scratch, is_alive, trireme};

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
fn rows_join_compressed_ones_and_are_read_with_them() {
    let scratch = Scratch::new();
    let copy = "COPY (SELECT 1 AS a) TO 't' STORED AS CSV OPTIONS (compression 'gzip')";
    let table = "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 't/'";
    let sum = "SELECT sum(a) AS sum FROM t";
    let printed = sql(&scratch, &format!("{copy}; {table}; INSERT INTO t VALUES (10); {sum}"));
    assert_eq!(printed, "sum\n11\n");
    assert_eq!(sql(&scratch, &format!("{table}; {sum}")), "sum\n11\n");
    scratch.write("u/plain.csv", "a\n1\n");
    let packed = parts(&scratch.path().join("t")).remove(0);
    fs::copy(
        scratch.path().join("t").join(packed),
        scratch.path().join("u/packed.csv.gz"),
    )
    .unwrap();
    let output = trireme(["sql", "-c", &table.replace("'t/'", "'u/'")])
        .directory(scratch.path())
        .run();
    assert!(output.stderr.contains("compressed in several ways"), "{output}");
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

/// The rows go to 10 folders at first and to 100 later, more than files are open at a time.
#[test]
fn many_folders_do_not_make_many_files() {
    let scratch = Scratch::new();
    let folder = "CASE WHEN o_orderkey < 20000 THEN o_orderkey % 10 ELSE o_orderkey % 100 END AS folder";
    let sums = "SELECT count(*) AS n, count(DISTINCT folder) AS folders, sum(o_orderkey) AS keys FROM";
    let printed = sql(
        &scratch,
        &format!(
            "SET datafusion.execution.target_partitions = 1; \
             SET datafusion.execution.batch_size = 1024; \
             CREATE VIEW rows AS SELECT o_orderkey, {folder} FROM tpch.tiny.orders; \
             COPY (SELECT * FROM rows) TO 'h' STORED AS PARQUET PARTITIONED BY (folder); \
             CREATE EXTERNAL TABLE h (o_orderkey BIGINT, folder BIGINT) \
             STORED AS PARQUET PARTITIONED BY (folder) LOCATION 'h/'; \
             {sums} rows; {sums} h"
        ),
    );
    let [header, rows, same_header, written] = printed.lines().collect::<Vec<_>>()[..] else {
        panic!("{printed}")
    };
    assert_eq!((header, rows), (same_header, written));
    assert!(written.starts_with("15000,100,"), "{written}");
    let folders = fs::read_dir(scratch.path().join("h"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files: usize = folders
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("folder="))
        .map(|path| fs::read_dir(path).unwrap().count())
        .sum();
    assert_eq!(
        files,
        100 + 10,
        "one for each folder, and one for each that was open when folders became many"
    );
}

#[test]
fn a_table_that_is_there_is_kept_where_the_statement_says_so() {
    let scratch = Scratch::new();
    let kept = "CREATE TABLE t AS SELECT 1 AS a; \
                CREATE TABLE IF NOT EXISTS t AS SELECT 2 AS b; \
                CREATE TABLE IF NOT EXISTS u AS SELECT 3 AS c; \
                SELECT a, c FROM t, u";
    assert_eq!(sql(&scratch, kept), "a,c\n1,3\n");
    let both = "CREATE OR REPLACE TABLE IF NOT EXISTS t AS SELECT 1 AS a";
    let output = trireme(["sql", "-c", both]).run().exited(3);
    assert!(output.stderr.contains("error[SQL-UNSUPPORTED]"), "{output}");
}

#[test]
fn a_view_goes_on_reading_a_table_that_was_replaced() {
    let printed = sql(
        &Scratch::new(),
        "CREATE TABLE t AS SELECT 1 AS a; \
         CREATE VIEW v AS SELECT a FROM t; \
         CREATE OR REPLACE TABLE t AS SELECT 2 AS b; \
         SELECT a, b FROM v, t",
    );
    assert_eq!(printed, "a,b\n1,2\n");
}

#[test]
fn tables_of_similar_names_and_of_other_runs_are_other_tables() {
    let scratch = Scratch::new();
    let run = |first: u32| {
        let statements = format!(
            "CREATE SCHEMA s; \
             CREATE TABLE \"a b\" AS SELECT {first} AS x; \
             CREATE TABLE \"a/b\" AS SELECT {first} + 1 AS y; \
             CREATE TABLE s.\"a b\" AS SELECT {first} + 2 AS z; \
             SELECT x, y, z FROM \"a b\", \"a/b\", s.\"a b\""
        );
        let arguments = ["sql", "--output", "csv", "--scratch", "kept", "-c", &statements];
        let output = trireme(arguments).directory(scratch.path()).run().succeeded();
        assert_eq!(output.stdout, format!("x,y,z\n{first},{},{}\n", first + 1, first + 2));
    };
    run(1);
    run(10);
    let runs = fs::read_dir(scratch.path().join("kept/tables")).unwrap();
    let mut sums: Vec<String> = runs
        .map(|run| {
            let run = run.unwrap().path();
            let folders: BTreeSet<_> = fs::read_dir(&run)
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            assert_eq!(folders, BTreeSet::from(["2-a_b", "3-a_b", "4-s.a_b"].map(Into::into)));
            let table = format!(
                "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}/2-a_b/'",
                run.display()
            );
            sql(&scratch, &format!("{table}; SELECT x FROM t"))
        })
        .collect();
    sums.sort_unstable();
    assert_eq!(sums, ["x\n1\n", "x\n10\n"]);
}

#[test]
fn rows_are_not_replaced_one_by_one() {
    let scratch = Scratch::new();
    let statements = "COPY (SELECT 1 AS a) TO 't' STORED AS PARQUET; \
                      CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 't/'; \
                      REPLACE INTO t SELECT 1";
    let output = trireme(["sql", "-c", statements])
        .directory(scratch.path())
        .run()
        .exited(3);
    assert!(
        output.stderr.contains("error[SQL-UNSUPPORTED]") && output.stderr.contains("INSERT OVERWRITE"),
        "{output}"
    );
    let read = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 't/'; SELECT count(*) AS n FROM t";
    assert_eq!(sql(&scratch, read), "n\n1\n");
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

#[test]
fn a_committed_write_is_left_out_until_all_of_it_is_there() {
    let table = "CREATE EXTERNAL TABLE t (a BIGINT) STORED AS PARQUET LOCATION 't/'";
    for (earlier, write, sum, sum_after) in [
        ("", "INSERT INTO", 0, 35),
        ("; INSERT INTO t SELECT 1", "INSERT INTO", 1, 36),
        ("; INSERT INTO t SELECT 1", "INSERT OVERWRITE", 1, 35),
    ] {
        let scratch = Scratch::new();
        let folder = scratch.path().join("t");
        fs::create_dir(&folder).unwrap();
        let _ = sql(&scratch, &format!("{table}{earlier}"));
        let old: Vec<_> = parts(&folder)
            .into_iter()
            .map(|part| (fs::read(folder.join(&part)).unwrap(), part))
            .collect();
        let _ = sql(&scratch, &format!("{table}; {write} t SELECT 10 UNION ALL SELECT 20"));

        // Back to what a driver leaves that dies when the first of two parts is complete.
        let is_new = |part: &String| old.iter().all(|(_, old)| old != part);
        let new: Vec<_> = parts(&folder).into_iter().filter(is_new).collect();
        assert_eq!(new.len(), 2, "{new:?}");
        let pending = folder.join("_trireme/tmp").join(write_of(&new[1]));
        let pending = pending.join(format!("{}.pending", new[1]));
        fs::create_dir_all(pending.parent().unwrap()).unwrap();
        fs::rename(folder.join(&new[1]), &pending).unwrap();
        fs::remove_file(folder.join("_SUCCESS")).unwrap();
        for (bytes, part) in &old {
            fs::write(folder.join(part), bytes).unwrap();
        }

        let read = format!("{table}; SELECT coalesce(sum(a), 0) AS sum FROM t");
        let read = trireme(["sql", "--output", "csv", "-c", &read]).directory(scratch.path());
        let read = read.run().succeeded();
        assert_eq!(read.stdout, format!("sum\n{sum}\n"), "{write}\n{read}");
        assert!(read.stderr.contains("left out a write"), "{read}");
        assert!(pending.is_file(), "a reader completed a write\n{read}");

        let again = format!("{table}; INSERT INTO t SELECT 5; SELECT coalesce(sum(a), 0) AS sum FROM t");
        assert_eq!(sql(&scratch, &again), format!("sum\n{sum_after}\n"), "{write}");
    }
}

#[test]
fn a_reader_beside_a_writer_sees_whole_writes() {
    let scratch = Scratch::new();
    // 1500 rows in 60 parts a time: completing them takes a while.
    let table =
        "CREATE EXTERNAL TABLE t (a BIGINT, folder INT) STORED AS PARQUET PARTITIONED BY (folder) LOCATION 't/'";
    let insert = "; INSERT INTO t SELECT c_custkey, c_custkey % 60 FROM tpch.tiny.customer";
    let statements = format!("{table}{}", insert.repeat(5));
    let writer = trireme(["sql", "-c", &statements]).directory(scratch.path()).spawn();
    let select = "; SELECT count(*) AS n FROM t";
    let mut seen = BTreeSet::new();
    while is_alive(writer.pid()) {
        let printed = sql(&scratch, &format!("{table}{}", select.repeat(50)));
        let counts = printed.lines().filter(|line| *line != "n");
        seen.extend(counts.map(|line| line.parse::<u32>().unwrap()));
    }
    let _ = writer.wait().succeeded();
    assert!(seen.len() > 2, "the reader was not beside the writer: {seen:?}");
    assert!(
        seen.iter().all(|rows| rows % 1500 == 0),
        "the reader saw a part: {seen:?}"
    );
}

/// Names of the data files in a folder, in order.
fn parts(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut parts: Vec<_> = names.filter(|name| name.starts_with("part-")).collect();
    parts.sort_unstable();
    parts
}

/// The id of the write in `part-00000-<write id>-g1a0.parquet`.
fn write_of(part: &str) -> &str {
    let (write, _) = part["part-00000-".len()..].rsplit_once('-').unwrap();
    write
}
