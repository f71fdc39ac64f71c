//! The frame of the code: functions, entry and exit, what happens when something goes wrong.

use super::asm::{AddSub, Assembler, Cond, FP, LR, Label, Reg, SP, Size, TooFar, Transfer, ZR};
use super::flow::{Flow, State};
use super::native::{Failure, Service};
use super::registers::{
    self, ARENA, BLIND, BUDGET, CONTEXT, FRAME, MARK, OFFSET, OPERAND, SAVED, STATUS,
};
use super::{Blinding, Code, CompileError, Line, Options, StackAtEntry, immediate};
use crate::address;
use crate::decode::{Op, Step, entries, length};
use crate::map::Map;
use crate::stack::FRAME_SIZE;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Bytes of the frame that the entry makes: what it saves, the call, and the CPU.
const ENTRY_FRAME: i32 = 112;
/// Where the [`super::Call`] is in it.
pub(super) const CALL_SLOT: i32 = 96;
/// Where the CPU is in it.
pub(super) const CPU_SLOT: i32 = 104;
/// What the entry saves in it, from byte 16 on.
const PRESERVED: [([Reg; 2], Need); 5] = [
    ([ARENA, CONTEXT], Need::Always),
    ([MARK, BUDGET], Need::Always),
    ([registers::of(10), FRAME], Need::Frame),
    ([registers::of(6), registers::of(7)], Need::Either([6, 7])),
    ([registers::of(8), registers::of(9)], Need::Either([8, 9])),
];
/// Bytes of the frame that a subprogram makes.
const CALL_FRAME: i32 = 48;

/// Which programs change a pair of registers.
#[derive(Clone, Copy)]
enum Need {
    /// All.
    Always,
    /// Those with a frame.
    Frame,
    /// Those that use one of these registers of theirs.
    Either([u8; 2]),
}

/// Where a run ends that cannot go on.
struct Stub {
    label: Label,
    insn: usize,
    failure: Failure,
}

/// The code of a program while it is being made.
pub(super) struct Emitter<'a> {
    pub(super) asm: Assembler,
    pub(super) steps: &'a [Step],
    pub(super) maps: &'a [Map],
    pub(super) arena_size: usize,
    stack_size: usize,
    stack: StackAtEntry,
    pub(super) options: &'a Options,
    /// The instruction that is being translated.
    pub(super) index: usize,
    /// What the registers hold before it.
    pub(super) state: State,
    /// Where instructions begin that jumps go to.
    places: BTreeMap<usize, Label>,
    /// Where functions begin, by their first instruction.
    functions: BTreeMap<usize, Label>,
    /// The same of the program's, in order.
    entries: Vec<usize>,
    stubs: Vec<Stub>,
    lines: Vec<Line>,
    /// The state of the generator that makes what constants are blinded with.
    seed: u64,
}

impl<'a> Emitter<'a> {
    pub(super) fn new(
        steps: &'a [Step],
        maps: &'a [Map],
        arena_size: usize,
        stack_size: usize,
        stack: StackAtEntry,
        options: &'a Options,
    ) -> Self {
        let seed = match options.blinding {
            Blinding::Off => 0,
            Blinding::Seed(seed) => seed.max(1),
        };
        Self {
            asm: Assembler::default(),
            steps,
            maps,
            arena_size,
            stack_size,
            stack,
            options,
            index: 0,
            state: State::unknown(),
            places: BTreeMap::new(),
            functions: BTreeMap::new(),
            entries: entries(steps),
            stubs: Vec::new(),
            lines: Vec::new(),
            seed,
        }
    }

    /// Translates the program.
    pub(super) fn program(mut self, flow: &Flow) -> Result<Code, (usize, CompileError)> {
        let entries = self.entries.clone();
        let ends = entries.iter().skip(1).copied().chain([self.steps.len()]);
        let failed = self.asm.label();
        for (&start, end) in entries.iter().zip(ends) {
            // A function that only dead code calls is dead code.
            if start != 0 && flow.at(start).is_none() {
                continue;
            }
            self.function(flow, start, end, failed)?;
        }
        self.failures(failed);
        let words = self
            .asm
            .finish()
            .map_err(|TooFar| (0, CompileError::TooLong))?;
        Ok(Code {
            words: words.into(),
            lines: self.lines.into(),
        })
    }

