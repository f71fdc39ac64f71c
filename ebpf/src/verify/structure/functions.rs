//! The functions of a program and the calls between them.

use super::{Reason, Refusal};
use crate::helper::Helper;
use crate::insn::{CALL, EXIT, Insn, PSEUDO_CALL, PSEUDO_FUNCTION, X, class, jmp};
use crate::stack::MAX_FRAMES;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// The instruction that is `distance` behind the one after `index`.
fn target(index: usize, distance: i32) -> Option<usize> {
    let target = i64::try_from(index).ok()? + 1 + i64::from(distance);
    usize::try_from(target).ok()
}

/// Which function `insn` calls, or takes the address of so that a helper calls it.
fn callee(insn: Insn, index: usize) -> Option<Option<usize>> {
    let is_call = insn.code == CALL && insn.src == PSEUDO_CALL;
    let is_address = insn.is_wide() && insn.src == PSEUDO_FUNCTION;
    (is_call || is_address).then(|| target(index, insn.imm))
}

/// A program's main function or one of its subprograms.
#[derive(Debug)]
struct Function {
    range: Range<usize>,
    /// The functions that it calls, by number, and where.
    calls: Vec<(usize, usize)>,
}

/// The functions of a program, by number: 0 is the program itself.
#[derive(Debug)]
pub(in crate::verify) struct Functions {
    all: Vec<Function>,
    /// Their numbers, everyone after those that it calls.
    callees_first: Vec<usize>,
}

/// What can meet at an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::verify) enum Join {
    /// Paths: it is the target of a jump, or a function begins there.
    Paths,
    /// The rounds of a helper that calls a function, which it is.
    Rounds,
}

/// Where paths can meet.
pub(in crate::verify) struct JoinPoints(Vec<Option<Join>>);

impl JoinPoints {
    pub(in crate::verify) fn of(insns: &[Insn]) -> Self {
        let mut points = vec![None; insns.len()];
        let mut mark = |index: Option<usize>, join| {
            if let Some(point) = index.and_then(|index| points.get_mut(index)) {
                *point = Some(join);
            }
        };
        mark(Some(0), Join::Paths);
        for (index, &insn) in insns.iter().enumerate() {
            if let Some(distance) = jump_distance(insn) {
                mark(target(index, distance), Join::Paths);
            }
            mark(callee(insn, index).flatten(), Join::Paths);
        }
        for (index, _) in insns
            .iter()
            .enumerate()
            .filter(|(_, insn)| calls_back(insn))
        {
            mark(Some(index), Join::Rounds);
        }
        Self(points)
    }

    pub(in crate::verify) fn at(&self, index: usize) -> Option<Join> {
        self.0.get(index).copied().flatten()
    }
}

fn calls_back(insn: &Insn) -> bool {
    let helper = Helper::from_number(insn.imm);
    insn.code == CALL && insn.src == 0 && helper.is_some_and(Helper::calls_back)
}

impl Functions {
    /// Splits a program at the targets of its calls and checks that control stays in the functions.
    /// `starts` tells where instructions begin.
    pub(super) fn split(insns: &[Insn], starts: &[bool]) -> Result<Self, Refusal> {
        let all = split(insns, starts)?;
        for function in &all {
            function.check_jumps(insns, starts)?;
        }
        let callees_first = order(&all)?;
        let functions = Self { all, callees_first };
        functions.check_depth()?;
        Ok(functions)
    }

    /// How many there are.
    pub(in crate::verify) fn count(&self) -> usize {
        self.all.len()
    }

    /// The number of the function that begins at an instruction.
    pub(in crate::verify) fn at(&self, entry: usize) -> Option<usize> {
        self.all
            .binary_search_by_key(&entry, |function| function.range.start)
            .ok()
    }

    /// Whether a function calls another, or takes its address.
    pub(in crate::verify) fn has_call(&self, caller: usize, callee: usize) -> bool {
        let calls = &self.all[caller].calls;
        calls.iter().any(|&(function, _)| function == callee)
    }

    /// The greatest sum of weights along a chain of calls from the program itself.
    pub(in crate::verify) fn heaviest_chain(&self, weight: impl Fn(usize) -> usize) -> usize {
        self.chains(weight)[0]
    }

    /// For every function, the greatest sum of weights along a chain of calls from it.
    fn chains(&self, weight: impl Fn(usize) -> usize) -> Vec<usize> {
        let mut chains = vec![0; self.all.len()];
        for &function in &self.callees_first {
            let calls = self.all[function].calls.iter();
            let below = calls.map(|&(callee, _)| chains[callee]).max();
            chains[function] = weight(function) + below.unwrap_or(0);
        }
        chains
    }

    /// No chain of calls is longer than the stack has frames.
    fn check_depth(&self) -> Result<(), Refusal> {
        let frames = self.chains(|_| 1);
        let deep = (0..self.all.len()).find(|&function| frames[function] > MAX_FRAMES);
        deep.map_or(Ok(()), |function| {
            let Function { range, calls } = &self.all[function];
            let index = calls.first().map_or(range.start, |call| call.1);
            Err((index, Reason::CallDepth))
        })
    }
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

/// How far the search for an order has come with a function.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Search {
    Unknown,
    /// It is being searched: who meets it again has found a cycle.
    Searching,
    Done,
}

/// The numbers of the functions, everyone after those that it calls. No function calls itself.
fn order(functions: &[Function]) -> Result<Vec<usize>, Refusal> {
    let mut searches = vec![Search::Unknown; functions.len()];
    let mut order = Vec::with_capacity(functions.len());
    // Functions that are being searched, outermost first, each with its next call to look at. A
    // function is put here at most once, so the list is bounded, and there is no recursion of ours
    // either.
    let mut path = vec![(0, 0)];
    searches[0] = Search::Searching;
    while let Some((function, next)) = path.pop() {
        let Some(&(callee, index)) = functions[function].calls.get(next) else {
            searches[function] = Search::Done;
            order.push(function);
            continue;
        };
        path.push((function, next + 1));
        match searches[callee] {
            Search::Searching => return Err((index, Reason::Recursion)),
            Search::Done => {}
            Search::Unknown => {
                searches[callee] = Search::Searching;
                path.push((callee, 0));
            }
        }
    }
    Ok(order)
}
