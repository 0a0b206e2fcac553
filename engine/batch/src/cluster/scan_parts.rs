//! Divides files among the tasks of a scan so that a cut falls between two files where such a place is near.
//!
//! DataFusion cuts the bytes of all files into equal ranges, and a range of a Parquet file stands for the row groups that
//! begin in it. For two tasks and two files of almost the same size the cut lies a little behind the beginning of the
//! second file, so that one task reads a row group more than its half and the other one less: with three row groups in a
//! file, four against two. In one process that evens out, because idle threads help; a task on a worker has nobody.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::ExecutionPlan;

use crate::tables::file_scan;

/// A cut moves by up to a part's size over this.
const NEAR: u64 = 8;

/// `plan` with the cuts of its scans moved.
///
/// # Errors
/// None of its own; those of plan nodes that do not take other children.
pub fn cut_between_files(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let cut = plan.transform_up(|node| {
        let Some((scan, groups)) = file_scan(node.as_ref()).and_then(|scan| Some((scan, divided(scan)?))) else {
            return Ok(Transformed::no(node));
        };
        let scan = FileScanConfigBuilder::from(scan.clone()).with_file_groups(groups);
        Ok(Transformed::yes(DataSourceExec::from_data_source(scan.build()) as _))
    })?;
    Ok(cut.data)
}

/// The files of `scan` in as many groups as before; `None` where nobody cut a file, or where the order of rows matters.
fn divided(scan: &FileScanConfig) -> Option<Vec<FileGroup>> {
    let is_cut = scan
        .file_groups
        .iter()
        .any(|group| group.iter().any(|file| file.range.is_some()));
    if !is_cut || scan.preserve_order || !scan.output_ordering.is_empty() || scan.output_partitioning.is_some() {
        return None;
    }
    let files = whole_files(&scan.file_groups)?;
    let sizes: Vec<_> = files.iter().map(|file| file.object_meta.size).collect();
    let mut ends = cuts(&sizes, scan.file_groups.len());
    ends.push(sizes.iter().sum());
    let (mut groups, mut first) = (Vec::with_capacity(ends.len()), 0);
    for end in ends {
        groups.push(part(&files, first, end));
        first = end;
    }
    Some(groups)
}

/// The files whose pieces are in `groups`, in their order; `None` where pieces are missing.
fn whole_files(groups: &[FileGroup]) -> Option<Vec<PartitionedFile>> {
    let mut files: Vec<PartitionedFile> = Vec::new();
    let mut read = 0;
    for piece in groups.iter().flat_map(|group| group.iter()) {
        let size = piece.object_meta.size;
        let (start, end) = piece
            .range
            .as_ref()
            .map_or((0, size), |range| (range.start as u64, range.end as u64));
        let follows = files
            .last()
            .is_some_and(|last| last.object_meta.location == piece.object_meta.location);
        match (start, follows) {
            (0, _) if read == files.last().map_or(0, |last| last.object_meta.size) => {
                let mut whole = piece.clone();
                whole.range = None;
                files.push(whole);
            }
            (start, true) if start == read => {}
            _ => return None,
        }
        read = end;
    }
    (read == files.last()?.object_meta.size).then_some(files)
}

/// Where to cut files of `sizes`, laid one behind the other, into `parts`: at equal distances, moved to the end of a file that
/// is near. One less than `parts`, each beyond the one before.
fn cuts(sizes: &[u64], parts: usize) -> Vec<u64> {
    let ends: Vec<u64> = sizes
        .iter()
        .scan(0, |end, size| {
            *end += size;
            Some(*end)
        })
        .collect();
    let (total, parts) = (ends.last().copied().unwrap_or(0), parts as u64);
    let even = |cut: u64| (u128::from(total) * u128::from(cut) / u128::from(parts)) as u64;
    let near = total / parts / NEAR;
    let mut cuts: Vec<u64> = Vec::with_capacity(parts as usize);
    for cut in 1..parts {
        let at = even(cut);
        let end = ends.iter().copied().min_by_key(|end| end.abs_diff(at));
        cuts.push(end.filter(|end| end.abs_diff(at) <= near).unwrap_or(at));
    }
    cuts
}

