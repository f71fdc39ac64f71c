use super::super::Helper;
use super::*;
use crate::asm::reg::{FP, R0, R1, R2, R3, R4, R5, R6};
use crate::asm::{self, alu_imm, call, exit, jump_imm, mov, mov_imm, mov_imm64, store_imm};
use crate::insn::{Insn, alu, jmp};
use crate::map::{MapDef, MapKind, Output};
use crate::object::{Object, RunError};
use crate::testing::{self, FakeHost, context};
use alloc::vec;
use alloc::vec::Vec;

fn perf(entries: u32) -> MapDef {
    MapDef {
        value_size: 4,
        ..testing::map(MapKind::PerfEventArray, entries)
    }
}

fn ring(bytes: u32) -> MapDef {
    MapDef {
        key_size: 0,
        value_size: 0,
        ..testing::map(MapKind::RingBuf, bytes)
    }
}

fn run(object: &Object, host: &FakeHost) -> Result<u64, RunError> {
    object.programs()[0].run(&context(), host)
}

fn output(object: &Object) -> Output {
    object.maps()[0].output().expect("records pass through it")
}

/// `r0 = perf_event_output(context, map, flags, r10 - 16, 12)`, 12 bytes of which the first is 7.
fn perf_output(flags: u64) -> Vec<Insn> {
    let mut program = vec![store_imm(FP, -16, 7), store_imm(FP, -8, -1)];
    program.extend(asm::map(R2, 0));
    program.extend(mov_imm64(R3, flags));
    program.extend([
        mov(R4, FP),
        alu_imm(alu::ADD, R4, -16),
        mov_imm(R5, 12),
        call(Helper::PerfEventOutput),
        exit(),
    ]);
    program
}

/// Reserves `size` bytes, ends with 1 if there are none, writes 5 to them, and leaves them in r6.
fn reserve(size: i32) -> Vec<Insn> {
    let mut program = Vec::from(asm::map(R1, 0));
    program.extend([
        mov_imm(R2, size),
        mov_imm(R3, 0),
        call(Helper::RingbufReserve),
        jump_imm(jmp::JNE, R0, 0, 2),
        mov_imm(R0, 1),
        exit(),
        mov(R6, R0),
        store_imm(R6, 0, 5),
    ]);
    program
}

/// Gives what is in r6 back, and ends with 0.
fn give_back(helper: Helper) -> [Insn; 5] {
    [
        mov(R1, R6),
        mov_imm(R2, 0),
        call(helper),
        mov_imm(R0, 0),
        exit(),
    ]
}

#[test]
fn a_perf_event_array_passes_records_of_this_cpu() {
    const THIS_CPU: u64 = u32::MAX as u64;
    let cases = [
        (THIS_CPU, 0, 0),
        (THIS_CPU, 4, 0),
        (2, 4, 0),
        (1, 4, EOPNOTSUPP),
        (4, 4, E2BIG),
        (4, 0, E2BIG),
        (5, 8, ENOENT),
        (1 << 32, 4, EINVAL),
        (THIS_CPU, 2, E2BIG),
    ];
    for (flags, entries, expected) in cases {
        let object = testing::load(&perf_output(flags), &[perf(entries)]);
        let host = FakeHost::on_cpu(2);
        assert_eq!(run(&object, &host), Ok(expected), "{flags:#x} of {entries}");
        let bytes = [7, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255];
        let record = (object.maps()[0].id(), bytes.to_vec());
        let expected_records = if expected == 0 { vec![record] } else { vec![] };
        assert_eq!(host.records.take(), expected_records);
        assert_eq!(output(&object).records, u64::from(expected == 0));
    }
}

#[test]
fn what_nobody_takes_is_lost_and_the_program_hears_of_it() {
    let object = testing::load(&perf_output(0), &[perf(0)]);
    let host = FakeHost::new();
    host.room.set(1);
    assert_eq!(run(&object, &host), Ok(0));
    assert_eq!(run(&object, &host), Ok(ENOSPC));
    let Output {
        records,
        lost,
        unread,
    } = output(&object);
    assert_eq!((records, lost, unread), (1, 1, 24));
}

