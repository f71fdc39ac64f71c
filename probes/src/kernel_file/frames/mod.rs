//! `.debug_frame`: from a place in a function to its caller (DWARF 5, 6.4 "Call Frame Information"; DWARF for the Arm 64-bit
//! Architecture).
//!
//! Kernels keep frame pointers, but a debugger without this looks at the beginning of a function for how: GDB gives up at the
//! first `nop` there, and functions of a kernel that can be traced begin with one. So the code is read here, from the
//! beginning of each function to its end, for what it does to SP, and where it keeps x29 and x30.
//!
//! Code is followed in the order in which it lies there, which is not that in which it runs. What comes after an epilogue is
//! taken to run with the frame that the epilogue took away, except for where the beginning of the function branches to.

mod effect;

use super::elf::{FUNC, FileSymbol};
use super::parts::Parts;
use super::sink::Sink;
use alloc::collections::TryReserveError;
use alloc::vec;
use alloc::vec::Vec;
use core::mem;
use effect::{Effect, FP, LR, SP};

/// Reads code; `None` where there is none. Code is at kernel addresses.
pub type ReadCode = dyn Fn(u64, &mut [u8]) -> Option<()> + Send;

/// Bytes of code that are read at a time. Of a longer function the rest has no frames.
const CHUNK: u64 = 64 << 10;
/// Bytes of a frame at most.
const LARGEST: i32 = 1 << 16;
/// Bytes of an instruction.
const INSTRUCTION: usize = 4;
/// `MOV X9, X30`: a call behind it is that of ftrace, which gives x30 back (arch/arm64/kernel/entry-ftrace.S).
const KEEPS_LR: u32 = 0xaa1e_03e9;
/// Bytes of a frame record: x29, and where the caller goes on.
const RECORD: i32 = 16;

/// Instructions of call frame information (`DW_CFA_…`).
mod cfa {
    pub(super) const ADVANCE: u8 = 0x40;
    pub(super) const OFFSET: u8 = 0x80;
    pub(super) const RESTORE: u8 = 0xc0;
    pub(super) const ADVANCE_1: u8 = 0x02;
    pub(super) const ADVANCE_2: u8 = 0x03;
    pub(super) const ADVANCE_4: u8 = 0x04;
    pub(super) const UNDEFINED: u8 = 0x07;
    pub(super) const DEFINE: u8 = 0x0c;
    /// `DW_CFA_AARCH64_negate_ra_state`: from here on x30 is signed, or no longer.
    pub(super) const NEGATE_SIGNED: u8 = 0x2d;
}

/// Where the caller's x29 and the address at which it goes on are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Caller {
    InRegisters,
    /// In a frame record, so many bytes below the caller's SP.
    InRecord(i32),
    /// Nowhere: this function calls without having kept x30.
    Lost,
}

/// How the caller is found from some instruction on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Row {
    /// What the caller's SP is counted from: SP, or FP once it has been set.
    base: u8,
    /// How far above it the caller's SP is.
    size: i32,
    caller: Caller,
    /// Whether x30 is signed.
    is_signed: bool,
}

impl Row {
    /// At the first instruction of a function.
    const ENTRY: Self = Self {
        base: SP,
        size: 0,
        caller: Caller::InRegisters,
        is_signed: false,
    };

