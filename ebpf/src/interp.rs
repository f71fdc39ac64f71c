//! The interpreter.
//!
//! A program is decoded once, when it is loaded, into `Step`s: an operation, its registers, its
//! jump target as an index. A run is one loop over them: no allocation, no recursion, a budget that
//! bounds it whatever the program does. The immediate of a step is put into a register of its own
//! (`IMMEDIATE`) before the step executes, so every operation has the one form `dst op src`.
//!
//! A run needs up to 8 KiB of the stack of the CPU: [`MAX_FRAMES`] frames of 512 bytes, and the
//! lines that a program prints. Programs without subprograms have one frame.

use crate::address;
use crate::helper::{self, Helper};
use crate::host::{Context, Host};
use crate::insn::{Insn, PSEUDO_CALL, PSEUDO_MAP, PSEUDO_MAP_VALUE, alu, atomic, class, jmp, mode};
use crate::map::{AtomicOp, Map};
use crate::memory::{Atomic, FRAME_SIZE, Frame, Memory};
use crate::object::{Access, RunError, RunFault};
use crate::width::Width;
use alloc::boxed::Box;

/// How deep subprograms nest at most, the program itself included (Linux: `MAX_CALL_FRAMES`).
pub const MAX_FRAMES: usize = 8;

/// How many instructions a run executes at most unless the caller says otherwise. Helpers that copy
/// or print count for as many instructions as their work takes.
pub const DEFAULT_BUDGET: u64 = 1_000_000;

/// The register that holds the step's immediate.
const IMMEDIATE: u8 = 11;
/// Registers 0 to 10, the immediate, and as many more as make the number a power of two.
const REGISTERS: usize = 16;

#[derive(Clone, Copy, Debug)]
enum Alu {
    Add,
    Sub,
    Mul,
    Div,
    SignedDiv,
    Mod,
    SignedMod,
    Or,
    And,
    Xor,
    Lsh,
    Rsh,
    Arsh,
    Neg,
    Mov,
    MovSigned(Width),
}

#[derive(Clone, Copy, Debug)]
enum Condition {
    Eq,
    Ne,
    Set,
    Gt,
    Ge,
    Lt,
    Le,
    SignedGt,
    SignedGe,
    SignedLt,
    SignedLe,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Alu64(Alu),
    Alu32(Alu),
    /// Swaps the bytes of the low part and clears the rest.
    Swap(Width),
    /// Clears all but the low part: a conversion to little-endian, on a little-endian machine.
    Truncate(Width),
    /// A 64-bit immediate; two slots.
    Wide,
    Load(Width),
    LoadSigned(Width),
    Store(Width),
    /// The immediate says which operation.
    Atomic(Width),
    Jump,
    JumpIf64(Condition),
    JumpIf32(Condition),
    Call,
    Helper(Helper),
    Exit,
    /// The second slot of a 64-bit immediate, and whatever the verifier refuses: never executed.
    Invalid,
}

/// A decoded instruction.
#[derive(Clone, Copy, Debug)]
struct Step {
    op: Op,
    dst: u8,
    src: u8,
    /// The byte offset of a memory access, or the step that a jump or call goes to.
    argument: i32,
    immediate: u64,
}

/// A verified program, decoded.
#[derive(Debug)]
pub(crate) struct Code {
    steps: Box<[Step]>,
    stack: StackUse,
}

/// How much stack a program may use. Clearing it is most of what a short program costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum StackUse {
    /// None: no instruction names the frame pointer.
    None,
    /// One frame.
    Frame,
    /// A frame for each nested subprogram.
    Frames,
}

impl StackUse {
    fn of(steps: &[Step]) -> Self {
        const FRAME_POINTER: u8 = 10;
        let names_frame = |step: &Step| step.src == FRAME_POINTER || step.dst == FRAME_POINTER;
        if steps.iter().any(|step| matches!(step.op, Op::Call)) {
            Self::Frames
        } else if steps.iter().any(names_frame) {
            Self::Frame
        } else {
            Self::None
        }
    }
}

impl Code {
    /// Decodes a program that the verifier has accepted.
    pub(crate) fn decode(insns: &[Insn]) -> Self {
        let steps: Box<[Step]> = (0..insns.len()).map(|index| decode(insns, index)).collect();
        let stack = StackUse::of(&steps);
        Self { steps, stack }
    }

