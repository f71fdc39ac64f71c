use super::super::{EEXIST, Helper};
use super::*;
use crate::asm::reg::{R2, R3, R4};
use crate::asm::{self, call, exit, mov_imm};
use crate::insn::Insn;
use crate::map::{MapDef, MapError, MapKind};
use crate::object::Object;
use crate::testing::{self, FakeHost, GUEST, USER};
use alloc::vec;
use alloc::vec::Vec;

const PC: u64 = 0xffff_8000_1111_0000;
const CALLER: u64 = 0xffff_8000_2222_0000;
const OUTER: [u64; 2] = [0xffff_8000_3333_0000, 0xffff_8000_4444_0000];
const PROCESS: [u64; 3] = [0x4000_1000, 0x4000_2000, 0x4000_3000];
/// A pointer authentication code, where bit 55 leaves room for it (Arm ARM D8.10).
const SIGNATURE: u64 = 0x7f2b << 48;

/// In a function that was just entered, two frames deep in the kernel, three in the process.
fn host() -> FakeHost {
    let mut host = FakeHost::new();
    host.current = Some(GUEST);
    host.function = Some(PC);
    let registers = 0x600 - STACKFRAME_IN_PT_REGS as usize;
    for (at, word) in [
        (0x100, GUEST + 0x140),
        (0x108, OUTER[0] ^ SIGNATURE),
        (0x140, GUEST + 0x600),
        (0x148, OUTER[1]),
        (registers + 8 * 29, USER + 0x800),
        (registers + 8 * 32, PROCESS[0]),
        (registers + 8 * 33, 0x6000_0000),
        (0x800, USER + 0x820),
        (0x808, PROCESS[1] | SIGNATURE),
        (0x828, PROCESS[2]),
    ] {
        host.page[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    host
}

fn context() -> crate::Context {
    let mut context = [0; 34];
    context[29] = GUEST + 0x100;
    context[30] = CALLER ^ SIGNATURE;
    context[32] = PC;
    context[33] = 0x6000_03c5;
    context
}

fn buffer(bytes: u32) -> MapDef {
    MapDef {
        value_size: bytes,
        ..testing::map(MapKind::Array, 1)
    }
}

/// The result of `get_stack` with a buffer of `bytes`, and what it leaves there.
fn stack_of(host: &FakeHost, bytes: u32, flags: u64) -> (u64, Vec<u64>) {
    let mut program = Vec::from(asm::map_value(R2, 0, 0));
    program.extend([mov_imm(R3, bytes as i32), mov_imm(R4, flags as i32)]);
    program.extend([call(Helper::GetStack), exit()]);
    let object = testing::load(&program, &[buffer(bytes)]);
    let map = &object.maps()[0];
    // It is zeroed where nothing is put.
    let dirty = vec![0xff; bytes as usize];
    map.update(&[0; 4], 0, &dirty, crate::map::UpdateFlag::Any)
        .expect("an array has its entries");
    let result = object.programs()[0].run(&context(), host);
    let mut value = vec![0; bytes as usize];
    map.lookup(&[0; 4], 0, &mut value)
        .expect("an array has its entries");
    let words = value.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    let words = words.collect();
    (result.expect("the buffer is the program's"), words)
}

#[test]
fn the_kernels_stack_begins_with_function_and_caller() {
    let all = vec![PC, CALLER, OUTER[0], OUTER[1], 0, 0];
    assert_eq!(stack_of(&host(), 48, 0), (32, all));
    assert_eq!(stack_of(&host(), 16, 0), (16, vec![PC, CALLER]));
    let rest = vec![OUTER[1], 0, 0];
    assert_eq!(stack_of(&host(), 24, 3), (8, rest));
    // In the middle of a function, x30 is anything.
    let mut middle = host();
    middle.function = None;
    assert_eq!(stack_of(&middle, 16, 0), (16, vec![PC, OUTER[0]]));
}

#[test]
fn the_process_is_found_under_the_kernels_stack() {
    let all = vec![PROCESS[0], PROCESS[1], PROCESS[2], 0];
    assert_eq!(stack_of(&host(), 32, USER_FLAG), (24, all));
    assert_eq!(stack_of(&host(), 8, USER_FLAG | 2), (8, vec![PROCESS[2]]));
}

const USER_FLAG: u64 = super::USER;

#[test]
fn where_nothing_can_be_followed_there_is_an_error_and_zeros() {
    let mut elsewhere = host();
    elsewhere.current = None;
    assert_eq!(stack_of(&elsewhere, 16, 0), (EFAULT, vec![0, 0]));
    let mut thread = host();
    // What is under the stack of a kernel thread was never a process.
    let pstate = 0x600 - STACKFRAME_IN_PT_REGS as usize + 8 * 33;
    thread.page[pstate] = 0xc5;
    assert_eq!(stack_of(&thread, 16, USER_FLAG), (EFAULT, vec![0, 0]));
    assert_eq!(stack_of(&host(), 16, 5), (EFAULT, vec![0, 0]));
    assert_eq!(stack_of(&host(), 16, 1 << 11), (EINVAL, vec![0, 0]));
    assert_eq!(stack_of(&host(), 12, 0), (EINVAL, vec![0, 0]));
}

/// A guest's stack can be anything.
#[test]
fn damaged_stacks_end() {
    let mut cyclic = host();
    cyclic.page[0x140..0x148].copy_from_slice(&(GUEST + 0x100).to_le_bytes());
    let (length, words) = stack_of(&cyclic, 8 * 200, 0);
    assert_eq!(length, 8 * MAX_DEPTH as u64);
    assert_eq!(words[MAX_DEPTH - 1..][..2], [OUTER[0], 0]);
    let mut odd = host();
    odd.page[0x100] = 0x41;
    let expected = vec![PC, CALLER, OUTER[0], 0];
    assert_eq!(stack_of(&odd, 32, 0), (24, expected));
    let mut downwards = host();
    downwards.page[0x800..0x808].copy_from_slice(&(USER + 0x700).to_le_bytes());
    let expected = vec![PROCESS[0], PROCESS[1], 0];
    assert_eq!(stack_of(&downwards, 24, USER_FLAG), (16, expected));
}

fn traces(entries: u32, depth: u32) -> MapDef {
    MapDef {
        value_size: 8 * depth,
        ..testing::map(MapKind::StackTrace, entries)
    }
}

/// `get_stackid(context, map, flags)`.
fn stackid(flags: u64) -> Vec<Insn> {
    let mut program = Vec::from(asm::map(R2, 0));
    program.extend([mov_imm(R3, flags as i32), call(Helper::GetStackid), exit()]);
    program
}

fn id(object: &Object, host: &FakeHost) -> u64 {
    let result = object.programs()[0].run(&context(), host);
    result.expect("it touches no memory")
}

/// The backtrace of a number.
fn trace(object: &Object, number: u64) -> Result<Vec<u64>, MapError> {
    let map = &object.maps()[0];
    let mut value = vec![0; map.definition().value_size as usize];
    map.lookup(&(number as u32).to_le_bytes(), 0, &mut value)?;
    let (words, _) = value.as_chunks::<8>();
    Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

#[test]
fn a_backtrace_has_one_number() {
    let object = testing::load(&stackid(0), &[traces(100, 5)]);
    let host = host();
    let number = id(&object, &host);
    assert!(number < 128);
    assert_eq!(id(&object, &host), number);
    let expected = vec![PC, CALLER, OUTER[0], OUTER[1], 0];
    assert_eq!(trace(&object, number), Ok(expected));
    let map = &object.maps()[0];
    assert_eq!(map.len(), 1);
    let mut shown = Vec::new();
    map.for_each(&mut |entry| {
        shown.push((entry.key.to_vec(), entry.value.len()));
        true
    });
    assert_eq!(shown, [((number as u32).to_le_bytes().to_vec(), 40)]);
    let key = (number as u32).to_le_bytes();
    assert_eq!(map.delete(&key), Ok(()));
    assert_eq!(trace(&object, number), Err(MapError::NotFound));
    assert_eq!(map.delete(&key), Err(MapError::NotFound));
}

#[test]
fn another_backtrace_with_the_same_number_is_refused_or_takes_its_place() {
    let mut other = host();
    other.function = None;
    for (flags, expected) in [(0, EEXIST), (FAST_COMPARE, EEXIST), (REUSE, 0)] {
        let object = testing::load(&stackid(flags), &[traces(1, 4)]);
        assert_eq!(id(&object, &host()), 0);
        assert_eq!(id(&object, &other), expected);
        let kept = if expected == 0 { OUTER[0] } else { CALLER };
        assert_eq!(trace(&object, 0).map(|trace| trace[1]), Ok(kept));
    }
}

#[test]
fn errors_are_those_of_linux() {
    let result =
        |flags, map: MapDef, host: &FakeHost| id(&testing::load(&stackid(flags), &[map]), host);
    assert_eq!(result(1 << 11, traces(1, 4), &host()), EINVAL);
    assert_eq!(result(4, traces(1, 4), &host()), EFAULT);
    assert_eq!(result(0, traces(1, 4), &FakeHost::new()), EFAULT);
    assert_eq!(result(0, testing::map(MapKind::Hash, 1), &host()), EINVAL);
}
