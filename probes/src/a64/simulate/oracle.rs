//! The simulation against a CPU: random instructions on random registers, done by [`simulate`] and
//! by QEMU, one hardware single-step each. `oracle.s` is the program that QEMU runs.

use super::tests::{any_flags, any_instruction};
use super::*;
use crate::addr::Gva;
use crate::machine::GuestFault;
use crate::qemu;
use alloc::vec::Vec;
use core::cell::RefCell;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

/// Where QEMU loads the image, the memory of the cases in it, and the cases themselves.
const IMAGE: u64 = 0x4100_0000;
const ARENA: u64 = IMAGE + 0x1_0000;
const ARENA_SIZE: usize = 0x1_0000;
const END_OF_CASES: u64 = IMAGE + 0x2_0000;
const CASES: u64 = END_OF_CASES + 16;
const RECORD_WORDS: usize = 36;
const RECORD_SIZE: usize = RECORD_WORDS * 8;

const COUNT: usize = 6000;
/// ESR of a software step from the same exception level, without its ISS.
const SOFTWARE_STEP: u64 = 0x33 << 26;
const ESR_CLASS: u64 = 0x3f << 26;

/// The arena, as the model has it.
struct Arena(RefCell<Vec<u8>>);

impl Arena {
    fn range(gva: Gva, length: usize) -> Result<core::ops::Range<usize>, GuestFault> {
        let fault = GuestFault { address: gva };
        let start = gva.0.checked_sub(ARENA).ok_or(fault)?;
        let start = usize::try_from(start).map_err(|_| fault)?;
        let end = start.checked_add(length).ok_or(fault)?;
        if end > ARENA_SIZE {
            Err(fault)
        } else {
            Ok(start..end)
        }
    }
}

impl LiveMemory for Arena {
    fn task(&self) -> u64 {
        0
    }

    fn read(&self, gva: Gva, buffer: &mut [u8]) -> Result<(), GuestFault> {
        buffer.copy_from_slice(&self.0.borrow()[Self::range(gva, buffer.len())?]);
        Ok(())
    }

    fn write(&self, gva: Gva, bytes: &[u8]) -> Result<(), GuestFault> {
        self.0.borrow_mut()[Self::range(gva, bytes.len())?].copy_from_slice(bytes);
        Ok(())
    }
}

struct Case {
    instruction: u32,
    before: CoreRegs,
    after: CoreRegs,
}

/// Registers of which most point into the arena, and a PC in it.
fn arena_regs() -> impl Strategy<Value = CoreRegs> {
    let value = prop_oneof![
        4 => (0..ARENA_SIZE as u64 / 8).prop_map(|slot| ARENA + slot * 8),
        1 => any::<u64>(),
        1 => prop::sample::select(alloc::vec![0, 1, u64::MAX, 1 << 63, i32::MIN as u64]),
    ];
    let pc = (0..ARENA_SIZE as u64 / 4).prop_map(|slot| ARENA + slot * 4);
    (prop::array::uniform32(value), pc, any_flags()).prop_map(|(values, pc, flags)| {
        let masks = pstate::A | pstate::I | pstate::F;
        let mut regs = CoreRegs {
            sp: values[31] & !15,
            pc,
            pstate: pstate::EL1T | masks | pstate::SS | flags,
            ..CoreRegs::default()
        };
        regs.x.copy_from_slice(&values[..31]);
        regs
    })
}

/// Cases that are simulated, and the arena after them. Each starts on the arena as the one before
/// left it.
fn simulated_cases(features: &SimulationFeatures) -> (Vec<Case>, Vec<u8>) {
    let mut runner = TestRunner::deterministic();
    let strategy = (any_instruction(), arena_regs());
    let arena = Arena(RefCell::new(alloc::vec![0; ARENA_SIZE]));
    let mut cases = Vec::new();
    while cases.len() < COUNT {
        let (instruction, before) = strategy.new_tree(&mut runner).unwrap().current();
        let kept = arena.0.borrow().clone();
        arena
            .write(Gva(before.pc), &instruction.to_le_bytes())
            .unwrap();
        let mut after = before;
        if simulate(instruction, &mut after, &arena, features) == Simulated::Done {
            cases.push(Case {
                instruction,
                before,
                after,
            });
        } else {
            arena.0.replace(kept);
        }
    }
    (cases, arena.0.into_inner())
}

/// The image that QEMU loads: program, arena of zeroes, cases.
fn image(program: &[u8], cases: &[Case]) -> Vec<u8> {
    let end = CASES + (cases.len() * RECORD_SIZE) as u64;
    let mut image = program.to_vec();
    assert!(image.len() as u64 <= ARENA - IMAGE);
    image.resize((END_OF_CASES - IMAGE) as usize, 0);
    image.extend(end.to_le_bytes());
    image.resize((CASES - IMAGE) as usize, 0);
    for Case {
        instruction,
        before,
        ..
    } in cases
    {
        let head = [before.pc, u64::from(*instruction), before.pstate, before.sp];
        let padding = [0; RECORD_WORDS - 4 - 31];
        for word in head.iter().chain(&before.x).chain(&padding) {
            image.extend(word.to_le_bytes());
        }
    }
    image
}

/// The registers and the ESR in a record that came back.
fn parse(record: &[u8]) -> (CoreRegs, u64) {
    let words: Vec<u64> = record
        .chunks_exact(8)
        .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    let mut regs = CoreRegs {
        pc: words[0],
        pstate: words[2],
        sp: words[3],
        ..CoreRegs::default()
    };
    regs.x.copy_from_slice(&words[4..35]);
    (regs, words[1])
}

fn agrees_with(cpu: &str, features: &SimulationFeatures) {
    let (cases, arena) = simulated_cases(features);
    let program = qemu::assemble("src/a64/simulate/oracle.s");
    let output = qemu::run(&["-cpu", cpu], IMAGE, &image(&program, &cases));
    let records = &output[(CASES - ARENA) as usize..];
    assert_eq!(records.len(), cases.len() * RECORD_SIZE);
    for (case, record) in cases.iter().zip(records.chunks_exact(RECORD_SIZE)) {
        let (cpu, esr) = parse(record);
        let Case {
            instruction,
            before,
            after,
        } = case;
        assert_eq!(
            esr & ESR_CLASS,
            SOFTWARE_STEP,
            "{instruction:#010x} on {before:#x?}"
        );
        assert_eq!(after, &cpu, "{instruction:#010x} on {before:#x?}");
    }
    assert!(output[..ARENA_SIZE] == arena[..], "memory differs");
}

#[test]
#[ignore = "needs qemu-system-aarch64 and clang"]
fn agrees_with_cortex_a72() {
    let features = SimulationFeatures {
        bti: false,
        pauth: false,
        data: DataAccess::Simulated,
        branch_target: BranchTargetCheck::Passed,
    };
    agrees_with("cortex-a72", &features);
}

#[test]
#[ignore = "needs qemu-system-aarch64 and clang"]
fn agrees_with_a_cpu_that_has_bti_and_pauth() {
    let features = SimulationFeatures {
        bti: true,
        pauth: true,
        data: DataAccess::Simulated,
        branch_target: BranchTargetCheck::Passed,
    };
    agrees_with("max", &features);
}