    /// How many instructions it has.
    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    /// Runs the program on the CPU that calls, `cpu`.
    pub(crate) fn run(
        &self,
        maps: &[Map],
        context: &Context,
        host: &dyn Host,
        cpu: usize,
        budget: u64,
    ) -> Result<u64, RunError> {
        let run = Run {
            maps,
            context,
            host,
            cpu,
            budget,
        };
        match self.stack {
            StackUse::None => self.run_on(&mut [], &mut [], &run),
            StackUse::Frame => self.run_on(&mut [[0; FRAME_SIZE]], &mut [], &run),
            StackUse::Frames => self.run_nested(&run),
        }
    }

    /// Apart from [`Code::run`], whose own stack frame stays small.
    #[inline(never)]
    fn run_nested(&self, run: &Run<'_>) -> Result<u64, RunError> {
        let mut stack = [[0; FRAME_SIZE]; MAX_FRAMES];
        self.run_on(&mut stack, &mut [Caller::default(); MAX_FRAMES], run)
    }

    fn run_on(
        &self,
        stack: &mut [Frame],
        callers: &mut [Caller],
        run: &Run<'_>,
    ) -> Result<u64, RunError> {
        let Run {
            maps,
            context,
            host,
            cpu,
            budget,
        } = *run;
        let mut vm = Vm {
            registers: [0; REGISTERS],
            memory: Memory {
                context,
                stack,
                maps,
            },
            host,
            cpu,
            budget,
            pc: 0,
            depth: 0,
            callers,
        };
        vm.registers[1] = address::context();
        vm.registers[10] = address::stack(0, FRAME_SIZE);
        // The step that failed is the one before the next.
        vm.run(&self.steps).map_err(|fault| RunError {
            insn: vm.pc.saturating_sub(1) as u32,
            fault,
        })
    }
}

/// What a run works with.
struct Run<'a> {
    maps: &'a [Map],
    context: &'a Context,
    host: &'a dyn Host,
    cpu: usize,
    budget: u64,
}

fn decode(insns: &[Insn], index: usize) -> Step {
    let insn = insns[index];
    let is_second_slot = index
        .checked_sub(1)
        .is_some_and(|before| insns[before].is_wide());
    let op = if is_second_slot {
        Op::Invalid
    } else {
        decode_op(insn)
    };
    let relative = |distance: i32| (index as i32).saturating_add(1).saturating_add(distance);
    let argument = match op {
        Op::Call => relative(insn.imm),
        Op::Jump if insn.class() == class::JMP32 => relative(insn.imm),
        Op::Jump | Op::JumpIf64(_) | Op::JumpIf32(_) => relative(insn.off.into()),
        _ => insn.off.into(),
    };
    let immediate = match op {
        Op::Wide => decode_wide(insn, insns.get(index + 1).map_or(0, |next| next.imm)),
        _ => i64::from(insn.imm) as u64,
    };
    let is_arithmetic_or_jump = !matches!(insn.class(), class::LDX | class::STX | class::ST);
    let immediate_form = is_arithmetic_or_jump && !insn.uses_src() || insn.class() == class::ST;
    let src = if immediate_form { IMMEDIATE } else { insn.src };
    Step {
        op,
        dst: insn.dst,
        src,
        argument,
        immediate,
    }
}

fn decode_wide(insn: Insn, high: i32) -> u64 {
    let map = insn.imm as usize;
    match insn.src {
        PSEUDO_MAP => address::map_handle(map),
        PSEUDO_MAP_VALUE => address::map_value(map, 0, high as usize),
        _ => u64::from(insn.imm as u32) | u64::from(high as u32) << 32,
    }
}

fn decode_op(insn: Insn) -> Op {
    let width = Width::of_bytes(insn.access_size());
    match (insn.class(), insn.mode()) {
        (class::LD, _) if insn.is_wide() => Op::Wide,
        (class::LDX, mode::MEM) => Op::Load(width),
        (class::LDX, mode::MEMSX) => Op::LoadSigned(width),
        (class::ST | class::STX, mode::MEM) => Op::Store(width),
        (class::STX, mode::ATOMIC) => Op::Atomic(width),
        (class::ALU | class::ALU64, _) if insn.operation() == alu::END => decode_swap(insn),
        (class::ALU, _) => decode_alu(insn).map_or(Op::Invalid, Op::Alu32),
        (class::ALU64, _) => decode_alu(insn).map_or(Op::Invalid, Op::Alu64),
        (class::JMP | class::JMP32, _) => decode_jump(insn),
        _ => Op::Invalid,
    }
}

