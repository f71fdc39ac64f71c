use crate::asm::reg::{FP, R0, R1, R2};
use crate::asm::{self, alu_imm, exit, load, mov, mov_imm, store_imm};
use crate::helper::Helper;
use crate::insn::{Insn, alu};
use crate::task::{CgroupFields, TaskFields};
use crate::testing::{self, FakeHost, GUEST, context};
use alloc::vec::Vec;

const INVALID: u64 = -22_i64 as u64;

const FIELDS: TaskFields = TaskFields {
    pid: 0x10,
    tgid: 0x14,
    comm: 0x18,
    cred: 0x30,
    uid: 0x4,
    gid: 0x8,
    stack: 0x38,
    cgroup: Some(CgroupFields {
        cgroups: 0x40,
        dfl_cgrp: 0x8,
        kn: 0x10,
        id: 0x18,
    }),
};

/// A task at 0x100 of the page, its credentials at 0x200, and what leads to its control group.
fn host() -> FakeHost {
    let mut host = FakeHost::new();
    host.current = Some(GUEST + 0x100);
    host.task_fields = Some(FIELDS);
    let mut put = |at: usize, bytes: &[u8]| {
        host.page[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(0x110, &4711_u32.to_le_bytes());
    put(0x114, &42_u32.to_le_bytes());
    put(0x118, b"systemd-journal\0");
    put(0x130, &(GUEST + 0x200).to_le_bytes());
    put(0x204, &1000_u32.to_le_bytes());
    put(0x208, &100_u32.to_le_bytes());
    put(0x140, &(GUEST + 0x300).to_le_bytes());
    put(0x308, &(GUEST + 0x400).to_le_bytes());
    put(0x410, &(GUEST + 0x500).to_le_bytes());
    put(0x518, &0x1_0000_0007_u64.to_le_bytes());
    host
}

fn ask(helper: Helper, host: &FakeHost) -> u64 {
    let object = testing::load(&[asm::call(helper), exit()], &[]);
    let result = object.programs()[0].run(&context(), host);
    result.expect("these do not fail")
}

#[test]
fn the_current_task_is_described() {
    let host = host();
    assert_eq!(ask(Helper::GetCurrentPidTgid, &host), 42 << 32 | 4711);
    assert_eq!(ask(Helper::GetCurrentUidGid, &host), 100 << 32 | 1000);
    assert_eq!(ask(Helper::GetCurrentTask, &host), GUEST + 0x100);
    assert_eq!(ask(Helper::GetCurrentCgroupId, &host), 0x1_0000_0007);
}

#[test]
fn where_nothing_is_known_it_is_said_as_linux_does() {
    let no_task = FakeHost {
        current: None,
        ..host()
    };
    let no_types = FakeHost {
        task_fields: None,
        ..host()
    };
    let unmapped = FakeHost {
        current: Some(GUEST - 0x1000),
        ..host()
    };
    for host in [no_task, no_types, unmapped] {
        assert_eq!(ask(Helper::GetCurrentPidTgid, &host), INVALID);
        assert_eq!(ask(Helper::GetCurrentUidGid, &host), INVALID);
        assert_eq!(ask(Helper::GetCurrentCgroupId, &host), 0);
        assert_eq!(comm(16, &host), (INVALID, [0; 16].to_vec()));
    }
}

/// The result of `get_current_comm(r10 - 16, size)`, and the 16 bytes after it; all ones before.
fn comm(size: i32, host: &FakeHost) -> (u64, Vec<u8>) {
    let run = |then: &[Insn]| {
        let mut program = Vec::from([store_imm(FP, -16, -1), store_imm(FP, -8, -1)]);
        program.extend([mov(R1, FP), alu_imm(alu::ADD, R1, -16), mov_imm(R2, size)]);
        program.push(asm::call(Helper::GetCurrentComm));
        program.extend(then);
        program.push(exit());
        let object = testing::load(&program, &[]);
        let result = object.programs()[0].run(&context(), host);
        result.expect("the target is the program's")
    };
    let halves = [-16, -8].map(|offset| run(&[load(R0, FP, offset)]).to_le_bytes());
    (run(&[]), halves.concat())
}

#[test]
fn a_name_is_padded_and_cut() {
    assert_eq!(comm(16, &host()), (0, b"systemd-journal\0".to_vec()));
    let cut = [&b"systemd\0"[..], &[0xff; 8]].concat();
    assert_eq!(comm(8, &host()), (0, cut));
    let mut short = host();
    short.page[0x118..0x128].copy_from_slice(b"sh\0d-journal\0\0\0\0");
    let padded = [&b"sh"[..], &[0; 14]].concat();
    assert_eq!(comm(16, &short), (0, padded));
    let mut endless = host();
    endless.page[0x118..0x128].copy_from_slice(b"abcdefghijklmnop");
    assert_eq!(comm(16, &endless), (0, b"abcdefghijklmno\0".to_vec()));
}
