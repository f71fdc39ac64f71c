//! The interpreter.
//!
//! A run is one loop over the steps of [`crate::decode`]: no allocation, no recursion, a budget that
//! bounds it whatever the program does.
//!
//! # Budget
//!
//! A run pays in advance: for a function its length, when it is called, and for a jump backwards
//! the distance, when it is taken. Between two payments control only moves forward, so no run
//! executes more instructions than it has paid for; it may have paid for some that it skipped.
//! Straight code costs nothing to check that way, and compiled code ([`crate::jit`]) charges the
//! same at the same places.

use crate::address;
use crate::address::Place;
use crate::arena::Atomic;
use crate::decode::{
    Alu, Condition, Fetch, IMMEDIATE, Op, REGISTERS, Step, decode, decode_atomic, entries, length,
};
use crate::helper::{self, Helper, Iteration};
use crate::insn::Insn;
use crate::map::Map;
use crate::object::{Access, RunError, RunFault};
use crate::run::{Interruption, Run, TailCall};
use crate::stack::{FRAME_SIZE, MAX_FRAMES, key_of_frame};
use crate::verify::{MemoryKind, Verified};
use crate::width::Width;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// How many instructions a run may execute at most unless the caller says otherwise. Helpers that
/// copy or print count for as many instructions as their work takes.
pub const DEFAULT_BUDGET: u64 = 1 << 20;

/// A verified program, decoded.
#[derive(Debug)]
pub(crate) struct Code {
    steps: Box<[Step]>,
    /// Where its functions begin.
    entries: Vec<usize>,
    /// What the first of them costs.
    cost: u64,
}

impl Code {
    /// Decodes a program that the verifier has accepted.
    pub(crate) fn decode(insns: &[Insn], maps: &[Map]) -> Self {
        let steps = decode(insns, maps);
        let entries = entries(&steps);
        Self {
            cost: length(&entries, steps.len(), 0),
            entries,
            steps,
        }
    }

    /// What the function at an instruction costs, if one begins there.
    fn cost_of(&self, entry: usize) -> Option<u64> {
        self.entries.binary_search(&entry).ok()?;
        Some(length(&self.entries, self.steps.len(), entry))
    }

    /// From now on, the loads that the verifier has found to be from the guest are.
    pub(crate) fn load_from_guest(&mut self, verified: &Verified) {
        for (insn, step) in self.steps.iter_mut().enumerate() {
            step.op = match step.op {
                op if verified.memory(insn) != MemoryKind::Guest => op,
                Op::Load(width) => Op::LoadGuest(width),
                Op::LoadSigned(width) => Op::LoadGuestSigned(width),
                op => op,
            };
        }
    }

    /// How many instructions it has.
    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    /// The decoded program.
    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Runs the program.
    pub(crate) fn run(&self, run: &mut Run<'_>) -> Result<u64, Interruption> {
        if self.entries.len() > 1 {
            self.run_nested(run)
        } else {
            self.run_on(&mut [], run)
        }
    }

    /// Apart from [`Code::run`], whose own stack frame stays small.
    #[inline(never)]
    fn run_nested(&self, run: &mut Run<'_>) -> Result<u64, Interruption> {
        self.run_on(&mut [Caller::default(); MAX_FRAMES], run)
    }

    fn run_on(&self, callers: &mut [Caller], run: &mut Run<'_>) -> Result<u64, Interruption> {
        let failed = |insn, fault| Interruption::Failed(RunError::new(insn, fault));
        run.charge(self.cost).map_err(|fault| failed(0, fault))?;
        let mut vm = Vm {
            code: self,
            registers: [0; REGISTERS],
            run,
            pc: 0,
            depth: 0,
            callers,
        };
        vm.registers[1] = address::context();
        vm.registers[10] = address::arena(vm.run.memory.stack.end);
        // The step that failed is the one before the next.
        match vm.run() {
            Ok(End::Exit(value)) => Ok(value),
            Ok(End::TailCall(program)) => {
                let left = vm.run.budget;
                Err(Interruption::TailCall(TailCall { program, left }))
            }
            Err(fault) => Err(failed(vm.pc.saturating_sub(1) as u32, fault)),
        }
    }
}

/// How a program ends.
enum End {
    /// With a result.
    Exit(u64),
    /// The run goes on with that program.
    TailCall(usize),
}

/// What a function's return restores.
#[derive(Clone, Copy, Default)]
struct Caller {
    pc: usize,
    saved: [u64; 4],
    /// What it called the function for, if a helper did.
    callback: Option<Callback>,
}

/// A helper that calls a function, again and again.
#[derive(Clone, Copy)]
struct Callback {
    entry: usize,
    cost: u64,
    iteration: Iteration,
}

/// The state of the interpreter.
struct Vm<'run, 'a> {
    code: &'run Code,
    registers: [u64; REGISTERS],
    run: &'run mut Run<'a>,
    /// The next step.
    pc: usize,
    /// How many callers there are.
    depth: usize,
    /// None where a program has no subprograms: clearing them would cost a short one much.
    callers: &'run mut [Caller],
}