/// What lies from `first` to `end` of `files`, laid one behind the other.
fn part(files: &[PartitionedFile], first: u64, end: u64) -> FileGroup {
    let (mut pieces, mut start) = (Vec::new(), 0);
    for file in files {
        let size = file.object_meta.size;
        let (from, to) = (first.max(start), end.min(start + size));
        if from < to {
            let piece = file.clone();
            let is_whole = to - from == size;
            pieces.push(match is_whole {
                true => piece,
                false => piece.with_range((from - start) as i64, (to - start) as i64),
            });
        }
        start += size;
    }
    FileGroup::new(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_moves_to_an_end_that_is_near() {
        for (sizes, parts, expected) in [
            (&[76_749_422, 76_793_377][..], 2, &[76_749_422][..]),
            (&[76_793_377, 76_749_422], 2, &[76_793_377]),
            (&[100, 100], 4, &[50, 100, 150]),
            (&[103, 97], 4, &[50, 103, 150]),
            (&[130, 70], 4, &[50, 100, 150]),
            (&[30], 3, &[10, 20]),
            (&[1, 1, 1, 1], 2, &[2]),
        ] {
            assert_eq!(cuts(sizes, parts), expected, "{sizes:?} in {parts}");
        }
    }

    /// Whatever the sizes, every byte is in one part, and no part is empty that need not be.
    #[test]
    fn every_byte_is_in_one_part() {
        let mut seed = 7_u64;
        for _ in 0..2000 {
            let mut random = |limit: u64| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                1 + (seed >> 33) % limit
            };
            let count = random(5);
            let files: Vec<_> = (0..count)
                .map(|index| PartitionedFile::new(format!("{index}"), 1000 * random(9) + random(20)))
                .collect();
            let parts = random(7) as usize;
            let sizes: Vec<_> = files.iter().map(|file| file.object_meta.size).collect();
            let mut ends = cuts(&sizes, parts);
            ends.push(sizes.iter().sum());
            assert_eq!(ends.len(), parts);
            let mut first = 0;
            let mut groups = Vec::new();
            for end in ends {
                assert!(end > first, "an empty part of {sizes:?} in {parts}");
                groups.push(part(&files, first, end));
                first = end;
            }
            let found = whole_files(&groups).expect("all pieces are there, in their order");
            let names = |files: &[PartitionedFile]| -> Vec<_> {
                files.iter().map(|file| file.object_meta.location.clone()).collect()
            };
            assert_eq!(names(&found), names(&files));
        }
    }

    /// What DataFusion's own division makes of them, which is what has to be recognised.
    #[test]
    fn two_files_for_two_tasks_are_one_each() {
        use datafusion::datasource::physical_plan::FileGroupPartitioner;
        let whole = vec![FileGroup::new(vec![
            PartitionedFile::new("a", 76_749_422),
            PartitionedFile::new("b", 76_793_377),
        ])];
        let groups = FileGroupPartitioner::new()
            .with_target_partitions(2)
            .repartition_file_groups(&whole)
            .expect("they are large enough to be cut");
        assert_eq!(groups[0].len(), 2, "a piece of the second file is with the first one");
        let files = whole_files(&groups).expect("all pieces are there");
        assert_eq!(files.len(), 2);
    }

    #[test]
    fn files_with_missing_pieces_are_left_alone() {
        let file = PartitionedFile::new("a", 100);
        let groups = |ranges: &[(i64, i64)]| -> Vec<_> {
            let piece = |&(start, end): &(i64, i64)| FileGroup::new(vec![file.clone().with_range(start, end)]);
            ranges.iter().map(piece).collect()
        };
        assert!(whole_files(&groups(&[(0, 50), (50, 100)])).is_some());
        assert!(whole_files(&groups(&[(0, 50), (60, 100)])).is_none());
        assert!(whole_files(&groups(&[(0, 50)])).is_none());
        assert!(whole_files(&groups(&[(50, 100), (0, 50)])).is_none());
    }
}
