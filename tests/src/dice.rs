//! Chance for tests that disturb processes.
#![expect(clippy::print_stdout, reason = "the seed of a failed test is part of its failure")]

use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

/// Chance that can be had again: `TRIREME_SEED` is the seed of an earlier run.
#[derive(Debug)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// Prints its seed, which the test's output shows when the test fails.
    pub fn from_environment() -> Dice {
        let clock = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs())
        };
        let seed = env::var("TRIREME_SEED").map_or_else(
            |_| clock(),
            |text| {
                text.parse()
                    .unwrap_or_else(|error| panic!("TRIREME_SEED={text}: {error}"))
            },
        );
        println!("TRIREME_SEED={seed}");
        Dice { state: seed }
    }

    /// A number from 0 to below `limit`: SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
    pub fn below(&mut self, limit: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }
}
