//! A guest's memory and a builder of its tables, written from the layout of descriptors and not
//! from the walker.

use crate::addr::{Gpa, PAGE_SIZE};
use crate::machine::{PhysFault, PhysMemory};
use crate::translate::TranslationRegs;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::RefCell;

pub const VALID: u64 = 1;
pub const TABLE_OR_PAGE: u64 = 0b10;
pub const USER: u64 = 1 << 6;
pub const READ_ONLY: u64 = 1 << 7;
pub const ACCESSED: u64 = 1 << 10;
pub const GUARDED: u64 = 1 << 50;
pub const DIRTY_MODIFIER: u64 = 1 << 51;
pub const CONTIGUOUS: u64 = 1 << 52;
pub const PXN: u64 = 1 << 53;
pub const UXN: u64 = 1 << 54;
pub const PXN_TABLE: u64 = 1 << 59;
pub const UXN_TABLE: u64 = 1 << 60;
pub const AP_TABLE_NO_EL0: u64 = 1 << 61;
pub const AP_TABLE_READ_ONLY: u64 = 1 << 62;

/// CPU with everything: PARange 52 bits, LPA2 with 4K and 16K, 64K granule.
pub const MMFR0_MAX: u64 = 6 | 2 << 20 | 1 << 28;
/// FEAT_LVA and FEAT_TTST.
pub const MMFR2_MAX: u64 = 1 << 16 | 1 << 28;

/// Memory that exists where something was put.
#[derive(Default)]
pub struct Ram {
    pages: RefCell<BTreeMap<u64, [u8; PAGE_SIZE as usize]>>,
}

impl Ram {
    pub fn add(&self, start: u64, length: u64) {
        for page in (start / PAGE_SIZE)..(start + length).div_ceil(PAGE_SIZE) {
            self.pages
                .borrow_mut()
                .entry(page)
                .or_insert([0; PAGE_SIZE as usize]);
        }
    }

    pub fn read_u64(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        self.read_phys(Gpa(address), &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    pub fn write_u64(&self, address: u64, value: u64) {
        self.write_phys(Gpa(address), &value.to_le_bytes()).unwrap();
    }

    /// Reverses the bytes of all aligned double words: little-endian tables become big-endian.
    pub fn swap_endianness(&self) {
        for page in self.pages.borrow_mut().values_mut() {
            page.chunks_exact_mut(8).for_each(<[u8]>::reverse);
        }
    }

    /// Copies what lies at `start` and after into `image`.
    pub fn copy_to(&self, start: u64, image: &mut [u8]) {
        for (page, bytes) in self.pages.borrow().iter() {
            let offset = (page * PAGE_SIZE - start) as usize;
            image[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
    }

    fn byte<T>(&self, address: u64, access: impl FnOnce(&mut u8) -> T) -> Result<T, PhysFault> {
        let mut pages = self.pages.borrow_mut();
        let page = pages
            .get_mut(&(address / PAGE_SIZE))
            .ok_or(PhysFault::Unmapped(Gpa(address)))?;
        Ok(access(&mut page[(address % PAGE_SIZE) as usize]))
    }
}

impl PhysMemory for Ram {
    fn read_phys(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), PhysFault> {
        for (address, to) in (gpa.0..).zip(buffer) {
            *to = self.byte(address, |byte| *byte)?;
        }
        Ok(())
    }

    fn write_phys(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), PhysFault> {
        for (address, from) in (gpa.0..).zip(bytes) {
            self.byte(address, |byte| *byte = *from)?;
        }
        Ok(())
    }
}

/// Sizes and formats of one kind of tables.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Bytes of a page.
    pub granule: u64,
    /// Bits of the input address.
    pub input_bits: u32,
    /// `TCR_EL1.DS`, or 52-bit `IPS` with 64K.
    pub wide: bool,
}

impl Format {
    /// Level of the first table: Arm ARM tables D8-12 to D8-17, written out.
    pub fn start_level(&self) -> i8 {
        match (self.granule, self.input_bits) {
            (0x1000, 49..=52) => -1,
            (0x1000, 40..=48) => 0,
            (0x1000, 31..=39) => 1,
            (0x1000, 22..=30) => 2,
            (0x1000, 16..=21) => 3,
            (0x4000, 48..=52) => 0,
            (0x4000, 37..=47) => 1,
            (0x4000, 26..=36) => 2,
            (0x4000, 16..=25) => 3,
            (0x10000, 43..=52) => 1,
            (0x10000, 30..=42) => 2,
            (0x10000, 17..=29) => 3,
            other => panic!("no such format: {other:?}"),
        }
    }

    /// Bytes that a leaf of `level` maps.
    pub fn leaf_size(&self, level: i8) -> u64 {
        (level..3).fold(self.granule, |size, _| size * (self.granule / 8))
    }

    /// Levels that may hold leaves.
    pub fn leaf_levels(&self) -> Vec<i8> {
        let first = match (self.granule, self.wide) {
            (0x1000, true) => 0,
            (0x1000, false) => 1,
            (_, true) => 1,
            (_, false) => 2,
        };
        (first.max(self.start_level())..=3).collect()
    }

    fn address_field(&self, address: u64) -> u64 {
        let low = address & 0x0000_ffff_ffff_ffff;
        let high = address >> 48;
        match (self.wide, self.granule) {
            (false, _) => {
                assert_eq!(high, 0, "48-bit descriptor cannot hold {address:#x}");
                low
            }
            (true, 0x10000) => low | high << 12,
            (true, _) => low | (high & 3) << 48 | (high >> 2) << 8,
        }
    }
}

/// Which of the two registers a set of tables hangs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Half {
    Lower,
    Upper,
}

/// Tables of one half under construction.
pub struct Tables<'a> {
    pub format: Format,
    pub half: Half,
    ram: &'a Ram,
    next: u64,
    pub root: u64,
}

impl<'a> Tables<'a> {
    /// Starts an empty set, its tables from `first_table` up (a multiple of 64 KiB).
    pub fn new(ram: &'a Ram, format: Format, half: Half, first_table: u64) -> Self {
        let mut tables = Self {
            format,
            half,
            ram,
            next: first_table,
            root: 0,
        };
        tables.root = tables.new_table();
        tables
    }

