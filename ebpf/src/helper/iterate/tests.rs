use super::MAX_ROUNDS;
use crate::helper::{E2BIG, EINVAL};
use crate::insn::Insn;
use crate::map::{MapKind, UpdateFlag};
use crate::object::{Object, RunError, RunFault};
use crate::testing::{self, FakeHost, context};
use crate::verify::assemble;
use alloc::format;
use alloc::vec::Vec;

/// Goes round `times` times, with `flags`, and stops after `last`.
fn rounds(times: u32, flags: u32, last: u32) -> Vec<Insn> {
    let text = format!(
        "r1 = {times}\n r2 = subprog[round] ll\n r3 = 0\n r4 = {flags}\n call loop\n exit\n
         round:\n r0 = 0\n if r1 < {last} goto out\n r0 = 1\n out:\n exit"
    );
    assemble(&text).expect("it is well-formed")
}

#[test]
fn a_loop_returns_how_often_it_has_called() {
    let run = |times, last| testing::run(&rounds(times, 0, last));
    assert_eq!(run(0, 100), Ok(0));
    assert_eq!(run(7, 100), Ok(7));
    assert_eq!(run(7, 2), Ok(3), "the call that ends it counts");
}

#[test]
fn a_loop_has_limits() {
    assert_eq!(testing::run(&rounds(MAX_ROUNDS, 0, 0)), Ok(1));
    assert_eq!(testing::run(&rounds(MAX_ROUNDS + 1, 0, 0)), Ok(E2BIG));
    assert_eq!(testing::run(&rounds(1, 1, 0)), Ok(EINVAL));
}

#[test]
fn the_budget_is_for_all_rounds() {
    // Six instructions, and four for each round.
    let object = testing::load(&rounds(10, 0, 100), &[]);
    let run = |budget| object.programs()[0].run_within(budget, &context(), &FakeHost::new());
    let enough = 7 + 10 * 4;
    assert_eq!(run(enough), Ok(10));
    let fault = RunFault::Budget;
    assert_eq!(run(enough - 1), Err(RunError::new(5, fault)));
}

#[test]
fn a_number_is_no_function() {
    let insns = assemble("r1 = 1\n r2 = 8\n r3 = 0\n r4 = 0\n call loop\n exit");
    let fault = RunFault::NotAFunction { value: 8 };
    let result = testing::run(&insns.expect("it is well-formed"));
    assert_eq!(result, Err(RunError::new(4, fault)));
}

/// Adds key and value of each entry to two numbers on the stack, up to an entry whose value is 4, and
/// returns 1000 times the one, 100 times the other and how often it was called.
fn sum() -> Vec<Insn> {
    assemble(
        "*(u64 *)(r10 - 8) = 0\n *(u64 *)(r10 - 16) = 0
         r1 = map[0] ll\n r2 = subprog[each] ll\n r3 = r10\n r3 += -16\n r4 = 0
         call for_each_map_elem
         r1 = *(u64 *)(r10 - 8)\n r1 *= 1000\n r0 += r1
         r1 = *(u64 *)(r10 - 16)\n r1 *= 100\n r0 += r1\n exit
         each:
         r5 = *(u32 *)(r2 + 0)\n r1 = *(u64 *)(r4 + 8)\n r1 += r5\n *(u64 *)(r4 + 8) = r1
         r5 = *(u64 *)(r3 + 0)\n r1 = *(u64 *)(r4 + 0)\n r1 += r5\n *(u64 *)(r4 + 0) = r1
         r0 = 0\n if r5 != 4 goto out\n r0 = 1\n out:\n exit",
    )
    .expect("it is well-formed")
}

fn filled(kind: MapKind, entries: &[(u32, u64)]) -> Object {
    let object = testing::load(&sum(), &[testing::map(kind, 4)]);
    for (key, value) in entries {
        let [key, value] = [&key.to_le_bytes()[..], &value.to_le_bytes()];
        let updated = object.maps()[0].update(key, 1, value, UpdateFlag::Any);
        assert_eq!(updated, Ok(()));
    }
    object
}

fn run(object: &Object) -> Result<u64, RunError> {
    object.programs()[0].run(&context(), &FakeHost::on_cpu(1))
}

#[test]
fn every_entry_is_shown() {
    for kind in [
        MapKind::Hash,
        MapKind::PerCpuHash,
        MapKind::LruHash,
        MapKind::LruPerCpuHash,
    ] {
        assert_eq!(run(&filled(kind, &[])), Ok(0), "{kind}");
        let object = filled(kind, &[(2, 3), (7, 1)]);
        assert_eq!(run(&object), Ok(9 * 1000 + 4 * 100 + 2), "{kind}");
    }
    for kind in [MapKind::Array, MapKind::PerCpuArray] {
        let object = filled(kind, &[(1, 2), (3, 1)]);
        assert_eq!(run(&object), Ok(6 * 1000 + 3 * 100 + 4), "{kind}");
    }
}

#[test]
fn it_ends_where_the_function_says() {
    let object = filled(MapKind::Array, &[(1, 4), (3, 1)]);
    assert_eq!(run(&object), Ok(1000 + 4 * 100 + 2));
}

#[test]
fn what_is_looked_at_is_paid_for() {
    let empty = testing::load(&sum(), &[testing::map(MapKind::Hash, 1 << 16)]);
    let run = |budget| empty.programs()[0].run_within(budget, &context(), &FakeHost::new());
    let fault = RunFault::Budget;
    assert_eq!(run(8000), Err(RunError::new(9, fault)));
    assert_eq!(run(8300), Ok(0));
}
