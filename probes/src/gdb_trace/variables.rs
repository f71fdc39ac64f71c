//! Trace state variables (GDB manual, 13.1.5 "Trace State Variables"): numbers that expressions keep between hits.

use crate::fixed::filled;
use alloc::boxed::Box;
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicUsize, Ordering};

/// How many a space can have, those that are always there included.
pub const MAX_VARIABLES: usize = 64;

/// One variable.
struct Variable {
    /// As the client counts it.
    number: AtomicU32,
    value: AtomicI64,
}

impl Variable {
    const fn new() -> Self {
        Self {
            number: AtomicU32::new(0),
            value: AtomicI64::new(0),
        }
    }
}

/// The trace state variables of a space, where programs on the way of a hit read and write them without a lock. What has
/// been added stays until all are forgotten, which nobody does while a program runs.
pub struct Variables {
    all: Box<[Variable; MAX_VARIABLES]>,
    count: AtomicUsize,
}

impl Variables {
    pub(crate) fn new() -> Self {
        Self {
            all: filled(Variable::new),
            count: AtomicUsize::new(0),
        }
    }

    /// The value of a variable; `None` where there is none of that number.
    pub fn get(&self, number: u32) -> Option<i64> {
        Some(self.find(number)?.value.load(Ordering::Relaxed))
    }

    /// Changes a variable. Returns whether there is one of that number.
    pub fn set(&self, number: u32, value: i64) -> bool {
        let found = self.find(number);
        if let Some(variable) = found {
            variable.value.store(value, Ordering::Relaxed);
        }
        found.is_some()
    }

    /// Adds a variable, or sets the one of that number. Returns whether there was room. One server at a time.
    pub(crate) fn define(&self, number: u32, value: i64) -> bool {
        if self.set(number, value) {
            return true;
        }
        let count = self.count.load(Ordering::Relaxed);
        let Some(place) = self.all.get(count) else {
            return false;
        };
        place.number.store(number, Ordering::Relaxed);
        place.value.store(value, Ordering::Relaxed);
        self.count.store(count + 1, Ordering::Release);
        true
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        self.count.store(0, Ordering::Release);
    }

    fn find(&self, number: u32) -> Option<&Variable> {
        let count = self.count.load(Ordering::Acquire);
        let mut defined = self.all.iter().take(count);
        defined.find(|variable| variable.number.load(Ordering::Relaxed) == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_found_by_their_numbers() {
        let variables = Variables::new();
        assert_eq!((variables.get(7), variables.set(7, 1)), (None, false));
        assert!(variables.define(7, -1) && variables.define(9, 2));
        assert_eq!((variables.get(7), variables.get(9)), (Some(-1), Some(2)));
        assert!(variables.set(7, i64::MIN) && variables.define(9, 3));
        assert_eq!(
            (variables.get(7), variables.get(9)),
            (Some(i64::MIN), Some(3))
        );
        variables.clear();
        assert_eq!(variables.get(7), None);
    }

    #[test]
    fn they_are_bounded() {
        let variables = Variables::new();
        for number in 1..=MAX_VARIABLES as u32 {
            assert!(variables.define(number, 0));
        }
        assert!(!variables.define(1000, 0));
        assert!(variables.define(1, 5), "one that there is can be set");
    }
}
