use super::super::{EEXIST, ENOENT, EPERM};
use super::*;
use crate::asm::reg::{FP, R0, R1, R2, R3, R4, R5, R6, R7};
use crate::asm::{self, alu_imm, exit, load, mov, mov_imm, mov_imm64, store, store_imm};
use crate::insn::{Insn, alu, jmp};
use crate::map::{MapDef, MapKind, Mutability};
use crate::object::RunError;
use crate::testing::{self, FakeHost, GUEST, context};
use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

/// `register = r10 + offset`.
fn stack(register: u8, offset: i32) -> [Insn; 2] {
    [mov(register, FP), alu_imm(alu::ADD, register, offset)]
}

fn run_with(insns: &[Insn], maps: &[MapDef], host: &FakeHost) -> Result<u64, RunError> {
    testing::load(insns, maps).programs()[0].run(&context(), host)
}

fn run(insns: &[Insn], maps: &[MapDef]) -> Result<u64, RunError> {
    run_with(insns, maps, &FakeHost::new())
}

/// Puts bytes on the stack, `offset` (a multiple of 8) from its end, with a NUL behind.
fn put_text(text: &[u8], offset: i16) -> Vec<Insn> {
    let mut program = Vec::new();
    let padded = [text, &[0]].concat();
    for (index, chunk) in padded.chunks(8).enumerate() {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        program.extend(mov_imm64(R0, u64::from_le_bytes(word)));
        program.push(store(FP, offset + 8 * index as i16, R0));
    }
    program
}

/// `r0 = map_update_elem(map, key at -4, value at -16, flags)`, the key and value set first.
fn update(map: i32, key: i32, value: i32, flags: i32) -> Vec<Insn> {
    let mut program = vec![asm::store_imm32(FP, -4, key), store_imm(FP, -16, value)];
    program.extend(asm::map(R1, map));
    program.extend(stack(R2, -4));
    program.extend(stack(R3, -16));
    program.extend([mov_imm(R4, flags), asm::call(Helper::MapUpdateElem)]);
    program
}

/// `r0 = helper(map, key at -4)`.
fn with_key(helper: Helper, map: i32) -> Vec<Insn> {
    let mut program = Vec::from(asm::map(R1, map));
    program.extend(stack(R2, -4));
    program.push(asm::call(helper));
    program
}

#[test]
fn a_map_gives_back_what_was_put_in() {
    for kind in [
        MapKind::Hash,
        MapKind::Array,
        MapKind::PerCpuArray,
        MapKind::PerCpuHash,
        MapKind::LruHash,
        MapKind::LruPerCpuHash,
    ] {
        let mut program = update(0, 2, -9, 0);
        program.extend(with_key(Helper::MapLookupElem, 0));
        program.extend([load(R0, R0, 0), exit()]);
        assert_eq!(run(&program, &[testing::map(kind, 3)]), Ok(-9_i64 as u64));
    }
}

#[test]
fn a_missing_key_is_null() {
    for kind in [MapKind::Hash, MapKind::Array] {
        let mut program = vec![asm::store_imm32(FP, -4, 3)];
        program.extend(with_key(Helper::MapLookupElem, 0));
        program.push(exit());
        assert_eq!(run(&program, &[testing::map(kind, 3)]), Ok(0));
    }
}

