//! The rows of a write in the order of their folders, so that one open file is enough for any number of folders.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::{Result, internal_datafusion_err, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::{StreamExt, stream};
use parking_lot::Mutex;

/// A sort of rows that are on their way already. It spills like any other.
pub struct SortedRows {
    sort: SortExec,
}

impl SortedRows {
    /// `first` and then `rest`, by `columns`, which are indices.
    ///
    /// # Errors
    /// No columns.
    pub fn new(columns: &[usize], first: RecordBatch, rest: SendableRecordBatchStream) -> Result<Self> {
        let schema = rest.schema();
        let by = columns.iter().map(|&index| {
            let column = Column::new(schema.field(index).name(), index);
            PhysicalSortExpr::new_default(Arc::new(column))
        });
        let order = LexOrdering::new(by).ok_or_else(|| internal_datafusion_err!("rows are to be sorted by nothing"))?;
        let rows = stream::once(async { Ok(first) }).chain(rest);
        let rows: SendableRecordBatchStream = Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), rows));
        let once = Arc::new(Once {
            schema: Arc::clone(&schema),
            rows: Mutex::new(Some(rows)),
        });
        let input = StreamingTableExec::try_new(schema, vec![once], None, [], false, None)?;
        Ok(Self {
            sort: SortExec::new(order, Arc::new(input)),
        })
    }

    /// The rows, once.
    ///
    /// # Errors
    /// None that is known; those of the rows come with them.
    pub fn execute(&self, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.sort.execute(0, context)
    }

    /// Adds what was spilled to the metrics of the operator that this is a part of.
    pub fn count_spills(&self, metrics: &ExecutionPlanMetricsSet, partition: usize) {
        let Some(spilled) = self.sort.metrics() else { return };
        let builder = || MetricBuilder::new(metrics);
        builder().spill_count(partition).add(spilled.spill_count().unwrap_or(0));
        builder()
            .spilled_bytes(partition)
            .add(spilled.spilled_bytes().unwrap_or(0));
        builder()
            .spilled_rows(partition)
            .add(spilled.spilled_rows().unwrap_or(0));
    }
}

/// A stream as the one partition of a plan.
struct Once {
    schema: SchemaRef,
    rows: Mutex<Option<SendableRecordBatchStream>>,
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").finish_non_exhaustive()
    }
}

impl PartitionStream for Once {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        self.rows.lock().take().unwrap_or_else(|| {
            let twice = stream::once(async { internal_err!("rows that come once were asked for twice") });
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), twice))
        })
    }
}
