//! The node that a writing plan ends in: each partition writes its rows into parts that nobody sees yet, and yields their
//! receipts. The driver commits them all at once or not at all; see `trireme_batch_durable::commit`.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::{StreamExt, TryFutureExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;
use trireme_batch_durable::commit::PartReceipt;
use trireme_batch_durable::{Generation, WriteId};

use super::parts::PartFiles;
use super::sorted::{SortedRows, has_room_for_sort, is_by_folder};
use super::stores::part_store;

/// What all partitions of a write share; travels with the plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SinkOrder {
    /// The destination folder, as a URL.
    pub location: String,
    /// `parquet`, `csv`, `json` or `arrow`.
    pub format: String,
    /// Settings of the format, keys with their prefix.
    pub options: Vec<(String, String)>,
    /// Columns that become names of folders.
    pub partition_by: Vec<String>,
    /// Keep those columns in the files too.
    pub keep_partition_by: bool,
    pub write_id: WriteId,
    pub generation: Generation,
    /// The driver's try at the write, from 0. Tasks on workers have numbers of their own.
    pub attempt: u64,
}

/// Writes parts and yields receipts.
#[derive(Debug)]
pub struct PartSinkExec {
    input: Arc<dyn ExecutionPlan>,
    order: Arc<SinkOrder>,
    /// The number of each partition in the whole write: a task sees only some of them.
    numbers: Vec<u32>,
    /// The partitions that are being written in this process.
    writing: TaskTracker,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl PartSinkExec {
    /// Writes all of `input`.
    pub fn new(input: Arc<dyn ExecutionPlan>, order: Arc<SinkOrder>) -> Self {
        let numbers = (0u32..).take(input.output_partitioning().partition_count()).collect();
        Self::numbered(input, order, numbers, TaskTracker::new())
    }

    fn numbered(input: Arc<dyn ExecutionPlan>, order: Arc<SinkOrder>, numbers: Vec<u32>, writing: TaskTracker) -> Self {
        let schema = Arc::new(Schema::new(vec![Field::new("receipt", DataType::Utf8, false)]));
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Final,
            Boundedness::Bounded,
        ));
        Self {
            input,
            order,
            numbers,
            writing,
            schema,
            properties,
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// The same write over `input`, which holds only the partitions `partitions` of this node's input.
    pub fn restricted(&self, input: Arc<dyn ExecutionPlan>, partitions: &[usize]) -> Self {
        let numbers = partitions
            .iter()
            .filter_map(|&index| self.numbers.get(index).copied())
            .collect();
        Self::numbered(input, Arc::clone(&self.order), numbers, self.writing.clone())
    }

    /// The columns of the rows that it writes.
    pub fn rows_schema(&self) -> SchemaRef {
        self.input.schema()
    }

    /// Waits until no partition is being written in this process. Nobody begins another.
    pub async fn stopped(&self) {
        self.writing.close();
        self.writing.wait().await;
    }
}

/// Appends what [`decode_sink`] needs, but for the input.
///
/// # Errors
/// None for a node that [`PartSinkExec::new`] made.
pub fn encode_sink(sink: &PartSinkExec, buffer: &mut Vec<u8>) -> Result<()> {
    serde_json::to_writer(buffer, sink.order.as_ref()).map_err(|error| DataFusionError::External(Box::new(error)))
}

/// Reads back what [`encode_sink`] wrote.
///
/// # Errors
/// Bytes of another shape.
pub fn decode_sink(bytes: &[u8], input: Arc<dyn ExecutionPlan>) -> Result<PartSinkExec> {
    let order = serde_json::from_slice(bytes).map_err(|error| DataFusionError::External(Box::new(error)))?;
    Ok(PartSinkExec::new(input, Arc::new(order)))
}

/// The receipts in batches that a [`PartSinkExec`] yielded.
///
/// # Errors
/// Batches of another shape.
pub fn read_receipts(batches: &[RecordBatch]) -> Result<Vec<PartReceipt>> {
    let mut receipts = Vec::new();
    for batch in batches {
        let Some(column) = batch
            .columns()
            .first()
            .and_then(|column| column.as_any().downcast_ref::<StringArray>())
        else {
            return internal_err!("a write yielded {:?} instead of receipts", batch.schema());
        };
        for text in column.iter().flatten() {
            let receipt = serde_json::from_str(text).map_err(|error| DataFusionError::External(Box::new(error)))?;
            receipts.push(receipt);
        }
    }
    Ok(receipts)
}

impl DisplayAs for PartSinkExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PartSinkExec: location={}, format={}",
            self.order.location, self.order.format
        )?;
        if !self.order.partition_by.is_empty() {
            write!(f, ", partition_by=[{}]", self.order.partition_by.join(", "))?;
        }
        Ok(())
    }
}