#[test]
fn errors_of_maps_are_those_of_linux() {
    let hash = || testing::map(MapKind::Hash, 1);
    let array = || testing::map(MapKind::Array, 1);
    let frozen = || MapDef {
        mutability: Mutability::Frozen,
        ..array()
    };
    let result = |map: MapDef, programs: &[Vec<Insn>]| {
        let mut program = programs.concat();
        program.push(exit());
        run(&program, &[map])
    };
    let delete = || with_key(Helper::MapDeleteElem, 0);
    assert_eq!(result(hash(), &[update(0, 1, 1, 0), delete()]), Ok(0));
    assert_eq!(
        result(hash(), &[update(0, 1, 1, 0), delete(), delete()]),
        Ok(ENOENT)
    );
    assert_eq!(result(hash(), &[update(0, 1, 1, 2)]), Ok(ENOENT));
    assert_eq!(
        result(hash(), &[update(0, 1, 1, 0), update(0, 1, 1, 1)]),
        Ok(EEXIST)
    );
    assert_eq!(
        result(hash(), &[update(0, 1, 1, 0), update(0, 2, 1, 0)]),
        Ok(E2BIG)
    );
    assert_eq!(result(hash(), &[update(0, 1, 1, 3)]), Ok(EINVAL));
    assert_eq!(result(array(), &[update(0, 1, 1, 0)]), Ok(E2BIG));
    assert_eq!(result(array(), &[update(0, 0, 1, 1)]), Ok(EEXIST));
    assert_eq!(result(array(), &[update(0, 0, 1, 0), delete()]), Ok(EINVAL));
    assert_eq!(result(frozen(), &[update(0, 0, 1, 0)]), Ok(EPERM));
}

#[test]
fn the_value_of_another_cpu_can_be_looked_up() {
    for kind in [MapKind::PerCpuHash, MapKind::PerCpuArray, MapKind::Hash] {
        for cpu in 0..5 {
            let mut program = update(0, 2, 9, 0);
            program.extend(asm::map(R1, 0));
            program.extend(stack(R2, -4));
            program.extend([
                mov_imm(R3, cpu),
                asm::call(Helper::MapLookupPercpuElem),
                asm::jump_imm(jmp::JNE, R0, 0, 2),
                mov_imm(R0, -1),
                exit(),
                load(R0, R0, 0),
                exit(),
            ]);
            let host = FakeHost::on_cpu(1);
            let result = run_with(&program, &[testing::map(kind, 3)], &host);
            let expected = match (kind, cpu) {
                (MapKind::Hash, _) | (_, 4) => u64::MAX,
                (_, 1) => 9,
                _ => 0,
            };
            assert_eq!(result, Ok(expected), "{kind} {cpu}");
        }
    }
}

#[test]
fn an_array_without_groups_has_none() {
    let groups = MapDef {
        value_size: 4,
        ..testing::map(MapKind::CgroupArray, 1)
    };
    for (index, expected) in [(0, EAGAIN), (1, E2BIG)] {
        let mut program = Vec::from(asm::map(R1, 0));
        program.extend([
            mov_imm(R2, index),
            asm::call(Helper::CurrentTaskUnderCgroup),
            exit(),
        ]);
        assert_eq!(run(&program, core::slice::from_ref(&groups)), Ok(expected));
    }
}

#[test]
fn an_access_lies_in_one_value() {
    // Values are neighbours, as in Linux: what leaves one whole lands in the next.
    for (offset, inside) in [
        (0, true),
        (1, false),
        (8, true),
        (16, false),
        (-1, false),
        (-8, true),
        (-16, false),
    ] {
        let mut program = update(0, 1, 5, 0);
        program.extend(with_key(Helper::MapLookupElem, 0));
        program.extend([alu_imm(alu::ADD, R0, offset), load(R0, R0, 0), exit()]);
        assert_eq!(
            run(&program, &[testing::map(MapKind::Array, 3)]).is_ok(),
            inside,
            "{offset}"
        );
    }
}

#[test]
fn a_frozen_value_cannot_be_stored_to() {
    let mut program = Vec::from(asm::map_value(R1, 0, 0));
    program.extend([store_imm(R1, 0, 1), exit()]);
    let frozen = MapDef {
        mutability: Mutability::Frozen,
        ..testing::map(MapKind::Array, 1)
    };
    let fault = run(&program, &[frozen]).expect_err("it is read-only").fault;
    assert!(matches!(
        fault,
        RunFault::BadAccess {
            access: Access::Write,
            ..
        }
    ));
}

