//! Following all paths of a program (`do_check`).

use super::checkpoint::{Checkpoint, CheckpointId, Checkpoints, work_on};
use super::domain::Bits;
use super::log::{Known, Observer, Step as Seen};
use super::output::{Findings, Verified};
use super::prune;
use super::reason::Reason;
use super::state::State;
use super::structure::{Functions, Join, JoinPoints};
use super::touched::Place;
use super::value::{Kind, Pointer, Scalar, Sources, Value};
use super::{Environment, Path, Refused};
use crate::decode::{IMMEDIATE, Op, Step};
use crate::insn::{CALL, Insn, PSEUDO_MAP, PSEUDO_MAP_VALUE};
use crate::stack::FRAME_SIZE;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

/// How a path goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flow {
    /// At the state's next instruction.
    On,
    /// Not at all: it has come to the program's end.
    End,
}

/// Frames begin at multiples of this, as AArch64 has it for SP (Arm ARM D1.4.8; Linux:
/// `round_up_stack_depth`).
const STACK_ALIGNMENT: usize = 16;
/// Instructions between two checkpoints of a path, at least, while there are few of them.
const SPACING: usize = 8;
/// The spacing doubles with every so many checkpoints that are not done, so that long loops need
/// few.
const PER_SPACING: usize = 128;
/// With how many checkpoints of its own path a state is compared, the last ones first. A loop that
/// changes nothing comes to one of these sooner or later, as they become fewer.
const OWN: usize = 8;
/// How often a checkpoint is compared in vain, beyond what its hits excuse, before it is forgotten.
const PATIENCE: u32 = 32;

pub(super) struct Verifier<'a> {
    pub(super) insns: &'a [Insn],
    pub(super) steps: &'a [Step],
    pub(super) functions: &'a Functions,
    pub(super) environment: Environment<'a>,
    pub(super) checkpoints: Checkpoints,
    pub(super) findings: Findings,
    /// Bytes of stack that each function uses.
    pub(super) stack_depths: Vec<usize>,
    observer: &'a mut dyn Observer,
    joins: JoinPoints,
    /// The checkpoints of every instruction that has some.
    saved: BTreeMap<usize, Vec<CheckpointId>>,
    /// Paths that are left for later.
    pending: Vec<State>,
    pending_memory: usize,
    explored: usize,
    next_id: u32,
}

impl<'a> Verifier<'a> {
    pub(super) fn new(
        insns: &'a [Insn],
        steps: &'a [Step],
        functions: &'a Functions,
        environment: Environment<'a>,
        observer: &'a mut dyn Observer,
    ) -> Self {
        Self {
            insns,
            steps,
            functions,
            environment,
            checkpoints: Checkpoints::default(),
            findings: Findings::new(insns.len()),
            stack_depths: vec![0; functions.count()],
            observer,
            joins: JoinPoints::of(insns),
            saved: BTreeMap::new(),
            pending: Vec::new(),
            pending_memory: 0,
            explored: 0,
            next_id: 0,
        }
    }

    /// Follows every path to its end.
    #[cfg(test)]
    pub(super) fn never_prune(&mut self) {
        self.joins = JoinPoints::of(&[]);
    }

    /// Follows every path.
    pub(super) fn run(mut self) -> Result<Verified, Refused> {
        let mut next = Some(State::start());
        while let Some(mut state) = next {
            if let Err(reason) = self.follow(&mut state) {
                return Err(Refused {
                    insn: state.pc,
                    reason,
                    path: Some(Box::new(Path {
                        steps: state.trail.to_string(),
                        state: state.to_string(),
                    })),
                });
            }
            self.checkpoints.finish(state.parent);
            next = self.resume();
        }
        let stack = self
            .functions
            .heaviest_chain(|function| self.frame_size(function));
        if stack > FRAME_SIZE {
            return Err(Refused {
                insn: 0,
                reason: Reason::StackDepth(stack),
                path: None,
            });
        }
        let statistics = self.checkpoints.statistics();
        Ok(self
            .findings
            .into_verified(self.explored, stack, statistics))
    }

    /// Bytes of stack that a function is known to use.
    pub(super) fn frame_size(&self, function: usize) -> usize {
        self.stack_depths[function].next_multiple_of(STACK_ALIGNMENT)
    }

    /// Follows a path to its end. On an error, the state is that before the instruction.
    fn follow(&mut self, state: &mut State) -> Result<(), Reason> {
        loop {
            if let Some(join) = self.joins.at(state.pc)
                && let Some(end) = self.find_explored(state, join)?
            {
                self.observer.step(end);
                return Ok(());
            }
            if self.explored >= self.environment.limits.insns {
                return Err(Reason::TooManySteps(self.environment.limits.insns));
            }
            self.explored += 1;
            self.spend(1)?;
            state.since_checkpoint += 1;
            self.findings.reach(state.pc);
            self.observer
                .step(Seen::Instruction(state.pc, Known(state)));
            if self.step(state)? == Flow::End {
                return Ok(());
            }
        }
    }

