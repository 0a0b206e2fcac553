//! The leaf of a plan that generates one TPC-H table.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::coop::make_cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::stream;
use tpchgen::distribution::Distributions;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen::text::TextPool;
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow, SupplierArrow,
};

use super::Table;
use super::text::text_for;

/// Generates a table: partition `i` yields the rows of the parts in `groups[i]`, in order.
#[derive(Debug, Clone)]
pub struct TpchScan {
    table: Table,
    scale: f64,
    /// Part numbers, from 0, of each partition.
    groups: Vec<Vec<u32>>,
    /// How many parts the whole table has: what a part holds depends on it.
    part_count: u32,
    projection: Option<Vec<usize>>,
    /// Rows that each partition yields at most.
    limit: Option<usize>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// Table, scale, groups, projection and limit: all that makes a scan.
pub(super) type ScanParts<'a> = (Table, f64, &'a [Vec<u32>], Option<&'a [usize]>, Option<usize>);

impl TpchScan {
    /// A scan of `table` at `scale`; `projection` are column indices.
    ///
    /// # Errors
    /// A column index that the table does not have.
    pub fn try_new(
        table: Table,
        scale: f64,
        groups: Vec<Vec<u32>>,
        projection: Option<Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Self> {
        let schema = match &projection {
            Some(columns) => Arc::new(table.schema().project(columns)?),
            None => table.schema(),
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(groups.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        // Generating computes without ever waiting, so it is this node that must let others have their turn.
        .with_scheduling_type(SchedulingType::Cooperative);
        Ok(Self {
            table,
            scale,
            groups,
            part_count: table.parts(scale),
            projection,
            limit,
            schema,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    /// The same scan with only the partitions `indices`, in that order.
    ///
    /// # Errors
    /// None that a caller can cause; the schema was valid before.
    pub fn restricted_to(&self, indices: &[usize]) -> Result<Self> {
        let groups = indices
            .iter()
            .filter_map(|&index| self.groups.get(index).cloned())
            .collect();
        Self::try_new(self.table, self.scale, groups, self.projection.clone(), self.limit)
    }

    pub(super) fn parts(&self) -> ScanParts<'_> {
        (
            self.table,
            self.scale,
            &self.groups,
            self.projection.as_deref(),
            self.limit,
        )
    }

    fn group_rows(&self, parts: usize) -> Precision<usize> {
        let share = |rows: usize| rows * parts / self.part_count.max(1) as usize;
        match self.table.rows(self.scale) {
            Precision::Exact(rows) if parts == self.part_count as usize => Precision::Exact(rows),
            Precision::Exact(rows) | Precision::Inexact(rows) => Precision::Inexact(share(rows)),
            Precision::Absent => Precision::Absent,
        }
    }
}

/// Deals `parts` out to at most `partitions` groups, round robin.
pub(super) fn spread(parts: u32, partitions: usize) -> Vec<Vec<u32>> {
    let mut groups = vec![Vec::new(); partitions.clamp(1, parts.max(1) as usize)];
    let count = groups.len();
    for part in 0..parts {
        groups[part as usize % count].push(part);
    }
    groups
}

impl DisplayAs for TpchScan {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<_> = self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        write!(
            f,
            "TpchScan: table={}, scale={}, parts={}",
            self.table.name(),
            self.scale,
            self.part_count
        )?;
        write!(f, ", projection=[{}]", columns.join(", "))?;
        self.limit.map_or(Ok(()), |limit| write!(f, ", limit={limit}"))
    }
}

impl ExecutionPlan for TpchScan {
    fn name(&self) -> &str {
        "TpchScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
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
            internal_err!("TpchScan has no children")
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(parts) = self.groups.get(partition).cloned() else {
            return internal_err!("TpchScan has no partition {partition}");
        };
        let (table, scale, part_count) = (self.table, self.scale, self.part_count);
        let batch_rows = context.session_config().batch_size();
        let (projection, schema) = (self.projection.clone(), Arc::clone(&self.schema));
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let yielded = Arc::clone(&schema);
        let mut left = self.limit.unwrap_or(usize::MAX);
        let batches = parts
            .into_iter()
            .flat_map(move |part| {
                let text = text_for(&yielded, context.memory_pool());
                generate(table, scale, part, part_count, batch_rows, text)
            })
            .map_while(move |batch| {
                if left == 0 {
                    return None;
                }
                let _timer = metrics.elapsed_compute().timer();
                let batch = batch.and_then(|batch| conform(&batch, projection.as_deref(), &schema));
                Some(batch.map_err(Into::into).map(|batch| {
                    let rows = batch.num_rows().min(left);
                    left -= rows;
                    metrics.record_output(rows);
                    batch.slice(0, rows)
                }))
            });
        Ok(make_cooperative(Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            stream::iter(batches),
        ))))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        let parts = match partition {
            Some(index) => self.groups.get(index).map_or(0, Vec::len),
            None => self.groups.iter().map(Vec::len).sum(),
        };
        let mut statistics = Statistics::new_unknown(&self.schema);
        statistics.num_rows = match (self.group_rows(parts), self.limit) {
            (Precision::Exact(rows) | Precision::Inexact(rows), Some(limit)) => Precision::Inexact(rows.min(limit)),
            (rows, _) => rows,
        };
        Ok(Arc::new(statistics))
    }

    fn supports_limit_pushdown(&self) -> bool {
        false
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(Arc::new(Self {
            limit,
            metrics: ExecutionPlanMetricsSet::new(),
            ..self.clone()
        }))
    }

    fn fetch(&self) -> Option<usize> {
        self.limit
    }
}

/// The columns that were asked for, in the types of `schema`.
fn conform(batch: &RecordBatch, projection: Option<&[usize]>, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let projected = match projection {
        Some(columns) => batch.project(columns)?,
        None => batch.clone(),
    };
    let columns = projected
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| cast(column, field.data_type()));
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect::<Result<_, _>>()?, &options)
}

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

/// The rows of one part, lazily. `tpchgen` numbers parts from one.
fn generate(
    table: Table,
    scale: f64,
    part: u32,
    part_count: u32,
    batch_rows: usize,
    text: &'static TextPool,
) -> Batches {
    let part = i32::try_from(part).unwrap_or(i32::MAX).saturating_add(1);
    let count = i32::try_from(part_count).unwrap_or(i32::MAX);
    let words = Distributions::static_default();
    macro_rules! batches {
        ($arrow:ident, $generator:expr) => {
            Box::new($arrow::new($generator).with_batch_size(batch_rows))
        };
    }
    macro_rules! rows {
        ($generator:ident($($arguments:expr),*)) => {
            $generator::new_with_distributions_and_text_pool($($arguments,)* words, text)
        };
    }
    match table {
        Table::Nation => batches!(NationArrow, rows!(NationGenerator())),
        Table::Region => batches!(RegionArrow, rows!(RegionGenerator())),
        Table::Part => batches!(PartArrow, rows!(PartGenerator(scale, part, count))),
        Table::Supplier => batches!(SupplierArrow, rows!(SupplierGenerator(scale, part, count))),
        Table::PartSupp => batches!(
            PartSuppArrow,
            PartSuppGenerator::new_with_text_pool(scale, part, count, text)
        ),
        Table::Customer => batches!(CustomerArrow, rows!(CustomerGenerator(scale, part, count))),
        Table::Orders => batches!(OrderArrow, rows!(OrderGenerator(scale, part, count))),
        Table::LineItem => batches!(LineItemArrow, rows!(LineItemGenerator(scale, part, count))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::compute::concat_batches;
    use datafusion::prelude::SessionContext;
    use futures::TryStreamExt;

    #[test]
    fn parts_are_dealt_round_robin_to_no_more_groups_than_parts() {
        assert_eq!(spread(5, 2), vec![vec![0, 2, 4], vec![1, 3]]);
        assert_eq!(spread(1, 8), vec![vec![0]]);
        assert_eq!(spread(3, 0), vec![vec![0, 1, 2]]);
    }

    #[tokio::test]
    async fn restricted_scans_together_yield_what_the_whole_scan_yields() {
        let context = SessionContext::new().task_ctx();
        let table = Table::Orders;
        let whole = TpchScan::try_new(table, 1.0, spread(3, 3), Some(vec![0]), None).unwrap();
        let mut restricted = Vec::new();
        for partition in [0, 1, 2] {
            let scan = whole.restricted_to(&[partition]).unwrap();
            let batches: Vec<_> = scan
                .execute(0, Arc::clone(&context))
                .unwrap()
                .try_collect()
                .await
                .unwrap();
            restricted.extend(batches);
        }
        let mut all = Vec::new();
        for partition in [0, 1, 2] {
            all.extend(
                whole
                    .execute(partition, Arc::clone(&context))
                    .unwrap()
                    .try_collect::<Vec<_>>()
                    .await
                    .unwrap(),
            );
        }
        let schema = whole.schema();
        let (restricted, all) = (
            concat_batches(&schema, &restricted).unwrap(),
            concat_batches(&schema, &all).unwrap(),
        );
        assert_eq!(all.num_rows(), 1_500_000);
        assert_eq!(restricted, all);
    }

    #[tokio::test]
    async fn a_limit_cuts_the_last_batch() {
        let context = SessionContext::new().task_ctx();
        let scan = TpchScan::try_new(Table::Nation, 1.0, spread(1, 1), None, Some(7)).unwrap();
        let batches: Vec<_> = scan.execute(0, context).unwrap().try_collect().await.unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 7);
    }

    #[tokio::test]
    async fn columns_do_not_depend_on_whether_comments_are_made() {
        let rows = async |table: Table, projection: Option<Vec<usize>>| {
            let scan = TpchScan::try_new(table, 0.01, spread(1, 1), projection, None).unwrap();
            let batches = scan.execute(0, SessionContext::new().task_ctx()).unwrap();
            let batches: Vec<_> = batches.try_collect().await.unwrap();
            concat_batches(&scan.schema(), &batches).unwrap()
        };
        for table in Table::ALL {
            let schema = table.schema();
            let is_comment = |index: &usize| schema.field(*index).name().ends_with("_comment");
            let columns: Vec<usize> = (0..schema.fields().len()).filter(|index| !is_comment(index)).collect();
            assert_eq!(columns.len() + 1, schema.fields().len(), "{}", table.name());
            let whole = rows(table, None).await.project(&columns).unwrap();
            assert_eq!(rows(table, Some(columns)).await, whole, "{}", table.name());
        }
    }
}
