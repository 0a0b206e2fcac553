//! Stands over a leaf of a task's plan and ends its stream when the task is cancelled.
//!
//! Shuffle writers spawn their own work and outlive the future that drives them; cutting what they read is what stops them.

use std::sync::Arc;

use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use futures::future::ready;
use futures::{StreamExt, stream};
use tokio_util::sync::CancellationToken;
use trireme_spec::problem::{ErrorCode, Problem};

use crate::problems::told;
use crate::through::ThroughExec;

/// `input`, passed through until `cancel` fires, and then an error: it keeps the writer from taking a cut stream for a complete
/// one.
pub fn guarded(input: Arc<dyn ExecutionPlan>, cancel: CancellationToken) -> Arc<dyn ExecutionPlan> {
    let cut = move |rows: SendableRecordBatchStream, _input: &dyn ExecutionPlan, _partition| {
        let token = cancel.clone();
        let end = stream::once(async move { token.is_cancelled() }).filter_map(|cut| {
            ready(cut.then(|| Err(told(Problem::new(ErrorCode::Cancelled, "the task was cancelled")))))
        });
        rows.take_until(cancel.clone().cancelled_owned()).chain(end)
    };
    Arc::new(ThroughExec::new("TaskGuardExec", input, cut))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problems::carried;
    use crate::tpch::{Table, TpchScan};
    use datafusion::prelude::SessionContext;

    fn orders(cancel: &CancellationToken) -> SendableRecordBatchStream {
        let scan = TpchScan::try_new(Table::Orders, 0.01, vec![vec![0]], Some(vec![0]), None).unwrap();
        let guard = guarded(Arc::new(scan), cancel.clone());
        guard.execute(0, SessionContext::new().task_ctx()).unwrap()
    }

    #[tokio::test]
    async fn an_undisturbed_stream_passes_through() {
        let batches: Vec<_> = orders(&CancellationToken::new()).collect().await;
        let rows: usize = batches.into_iter().map(|batch| batch.unwrap().num_rows()).sum();
        assert_eq!(rows, 15_000);
    }

    #[tokio::test]
    async fn a_cancelled_stream_ends_in_an_error() {
        let cancel = CancellationToken::new();
        let mut stream = orders(&cancel);
        assert!(stream.next().await.unwrap().is_ok());
        cancel.cancel();
        let rest: Vec<_> = stream.collect().await;
        let Some(Err(error)) = rest.last() else {
            panic!("the stream must end in an error")
        };
        assert_eq!(carried(error).map(|problem| problem.code), Some(ErrorCode::Cancelled));
    }
}
