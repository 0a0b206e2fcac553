//! Copies rows out of buffers that are far larger than they, on the way into a shuffle writer.
//!
//! An aggregate hands its groups on as slices of one batch, and a join's strings are views into all of its build side. A
//! shuffle writer keeps batches and counts each with the whole of the buffers behind it, so that it would spill
//! megabytes that it never held, and would keep alive buffers of which it needs a few rows.

use std::future::ready;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, MutableArrayData, RecordBatch, RecordBatchOptions, make_array,
};
use datafusion::arrow::error::ArrowError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use futures::TryStreamExt;

use crate::through::ThroughExec;

/// Buffers that are up to so many times as large as their rows are kept: a copy would cost more than it frees.
const SLACK: usize = 2;

/// `input`, with every column in buffers of about its own size.
pub fn compacted(input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let copy = |rows: SendableRecordBatchStream, _input: &dyn ExecutionPlan, _partition| {
        rows.and_then(|batch| ready(compact(&batch).map_err(Into::into)))
    };
    Arc::new(ThroughExec::new("CompactExec", input, copy))
}

fn compact(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().map(compact_column).collect::<Result<_, _>>()?;
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &rows)
}

fn compact_column(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if column.get_array_memory_size() <= SLACK * row_bytes(column)? {
        return Ok(Arc::clone(column));
    }
    if let Some(views) = column.as_string_view_opt() {
        return Ok(Arc::new(views.gc()));
    }
    if let Some(views) = column.as_binary_view_opt() {
        return Ok(Arc::new(views.gc()));
    }
    let rows = column.to_data();
    let mut copy = MutableArrayData::new(vec![&rows], false, rows.len());
    copy.try_extend(0, 0, rows.len())?;
    Ok(make_array(copy.freeze()))
}

/// What the rows of `column` take when nothing else is in its buffers, and the array's own few hundred bytes.
fn row_bytes(column: &ArrayRef) -> Result<usize, ArrowError> {
    const ARRAY_BYTES: usize = 256;
    const VIEW_BYTES: usize = 16;
    let views = |long: usize| Ok(column.len() * VIEW_BYTES + long + ARRAY_BYTES);
    if let Some(strings) = column.as_string_view_opt() {
        return views(strings.total_buffer_bytes_used());
    }
    if let Some(binary) = column.as_binary_view_opt() {
        return views(binary.total_buffer_bytes_used());
    }
    Ok(column.to_data().get_slice_memory_size()? + ARRAY_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::{Int64Array, ListArray, StringArray, StringViewArray};
    use datafusion::arrow::datatypes::Int64Type;

    const ROWS: usize = 100_000;
    const SLICE: usize = 1_000;

    /// One batch of every kind of buffer, as an aggregate holds its groups.
    fn whole() -> RecordBatch {
        let text = |row: usize| (!row.is_multiple_of(7)).then(|| format!("the text of row {row}"));
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter(
            (0..ROWS as i64).map(|row| (row % 5 != 0).then_some(row)),
        ));
        let strings: ArrayRef = Arc::new(StringArray::from_iter((0..ROWS).map(text)));
        let views: ArrayRef = Arc::new(StringViewArray::from_iter((0..ROWS).map(text)));
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(
            (0..ROWS as i64).map(|row| (row % 3 > 0).then_some([Some(row), None])),
        ));
        RecordBatch::try_from_iter([("n", numbers), ("s", strings), ("v", views), ("l", lists)]).unwrap()
    }

    #[test]
    fn slices_of_a_large_batch_count_for_what_they_are() {
        let whole = whole();
        let slices = (0..ROWS).step_by(SLICE).map(|first| whole.slice(first, SLICE));
        let (mut before, mut after) = (0, 0);
        for slice in slices {
            let copy = compact(&slice).unwrap();
            assert_eq!(copy, slice);
            before += slice.get_array_memory_size();
            after += copy.get_array_memory_size();
        }
        let held = whole.get_array_memory_size();
        assert!(before > 50 * held, "{before} bytes counted, {held} held");
        assert!(after < SLACK * held, "{after} bytes counted, {held} held");
    }

    #[test]
    fn a_batch_of_its_own_is_not_copied() {
        let whole = whole();
        let same = compact(&whole).unwrap();
        for (before, after) in whole.columns().iter().zip(same.columns()) {
            assert!(Arc::ptr_eq(before, after), "{}", before.data_type());
        }
        assert_eq!(compact(&whole.slice(0, 0)).unwrap().num_rows(), 0);
    }
}
