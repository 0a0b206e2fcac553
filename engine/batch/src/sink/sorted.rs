//! The rows of a write in the order of their folders, so that one open file is enough for any number of folders.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::{Result, internal_datafusion_err, internal_err};
use datafusion::execution::memory_pool::MemoryConsumer;
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
    /// `first` and then `rest`, by `columns`, which are indices. Rows that are alike in them stay in `order`, which they come in.
    ///
    /// # Errors
    /// No columns.
    pub fn new(
        columns: &[usize],
        order: Option<&LexOrdering>,
        first: RecordBatch,
        rest: SendableRecordBatchStream,
    ) -> Result<Self> {
        let schema = rest.schema();
        let by = columns.iter().map(|&index| {
            let column = Column::new(schema.field(index).name(), index);
            PhysicalSortExpr::new_default(Arc::new(column))
        });
        // No sort of ours is stable.
        let by = by.chain(order.into_iter().flatten().cloned());
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

/// Whether rows in `order` come folder by folder, where `columns`, which are indices, name folders.
pub fn is_by_folder(order: &LexOrdering, columns: &[usize]) -> bool {
    let mut left: Vec<usize> = columns.to_vec();
    for key in order.iter().take(columns.len()) {
        let column = key.expr.downcast_ref::<Column>().map(Column::index);
        left.retain(|&index| Some(index) != column);
    }
    left.is_empty()
}

/// Whether there is memory for a sort now: it cannot do without what it merges with.
pub fn has_room_for_sort(context: &TaskContext) -> bool {
    let bytes = context
        .session_config()
        .options()
        .execution
        .sort_spill_reservation_bytes;
    let merge = MemoryConsumer::new("rows to be sorted by folder").register(context.memory_pool());
    merge.try_grow(bytes).is_ok()
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

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::prelude::SessionContext;

    #[test]
    fn rows_come_by_folder_where_all_its_columns_come_first() {
        let key = |index| PhysicalSortExpr::new_default(Arc::new(Column::new("c", index)));
        let order = LexOrdering::new([key(2), key(0), key(1)]).unwrap();
        for (columns, expected) in [
            (&[2][..], true),
            (&[0, 2], true),
            (&[2, 1], false),
            (&[0], false),
            (&[3], false),
        ] {
            assert_eq!(is_by_folder(&order, columns), expected, "{columns:?}");
        }
    }

    #[test]
    fn a_sort_is_begun_only_where_it_can_merge() {
        let context = SessionContext::new().task_ctx();
        assert!(has_room_for_sort(&context));
        let pool = Arc::new(crate::pool::SharedPool::new(32 << 20));
        let runtime = datafusion::execution::runtime_env::RuntimeEnvBuilder::new().with_memory_pool(pool);
        let context = SessionContext::new_with_config_rt(Default::default(), runtime.build_arc().unwrap()).task_ctx();
        let joins = MemoryConsumer::new("a join").register(context.memory_pool());
        joins.resize(30 << 20);
        assert!(!has_room_for_sort(&context));
        drop(joins);
        assert!(has_room_for_sort(&context));
        assert_eq!(context.memory_pool().reserved(), 0);
    }
}