impl Vm<'_, '_> {
    fn run(&mut self) -> Result<End, RunFault> {
        let steps = &*self.code.steps;
        loop {
            let &step = steps.get(self.pc).ok_or(RunFault::Corrupt)?;
            self.pc += 1;
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
                Op::Wide | Op::Function => {
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
                Op::LoadGuest(width) => {
                    let value = helper::load_guest(self.run, offset(src, step.argument), width)?;
                    self.set(step.dst, value);
                }
                Op::LoadGuestSigned(width) => {
                    let value = helper::load_guest(self.run, offset(src, step.argument), width)?;
                    self.set(step.dst, width.sign_extend(value));
                }
                Op::Store(width) => {
                    let address = offset(dst, step.argument);
                    let result = self.run.memory.store(address, width, src);
                    result.map_err(|_| fault(address, width, Access::Write))?;
                }
                Op::Atomic(width) => self.atomic(step, width)?,
                Op::Jump => self.jump(step)?,
                Op::JumpIf64(condition) => {
                    if holds64(condition, dst, src) {
                        self.jump(step)?;
                    }
                }
                Op::JumpIf32(condition) => {
                    if holds32(condition, dst as u32, src as u32) {
                        self.jump(step)?;
                    }
                }
                Op::Call => self.call(step)?,
                Op::Helper(helper) if helper.calls_back() => self.call_back(helper)?,
                Op::Helper(Helper::TailCall) => {
                    let [_, map, index, ..] = self.arguments();
                    if let Some(program) = helper::tail_call(self.run, map, index)? {
                        return Ok(End::TailCall(program));
                    }
                    self.set(0, 0);
                }
                Op::Helper(helper) => {
                    let arguments = self.arguments();
                    let result = helper::call(self.run, helper, arguments)?;
                    self.set(0, result);
                }
                Op::Exit if self.depth == 0 => return Ok(End::Exit(self.register(0))),
                Op::Exit => self.leave()?,
                Op::Invalid => return Err(RunFault::Corrupt),
            }
        }
    }

    fn jump(&mut self, step: Step) -> Result<(), RunFault> {
        let target = step.argument as usize;
        // The next step is already that behind the jump.
        if target < self.pc {
            self.run.charge((self.pc - target) as u64)?;
        }
        self.pc = target;
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
        self.run
            .memory
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
        let result = self.run.memory.atomic(address, atomic);
        let old = result.map_err(|_| fault(address, width, Access::Atomic))?;
        match fetch {
            Fetch::No => {}
            Fetch::Source => self.set(step.src, old),
            Fetch::R0 => self.set(0, old),
        }
        Ok(())
    }

    fn call(&mut self, step: Step) -> Result<(), RunFault> {
        self.run.charge(step.immediate)?;
        self.enter(step.argument as usize, None)
    }

    /// Enters the function at `entry`, which has been paid for.
    fn enter(&mut self, entry: usize, callback: Option<Callback>) -> Result<(), RunFault> {
        let room = self.run.memory.stack.len() / FRAME_SIZE;
        if self.depth + 1 >= room.min(MAX_FRAMES) {
            return Err(RunFault::CallDepth);
        }
        let saved = [6, 7, 8, 9].map(|number| self.register(number));
        let caller = self.callers.get_mut(self.depth);
        *caller.ok_or(RunFault::CallDepth)? = Caller {
            pc: self.pc,
            saved,
            callback,
        };
        self.depth += 1;
        self.registers[10] -= FRAME_SIZE as u64;
        self.pc = entry;
        Ok(())
    }

    fn leave(&mut self) -> Result<(), RunFault> {
        self.depth -= 1;
        let caller = self.callers.get(self.depth).ok_or(RunFault::Corrupt)?;
        let Caller {
            pc,
            saved,
            callback,
        } = *caller;
        self.registers[6..10].copy_from_slice(&saved);
        self.registers[10] += FRAME_SIZE as u64;
        self.pc = pc;
        match callback {
            None => Ok(()),
            Some(callback) if self.register(0) == 0 => self.next_round(callback),
            Some(callback) => {
                self.set(0, callback.iteration.done);
                Ok(())
            }
        }
    }

    /// Calls a helper that calls a function.
    fn call_back(&mut self, helper: Helper) -> Result<(), RunFault> {
        let [first, function, context, flags, _] = self.arguments();
        let iteration = match helper {
            Helper::Loop => Iteration::times(first, context, flags),
            _ => Iteration::entries(first, context, flags),
        };
        let entry = match Place::parse(function) {
            Some(Place::Function(entry)) => Some(entry),
            _ => None,
        };
        let known = entry.and_then(|entry| Some((entry, self.code.cost_of(entry)?)));
        let (entry, cost) = known.ok_or(RunFault::NotAFunction { value: function })?;
        match iteration {
            Ok(iteration) => self.next_round(Callback {
                entry,
                cost,
                iteration,
            }),
            Err(errno) => {
                self.set(0, errno);
                Ok(())
            }
        }
    }

    /// Calls the function once more, or returns from the helper.
    fn next_round(&mut self, mut callback: Callback) -> Result<(), RunFault> {
        let key = key_of_frame(self.register(10));
        let Some(arguments) = callback.iteration.next(self.run, key)? else {
            self.set(0, callback.iteration.done);
            return Ok(());
        };
        self.run.charge(callback.cost)?;
        self.registers[1..5].copy_from_slice(&arguments);
        self.enter(callback.entry, Some(callback))
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
mod model;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
