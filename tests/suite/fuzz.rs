//! Files damaged and statements garbled by chance: whatever comes, an error of the published list or a result.
//!
//! `TRIREME_FUZZ_CASES` is the number of cases of each kind (20), `TRIREME_SEED` repeats an earlier run.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use trireme_tests::{Dice, Output, Scratch, batch_job, trireme};

use crate::tpch::queries;

/// A case may take this long: what is damaged must not become an endless loop.
const CASE_LIMIT: Duration = Duration::from_secs(60);

/// One file of each format, with strings, numbers, dates and nulls.
const FILES: [(&str, &str); 7] = [
    ("t.parquet", "STORED AS PARQUET"),
    ("s.parquet", "STORED AS PARQUET OPTIONS (compression 'snappy')"),
    ("t.csv", "STORED AS CSV OPTIONS ('format.has_header' 'true')"),
    (
        "t.csv.gz",
        "STORED AS CSV OPTIONS ('format.has_header' 'true', compression 'gzip')",
    ),
    ("t.json", "STORED AS JSON"),
    ("t.json.zst", "STORED AS JSON OPTIONS (compression 'zstd')"),
    ("t.arrow", "STORED AS ARROW"),
];

#[test]
fn damaged_files() {
    let scratch = Scratch::new();
    let (mut dice, mut findings) = (Dice::from_environment(), Findings::default());
    for (name, stored) in FILES {
        let intact = fs::read(written(&scratch, name, stored)).unwrap();
        let _ = read(&scratch.write(name, &intact), name).succeeded();
        for case in 0..cases() {
            let (damaged, how) = damage(&intact, &mut dice);
            let output = read(&scratch.write(name, damaged), name);
            findings.look(&output, &format!("case {case}: {name} with {how}"));
        }
    }
    findings.assert_none();
}

#[test]
fn garbled_statements() {
    let (mut dice, mut findings) = (Dice::from_environment(), Findings::default());
    let texts: Vec<_> = queries().into_iter().map(|(_, sql)| sql).collect();
    let words: Vec<Vec<&str>> = texts.iter().map(|sql| words(sql)).collect();
    for case in 0..3 * cases() {
        let garbled = garble(&words, &mut dice);
        let job = batch_job(
            &format!(
                "SET datafusion.catalog.default_catalog = 'tpch';\nSET datafusion.catalog.default_schema = 'sf0_001';\n{garbled}"
            ),
            "",
        );
        let output = trireme(["run", "-f", "-"]).stdin(job).limit(CASE_LIMIT).run();
        findings.look(&output, &format!("case {case}: {garbled}"));
    }
    findings.assert_none();
}

fn cases() -> u64 {
    env::var("TRIREME_FUZZ_CASES").map_or(20, |text| text.parse().expect("TRIREME_FUZZ_CASES is a number"))
}

/// What went wrong with cases; fails at the end, with all of them.
#[derive(Default)]
struct Findings(Vec<String>);

impl Findings {
    /// Expects a result, or an error that blames somebody else than us.
    fn look(&mut self, output: &Output, case: &str) {
        let listed = matches!(output.status.code(), Some(0 | 2..=7));
        let ours = ["panicked", "RUST_BACKTRACE", "error[INTERNAL"];
        if !listed || ours.iter().any(|text| output.stderr.contains(text)) {
            self.0.push(format!("{case}\n{output}"));
        }
    }

    fn assert_none(self) {
        assert!(self.0.is_empty(), "{}\n{} findings", self.0.join("\n"), self.0.len());
    }
}

/// The one file that a write of every kind of column leaves behind.
fn written(scratch: &Scratch, name: &str, stored: &str) -> PathBuf {
    let folder = scratch.path().join(format!("{name}.d"));
    let rows = "SELECT o_orderkey, o_orderpriority, o_totalprice, o_orderdate, nullif(o_orderkey % 3, 0) AS some, \
                o_comment FROM tpch.sf0_001.orders";
    let sql = format!("COPY ({rows}) TO '{}/' {stored}", folder.display());
    let _ = trireme(["sql", "-c", &sql]).run().succeeded();
    let part = |path: &Path| {
        path.is_file()
            && path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("part-"))
    };
    let mut parts = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| part(path));
    parts
        .next()
        .unwrap_or_else(|| panic!("no part in {}", folder.display()))
}