    fn new_table(&mut self) -> u64 {
        let table = self.next;
        self.ram.add(table, self.format.granule);
        self.next += self.format.granule;
        table
    }

    /// Address of the descriptor of `level` for `va`, its tables made as needed; `None` where a
    /// leaf is in the way.
    pub fn entry(&mut self, va: u64, level: i8) -> Option<u64> {
        let input = va & ((1 << self.format.input_bits) - 1);
        let mut table = self.root;
        let mut at = self.format.start_level();
        loop {
            let covered = self.format.leaf_size(at);
            let index = if at == self.format.start_level() {
                input / covered
            } else {
                input / covered % (self.format.granule / 8)
            };
            let entry = table + index * 8;
            if at == level {
                return Some(entry);
            }
            table = match self.ram.read_u64(entry) {
                0 => {
                    let next = self.new_table();
                    let field = self.format.address_field(next);
                    self.ram.write_u64(entry, field | VALID | TABLE_OR_PAGE);
                    next
                }
                descriptor if descriptor & TABLE_OR_PAGE == 0 => return None,
                descriptor => self.table_address(descriptor),
            };
            at += 1;
        }
    }

    /// Tables are handed out one after another, so the low bits find them again without decoding
    /// the address.
    fn table_address(&self, descriptor: u64) -> u64 {
        let mask = (1 << 40) - self.format.granule;
        let first = self.root & !((1 << 40) - 1);
        first | descriptor & mask
    }

    /// Maps the leaf that holds `va` to `pa` (a multiple of its size); `None` where something is in
    /// the way.
    pub fn map(&mut self, va: u64, pa: u64, level: i8, attributes: u64) -> Option<()> {
        let entry = self.entry(va, level)?;
        if self.ram.read_u64(entry) != 0 {
            return None;
        }
        let kind = if level == 3 {
            VALID | TABLE_OR_PAGE
        } else {
            VALID
        };
        let field = self.format.address_field(pa);
        self.ram.write_u64(entry, field | kind | attributes);
        Some(())
    }

    /// The first address after all tables.
    pub fn end(&self) -> u64 {
        self.next
    }

    /// Registers of a vCPU that uses these tables for their half and has the other half disabled.
    pub fn regs(&self) -> TranslationRegs {
        let size = u64::from(64 - self.format.input_bits);
        let large_output = if self.format.wide { 6 } else { 5 };
        let lpa2 = u64::from(self.format.wide && self.format.granule != 0x10000);
        let ttbr = self.root & 0x0000_ffff_ffff_ffff
            | if self.format.wide {
                (self.root >> 48) << 2
            } else {
                0
            };
        let common = large_output << 32 | lpa2 << 59;
        let (tcr, ttbr0, ttbr1) = match self.half {
            Half::Lower => {
                let granule = match self.format.granule {
                    0x1000 => 0b00,
                    0x4000 => 0b10,
                    _ => 0b01,
                };
                let upper_disabled = 1 << 23 | 0b10 << 30 | 16 << 16;
                (common | size | granule << 14 | upper_disabled, ttbr, 0)
            }
            Half::Upper => {
                let granule = match self.format.granule {
                    0x1000 => 0b10,
                    0x4000 => 0b01,
                    _ => 0b11,
                };
                let lower_disabled = 1 << 7 | 16;
                (
                    common | size << 16 | granule << 30 | lower_disabled,
                    0,
                    ttbr,
                )
            }
        };
        TranslationRegs {
            sctlr: 1,
            tcr,
            ttbr0,
            ttbr1,
            mair: 0x00ff_4404_0c08_04bb,
            mmfr0: MMFR0_MAX,
            mmfr2: MMFR2_MAX,
        }
    }

    /// The canonical form of an input address in this half.
    pub fn canonical(&self, input: u64) -> u64 {
        match self.half {
            Half::Lower => input,
            Half::Upper => input | u64::MAX << self.format.input_bits,
        }
    }
}
