//! Random expressions: compiled, they do what the reference does.

use super::host::{ExpressionHost, GUEST};
use super::reference::{self, Outcome};
use super::{TestRegisters, expression};
use crate::agent::{Opcode, Place, Purpose, Reason, compile};
use crate::object::RunFault;
use crate::testing::context;
use alloc::vec::Vec;
use proptest::prelude::*;

/// Bytecodes that need nothing of their operand, with how many values they take and give.
const SIMPLE: &[(Opcode, usize, usize)] = &[
    (Opcode::Add, 2, 1),
    (Opcode::Sub, 2, 1),
    (Opcode::Mul, 2, 1),
    (Opcode::DivSigned, 2, 1),
    (Opcode::DivUnsigned, 2, 1),
    (Opcode::RemSigned, 2, 1),
    (Opcode::RemUnsigned, 2, 1),
    (Opcode::Lsh, 2, 1),
    (Opcode::RshSigned, 2, 1),
    (Opcode::RshUnsigned, 2, 1),
    (Opcode::LogNot, 1, 1),
    (Opcode::BitAnd, 2, 1),
    (Opcode::BitOr, 2, 1),
    (Opcode::BitXor, 2, 1),
    (Opcode::BitNot, 1, 1),
    (Opcode::Equal, 2, 1),
    (Opcode::LessSigned, 2, 1),
    (Opcode::LessUnsigned, 2, 1),
    (Opcode::Dup, 1, 2),
    (Opcode::Pop, 1, 0),
    (Opcode::Swap, 2, 2),
    (Opcode::Rot, 3, 3),
    (Opcode::Trace, 2, 0),
    (Opcode::Tracenz, 2, 0),
];

/// Writes expressions as a list of decisions says.
struct Author<'a> {
    decisions: core::slice::Iter<'a, u64>,
    code: Vec<u8>,
    depth: usize,
}

impl Author<'_> {
    fn decide(&mut self) -> Option<u64> {
        self.decisions.next().copied()
    }

    fn put(&mut self, opcode: Opcode, operand: &[u8]) {
        self.code.push(opcode as u8);
        self.code.extend(operand);
    }

    fn constant(&mut self, value: u64) {
        let bytes = value.to_be_bytes();
        match value {
            0..=0xff => self.put(Opcode::Const8, &bytes[7..]),
            0x100..=0xffff => self.put(Opcode::Const16, &bytes[6..]),
            0x1_0000..=0xffff_ffff => self.put(Opcode::Const32, &bytes[4..]),
            _ => self.put(Opcode::Const64, &bytes),
        }
        self.depth += 1;
    }

    /// Puts something, as long as there are decisions. Jumps lead forwards, over other things that leave as many values as
    /// they find.
    fn block(&mut self, nesting: usize) {
        while let Some(decision) = self.decide() {
            let value = decision >> 8;
            match decision as u8 {
                0..60 => self.constant(value >> (decision as u8 % 56)),
                60..80 => self.constant(GUEST + value % 70),
                80..100 => {
                    let number = [0, 5, 31, 32, 33, 68][value as usize % 6];
                    self.put(Opcode::Reg, &[0, number]);
                    self.depth += 1;
                }
                100..115 if self.depth > 0 => {
                    let reads = [Opcode::Ref8, Opcode::Ref16, Opcode::Ref32, Opcode::Ref64];
                    self.put(reads[value as usize % 4], &[]);
                }
                115..130 if self.depth > 0 => {
                    let extends = [Opcode::Ext, Opcode::ZeroExt][value as usize % 2];
                    self.put(extends, &[(value >> 1) as u8 % 70]);
                }
                130..140 if self.depth > 0 => {
                    let from_top = value as usize % self.depth;
                    self.put(Opcode::Pick, &[from_top as u8]);
                    self.depth += 1;
                }
                140..150 => {
                    // One of them is none.
                    self.put(Opcode::Getv, &[0, value as u8 % 12 % 5]);
                    self.depth += 1;
                }
                150..155 if self.depth > 0 => self.put(Opcode::Setv, &[0, 1 + value as u8 % 3]),
                155..158 => self.put(Opcode::Tracev, &[0, 1 + value as u8 % 3]),
                158..160 if self.depth > 0 => self.put(Opcode::TraceQuick, &[value as u8]),
                160..162 if self.depth > 0 => self.put(Opcode::Trace16, &[1, value as u8]),
                162..175 if self.depth > 0 && nesting < 4 => self.choice(nesting),
                175..180 if nesting > 0 => return,
                _ => self.simple(value),
            }
        }
    }

    fn simple(&mut self, value: u64) {
        let (opcode, pops, pushes) = SIMPLE[value as usize % SIMPLE.len()];
        if self.depth >= pops {
            self.put(opcode, &[]);
            self.depth = self.depth - pops + pushes;
        }
    }

    /// `if_goto one; other…; goto end; one: …; end:`
    fn choice(&mut self, nesting: usize) {
        self.depth -= 1;
        let depth = self.depth;
        let to_one = self.jump(Opcode::IfGoto);
        self.level_block(nesting, depth);
        let to_end = self.jump(Opcode::Goto);
        self.land(to_one);
        self.level_block(nesting, depth);
        self.land(to_end);
    }

    fn level_block(&mut self, nesting: usize, depth: usize) {
        self.block(nesting + 1);
        while self.depth > depth {
            self.put(Opcode::Pop, &[]);
            self.depth -= 1;
        }
        while self.depth < depth {
            self.constant(7);
        }
    }

    fn jump(&mut self, opcode: Opcode) -> usize {
        self.put(opcode, &[0, 0]);
        self.code.len() - 2
    }

    fn land(&mut self, operand: usize) {
        let here = (self.code.len() as u16).to_be_bytes();
        self.code[operand..operand + 2].copy_from_slice(&here);
    }
}

