//! A machine for tests: a clock that ticks, a guest of one page, and a list of what was printed.

use crate::host::{Context, Host, Lost, ReadFault};
use crate::insn::Insn;
use crate::linked::{Linked, ProgramDef};
use crate::map::{MapDef, MapId, MapKind, Mutability};
use crate::object::{Object, RunError};
use crate::signature::Signature;
use crate::task::TaskFields;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use proptest::prelude::*;

/// Where the guest's page is: an address as Linux on arm64 has them.
pub(crate) const GUEST: u64 = 0xffff_8000_8000_0000;
/// The same page as a process has it.
pub(crate) const USER: u64 = 0x5555_0000;

pub(crate) struct FakeHost {
    pub(crate) cpu: usize,
    pub(crate) now: Cell<u64>,
    pub(crate) page: Vec<u8>,
    pub(crate) duration_ns: Cell<Option<u64>>,
    pub(crate) printed: RefCell<Vec<String>>,
    pub(crate) current: Option<u64>,
    pub(crate) task_fields: Option<TaskFields>,
    pub(crate) function: Option<u64>,
    pub(crate) signature: Option<Signature>,
    pub(crate) cookie: u64,
    pub(crate) tracepoint: Option<(&'static str, &'static str)>,
    /// What programs have put out.
    pub(crate) records: RefCell<Vec<(MapId, Vec<u8>)>>,
    /// How many more records there is room for.
    pub(crate) room: Cell<usize>,
}

impl FakeHost {
    pub(crate) fn new() -> Self {
        let mut page = vec![0; 4096];
        page[..5].copy_from_slice(b"vm1!\0");
        Self {
            cpu: 0,
            now: Cell::new(0),
            page,
            duration_ns: Cell::new(None),
            printed: RefCell::default(),
            current: None,
            task_fields: None,
            function: None,
            signature: None,
            cookie: 0,
            tracepoint: None,
            records: RefCell::default(),
            room: Cell::new(usize::MAX),
        }
    }

    pub(crate) fn on_cpu(cpu: usize) -> Self {
        Self { cpu, ..Self::new() }
    }

    pub(crate) fn printed(&self) -> Vec<String> {
        self.printed.borrow().clone()
    }
}

impl Host for FakeHost {
    fn ktime_ns(&self) -> u64 {
        self.now.update(|now| now + 1);
        self.now.get()
    }

    fn cpu(&self) -> usize {
        self.cpu
    }

    fn duration_ns(&self) -> Option<u64> {
        self.duration_ns.get()
    }

    fn current(&self) -> Option<u64> {
        self.current
    }

    fn task_fields(&self) -> Option<TaskFields> {
        self.task_fields
    }

    fn function(&self) -> Option<u64> {
        self.function
    }

    fn signature(&self) -> Option<Signature> {
        self.signature
    }

    fn vm(&self) -> u32 {
        1
    }

    fn vcpu(&self) -> u32 {
        2
    }

    fn exit_syndrome(&self) -> u64 {
        0x5a00_4000
    }

    fn tracepoint(&self) -> Option<(&'static str, &'static str)> {
        self.tracepoint
    }

    fn cookie(&self) -> u64 {
        self.cookie
    }

    fn read_guest(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadFault> {
        // The top byte of a process' address is a tag.
        let user = (address & !(0xff << 56)).checked_sub(USER);
        let offset = address.checked_sub(GUEST).or(user);
        let start = offset.ok_or(ReadFault)? as usize;
        let bytes = self
            .page
            .get(start..)
            .and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(ReadFault)?);
        Ok(())
    }

    fn print(&self, text: &[u8]) {
        self.printed
            .borrow_mut()
            .push(String::from_utf8_lossy(text).to_string());
    }

    fn record(&self, map: MapId, length: usize, words: &dyn Fn(usize) -> u64) -> Result<(), Lost> {
        self.room.set(self.room.get().checked_sub(1).ok_or(Lost)?);
        let words = (0..length.div_ceil(8)).map(words);
        let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        assert!(bytes[length..].iter().all(|&byte| byte == 0));
        bytes.truncate(length);
        self.records.borrow_mut().push((map, bytes));
        Ok(())
    }
}

/// x0 = 0x100, x1 = 0x101, ...
pub(crate) fn context() -> Context {
    core::array::from_fn(|index| 0x100 + index as u64)
}

/// A map of 64-bit values and 4-byte keys.
pub(crate) fn map(kind: MapKind, max_entries: u32) -> MapDef {
    MapDef {
        name: kind.name().into(),
        kind,
        key_size: 4,
        value_size: 8,
        max_entries,
        mutability: Mutability::Mutable,
        initial: Vec::new(),
    }
}

pub(crate) fn program(insns: &[Insn]) -> ProgramDef {
    ProgramDef {
        name: "test".into(),
        section: "kprobe/test".into(),
        insns: insns.to_vec(),
        ..ProgramDef::default()
    }
}

pub(crate) fn linked(insns: &[Insn], maps: &[MapDef]) -> Linked {
    Linked {
        name: "test".into(),
        license: "GPL".into(),
        maps: maps.to_vec(),
        programs: vec![program(insns)],
        ..Linked::default()
    }
}

/// Loads a program for 4 CPUs, whatever the verifier thinks of it: these tests are of what runs
/// behind it.
pub(crate) fn load(insns: &[Insn], maps: &[MapDef]) -> Object {
    Object::load_unverified(&linked(insns, maps), 4).expect("there should be memory for it")
}

/// Loads and runs a program without maps.
pub(crate) fn run(insns: &[Insn]) -> Result<u64, RunError> {
    load(insns, &[]).programs()[0].run(&context(), &FakeHost::new())
}

/// An instruction that is more often valid than random bytes are.
pub(crate) fn any_insn() -> impl Strategy<Value = Insn> {
    let opcode = prop::sample::select(vec![
        0x07, 0x0f, 0x18, 0x61, 0x69, 0x71, 0x79, 0x7b, 0x63, 0x72, 0x7a, 0xb7, 0xbf, 0x85, 0x95,
        0xdb, 0xc3, 0x05, 0x15, 0x1d, 0x2d, 0x3f, 0x9f, 0xd4, 0xdc, 0x6d, 0xa6, 0x16, 0x37,
    ]);
    let imm = prop_oneof![-16..200_i32, any::<i32>()];
    let off = prop_oneof![Just(0_i16), -32..32_i16];
    (opcode, 0..11_u8, 0..11_u8, off, imm).prop_map(|(code, dst, src, off, imm)| Insn {
        code,
        dst,
        src,
        off,
        imm,
    })
}