#[test]
fn what_is_no_map_is_refused() {
    for value in [0, 5, GUEST, handle() + 1] {
        let mut program = Vec::from(mov_imm64(R1, value));
        program.extend(stack(R2, -4));
        program.extend([asm::call(Helper::MapLookupElem), exit()]);
        let fault = run(&program, &[testing::map(MapKind::Hash, 1)])
            .expect_err("no map")
            .fault;
        assert_eq!(fault, RunFault::NotAMap { value });
    }
}

fn handle() -> u64 {
    address::map_handle(0)
}

#[test]
fn a_key_outside_all_memory_is_refused() {
    let mut program = Vec::from(asm::map(R1, 0));
    program.extend([mov(R2, FP), asm::call(Helper::MapLookupElem), exit()]);
    let fault = run(&program, &[testing::map(MapKind::Hash, 1)])
        .expect_err("past the end")
        .fault;
    assert!(matches!(
        fault,
        RunFault::BadAccess {
            length: 4,
            access: Access::Read,
            ..
        }
    ));
}

/// `r0 = probe_read_kernel(r10 - 64, size, source)`, the stack there all ones before.
fn probe(size: i32, source: u64) -> Vec<Insn> {
    let mut program: Vec<_> = (-8..0).map(|word| store_imm(FP, 8 * word, -1)).collect();
    program.extend(stack(R1, -64));
    program.push(mov_imm(R2, size));
    program.extend(mov_imm64(R3, source));
    program.push(asm::call(Helper::ProbeReadKernel));
    program
}

#[test]
fn probe_read_copies_guest_memory() {
    let mut program = probe(5, GUEST);
    program.extend([load(R0, FP, -64), exit()]);
    assert_eq!(
        run(&program, &[]),
        Ok(u64::from_le_bytes(*b"vm1!\0\xff\xff\xff"))
    );
}

#[test]
fn a_fault_of_probe_read_zeroes_the_target() {
    for source in [0, GUEST - 1, GUEST + 4096 - 8, u64::MAX - 3] {
        let mut program = probe(9, source);
        program.extend([mov(R6, R0), load(R7, FP, -64), load(R0, FP, -56)]);
        // The error, the first eight bytes, and the ninth with seven that stay.
        program.extend([
            mov(R1, R6),
            alu_imm(alu::XOR, R1, -14),
            asm::alu(alu::OR, R7, R1),
        ]);
        program.extend([asm::alu(alu::ADD, R0, R7), exit()]);
        assert_eq!(run(&program, &[]), Ok(u64::MAX - 0xff), "{source:#x}");
    }
}

#[test]
fn probe_read_refuses_a_target_that_is_not_the_programs() {
    for (target, size) in [
        (GUEST, 1),
        (0, 1),
        (address::context(), 8),
        (address::arena(0), 513),
    ] {
        let mut program = Vec::from(mov_imm64(R1, target));
        program.push(mov_imm(R2, size));
        program.extend(mov_imm64(R3, GUEST));
        program.extend([asm::call(Helper::ProbeRead), exit()]);
        let fault = run(&program, &[])
            .expect_err("the target is not writable")
            .fault;
        let expected = RunFault::BadAccess {
            address: target,
            length: size as u32,
            access: Access::Write,
        };
        assert_eq!(fault, expected);
    }
}

#[test]
fn probe_read_of_a_page_crosses_chunks() {
    let mut host = FakeHost::new();
    host.page
        .iter_mut()
        .enumerate()
        .for_each(|(index, byte)| *byte = index as u8);
    let page = MapDef {
        value_size: 4096,
        ..testing::map(MapKind::Array, 1)
    };
    let mut program = Vec::from(asm::map_value(R1, 0, 0));
    program.push(mov_imm(R2, 4096));
    program.extend(mov_imm64(R3, GUEST));
    program.extend([asm::call(Helper::ProbeRead), exit()]);
    let object = testing::load(&program, &[page]);
    assert_eq!(object.programs()[0].run(&context(), &host), Ok(0));
    let mut value = vec![0; 4096];
    object.maps()[0]
        .lookup(&[0; 4], 0, &mut value)
        .expect("the array has an entry 0");
    assert_eq!(value, host.page);
}

