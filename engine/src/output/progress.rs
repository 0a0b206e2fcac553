//! Progress on standard error: a bar that moves on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use trireme_batch::engine::PlanCounters;
use trireme_batch::job::{StatementOutcome, StatementResult};
use trireme_spec::report::StageReport;

/// Without a terminal, a statement that takes longer than this says so, and again after as long.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A statement shorter than this leaves no line behind on a terminal: its result says enough.
const WORTH_A_LINE: Duration = Duration::from_millis(500);

/// Shows how far a job is.
pub struct Progress {
    mode: Mode,
    statement: String,
    last_line: Instant,
}

enum Mode {
    Silent,
    Lines,
    Bar(ProgressBar),
}

impl Progress {
    /// A bar on a terminal, lines elsewhere, nothing where `quiet`.
    pub fn new(quiet: bool) -> Self {
        let mode = match (quiet, stderr().is_terminal()) {
            (true, _) => Mode::Silent,
            (false, false) => Mode::Lines,
            (false, true) => Mode::Bar(bar()),
        };
        Self {
            mode,
            statement: String::new(),
            last_line: Instant::now(),
        }
    }

    /// A statement begins.
    pub fn start(&mut self, index: usize, total: usize, summary: &str) {
        self.statement = if total > 1 {
            format!("[{}/{total}] {summary}", index + 1)
        } else {
            summary.to_owned()
        };
        self.last_line = Instant::now();
        match &self.mode {
            Mode::Silent => {}
            Mode::Lines => {
                if total > 1 {
                    super::error_line(&self.statement);
                }
            }
            Mode::Bar(bar) => {
                bar.reset();
                bar.set_prefix(self.statement.clone());
            }
        }
    }

    /// The statement got further.
    pub fn update(&mut self, stages: &[StageReport], counters: PlanCounters) {
        let state = describe(stages, counters);
        match &self.mode {
            Mode::Silent => {}
            Mode::Lines => {
                if self.last_line.elapsed() >= LINE_EVERY {
                    self.last_line = Instant::now();
                    super::error_line(&format!("  {state}"));
                }
            }
            Mode::Bar(bar) => {
                let (done, total) = share(stages, counters);
                bar.set_length(total.max(1));
                bar.set_position(done.min(total));
                bar.set_message(state);
            }
        }
    }

    /// The statement is done.
    pub fn finish(&mut self, outcome: &StatementOutcome) {
        let Mode::Bar(bar) = &self.mode else { return };
        if outcome.elapsed >= WORTH_A_LINE || matches!(outcome.result, StatementResult::Written(_)) {
            let seconds = outcome.elapsed.as_secs_f64();
            let read = HumanCount(outcome.counters.rows_read);
            bar.suspend(|| super::error_line(&format!("✓ {} ({seconds:.1} s, {read} rows read)", self.statement)));
        }
    }

    /// The job ended: nothing stays on the screen.
    pub fn clear(&self) {
        if let Mode::Bar(bar) = &self.mode {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix}\n{bar:32} {percent:>3}% {msg} {elapsed}");
    let bar = ProgressBar::new(1).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// How much of the work is done: tasks where there are stages, rows read elsewhere.
fn share(stages: &[StageReport], counters: PlanCounters) -> (u64, u64) {
    if stages.is_empty() {
        return (counters.rows_read, counters.rows_expected);
    }
    stages.iter().fold((0, 0), |(done, total), stage| {
        (done + u64::from(stage.tasks.done), total + u64::from(stage.tasks.total))
    })
}

fn describe(stages: &[StageReport], counters: PlanCounters) -> String {
    let mut parts = Vec::new();
    if stages.is_empty() {
        parts.push(format!("{} rows read", HumanCount(counters.rows_read)));
    } else {
        let done = stages
            .iter()
            .filter(|stage| stage.tasks.done == stage.tasks.total)
            .count();
        let running: u32 = stages.iter().map(|stage| stage.tasks.running).sum();
        parts.push(format!("stages {done}/{}, {running} tasks running", stages.len()));
    }
    if counters.spilled_bytes > 0 {
        parts.push(format!("{} spilled", HumanBytes(counters.spilled_bytes)));
    }
    if counters.tasks_rerun > 0 {
        parts.push(format!("{} tasks run again", counters.tasks_rerun));
    }
    parts.join(", ")
}
