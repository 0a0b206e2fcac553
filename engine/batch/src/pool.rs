//! The memory that all operators of a process share.
//!
//! DataFusion's `FairSpillPool` divides memory evenly among operators that can spill, but by the number of those at the
//! moment: the first sort of a join may take all of it and the second, which comes later, half as much again. This pool
//! leaves a share for whoever comes next, counts what others hold, and so stays within its size. It only counts: nothing is
//! allocated here.

use std::fmt;

use datafusion::common::{Result, resources_datafusion_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use parking_lot::Mutex;

/// A pool of a fixed size, in bytes.
#[derive(Debug)]
pub struct SharedPool {
    size: usize,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// Consumers that can spill.
    spillers: usize,
    /// What these hold.
    spillable: usize,
    /// What the others hold.
    unspillable: usize,
}

/// An operator that has nothing to spill cannot make room, so it gets this part of the pool even where others hold all of
/// it. It is what a sort needs for a few batches; the headroom beside the pool bears it.
const LEAST_SHARE: usize = 64;

impl SharedPool {
    /// A pool of `size` bytes.
    pub fn new(size: usize) -> Self {
        Self {
            size,
            state: Mutex::default(),
        }
    }
}

impl State {
    /// Whether a consumer may hold `wanted` bytes, of which `additional` are new.
    fn permits(self, size: usize, can_spill: bool, wanted: usize, additional: usize) -> bool {
        let fits = self
            .spillable
            .saturating_add(self.unspillable)
            .saturating_add(additional)
            <= size;
        if !can_spill {
            return fits;
        }
        // One share more than there are spillers: for the next one, and for those that cannot spill.
        let fair = size.saturating_sub(self.unspillable) / (self.spillers + 1);
        (fits && wanted <= fair) || wanted <= size / LEAST_SHARE
    }
}

impl MemoryPool for SharedPool {
    fn name(&self) -> &str {
        "shared"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.state.lock().spillers += usize::from(consumer.can_spill());
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        let mut state = self.state.lock();
        state.spillers = state.spillers.saturating_sub(usize::from(consumer.can_spill()));
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        *held(&mut self.state.lock(), reservation) += additional;
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        let mut state = self.state.lock();
        let held = held(&mut state, reservation);
        *held = held.saturating_sub(shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let mut state = self.state.lock();
        let (consumer, has) = (reservation.consumer(), reservation.size());
        let wanted = has.saturating_add(additional);
        if !state.permits(self.size, consumer.can_spill(), wanted, additional) {
            return Err(resources_datafusion_err!(
                "{} holds {has} bytes and needs {additional} more, of {} that all operators share; others hold {}",
                consumer.name(),
                self.size,
                (state.spillable + state.unspillable).saturating_sub(has)
            ));
        }
        *held(&mut state, reservation) += additional;
        Ok(())
    }

    fn reserved(&self) -> usize {
        let state = self.state.lock();
        state.spillable + state.unspillable
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.size)
    }
}

fn held<'a>(state: &'a mut State, reservation: &MemoryReservation) -> &'a mut usize {
    match reservation.consumer().can_spill() {
        true => &mut state.spillable,
        false => &mut state.unspillable,
    }
}

impl fmt::Display for SharedPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shared(size: {})", self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn reservation(pool: &Arc<dyn MemoryPool>, name: &str, can_spill: bool) -> MemoryReservation {
        MemoryConsumer::new(name).with_can_spill(can_spill).register(pool)
    }

    #[test]
    fn spillers_that_come_one_after_the_other_stay_within_the_size() {
        let pool: Arc<dyn MemoryPool> = Arc::new(SharedPool::new(6400));
        let mut total = 0;
        let mut spillers = Vec::new();
        for number in 1..=20 {
            let spiller = reservation(&pool, &format!("sort {number}"), true);
            while spiller.try_grow(10).is_ok() {}
            assert!(spiller.size() >= 100, "sort {number} got {}", spiller.size());
            total += spiller.size();
            spillers.push(spiller);
        }
        assert_eq!(pool.reserved(), total);
        // Twenty times the least share of 100 bytes come on top at most.
        assert!(total <= 6400 + 20 * 100, "{total}");
        let alone: Vec<_> = spillers.iter().take(3).map(MemoryReservation::size).collect();
        assert_eq!(alone, [3200, 2130, 1070]);
    }

    #[test]
    fn one_that_cannot_spill_gets_what_is_free() {
        let pool: Arc<dyn MemoryPool> = Arc::new(SharedPool::new(6400));
        let (sort, join) = (reservation(&pool, "sort", true), reservation(&pool, "join", false));
        sort.try_grow(3000).unwrap();
        join.try_grow(3400).unwrap();
        let error = join.try_grow(1).unwrap_err().to_string();
        assert!(error.contains("join holds 3400 bytes and needs 1 more"), "{error}");
        // What the join holds is no longer to be shared.
        assert!(sort.try_grow(1).is_err());
        join.free();
        sort.try_grow(200).unwrap();
        drop((sort, join));
        assert_eq!(pool.reserved(), 0);
    }
}
