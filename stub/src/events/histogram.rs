//! Durations, counted by size.
//!
//! Every power of two is cut into [`STEPS`] buckets, so that a percentile is at most 1/16 too high, in a fixed 4 KiB.

use alloc::boxed::Box;
use alloc::vec;

/// Buckets of a power of two.
const STEPS: usize = 1 << STEP_BITS;
const STEP_BITS: u32 = 4;
const BUCKETS: usize = (64 - STEP_BITS as usize + 1) * STEPS;

/// How many durations lie between two powers of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Octave {
    /// The smallest duration that counts here, in nanoseconds; durations below twice this count here. The lowest octave
    /// begins at 1.
    pub(crate) from: u64,
    /// How many.
    pub(crate) count: u64,
}

/// Durations in nanoseconds.
pub(super) struct Histogram {
    buckets: Box<[u32]>,
    count: u64,
    max: u64,
}

fn bucket(value: u64) -> usize {
    if value < STEPS as u64 {
        return value as usize;
    }
    let octave = value.ilog2() - STEP_BITS;
    let step = (value >> octave) as usize - STEPS;
    (octave as usize + 1) * STEPS + step
}

/// The largest duration of a bucket.
fn upper(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let octave = bucket / STEPS - 1;
    let start = ((STEPS + bucket % STEPS) as u64) << octave;
    start + ((1 << octave) - 1)
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self {
            buckets: vec![0; BUCKETS].into_boxed_slice(),
            count: 0,
            max: 0,
        }
    }

    pub(super) fn add(&mut self, value: u64) {
        if let Some(bucket) = self.buckets.get_mut(bucket(value)) {
            *bucket = bucket.saturating_add(1);
        }
        self.count += 1;
        self.max = self.max.max(value);
    }

    pub(super) fn max(&self) -> u64 {
        self.max
    }

    /// The duration that `percent` of all durations do not exceed, up to 1/16 too high.
    pub(super) fn percentile(&self, percent: u64) -> u64 {
        let rank = (self.count * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= rank {
                return upper(index).min(self.max);
            }
        }
        self.max
    }

    /// All powers of two that have something between them and the next, in order.
    pub(super) fn octaves(&self) -> impl Iterator<Item = Octave> {
        let at = |exponent: u32| {
            let from = 1_u64 << exponent;
            // 0 counts with 1.
            let first = if exponent == 0 { 0 } else { bucket(from) };
            let last = bucket(from | (from - 1));
            let counts = self.buckets.get(first..=last).unwrap_or_default();
            Octave {
                from,
                count: counts.iter().copied().map(u64::from).sum(),
            }
        };
        (0..u64::BITS).map(at).filter(|octave| octave.count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::new();
        values.iter().for_each(|value| histogram.add(*value));
        histogram
    }

    #[test]
    fn every_value_has_its_bucket() {
        for exponent in 0..64 {
            let power = 1_u64 << exponent;
            for value in [power - 1, power, power + 1, power | power >> 3] {
                let found = bucket(value);
                assert!(found < BUCKETS && upper(found) >= value, "{value}");
                assert!(found == 0 || upper(found - 1) < value, "{value}");
            }
        }
        assert_eq!(
            (bucket(u64::MAX), upper(BUCKETS - 1)),
            (BUCKETS - 1, u64::MAX)
        );
    }

    #[test]
    fn powers_of_two() {
        let octaves: Vec<_> = of(&[0, 1, 2, 3, 4, 1000, 1023, 1024, u64::MAX])
            .octaves()
            .collect();
        let expected = [(1, 2), (2, 2), (4, 1), (512, 2), (1024, 1), (1 << 63, 1)];
        assert_eq!(
            octaves,
            expected.map(|(from, count)| Octave { from, count })
        );
    }

    proptest! {
        #[test]
        fn percentiles_are_near(
            mut values in prop::collection::vec((0..64_u32, any::<u64>()).prop_map(|(s, v)| v >> s), 1..200),
            percent in 1..=100_u64,
        ) {
            let histogram = of(&values);
            values.sort_unstable();
            let rank = (values.len() * percent as usize).div_ceil(100).max(1);
            let exact = values[rank - 1];
            let said = histogram.percentile(percent);
            prop_assert!(said >= exact, "{} < {}", said, exact);
            prop_assert!(said - exact <= exact / 16, "{} for {}", said, exact);
            prop_assert_eq!(histogram.percentile(100), *values.last().unwrap());
            let counted: u64 = histogram.octaves().map(|octave| octave.count).sum();
            prop_assert_eq!(counted, values.len() as u64);
        }
    }
}