fn decode_swap(insn: Insn) -> Op {
    let width = Width::of_bytes((insn.imm / 8) as u8);
    let to_little = insn.class() == class::ALU && !insn.uses_src();
    if to_little {
        Op::Truncate(width)
    } else {
        Op::Swap(width)
    }
}

fn decode_alu(insn: Insn) -> Option<Alu> {
    Some(match (insn.operation(), insn.off) {
        (alu::ADD, _) => Alu::Add,
        (alu::SUB, _) => Alu::Sub,
        (alu::MUL, _) => Alu::Mul,
        (alu::DIV, 0) => Alu::Div,
        (alu::DIV, _) => Alu::SignedDiv,
        (alu::MOD, 0) => Alu::Mod,
        (alu::MOD, _) => Alu::SignedMod,
        (alu::OR, _) => Alu::Or,
        (alu::AND, _) => Alu::And,
        (alu::XOR, _) => Alu::Xor,
        (alu::LSH, _) => Alu::Lsh,
        (alu::RSH, _) => Alu::Rsh,
        (alu::ARSH, _) => Alu::Arsh,
        (alu::NEG, _) => Alu::Neg,
        (alu::MOV, 0) => Alu::Mov,
        (alu::MOV, bits) => Alu::MovSigned(Width::of_bytes((bits / 8) as u8)),
        _ => return None,
    })
}

fn decode_jump(insn: Insn) -> Op {
    let condition = match insn.operation() {
        jmp::JA => return Op::Jump,
        jmp::CALL if insn.src == PSEUDO_CALL => return Op::Call,
        jmp::CALL => return Helper::from_number(insn.imm).map_or(Op::Invalid, Op::Helper),
        jmp::EXIT => return Op::Exit,
        jmp::JEQ => Condition::Eq,
        jmp::JNE => Condition::Ne,
        jmp::JSET => Condition::Set,
        jmp::JGT => Condition::Gt,
        jmp::JGE => Condition::Ge,
        jmp::JLT => Condition::Lt,
        jmp::JLE => Condition::Le,
        jmp::JSGT => Condition::SignedGt,
        jmp::JSGE => Condition::SignedGe,
        jmp::JSLT => Condition::SignedLt,
        jmp::JSLE => Condition::SignedLe,
        _ => return Op::Invalid,
    };
    if insn.class() == class::JMP {
        Op::JumpIf64(condition)
    } else {
        Op::JumpIf32(condition)
    }
}

/// Whether an atomic instruction hands back the old value, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fetch {
    No,
    Source,
    R0,
}

fn decode_atomic(immediate: i32) -> Option<(AtomicOp, Fetch)> {
    let op = match immediate & !atomic::FETCH {
        atomic::ADD => AtomicOp::Add,
        atomic::OR => AtomicOp::Or,
        atomic::AND => AtomicOp::And,
        atomic::XOR => AtomicOp::Xor,
        _ if immediate == atomic::XCHG => AtomicOp::Exchange,
        _ if immediate == atomic::CMPXCHG => return Some((AtomicOp::CompareExchange, Fetch::R0)),
        _ => return None,
    };
    let fetch = if immediate & atomic::FETCH == 0 {
        Fetch::No
    } else {
        Fetch::Source
    };
    Some((op, fetch))
}

/// Whether there is an atomic operation of that number.
pub(crate) fn is_atomic_operation(immediate: i32) -> bool {
    decode_atomic(immediate).is_some()
}

/// What a function's return restores.
#[derive(Clone, Copy, Default)]
struct Caller {
    pc: usize,
    saved: [u64; 4],
}

/// The state of a run.
pub(crate) struct Vm<'a> {
    registers: [u64; REGISTERS],
    pub(crate) memory: Memory<'a>,
    pub(crate) host: &'a dyn Host,
    pub(crate) cpu: usize,
    budget: u64,
    /// The next step.
    pc: usize,
    /// How many callers there are.
    depth: usize,
    /// As many as the stack has frames, or none where it has one.
    callers: &'a mut [Caller],
}

