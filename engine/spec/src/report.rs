//! What a running job says about itself: facts, going up from the driver to whoever asks.
//!
//! A report states what is, never what should be: the operator decides on sizes and conditions, the terminal on what to
//! draw. It never holds credentials or rows of data other than the result's preview.

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, JobName, StageId, WorkerId};
use crate::problem::{ErrorClass, Problem, clip};

/// The state of a job, as its driver knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobReport {
    /// Name of the job.
    pub job: JobName,
    /// Which life of the driver says this. A report of an older one than already seen is out of date.
    pub generation: Generation,
    /// How far the job is.
    pub phase: Phase,
    /// Statements whose effects are complete.
    pub statements_done: u32,
    /// Statements of the job.
    pub statements_total: u32,
    /// Stages of the statement that runs, inputs before those who read them.
    #[serde(default)]
    pub stages: Vec<StageReport>,
    /// Workers that have joined this life of the driver, the lost ones included.
    #[serde(default)]
    pub workers: Vec<WorkerReport>,
    /// Sums over the whole job.
    pub counters: Counters,
    /// When this life of the driver handed its first task to a worker, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_task_ms: Option<u64>,
    /// The last thing that went wrong, even if a retry has mended it; why the job failed, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<Problem>,
    /// The result, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ResultReport>,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Reads its journal, plans, and waits for the first worker.
    Starting,
    /// Runs statements.
    Running,
    /// Was told to stop, and finishes or hands over what runs.
    Draining,
    /// Every statement is complete.
    Succeeded,
    /// Has given up; `last_error` says why.
    Failed,
    /// Was stopped on request.
    Cancelled,
}

impl Phase {
    /// Whether nothing will follow.
    pub const fn is_terminal(self) -> bool {
        match self {
            Phase::Starting | Phase::Running | Phase::Draining => false,
            Phase::Succeeded | Phase::Failed | Phase::Cancelled => true,
        }
    }
}

/// One stage of the statement that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageReport {
    /// Which stage.
    pub id: StageId,
    /// Its tasks.
    pub tasks: TaskCounts,
}

/// Tasks of a stage by state. Those that are none of `running` and `done` are pending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskCounts {
    /// All tasks.
    pub total: u32,
    /// Tasks that run now.
    pub running: u32,
    /// Tasks that are complete, and whose output still exists.
    pub done: u32,
    /// Attempts that failed so far, whatever became of the task later.
    pub failed: u32,
}

impl TaskCounts {
    /// Tasks that wait for a slot or for their inputs.
    pub const fn pending(&self) -> u32 {
        self.total.saturating_sub(self.running.saturating_add(self.done))
    }
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerReport {
    /// Which worker.
    pub id: WorkerId,
    /// What it is up to.
    pub state: WorkerState,
    /// Tasks that it can run at once.
    pub slots: u32,
    /// Tasks that it runs now.
    pub running: u32,
}

/// What a worker is up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WorkerState {
    /// Takes tasks.
    Active,
    /// Takes none, and finishes or hands over what it has.
    Draining,
    /// Has left in order.
    Left,
    /// Was silent too long, or its stream broke. It is refused if it comes back.
    Lost,
}

/// Sums over the whole job; they never fall within one generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Attempts beyond the first of their task.
    pub tasks_rerun: u64,
    /// Bytes written to disk because they did not fit in memory.
    pub spilled_bytes: u64,
    /// Bytes written for other stages to read.
    pub shuffle_bytes: u64,
    /// Rows of results and written tables.
    pub rows_out: u64,
}

/// The result of the last statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResultReport {
    /// The first rows as a text table, within the limits of a preview; empty if it was left out to save room.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub preview: String,
    /// Rows of the whole result.
    pub rows: u64,
    /// Whether the result has more rows than the preview shows.
    pub truncated: bool,
    /// Where the whole result was written, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
}

impl JobReport {
    /// A report of a job of which nothing has happened yet.
    pub fn starting(job: JobName, generation: Generation, statements_total: u32) -> JobReport {
        JobReport {
            job,
            generation,
            phase: Phase::Starting,
            statements_done: 0,
            statements_total,
            stages: Vec::new(),
            workers: Vec::new(),
            counters: Counters::default(),
            first_task_ms: None,
            last_error: None,
            result: None,
        }
    }

