//! Who pays for the end of a pod, and how long to wait before the next one.
//!
//! Three budgets, so that unsteady machines do not use up the patience meant for unsteady programs. A pod that ran out of
//! memory is charged to neither as long as the next one can have more.

use jiff::SignedDuration;
use trireme_spec::batch_job::Backoff;
use trireme_spec::quantity::Bytes;

/// How many times the memory of one that ran out of it the next pod gets.
const MORE_MEMORY: u64 = 2;

/// How many times what the job asks for memory grows to. It is there after as many pods as a driver lets one task take with
/// it, so that a task is not blamed for what more memory would have mended.
const MEMORY_MAX: u64 = 4;

/// Doublings after which the wait is at its longest anyway: 2^32 milliseconds are fifty days.
const DOUBLINGS_MAX: u32 = 32;

/// The wait before the try after `failures` in a row: none for 0, then twice as long each time.
pub fn wait(backoff: &Backoff, failures: u32) -> SignedDuration {
    if failures == 0 {
        return SignedDuration::ZERO;
    }
    let initial = backoff.initial.as_millis();
    let doubled = initial.saturating_mul(1 << (failures - 1).min(DOUBLINGS_MAX));
    let milliseconds = doubled.min(backoff.max.as_millis());
    SignedDuration::from_millis(i64::try_from(milliseconds).unwrap_or(i64::MAX))
}

/// The memory of the pod after one that had `memory` and ran out of it, where the job asks for `asked`; `None` if it has grown
/// as far as it may.
pub fn more_memory(memory: Bytes, asked: Bytes) -> Option<Bytes> {
    let most = asked.get().saturating_mul(MEMORY_MAX);
    let more = memory.get().saturating_mul(MORE_MEMORY);
    (memory.get() < most).then(|| Bytes::new(more.min(most)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let backoff = Backoff::default();
        let waits: Vec<_> = [0, 1, 2, 3, 7, 8, 1000]
            .map(|failures| wait(&backoff, failures).as_secs())
            .into();
        assert_eq!(waits, [0, 1, 2, 4, 60, 60, 60]);
    }

    #[test]
    fn memory_doubles_to_four_times() {
        let asked = Bytes::gib(2);
        let mut memory = asked;
        let mut grown = Vec::new();
        while let Some(more) = more_memory(memory, asked) {
            grown.push(more.to_string());
            memory = more;
        }
        assert_eq!(grown, ["4Gi", "8Gi"]);
        let deaths = trireme_spec::limits::Limits::DEFAULT.poison_worker_deaths_max;
        assert_eq!(grown.len() + 1, deaths as usize, "pods that a task may take with it");
    }
}
