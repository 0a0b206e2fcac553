//! Progress on standard error: bars that move on a terminal, one for each stage; a line now and then elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, MultiProgress, ProgressBar, ProgressStyle};
use trireme_batch::engine::PlanCounters;
use trireme_batch::job::{StatementOutcome, StatementResult};
use trireme_spec::report::StageReport;

/// Without a terminal, a statement that takes longer than this says so, and again after as long.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A query shorter than this leaves no line behind on a terminal: its result says enough.
const WORTH_A_LINE: Duration = Duration::from_millis(500);

/// Stages that are shown at once: what is above must stay on the screen.
const STAGES_SHOWN_MAX: usize = 10;

/// Shows how far a job is.
pub struct Progress {
    mode: Mode,
    statement: String,
    last_line: Instant,
}

enum Mode {
    Silent,
    Lines,
    Bars(Bars),
}

impl Progress {
    /// Bars on a terminal, lines elsewhere, nothing where `quiet`.
    pub fn new(quiet: bool) -> Self {
        let mode = match (quiet, stderr().is_terminal()) {
            (true, _) => Mode::Silent,
            (false, false) => Mode::Lines,
            (false, true) => Mode::Bars(Bars::new()),
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
        match &mut self.mode {
            Mode::Silent => {}
            Mode::Lines => {
                if total > 1 {
                    super::error_line(&self.statement);
                }
            }
            Mode::Bars(bars) => bars.start(&self.statement),
        }
    }

    /// The statement got further.
    pub fn update(&mut self, stages: &[StageReport], counters: PlanCounters) {
        match &mut self.mode {
            Mode::Silent => {}
            Mode::Lines => {
                if self.last_line.elapsed() >= LINE_EVERY {
                    self.last_line = Instant::now();
                    super::error_line(&format!("  {}", line(stages, counters)));
                }
            }
            Mode::Bars(bars) => bars.show(&work(stages, counters), &costs(counters)),
        }
    }

    /// The statement is done.
    pub fn finish(&mut self, outcome: &StatementOutcome) {
        let Mode::Bars(bars) = &mut self.mode else { return };
        bars.show(&[], "");
        // The rows of a short query say enough; what leaves no rows behind would leave no trace at all.
        let silent = matches!(outcome.result, StatementResult::Rows(_)) && outcome.elapsed < WORTH_A_LINE;
        if !silent {
            let seconds = outcome.elapsed.as_secs_f64();
            let mut costs = costs(outcome.counters);
            if outcome.counters.rows_read > 0 {
                let plural = if outcome.counters.rows_read == 1 { "" } else { "s" };
                costs = format!(", {} row{plural} read{costs}", HumanCount(outcome.counters.rows_read));
            }
            let line = format!("✓ {} ({seconds:.1} s{costs})", self.statement);
            bars.all.suspend(|| super::error_line(&line));
        }
        // Whoever prints the result may be another process, which knows of no bars to print beside.
        bars.rest();
    }

    /// Prints something that stays, with nothing moving beside it.
    pub fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.mode {
            Mode::Silent | Mode::Lines => print(),
            Mode::Bars(bars) => bars.all.suspend(print),
        }
    }

    /// The job ended: nothing stays on the screen.
    pub fn clear(&self) {
        if let Mode::Bars(bars) = &self.mode {
            // A terminal that is gone needs no clearing.
            drop(bars.all.clear());
        }
    }
}

/// What moves on a terminal: the statement, and below it its stages.
struct Bars {
    all: MultiProgress,
    statement: ProgressBar,
    work: Vec<ProgressBar>,
}

impl Bars {
    fn new() -> Self {
        Self {
            all: MultiProgress::new(),
            statement: ProgressBar::hidden(),
            work: Vec::new(),
        }
    }

    fn start(&mut self, statement: &str) {
        self.rest();
        let spinner = ProgressBar::new_spinner().with_style(style("{spinner} {prefix} {elapsed}{msg}"));
        self.statement = self.all.add(spinner);
        self.statement.set_prefix(statement.to_owned());
        self.statement.enable_steady_tick(Duration::from_millis(100));
    }

    /// Shows nothing until the next start.
    fn rest(&mut self) {
        self.show(&[], "");
        self.statement.finish_and_clear();
        self.all.remove(&self.statement);
    }