    /// The job has ended, with `error` or well.
    pub fn end(&mut self, error: Option<&Problem>) {
        self.phase = match error {
            None => Phase::Succeeded,
            Some(problem) if problem.code.class() == ErrorClass::Cancelled => Phase::Cancelled,
            Some(_) => Phase::Failed,
        };
        self.last_error = error.cloned();
    }

    /// The report as JSON of at most `bytes_max` bytes, for places that would cut it, such as a termination log: the less
    /// it matters to the outcome, the sooner a part is left out, and of the result's preview as many lines as there is no
    /// room for. Below 2 KiB even the outcome may not fit.
    pub fn to_json_within(&self, bytes_max: usize) -> String {
        // Each says whether there is more of the same to cut.
        let cuts: [fn(&mut JobReport) -> bool; 5] = [
            |report| {
                report.stages.clear();
                false
            },
            |report| {
                report.workers.clear();
                false
            },
            |report| report.result.as_mut().is_some_and(ResultReport::drop_line),
            |report| {
                report.result = None;
                false
            },
            |report| {
                report.last_error = report.last_error.take().map(brief);
                false
            },
        ];
        let mut report = self.clone();
        let mut json = report.to_json();
        for cut in cuts {
            while json.len() > bytes_max {
                let more = cut(&mut report);
                json = report.to_json();
                if !more {
                    break;
                }
            }
        }
        json
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a report has only text keys and finite numbers")
    }
}

impl ResultReport {
    /// Leaves out the last line of the preview; says whether there is another.
    fn drop_line(&mut self) -> bool {
        let end = self.preview.trim_end_matches('\n').rfind('\n').unwrap_or(0);
        self.truncated |= !self.preview.is_empty();
        self.preview.truncate(end);
        !self.preview.is_empty()
    }
}

/// A problem as JSON, of what the outcome needs only if there is more than `bytes_max` bytes of it.
pub fn problem_to_json_within(problem: &Problem, bytes_max: usize) -> String {
    let json = |problem: &Problem| serde_json::to_string(problem).expect("a problem has only texts and flags");
    let whole = json(problem);
    if whole.len() <= bytes_max {
        return whole;
    }
    json(&brief(problem.clone()))
}

