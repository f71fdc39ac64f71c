//! `map dump --hist`: log2 histograms, as programs count them.
//!
//! Slot n counts what is from 2^n to 2^(n+1)-1, slot 0 also what is 0, as the log2 of libbpf's tools
//! has it. Slots are the entries of a map whose values are integers, by their key; or the elements of
//! the array of integers in each larger value, of which the first counts where there are several; or
//! the 4-byte words of each larger value whose type is not known.

use super::super::bar::{BAR, bar};
use super::super::number::grouped;
use super::super::output::Format;
use super::super::{Invocation, Problem};
use super::typed::{Typed, cell};
use super::value::integer;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use ebpf::btf::show::Value;
use ebpf::map::Map;

/// Slots at most: there are so many powers of two in 64 bits.
const MAX_SLOTS: usize = 64;
/// Histograms that are drawn at most.
const MAX_SHOWN: usize = 32;

/// The histograms of a map, by the keys that they belong to.
pub(super) struct Slots(BTreeMap<String, Vec<u64>>);

impl Slots {
    /// Counts of all CPUs are added up.
    pub(super) fn of(map: &Map, types: &Typed<'_>) -> Result<Self, Problem> {
        let mut slots = BTreeMap::new();
        let mut add = |key: String, slot: usize, count: u64| {
            let counts = slots.entry(key).or_insert_with(|| vec![0_u64; MAX_SLOTS]);
            if let Some(total) = counts.get_mut(slot) {
                *total = total.wrapping_add(count);
            }
            slot < MAX_SLOTS
        };
        let mut is_possible = true;
        map.for_each(&mut |entry| {
            let value = types.value(entry.value);
            let counts = value.and_then(|value| counts_in(&value));
            is_possible = match (counts, integer(entry.key), integer(entry.value)) {
                (None, Some(slot), Some(count)) => add(String::new(), slot as usize, count),
                (None, _, None) if value.is_some() || !entry.value.len().is_multiple_of(4) => false,
                (None, _, Some(_)) => false,
                (counts, ..) => {
                    let key = cell(types.key(entry.key), entry.key, Format::Text);
                    let key = format!("key {}", key.text());
                    let counts = counts.unwrap_or_else(|| words(entry.value));
                    let mut counts = counts.into_iter().enumerate().take(MAX_SLOTS);
                    counts.all(|(slot, count)| add(key.clone(), slot, count))
                }
            };
            is_possible
        });
        if is_possible {
            return Ok(Self(slots));
        }
        Err(Problem::Refused(format!(
            "{} is no histogram: its keys are no slots below {MAX_SLOTS} with integers as values, nor \
             have its values an array of integers. `map dump` without --hist shows it.",
            map.name()
        )))
    }

    pub(super) fn write(&self, invocation: &mut Invocation<'_>) -> Result<(), Problem> {
        for (key, counts) in self.0.iter().take(MAX_SHOWN) {
            if !key.is_empty() {
                writeln!(invocation.out, "{key}")?;
            }
            for line in lines(counts) {
                writeln!(invocation.out, "{line}")?;
            }
        }
        if self.0.len() > MAX_SHOWN {
            writeln!(
                invocation.out,
                "(only the first {MAX_SHOWN} keys are shown)"
            )?;
        }
        Ok(())
    }
}

/// The elements of a value that is an array of integers, or of the first such array in it.
fn counts_in(value: &Value<'_>) -> Option<Vec<u64>> {
    let fields = value.fields().unwrap_or_default();
    let in_field = || fields.iter().find_map(|field| field.value.words());
    value.words().or_else(in_field)
}

/// Words of 4 bytes.
fn words(bytes: &[u8]) -> Vec<u64> {
    let (words, _) = bytes.as_chunks::<4>();
    words
        .iter()
        .map(|word| u32::from_le_bytes(*word).into())
        .collect()
}

/// A line for each slot up to the last that counts something.
fn lines(counts: &[u64]) -> Vec<String> {
    let used = counts.iter().rposition(|&count| count > 0);
    let Some(last) = used else {
        return vec!["(nothing is counted)".into()];
    };
    let total = counts
        .iter()
        .fold(0_u64, |sum, &count| sum.saturating_add(count));
    let line = |(slot, &count): (usize, &u64)| {
        let (from, to) = range(slot);
        let share = u128::from(count) * 100 / u128::from(total.max(1));
        format!(
            "{from:>20} … {to:<20} {:<width$} {share:>3} % {}",
            bar(count, total),
            grouped(count),
            width = BAR as usize,
        )
    };
    counts[..=last].iter().enumerate().map(line).collect()
}

/// What a slot counts.
fn range(slot: usize) -> (u64, u64) {
    let from = if slot == 0 { 0 } else { 1 << slot };
    (from, u64::MAX >> (MAX_SLOTS - 1 - slot))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_powers_of_two() {
        let ranges = [0, 1, 2, 63].map(range);
        assert_eq!(ranges, [(0, 1), (2, 3), (4, 7), (1 << 63, u64::MAX)]);
    }

    #[test]
    fn lines_end_with_the_last_slot_that_counts() {
        assert_eq!(lines(&[0; MAX_SLOTS]), ["(nothing is counted)"]);
        let mut counts = [0; MAX_SLOTS];
        counts[1] = 1200;
        counts[3] = u64::MAX;
        let lines = lines(&counts);
        assert_eq!(lines.len(), 4);
        assert!(lines[1].ends_with("   0 % 1,200"), "{lines:?}");
        assert!(
            lines[3].starts_with("                   8 … 15 "),
            "{lines:?}"
        );
    }
}