#[test]
fn clock_and_cpu() {
    let program = [
        asm::call(Helper::KtimeGetNs),
        asm::call(Helper::KtimeGetNs),
        exit(),
    ];
    assert_eq!(run(&program, &[]), Ok(2));
    let program = [asm::call(Helper::GetSmpProcessorId), exit()];
    assert_eq!(run_with(&program, &[], &FakeHost::on_cpu(3)), Ok(3));
}

#[test]
fn the_probed_function_is_told() {
    let program = [asm::call(Helper::GetFuncIp), exit()];
    assert_eq!(run(&program, &[]), Ok(0));
    let host = FakeHost {
        function: Some(GUEST),
        ..FakeHost::new()
    };
    assert_eq!(run_with(&program, &[], &host), Ok(GUEST));
}

#[test]
fn random_numbers_differ() {
    let number = |calls: usize| {
        let mut program = vec![asm::call(Helper::GetPrandomU32); calls];
        program.push(exit());
        run(&program, &[]).expect("that does not fail")
    };
    let numbers: BTreeSet<u64> = (1..100).map(number).collect();
    assert_eq!(numbers.len(), 99);
    assert!(numbers.iter().all(|number| number >> 32 == 0));
    let ones: u32 = numbers.iter().map(|number| number.count_ones()).sum();
    assert!((1400..1768).contains(&ones), "{ones} of 3168 bits are set");
}

/// `r0 = strncmp(text, size, string)`.
fn strncmp(text: &[u8], size: i32, string: &[u8]) -> Result<u64, RunError> {
    let mut program = put_text(text, -64);
    program.extend(put_text(string, -128));
    program.extend(stack(R1, -64));
    program.push(mov_imm(R2, size));
    program.extend(stack(R3, -128));
    program.extend([asm::call(Helper::Strncmp), exit()]);
    run(&program, &[])
}

#[test]
fn strings_are_compared_as_bytes() {
    assert_eq!(strncmp(b"read", 5, b"read"), Ok(0));
    assert_eq!(strncmp(b"read", 2, b"real"), Ok(0));
    assert_eq!(strncmp(b"", 1, b""), Ok(0));
    assert_eq!(strncmp(b"b", 0, b"a"), Ok(0));
    assert_eq!(strncmp(b"rea", 8, b"read"), Ok((-i64::from(b'd')) as u64));
    assert_eq!(strncmp(b"\xff", 2, b"a"), Ok(u64::from(0xff - b'a')));
}

/// `r0 = snprintf(r10 - 16, size, "%s-%d", [guest, -7])`, the target all ones before; then `r0 = [r10 + offset]` if one
/// is given.
fn snprintf(size: i32, offset: Option<i16>) -> Result<u64, RunError> {
    let mut program = put_text(b"%s-%d", -64);
    program.extend([store_imm(FP, -16, -1), store_imm(FP, -8, -1)]);
    program.extend(mov_imm64(R0, GUEST));
    program.extend([store(FP, -96, R0), store_imm(FP, -88, -7)]);
    program.extend(stack(R1, -16));
    program.push(mov_imm(R2, size));
    program.extend(stack(R3, -64));
    program.extend(stack(R4, -96));
    program.extend([mov_imm(R5, 16), asm::call(Helper::Snprintf)]);
    program.extend(offset.map(|offset| load(R0, FP, offset)));
    program.push(exit());
    run(&program, &[])
}

