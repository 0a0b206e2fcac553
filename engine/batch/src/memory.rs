//! One number, split visibly: what a process may use of its memory limit, and for what.
//!
//! A pod's limit covers everything in it. Operators that can spill share `pool`; the rest stays for what DataFusion does not
//! account for: decoded pages, shuffle blocks on their way, plans, thread stacks, the allocator's slack.

use std::fs;

/// Shares of one memory limit, in bytes. `pool + data_plane + headroom == total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBudget {
    /// The limit itself.
    pub total: u64,
    /// For operators: sorts, aggregates, joins, shuffle writers.
    pub pool: u64,
    /// For shuffle blocks in flight, both ways.
    pub data_plane: u64,
    /// Unaccounted: decoding, plans, stacks, fragmentation.
    pub headroom: u64,
}

/// The least that any process needs besides its pool: code, runtime, one decoded row group.
const HEADROOM_MIN: u64 = 160 << 20;

impl MemoryBudget {
    /// Splits `total` bytes: a tenth for the data plane (16 to 256 MiB), a quarter (at least [`HEADROOM_MIN`]) as headroom,
    /// the rest for the pool, which never gets less than a tenth.
    pub fn split(total: u64) -> Self {
        let data_plane = (total / 10).clamp(16 << 20, 256 << 20);
        let headroom = (total / 4).max(HEADROOM_MIN);
        let pool = total.saturating_sub(data_plane + headroom).max(total / 10);
        Self {
            total,
            pool,
            data_plane,
            headroom: total.saturating_sub(pool + data_plane),
        }
    }

    /// What each of `slots` plans that run at a time may take for granted.
    pub fn per_slot(&self, slots: usize) -> SlotMemory {
        let slots = slots.max(1) as u64;
        SlotMemory {
            operators: self.pool / slots,
            reads: self.data_plane / slots,
        }
    }

    /// The budget of a process that was told nothing: its control group's limit, or else the machine's memory.
    pub fn of_this_process() -> Self {
        Self::split(cgroup_limit().or_else(machine_memory).unwrap_or(2 << 30))
    }
}

/// One slot's share of a process's memory, in bytes, and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotMemory {
    /// Of the pool.
    pub operators: u64,
    /// Of the data plane.
    pub reads: u64,
}

impl SlotMemory {
    /// No limit worth planning for.
    pub const UNLIMITED: Self = Self {
        operators: u64::MAX,
        reads: u64::MAX,
    };

    /// Largest build side of a hash join. A third, because the join copies it once when it is complete, and the rest of the
    /// task needs room too.
    pub const fn hash_join_build_bytes_max(self) -> u64 {
        match self.operators {
            u64::MAX => u64::MAX,
            bytes => bytes / 3,
        }
    }

    /// What a sort keeps free for merging what it has spilled: DataFusion's 10 MiB, less where a task sorts in less than
    /// sixteen times that.
    pub fn sort_reserve_bytes(self) -> u64 {
        (self.operators / 16).clamp(1 << 20, 10 << 20)
    }

    /// What a shuffle writer buffers before it writes. A quarter, because it also holds the encoded form at its end, of which
    /// nobody knows; at most Ballista's 256 MiB.
    pub fn shuffle_buffer_bytes(self) -> u64 {
        (self.operators / 4).clamp(4 << 20, 256 << 20)
    }

    /// Blocks of a shuffle that a reader fetches at a time: as many as fit into its half of the share (a join has two
    /// readers), at most four, which keep a link busy.
    pub fn blocks_fetched_max(self) -> usize {
        (self.reads / 2 / FETCH_BYTES).clamp(1, 4) as usize
    }
}

/// What fetching one block takes, on both ends together: blocks travel in messages of 8 MiB, of which the sender holds one
/// as read and one as encoded, and the receiver one, besides what is on its way ([`FETCH_WINDOW_BYTES`]).
const FETCH_BYTES: u64 = 3 * (8 << 20) + FETCH_WINDOW_BYTES as u64;

/// Bytes of one block that may be on their way: a gigabyte a second at 4 ms of round trip.
pub const FETCH_WINDOW_BYTES: u32 = 4 << 20;

/// This process's control-group limit in bytes; `None` where there is none.
fn cgroup_limit() -> Option<u64> {
    [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]
    .into_iter()
    .filter_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok())
    // Version 1 says "no limit" by a number near 2^63.
    .find(|&limit| limit < 1 << 50)
}

fn machine_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slots_share_bounds_what_a_task_holds() {
        let mib = 1 << 20;
        for (memory, slots, build, reserve, shuffle, blocks) in [
            (512, 1, 100, 10, 75, 1),
            (768, 1, 166, 10, 124, 1),
            (768, 4, 41, 7, 31, 1),
            (4096, 1, 938, 10, 256, 4),
            (64 << 10, 4, 4074, 10, 256, 1),
            (128, 8, 0, 1, 4, 1),
        ] {
            let share = MemoryBudget::split(memory * mib).per_slot(slots);
            let found = [
                share.hash_join_build_bytes_max(),
                share.sort_reserve_bytes(),
                share.shuffle_buffer_bytes(),
            ];
            let found = found.map(|bytes| bytes / mib);
            assert_eq!(found, [build, reserve, shuffle], "{memory} MiB, {slots} slots");
            assert_eq!(share.blocks_fetched_max(), blocks, "{memory} MiB, {slots} slots");
        }
        assert_eq!(SlotMemory::UNLIMITED.hash_join_build_bytes_max(), u64::MAX);
    }

    #[test]
    fn shares_add_up_to_the_limit() {
        for total in [512 << 20, 768 << 20, 2 << 30, 4 << 30, 64 << 30] {
            let budget = MemoryBudget::split(total);
            assert_eq!(budget.pool + budget.data_plane + budget.headroom, total, "{budget:?}");
            assert!(
                budget.pool >= total / 10 && budget.headroom >= HEADROOM_MIN.min(total / 2),
                "{budget:?}"
            );
        }
    }
}
