//! Verification of a program before it is run.
//!
//! This is the structural part: the instructions are ones that there are, registers, jumps, calls,
//! helpers and map references exist, control never leaves a function but by call and exit, and
//! calls nest no deeper than the stack. What a register holds, and therefore whether a memory
//! access is in bounds or a pointer may be null, is not followed here: the interpreter checks every
//! access while the program runs. An abstract interpretation belongs after
//! `Function::check_jumps`, on the functions that `split` finds.

use crate::decode::is_atomic_operation;
use crate::helper::Helper;
use crate::insn::{
    BAD_RELO, CALL, EXIT, FP, Insn, LD_IMM64, PSEUDO_CALL, PSEUDO_MAP, PSEUDO_MAP_VALUE, Text, X,
    alu, class, jmp, mode,
};
use crate::linked::{MAX_INSNS, ProgramDef};
use crate::map::{MapDef, MapKind};
use crate::stack::MAX_FRAMES;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

/// Why a program is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// There are no instructions.
    Empty,
    /// There are more than [`MAX_INSNS`].
    TooLong,
    /// The opcode means nothing.
    Opcode,
    /// A field that the instruction does not use is not 0.
    Reserved,
    /// A register above r10.
    Register(u8),
    /// r10 is written.
    WritesFramePointer,
    /// Division by the constant 0.
    DivisionByZero,
    /// A shift by as many bits as there are, or more.
    Shift,
    /// A byte swap of neither 16, 32 nor 64 bits.
    SwapSize,
    /// An atomic operation that there is not, or on 1 or 2 bytes.
    Atomic,
    /// The second slot of a 64-bit immediate is missing or malformed.
    SecondSlot,
    /// A kind of 64-bit immediate that there is not.
    Immediate(u8),
    /// There is no map of that number.
    Map(i32),
    /// The map is no array, or the offset lies outside its first value.
    MapValue,
    /// There is no helper of that number.
    Helper(i32),
    /// A call of a kernel function: there is no kernel of ours.
    KernelFunction,
    /// The jump leaves the function or goes into the middle of a 64-bit immediate.
    JumpTarget,
    /// The called function is outside the program or begins in the middle of a 64-bit immediate.
    CallTarget,
    /// Control runs past the end of the function.
    FallsThrough,
    /// The function calls itself, directly or through others.
    Recursion,
    /// Calls nest deeper than a stack may have frames.
    CallDepth,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the program has no instructions"),
            Self::TooLong => write!(f, "the program has more than {MAX_INSNS} instructions"),
            Self::Opcode => f.write_str("there is no such instruction"),
            Self::Reserved => f.write_str("a field that this instruction does not use is not zero"),
            Self::Register(number) => write!(f, "there is no register r{number}"),
            Self::WritesFramePointer => f.write_str("r10, the frame pointer, is read-only"),
            Self::DivisionByZero => f.write_str("this divides by zero"),
            Self::Shift => f.write_str("this shifts by as many bits as there are, or more"),
            Self::SwapSize => f.write_str("bytes are swapped in 16, 32 or 64 bits"),
            Self::Atomic => f.write_str("there is no such atomic operation"),
            Self::SecondSlot => f.write_str("the second half of the 64-bit immediate is not there"),
            Self::Immediate(kind) => {
                write!(f, "a 64-bit immediate of kind {kind} is not supported")
            }
            Self::Map(index) => write!(f, "the object has no map number {index}"),
            Self::MapValue => f.write_str("this is no address inside the first value of an array"),
            Self::Helper(BAD_RELO) => f.write_str(
                "the guest's kernel does not have the field, type or value that the program wants \
                 here: ask for it first, as with bpf_core_field_exists()",
            ),
            Self::Helper(number) => {
                write!(f, "helper {number} is not one of ours:")?;
                Helper::ALL
                    .iter()
                    .try_for_each(|helper| write!(f, " {}", helper.name()))
            }
            Self::KernelFunction => f.write_str("kernel functions (kfuncs) cannot be called"),
            Self::JumpTarget => {
                f.write_str("the jump leaves the function or hits half an instruction")
            }
            Self::CallTarget => f.write_str("the called function is not in the program"),
            Self::FallsThrough => f.write_str("control runs past the end of the function"),
            Self::Recursion => f.write_str("the function calls itself"),
            Self::CallDepth => write!(f, "calls nest deeper than {MAX_FRAMES} functions"),
        }
    }
}