impl Vm<'_> {
    fn run(&mut self, steps: &[Step]) -> Result<u64, RunFault> {
        loop {
            let &step = steps.get(self.pc).ok_or(RunFault::Corrupt)?;
            self.pc += 1;
            self.charge(1)?;
            self.registers[usize::from(IMMEDIATE)] = step.immediate;
            let dst = self.register(step.dst);
            let src = self.register(step.src);
            match step.op {
                Op::Alu64(op) => self.set(step.dst, alu64(op, dst, src)),
                Op::Alu32(op) => {
                    self.set(step.dst, alu32(op, dst as u32, src as u32).into());
                }
                Op::Swap(width) => {
                    self.set(step.dst, dst.swap_bytes() >> (64 - 8 * width.bytes()));
                }
                Op::Truncate(width) => self.set(step.dst, dst & width.mask()),
                Op::Wide => {
                    self.set(step.dst, step.immediate);
                    self.pc += 1;
                }
                Op::Load(width) => {
                    let value = self.load(offset(src, step.argument), width)?;
                    self.set(step.dst, value);
                }
                Op::LoadSigned(width) => {
                    let value = self.load(offset(src, step.argument), width)?;
                    self.set(step.dst, width.sign_extend(value));
                }
                Op::Store(width) => {
                    let address = offset(dst, step.argument);
                    let result = self.memory.store(address, width, src);
                    result.map_err(|_| fault(address, width, Access::Write))?;
                }
                Op::Atomic(width) => self.atomic(step, width)?,
                Op::Jump => self.pc = step.argument as usize,
                Op::JumpIf64(condition) => {
                    if holds64(condition, dst, src) {
                        self.pc = step.argument as usize;
                    }
                }
                Op::JumpIf32(condition) => {
                    if holds32(condition, dst as u32, src as u32) {
                        self.pc = step.argument as usize;
                    }
                }
                Op::Call => self.call(step.argument as usize)?,
                Op::Helper(helper) => {
                    let arguments = self.arguments();
                    let result = helper::call(self, helper, arguments)?;
                    self.set(0, result);
                }
                Op::Exit if self.depth == 0 => return Ok(self.register(0)),
                Op::Exit => self.leave(),
                Op::Invalid => return Err(RunFault::Corrupt),
            }
        }
    }

    /// Takes the cost of some work from the budget.
    pub(crate) fn charge(&mut self, instructions: u64) -> Result<(), RunFault> {
        self.budget = self
            .budget
            .checked_sub(instructions)
            .ok_or(RunFault::Budget)?;
        Ok(())
    }

    fn register(&self, number: u8) -> u64 {
        self.registers[usize::from(number) % REGISTERS]
    }

    fn set(&mut self, number: u8, value: u64) {
        self.registers[usize::from(number) % REGISTERS] = value;
    }

    fn arguments(&self) -> [u64; 5] {
        [1, 2, 3, 4, 5].map(|number| self.register(number))
    }

    fn load(&self, address: u64, width: Width) -> Result<u64, RunFault> {
        self.memory
            .load(address, width)
            .map_err(|_| fault(address, width, Access::Read))
    }

    fn atomic(&mut self, step: Step, width: Width) -> Result<(), RunFault> {
        let (op, fetch) = decode_atomic(step.immediate as i32).ok_or(RunFault::Corrupt)?;
        let address = offset(self.register(step.dst), step.argument);
        let atomic = Atomic {
            op,
            width,
            operand: self.register(step.src),
            expected: self.register(0),
        };
        let result = self.memory.atomic(address, atomic);
        let old = result.map_err(|_| fault(address, width, Access::Atomic))?;
        match fetch {
            Fetch::No => {}
            Fetch::Source => self.set(step.src, old),
            Fetch::R0 => self.set(0, old),
        }
        Ok(())
    }

    fn call(&mut self, target: usize) -> Result<(), RunFault> {
        if self.depth + 1 >= self.memory.stack.len() {
            return Err(RunFault::CallDepth);
        }
        let saved = [6, 7, 8, 9].map(|number| self.register(number));
        let caller = self.callers.get_mut(self.depth);
        *caller.ok_or(RunFault::CallDepth)? = Caller { pc: self.pc, saved };
        self.depth += 1;
        self.registers[10] = address::stack(self.depth, FRAME_SIZE);
        self.pc = target;
        Ok(())
    }

    fn leave(&mut self) {
        self.depth -= 1;
        let Some(&caller) = self.callers.get(self.depth) else {
            return;
        };
        self.registers[6..10].copy_from_slice(&caller.saved);
        self.registers[10] = address::stack(self.depth, FRAME_SIZE);
        self.pc = caller.pc;
    }
}