    /// The row after an instruction. `None` where the frame makes no sense.
    fn after(self, effect: Effect) -> Option<Self> {
        let row = match (effect, self.caller) {
            (Effect::LowersSp(by), _) if self.base == SP => Self {
                size: self.size + by,
                ..self
            },
            // An exception's entry stores its record into a frame that was made before it.
            (Effect::StoresRecord { lowers, at }, _) if self.base == SP => {
                let size = (self.size + lowers).max(at + RECORD);
                Self {
                    size,
                    caller: Caller::InRecord(size - at),
                    ..self
                }
            }
            (Effect::SetsFp(up), Caller::InRecord(below))
                if self.base == SP && self.size - up == below =>
            {
                Self {
                    base: FP,
                    size: below,
                    ..self
                }
            }
            // Where the record is tells where SP is.
            (Effect::LoadsRecord { at, raises }, Caller::InRecord(below)) => Self {
                base: SP,
                size: below + at - raises,
                caller: Caller::InRegisters,
                ..self
            },
            (Effect::Signs, _) => Self {
                is_signed: true,
                ..self
            },
            (Effect::Authenticates, _) => Self {
                is_signed: false,
                ..self
            },
            _ => self,
        };
        (0..=LARGEST).contains(&row.size).then_some(row)
    }

    /// The row of an instruction that calls. A debugger looks for the row of the call, not of the instruction behind it.
    fn at_call(self) -> Self {
        let caller = match self.caller {
            Caller::InRegisters => Caller::Lost,
            caller => caller,
        };
        Self { caller, ..self }
    }

    /// Writes what is different from `before`.
    fn write(self, before: Self, out: &mut impl Sink) {
        if (self.base, self.size) != (before.base, before.size) {
            out.put(&[cfa::DEFINE, self.base]);
            out.unsigned(self.size as u64);
        }
        if self.is_signed != before.is_signed {
            out.byte(cfa::NEGATE_SIGNED);
        }
        if self.caller == before.caller {
            return;
        }
        match self.caller {
            Caller::InRecord(below) => {
                for (register, below) in [(FP, below), (LR, below - 8)] {
                    out.byte(cfa::OFFSET | register);
                    out.unsigned(below as u64 / 8);
                }
            }
            Caller::Lost => out.put(&[cfa::RESTORE | FP, cfa::UNDEFINED, LR]),
            Caller::InRegisters => out.put(&[cfa::RESTORE | FP, cfa::RESTORE | LR]),
        }
    }
}

/// Where branches lead that are taken before a function has a frame: to its end, which then runs without one.
#[derive(Default)]
struct Aside {
    targets: [Option<u32>; 8],
    count: usize,
}

impl Aside {
    /// Takes in the number of an instruction. Of more than a few the oldest is forgotten.
    fn add(&mut self, number: u32) {
        self.targets[self.count % self.targets.len()] = Some(number);
        self.count += 1;
    }

    fn leads_to(&self, number: u32) -> bool {
        self.targets.contains(&Some(number))
    }
}

/// Hands the rows of a function to `take`, in order, each with the number of its first instruction. Returns the number of
/// instructions that they are for.
fn each_row(code: &[u8], mut take: impl FnMut(u32, Row)) -> usize {
    let (mut row, mut next) = (Row::ENTRY, Row::ENTRY);
    let mut aside = Aside::default();
    // The frame that the last epilogue took away.
    let mut body = None;
    let mut last = 0;
    let (words, _) = code.as_chunks();
    for (number, word) in (0..).zip(words) {
        let instruction = u32::from_le_bytes(*word);
        let effect = Effect::of(instruction);
        let is_tracers = mem::replace(&mut last, instruction) == KEEPS_LR;
        if effect == Effect::Calls && !is_tracers {
            next = next.at_call();
        }
        if next != row {
            take(number, next);
            row = next;
        }
        match effect {
            Effect::LoadsRecord { .. } if row.caller != Caller::InRegisters => body = Some(row),
            Effect::Forks(offset) if row == Row::ENTRY => {
                aside.add(number.wrapping_add_signed((offset / 4) as i32));
            }
            _ => {}
        }
        let after = match effect {
            Effect::Leaves if aside.leads_to(number + 1) => Some(Row::ENTRY),
            Effect::Leaves if row.caller == Caller::InRegisters => Some(body.unwrap_or(row)),
            effect => row.after(effect),
        };
        match after {
            Some(row) => next = row,
            None => return number as usize + 1,
        }
    }
    words.len()
}

