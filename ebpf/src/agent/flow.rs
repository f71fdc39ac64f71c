//! The bytecodes of an expression that can be reached, and how many values are on the stack before each.

use super::opcode::{Opcode, Operand};
use super::refused::Reason;
use super::{MAX_ARGUMENTS, MAX_DEPTH, MAX_LENGTH, Purpose};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// A bytecode with its operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Step<'a> {
    pub(super) offset: usize,
    pub(super) opcode: Opcode,
    /// The number behind it; of [`Opcode::Printf`] how many values it prints.
    pub(super) operand: u64,
    /// The text behind it, with its NUL.
    pub(super) text: &'a [u8],
    /// The offset behind it.
    pub(super) next: usize,
    /// How many values there are before it.
    pub(super) depth: usize,
    /// Whether a jump leads here.
    pub(super) is_target: bool,
}

impl Step<'_> {
    /// How many values it takes, and how many it puts there.
    fn effect(&self) -> (usize, usize) {
        let (pops, pushes) = self.opcode.effect();
        match self.opcode {
            Opcode::Printf => (pops + self.operand as usize, pushes),
            _ => (pops, pushes),
        }
    }

    /// How many values it looks at.
    fn wants(&self) -> usize {
        match self.opcode {
            Opcode::Pick => self.operand as usize + 1,
            _ => self.effect().0,
        }
    }

    /// Where it jumps to, if it does.
    pub(super) fn target(&self) -> Option<usize> {
        matches!(self.opcode, Opcode::IfGoto | Opcode::Goto).then_some(self.operand as usize)
    }

    /// Whether what follows it is reached.
    pub(super) fn falls_through(&self) -> bool {
        !matches!(self.opcode, Opcode::Goto | Opcode::End)
    }
}

/// A reason and the bytecode that it is about.
pub(super) struct Wrong {
    pub(super) opcode: Option<Opcode>,
    pub(super) offset: usize,
    pub(super) reason: Reason,
}

impl Step<'_> {
    pub(super) fn wrong(&self, reason: Reason) -> Wrong {
        Wrong {
            opcode: Some(self.opcode),
            offset: self.offset,
            reason,
        }
    }
}

pub(super) fn wrong(offset: usize, reason: Reason) -> Wrong {
    Wrong {
        opcode: None,
        offset,
        reason,
    }
}

/// All bytecodes that can be reached, by offset. No one begins inside another, so the one behind each is the next.
pub(super) fn steps(code: &[u8], purpose: Purpose) -> Result<Vec<Step<'_>>, Wrong> {
    if code.is_empty() {
        return Err(wrong(0, Reason::Empty));
    }
    if code.len() > MAX_LENGTH {
        return Err(wrong(0, Reason::TooLong));
    }
    let mut steps: BTreeMap<usize, Step<'_>> = BTreeMap::new();
    // Where ways go on, and with how many values.
    let mut ways = alloc::vec![(0, 0)];
    let mut targets = Vec::new();
    while let Some((offset, depth)) = ways.pop() {
        if let Some(known) = steps.get(&offset) {
            if known.depth != depth {
                return Err(known.wrong(Reason::Depths(known.depth, depth)));
            }
            continue;
        }
        let step = Step {
            depth,
            ..decode(code, offset)?
        };
        check(&step, purpose)?;
        let (pops, pushes) = step.effect();
        let after = depth - pops + pushes;
        if let Some(target) = step.target() {
            if target >= code.len() {
                return Err(step.wrong(Reason::BadTarget(step.operand as u16)));
            }
            targets.push((target, step));
            ways.push((target, after));
        }
        if step.falls_through() {
            if step.next >= code.len() {
                return Err(step.wrong(Reason::CutOff));
            }
            ways.push((step.next, after));
        }
        steps.insert(offset, step);
    }
    check_overlaps(&steps, &targets)?;
    for (target, _) in targets {
        if let Some(step) = steps.get_mut(&target) {
            step.is_target = true;
        }
    }
    Ok(steps.into_values().collect())
}

/// Refuses jumps into the middle of a bytecode.
fn check_overlaps(
    steps: &BTreeMap<usize, Step<'_>>,
    targets: &[(usize, Step<'_>)],
) -> Result<(), Wrong> {
    let mut end = 0;
    for step in steps.values() {
        if step.offset < end {
            let is_culprit = |(target, _): &&(usize, Step<'_>)| *target == step.offset;
            let culprit = targets.iter().find(is_culprit).map_or(step, |(_, it)| it);
            return Err(culprit.wrong(Reason::BadTarget(step.offset as u16)));
        }
        end = step.next;
    }
    Ok(())
}

fn decode(code: &[u8], offset: usize) -> Result<Step<'_>, Wrong> {
    let byte = code[offset];
    let opcode =
        Opcode::from_byte(byte).ok_or_else(|| wrong(offset, Reason::NoSuchOpcode(byte)))?;
    let step = Step {
        offset,
        opcode,
        operand: 0,
        text: &[],
        next: offset + 1,
        depth: 0,
        is_target: false,
    };
    let operand = |from: usize, length: usize| {
        let bytes = code.get(from..from + length);
        bytes.ok_or_else(|| step.wrong(Reason::CutOff))
    };
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    };
    Ok(match opcode.operand() {
        Operand::Bytes(length) => Step {
            operand: number(operand(step.next, length.into())?),
            next: step.next + usize::from(length),
            ..step
        },
        Operand::Text => {
            let count = operand(step.next, 1)?;
            let length = number(operand(step.next + 1, 2)?) as usize;
            Step {
                operand: number(count),
                text: operand(step.next + 3, length)?,
                next: step.next + 3 + length,
                ..step
            }
        }
    })
}

/// Whether the bytecode is one that there can be here, with as many values as there are.
fn check(step: &Step<'_>, purpose: Purpose) -> Result<(), Wrong> {
    let depth = step.depth;
    if step.opcode.is_floating() {
        return Err(step.wrong(Reason::FloatingPoint));
    }
    if step.opcode.collects() && purpose != Purpose::Collection {
        return Err(step.wrong(Reason::CollectsIn(purpose)));
    }
    if step.opcode == Opcode::Printf && step.operand as usize > MAX_ARGUMENTS {
        return Err(step.wrong(Reason::Arguments(step.operand as usize)));
    }
    let needs_value = step.opcode == Opcode::End && purpose.has_value();
    let wanted = step.wants().max(usize::from(needs_value));
    if wanted > depth {
        return Err(step.wrong(Reason::Underflow { wanted, depth }));
    }
    let (pops, pushes) = step.effect();
    if depth - pops + pushes > MAX_DEPTH {
        return Err(step.wrong(Reason::Overflow));
    }
    Ok(())
}
