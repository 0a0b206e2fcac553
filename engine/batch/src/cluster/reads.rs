//! Reads the output of earlier stages, one block after the other, and holds no block whole.
//!
//! Ballista's reader keeps each fetched block in memory until its last row is read; a block may have a task's whole output,
//! and the memory pool knows nothing of it. Here rows are handed on as they arrive, and a block whose connection breaks is
//! asked for again from its start, less the batches that were handed on: blocks are files that do not change. Blocks of
//! this worker are left to Ballista's reader, which streams them from disk.

use std::fmt;
use std::sync::Arc;

use ballista_core::client_pool::BallistaClientPool;
use ballista_core::error::BallistaError;
use ballista_core::execution_plans::ShuffleReaderExec;
use ballista_core::extension::{BallistaConfigGrpcEndpoint, SessionConfigExt};
use ballista_core::serde::scheduler::PartitionLocation;
use ballista_core::utils::GrpcClientConfig;
use datafusion::arrow::array::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::coalesce::LimitedBatchCoalescer;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, stream};

use super::settings::{FETCH_RETRIES, FETCH_RETRY_WAIT};

/// Reads one stage's output in place of a [`ShuffleReaderExec`].
#[derive(Debug)]
pub struct ShuffleReadExec {
    /// Knows only the blocks of this worker's disk.
    local: ShuffleReaderExec,
    /// The other workers' blocks, by partition.
    remote: Vec<Vec<PartitionLocation>>,
    clients: Arc<dyn BallistaClientPool>,
    /// Blocks fetched at a time.
    blocks_max: usize,
    metrics: ExecutionPlanMetricsSet,
}

impl ShuffleReadExec {
    /// Reads what `reader` reads, by way of `work_dir` and `clients`.
    pub fn new(
        reader: &ShuffleReaderExec,
        work_dir: &str,
        clients: Arc<dyn BallistaClientPool>,
        blocks_max: usize,
    ) -> Self {
        let here = |place: &PartitionLocation| place.path(work_dir).is_ok_and(|path| path.exists());
        let mut local = reader.with_work_dir(work_dir.to_owned());
        let mut remote = Vec::with_capacity(local.partition.len());
        for places in &mut local.partition {
            let (ours, others) = std::mem::take(places).into_iter().partition(here);
            *places = ours;
            remote.push(others);
        }
        Self {
            local,
            remote,
            clients,
            blocks_max,
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

impl DisplayAs for ShuffleReadExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShuffleReadExec")
    }
}

impl ExecutionPlan for ShuffleReadExec {
    fn name(&self) -> &str {
        "ShuffleReadExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.local.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() {
            Ok(self)
        } else {
            internal_err!("ShuffleReadExec has no children")
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        // A broadcast has one partition, which everyone reads.
        let index = if self.local.broadcast { 0 } else { partition };
        let config = context.session_config();
        let batch_rows = config.batch_size();
        let source = Arc::new(Source {
            clients: Arc::clone(&self.clients),
            grpc: GrpcClientConfig {
                // Who reads retries.
                io_retries_times: 1,
                ..GrpcClientConfig::from(&config.ballista_config())
            },
            endpoint: config.ballista_override_create_grpc_client_endpoint(),
        });
        let mut places = self.remote.get(index).cloned().unwrap_or_default();
        // Tasks of one stage start at the same time: each begins with another worker.
        let count = places.len().max(1);
        places.rotate_left(partition % count);
        let blocks = places.into_iter().map(move |place| block(place, Arc::clone(&source)));
        let remote = stream::iter(blocks).flatten_unordered(self.blocks_max);
        let local = self.local.execute(partition, context)?;
        let schema = local.schema();
        let coalescer = LimitedBatchCoalescer::new(Arc::clone(&schema), batch_rows, None);
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let rows = coalesced(local.chain(remote).boxed(), coalescer)
            .inspect_ok(move |batch: &RecordBatch| metrics.record_output(batch.num_rows()));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// How blocks of other workers are asked for.
struct Source {
    clients: Arc<dyn BallistaClientPool>,
    grpc: GrpcClientConfig,
    endpoint: Option<Arc<BallistaConfigGrpcEndpoint>>,
}

impl Source {
    /// The rows of a block from its start. Their connection is theirs until their end: on a shared one, a block that nobody
    /// reads just now would hold up the others.
    async fn open(&self, place: &PartitionLocation) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let told = |error| DataFusionError::External(Box::new(error));
        let worker = &place.executor_meta;
        let client = self
            .clients
            .acquire(&worker.host, worker.port, &self.grpc, self.endpoint.clone())
            .await;
        let mut client = client.map_err(told)?;
        let asked = client.fetch_partition(&worker.id, &place.partition_id, place.file_id, place.layout(), false);
        match asked.await {
            Ok(rows) => {
                let mut client = Some(client);
                // A connection that broke is not used again.
                let broken = move |_: &DataFusionError| {
                    if let Some(client) = client.take() {
                        client.discard();
                    }
                };
                Ok(rows.inspect_err(broken).boxed())
            }
            Err(error) => {
                client.discard();
                Err(told(error))
            }
        }
    }
}

/// The rows of one block; says whose it is if it cannot be read.
fn block(place: PartitionLocation, source: Arc<Source>) -> BoxStream<'static, Result<RecordBatch>> {
    let (executor, of) = (place.executor_meta.id.clone(), place.partition_id.clone());
    let open = move || {
        let (place, source) = (place.clone(), Arc::clone(&source));
        async move { source.open(&place).await }.boxed()
    };
    let unreadable = move |error: DataFusionError| {
        let why = error.to_string();
        BallistaError::FetchFailed(executor.clone(), of.stage_id, of.partition_id, why).into_datafusion()
    };
    resumed(open).map_err(unreadable).boxed()
}

/// What `open` yields, opened again where it breaks, less the batches that came before. Fails when it broke too often.
fn resumed(
    open: impl Fn() -> BoxFuture<'static, Result<BoxStream<'static, Result<RecordBatch>>>> + Send,
) -> impl Stream<Item = Result<RecordBatch>> + Send {
    let reading = Reading {
        open,
        rows: None,
        batches: 0,
        failures: 0,
    };
    stream::try_unfold(reading, |mut reading| async move {
        loop {
            match reading.next().await {
                Ok(batch) => return Ok(batch.map(|batch| (batch, reading))),
                Err(error) => {
                    reading.rows = None;
                    reading.failures += 1;
                    if reading.failures > FETCH_RETRIES {
                        return Err(error);
                    }
                    tokio::time::sleep(FETCH_RETRY_WAIT).await;
                }
            }
        }
    })
}

struct Reading<O> {
    open: O,
    rows: Option<BoxStream<'static, Result<RecordBatch>>>,
    /// Handed on.
    batches: usize,
    failures: u32,
}

impl<O: Fn() -> BoxFuture<'static, Result<BoxStream<'static, Result<RecordBatch>>>>> Reading<O> {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let rows = match &mut self.rows {
            Some(rows) => rows,
            None => {
                let mut rows = (self.open)().await?;
                for _ in 0..self.batches {
                    rows.try_next().await?;
                }
                self.rows.insert(rows)
            }
        };
        let batch = rows.try_next().await?;
        self.batches += 1;
        Ok(batch)
    }
}

