//! The rows of a run's result, in the order of its partitions, as they arrive.

use std::collections::BTreeMap;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{TryStreamExt, stream};
use tokio::sync::mpsc;
use trireme_batch_schedule::RunId;

use super::shell::Command;
use super::spool::Spool;

/// What reaches whoever submitted the run.
#[derive(Debug)]
pub enum Arrival {
    /// A partition of the result, complete.
    Partition { partition: u32, spool: Spool },
    /// There are no more.
    End,
    /// The run failed.
    Failed(DataFusionError),
}

/// Tells the shell that nobody wants the run any more, unless it has ended.
pub struct CancelOnDrop {
    run: RunId,
    commands: Option<mpsc::Sender<Command>>,
}

impl CancelOnDrop {
    /// Watches over `run`.
    pub fn new(run: RunId, commands: mpsc::Sender<Command>) -> Self {
        Self {
            run,
            commands: Some(commands),
        }
    }

    fn disarm(&mut self) {
        self.commands = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(commands) = self.commands.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let run = self.run;
            // Drop cannot wait for room in the queue; a task of its own can.
            runtime.spawn(async move { drop(commands.send(Command::Cancel { run }).await) });
        }
    }
}

/// The stream of all rows: partition 0 first, whichever arrives first.
pub fn in_order(
    schema: SchemaRef,
    arriving: mpsc::Receiver<Arrival>,
    cancel: CancelOnDrop,
) -> SendableRecordBatchStream {
    let state = Arriving {
        queue: arriving,
        waiting: BTreeMap::new(),
        next: 0,
        ended: false,
        cancel,
    };
    let spools = stream::try_unfold(state, |mut state| async move {
        let spool = state.next().await?;
        Ok::<_, DataFusionError>(spool.map(|spool| (spool, state)))
    });
    let rows = spools.and_then(Spool::open).try_flatten();
    Box::pin(RecordBatchStreamAdapter::new(schema, rows))
}

struct Arriving {
    queue: mpsc::Receiver<Arrival>,
    /// Partitions that came before their turn.
    waiting: BTreeMap<u32, Spool>,
    next: u32,
    ended: bool,
    cancel: CancelOnDrop,
}

impl Arriving {
    async fn next(&mut self) -> Result<Option<Spool>> {
        loop {
            if let Some(spool) = self.waiting.remove(&self.next) {
                self.next += 1;
                return Ok(Some(spool));
            }
            if self.ended {
                return Ok(None);
            }
            match self.queue.recv().await {
                Some(Arrival::Partition { partition, spool }) => drop(self.waiting.insert(partition, spool)),
                Some(Arrival::End) => {
                    self.ended = true;
                    self.cancel.disarm();
                }
                Some(Arrival::Failed(error)) => {
                    self.cancel.disarm();
                    return Err(error);
                }
                None => return Err(DataFusionError::Internal("the driver's shell stopped".to_owned())),
            }
        }
    }
}