    fn function(
        &mut self,
        flow: &Flow,
        start: usize,
        end: usize,
        failed: Label,
    ) -> Result<(), (usize, CompileError)> {
        self.line(None);
        self.index = start;
        if start == 0 {
            self.enter_program(end);
        } else {
            self.enter_function(start);
        }
        let exit = self.asm.label();
        let mut state = None;
        for index in start..end {
            state = flow.at(index).or(state);
            let step = &self.steps[index];
            let Some(before) = state.filter(|_| !is_second_slot(self.steps, index)) else {
                continue;
            };
            self.index = index;
            self.state = before;
            self.line(Some(index as u32));
            if flow.at(index).is_some() {
                let place = self.place(index);
                self.asm.bind(place);
            }
            match step.op {
                Op::Exit if index + 1 == end => {}
                Op::Exit => self.asm.b(exit),
                _ => self.step(step).map_err(|error| (index, error))?,
            }
            let mut after = before;
            after.follow(step).map_err(|error| (index, error))?;
            state = (!matches!(step.op, Op::Exit | Op::Jump)).then_some(after);
        }
        self.line(None);
        self.asm.bind(exit);
        if start == 0 {
            self.leave_program(failed);
        } else {
            self.leave_function();
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), CompileError> {
        match step.op {
            Op::Alu64(op) => self.alu(op, Size::X, step),
            Op::Alu32(op) => self.alu(op, Size::W, step),
            Op::Swap(width) => self.swap(width, step.dst),
            Op::Truncate(width) => self.truncate(width, step.dst),
            // The address of a function is a number of ours.
            Op::Wide | Op::Function => self.constant(registers::of(step.dst), step.immediate),
            Op::Load(width) => {
                let op = Transfer::load(width.bytes());
                self.load(op, registers::of(step.dst), step.src, step.argument, width)?;
            }
            Op::LoadSigned(width) => {
                let op = Transfer::load_signed(width.bytes());
                self.load(op, registers::of(step.dst), step.src, step.argument, width)?;
            }
            Op::LoadGuest(width) => self.load_guest(Service::LoadGuest(width), step),
            Op::LoadGuestSigned(width) => self.load_guest(Service::LoadGuestSigned(width), step),
            Op::Store(width) => self.store(width, step)?,
            Op::Atomic(width) => self.atomic(width, step)?,
            Op::Jump => self.jump(step),
            Op::JumpIf64(condition) => self.jump_if(condition, Size::X, step),
            Op::JumpIf32(condition) => self.jump_if(condition, Size::W, step),
            Op::Call => self.call(step),
            Op::Helper(helper) if helper.calls_back() => self.call_back(helper)?,
            Op::Helper(helper) => self.helper(helper)?,
            // `function` puts control where an exit leads.
            Op::Exit => {}
            Op::Invalid => return Err(CompileError::Invalid),
        }
        Ok(())
    }

    /// The place of an instruction that is jumped to.
    pub(super) fn place(&mut self, index: usize) -> Label {
        let asm = &mut self.asm;
        *self.places.entry(index).or_insert_with(|| asm.label())
    }

    /// How many instructions the function at `entry` has.
    pub(super) fn length_of(&self, entry: usize) -> u32 {
        // A program has at most `MAX_INSNS`.
        length(&self.entries, self.steps.len(), entry) as u32
    }

    /// The entry of a function.
    pub(super) fn function_at(&mut self, index: usize) -> Label {
        let asm = &mut self.asm;
        *self.functions.entry(index).or_insert_with(|| asm.label())
    }

    /// Where the instruction that is being translated goes if it fails so.
    pub(super) fn stub(&mut self, failure: Failure) -> Label {
        let label = self.asm.label();
        self.stubs.push(Stub {
            label,
            insn: self.index,
            failure,
        });
        label
    }

    /// `d = value`, a number of the program's.
    pub(super) fn constant(&mut self, d: Reg, value: u64) {
        if self.options.blinding == Blinding::Off {
            return immediate::load(&mut self.asm, d, value);
        }
        let key = self.random();
        immediate::load(&mut self.asm, d, value ^ key);
        immediate::load(&mut self.asm, BLIND, key);
        self.asm
            .logical(super::asm::Logical::Eor, Size::X, d, d, BLIND);
    }

    /// Whether a number of the program's may be part of an instruction.
    pub(super) fn may_show(&self) -> bool {
        self.options.blinding == Blinding::Off
    }

    /// Takes `cost` from the budget; the flags tell whether it was there (HS) or not (LO).
    pub(super) fn charge(&mut self, cost: u32) {
        self.charge_from(BUDGET, cost);
    }

    /// The same from a budget that is elsewhere still.
    fn charge_from(&mut self, budget: Reg, cost: u32) {
        if immediate::fits_add_sub(cost) {
            self.asm
                .add_sub_imm(AddSub::Subs, Size::X, BUDGET, budget, cost);
        } else {
            immediate::load(&mut self.asm, OPERAND, cost.into());
            self.asm
                .add_sub(AddSub::Subs, Size::X, BUDGET, budget, OPERAND, 0);
        }
    }

    /// Xorshift (Marsaglia, 2003): what it makes must differ, not be secret for long.
    fn random(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed
    }

    fn line(&mut self, insn: Option<u32>) {
        let word = self.asm.here() as u32;
        self.lines.push(Line { word, insn });
    }

    /// The first function's entry: `cost` is its length.
    fn enter_program(&mut self, cost: usize) {
        // The arguments of an `EntryPoint`.
        let [call, context, arena, budget, cpu] = [1, 2, 3, 4, 5].map(Reg);
        let saved = self.preserved();
        let has_frame = self.has_frame();
        let stack_size = self.stack_size;
        let asm = &mut self.asm;
        asm.bti_c();
        asm.stp_pre(FP, LR, SP, -ENTRY_FRAME);
        asm.add_sub_imm(AddSub::Add, Size::X, FP, SP, 0);
        for (offset, [first, second]) in saved {
            asm.stp(first, second, SP, offset);
        }
        asm.stp(call, cpu, SP, CALL_SLOT);
        asm.mov(Size::X, CONTEXT, context);
        asm.mov(Size::X, ARENA, arena);
        immediate::load(asm, MARK, address::ARENA);
        if has_frame {
            // Stacks begin where the arena does, in the order of the CPUs.
            let shift = stack_size.ilog2();
            let fp = registers::of(10);
            asm.add_sub(AddSub::Add, Size::X, fp, MARK, cpu, shift);
            asm.add_sub(AddSub::Add, Size::X, FRAME, ARENA, cpu, shift);
            add(asm, fp, stack_size);
            add(asm, FRAME, stack_size - FRAME_SIZE);
        }
        immediate::load(asm, registers::of(1), address::context());
        self.charge_from(budget, cost as u32);
        let stub = self.stub(Failure::Budget);
        self.asm.b_cond(Cond::Lo, stub);
        if self.stack == StackAtEntry::Cleared {
            self.clear_stack();
        }
    }

    /// Makes the stack of this CPU zeros. The first frame is at its end.
    fn clear_stack(&mut self) {
        let below = (self.stack_size - FRAME_SIZE) as u64;
        let asm = &mut self.asm;
        immediate::load(asm, OFFSET, below);
        asm.add_sub(AddSub::Sub, Size::X, OFFSET, FRAME, OFFSET, 0);
        asm.add_sub_imm(AddSub::Add, Size::X, OPERAND, FRAME, FRAME_SIZE as u32);
        let next = asm.label();
        asm.bind(next);
        asm.stp(ZR, ZR, OFFSET, 0);
        asm.add_sub_imm(AddSub::Add, Size::X, OFFSET, OFFSET, 16);
        asm.add_sub(AddSub::Subs, Size::X, ZR, OFFSET, OPERAND, 0);
        asm.b_cond(Cond::Lo, next);
    }

    fn leave_program(&mut self, failed: Label) {
        let saved = self.preserved();
        let asm = &mut self.asm;
        let leave = asm.label();
        asm.mov(Size::X, STATUS, ZR);
        asm.b(leave);
        // Whatever is on the stack above the entry's frame, is left there.
        asm.bind(failed);
        asm.add_sub_imm(AddSub::Add, Size::X, SP, FP, 0);
        asm.bind(leave);
        for (offset, [first, second]) in saved {
            asm.ldp(first, second, SP, offset);
        }
        asm.ldp_post(FP, LR, SP, ENTRY_FRAME);
        asm.ret();
    }

    /// What the entry saves, and where.
    fn preserved(&self) -> Vec<(i32, [Reg; 2])> {
        let places = (16..).step_by(16).zip(PRESERVED);
        let needed = places.filter(|(_, (_, need))| match *need {
            Need::Always => true,
            Need::Frame => self.has_frame(),
            Need::Either(registers) => registers.iter().any(|&it| self.uses(it)),
        });
        needed.map(|(offset, (pair, _))| (offset, pair)).collect()
    }

    /// Whether the program uses its stack. A call makes another frame below it.
    fn has_frame(&self) -> bool {
        self.uses(10) || self.stack == StackAtEntry::Cleared || self.steps.iter().any(makes_frame)
    }

    /// Whether an instruction names that register.
    fn uses(&self, register: u8) -> bool {
        let names = |step: &Step| step.dst == register || step.src == register;
        self.steps.iter().any(names)
    }

    /// A subprogram's entry. Its caller has paid for it.
    fn enter_function(&mut self, start: usize) {
        let entry = self.function_at(start);
        let asm = &mut self.asm;
        asm.bind(entry);
        asm.stp_pre(SAVED[0], SAVED[1], SP, -CALL_FRAME);
        asm.stp(SAVED[2], SAVED[3], SP, 16);
        asm.stp(LR, ZR, SP, 32);
        for register in [registers::of(10), FRAME] {
            asm.add_sub_imm(AddSub::Sub, Size::X, register, register, FRAME_SIZE as u32);
        }
    }

    fn leave_function(&mut self) {
        let asm = &mut self.asm;
        for register in [registers::of(10), FRAME] {
            asm.add_sub_imm(AddSub::Add, Size::X, register, register, FRAME_SIZE as u32);
        }
        asm.ldp(LR, ZR, SP, 32);
        asm.ldp(SAVED[2], SAVED[3], SP, 16);
        asm.ldp_post(SAVED[0], SAVED[1], SP, CALL_FRAME);
        asm.ret();
    }

    /// Where runs end that cannot go on: each says why and where.
    fn failures(&mut self, failed: Label) {
        for stub in core::mem::take(&mut self.stubs) {
            self.line(Some(stub.insn as u32));
            let asm = &mut self.asm;
            asm.bind(stub.label);
            asm.mov(Size::X, Reg(0), OFFSET);
            immediate::load(asm, STATUS, (stub.failure as u64) << 32 | stub.insn as u64);
            asm.b(failed);
        }
    }
}

/// Whether a step calls a function of the program.
fn makes_frame(step: &Step) -> bool {
    match step.op {
        Op::Call => true,
        Op::Helper(helper) => helper.calls_back(),
        _ => false,
    }
}

/// `d += value`, at most a whole stack.
fn add(asm: &mut Assembler, d: Reg, value: usize) {
    match value as u32 {
        0 => {}
        value if immediate::fits_add_sub(value) => {
            asm.add_sub_imm(AddSub::Add, Size::X, d, d, value);
        }
        value => {
            immediate::load(asm, OPERAND, value.into());
            asm.add_sub(AddSub::Add, Size::X, d, d, OPERAND, 0);
        }
    }
}

fn is_second_slot(steps: &[Step], index: usize) -> bool {
    index
        .checked_sub(1)
        .is_some_and(|before| steps[before].op.slots() == 2)
}