    fn show(&mut self, work: &[Work], costs: &str) {
        self.statement.set_message(costs.to_owned());
        while self.work.len() > work.len()
            && let Some(bar) = self.work.pop()
        {
            self.all.remove(&bar);
        }
        while self.work.len() < work.len() {
            let bar = ProgressBar::new(1).with_style(style("  {prefix:<10} {bar:32} {msg}"));
            self.work.push(self.all.add(bar));
        }
        for (bar, work) in self.work.iter().zip(work) {
            bar.set_prefix(work.name.clone());
            bar.set_length(work.total.max(1));
            bar.set_position(work.done.min(work.total));
            bar.set_message(work.note.clone());
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// One bar.
#[derive(Debug, PartialEq, Eq)]
struct Work {
    name: String,
    done: u64,
    total: u64,
    note: String,
}

/// Tasks of each stage where there are stages, rows read elsewhere.
fn work(stages: &[StageReport], counters: PlanCounters) -> Vec<Work> {
    if stages.is_empty() {
        let percent = (counters.rows_read * 100).checked_div(counters.rows_expected);
        let percent = percent.map_or_else(String::new, |percent| format!("{:>3}% ", percent.min(100)));
        return vec![Work {
            name: "rows read".to_owned(),
            done: counters.rows_read,
            total: counters.rows_expected,
            note: format!("{percent}{}", HumanCount(counters.rows_read)),
        }];
    }
    // The ones that are done are told least about; those that have not begun come after those that have.
    let done = stages
        .iter()
        .filter(|stage| stage.tasks.done == stage.tasks.total)
        .count();
    let skipped = done.min(stages.len().saturating_sub(STAGES_SHOWN_MAX));
    let mut left_out = skipped;
    let shown = stages.iter().filter(|stage| {
        let leave_out = left_out > 0 && stage.tasks.done == stage.tasks.total;
        left_out -= usize::from(leave_out);
        !leave_out
    });
    shown.take(STAGES_SHOWN_MAX).map(stage_work).collect()
}

fn stage_work(stage: &StageReport) -> Work {
    let tasks = &stage.tasks;
    let mut note = format!("{}/{} tasks", tasks.done, tasks.total);
    for (count, what) in [(tasks.running, "running"), (tasks.failed, "again")] {
        if count > 0 {
            note = format!("{note}, {count} {what}");
        }
    }
    Work {
        name: format!("stage {}", stage.id.0),
        done: u64::from(tasks.done),
        total: u64::from(tasks.total),
        note,
    }
}

/// The same on one line.
fn line(stages: &[StageReport], counters: PlanCounters) -> String {
    let work = work(stages, counters).into_iter();
    let parts: Vec<_> = work.map(|Work { name, note, .. }| format!("{name}: {note}")).collect();
    format!("{}{}", parts.join("; "), costs(counters))
}

/// What went other than planned.
fn costs(counters: PlanCounters) -> String {
    let mut costs = String::new();
    if counters.spilled_bytes > 0 {
        costs = format!("{costs}, {} spilled", HumanBytes(counters.spilled_bytes));
    }
    if counters.tasks_rerun > 0 {
        costs = format!("{costs}, {} tasks run again", counters.tasks_rerun);
    }
    costs
}

#[cfg(test)]
mod tests {
    use super::*;
    use trireme_spec::ids::StageId;
    use trireme_spec::report::TaskCounts;

    fn stage(id: u32, done: u32, running: u32) -> StageReport {
        StageReport {
            id: StageId(id),
            tasks: TaskCounts {
                total: 8,
                running,
                done,
                failed: 0,
            },
        }
    }

    #[test]
    fn each_stage_says_how_far_it_is() {
        let mut stages = [stage(1, 8, 0), stage(2, 3, 2), stage(3, 0, 0)];
        stages[1].tasks.failed = 1;
        let counters = PlanCounters {
            spilled_bytes: 2048,
            tasks_rerun: 1,
            ..PlanCounters::default()
        };
        assert_eq!(
            line(&stages, counters),
            "stage 1: 8/8 tasks; stage 2: 3/8 tasks, 2 running, 1 again; stage 3: 0/8 tasks, 2.00 KiB spilled, 1 tasks run again"
        );
    }

    #[test]
    fn rows_are_counted_where_there_are_no_stages() {
        let counters = |rows_read, rows_expected| PlanCounters {
            rows_read,
            rows_expected,
            ..PlanCounters::default()
        };
        assert_eq!(line(&[], counters(1_500, 6_000)), "rows read:  25% 1,500");
        assert_eq!(line(&[], counters(1_500, 0)), "rows read: 1,500");
    }

    #[test]
    fn of_many_stages_those_are_shown_that_are_under_way() {
        let stages: Vec<_> = (1..=30).map(|id| stage(id, if id <= 12 { 8 } else { 0 }, 0)).collect();
        let names: Vec<_> = work(&stages, PlanCounters::default())
            .into_iter()
            .map(|work| work.name)
            .collect();
        assert_eq!(names.len(), STAGES_SHOWN_MAX);
        assert_eq!((names[0].as_str(), names[9].as_str()), ("stage 13", "stage 22"));
        let stages: Vec<_> = (1..=12)
            .map(|id| stage(id, if id <= 12 - 3 { 8 } else { 0 }, 0))
            .collect();
        let names: Vec<_> = work(&stages, PlanCounters::default())
            .into_iter()
            .map(|work| work.name)
            .collect();
        assert_eq!(
            (names.len(), names[0].as_str(), names[9].as_str()),
            (10, "stage 3", "stage 12")
        );
    }
}
