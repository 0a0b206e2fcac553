//! A write between its begin and its end, which a stopped job may leave there.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::physical_plan::ExecutionPlan;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use trireme_spec::problem::{ErrorCode, Problem};

use super::{Committed, STOP_PATIENCE, Write};
use crate::engine::RunningPlan;
use crate::panics::Panic;

/// A job that was stopped waits this long for its writes to be abandoned, once their tasks have stopped: a few requests to a
/// store, and for each upload that is aborted some more.
const ABANDON_PATIENCE: Duration = Duration::from_secs(STOP_PATIENCE.as_secs() + 10);

/// It waits longer for a commit under way, which others would have to complete.
const COMMIT_PATIENCE: Duration = Duration::from_secs(20);

/// What happens to a job's writes beside its statements: a commit that has begun goes on to its end, and a write that was
/// dropped is abandoned, also when the job is stopped.
#[derive(Debug, Default)]
pub struct Decisions {
    tasks: TaskTracker,
    commit: Arc<Mutex<Commit>>,
}

/// The commit whose outcome nobody has heard.
#[derive(Debug, Default)]
enum Commit {
    #[default]
    None,
    UnderWay {
        location: String,
    },
    /// What is to be said of it.
    Known {
        text: String,
    },
}

impl Decisions {
    /// Waits for the writes of a job that runs no more. Returns what became of a commit that the job did not wait for.
    pub async fn settle(&self) -> Option<String> {
        self.tasks.close();
        let patience = match *self.commit.lock() {
            Commit::UnderWay { .. } => COMMIT_PATIENCE,
            Commit::None | Commit::Known { .. } => ABANDON_PATIENCE,
        };
        if tokio::time::timeout(patience, self.tasks.wait()).await.is_err() {
            tracing::warn!("a write that was stopped is left as it is at its destination");
        }
        match &*self.commit.lock() {
            Commit::None => None,
            Commit::Known { text } => Some(text.clone()),
            Commit::UnderWay { location } => Some(format!(
                "whether what it wrote to {location} is committed, its log will tell"
            )),
        }
    }
}

/// A write under way. One that is dropped, because the job was stopped, is abandoned by a task of its own: what it has
/// left at its destination would be paid for, and seen by nobody.
pub struct PendingWrite<'a> {
    /// Gone once it is decided.
    write: Option<Box<Write>>,
    decisions: &'a Decisions,
}

impl<'a> PendingWrite<'a> {
    /// Watches over `write`; `decisions` has what remains to be done for it if it is dropped.
    pub fn new(write: Box<Write>, decisions: &'a Decisions) -> Self {
        Self {
            write: Some(write),
            decisions,
        }
    }

    /// As [`Write::plan`].
    pub fn plan(&mut self, input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        let write = self.write.as_mut();
        write
            .expect("a write is there until it is decided, which takes it")
            .plan(input)
    }

    /// As [`Write::commit`]. It goes on when nobody waits for it any more.
    ///
    /// # Errors
    /// As there.
    pub async fn commit(mut self, receipts: Vec<RecordBatch>) -> Result<Committed, Problem> {
        let write = self.write.take().expect("a write is decided once");
        let location = write.location().to_owned();
        *self.decisions.commit.lock() = Commit::UnderWay {
            location: location.clone(),
        };
        let outcome = Arc::clone(&self.decisions.commit);
        let deciding = self.decisions.tasks.spawn(async move {
            let done = write.commit(&receipts).await;
            *outcome.lock() = Commit::Known {
                text: told(&location, &done),
            };
            done
        });
        let done = deciding.await.unwrap_or_else(|ended| {
            let panic = Panic::of_task(&ended).map(|panic| panic.problem());
            Err(panic.unwrap_or_else(|| Problem::new(ErrorCode::Internal, ended.to_string())))
        });
        *self.decisions.commit.lock() = Commit::None;
        done
    }

    /// As [`Write::abandon`], when `running`, which runs its plan, has been stopped. It goes on when nobody waits for it any
    /// more.
    pub async fn abandon(mut self, running: Option<RunningPlan>) {
        drop(running);
        if let Some(write) = self.write.take() {
            // It has nothing to tell, and a panic of it is in the log.
            drop(self.decisions.tasks.spawn(async move { write.abandon().await }).await);
        }
    }
}

/// What a job that was stopped says of its commit.
fn told(location: &str, done: &Result<Committed, Problem>) -> String {
    match done {
        Ok(Committed { unfinished: None, .. }) => format!("what it wrote to {location} is committed"),
        Ok(Committed {
            unfinished: Some(problem),
            ..
        })
        | Err(problem) => problem.message.clone(),
    }
}

impl Drop for PendingWrite<'_> {
    fn drop(&mut self) {
        if let (Some(write), Ok(runtime)) = (self.write.take(), Handle::try_current()) {
            self.decisions
                .tasks
                .spawn_on(async move { write.abandon().await }, &runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::{Written, not_complete, not_known};

    #[test]
    fn a_stopped_job_tells_what_is_known_of_its_commit() {
        let down = || Problem::new(ErrorCode::NetworkUnreachable, "the store does not answer");
        let written = |unfinished| Committed {
            written: Written {
                location: "t".to_owned(),
                rows: 1,
                files: 1,
                bytes: 1,
                recovered: false,
            },
            unfinished,
        };
        assert_eq!(told("t", &Ok(written(None))), "what it wrote to t is committed");
        let left = told("t", &Ok(written(Some(not_complete("t", down())))));
        assert!(left.contains("is committed, and not complete yet"), "{left}");
        let doubt = told("t", &Err(not_known("t", down())));
        assert!(doubt.contains("it cannot be told whether"), "{doubt}");
    }
}
