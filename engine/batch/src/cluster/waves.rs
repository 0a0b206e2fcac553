//! How many tasks the stages of a statement have: as many as there are slots, or twice as many.
//!
//! Where tasks run for long, two waves of them are better than one: half as much is done again when a task is lost, and a slow
//! slot gets less of the second wave. Where they are over soon, a second wave only doubles what every task does for itself,
//! such as building the table of a join with a small input.

use datafusion::common::stats::Precision;
use datafusion::physical_plan::statistics::StatisticsContext;
use datafusion::physical_plan::{ExecutionPlan, StatisticsArgs};

use crate::memory::SlotMemory;
use crate::tables::file_scan;

/// What a slot may read of files in one wave: on a core of today, a second or two of work.
const WAVE_BYTES_MAX: u64 = 256 << 20;

/// Bytes that a row which is not in a file counts for.
const ROW_BYTES: u64 = 64;

/// Tasks of a stage in one wave, on `slots`.
pub fn one_wave(slots: usize) -> usize {
    slots.max(2)
}

/// Tasks of a stage for `plan`, which was made for `tasks`; `None` where they are as many as they should be, or where somebody
/// chose their number.
pub fn suitable_tasks(plan: &dyn ExecutionPlan, tasks: usize, slots: usize, memory: SlotMemory) -> Option<usize> {
    tasks_for(scanned_bytes(plan), tasks, slots, memory)
}

fn tasks_for(scanned_bytes: u64, tasks: usize, slots: usize, memory: SlotMemory) -> Option<usize> {
    let two_waves = (slots * 2).max(2);
    let wave_bytes = WAVE_BYTES_MAX.min(memory.operators / 4).saturating_mul(slots as u64);
    let second = tasks == one_wave(slots) && tasks != two_waves && scanned_bytes > wave_bytes;
    second.then_some(two_waves)
}

/// What `plan` reads; all there is where a leaf does not say.
fn scanned_bytes(plan: &dyn ExecutionPlan) -> u64 {
    let children = plan.children();
    if !children.is_empty() {
        let sizes = children.into_iter().map(|child| scanned_bytes(child.as_ref()));
        return sizes.fold(0, u64::saturating_add);
    }
    if let Some(scan) = file_scan(plan) {
        let files = scan.file_groups.iter().flat_map(|group| group.iter());
        return files.map(|file| file.effective_size()).sum();
    }
    let statistics = StatisticsContext::new().compute(plan, &StatisticsArgs::new());
    match statistics.map(|known| known.num_rows) {
        Ok(Precision::Exact(rows) | Precision::Inexact(rows)) => (rows as u64).saturating_mul(ROW_BYTES),
        Ok(Precision::Absent) | Err(_) => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryBudget;

    #[test]
    fn a_second_wave_is_for_long_tasks() {
        let plenty = MemoryBudget::split(4 << 30).per_slot(1);
        let little = MemoryBudget::split(512 << 20).per_slot(1);
        let mib = 1 << 20;
        for (bytes, tasks, slots, memory, suitable) in [
            (512 * mib, 2, 2, plenty, None),
            (513 * mib, 2, 2, plenty, Some(4)),
            (513 * mib, 16, 16, plenty, None),
            (5000 * mib, 16, 16, plenty, Some(32)),
            (300 * mib, 2, 2, plenty, None),
            (300 * mib, 2, 2, little, Some(4)),
            (u64::MAX, 2, 2, plenty, Some(4)),
            // Somebody chose, or it is so already.
            (u64::MAX, 3, 2, plenty, None),
            (u64::MAX, 4, 2, plenty, None),
            (u64::MAX, 2, 1, plenty, None),
        ] {
            let found = tasks_for(bytes, tasks, slots, memory);
            assert_eq!(found, suitable, "{bytes} bytes, {tasks} tasks, {slots} slots");
        }
    }
}
