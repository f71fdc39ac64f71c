//! The walker against a CPU: random and hostile tables, walked by [`translate`] and by the address
//! translation instructions of QEMU's CPUs. `oracle.s` is the program that QEMU runs.

use super::tables::{MMFR0_MAX, MMFR2_MAX, Ram, Tables};
use super::*;
use crate::qemu;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

/// Where QEMU loads the image, and the cases in it.
const IMAGE: u64 = 0x4100_0000;
const END_OF_CASES: u64 = IMAGE + 0x1000;
const CASES: u64 = END_OF_CASES + 16;
const RECORD_SIZE: usize = 64;
/// The tables come after the cases, at a multiple of 64 KiB.
const FIRST_TABLE: u64 = 0x4200_0000;
/// Memory of the machine that the cases do not use; it reads as zero.
const END_OF_TABLES: u64 = 0x4800_0000;

const SETS: usize = 200;
const ADDRESSES_PER_SET: usize = 10;

/// Bits of a leaf that the walker looks at: AttrIndx, AP, AF, DBM (which needs HD), PXN, UXN.
const LEAF_BITS: u64 = 7 << 2 | 3 << 6 | ACCESSED | DIRTY_MODIFIER | PXN | UXN;
const TABLE_BITS: u64 = PXN_TABLE | UXN_TABLE | AP_TABLE_NO_EL0 | AP_TABLE_READ_ONLY;

struct Case {
    regs: TranslationRegs,
    address: Gva,
}

/// The guest's memory, cases in it, and one set of tables after another.
struct Cases {
    runner: TestRunner,
    ram: Ram,
    next_table: u64,
    cases: Vec<Case>,
}

impl Cases {
    fn any<T: core::fmt::Debug>(&mut self, strategy: impl Strategy<Value = T>) -> T {
        strategy.new_tree(&mut self.runner).unwrap().current()
    }

    /// Tables of a format with a few leaves, some descriptors spoilt, and addresses around the
    /// leaves.
    fn add_set(&mut self, format: Format, tcr_bits: u64) {
        let half = self.any(any_half());
        let ram = core::mem::take(&mut self.ram);
        let mut tables = Tables::new(&ram, format, half, self.next_table);
        let levels = format.leaf_levels();
        let output_mask = if format.wide {
            u64::MAX >> 12
        } else {
            u64::MAX >> 16
        };
        let mut addresses = Vec::new();
        for _ in 0..ADDRESSES_PER_SET {
            let (input, output, bits) = self.any(any::<(u64, u64, u64)>());
            let level = self.any(prop::sample::select(levels.clone()));
            let small = self.any(prop_oneof![3 => Just(40u32), 1 => Just(64)]);
            let size = format.leaf_size(level);
            let input = input & ((1 << format.input_bits) - 1);
            let output = output & output_mask & (u64::MAX >> (64 - small)) & !(size - 1);
            let va = tables.canonical(input);
            // Most often accessed, or there is nothing else to see.
            let accessed = if bits >> 60 == 0 { 0 } else { ACCESSED };
            let _ = tables.map(va & !(size - 1), output, level, bits & LEAF_BITS | accessed);
            if let Some(entry) = tables.entry(va, level.max(format.start_level() + 1) - 1) {
                let descriptor = ram.read_u64(entry);
                if descriptor & 3 == 3 && level > format.start_level() {
                    ram.write_u64(entry, descriptor | bits.rotate_left(20) & TABLE_BITS);
                }
            }
            addresses.push(va);
            addresses.push(va ^ size & ((1 << format.input_bits) - 1));
        }
        self.spoil(&ram, tables.root, &format);
        let mut regs = tables.regs();
        regs.tcr |= tcr_bits;
        regs.sctlr = self.any(prop::sample::select(alloc::vec![1, 1 | SCTLR_WXN]));
        self.next_table = tables.end().next_multiple_of(0x1_0000);
        self.ram = ram;
        addresses.push(self.any(any::<u64>()));
        addresses.push(addresses[0] ^ 1 << 60);
        for address in addresses.into_iter().map(Gva) {
            // QEMU 7.2 dies of a fault at level −1.
            let walked = translate(&regs, &self.ram, address);
            if walked.is_ok_and(|got| got.accessed) || format.start_level() >= 0 {
                self.cases.push(Case { regs, address });
            }
        }
    }

    /// Overwrites a descriptor of the first table in some sets: with anything that leads into our
    /// tables, to where no memory is, or nowhere.
    fn spoil(&mut self, ram: &Ram, root: u64, format: &Format) {
        if !self.any(prop::bool::weighted(0.2)) {
            return;
        }
        let used = (0..format.granule / 8)
            .map(|index| root + index * 8)
            .find(|entry| ram.read_u64(*entry) != 0);
        let Some(entry) = used else { return };
        let bits = self.any(any::<u64>());
        let target = self.any(prop::sample::select(alloc::vec![
            root,
            FIRST_TABLE,
            0x10_0000_0000,
            1 << 45
        ]));
        // No block: QEMU 7.2 accepts one at any level.
        let kind = if bits & 2 == 0 { 0b10 } else { 0b11 };
        ram.write_u64(entry, bits & (LEAF_BITS | TABLE_BITS) | kind | target);
    }
}

fn cases(formats: &[Format], tcr_bits: &[u32]) -> Cases {
    let mut cases = Cases {
        runner: TestRunner::deterministic(),
        ram: Ram::default(),
        next_table: FIRST_TABLE,
        cases: Vec::new(),
    };
    for _ in 0..SETS {
        let format = cases.any(prop::sample::select(formats.to_vec()));
        let wanted = cases.any(any::<u32>()) & cases.any(any::<u32>());
        let tcr = tcr_bits
            .iter()
            .enumerate()
            .filter(|(index, _)| wanted >> index & 1 == 1)
            .fold(0, |tcr, (_, bit)| tcr | 1 << bit);
        cases.add_set(format, tcr);
    }
    cases
}

