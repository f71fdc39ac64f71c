use super::*;
use crate::fake::{FakeSymbols, asm};
use alloc::vec;
use proptest::prelude::*;

const START: u64 = 0x4000_0000;
const BRK: u32 = 0xd421_0000;
const RET_X9: u32 = 0xd65f_0120;
const RETAA: u32 = 0xd65f_0bff;
const BR_X16: u32 = 0xd61f_0200;

fn at(word: u64) -> Gva {
    Gva(START + 4 * word)
}

fn decode_at(entry: Gva, names: Option<&[(u64, &'static str)]>, code: &[u32]) -> Option<Body> {
    let named = |(word, name): &(u64, &'static str)| (at(*word), *name);
    let names = names.map(|names| FakeSymbols::new(names.iter().map(named)));
    let symbols = names.as_ref().map(|names| names as &dyn Symbols);
    decode(entry, symbols, &mut |address| {
        let index = address.0.checked_sub(START)? / 4;
        code.get(index as usize).copied()
    })
}

/// The end, the returns, both in words, and whether there are tail calls.
fn summary(names: Option<&[(u64, &'static str)]>, code: &[u32]) -> (u64, Vec<u64>, bool) {
    let body = decode_at(at(0), names, code).unwrap();
    assert_eq!(body.extent.start, START);
    let word = |address: u64| (address - START) / 4;
    let returns = body.returns.iter().map(|address| word(address.0));
    (
        word(body.extent.end),
        returns.collect(),
        body.has_tail_calls,
    )
}

#[test]
fn every_kind_of_return_up_to_the_next_symbol() {
    let code = [
        asm::cbnz(0, 12),
        asm::ret(),
        RETAA,
        RET_X9,
        asm::nop(),
        asm::ret(),
    ];
    let names = [(0, "f"), (4, "g")];
    assert_eq!(summary(Some(&names), &code), (4, vec![1, 2, 3], false));
}

#[test]
fn aliases_do_not_end_a_function_and_neither_do_labels_inside() {
    // Control runs on from the second instruction into `label`, and by a branch from there.
    let code = [
        asm::nop(),
        asm::nop(),
        asm::cbnz(0, -4),
        asm::ret(),
        asm::ret(),
    ];
    let names = [(0, "f"), (0, "alias"), (2, "label"), (3, "other"), (4, "g")];
    assert_eq!(summary(Some(&names), &code), (4, vec![3], false));
}

/// Functions are aligned with NOPs, and Linux built with `DYNAMIC_FTRACE_WITH_CALL_OPS` keeps a pointer before each.
#[test]
fn padding_before_the_next_function_is_not_run_into() {
    for last in [asm::ret(), asm::b(0x100), BR_X16, asm::bl(0x100), BRK] {
        for padding in [[asm::nop(); 2], [0xd662_7860, 0xffff_c776]] {
            let [first, second] = padding;
            let code = [asm::cbnz(0, 4), last, first, second, asm::ret()];
            let names = [(0, "f"), (4, "g")];
            let (end, returns, _) = summary(Some(&names), &code);
            assert_eq!(end, 4, "{last:#x} {padding:x?}");
            assert!(!returns.contains(&4), "{last:#x} {padding:x?}");
        }
    }
}

#[test]
fn calls_return_where_no_symbol_says_otherwise() {
    let code = [asm::bl(0x100), asm::nop(), asm::nop(), asm::ret(), BRK];
    assert_eq!(summary(None, &code), (4, vec![3], false));
}

#[test]
fn code_that_a_branch_leads_to_runs_on() {
    let code = [
        asm::cbnz(0, 8),
        asm::ret(),
        asm::nop(),
        asm::nop(),
        asm::ret(),
    ];
    let names = [(0, "f"), (4, "label")];
    assert_eq!(summary(Some(&names), &code), (5, vec![1, 4], false));
}

#[test]
fn a_call_that_never_returns_ends_a_function() {
    for last in [asm::bl(0x100), BRK] {
        let code = [asm::cbnz(0, 8), asm::ret(), last, asm::nop(), asm::ret()];
        let names = [(0, "f"), (3, "g")];
        assert_eq!(summary(Some(&names), &code), (3, vec![1], false));
    }
}

#[test]
fn tail_calls_leave_the_function() {
    let names = [(0, "f"), (3, "g")];
    let tail = [asm::cbnz(0, 8), asm::ret(), asm::b(4), asm::ret()];
    assert_eq!(summary(Some(&names), &tail), (3, vec![1], true));
    let conditional = [asm::cbnz(0, 12), asm::nop(), asm::ret(), asm::ret()];
    assert_eq!(summary(Some(&names), &conditional), (3, vec![2], true));
    let indirect = [asm::cbnz(0, 8), asm::ret(), BR_X16, asm::ret()];
    assert_eq!(summary(Some(&names), &indirect), (3, vec![1], true));
    let itself = [asm::cbnz(0, 8), asm::ret(), asm::b(-8), asm::ret()];
    assert_eq!(summary(Some(&names), &itself), (3, vec![1], true));
    let within = [asm::cbnz(0, 8), asm::ret(), asm::b(-4), asm::ret()];
    assert_eq!(summary(Some(&names), &within), (3, vec![1], false));
}

#[test]
fn the_cold_part_belongs_to_the_function() {
    let code = [
        asm::cbnz(0, 16), // f
        asm::ret(),
        asm::nop(), // g
        asm::ret(),
        asm::cbnz(1, 12), // f.cold
        asm::b(-16),
        asm::ret(), // g.cold
        asm::ret(),
    ];
    let names = [(0, "f"), (2, "g"), (4, "f.cold"), (6, "g.cold")];
    // The branch out of `f.cold` goes to `g.cold`, which is not its own.
    assert_eq!(summary(Some(&names), &code), (2, vec![1], true));
    let mut returning = code;
    returning[4] = asm::ret();
    assert_eq!(summary(Some(&names), &returning), (2, vec![1, 4], false));
    // A function by another name of it.
    let aliased = [(0, "a"), (0, "f"), (2, "g"), (4, "f.cold"), (6, "g.cold")];
    assert_eq!(summary(Some(&aliased), &returning), (2, vec![1, 4], false));
}

#[test]
fn without_symbols_branches_say_how_far_it_goes() {
    let code = [
        asm::cbnz(0, 12),
        asm::ret(),
        asm::ret(),
        asm::b(8),
        asm::ret(),
        asm::ret(),
        asm::ret(),
    ];
    // The first branch reaches the fourth word, that one the sixth.
    assert_eq!(summary(None, &code), (6, vec![1, 2, 4, 5], false));
    assert_eq!(
        summary(None, &[asm::nop(), asm::ret(), asm::ret()]),
        (2, vec![1], false)
    );
    for target in [-0x100, 0x1004] {
        let tail = [asm::nop(), asm::b(target), asm::ret()];
        assert_eq!(summary(None, &tail), (2, vec![], true));
    }
}

#[test]
fn what_cannot_be_read_waits() {
    assert_eq!(decode_at(at(0), None, &[asm::nop(), asm::nop()]), None);
    assert_eq!(
        decode_at(at(0), Some(&[(0, "f"), (3, "g")]), &[asm::nop()]),
        None
    );
}

#[test]
fn a_function_has_an_end() {
    let mut read = 0_u64;
    let body = decode(at(0), None, &mut |_| {
        read += 1;
        Some(asm::nop())
    });
    assert_eq!(body.unwrap().extent, START..START + MAX_BODY);
    assert_eq!(read, MAX_BODY / 4);
    // At the very end of the address space too.
    let top = Gva(u64::MAX - 7);
    assert!(decode(top, None, &mut |_| Some(asm::nop())).is_some());
}

proptest! {
    #[test]
    fn any_words_have_a_bounded_body(
        words in prop::collection::vec(
            prop_oneof![any::<u32>(), Just(asm::ret()), (-9..9_i32).prop_map(|n| asm::b(4 * n))],
            1..100,
        ),
        symbols in prop::collection::btree_set(1..100_u64, 0..9),
    ) {
        let names: Vec<_> = core::iter::once(0).chain(symbols).map(|word| (word, "f.cold")).collect();
        for names in [None, Some(names.as_slice())] {
            let Some(body) = decode_at(at(0), names, &words) else { continue };
            prop_assert!(body.extent.end <= START + 4 * words.len() as u64);
            for address in &body.returns {
                let word = words[((address.0 - START) / 4) as usize];
                let is_return = matches!(control(word), crate::a64::Control::Return { .. });
                prop_assert!(is_return);
            }
        }
    }
}