/// An expression that shows all values that it leaves.
fn write(decisions: &[u64]) -> Vec<u8> {
    let mut author = Author {
        decisions: decisions.iter(),
        code: Vec::new(),
        depth: 0,
    };
    author.block(0);
    while author.depth > 0 {
        author.constant(1);
        author.put(Opcode::Trace, &[]);
        author.depth -= 2;
    }
    author.put(Opcode::End, &[]);
    author.code
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn compiled_expressions_do_what_the_manual_says(
        decisions in prop::collection::vec(any::<u64>(), 0..60),
    ) {
        let code = write(&decisions);
        let one = [expression(&code, Purpose::Collection)];
        let compiled = match compile("test", &one, &TestRegisters) {
            Ok(compiled) => compiled,
            Err(refused) => {
                prop_assert_eq!(refused.reason, Reason::Overflow);
                return Ok(());
            }
        };
        let object = compiled.load(1).expect("there is nothing to refuse");
        let hosts = [ExpressionHost::new(), ExpressionHost::new()];
        let expected = reference::evaluate(&code, Purpose::Collection, &context(), &hosts[0]);
        let result = object.programs()[0].run(&context(), &hosts[1]);
        let result: Outcome = match result {
            Ok(_) => Ok(None),
            Err(error) => match error.fault {
                RunFault::Evaluation { place: Place { offset, opcode, .. }, error } => {
                    prop_assert_eq!(code[usize::from(offset)], opcode as u8);
                    Err((offset.into(), error))
                }
                other => panic!("{other:?}"),
            },
        };
        prop_assert_eq!(Some(result), expected);
        prop_assert_eq!(hosts[1].log(), hosts[0].log());
    }

    /// Whatever bytes a client sends, the answer is a program or a refusal, and the program ends.
    #[test]
    fn any_bytes_are_compiled_or_refused(
        code in prop::collection::vec(prop_oneof![
            prop::sample::select(Opcode::ALL).prop_map(|opcode| opcode as u8),
            0..8_u8,
            any::<u8>(),
        ], 0..40),
        purpose in prop::sample::select(&[Purpose::Condition, Purpose::Command, Purpose::Collection]),
    ) {
        let one = [expression(&code, purpose)];
        let loaded = compile("test", &one, &TestRegisters).and_then(|compiled| compiled.load(1));
        if let Ok(object) = loaded {
            let _ = object.programs()[0].run(&context(), &ExpressionHost::new());
        }
    }
}
