//! The programs that are always there, as eBPF like any other.

use crate::asm::reg::{FP, R0, R1, R2, R3, R4, R6, R7};
use crate::asm::{self, atomic_add, call, exit, mov, mov_imm, store};
use crate::helper::Helper;
use crate::insn::{Insn, alu};
use crate::linked::{Linked, ProgramDef};
use crate::map::{MapDef, MapKind, Mutability};
use crate::object::{LoadError, Object};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// Names of the built-in objects. Each has one program of the same name.
///
/// * `stop`: returns 1, which stops the VM.
/// * `count`: counts its runs in the only entry of the array `count`.
/// * `args`: stores x0 to x3 into the array `args` and prints them.
/// * `ret`: at the return of a function, prints x0 and how long the call took.
/// * `printk`: prints `hit`.
pub const NAMES: &[&str] = &["stop", "count", "args", "ret", "printk"];

/// Loads the built-in object `name` for a machine with `cpus` physical CPUs.
pub fn load(name: &str, cpus: usize) -> Result<Object, LoadError> {
    Object::load(&linked(name).ok_or(LoadError::NoSuchBuiltin)?, cpus)
}

/// The built-in object `name` before it is loaded.
pub fn linked(name: &str) -> Option<Linked> {
    let (insns, maps) = match name {
        "stop" => (stop(), vec![]),
        "count" => (count(), vec![counters("count", 1)]),
        "args" => (args(), vec![counters("args", 4), text(ARGS_FORMAT)]),
        "ret" => (ret(), vec![text(RET_FORMAT)]),
        "printk" => (printk(), vec![text(PRINTK_FORMAT)]),
        _ => return None,
    };
    let program = ProgramDef {
        name: name.into(),
        section: String::new(),
        insns,
        ..ProgramDef::default()
    };
    Some(Linked {
        name: name.into(),
        license: "GPL".into(),
        maps,
        programs: vec![program],
        ..Linked::default()
    })
}

const ARGS_FORMAT: &[u8] = b"x0=%#llx x1=%#llx x2=%#llx x3=%#llx\0";
const RET_FORMAT: &[u8] = b"x0=%#llx after %llu ns\0";
const PRINTK_FORMAT: &[u8] = b"hit\0";

/// An array of `entries` 64-bit numbers.
fn counters(name: &str, entries: u32) -> MapDef {
    MapDef {
        name: name.into(),
        kind: MapKind::Array,
        key_size: 4,
        value_size: 8,
        max_entries: entries,
        mutability: Mutability::Mutable,
        initial: Vec::new(),
    }
}

/// A `.rodata` that holds one string.
fn text(bytes: &[u8]) -> MapDef {
    MapDef {
        name: ".rodata".into(),
        kind: MapKind::Array,
        key_size: 4,
        value_size: bytes.len() as u32,
        max_entries: 1,
        mutability: Mutability::Frozen,
        initial: bytes.into(),
    }
}

fn stop() -> Vec<Insn> {
    vec![mov_imm(R0, 1), exit()]
}

fn count() -> Vec<Insn> {
    let mut program = Vec::from(asm::map_value(R1, 0, 0));
    program.extend([
        mov_imm(R2, 1),
        atomic_add(R1, 0, R2),
        mov_imm(R0, 0),
        exit(),
    ]);
    program
}

fn printk() -> Vec<Insn> {
    let mut program = Vec::from(asm::map_value(R1, 0, 0));
    program.extend([
        mov_imm(R2, PRINTK_FORMAT.len() as i32),
        call(Helper::TracePrintk),
        mov_imm(R0, 0),
        exit(),
    ]);
    program
}

/// Below the frame pointer: the four values at -32, a key at -40.
fn args() -> Vec<Insn> {
    const VALUES: i16 = -32;
    const KEY: i16 = -40;
    let mut program = vec![mov(R6, R1)];
    for number in 0..4_i16 {
        program.extend([
            asm::load(R7, R6, 8 * number),
            store(FP, VALUES + 8 * number, R7),
        ]);
        program.push(asm::store_imm32(FP, KEY, number.into()));
        program.extend(asm::map(R1, 0));
        program.extend([mov(R2, FP), asm::alu_imm(alu::ADD, R2, KEY.into())]);
        program.extend([
            mov(R3, FP),
            asm::alu_imm(alu::ADD, R3, (VALUES + 8 * number).into()),
        ]);
        program.extend([mov_imm(R4, 0), call(Helper::MapUpdateElem)]);
    }
    program.extend(asm::map_value(R1, 1, 0));
    program.extend([
        mov_imm(R2, ARGS_FORMAT.len() as i32),
        mov(R3, FP),
        asm::alu_imm(alu::ADD, R3, VALUES.into()),
        mov_imm(R4, 32),
        call(Helper::TraceVprintk),
        mov_imm(R0, 0),
        exit(),
    ]);
    program
}

fn ret() -> Vec<Insn> {
    let mut program = vec![
        asm::load(R6, R1, 0),
        call(Helper::DurationNs),
        mov(R4, R0),
        mov(R3, R6),
    ];
    program.extend(asm::map_value(R1, 0, 0));
    program.extend([
        mov_imm(R2, RET_FORMAT.len() as i32),
        call(Helper::TracePrintk),
        mov_imm(R0, 0),
        exit(),
    ]);
    program
}

#[cfg(test)]
mod tests;