    /// Counts work and ends it where it is too much.
    pub(super) fn spend(&mut self, work: u64) -> Result<(), Reason> {
        self.checkpoints.work += work;
        let limit = self.environment.limits.work;
        if self.checkpoints.work > limit {
            Err(Reason::TooMuchWork(limit))
        } else {
            Ok(())
        }
    }

    /// Leaves a path for later.
    pub(super) fn postpone(&mut self, state: State) -> Result<(), Reason> {
        self.checkpoints.branch(state.parent);
        let memory = state.memory();
        self.pending_memory += memory;
        self.pending.push(state);
        self.spend(work_on(memory))?;
        self.check_memory()
    }

    fn resume(&mut self) -> Option<State> {
        let state = self.pending.pop()?;
        self.pending_memory -= state.memory();
        self.observer.step(Seen::Resume(state.pc, Known(&state)));
        Some(state)
    }

    /// A path that could be taken cannot be, with what is known.
    pub(super) fn is_impossible(&mut self, target: usize) {
        self.observer.step(Seen::Impossible(target));
    }

    fn check_memory(&mut self) -> Result<(), Reason> {
        let limit = self.environment.limits.memory;
        if self.checkpoints.memory() + self.pending_memory <= limit {
            return Ok(());
        }
        self.forget_done();
        self.spend(self.checkpoints.count() as u64)?;
        if self.checkpoints.memory() + self.pending_memory > limit {
            Err(Reason::TooMuchMemory(limit))
        } else {
            Ok(())
        }
    }

    /// Forgets the done checkpoints that have never ended a path, or all if every one has.
    fn forget_done(&mut self) {
        let checkpoints = &mut self.checkpoints;
        for keep_useful in [true, false] {
            let before = checkpoints.memory();
            for ids in self.saved.values_mut() {
                ids.retain(|&id| {
                    let drop = checkpoints.get(id).is_none_or(|checkpoint| {
                        checkpoint.is_done() && !(keep_useful && checkpoint.hits > 0)
                    });
                    if drop {
                        checkpoints.forget(id);
                    }
                    !drop
                });
            }
            if checkpoints.memory() < before {
                return;
            }
        }
    }

