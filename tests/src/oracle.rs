//! The Python oracles under `oracle/`: other engines that answer the same queries, and a comparer of answers.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use crate::process::Program;
use crate::repository;

/// The first call may install the packages.
const SETUP_LIMIT: Duration = Duration::from_secs(600);

/// All queries over large data.
const ANSWERS_LIMIT: Duration = Duration::from_secs(1800);

/// An engine whose answers are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The same version that Trireme is built on, in one process.
    DataFusion,
    /// A stranger: shares no code with us.
    DuckDb,
}

impl Engine {
    /// Its name on the oracle's command line.
    pub fn name(self) -> &'static str {
        match self {
            Engine::DataFusion => "datafusion",
            Engine::DuckDb => "duckdb",
        }
    }
}

/// Has `engine` answer every query of the folder `queries` over the tables in `data`, into the folder `out`.
pub fn answers(engine: Engine, data: &Path, queries: &Path, out: &Path) {
    let arguments = ["answers", "--engine", engine.name()].map(PathBuf::from).into_iter();
    let folders = [("--data", data), ("--queries", queries), ("--out", out)];
    let folders = folders
        .into_iter()
        .flat_map(|(name, path)| [PathBuf::from(name), path.to_owned()]);
    let _ = oracle(arguments.chain(folders)).limit(ANSWERS_LIMIT).run().succeeded();
}

/// Fails the test unless `actual` holds the same answers as `expected`; returns the comparer's lines, one per query.
pub fn compare(expected: &Path, actual: &Path) -> String {
    oracle([Path::new("compare"), expected, actual])
        .run()
        .succeeded()
        .stdout
}

/// How the answer to one query differs; `None` where it does not.
pub fn difference(expected: &Path, actual: &Path, query: &str) -> Option<String> {
    let output = oracle([
        Path::new("compare"),
        expected,
        actual,
        Path::new("--query"),
        Path::new(query),
    ])
    .run();
    (!output.status.success()).then_some(output.stdout)
}

fn oracle<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Program {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    let folder = repository().join("tests/oracle");
    let python = PYTHON.get_or_init(|| {
        let setup = Program::new(folder.join("setup.sh"), [""; 0])
            .whole_environment()
            .limit(SETUP_LIMIT)
            .run()
            .succeeded();
        PathBuf::from(setup.stdout.trim_end())
    });
    let script = folder.join("oracle.py").into_os_string();
    let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
    Program::new(python, std::iter::once(script).chain(arguments))
}
