//! Reads the one-row batches by which Ballista's shuffle writers say what they wrote.

use ballista_core::serde::scheduler::PartitionStats;
use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{UInt32Type, UInt64Type};
use datafusion::common::{Result, internal_datafusion_err};
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;

use super::task::WrittenPartition;

/// Drives one output of a shuffle writer and collects what it says it wrote.
///
/// # Errors
/// The task's own failure, or batches of an unknown shape.
pub async fn read_written_partitions(output: SendableRecordBatchStream, sorted: bool) -> Result<Vec<WrittenPartition>> {
    let batches: Vec<RecordBatch> = output.try_collect().await?;
    let mut written = Vec::new();
    for batch in &batches {
        read_batch(batch, sorted, &mut written).ok_or_else(|| {
            internal_datafusion_err!("a shuffle writer's report has the unknown schema {:?}", batch.schema())
        })?;
    }
    Ok(written)
}

/// Columns: partition, path, file id, statistics.
fn read_batch(batch: &RecordBatch, sorted: bool, written: &mut Vec<WrittenPartition>) -> Option<()> {
    let fields = PartitionStats::default().arrow_struct_fields();
    let statistic = |name: &str| fields.iter().position(|field| field.name() == name);
    let partitions = batch.columns().first()?.as_primitive_opt::<UInt32Type>()?;
    let statistics = batch.columns().get(3)?.as_struct_opt()?;
    let rows = statistics
        .columns()
        .get(statistic("num_rows")?)?
        .as_primitive_opt::<UInt64Type>()?;
    let bytes = statistics
        .columns()
        .get(statistic("num_bytes")?)?
        .as_primitive_opt::<UInt64Type>()?;
    for row in 0..batch.num_rows() {
        written.push(WrittenPartition {
            partition: partitions.value(row),
            rows: if rows.is_null(row) { 0 } else { rows.value(row) },
            bytes: if bytes.is_null(row) { 0 } else { bytes.value(row) },
            sorted,
        });
    }
    Some(())
}
