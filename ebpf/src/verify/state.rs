//! The state of the program at a point of a path: the frames of the functions that are being
//! executed, and what they owe.

use super::checkpoint::CheckpointId;
use super::stack::{SLOT, Stack};
use super::touched::Touched;
use super::value::{Pointer, Value};
use crate::insn::FP;
use crate::stack::MAX_FRAMES;
use alloc::vec::Vec;
use core::fmt;

/// Registers of a frame, without the frame pointer.
pub(super) const REGISTERS: usize = FP as usize;

/// That a helper called the function, and will again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Callback {
    /// How many references there were before.
    pub(super) references: usize,
}

/// A function that is being executed.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// The function's number.
    pub(super) function: usize,
    /// Where execution goes on when it returns; of the program itself, 0. Of one that a helper has
    /// called, the call of the helper.
    pub(super) return_to: usize,
    /// Of one that a helper has called.
    pub(super) callback: Option<Callback>,
    /// How often the helper that the function waits for has called another.
    pub(super) rounds: u32,
    pub(super) registers: [Value; REGISTERS],
    pub(super) stack: Stack,
}

impl Frame {
    pub(super) fn new(function: usize, return_to: usize) -> Self {
        Self {
            function,
            return_to,
            callback: None,
            rounds: 0,
            registers: [Value::Unset; REGISTERS],
            stack: Stack::default(),
        }
    }
}

/// Something that a helper gave and another must take back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reference {
    pub(super) id: u32,
    /// The call that gave it.
    pub(super) insn: usize,
}

/// How many steps of a path are remembered for messages.
const STEPS: usize = 8;

/// The last steps of a path that did not go to the next instruction, or might not have: from where
/// to where.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Trail {
    steps: [(u32, u32); STEPS],
    count: usize,
}

impl Trail {
    pub(super) fn push(&mut self, from: usize, to: usize) {
        self.steps[self.count % STEPS] = (from as u32, to as u32);
        self.count += 1;
    }
}

impl fmt::Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.count.saturating_sub(STEPS);
        f.write_str(if first == 0 { "0" } else { "..." })?;
        for index in first..self.count {
            let (from, to) = self.steps[index % STEPS];
            write!(f, "-{from}, {to}")?;
        }
        Ok(())
    }
}

/// The state at a point of a path.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// The next instruction.
    pub(super) pc: usize,
    /// From the outermost to the one that is being executed; never empty.
    pub(super) frames: Vec<Frame>,
    pub(super) references: Vec<Reference>,
    /// The last checkpoint on the path.
    pub(super) parent: Option<CheckpointId>,
    /// What has been written since then, or been noted there as read.
    pub(super) settled: Touched,
    /// Instructions since the last checkpoint.
    pub(super) since_checkpoint: usize,
    /// Whether a function that a helper called has just returned to it.
    pub(super) has_come_back: bool,
    pub(super) trail: Trail,
}

impl State {
    /// At the start of a program: r1 is the context.
    pub(super) fn start() -> Self {
        let mut frame = Frame::new(0, 0);
        frame.registers[1] = Pointer::to(super::value::Kind::Context).into();
        Self {
            pc: 0,
            frames: alloc::vec![frame],
            references: Vec::new(),
            parent: None,
            settled: Touched::ALL,
            since_checkpoint: 0,
            has_come_back: false,
            trail: Trail::default(),
        }
    }

    /// The number of the innermost frame.
    pub(super) fn depth(&self) -> usize {
        self.frames.len() - 1
    }

    pub(super) fn frame(&self) -> &Frame {
        // There is at least one, and `leave` keeps it.
        &self.frames[self.frames.len() - 1]
    }

    pub(super) fn frame_mut(&mut self) -> &mut Frame {
        let last = self.frames.len() - 1;
        &mut self.frames[last]
    }

    /// The first register of a frame that matters still: r0 to r5 of a function that waits for
    /// another are lost when that returns, unless it is a helper that calls it, which looks at them
    /// again.
    pub(super) fn first_kept(&self, frame: usize) -> usize {
        match self.frames.get(frame + 1) {
            Some(Frame { callback: None, .. }) => 6,
            _ => 0,
        }
    }

    /// What a register holds, without noting that it is read.
    pub(super) fn peek(&self, register: u8) -> Value {
        if register == FP {
            return Pointer::stack(self.depth()).into();
        }
        self.frame().registers[usize::from(register)]
    }

    /// Sets a register other than the frame pointer.
    pub(super) fn set(&mut self, register: u8, value: impl Into<Value>) {
        let depth = self.depth();
        self.settled.add_register(depth, register.into());
        self.frame_mut().registers[usize::from(register)] = value.into();
    }

    /// How many references there were when the function was called that a helper calls, if one is
    /// being executed: they are its caller's.
    pub(super) fn references_before_callback(&self) -> usize {
        let mut callbacks = self.frames.iter().filter_map(|frame| frame.callback);
        callbacks
            .next_back()
            .map_or(0, |callback| callback.references)
    }

    /// Enters a function.
    pub(super) fn enter(&mut self, frame: Frame) {
        self.frames.push(frame);
        // Nothing in it can have been there at the last checkpoint.
        self.settled.add_frame(self.depth());
    }

    /// All registers and spilled registers of all frames.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Value> {
        self.frames.iter_mut().flat_map(|frame| {
            let spilled = frame
                .stack
                .slots_mut()
                .iter_mut()
                .filter_map(|slot| slot.spilled.as_deref_mut());
            frame.registers.iter_mut().chain(spilled)
        })
    }

    /// Bytes that the state takes, about.
    pub(super) fn memory(&self) -> usize {
        let frame = |frame: &Frame| {
            let spilled = frame
                .stack
                .slots()
                .iter()
                .filter(|slot| slot.spilled.is_some());
            size_of::<Frame>()
                + frame.stack.depth() / SLOT * size_of::<super::stack::Slot>()
                + spilled.count() * size_of::<Value>()
        };
        size_of::<Self>() + self.frames.iter().map(frame).sum::<usize>()
    }
}

const _: () = assert!(MAX_FRAMES <= super::touched::FRAMES);

impl fmt::Display for State {
    /// The registers and the stack of the innermost frame, as the kernel's log shows them
    /// (`print_verifier_state`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let depth = self.depth();
        let mut separator = "";
        if depth > 0 {
            write!(f, "frame{depth}:")?;
            separator = " ";
        }
        for (number, value) in self.frame().registers.iter().enumerate() {
            if *value != Value::Unset {
                write!(f, "{separator}R{number}={value}")?;
                separator = " ";
            }
        }
        write!(f, "{separator}R10=fp")?;
        for (index, slot) in self.frame().stack.slots().iter().enumerate() {
            let offset = (index + 1) * SLOT;
            match slot.spilled.as_deref() {
                Some(value) => write!(f, " fp-{offset}={value}")?,
                None if slot
                    .bytes
                    .iter()
                    .all(|&byte| byte == super::stack::Byte::Unset) => {}
                None => {
                    write!(f, " fp-{offset}=")?;
                    slot.bytes
                        .iter()
                        .try_for_each(|&byte| f.write_str(byte.letter()))?;
                }
            }
        }
        self.references
            .iter()
            .try_for_each(|reference| write!(f, " ref {}@{}", reference.id, reference.insn))
    }
}
