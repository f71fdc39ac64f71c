//! Numbers that were measured, and their percentiles.

/// Measured numbers of one kind, at least one.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    sorted: Vec<f64>,
}

impl Sample {
    /// Of these numbers; `None` where there are none.
    pub fn new(mut numbers: Vec<f64>) -> Option<Self> {
        numbers.sort_by(f64::total_cmp);
        (!numbers.is_empty()).then_some(Self { sorted: numbers })
    }

    /// Of all numbers of some samples; `None` where there are none.
    pub fn all(samples: Vec<Self>) -> Option<Self> {
        Self::new(
            samples
                .into_iter()
                .flat_map(|sample| sample.sorted)
                .collect(),
        )
    }

    /// The smallest number that `percent` of all do not exceed (nearest rank).
    pub fn percentile(&self, percent: f64) -> f64 {
        let rank = (percent / 100.0 * self.sorted.len() as f64).ceil() as usize;
        self.sorted[rank.clamp(1, self.sorted.len()) - 1]
    }

    /// The largest number.
    pub fn largest(&self) -> f64 {
        self.percentile(100.0)
    }

    /// Half of the numbers are not above it.
    pub fn median(&self) -> f64 {
        self.percentile(50.0)
    }

    /// Every number less `base`.
    pub fn above(&self, base: f64) -> Self {
        self.map(|number| number - base)
    }

    /// Every number changed alike; `change` keeps their order.
    pub fn map(&self, change: impl Fn(f64) -> f64) -> Self {
        Self {
            sorted: self.sorted.iter().map(|&number| change(number)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let sample = Sample::new((1..=200).rev().map(f64::from).collect()).unwrap();
        assert_eq!(sample.median(), 100.0);
        assert_eq!(sample.percentile(99.0), 198.0);
        assert_eq!(sample.percentile(100.0), 200.0);
        assert_eq!(sample.above(50.0).median(), 50.0);
        let one = Sample::new(vec![7.0]).unwrap();
        assert_eq!((one.percentile(0.0), one.percentile(99.0)), (7.0, 7.0));
        assert_eq!(Sample::new(Vec::new()), None);
        let two = Sample::all(vec![one.clone(), one.above(2.0)]).unwrap();
        assert_eq!((two.median(), two.percentile(100.0)), (5.0, 7.0));
    }
}
