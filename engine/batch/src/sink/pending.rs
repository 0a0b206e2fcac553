//! A write between its begin and its end, which a stopped job may leave there.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::physical_plan::ExecutionPlan;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use trireme_spec::problem::Problem;

use super::{Write, Written};

/// A write under way. One that is dropped, because the job was stopped, is abandoned by a task of its own: what it has
/// left at its destination would be paid for, and seen by nobody.
pub struct PendingWrite<'a> {
    /// Gone once it is decided.
    write: Option<Box<Write>>,
    abandoned: &'a TaskTracker,
}

impl<'a> PendingWrite<'a> {
    /// Watches over `write`; `abandoned` runs what remains to be done for it if it is dropped.
    pub fn new(write: Box<Write>, abandoned: &'a TaskTracker) -> Self {
        Self {
            write: Some(write),
            abandoned,
        }
    }

    /// As [`Write::plan`].
    pub fn plan(&self) -> Arc<dyn ExecutionPlan> {
        let write = self.write.as_ref();
        write
            .expect("a write is there until it is decided, which takes it")
            .plan()
    }

    /// As [`Write::commit`].
    ///
    /// # Errors
    /// As there.
    pub async fn commit(mut self, receipts: &[RecordBatch]) -> Result<Written, Problem> {
        let write = self.write.take().expect("a write is decided once");
        write.commit(receipts).await
    }

    /// As [`Write::abandon`].
    pub async fn abandon(mut self) {
        if let Some(write) = self.write.take() {
            write.abandon().await;
        }
    }
}

impl Drop for PendingWrite<'_> {
    fn drop(&mut self) {
        if let (Some(write), Ok(runtime)) = (self.write.take(), Handle::try_current()) {
            self.abandoned.spawn_on(async move { write.abandon().await }, &runtime);
        }
    }
}
