//! Paths of Rust functions, and what of them a user has to type.
//!
//! The last words are enough: `Vcpu::run`, or `run`, is `<hypervisor::vcpu::Vcpu>::run`. Generic
//! arguments are left out, and so is the trait of a method: `Pl011::take_event` is
//! `<devices::uart::Pl011<devices::mmio::MmioRegion> as devices::channel::Channel>::take_event`. Who
//! means one instance of several types it in full.

use crate::symbols;
use alloc::string::String;
use alloc::vec::Vec;

const COLONS: &str = "::";
/// Between a type and the trait whose method follows.
const AS: &str = " as ";

/// Whether a user who says `wanted` may mean the function with this path.
pub fn answers_to(path: &str, wanted: &str) -> bool {
    if wanted.is_empty() || is_tail(path, wanted) {
        return !wanted.is_empty();
    }
    let mut of_path = words(path);
    !wanted.contains('<') && words(wanted).all(|word| of_path.next() == Some(word))
}

/// Whether `path` is `tail`, or ends with it as whole words.
fn is_tail(path: &str, tail: &str) -> bool {
    let Some(before) = path.strip_suffix(tail) else {
        return false;
    };
    before.is_empty() || before.ends_with(COLONS)
}

/// The last `count` words of a path, as a user types them.
pub fn last_words(path: &str, count: usize) -> String {
    let mut last: Vec<&str> = words(path).take(count).collect();
    last.reverse();
    last.join(COLONS)
}

/// By what a table finds paths: the hash of the last word.
pub(super) fn hash(path: &str) -> u32 {
    symbols::hash(words(path).next().unwrap_or_default())
}

/// The words of a path from the last to the first, without generic arguments and traits.
pub(super) fn words(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = path;
    core::iter::from_fn(move || {
        rest = before_brackets(rest);
        if rest.is_empty() {
            return None;
        }
        let word;
        (rest, word) = rest.rsplit_once(COLONS).unwrap_or(("", rest));
        Some(word)
    })
}

/// The path without the brackets at its end: those are generic arguments, or the type whose method
/// what followed is, which goes on.
fn before_brackets(path: &str) -> &str {
    let mut rest = path;
    while let Some(open) = last_brackets(rest) {
        rest = match open {
            0 => of_type(&rest[1..rest.len() - 1]),
            _ => rest[..open].trim_end_matches(COLONS),
        };
    }
    rest
}

/// Where the brackets open that close at the end of `path`.
fn last_brackets(path: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let bytes = path.as_bytes();
    for at in (0..bytes.len()).rev() {
        match bytes[at] {
            // Not the arrow of a function's type.
            b'>' if at > 0 && bytes[at - 1] != b'-' => depth += 1,
            b'<' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return (bytes[at] == b'<').then_some(at);
        }
    }
    None
}

/// `Type` of `Type as Trait`, or the whole.
fn of_type(inside: &str) -> &str {
    let mut depth = 0_usize;
    let mut before = 0;
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            b'<' => depth += 1,
            b'>' if before != b'-' => depth = depth.saturating_sub(1),
            b' ' if depth == 0 && inside[at..].starts_with(AS) => return &inside[..at],
            _ => {}
        }
        before = byte;
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_words_are_enough() {
        let answers = |path, wanted: &[&str], others: &[&str]| {
            for word in wanted {
                assert!(answers_to(path, word), "{path} is {word}");
            }
            for word in others {
                assert!(!answers_to(path, word), "{path} is not {word}");
            }
        };
        answers(
            "<hypervisor::vcpu::Vcpu>::run",
            &[
                "run",
                "Vcpu::run",
                "vcpu::Vcpu::run",
                "hypervisor::vcpu::Vcpu::run",
            ],
            &[
                "",
                "un",
                "cpu::run",
                "Vcpu",
                "x::hypervisor::vcpu::Vcpu::run",
            ],
        );
        answers(
            "hypervisor::interrupts::update::<hypervisor::exits::emulate::{closure#1}>",
            &[
                "update",
                "interrupts::update",
                "update::<hypervisor::exits::emulate::{closure#1}>",
            ],
            &["update::<u32>", "emulate", "{closure#1}"],
        );
        answers(
            "<devices::uart::Pl011<devices::mmio::MmioRegion> as devices::channel::Channel>::take_event",
            &["take_event", "Pl011::take_event", "uart::Pl011::take_event"],
            &["Channel::take_event", "MmioRegion::take_event"],
        );
        answers(
            "<Foo<fn(u8) -> Bar<u8>> as Trait<<X as Y>::Z>>::bar::<3>",
            &["bar", "Foo::bar"],
            &["Bar::bar", "Z::bar"],
        );
        answers(
            "<probes::space::Space>::attach::<T>::{closure#0}",
            &["Space::attach::{closure#0}", "{closure#0}"],
            &["Space::attach"],
        );
    }

    #[test]
    fn words_are_as_a_user_types_them() {
        let path = "<devices::uart::Pl011<M> as Channel>::read::<7>";
        assert_eq!(last_words(path, 1), "read");
        assert_eq!(last_words(path, 2), "Pl011::read");
        assert_eq!(last_words(path, 9), "devices::uart::Pl011::read");
        assert_eq!(last_words("vector_table", 2), "vector_table");
    }

    proptest! {
        #[test]
        fn any_text_has_words(text in "[<>:a -]{0,40}", wanted in "[<>:a -]{0,8}") {
            prop_assert!(words(&text).count() <= text.len());
            prop_assert!(text.is_empty() || answers_to(&text, &text));
            answers_to(&text, &wanted);
        }

        #[test]
        fn what_answers_has_its_hash(
            words in prop::collection::vec("[a-c]{1,2}", 1..5),
            generics in "(::<[a-c]{1,2}>)?",
            count in 1..5_usize,
        ) {
            let path = words.join(COLONS) + &generics;
            let wanted = last_words(&path, count);
            prop_assert!(answers_to(&path, &wanted), "{} is {}", path, wanted);
            prop_assert_eq!(hash(&path), hash(&wanted));
        }
    }
}