#[test]
fn a_record_comes_from_memory_that_the_program_may_read() {
    let mut program = perf_output(0);
    program[8] = mov_imm(R5, 17);
    let object = testing::load(&program, &[perf(0)]);
    let error = run(&object, &FakeHost::new()).expect_err("it leaves the stack");
    assert!(matches!(
        error.fault,
        RunFault::BadAccess {
            length: 17,
            access: Access::Read,
            ..
        }
    ));
    assert_eq!(output(&object).lost, 0);
}

#[test]
fn a_submitted_record_goes_and_a_discarded_one_does_not() {
    for (helper, count) in [(Helper::RingbufSubmit, 1), (Helper::RingbufDiscard, 0)] {
        let mut program = reserve(8);
        program.extend(give_back(helper));
        let object = testing::load(&program, &[ring(64)]);
        let host = FakeHost::on_cpu(3);
        assert_eq!(run(&object, &host), Ok(0));
        let records = host.records.take();
        assert_eq!(records.len(), count);
        assert!(
            records
                .iter()
                .all(|(_, bytes)| *bytes == [5, 0, 0, 0, 0, 0, 0, 0])
        );
        assert_eq!(output(&object).unread, 16 * count as u64);
    }
}

#[test]
fn a_ring_that_is_not_read_is_full() {
    let mut program = reserve(8);
    program.extend(give_back(Helper::RingbufSubmit));
    let object = testing::load(&program, &[ring(64)]);
    let host = FakeHost::new();
    for expected in [0, 0, 0, 0, 1] {
        assert_eq!(run(&object, &host), Ok(expected));
    }
    let Output {
        records,
        lost,
        unread,
    } = output(&object);
    assert_eq!((records, lost, unread), (4, 1, 64));
    object.maps()[0].has_been_read(8);
    assert_eq!(run(&object, &host), Ok(0));
}

#[test]
fn a_run_that_fails_gives_back_what_it_has_reserved() {
    let mut program = reserve(8);
    program.extend([asm::load(R0, R1, 0), exit()]);
    let object = testing::load(&program, &[ring(64)]);
    let host = FakeHost::new();
    for _ in 0..20 {
        run(&object, &host).expect_err("helpers leave nothing in r1");
        assert_eq!(output(&object).unread, 0);
    }
    assert_eq!(output(&object).lost, 0);
}

#[test]
fn only_what_is_reserved_can_be_given_back() {
    for (change, helper) in [
        (8, Helper::RingbufSubmit),
        (-8, Helper::RingbufDiscard),
        (4096, Helper::RingbufSubmit),
    ] {
        let mut program = reserve(16);
        program.push(alu_imm(alu::ADD, R6, change));
        program.extend(give_back(helper));
        let object = testing::load(&program, &[ring(64)]);
        let error = run(&object, &FakeHost::new()).expect_err("it is another address");
        assert!(
            matches!(error.fault, RunFault::NotReserved { .. }),
            "{error}"
        );
    }
    let mut twice = reserve(16);
    twice.extend(&give_back(Helper::RingbufSubmit)[..3]);
    twice.extend(give_back(Helper::RingbufSubmit));
    let error = run(&testing::load(&twice, &[ring(64)]), &FakeHost::new());
    assert!(matches!(
        error.expect_err("it is given back already").fault,
        RunFault::NotReserved { .. }
    ));
}

#[test]
fn output_copies_and_query_counts() {
    let mut program = vec![store_imm(FP, -8, 9)];
    program.extend(asm::map(R1, 0));
    program.extend([
        mov(R2, FP),
        alu_imm(alu::ADD, R2, -8),
        mov_imm(R3, 3),
        // Do not wake anybody.
        mov_imm(R4, 1),
        call(Helper::RingbufOutput),
        mov(R6, R0),
    ]);
    program.extend(asm::map(R1, 0));
    program.extend([
        mov_imm(R2, 0),
        call(Helper::RingbufQuery),
        asm::alu(alu::ADD, R0, R6),
        exit(),
    ]);
    let object = testing::load(&program, &[ring(64)]);
    let host = FakeHost::new();
    assert_eq!(run(&object, &host), Ok(16));
    assert_eq!(host.records.borrow()[0].1, [9, 0, 0]);
    for expected in [32, 48, 64, EAGAIN.wrapping_add(64)] {
        assert_eq!(run(&object, &host), Ok(expected));
    }
    program[6] = mov_imm(R4, 4);
    let object = testing::load(&program, &[ring(64)]);
    assert_eq!(run(&object, &host), Ok(EINVAL));
}