fn offset(base: u64, offset: i32) -> u64 {
    base.wrapping_add_signed(offset.into())
}

fn fault(address: u64, width: Width, access: Access) -> RunFault {
    RunFault::BadAccess {
        address,
        length: width.bytes() as u32,
        access,
    }
}

/// Division by zero gives 0 and a remainder by zero the dividend; signed overflow wraps (RFC 9669
/// section 4.1).
#[inline(always)]
fn alu64(op: Alu, dst: u64, src: u64) -> u64 {
    match op {
        Alu::Add => dst.wrapping_add(src),
        Alu::Sub => dst.wrapping_sub(src),
        Alu::Mul => dst.wrapping_mul(src),
        Alu::Div => dst.checked_div(src).unwrap_or(0),
        Alu::SignedDiv if src == 0 => 0,
        Alu::SignedDiv => (dst as i64).wrapping_div(src as i64) as u64,
        Alu::Mod => dst.checked_rem(src).unwrap_or(dst),
        Alu::SignedMod if src == 0 => dst,
        Alu::SignedMod => (dst as i64).wrapping_rem(src as i64) as u64,
        Alu::Or => dst | src,
        Alu::And => dst & src,
        Alu::Xor => dst ^ src,
        Alu::Lsh => dst.wrapping_shl(src as u32),
        Alu::Rsh => dst.wrapping_shr(src as u32),
        Alu::Arsh => (dst as i64).wrapping_shr(src as u32) as u64,
        Alu::Neg => dst.wrapping_neg(),
        Alu::Mov => src,
        Alu::MovSigned(width) => width.sign_extend(src),
    }
}

/// As [`alu64`], on 32 bits.
#[inline(always)]
fn alu32(op: Alu, dst: u32, src: u32) -> u32 {
    match op {
        Alu::Add => dst.wrapping_add(src),
        Alu::Sub => dst.wrapping_sub(src),
        Alu::Mul => dst.wrapping_mul(src),
        Alu::Div => dst.checked_div(src).unwrap_or(0),
        Alu::SignedDiv if src == 0 => 0,
        Alu::SignedDiv => (dst as i32).wrapping_div(src as i32) as u32,
        Alu::Mod => dst.checked_rem(src).unwrap_or(dst),
        Alu::SignedMod if src == 0 => dst,
        Alu::SignedMod => (dst as i32).wrapping_rem(src as i32) as u32,
        Alu::Or => dst | src,
        Alu::And => dst & src,
        Alu::Xor => dst ^ src,
        Alu::Lsh => dst.wrapping_shl(src),
        Alu::Rsh => dst.wrapping_shr(src),
        Alu::Arsh => (dst as i32).wrapping_shr(src) as u32,
        Alu::Neg => dst.wrapping_neg(),
        Alu::Mov => src,
        Alu::MovSigned(width) => width.sign_extend(src.into()) as u32,
    }
}

#[inline(always)]
fn holds64(condition: Condition, dst: u64, src: u64) -> bool {
    match condition {
        Condition::Eq => dst == src,
        Condition::Ne => dst != src,
        Condition::Set => dst & src != 0,
        Condition::Gt => dst > src,
        Condition::Ge => dst >= src,
        Condition::Lt => dst < src,
        Condition::Le => dst <= src,
        Condition::SignedGt => dst as i64 > src as i64,
        Condition::SignedGe => dst as i64 >= src as i64,
        Condition::SignedLt => (dst as i64) < src as i64,
        Condition::SignedLe => dst as i64 <= src as i64,
    }
}

/// Sign-extending both sides keeps every order that 32 bits have, the unsigned ones included.
#[inline(always)]
fn holds32(condition: Condition, dst: u32, src: u32) -> bool {
    holds64(condition, dst as i32 as u64, src as i32 as u64)
}

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