#[test]
fn snprintf_cuts_and_says_the_whole_length() {
    let word = |bytes: &[u8; 8]| Ok(u64::from_le_bytes(*bytes));
    assert_eq!(snprintf(16, None), Ok(8));
    assert_eq!(snprintf(16, Some(-16)), word(b"vm1!--7\0"));
    assert_eq!(snprintf(4, None), Ok(8));
    assert_eq!(snprintf(4, Some(-16)), word(b"vm1\0\xff\xff\xff\xff"));
    assert_eq!(snprintf(0, None), Ok(8));
    assert_eq!(snprintf(0, Some(-16)), Ok(u64::MAX));
}

/// `r0 = trace_printk(text, with its NUL, r3, r4, r5)`.
fn printk(text: &[u8]) -> Vec<Insn> {
    let mut program = put_text(text, -128);
    program.extend(stack(R1, -128));
    program.extend([
        mov_imm(R2, text.len() as i32 + 1),
        asm::call(Helper::TracePrintk),
        exit(),
    ]);
    program
}

#[test]
fn printk_prints_strings_of_the_guest_and_of_the_program() {
    let mut program = put_text(b"own", -8);
    program.extend(mov_imm64(R3, GUEST));
    program.extend(stack(R4, -8));
    program.extend(mov_imm64(R5, GUEST - 1));
    program.extend(printk(b"%s %s '%s'"));
    let host = FakeHost::new();
    assert_eq!(run_with(&program, &[], &host), Ok(11));
    assert_eq!(host.printed(), ["vm1! own ''"]);
}

#[test]
fn a_string_is_read_up_to_the_end_of_its_page_only() {
    let mut host = FakeHost::new();
    host.page[4090..].copy_from_slice(b"short\0");
    let mut program = Vec::from(mov_imm64(R3, GUEST + 4090));
    program.extend(printk(b"%s"));
    assert_eq!(run_with(&program, &[], &host), Ok(5));
    assert_eq!(host.printed(), ["short"]);
}

#[test]
fn a_bad_format_prints_nothing() {
    let host = FakeHost::new();
    for text in [&b"%d %d %d %d"[..], b"%f", b"\x01"] {
        assert_eq!(run_with(&printk(text), &[], &host), Ok(EINVAL));
    }
    let mut unterminated = put_text(b"hit", -128);
    unterminated.extend(stack(R1, -128));
    unterminated.extend([mov_imm(R2, 3), asm::call(Helper::TracePrintk), exit()]);
    assert_eq!(run_with(&unterminated, &[], &host), Ok(EINVAL));
    assert!(host.printed().is_empty());
}

#[test]
fn vprintk_takes_its_arguments_from_memory() {
    let array = |bytes: i32| {
        let mut program = put_text(b"%d %d %d %d", -128);
        program.extend((0..4).map(|word| store_imm(FP, -32 + 8 * word, word.into())));
        program.extend(stack(R1, -128));
        program.push(mov_imm(R2, 12));
        program.extend(stack(R3, -32));
        program.extend([mov_imm(R4, bytes), asm::call(Helper::TraceVprintk), exit()]);
        program
    };
    let host = FakeHost::new();
    assert_eq!(run_with(&array(32), &[], &host), Ok(7));
    for bytes in [24, 31, 104, -8] {
        assert_eq!(run_with(&array(bytes), &[], &host), Ok(EINVAL), "{bytes}");
    }
    assert!(run_with(&array(40), &[], &host).is_err());
    assert_eq!(host.printed(), ["0 1 2 3"]);
}

#[test]
fn helpers_that_work_long_cost_budget() {
    let mut program = Vec::from(asm::map_value(R1, 0, 0));
    program.push(mov_imm(R2, 4096));
    program.extend(mov_imm64(R3, GUEST));
    program.extend([asm::call(Helper::ProbeRead), exit()]);
    let page = MapDef {
        value_size: 4096,
        ..testing::map(MapKind::Array, 1)
    };
    let object = testing::load(&program, &[page]);
    let run = |budget| object.programs()[0].run_within(budget, &context(), &FakeHost::new());
    assert_eq!(run(500).map_err(|error| error.fault), Err(RunFault::Budget));
    assert_eq!(run(600), Ok(0));
}