/// Joins the small batches of many blocks to batches of the usual size.
fn coalesced(
    rows: BoxStream<'static, Result<RecordBatch>>,
    coalescer: LimitedBatchCoalescer,
) -> impl Stream<Item = Result<RecordBatch>> + Send {
    stream::try_unfold(
        (rows, coalescer, false),
        |(mut rows, mut coalescer, mut ended)| async move {
            loop {
                if let Some(batch) = coalescer.next_completed_batch() {
                    return Ok(Some((batch, (rows, coalescer, ended))));
                }
                if ended {
                    return Ok(None);
                }
                match rows.try_next().await? {
                    Some(batch) => {
                        coalescer.push_batch(batch)?;
                    }
                    None => {
                        ended = true;
                        coalescer.finish()?;
                    }
                }
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::{AsArray, Int32Array};
    use datafusion::arrow::datatypes::{Int32Type, Schema};
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn batch(values: &[i32]) -> RecordBatch {
        let column: Arc<dyn datafusion::arrow::array::Array> = Arc::new(Int32Array::from(values.to_vec()));
        RecordBatch::try_from_iter([("value", column)]).unwrap()
    }

    fn broken() -> Result<RecordBatch> {
        Err(DataFusionError::Execution("connection reset".to_owned()))
    }

    /// Reads a block of the batches 1, 2, 3 whose connection breaks after as many batches as each entry says.
    async fn read(breaks: &'static [usize]) -> (Vec<i32>, Option<String>) {
        let opened = Arc::new(AtomicUsize::new(0));
        let open = move || {
            let attempt = opened.fetch_add(1, Ordering::Relaxed);
            let all = (1..=3).map(|value| Ok(batch(&[value])));
            let rows: Vec<_> = match breaks.get(attempt) {
                Some(&after) => all.take(after).chain([broken()]).collect(),
                None => all.collect(),
            };
            async move { Ok(stream::iter(rows).boxed()) }.boxed()
        };
        let (mut values, mut rows) = (Vec::new(), resumed(open).boxed());
        loop {
            match rows.next().await {
                Some(Ok(batch)) => values.extend(batch.column(0).as_primitive::<Int32Type>().values()),
                Some(Err(error)) => return (values, Some(error.to_string())),
                None => return (values, None),
            }
        }
    }

    #[tokio::test]
    async fn a_block_goes_on_where_it_broke() {
        assert_eq!(read(&[]).await, (vec![1, 2, 3], None));
        assert_eq!(read(&[2]).await, (vec![1, 2, 3], None));
        assert_eq!(read(&[1, 0]).await, (vec![1, 2, 3], None));
        assert_eq!(read(&[3, 3]).await, (vec![1, 2, 3], None));
        let (values, error) = read(&[1, 2, 2]).await;
        assert_eq!(values, [1, 2]);
        assert!(error.is_some_and(|error| error.contains("connection reset")));
    }

    #[tokio::test]
    async fn small_batches_are_joined() {
        let rows = stream::iter((1..=5).map(|value| Ok(batch(&[value])))).boxed();
        let schema: Arc<Schema> = batch(&[]).schema();
        let joined: Vec<_> = coalesced(rows, LimitedBatchCoalescer::new(schema, 4, None))
            .map_ok(|batch| batch.num_rows())
            .try_collect()
            .await
            .unwrap();
        assert_eq!(joined, [4, 1]);
    }
}