/// The section for all functions among `symbols`, which are in order of address.
pub(super) fn section(
    symbols: &[FileSymbol],
    parts: &Parts,
    read: &ReadCode,
) -> Result<Vec<u8>, TryReserveError> {
    /// Bytes at most of a function's entry, beside its rows, and of a row.
    const ENTRY: usize = 32;
    const ROW: usize = 16;
    let mut out = Vec::new();
    write_common(&mut out);
    let mut code = Code {
        read,
        start: 0,
        bytes: Vec::new(),
    };
    let mut last = None;
    for function in symbols.iter().filter(|symbol| symbol.kind == FUNC) {
        if last.replace(function.address) == Some(function.address) {
            continue;
        }
        let Some((_, part)) = parts.at(function.address) else {
            continue;
        };
        // Code that only the start of the kernel needs is gone when it has started.
        if let Some(code) = code.at(function.address, function.size, part.range.end) {
            out.try_reserve(ENTRY + ROW * (code.len() / INSTRUCTION))?;
            write_function(function.address, code, &mut out);
        }
    }
    Ok(out)
}

/// Code as it is read, a piece at a time.
struct Code<'a> {
    read: &'a ReadCode,
    start: u64,
    bytes: Vec<u8>,
}

impl Code<'_> {
    /// At most `size` bytes of code from `address` on, in a part that ends at `end`.
    fn at(&mut self, address: u64, size: u64, end: u64) -> Option<&[u8]> {
        let size = size.min(CHUNK);
        let held = self.start..self.start + self.bytes.len() as u64;
        if !held.contains(&address) || address + size > held.end {
            self.bytes.clear();
            let mut bytes = vec![0; CHUNK.min(end - address) as usize];
            (self.read)(address, &mut bytes)?;
            self.start = address;
            self.bytes = bytes;
        }
        let first = (address - self.start) as usize;
        let bytes = self.bytes.get(first..)?;
        Some(&bytes[..bytes.len().min(size as usize)])
    }
}

/// What all functions have in common: at the entry, SP is the caller's, and x30 leads back.
fn write_common(out: &mut Vec<u8>) {
    let start = begin_entry(out);
    // What tells it from the entry of a function; version 4; no augmentation; an address has 8 bytes; no segments.
    out.u32(u32::MAX);
    out.put(&[4, 0, 8, 0]);
    out.unsigned(INSTRUCTION as u64);
    out.signed(-8);
    out.unsigned(LR.into());
    out.put(&[cfa::DEFINE, SP, 0]);
    end_entry(out, start);
}

fn begin_entry(out: &mut Vec<u8>) -> usize {
    out.u32(0);
    out.len()
}

/// Says how long the entry is that begins at `start`.
fn end_entry(out: &mut [u8], start: usize) {
    let length = (out.len() - start) as u32;
    out[start - 4..start].copy_from_slice(&length.to_le_bytes());
}

fn write_function(address: u64, code: &[u8], out: &mut Vec<u8>) {
    let start = begin_entry(out);
    // Where the common entry is.
    out.u32(0);
    out.u64(address);
    let size_at = out.len();
    out.u64(0);
    let (mut last, mut at) = (Row::ENTRY, 0);
    let count = each_row(code, |number, row| {
        write_advance(number - at, out);
        row.write(last, out);
        (last, at) = (row, number);
    });
    let size = (count * INSTRUCTION) as u64;
    out[size_at..size_at + 8].copy_from_slice(&size.to_le_bytes());
    end_entry(out, start);
}

