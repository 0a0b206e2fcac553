//! Stands over a leaf of a task's plan and ends its stream when the task is cancelled.
//!
//! Shuffle writers spawn their own work and outlive the future that drives them; cutting what they read is what stops them.

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::future::ready;
use futures::{StreamExt, stream};
use tokio_util::sync::CancellationToken;
use trireme_spec::problem::{ErrorCode, Problem};

use crate::problems::told;

/// Passes its input through until the token is cancelled.
#[derive(Debug)]
pub struct TaskGuardExec {
    input: Arc<dyn ExecutionPlan>,
    cancel: CancellationToken,
}

impl TaskGuardExec {
    /// Guards `input` with `cancel`.
    pub fn new(input: Arc<dyn ExecutionPlan>, cancel: CancellationToken) -> Self {
        Self { input, cancel }
    }
}

impl DisplayAs for TaskGuardExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TaskGuardExec")
    }
}

impl ExecutionPlan for TaskGuardExec {
    fn name(&self) -> &str {
        "TaskGuardExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let Ok([input]) = <[_; 1]>::try_from(children) else {
            return internal_err!("TaskGuardExec has one child");
        };
        Ok(Arc::new(Self::new(input, self.cancel.clone())))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let schema = input.schema();
        let token = self.cancel.clone();
        // The error after the cut keeps the writer from taking a cut stream for a complete one.
        let end = stream::once(async move { token.is_cancelled() }).filter_map(|cut| {
            ready(cut.then(|| Err(told(Problem::new(ErrorCode::Cancelled, "the task was cancelled")))))
        });
        let guarded = input.take_until(self.cancel.clone().cancelled_owned()).chain(end);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, guarded)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problems::carried;
    use crate::tpch::{Table, TpchScan};
    use datafusion::prelude::SessionContext;

    fn guarded(cancel: &CancellationToken) -> SendableRecordBatchStream {
        let scan = TpchScan::try_new(Table::Orders, 0.01, vec![vec![0]], Some(vec![0]), None).unwrap();
        let guard = TaskGuardExec::new(Arc::new(scan), cancel.clone());
        guard.execute(0, SessionContext::new().task_ctx()).unwrap()
    }

    #[tokio::test]
    async fn an_undisturbed_stream_passes_through() {
        let batches: Vec<_> = guarded(&CancellationToken::new()).collect().await;
        let rows: usize = batches.into_iter().map(|batch| batch.unwrap().num_rows()).sum();
        assert_eq!(rows, 15_000);
    }

    #[tokio::test]
    async fn a_cancelled_stream_ends_in_an_error() {
        let cancel = CancellationToken::new();
        let mut stream = guarded(&cancel);
        assert!(stream.next().await.unwrap().is_ok());
        cancel.cancel();
        let rest: Vec<_> = stream.collect().await;
        let Some(Err(error)) = rest.last() else {
            panic!("the stream must end in an error")
        };
        assert_eq!(carried(error).map(|problem| problem.code), Some(ErrorCode::Cancelled));
    }
}