/// What is left of a problem when room is short: 160 bytes of text are at most 960 of JSON, since an escape takes six.
fn brief(problem: Problem) -> Problem {
    let Problem {
        code,
        message,
        location: _,
        found: _,
        allowed: _,
        remedy: _,
        fault,
        retry,
    } = problem;
    Problem::new(code, clip(message, 160)).blame(fault).retryable(retry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::ErrorCode;

    fn failed() -> JobReport {
        let mut report = JobReport::starting(JobName::new("revenue").unwrap(), Generation(2), 3);
        report.phase = Phase::Failed;
        report.statements_done = 1;
        report.stages = vec![StageReport {
            id: StageId(1),
            tasks: TaskCounts {
                total: 4,
                running: 1,
                done: 2,
                failed: 1,
            },
        }];
        report.workers = vec![WorkerReport {
            id: WorkerId::new("w-1"),
            state: WorkerState::Lost,
            slots: 2,
            running: 0,
        }];
        report.last_error = Some(Problem::new(ErrorCode::LimitRetries, "task 1.3 failed 4 times"));
        report
    }

    #[test]
    fn travels_as_json() {
        let json = serde_json::to_string_pretty(&failed()).unwrap();
        assert_eq!(
            json,
            r#"{
  "job": "revenue",
  "generation": 2,
  "phase": "Failed",
  "statementsDone": 1,
  "statementsTotal": 3,
  "stages": [
    {
      "id": 1,
      "tasks": {
        "total": 4,
        "running": 1,
        "done": 2,
        "failed": 1
      }
    }
  ],
  "workers": [
    {
      "id": "w-1",
      "state": "Lost",
      "slots": 2,
      "running": 0
    }
  ],
  "counters": {
    "tasksRerun": 0,
    "spilledBytes": 0,
    "shuffleBytes": 0,
    "rowsOut": 0
  },
  "lastError": {
    "code": "LIMIT-RETRIES",
    "message": "task 1.3 failed 4 times",
    "fault": "External",
    "retry": true
  }
}"#
        );
        assert_eq!(serde_json::from_str::<JobReport>(&json).unwrap(), failed());
        assert_eq!(failed().stages[0].tasks.pending(), 1);
    }

    #[test]
    fn parts_that_matter_least_are_left_out_first() {
        let mut report = failed();
        let lines = vec![format!("|{}|", "x".repeat(78)); 100].join("\n");
        report.result = Some(ResultReport {
            preview: lines.clone(),
            rows: 100,
            truncated: false,
            location: Some("out".into()),
        });
        let parse = |json: &str| serde_json::from_str::<JobReport>(json).unwrap();
        assert_eq!(parse(&report.to_json_within(usize::MAX)), report);

        // Nobody needs to know of stages and workers once the job has ended; each line of the result counts.
        let shorter = parse(&report.to_json_within(4096));
        let result = shorter.result.as_ref().unwrap();
        assert!((3000..4096).contains(&result.preview.len()), "{}", result.preview.len());
        assert!(lines.starts_with(&result.preview) && result.preview.ends_with("x|"));
        assert!(result.truncated && shorter.stages.is_empty() && shorter.workers.is_empty());

        let (whole, mut without) = (report.to_json(), report.clone());
        without.stages.clear();
        assert_eq!(parse(&report.to_json_within(whole.len() - 1)), without);
    }

    #[test]
    fn a_preview_of_one_long_line_is_left_out() {
        let mut report = failed();
        report.result = Some(ResultReport {
            preview: "x".repeat(8192),
            rows: 9,
            truncated: false,
            location: None,
        });
        let read: JobReport = serde_json::from_str(&report.to_json_within(4096)).unwrap();
        let result = read.result.unwrap();
        assert_eq!((result.preview.as_str(), result.rows, result.truncated), ("", 9, true));
    }

    #[test]
    fn a_problem_is_cut_to_its_outcome() {
        let problem = Problem::new(ErrorCode::NetworkUnreachable, "x".repeat(2000))
            .found("y".repeat(2000))
            .remedy("z".repeat(2000));
        let whole = problem_to_json_within(&problem, usize::MAX);
        assert_eq!(serde_json::from_str::<Problem>(&whole).unwrap(), problem);
        let cut = problem_to_json_within(&problem, 4096);
        let read: Problem = serde_json::from_str(&cut).unwrap();
        assert!(cut.len() <= 4096 && read.message.starts_with("xxx"), "{cut}");
        assert_eq!((read.code, read.remedy), (ErrorCode::NetworkUnreachable, None));
    }

    #[test]
    fn an_end_is_good_bad_or_on_request() {
        for (code, phase) in [
            (None, Phase::Succeeded),
            (Some(ErrorCode::SqlSyntax), Phase::Failed),
            (Some(ErrorCode::Cancelled), Phase::Cancelled),
            (Some(ErrorCode::CancelledReplaced), Phase::Cancelled),
        ] {
            let mut report = failed();
            let error = code.map(|code| Problem::new(code, "over"));
            report.end(error.as_ref());
            assert_eq!((report.phase, report.last_error), (phase, error));
        }
    }

    #[test]
    fn the_outcome_always_fits() {
        let hostile = "\u{1}".repeat(4096);
        let mut report = failed();
        report.workers = vec![report.workers[0].clone(); 1000];
        report.stages = vec![report.stages[0].clone(); 1000];
        report.last_error = Some(
            Problem::new(ErrorCode::SqlExecution, hostile.clone())
                .found(hostile.clone())
                .remedy(hostile),
        );
        let json = report.to_json_within(4096);
        assert!(json.len() <= 2048, "{}", json.len());
        let read: JobReport = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (read.phase, read.last_error.unwrap().code),
            (Phase::Failed, ErrorCode::SqlExecution)
        );
    }
}
