use crate::asm::reg::{FP, R0, R1, R2, R3};
use crate::asm::{self, alu_imm, call, exit, insn, load, mov, mov_imm, mov_imm64, store_imm};
use crate::helper::Helper;
use crate::insn::{Insn, alu, class, mode, size};
use crate::object::{Object, RunError, RunFault};
use crate::testing::{self, FakeHost, GUEST, USER, context};
use alloc::vec::Vec;

const FAULT: u64 = -14_i64 as u64;

/// `r0 = helper(r10 - 16, size, source)`, the stack there all ones before; then `then`.
fn read(helper: Helper, size: i32, source: u64, then: &[Insn]) -> Object {
    let mut program = Vec::from([store_imm(FP, -16, -1), store_imm(FP, -8, -1)]);
    program.extend([mov(R1, FP), alu_imm(alu::ADD, R1, -16), mov_imm(R2, size)]);
    program.extend(mov_imm64(R3, source));
    program.push(asm::call(helper));
    program.extend(then);
    program.push(exit());
    testing::load(&program, &[])
}

/// What a read of at most `size` bytes returns, and the 16 bytes of its target after it.
fn result(helper: Helper, size: i32, source: u64, host: &FakeHost) -> (u64, Vec<u8>) {
    let run = |then: &[Insn]| {
        let object = read(helper, size, source, then);
        let result = object.programs()[0].run(&context(), host);
        result.expect("the read is allowed")
    };
    let halves = [-16, -8].map(|offset| run(&[load(R0, FP, offset)]).to_le_bytes());
    (run(&[]), halves.concat())
}

fn with_text(at: usize, text: &[u8]) -> FakeHost {
    let mut host = FakeHost::new();
    host.page[at..at + text.len()].copy_from_slice(text);
    host
}

#[test]
fn a_string_ends_with_its_nul() {
    let host = with_text(10, b"/etc\0xyz");
    let wanted = [&b"/etc\0"[..], &[0xff; 11]].concat();
    for helper in [Helper::ProbeReadKernelStr, Helper::ProbeReadStr] {
        let read = result(helper, 16, GUEST + 10, &host);
        assert_eq!(read, (5, wanted.clone()), "{helper:?}");
    }
    let read = result(Helper::ProbeReadUserStr, 16, USER + 10, &host);
    assert_eq!(read, (5, wanted));
}

#[test]
fn a_string_that_is_too_long_is_cut_and_ends_all_the_same() {
    let host = with_text(0, b"0123456789abcdefgh\0");
    let read = result(Helper::ProbeReadKernelStr, 8, GUEST, &host);
    assert_eq!(read, (8, [&b"0123456\0"[..], &[0xff; 8]].concat()));
    let read = result(Helper::ProbeReadKernelStr, 1, GUEST, &host);
    assert_eq!((read.0, read.1[0]), (1, 0));
    let read = result(Helper::ProbeReadKernelStr, 0, GUEST, &host);
    assert_eq!(read, (0, [0xff; 16].to_vec()));
}

#[test]
fn a_string_may_end_with_its_page() {
    let host = with_text(4090, b"fives\0");
    let read = result(Helper::ProbeReadKernelStr, 16, GUEST + 4090, &host);
    assert_eq!(read.0, 6);
    let host = with_text(4090, b"no end");
    let read = result(Helper::ProbeReadKernelStr, 16, GUEST + 4090, &host);
    assert_eq!(read, (FAULT, [0; 16].to_vec()));
}

#[test]
fn user_memory_is_not_the_kernels() {
    let host = with_text(0, b"secret\0");
    for helper in [Helper::ProbeReadUser, Helper::ProbeReadUserStr] {
        let read = result(helper, 7, GUEST, &host);
        assert_eq!(read.0, FAULT, "{helper:?}");
        assert_eq!(read.1[..7], [0; 7]);
        let tagged = USER | 0x0a << 56;
        assert_eq!(result(helper, 7, tagged, &host).1[..7], *b"secret\0");
    }
}

/// Loads from the guest through the current task, as `*(type *)(task + offset)`.
fn load_from(current: u64, width: u8, mode: u8, offset: i16) -> Result<u64, RunError> {
    let load = insn(class::LDX | mode | width, R0, R0, offset, 0);
    let linked = testing::linked(&[call(Helper::GetCurrentTaskBtf), load, exit()], &[]);
    let object = Object::load(&linked, 1).expect("it is safe");
    let mut host = FakeHost::new();
    host.page[0x100..0x108].copy_from_slice(&0x8182_8384_8586_8788_u64.to_le_bytes());
    host.current = Some(current);
    object.programs()[0].run(&context(), &host)
}

#[test]
fn loads_from_the_guest_are_of_every_size() {
    let signed = |bits: u32| {
        (0x8182_8384_8586_8788_u64.cast_signed() << (64 - bits) >> (64 - bits)).cast_unsigned()
    };
    for (width, bits) in [(size::B, 8), (size::H, 16), (size::W, 32), (size::DW, 64)] {
        let zero_extended = 0x8182_8384_8586_8788 & u64::MAX >> (64 - bits);
        assert_eq!(load_from(GUEST, width, mode::MEM, 0x100), Ok(zero_extended));
        assert_eq!(
            load_from(GUEST + 0x200, width, mode::MEM, -0x100),
            Ok(zero_extended)
        );
        if width != size::DW {
            assert_eq!(
                load_from(GUEST, width, mode::MEMSX, 0x100),
                Ok(signed(bits))
            );
        }
    }
}

/// What cannot be read is 0: nothing is mapped there, or it is the memory of a process, or of this program.
#[test]
fn loads_that_fault_give_zero() {
    for address in [
        0,
        8,
        GUEST - 0x108,
        USER,
        u64::MAX - 0x100,
        crate::address::context(),
    ] {
        assert_eq!(
            load_from(address, size::DW, mode::MEM, 0x100),
            Ok(0),
            "{address:#x}"
        );
    }
    let last = GUEST + 4096 - 0x104;
    assert_eq!(
        load_from(last, size::DW, mode::MEM, 0x100),
        Ok(0),
        "half of it is mapped"
    );
}

/// They cost more than other instructions, as what helpers read does.
#[test]
fn loads_from_the_guest_are_paid_for() {
    let insns = [
        call(Helper::GetCurrentTaskBtf),
        load(R0, R0, 0),
        load(R0, R0, 0),
        exit(),
    ];
    let object = Object::load(&testing::linked(&insns, &[]), 1).expect("it is safe");
    let run = |budget| object.programs()[0].run_within(budget, &context(), &FakeHost::new());
    assert_eq!(run(6), Ok(0));
    let fault = RunFault::Budget;
    assert_eq!(run(5), Err(RunError::new(2, fault)));
}