/// A refused program: where and why. `Display` is what a user reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifyError {
    /// The section of the program, or its name where it has none.
    pub program: String,
    /// The number of the instruction.
    pub insn: usize,
    /// That instruction as text.
    pub text: String,
    /// What is wrong with it.
    pub reason: Reason,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            program,
            insn,
            text,
            reason,
        } = self;
        write!(f, "{program}, instruction {insn}\n  {text}\n  {reason}")
    }
}

impl core::error::Error for VerifyError {}

/// A reason and the instruction that it is about.
type Refusal = (usize, Reason);

/// Verifies a program that may refer to `maps`.
pub fn verify(program: &ProgramDef, maps: &[MapDef]) -> Result<(), VerifyError> {
    check(&program.insns, maps).map_err(|(insn, reason)| VerifyError {
        program: program.label().into(),
        insn,
        text: Text::new(&program.insns, insn).to_string(),
        reason,
    })
}

fn check(insns: &[Insn], maps: &[MapDef]) -> Result<(), Refusal> {
    if insns.is_empty() {
        return Err((0, Reason::Empty));
    }
    if insns.len() > MAX_INSNS {
        return Err((MAX_INSNS, Reason::TooLong));
    }
    let starts = check_each(insns, maps)?;
    let functions = split(insns, &starts)?;
    for function in &functions {
        function.check_jumps(insns, &starts)?;
    }
    check_depth(&functions)
}

/// Checks every instruction by itself and returns which indices begin one.
fn check_each(insns: &[Insn], maps: &[MapDef]) -> Result<Vec<bool>, Refusal> {
    let mut starts = vec![false; insns.len()];
    let mut index = 0;
    while let Some(&insn) = insns.get(index) {
        starts[index] = true;
        let next = insns.get(index + 1).copied();
        check_one(insn, next, maps).map_err(|reason| (index, reason))?;
        index += if insn.is_wide() { 2 } else { 1 };
    }
    Ok(starts)
}

fn check_one(insn: Insn, next: Option<Insn>, maps: &[MapDef]) -> Result<(), Reason> {
    if insn.dst > FP {
        return Err(Reason::Register(insn.dst));
    }
    if insn.src > FP {
        return Err(Reason::Register(insn.src));
    }
    match insn.class() {
        class::LD => check_wide(insn, next, maps),
        class::LDX => check_load(insn),
        class::ST | class::STX => check_store(insn),
        class::ALU | class::ALU64 => check_alu(insn),
        _ => check_jump(insn),
    }
}

fn reserved(fields_are_zero: bool) -> Result<(), Reason> {
    if fields_are_zero {
        Ok(())
    } else {
        Err(Reason::Reserved)
    }
}

fn check_writable(register: u8) -> Result<(), Reason> {
    if register == FP {
        Err(Reason::WritesFramePointer)
    } else {
        Ok(())
    }
}

fn check_wide(insn: Insn, next: Option<Insn>, maps: &[MapDef]) -> Result<(), Reason> {
    if insn.code != LD_IMM64 {
        return Err(Reason::Opcode);
    }
    check_writable(insn.dst)?;
    reserved(insn.off == 0)?;
    let high = match next {
        Some(Insn {
            code: 0,
            dst: 0,
            src: 0,
            off: 0,
            imm,
        }) => imm,
        _ => return Err(Reason::SecondSlot),
    };
    let map = usize::try_from(insn.imm)
        .ok()
        .and_then(|index| maps.get(index));
    match insn.src {
        0 => Ok(()),
        PSEUDO_MAP => {
            map.ok_or(Reason::Map(insn.imm))?;
            reserved(high == 0)
        }
        PSEUDO_MAP_VALUE => {
            let map = map.ok_or(Reason::Map(insn.imm))?;
            let inside = u32::try_from(high).is_ok_and(|offset| offset < map.value_size);
            if map.kind == MapKind::Array && inside {
                Ok(())
            } else {
                Err(Reason::MapValue)
            }
        }
        kind => Err(Reason::Immediate(kind)),
    }
}

fn check_load(insn: Insn) -> Result<(), Reason> {
    let sign_extends_nothing = insn.mode() == mode::MEMSX && insn.access_size() == 8;
    if !matches!(insn.mode(), mode::MEM | mode::MEMSX) || sign_extends_nothing {
        return Err(Reason::Opcode);
    }
    check_writable(insn.dst)?;
    reserved(insn.imm == 0)
}

