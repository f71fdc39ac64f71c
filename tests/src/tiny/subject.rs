//! The guest's subjects, and what calls and steps must give.

use super::{field, number};
use anyhow::{Context, Result, bail};

/// What is special about calling a subject; `subjects::Kind` of the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nothing; runs with the MMU off too.
    Plain,
    /// Only a RET: returns its argument and counts nothing.
    Bare,
    /// Its first instruction is an HVC.
    Hypercall,
    /// Runs with the MMU on only.
    Mapped,
    /// Adds one to the shared word by exclusives; runs with the MMU on only.
    Exclusive,
    /// The same by an atomic instruction.
    Atomic,
}

/// A function of the guest with a first instruction of its own kind.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its symbol.
    pub name: String,
    /// Its constant.
    pub k: u64,
    /// What is special about it.
    pub kind: Kind,
    /// Where it is linked.
    pub address: u64,
}

impl Subject {
    pub(super) fn parse(line: &str) -> Result<Self> {
        let name = line
            .split_ascii_whitespace()
            .next()
            .context("an empty line")?;
        let kind = match field(line, "kind")? {
            "plain" => Kind::Plain,
            "bare" => Kind::Bare,
            "hypercall" => Kind::Hypercall,
            "mapped" => Kind::Mapped,
            "exclusive" => Kind::Exclusive,
            "atomic" => Kind::Atomic,
            other => bail!("no kind `{other}`"),
        };
        let (k, address) = (number(line, "k")?, number(line, "address")?);
        Ok(Self {
            name: name.to_owned(),
            k,
            kind,
            address,
        })
    }

    /// What `calls` calls count.
    pub fn count(&self, calls: u64) -> u64 {
        if self.kind == Kind::Bare { 0 } else { calls }
    }

    /// The sum of the results of the calls with 1 to `calls`.
    pub fn sum(&self, calls: u64) -> u64 {
        let arguments = (1..=calls).fold(0u64, u64::wrapping_add);
        match self.kind {
            Kind::Bare => arguments,
            _ => arguments
                .wrapping_mul(3)
                .wrapping_add(self.k.wrapping_mul(calls)),
        }
    }

    /// What `calls` calls add to the shared word.
    pub fn shared(&self, calls: u64) -> u64 {
        match self.kind {
            Kind::Exclusive | Kind::Atomic => calls,
            _ => 0,
        }
    }

    /// Whether it runs with the MMU off.
    pub fn runs_unmapped(&self) -> bool {
        matches!(self.kind, Kind::Plain | Kind::Bare | Kind::Hypercall)
    }
}

/// The `sum` of `step N`: the guest steps a loop of three instructions, and folds the offset of the
/// next one.
pub fn step_sum(steps: u64) -> u64 {
    let offsets = [4, 8, 0].into_iter().cycle();
    let offsets = offsets.take(usize::try_from(steps).unwrap_or(usize::MAX));
    offsets.fold(0u64, |sum, offset| {
        sum.wrapping_mul(31).wrapping_add(offset)
    })
}

/// The `adds` of `step N`.
pub fn step_adds(steps: u64) -> u64 {
    steps.div_ceil(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_line_is_a_subject() {
        let line = "fn_b k=0x909 kind=plain address=0x40205e70";
        let subject = Subject::parse(line).unwrap();
        assert_eq!((subject.name.as_str(), subject.k), ("fn_b", 0x909));
        assert_eq!(subject.sum(2), 3 * 3 + 2 * 0x909);
        assert!(Subject::parse("fn_b k=0x909 kind=odd address=0").is_err());
    }

    #[test]
    fn steps_are_folded_in_order() {
        assert_eq!(step_sum(1), 4);
        assert_eq!(step_sum(4), ((4 * 31 + 8) * 31) * 31 + 4);
        assert_eq!([1, 2, 3, 4].map(step_adds), [1, 1, 1, 2]);
    }
}
