//! Numbers that look random and are the same for the same seed.

use anyhow::{Context, Result};
use std::env;

/// Sets the seed, in decimal, to repeat a run.
const SEED: &str = "PERISCOPE_SEED";

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
pub struct Random {
    state: u64,
}

impl Random {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Seeded by the environment, or else by the clock; and the seed.
    pub fn seeded() -> Result<(Self, u64)> {
        let seed = match env::var(SEED) {
            Ok(text) => text
                .parse()
                .with_context(|| format!("{SEED}={text} is no number"))?,
            Err(_) => std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_secs(),
        };
        Ok((Self::new(seed), seed))
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // The bias of so small bounds does not matter here.
        (self.next() % bound as u64) as usize
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }

    /// One of several, which are not none.
    pub fn choose<'a, T>(&mut self, several: &'a [T]) -> &'a T {
        &several[self.below(several.len())]
    }

    /// Brings a list into any order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last + 1));
        }
    }
}