/// Every column of every row, so that no page is left unread.
fn read(file: &Path, name: &str) -> Output {
    let format = name.split('.').nth(1).unwrap();
    let table = format!("tables:\n- name: t\n  location: {}\n  format: {format}", file.display());
    let sql = "SELECT count(*), sum(o_orderkey), max(o_orderpriority), sum(o_totalprice), min(o_orderdate), count(some), \
               max(o_comment) FROM t";
    let job = batch_job(sql, &table);
    trireme(["run", "--output", "json", "-f", "-"])
        .stdin(job)
        .limit(CASE_LIMIT)
        .run()
}

/// `intact` with one to three faults, and what they are.
fn damage(intact: &[u8], dice: &mut Dice) -> (Vec<u8>, String) {
    let (mut bytes, mut how) = (intact.to_vec(), Vec::new());
    for _ in 0..=dice.below(3) {
        // Formats keep their lengths and offsets at the ends.
        let length = bytes.len() as u64;
        let at = match dice.below(3) {
            0 => dice.below(length.min(512)),
            1 => length - 1 - dice.below(length.min(512)),
            _ => dice.below(length),
        } as usize;
        let end = (at + 1 + dice.below(16) as usize).min(bytes.len());
        let fault = match dice.below(6) {
            0 => {
                bytes[at] ^= 1 << dice.below(8);
                "a flipped bit"
            }
            1 => {
                bytes[at..end].fill(0);
                "zeros"
            }
            2 => {
                bytes[at..end].fill(0xff);
                "ones"
            }
            3 => {
                bytes.truncate(at.max(1));
                "its end cut off"
            }
            4 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
                "bytes doubled"
            }
            _ => {
                bytes.drain(at..end);
                if bytes.is_empty() {
                    bytes.push(0);
                }
                "bytes left out"
            }
        };
        how.push(format!("{fault} at {at} to {end}"));
    }
    (bytes, how.join(", "))
}

/// Words and signs; what is between quotes stays one.
fn words(sql: &str) -> Vec<&str> {
    let (mut words, mut rest) = (Vec::new(), sql.trim());
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '\'' => rest[1..].find('\'').map_or(rest.len(), |end| end + 2),
            letter if letter.is_alphanumeric() || letter == '_' => rest
                .find(|letter: char| !letter.is_alphanumeric() && letter != '_')
                .unwrap_or(rest.len()),
            sign => sign.len_utf8(),
        };
        let (word, after) = rest.split_at(end);
        words.push(word);
        rest = after.trim_start();
    }
    words
}

/// One of `queries` after one to four accidents.
fn garble(queries: &[Vec<&str>], dice: &mut Dice) -> String {
    const STRANGE: [&str; 12] = [
        "NULL",
        "-1",
        "99999999999999999999",
        "1e400",
        "''",
        "(",
        ")",
        "CAST(NULL AS INTERVAL)",
        "DISTINCT",
        "'\u{1F6A3}'",
        "interval '1' month",
        "(SELECT 1)",
    ];
    let pick = |dice: &mut Dice, count: usize| dice.below(count.max(1) as u64) as usize;
    let mut words = queries[pick(dice, queries.len())].clone();
    for _ in 0..=dice.below(4) {
        let at = pick(dice, words.len());
        match dice.below(5) {
            0 => drop(words.remove(at)),
            1 => words.insert(at, words[at]),
            2 => {
                let other = pick(dice, words.len());
                words.swap(at, other);
            }
            3 => {
                let donor = &queries[pick(dice, queries.len())];
                words[at] = donor[pick(dice, donor.len())];
            }
            _ => words[at] = STRANGE[pick(dice, STRANGE.len())],
        }
    }
    words.join(" ")
}
