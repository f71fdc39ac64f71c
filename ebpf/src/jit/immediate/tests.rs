use super::*;
use crate::jit::asm::Assembler;
use alloc::vec::Vec;
use proptest::prelude::*;

/// `DecodeBitMasks` of the Arm ARM (J1.3), for the `wmask` of logical immediates.
fn decode(encoding: u32, size: Size) -> Option<u64> {
    let [n, immr, imms] = [encoding >> 12 & 1, encoding >> 6 & 63, encoding & 63];
    let combined = n << 6 | !imms & 63;
    let len = 31_u32.checked_sub(combined.leading_zeros())?;
    if len == 0 || n == 1 && size == Size::W {
        return None;
    }
    let levels = (1 << len) - 1;
    let [s, r] = [imms & levels, immr & levels];
    if s == levels {
        return None;
    }
    let bits = 1 << len;
    let run = (1_u64 << (s + 1)) - 1;
    let element = (0..bits).fold(0, |element, bit| {
        element | (run >> ((bit + r) % bits) & 1) << bit
    });
    let repeated = (0..64 / bits).fold(0, |value, copy| value | element << (copy * bits));
    Some(match size {
        Size::W => repeated & 0xffff_ffff,
        Size::X => repeated,
    })
}

#[test]
fn every_bitmask_there_is_has_its_encoding() {
    for (size, count) in [(Size::X, 5334), (Size::W, 1302)] {
        let mut values: Vec<u64> = (0..1 << 13).filter_map(|bits| decode(bits, size)).collect();
        values.sort_unstable();
        values.dedup();
        assert_eq!(values.len(), count);
        for value in values {
            let bits = Bitmask::of(value, size).expect("it has an encoding");
            assert_eq!(decode(bits.encoding(), size), Some(value), "{value:#x}");
        }
    }
}

/// What MOVZ, MOVN, MOVK and ORR (immediate) leave in a register.
fn execute(words: &[u32]) -> u64 {
    words.iter().fold(0, |register, &word| {
        let shift = 16 * (word >> 21 & 3);
        let imm = u64::from(word >> 5 & 0xffff) << shift;
        let size = if word >> 31 == 1 { Size::X } else { Size::W };
        let mask = if size == Size::X {
            u64::MAX
        } else {
            0xffff_ffff
        };
        match word >> 23 & 0xff {
            0b1010_0101 => imm,
            0b0010_0101 => !imm & mask,
            0b1110_0101 => (register & !(0xffff << shift) | imm) & mask,
            0b0110_0100 => decode(word >> 10 & 0x1fff, size).expect("a bitmask"),
            other => panic!("unexpected instruction {word:#010x} ({other:#b})"),
        }
    })
}

fn loaded(value: u64) -> Vec<u32> {
    let mut asm = Assembler::default();
    load(&mut asm, Reg(3), value);
    asm.finish().expect("there are no branches")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn constants_arrive(
        value in prop_oneof![
            any::<u64>(),
            any::<u32>().prop_map(u64::from),
            any::<i32>().prop_map(|value| value as u64),
            any::<i16>().prop_map(|value| value as u64),
            (any::<u64>(), 0..64_u32).prop_map(|(value, shift)| value << shift),
            prop::array::uniform4(prop::sample::select(&[0_u16, 0xffff, 0x1234][..]))
                .prop_map(|chunks| chunks.iter().fold(0, |v, &c| v << 16 | u64::from(c))),
        ],
    ) {
        let words = loaded(value);
        prop_assert_eq!(execute(&words), value);
        prop_assert!(words.len() <= 4);
    }

    #[test]
    fn what_is_no_bitmask_is_none(value: u64) {
        if let Some(bits) = Bitmask::of(value, Size::X) {
            prop_assert_eq!(decode(bits.encoding(), Size::X), Some(value));
        }
    }
}

#[test]
fn constants_are_short() {
    for (value, length) in [
        (0, 1),
        (u64::MAX, 1),
        (0xffff_fffe, 1),
        (-5_i64 as u64, 1),
        (0xff00_ff00_ff00_ff00, 1),
        (0xffff_8000_8000_0000, 3),
        (0x1234_5678, 2),
        (0x1234_5678_9abc_def0, 4),
    ] {
        assert_eq!(loaded(value).len(), length, "{value:#x}");
    }
}