impl ExecutionPlan for PartSinkExec {
    fn name(&self) -> &str {
        "PartSinkExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let Ok([input]) = <[_; 1]>::try_from(children) else {
            return internal_err!("PartSinkExec has one child");
        };
        let partitions = input.output_partitioning().partition_count();
        // An input with other partitions is another plan, not a cut of this one: it is numbered afresh.
        let numbers = match partitions == self.numbers.len() {
            true => self.numbers.clone(),
            false => (0u32..).take(partitions).collect(),
        };
        let (order, writing) = (Arc::clone(&self.order), self.writing.clone());
        Ok(Arc::new(Self::numbered(input, order, numbers, writing)))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(&number) = self.numbers.get(partition) else {
            return internal_err!("PartSinkExec has no partition {partition}");
        };
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let writing = Writing {
            order: Arc::clone(&self.order),
            rows_order: self.input.output_ordering().cloned(),
            number,
            context,
            partition,
            metrics: self.metrics.clone(),
        };
        let (token, schema) = (self.writing.token(), Arc::clone(&self.schema));
        let written = async move {
            let receipts = writing.run(input).await;
            drop(token);
            receipts
        };
        let receipts =
            written.map_ok(move |texts| RecordBatch::try_new(schema, vec![Arc::new(StringArray::from(texts))]));
        let batches = stream::once(receipts).map(|batch| batch.and_then(|batch| Ok(batch?)));
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            batches,
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// The writing of one partition.
struct Writing {
    order: Arc<SinkOrder>,
    /// The order that the rows come in.
    rows_order: Option<LexOrdering>,
    /// The partition's number in the whole write, and in this plan.
    number: u32,
    partition: usize,
    context: Arc<TaskContext>,
    metrics: ExecutionPlanMetricsSet,
}

impl Writing {
    /// Writes all rows. Returns receipts.
    async fn run(self, input: SendableRecordBatchStream) -> Result<Vec<String>> {
        let store = part_store(&self.context, &self.order.location)?;
        let mut files = PartFiles::new(store, &self.order, self.number, &self.context, input.schema())?;
        self.write(&mut files, input).await?;
        let receipts = files.finish().await?;
        let texts = receipts
            .iter()
            .map(|receipt| serde_json::to_string(receipt).map_err(|error| DataFusionError::External(Box::new(error))));
        texts.collect()
    }

    /// Writes rows as they come while their folders are few, or come one after the other. Otherwise, when there are more than
    /// files may be open, the rows that are left are sorted, lest each folder get many small files.
    async fn write(&self, files: &mut PartFiles, mut input: SendableRecordBatchStream) -> Result<()> {
        let folders = files.folder_columns();
        let by_folder = |order| !folders.is_empty() && is_by_folder(order, folders);
        if self.rows_order.as_ref().is_some_and(by_folder) {
            files.expect_sorted().await?;
        }
        let written = BaselineMetrics::new(&self.metrics, self.partition);
        while let Some(batch) = input.try_next().await? {
            let divided = files.divide(&batch)?;
            if !files.have_room_for(&divided) && has_room_for_sort(&self.context) {
                return self.write_sorted(files, batch, input, &written).await;
            }
            written.record_output(batch.num_rows());
            files.write(divided).await?;
        }
        Ok(())
    }

    async fn write_sorted(
        &self,
        files: &mut PartFiles,
        first: RecordBatch,
        rest: SendableRecordBatchStream,
        written: &BaselineMetrics,
    ) -> Result<()> {
        tracing::info!(
            partition = self.number,
            "rows go to many folders, and are sorted by them"
        );
        files.expect_sorted().await?;
        let sorted = SortedRows::new(files.folder_columns(), self.rows_order.as_ref(), first, rest)?;
        let mut rows = sorted.execute(Arc::clone(&self.context))?;
        while let Some(batch) = rows.try_next().await? {
            written.record_output(batch.num_rows());
            let divided = files.divide(&batch)?;
            files.write(divided).await?;
        }
        sorted.count_spills(&self.metrics, self.partition);
        Ok(())
    }
}
