//! What is accepted is safe. Random programs run in the interpreter, which checks every access; a
//! fault of an accepted one is an error of the verifier: an access outside of one value of a map,
//! the stack or the context, a write to what is read-only, something that is no map given as one, a
//! call too deep, a run over its budget.

use super::random::{guest_number, program};
use super::*;
use crate::object::Object;
use crate::stack::FRAME_SIZE;
use crate::testing::{self, FakeHost};
use crate::verify::log::Known;
use crate::verify::value::Value;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

/// What a run may take: far more than any accepted program of these tests.
const BUDGET: u64 = 10_000_000;

fn contexts() -> impl Strategy<Value = Vec<[u64; 8]>> {
    prop::collection::vec(prop::array::uniform8(guest_number()), 6)
}

fn run(object: &Object, arguments: &[u64; 8]) -> Result<u64, crate::RunError> {
    let mut context = testing::context();
    context[..8].copy_from_slice(arguments);
    object.programs()[0].run_within(BUDGET, &context, &FakeHost::new())
}

fn load(insns: &[Insn]) -> Object {
    Object::load_unverified(&testing::linked(insns, &maps()), 1).expect("the maps are small")
}

fn verify(insns: &[Insn], pruning: Pruning) -> Result<Verified, Refused> {
    verdict(insns, None, pruning, &mut Silent)
}

/// Collects what r0 can be where the program ends.
struct Results<'a> {
    insns: &'a [Insn],
    values: Vec<Value>,
}

impl Observer for Results<'_> {
    fn step(&mut self, step: Step<'_>) {
        if let Step::Instruction(insn, Known(state)) = step
            && self.insns[insn].code == crate::insn::EXIT
            && state.depth() == 0
        {
            self.values.push(state.peek(0));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        max_global_rejects: 1_000_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn accepted_programs_do_not_fault(insns in program(), contexts in contexts()) {
        let Ok(verified) = verify(&insns, Pruning::On) else {
            return Ok(());
        };
        prop_assert!(verified.stack <= FRAME_SIZE);
        let object = load(&insns);
        for arguments in &contexts {
            let result = run(&object, arguments);
            prop_assert!(result.is_ok(), "{result:?}\n{}", listing(&insns));
        }
    }

    /// No path that ends where another includes it hides what would have been refused.
    #[test]
    fn pruning_changes_no_verdict(insns in program()) {
        if let (Ok(_), Err(refused)) = (verify(&insns, Pruning::On), verify(&insns, Pruning::Off)) {
            let too_complex = matches!(refused.reason, Reason::TooManySteps(_) | Reason::TooMuchMemory(_));
            prop_assert!(too_complex, "{refused:?}\n{}", listing(&insns));
        }
    }

    /// What a run returns is among what was known of it.
    #[test]
    fn results_are_foreseen(insns in program(), contexts in contexts()) {
        let mut results = Results { insns: &insns, values: Vec::new() };
        if verdict(&insns, None, Pruning::Off, &mut results).is_err() {
            return Ok(());
        }
        let object = load(&insns);
        for arguments in &contexts {
            let result = run(&object, arguments).expect("accepted programs run");
            let is_foreseen = results.values.iter().any(|value| match value {
                Value::Scalar(scalar) => scalar.bounds.contains(result),
                _ => true,
            });
            prop_assert!(is_foreseen, "{result:#x} {arguments:x?}\n{}", listing(&insns));
        }
    }
}

fn listing(insns: &[Insn]) -> String {
    let lines = (0..insns.len()).map(|index| {
        let text = Text::new(insns, index);
        alloc::format!("{index}: {text}\n")
    });
    lines.collect()
}

/// The tests above would prove nothing if most programs were refused, or none were.
#[test]
fn many_random_programs_are_accepted_and_many_are_not() {
    let mut runner = TestRunner::deterministic();
    let accepted = (0..500)
        .filter(|_| {
            let tree = program().new_tree(&mut runner).expect("a program");
            verify(&tree.current(), Pruning::On).is_ok()
        })
        .count();
    assert!((100..400).contains(&accepted), "{accepted} of 500");
}
