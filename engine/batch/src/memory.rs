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

    /// The budget of a process that was told nothing: its control group's limit, or else the machine's memory.
    pub fn of_this_process() -> Self {
        Self::split(cgroup_limit().or_else(machine_memory).unwrap_or(2 << 30))
    }
}

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
