//! A plan node that hands on what its input yields, each stream changed on the way: cut, copied, or its errors told better.
//! Everything that a plan says of itself (schema, order, partitions) is the input's.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::StreamExt;
use futures::stream::BoxStream;

/// The stream of one partition of a plan, changed. Batches keep their schema and rows their order.
type Change = dyn Fn(SendableRecordBatchStream, &dyn ExecutionPlan, usize) -> BoxStream<'static, Result<RecordBatch>>
    + Send
    + Sync;

/// Passes its input through `change`.
pub struct ThroughExec {
    name: &'static str,
    input: Arc<dyn ExecutionPlan>,
    change: Arc<Change>,
}

impl ThroughExec {
    /// A node that plans show as `name`. `change` gets the stream of each partition, the plan that yields it (`input`, or what
    /// has replaced it), and the partition's number.
    pub fn new<S>(
        name: &'static str,
        input: Arc<dyn ExecutionPlan>,
        change: impl Fn(SendableRecordBatchStream, &dyn ExecutionPlan, usize) -> S + Send + Sync + 'static,
    ) -> Self
    where
        S: futures::Stream<Item = Result<RecordBatch>> + Send + 'static,
    {
        let change = Arc::new(move |rows, input: &dyn ExecutionPlan, partition| change(rows, input, partition).boxed());
        Self { name, input, change }
    }
}

impl fmt::Debug for ThroughExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple(self.name).field(&self.input).finish()
    }
}

impl DisplayAs for ThroughExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl ExecutionPlan for ThroughExec {
    fn name(&self) -> &str {
        self.name
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
            return internal_err!("{} has one child", self.name);
        };
        Ok(Arc::new(Self {
            name: self.name,
            input,
            change: Arc::clone(&self.change),
        }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context)?;
        let schema = rows.schema();
        let changed = (self.change)(rows, self.input.as_ref(), partition);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, changed)))
    }
}