    /// Compares the state with the checkpoints of its instruction (`is_state_visited`): how the path
    /// ends, if one includes it. If none does, saves it where that may help later.
    fn find_explored(
        &mut self,
        state: &mut State,
        join: Join,
    ) -> Result<Option<Seen<'static>>, Reason> {
        let has_come_back = core::mem::take(&mut state.has_come_back);
        let ids = self.saved.entry(state.pc).or_default();
        let mut included = None;
        let mut has_settled = false;
        let checkpoints = &mut self.checkpoints;
        let mut own = 0;
        let limit = self.environment.limits.work;
        let mut work = checkpoints.work;
        for &id in ids.iter().rev() {
            let Some(checkpoint) = checkpoints.get_mut(id) else {
                return Err(Reason::Internal);
            };
            if work > limit {
                return Err(Reason::TooMuchWork(limit));
            }
            if !checkpoint.is_done() && has_come_back {
                has_settled = prune::contains(checkpoint, state, &mut work);
                if has_settled {
                    break;
                }
            } else if !checkpoint.is_done() {
                own += 1;
                if own <= OWN && prune::repeats(checkpoint, state, &mut work) {
                    return Err(Reason::EndlessLoop);
                }
            } else if prune::includes(checkpoint, state, &mut work) {
                checkpoint.hits += 1;
                included = Some(id);
                break;
            } else {
                checkpoint.misses += 1;
            }
        }
        checkpoints.work = work;
        if let Some(id) = included {
            self.rely_on(id, state);
            return Ok(Some(Seen::Included(state.pc)));
        }
        if has_settled {
            self.rely_on_all(state);
            return Ok(Some(Seen::Settled(state.pc)));
        }
        ids.retain(|&id| {
            let keep = checkpoints.get(id).is_some_and(|checkpoint| {
                !checkpoint.is_done() || checkpoint.misses <= PATIENCE * (1 + checkpoint.hits)
            });
            if !keep {
                checkpoints.forget(id);
            }
            keep
        });
        let spacing = SPACING << (checkpoints.open() / PER_SPACING).min(32);
        if state.parent.is_none() || join == Join::Rounds || state.since_checkpoint >= spacing {
            ids.push(checkpoints.save(state));
            state.since_checkpoint = 0;
            self.check_memory()?;
        }
        Ok(None)
    }

    /// The path ends because a checkpoint that it comes from includes its state. What will be found to
    /// depend on that is not known yet, so it is everything.
    fn rely_on_all(&mut self, state: &mut State) {
        let all = super::checkpoint::sources(state, Sources::ALL, state.frames.len());
        let places = super::checkpoint::places(state).map(|(place, _)| place);
        let mut read: Vec<Place> = places.collect();
        for (frame, f) in state.frames.iter().enumerate() {
            let slots = 0..f.stack.slots().len();
            read.extend(slots.map(|slot| Place::Slot { frame, slot }));
        }
        for place in read {
            self.checkpoints.read(state, place);
        }
        self.checkpoints.settle_on(state.parent, all);
    }

    /// The last checkpoint of the path at the helper that the state has come back to
    /// (`find_prev_entry`).
    pub(super) fn last_round(&self, state: &State) -> Option<&Checkpoint> {
        let ids = self.saved.get(&state.pc)?.iter().rev();
        let mut checkpoints = ids.filter_map(|&id| self.checkpoints.get(id));
        checkpoints.find(|checkpoint| {
            !checkpoint.is_done() && checkpoint.state.frames.len() == state.frames.len()
        })
    }

    /// What the exploration of a checkpoint depended on, the path that it ends depends on too.
    fn rely_on(&mut self, id: CheckpointId, state: &mut State) {
        let Some(checkpoint) = self.checkpoints.get(id) else {
            return;
        };
        let (read, precise) = (checkpoint.read, checkpoint.precise);
        let settled_on = checkpoint.settled_on;
        let frames = checkpoint.state.frames.len();
        for place in read.places() {
            self.checkpoints.read(state, place);
        }
        let sources = |marked| super::checkpoint::sources(state, marked, frames);
        self.checkpoints.demand(state.parent, sources(precise));
        self.checkpoints
            .settle_on(state.parent, sources(settled_on));
    }

    fn step(&mut self, state: &mut State) -> Result<Flow, Reason> {
        let step = *self.steps.get(state.pc).ok_or(Reason::Internal)?;
        match step.op {
            Op::Alu64(operation) => self.arithmetic(state, step, operation, Bits::B64)?,
            Op::Alu32(operation) => self.arithmetic(state, step, operation, Bits::B32)?,
            Op::Swap(width) => self.swap(state, step, width)?,
            Op::Truncate(width) => self.truncate(state, step, width)?,
            Op::Wide => {
                let value = self.wide(state.pc, step);
                state.set(step.dst, value);
                state.pc += 1;
            }
            Op::Load(_) | Op::LoadSigned(_) => self.load(state, step)?,
            Op::Store(width) => self.store(state, step, width)?,
            Op::Atomic(width) => self.atomic(state, step, width)?,
            Op::Jump => {
                let target = step.argument as usize;
                state.trail.push(state.pc, target);
                state.pc = target;
                return Ok(Flow::On);
            }
            Op::JumpIf64(condition) => return self.branch(state, step, condition, Bits::B64),
            Op::JumpIf32(condition) => return self.branch(state, step, condition, Bits::B32),
            Op::Function => {
                let entry = step.argument as u32;
                state.set(step.dst, Pointer::to(Kind::Function { entry }));
                state.pc += 1;
            }
            Op::Call => return self.call(state, step),
            Op::Helper(helper) => self.call_helper(state, helper)?,
            Op::Exit => return self.leave(state),
            Op::Invalid => return Err(self.unknown_call(state.pc)),
            // Only what has been verified is marked so.
            Op::LoadGuest(_) | Op::LoadGuestSigned(_) => return Err(Reason::Internal),
        }
        state.pc += 1;
        Ok(Flow::On)
    }

    /// Why a call of something that there is not is refused. The structure's check has refused all
    /// else that cannot be decoded.
    fn unknown_call(&self, pc: usize) -> Reason {
        match self.insns.get(pc) {
            Some(insn) if insn.code == CALL && insn.src == 0 => Reason::Helper(insn.imm),
            Some(insn) if insn.code == CALL => Reason::KernelFunction,
            _ => Reason::Internal,
        }
    }

    /// The value of a 64-bit immediate.
    fn wide(&self, pc: usize, step: Step) -> Value {
        let insn = self.insns[pc];
        let map = insn.imm as u16;
        match insn.src {
            PSEUDO_MAP => Pointer::to(Kind::Map { map }).into(),
            PSEUDO_MAP_VALUE => {
                let offset = self.insns.get(pc + 1).map_or(0, |next| next.imm);
                Pointer {
                    fixed: offset,
                    ..Pointer::to(Kind::MapValue { map })
                }
                .into()
            }
            _ => Scalar::constant(step.immediate).into(),
        }
    }

    /// A number that nothing has yet.
    pub(super) fn new_id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    /// What a register holds.
    pub(super) fn read(&mut self, state: &mut State, register: u8) -> Result<Value, Reason> {
        let value = state.peek(register);
        if value == Value::Unset {
            return Err(Reason::Unset(register));
        }
        if register < crate::insn::FP {
            let place = Place::Register {
                frame: state.depth(),
                register: register.into(),
            };
            self.checkpoints.read(state, place);
        }
        Ok(value)
    }

    /// The source operand of a step: a register or its immediate.
    pub(super) fn operand(&mut self, state: &mut State, step: Step) -> Result<Value, Reason> {
        if step.src == IMMEDIATE {
            Ok(Scalar::constant(step.immediate).into())
        } else {
            self.read(state, step.src)
        }
    }

    /// A verdict depends on the scalar's value.
    pub(super) fn demand(&mut self, state: &State, scalar: &Scalar) {
        self.checkpoints.demand(state.parent, scalar.sources);
    }
}
