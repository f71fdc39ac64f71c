//! The walker of a guest's stage 1, on any registers and any tables.

use crate::input::Input;
use probes::addr::{Gpa, Gva};
use probes::machine::{PhysFault, PhysMemory};
use probes::translate::{TranslationRegs, read_virt, translate};

/// Memory that is the fuzzer's bytes over and over, so that every table address leads to some; a part of it is not
/// there.
struct Tables<'a> {
    bytes: &'a [u8],
    hole: u64,
}

impl Tables<'_> {
    fn byte(&self, address: u64) -> u8 {
        let length = self.bytes.len() as u64;
        self.bytes
            .get((address % length.max(1)) as usize)
            .copied()
            .unwrap_or_default()
    }
}

impl PhysMemory for Tables<'_> {
    fn read_phys(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), PhysFault> {
        assert_eq!(gpa.0 >> 52, 0, "no address has more than 52 bits");
        if gpa.0 >> 20 == self.hole {
            return Err(PhysFault::Unmapped(gpa));
        }
        for (index, byte) in buffer.iter_mut().enumerate() {
            *byte = self.byte(gpa.0 + index as u64);
        }
        Ok(())
    }

    fn write_phys(&self, gpa: Gpa, _bytes: &[u8]) -> Result<(), PhysFault> {
        Err(PhysFault::Device(gpa))
    }
}

/// Walks for a few addresses.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let is_on = !input.byte().is_multiple_of(16);
    let mut regs = TranslationRegs {
        sctlr: input.u64(),
        tcr: input.u64(),
        ttbr0: input.u64(),
        ttbr1: input.u64(),
        mair: input.u64(),
        mmfr0: input.u64(),
        mmfr2: input.u64(),
    };
    if is_on {
        regs.sctlr |= 1;
    }
    let address = input.u64();
    let hole = input.u32().into();
    let tables = Tables {
        bytes: input.rest(),
        hole,
    };
    // Sign-extended from each size that a half can have, the address is canonical for some.
    let shifts = [0, 8, 12, 16, 22, 25, 28];
    for shift in shifts {
        walk(
            &regs,
            &tables,
            Gva(((address as i64) << shift >> shift) as u64),
        );
    }
}

fn walk(regs: &TranslationRegs, tables: &Tables<'_>, gva: Gva) {
    let translated = match translate(regs, tables, gva) {
        Ok(translated) => translated,
        Err(fault) => {
            assert_eq!(fault.address, gva);
            assert!((-1..=3).contains(&fault.level));
            assert!(!fault.to_string().is_empty());
            return;
        }
    };
    let size = translated.size;
    assert!(size.is_power_of_two() && size >= 4096);
    assert!((-1..=3).contains(&translated.level));
    assert_eq!(translated.gpa.0 & (size - 1), gva.0 & (size - 1));
    assert_eq!(translated.gpa.0 >> 52, 0);
    let mut buffer = [0; 64];
    let read = read_virt(regs, tables, gva, &mut buffer);
    let done = read.map_or_else(|error| error.done, |()| buffer.len());
    let same_page = done.min((4096 - gva.page_offset()) as usize);
    for (index, byte) in buffer[..same_page].iter().enumerate() {
        assert_eq!(*byte, tables.byte(translated.gpa.0 + index as u64));
    }
}