fn check_store(insn: Insn) -> Result<(), Reason> {
    match (insn.class(), insn.mode()) {
        (class::ST, mode::MEM) => reserved(insn.src == 0),
        (class::STX, mode::MEM) => reserved(insn.imm == 0),
        (class::STX, mode::ATOMIC) => check_atomic(insn),
        _ => Err(Reason::Opcode),
    }
}

fn check_atomic(insn: Insn) -> Result<(), Reason> {
    if insn.access_size() < 4 || !is_atomic_operation(insn.imm) {
        return Err(Reason::Atomic);
    }
    let source_receives =
        insn.imm & crate::insn::atomic::FETCH != 0 && insn.imm != crate::insn::atomic::CMPXCHG;
    if source_receives {
        check_writable(insn.src)
    } else {
        Ok(())
    }
}

fn check_alu(insn: Insn) -> Result<(), Reason> {
    check_writable(insn.dst)?;
    let bits = if insn.class() == class::ALU64 { 64 } else { 32 };
    let off_is_valid = match insn.operation() {
        alu::DIV | alu::MOD => matches!(insn.off, 0 | 1),
        alu::MOV if insn.uses_src() => {
            matches!(insn.off, 0 | 8 | 16) || insn.off == 32 && bits == 64
        }
        _ => insn.off == 0,
    };
    reserved(off_is_valid)?;
    match insn.operation() {
        0xe0 | 0xf0 => return Err(Reason::Opcode),
        alu::END => return check_swap(insn),
        alu::NEG if insn.uses_src() => return Err(Reason::Opcode),
        alu::NEG => return reserved(insn.src == 0 && insn.imm == 0),
        _ => {}
    }
    if insn.uses_src() {
        return reserved(insn.imm == 0);
    }
    reserved(insn.src == 0)?;
    match insn.operation() {
        alu::DIV | alu::MOD if insn.imm == 0 => Err(Reason::DivisionByZero),
        alu::LSH | alu::RSH | alu::ARSH if !(0..bits).contains(&insn.imm) => Err(Reason::Shift),
        _ => Ok(()),
    }
}

fn check_swap(insn: Insn) -> Result<(), Reason> {
    // In class ALU64 there is one unconditional swap; its source bit is reserved.
    if insn.class() == class::ALU64 && insn.uses_src() {
        return Err(Reason::Opcode);
    }
    reserved(insn.src == 0)?;
    if matches!(insn.imm, 16 | 32 | 64) {
        Ok(())
    } else {
        Err(Reason::SwapSize)
    }
}

fn check_jump(insn: Insn) -> Result<(), Reason> {
    const GOTO: u8 = class::JMP | jmp::JA;
    const GOTO_LONG: u8 = class::JMP32 | jmp::JA;
    match insn.code {
        GOTO => reserved(insn.dst == 0 && insn.src == 0 && insn.imm == 0),
        GOTO_LONG => reserved(insn.dst == 0 && insn.src == 0 && insn.off == 0),
        EXIT => reserved(insn.dst == 0 && insn.src == 0 && insn.off == 0 && insn.imm == 0),
        CALL => check_call(insn),
        _ => check_conditional(insn),
    }
}

fn check_call(insn: Insn) -> Result<(), Reason> {
    reserved(insn.dst == 0 && insn.off == 0)?;
    match insn.src {
        0 if Helper::from_number(insn.imm).is_none() => Err(Reason::Helper(insn.imm)),
        0 | PSEUDO_CALL => Ok(()),
        _ => Err(Reason::KernelFunction),
    }
}

fn check_conditional(insn: Insn) -> Result<(), Reason> {
    let is_condition = !matches!(
        insn.operation(),
        jmp::JA | jmp::CALL | jmp::EXIT | 0xe0 | 0xf0
    );
    if !is_condition {
        return Err(Reason::Opcode);
    }
    reserved(if insn.uses_src() {
        insn.imm == 0
    } else {
        insn.src == 0
    })
}

/// The instruction that is `distance` behind the one after `index`.
fn target(index: usize, distance: i32) -> Option<usize> {
    let target = i64::try_from(index).ok()? + 1 + i64::from(distance);
    usize::try_from(target).ok()
}

/// Where a call of a subprogram goes, if `insn` is one.
fn callee(insn: Insn, index: usize) -> Option<Option<usize>> {
    let is_call = insn.code == CALL && insn.src == PSEUDO_CALL;
    is_call.then(|| target(index, insn.imm))
}

