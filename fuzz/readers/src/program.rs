//! Verifier and interpreter, on any instructions.

use crate::input::Input;
use ebpf::insn::Insn;
use ebpf::linked::{Linked, ProgramDef};
use ebpf::map::{MapDef, MapKind, Mutability};
use ebpf::object::{RunError, RunFault};
use ebpf::{Context, Host, Object, Program, ReadFault};
use std::cell::Cell;

/// Instructions that a run may execute: enough for every path, few enough for many runs.
const BUDGET: u64 = 4096;
/// `exit` (RFC 9669 section 4.3).
const EXIT: u8 = 0x95;

/// Loads a program of arbitrary instructions and runs it where it is accepted.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut insns = Vec::new();
    while input.has_more() && insns.len() < 512 {
        insns.push(insn(&mut input));
    }
    insns.push(Insn {
        code: EXIT,
        dst: 0,
        src: 0,
        off: 0,
        imm: 0,
    });
    match Object::load(&linked(insns), 2) {
        Ok(object) => run(&object.programs()[0]),
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
    }
}

/// An object of one program that may use a hash map, an array, a per-CPU array and a read-only
/// value.
pub fn linked(insns: Vec<Insn>) -> Linked {
    Linked {
        name: "fuzz".to_owned(),
        license: "GPL".to_owned(),
        maps: vec![
            map(MapKind::Hash, 4, 8),
            map(MapKind::Array, 3, 16),
            map(MapKind::PerCpuArray, 2, 12),
            MapDef {
                name: ".rodata".to_owned(),
                mutability: Mutability::Frozen,
                initial: (0..16).collect(),
                ..map(MapKind::Array, 1, 16)
            },
        ],
        programs: vec![ProgramDef {
            name: "fuzz".to_owned(),
            section: "kprobe/fuzz".to_owned(),
            insns,
            ..ProgramDef::default()
        }],
        ..Linked::default()
    }
}

/// An instruction: any, or one with fields that the verifier is likely to accept.
fn insn(input: &mut Input<'_>) -> Insn {
    let mut insn = Insn::decode(input.array());
    // Register 11 of the source asks for it: no valid instruction has that.
    if insn.src == 11 {
        insn.dst %= 11;
        insn.src = 0;
        insn.off %= 16;
        insn.imm %= 256;
    }
    insn
}

fn map(kind: MapKind, max_entries: u32, value_size: u32) -> MapDef {
    MapDef {
        name: kind.name().to_owned(),
        kind,
        key_size: 4,
        value_size,
        max_entries,
        mutability: Mutability::Mutable,
        initial: Vec::new(),
    }
}

/// Runs a program that the verifier has accepted: it ends or uses up its budget, and does nothing that the verifier has
/// promised to exclude.
pub fn run(program: &Program) {
    let context: Context = core::array::from_fn(|index| 0x100 + index as u64);
    match run_with(program, &context, BUDGET) {
        Err(RunError {
            fault: RunFault::Budget,
            ..
        })
        | Ok(_) => {}
        Err(error) => panic!("{} was accepted: {error}", program.name()),
    }
}

/// Runs a program on the fuzzed guest.
pub fn run_with(program: &Program, context: &Context, budget: u64) -> Result<u64, RunError> {
    program.run_within(budget, context, &FuzzHost::default())
}

/// Guest memory that is mapped in the lower half only.
#[derive(Default)]
struct FuzzHost {
    now: Cell<u64>,
}

impl Host for FuzzHost {
    fn ktime_ns(&self) -> u64 {
        self.now.set(self.now.get() + 1);
        self.now.get()
    }

    fn cpu(&self) -> usize {
        1
    }

    fn read_guest(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadFault> {
        if address >> 63 == 1 {
            return Err(ReadFault);
        }
        buffer.fill(address as u8);
        Ok(())
    }

    fn print(&self, text: &[u8]) {
        assert!(text.len() <= ebpf::helper::MAX_PRINT);
    }
}