fn image(program: &[u8], cases: &Cases) -> Vec<u8> {
    let end = CASES + (cases.cases.len() * RECORD_SIZE) as u64;
    let mut image = program.to_vec();
    assert!(image.len() as u64 <= END_OF_CASES - IMAGE && end <= FIRST_TABLE);
    image.resize((END_OF_CASES - IMAGE) as usize, 0);
    for word in [end, 0] {
        image.extend(word.to_le_bytes());
    }
    for Case { regs, address } in &cases.cases {
        let words = [
            regs.sctlr, regs.tcr, regs.ttbr0, regs.ttbr1, regs.mair, address.0, 0, 0,
        ];
        image.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
    image.resize((FIRST_TABLE - IMAGE) as usize, 0);
    assert!(cases.next_table < END_OF_TABLES);
    image.resize((cases.next_table - IMAGE) as usize, 0);
    cases.ram.copy_to(IMAGE, &mut image);
    image
}

/// `PAR_EL1` for an access that `allowed` tells about (Arm ARM D17.2, "PAR_EL1").
fn par(walked: &Result<Translation, TranslationFault>, allowed: fn(&Permissions) -> bool) -> u64 {
    // Fault status codes of level 0; level −1 has codes of its own.
    let fault = |code: u64, minus_one: u64, level: i8| {
        let status = if level < 0 {
            minus_one
        } else {
            code + level as u64
        };
        1 | status << 1
    };
    match walked {
        Ok(got) if !got.accessed => fault(0b001000, 0, got.level),
        Ok(got) if !allowed(&got.permissions) => fault(0b001100, 0, got.level),
        Ok(got) => u64::from(got.memory_attributes) << 56 | got.gpa.page().0,
        Err(TranslationFault { level, kind, .. }) => match kind {
            FaultKind::AddressSize => fault(0b000000, 0b101001, *level),
            FaultKind::Table(_) => fault(0b010100, 0b010011, *level),
            FaultKind::Unmapped | FaultKind::NonCanonical | FaultKind::WalkDisabled => {
                fault(0b000100, 0b101011, *level)
            }
            FaultKind::Configuration => panic!("the CPU has what the cases use"),
        },
    }
}

/// What of `PAR_EL1` says the same on every CPU: F, FST; or attributes and address.
fn comparable(par: u64) -> u64 {
    if par & 1 == 1 {
        par & 0x7f
    } else {
        par & 0xff0f_ffff_ffff_f001
    }
}

fn agrees_with(cpu: &str, formats: &[Format], tcr_bits: &[u32]) {
    let cases = cases(formats, tcr_bits);
    let program = qemu::assemble("src/translate/tests/oracle.s");
    let machine = ["-M", "virt,virtualization=on", "-cpu", cpu];
    let output = qemu::run(&machine, IMAGE, &image(&program, &cases));
    let records = &output[(CASES - END_OF_CASES) as usize..];
    assert_eq!(records.len(), cases.cases.len() * RECORD_SIZE);
    // All of the machine's memory is there, not only the tables.
    cases.ram.add(FIRST_TABLE, cases.next_table - FIRST_TABLE);
    let mut mapped = 0;
    for (case, record) in cases.cases.iter().zip(records.chunks_exact(RECORD_SIZE)) {
        let word =
            |index: usize| u64::from_le_bytes(record[index * 8..index * 8 + 8].try_into().unwrap());
        let regs = TranslationRegs {
            mmfr0: word(4),
            mmfr2: word(5),
            ..case.regs
        };
        let walked = translate(&regs, &cases.ram, case.address);
        mapped += usize::from(walked.is_ok());
        let accesses: [fn(&Permissions) -> bool; 4] = [
            |permissions| permissions.el1.read,
            |permissions| permissions.el1.write,
            |permissions| permissions.el0.read,
            |permissions| permissions.el0.write,
        ];
        for (index, allowed) in accesses.into_iter().enumerate() {
            let ours = comparable(par(&walked, allowed));
            let theirs = comparable(word(index));
            assert_eq!(
                ours, theirs,
                "access {index}: {ours:#x}, CPU {theirs:#x}, {:?} {regs:#x?} {walked:#x?}",
                case.address
            );
        }
    }
    assert!(mapped > cases.cases.len() / 4, "only {mapped} were mapped");
}

/// Granules and sizes that a Cortex-A72 has: no 16K granule, 48 bits, no small tables.
#[test]
#[ignore = "needs qemu-system-aarch64 and clang"]
fn agrees_with_cortex_a72() {
    let formats: Vec<Format> = all_formats()
        .into_iter()
        .filter(|format| format.granule != 0x4000 && !format.wide)
        .filter(|format| (25..=48).contains(&format.input_bits))
        .collect();
    // TBI0, TBI1, EPD0, EPD1.
    agrees_with("cortex-a72", &formats, &[37, 38, 7, 23]);
}

/// All there is, with HPD0 and HPD1. Not E0PD: its EL0 faults claim level 0, we report permissions.
#[test]
#[ignore = "needs qemu-system-aarch64 and clang"]
fn agrees_with_a_cpu_that_has_52_bits() {
    assert_eq!((MMFR0_MAX & 0xf, MMFR2_MAX >> 28), (6, 1));
    agrees_with("max", &all_formats(), &[37, 38, 7, 23, 41, 42]);
}