/// A program's main function or one of its subprograms.
struct Function {
    range: Range<usize>,
    /// The functions that it calls, by number, and where.
    calls: Vec<(usize, usize)>,
}

/// Splits a program at the targets of its calls. `starts` tells where instructions begin.
fn split(insns: &[Insn], starts: &[bool]) -> Result<Vec<Function>, Refusal> {
    let mut entries = vec![0];
    let mut calls = Vec::new();
    for (index, &insn) in insns.iter().enumerate().filter(|&(index, _)| starts[index]) {
        let Some(entry) = callee(insn, index) else {
            continue;
        };
        let entry = entry
            .filter(|&entry| starts.get(entry) == Some(&true))
            .ok_or((index, Reason::CallTarget))?;
        entries.push(entry);
        calls.push((index, entry));
    }
    entries.sort_unstable();
    entries.dedup();
    // Every entry is in the list, so the first that is not below is the one itself, and
    // `function_of` finds some.
    let number_of = |entry: usize| entries.partition_point(|&other| other < entry);
    let function_of = |index: usize| entries.partition_point(|&other| other <= index) - 1;
    let ends = entries.iter().skip(1).copied().chain([insns.len()]);
    let mut functions: Vec<_> = entries
        .iter()
        .zip(ends)
        .map(|(&start, end)| Function {
            range: start..end,
            calls: Vec::new(),
        })
        .collect();
    for (index, entry) in calls {
        functions[function_of(index)]
            .calls
            .push((number_of(entry), index));
    }
    Ok(functions)
}

impl Function {
    /// Control stays in the function: every jump lands on an instruction of it, and its last one
    /// does not fall through.
    fn check_jumps(&self, insns: &[Insn], starts: &[bool]) -> Result<(), Refusal> {
        let mut last = self.range.start;
        for index in self.range.clone().filter(|&index| starts[index]) {
            last = index;
            let Some(distance) = jump_distance(insns[index]) else {
                continue;
            };
            let lands = target(index, distance)
                .is_some_and(|target| self.range.contains(&target) && starts[target]);
            if !lands {
                return Err((index, Reason::JumpTarget));
            }
        }
        let ends_there = insns[last].code == EXIT || is_goto(insns[last]);
        if ends_there {
            Ok(())
        } else {
            Err((last, Reason::FallsThrough))
        }
    }
}

fn is_goto(insn: Insn) -> bool {
    matches!(insn.class(), class::JMP | class::JMP32) && insn.code & !0x07 & !X == jmp::JA
}

fn jump_distance(insn: Insn) -> Option<i32> {
    match (insn.class(), insn.operation()) {
        (class::JMP32, jmp::JA) => Some(insn.imm),
        (_, jmp::CALL | jmp::EXIT) => None,
        (class::JMP | class::JMP32, _) => Some(insn.off.into()),
        _ => None,
    }
}

/// How far the search for the deepest chain of calls has come with a function.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Unknown,
    /// It is being searched: who meets it again has found a cycle.
    Searching,
    /// Frames that it and what it calls need.
    Frames(usize),
}

/// No recursion, and no chain of calls longer than the stack has frames.
fn check_depth(functions: &[Function]) -> Result<(), Refusal> {
    let mut depths = vec![Depth::Unknown; functions.len()];
    // Functions that are being searched, outermost first, each with its next call to look at. A
    // function is put here at most once, so the list is bounded, and there is no recursion of ours
    // either.
    let mut path = vec![(0, 0)];
    depths[0] = Depth::Searching;
    while let Some((function, next)) = path.pop() {
        let calls = &functions[function].calls;
        let Some(&(callee, index)) = calls.get(next) else {
            let below = calls.iter().map(|&(callee, _)| match depths[callee] {
                Depth::Frames(frames) => frames,
                Depth::Unknown | Depth::Searching => 0,
            });
            let frames = 1 + below.max().unwrap_or(0);
            if frames > MAX_FRAMES {
                let index = calls
                    .first()
                    .map_or(functions[function].range.start, |call| call.1);
                return Err((index, Reason::CallDepth));
            }
            depths[function] = Depth::Frames(frames);
            continue;
        };
        path.push((function, next + 1));
        match depths[callee] {
            Depth::Searching => return Err((index, Reason::Recursion)),
            Depth::Frames(_) => {}
            Depth::Unknown => {
                depths[callee] = Depth::Searching;
                path.push((callee, 0));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
