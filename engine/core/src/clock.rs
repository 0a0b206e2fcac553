//! Time as an argument.
//!
//! Owns the only reading of the machine's clocks. Logic that must be run again from a seed takes a [`Clock`] (or better,
//! a plain [`Millis`]) and never asks the system itself.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// A point on a clock that never goes back, in milliseconds since the clock was made. Means nothing to another process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// How long ago `earlier` was; zero when it is not earlier.
    pub fn since(self, earlier: Millis) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Millis {
    type Output = Millis;

    /// Saturates: a deadline too far to count is a deadline that never comes.
    fn add(self, duration: Duration) -> Millis {
        Millis(self.0.saturating_add(whole_millis(duration)))
    }
}

impl Sub<Duration> for Millis {
    type Output = Millis;

    /// Saturates at the clock's beginning.
    fn sub(self, duration: Duration) -> Millis {
        Millis(self.0.saturating_sub(whole_millis(duration)))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The two questions about time.
pub trait Clock: Send + Sync {
    /// For deadlines and durations: never goes back, ignores corrections of the wall clock.
    fn now(&self) -> Millis;

    /// For people and certificates: what the wall shows. May jump either way.
    fn wall(&self) -> SystemTime;
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    began: Instant,
}

impl SystemClock {
    /// A clock that reads zero now.
    pub fn new() -> Self {
        Self { began: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Millis {
        Millis(whole_millis(self.began.elapsed()))
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A clock that moves only when told, for simulations and tests.
#[derive(Debug)]
pub struct ManualClock {
    now_ms: AtomicU64,
    wall_at_zero: SystemTime,
}

impl ManualClock {
    /// Reads zero, and `wall_at_zero` on the wall, until advanced.
    pub fn new(wall_at_zero: SystemTime) -> Self {
        Self {
            now_ms: AtomicU64::new(0),
            wall_at_zero,
        }
    }

    /// Moves both readings forward by the whole milliseconds of `duration`.
    pub fn advance(&self, duration: Duration) {
        self.now_ms.fetch_add(whole_millis(duration), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Millis {
        Millis(self.now_ms.load(Ordering::SeqCst))
    }

    fn wall(&self) -> SystemTime {
        self.wall_at_zero + Duration::from_millis(self.now().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
        assert_eq!(clock.now(), Millis(0));

        clock.advance(Duration::from_millis(1500));

        assert_eq!(clock.now(), Millis(1500));
        assert_eq!(clock.wall(), SystemTime::UNIX_EPOCH + Duration::from_millis(1500));
    }

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(Millis(5) - Duration::from_secs(1), Millis(0));
        assert_eq!(Millis(5) + Duration::MAX, Millis(u64::MAX));
        assert_eq!(Millis(5).since(Millis(9)), Duration::ZERO);
        assert_eq!(Millis(9).since(Millis(5)), Duration::from_millis(4));
    }

    #[test]
    fn the_system_clock_never_goes_back() {
        let clock = SystemClock::new();
        let readings: Vec<Millis> = (0..1000).map(|_| clock.now()).collect();
        assert!(readings.is_sorted());
    }
}