fn write_advance(instructions: u32, out: &mut impl Sink) {
    match instructions {
        0 => {}
        1..0x40 => out.byte(cfa::ADVANCE | instructions as u8),
        0x40..0x100 => out.put(&[cfa::ADVANCE_1, instructions as u8]),
        0x100..0x1_0000 => {
            out.byte(cfa::ADVANCE_2);
            out.u16(instructions as u16);
        }
        _ => {
            out.byte(cfa::ADVANCE_4);
            out.u32(instructions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;
    use gimli::{BaseAddresses, CfaRule, CieOrFde, DebugFrame, EndianSlice, LittleEndian};
    use gimli::{Register, RegisterRule, UnwindContext, UnwindSection};
    use proptest::prelude::*;

    const START: u64 = 0xffff_8000_8000_0000;

    /// The rules of a function with this code, as gimli reads them: `offset: CFA, x29, x30`.
    fn rules(code: &[u32]) -> String {
        let bytes: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut section = Vec::new();
        write_common(&mut section);
        write_function(START, &bytes, &mut section);
        let mut frames = DebugFrame::from(EndianSlice::new(&section, LittleEndian));
        frames.set_vendor(gimli::Vendor::AArch64);
        let bases = BaseAddresses::default();
        let mut out = String::new();
        let mut entries = frames.entries(&bases);
        while let Some(entry) = entries.next().unwrap() {
            let CieOrFde::Fde(partial) = entry else {
                continue;
            };
            let function = partial.parse(DebugFrame::cie_from_offset).unwrap();
            assert_eq!(function.initial_address(), START);
            let mut context = UnwindContext::new();
            let mut table = function.rows(&frames, &bases, &mut context).unwrap();
            while let Some(row) = table.next_row().unwrap() {
                let CfaRule::RegisterAndOffset { register, offset } = row.cfa() else {
                    panic!("{row:?}");
                };
                out += &format!(
                    "{:x}..{:x}: x{}+{offset}",
                    row.start_address() - START,
                    row.end_address() - START,
                    register.0,
                );
                for number in [29, 30] {
                    match row.register(Register(number)) {
                        Some(RegisterRule::Offset(offset)) => {
                            out += &format!(" x{number}@{offset}")
                        }
                        Some(RegisterRule::Undefined) => out += &format!(" x{number}?"),
                        _ => {}
                    }
                }
                let sign = row.register(gimli::AArch64::RA_SIGN_STATE);
                if let Some(RegisterRule::Constant(1)) = sign {
                    out += " signed";
                }
                out += "\n";
            }
        }
        out
    }

    #[test]
    fn a_frame_comes_and_goes() {
        // As GCC writes them, behind what ftrace patches.
        let code = [
            0xaa1e_03e9, // mov x9, x30
            0xd503_201f, // nop
            0xd503_233f, // paciasp
            0xa9bd_7bfd, // stp x29, x30, [sp, #-48]!
            0x9100_03fd, // mov x29, sp
            0xa901_53f3, // stp x19, x20, [sp, #16]
            0x9400_0001, // bl
            0xa941_53f3, // ldp x19, x20, [sp, #16]
            0xa8c3_7bfd, // ldp x29, x30, [sp], #48
            0xd503_23bf, // autiasp
            0xd65f_03c0, // ret
            0x9400_0001, // bl, out of the way
        ];
        assert_eq!(
            rules(&code),
            "0..c: x31+0\nc..10: x31+0 signed\n10..14: x31+48 x29@-48 x30@-40 signed\n\
             14..24: x29+48 x29@-48 x30@-40 signed\n24..28: x31+0 signed\n28..2c: x31+0\n\
             2c..30: x29+48 x29@-48 x30@-40 signed\n"
        );
    }

    #[test]
    fn a_frame_lies_above_what_a_function_keeps() {
        let code = [
            0xd101_83ff, // sub sp, sp, #0x60
            0xa903_7bfd, // stp x29, x30, [sp, #48]
            0x9100_c3fd, // add x29, sp, #0x30
            0xd100_43ff, // sub sp, sp, #0x10: nobody's business any more
            0x9100_43ff, // add sp, sp, #0x10
            0xa943_7bfd, // ldp x29, x30, [sp, #48]
            0x9101_83ff, // add sp, sp, #0x60
            0xd65f_03c0, // ret
        ];
        assert_eq!(
            rules(&code),
            "0..4: x31+0\n4..8: x31+96\n8..c: x31+96 x29@-48 x30@-40\n\
             c..18: x29+48 x29@-48 x30@-40\n18..1c: x31+96\n1c..20: x31+0\n"
        );
    }

    #[test]
    fn the_end_of_a_function_runs_with_or_without_its_frame() {
        let code = [
            0xb400_0140, // cbz x0, #40
            0xa9bf_7bfd, // stp x29, x30, [sp, #-16]!
            0x9100_03fd, // mov x29, sp
            0xb400_0080, // cbz x0, #16
            0xa8c1_7bfd, // ldp x29, x30, [sp], #16
            0xd65f_03c0, // ret
            0xd503_201f, // nop
            0xa8c1_7bfd, // ldp x29, x30, [sp], #16
            0x1400_0100, // b: a tail call
            0x9400_0001, // bl: with the frame
            0xd65f_03c0, // ret: the first branch leads behind it
        ];
        let branches = [code[0], 0xd503_201f];
        let rows = "0..8: x31+0\n8..c: x31+16 x29@-16 x30@-8\nc..14: x29+16 x29@-16 x30@-8\n\
            14..18: x31+0\n18..20: x29+16 x29@-16 x30@-8\n20..24: x31+0\n";
        let framed = "24..2c: x29+16 x29@-16 x30@-8\n";
        assert_eq!(rules(&code), [rows, framed].concat());
        let longer = [&code[..], &[branches[1]]].concat();
        let _ = longer;
    }

    #[test]
    fn who_calls_without_a_frame_is_the_last() {
        // bl; nop
        let code = [0x9400_0001, 0xd503_201f];
        assert_eq!(rules(&code), "0..8: x31+0 x30?\n");
    }

    #[test]
    fn tracing_a_function_loses_nothing() {
        // mov x9, x30; bl ftrace_caller; nop
        let code = [0xaa1e_03e9, 0x9400_0001, 0xd503_201f];
        assert_eq!(rules(&code), "0..c: x31+0\n");
    }

    #[test]
    fn what_makes_no_sense_ends_what_is_known() {
        // nop; add sp, sp, #0x10; nop
        let code = [0xd503_201f, 0x9100_43ff, 0xd503_201f];
        assert_eq!(rules(&code), "0..8: x31+0\n");
    }

    #[test]
    fn a_function_is_longer_than_one_advance() {
        for length in [0x3f, 0x40, 0xff, 0x100, 0x4000] {
            let mut code = vec![0xd503_201f; length];
            code.push(0xd100_43ff);
            code.push(0xd503_201f);
            let [moved, end] = [1, 2].map(|more| 4 * (length + more));
            assert_eq!(
                rules(&code),
                format!("0..{moved:x}: x31+0\n{moved:x}..{end:x}: x31+16\n")
            );
        }
    }
    proptest! {
        #[test]
        fn any_code_has_rows(code in proptest::collection::vec(words(), 0..200)) {
            // Debuggers can read them, or this panics.
            rules(&code);
        }
    }

    /// Instructions, more often than not such as have to do with frames.
    fn words() -> impl Strategy<Value = u32> {
        let framed = (any::<u32>(), 0..8_usize).prop_map(|(word, which)| {
            let kinds = [
                0xa980_7bfd,
                0xa900_7bfd,
                0xa8c0_7bfd,
                0xa940_7bfd,
                0xd100_03ff,
                0x9100_03ff,
                0x9100_03fd,
                0xb400_0000,
            ];
            // Of each, the bits of its offset.
            kinds[which] | word & if which < 4 { 0x003f_8000 } else { 0x00ff_fc00 }
        });
        prop_oneof![
            any::<u32>(),
            framed,
            Just(0xd65f_03c0),
            Just(0x9400_0001),
            Just(0x9100_03fd)
        ]
    }
}
