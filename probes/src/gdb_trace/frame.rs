//! What is in a trace frame: a head, and blocks of registers, memory, variables and data of markers.
//!
//! | word | the head of a frame |
//! |---|---|
//! | 0 | the buffer's ([`super::buffer`]) |
//! | 1 | tracepoint (32 bits), vCPU (8 bits), words in use (24 bits) |
//! | 2 | PC |
//! | 3 | time in ns |
//!
//! | block | first word | then |
//! |---|---|---|
//! | registers | 1, words (32 bits) from bit 8 | x0 to x30, SP, PC, PSTATE; V0 to V31, FPSR and FPCR in one word; system registers |
//! | memory | 2, bytes from bit 8 | address, bytes |
//! | variable | 3, number from bit 8 | value |
//! | data of a marker | 4, bytes from bit 8 | bytes |

use super::buffer::HEAD_WORDS;
use crate::addr::{Gva, PAGE_SIZE};
use crate::machine::{LiveMemory, VcpuId};
use crate::regs::{CoreRegs, FpRegs, SysRegs};
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

/// Words of the core registers.
const CORE_WORDS: usize = 34;
/// Guest memory is read in pieces of so many bytes.
const PIECE: usize = 256;

const REGISTERS: u8 = 1;
const MEMORY: u8 = 2;
const VARIABLE: u8 = 3;
const STATIC: u8 = 4;

/// Words that a block of registers takes, in a space with so many system registers.
pub(crate) const fn register_words(system: usize) -> usize {
    1 + CORE_WORDS + FpRegs::WORDS + system
}

/// Words that a block of memory takes.
pub(crate) const fn memory_words(length: usize) -> usize {
    2 + length.div_ceil(8)
}

/// Words that the data of a marker takes.
pub(crate) const fn static_words(length: usize) -> usize {
    1 + length.div_ceil(8)
}

/// The frame is longer than its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TooLong;

/// The first word of a block.
const fn first(kind: u8, number: u32) -> u64 {
    kind as u64 | (number as u64) << 8
}

/// Writes a frame into words that nobody else looks at.
pub(crate) struct Writer<'a> {
    words: &'a [AtomicU64],
    used: Cell<usize>,
}

/// What a frame begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The tracepoint, as the client counts it.
    pub number: u32,
    /// The vCPU.
    pub vcpu: VcpuId,
    /// Where it was.
    pub pc: Gva,
    /// When: [`crate::machine::Clock::now_ns`].
    pub time_ns: u64,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(words: &'a [AtomicU64]) -> Self {
        Self {
            words,
            used: Cell::new(HEAD_WORDS),
        }
    }

    /// Words in use.
    pub(crate) fn used(&self) -> usize {
        self.used.get()
    }

    fn take(&self, count: usize) -> Result<&'a [AtomicU64], TooLong> {
        let start = self.used.get();
        let end = start.checked_add(count).ok_or(TooLong)?;
        let taken = self.words.get(start..end).ok_or(TooLong)?;
        self.used.set(end);
        Ok(taken)
    }

    /// Writes the head, after all blocks.
    pub(crate) fn finish(&self, head: &Head) {
        let [_, place, pc, time, ..] = self.words else {
            return;
        };
        let used = (self.used.get() as u64) << 40;
        let who = u64::from(head.number) | u64::from(head.vcpu.0) << 32;
        place.store(who | used, Ordering::Relaxed);
        pc.store(head.pc.0, Ordering::Relaxed);
        time.store(head.time_ns, Ordering::Relaxed);
    }

    /// All registers of the vCPU that has trapped, with `pc` in the place of its PC; `system` of them are system registers.
    pub(crate) fn registers(
        &self,
        core: &CoreRegs,
        pc: Gva,
        live: &impl LiveMemory,
        system: usize,
    ) -> Result<(), TooLong> {
        let block = self.take(register_words(system))?;
        let Some(([head], rest)) = block.split_first_chunk() else {
            return Err(TooLong);
        };
        let Some((cores, rest)) = rest.split_first_chunk::<CORE_WORDS>() else {
            return Err(TooLong);
        };
        let Some((fp, sys)) = rest.split_first_chunk::<{ FpRegs::WORDS }>() else {
            return Err(TooLong);
        };
        head.store(
            first(REGISTERS, (block.len() - 1) as u32),
            Ordering::Relaxed,
        );
        for (place, word) in cores.iter().zip(core.as_words()) {
            place.store(*word, Ordering::Relaxed);
        }
        cores[CoreRegs::PC_WORD].store(pc.0, Ordering::Relaxed);
        live.store_fp(fp);
        live.store_sys(core, sys);
        Ok(())
    }

    /// Memory, as far as it can be read: what cannot is left out.
    pub(crate) fn memory(
        &self,
        live: &impl LiveMemory,
        address: Gva,
        length: usize,
    ) -> Result<(), TooLong> {
        let mut done = 0;
        while done < length {
            let start = Gva(address.0.wrapping_add(done as u64));
            let read = self.readable(live, start, length - done)?;
            // What is left of the page that cannot be read.
            let fault = Gva(start.0.wrapping_add(read as u64));
            done += read + (PAGE_SIZE - fault.page_offset()) as usize;
        }
        Ok(())
    }

    /// One block of what can be read from `address` on. Returns how many bytes that are.
    fn readable(
        &self,
        live: &impl LiveMemory,
        address: Gva,
        length: usize,
    ) -> Result<usize, TooLong> {
        let before = self.used.get();
        let block = self.take(memory_words(length))?;
        let [head, start, data @ ..] = block else {
            return Err(TooLong);
        };
        let mut buffer = [0; PIECE];
        // Bytes in the buffer, fewer than 8, that do not fill a word yet.
        let mut kept = 0;
        let mut done = 0;
        let mut places = data.iter();
        while done < length {
            let at = Gva(address.0.wrapping_add(done as u64));
            let to_page_end = (PAGE_SIZE - at.page_offset()) as usize;
            let piece = (length - done).min(PIECE - kept).min(to_page_end);
            if live.inspect(at, &mut buffer[kept..kept + piece]).is_err() {
                break;
            }
            done += piece;
            kept += piece;
            let whole = kept / 8 * 8;
            for (word, place) in buffer[..whole].chunks_exact(8).zip(&mut places) {
                place.store(word_of(word), Ordering::Relaxed);
            }
            buffer.copy_within(whole..kept, 0);
            kept -= whole;
        }
        if done == 0 {
            self.used.set(before);
            return Ok(0);
        }
        if let Some(place) = places.next() {
            place.store(word_of(&buffer[..kept]), Ordering::Relaxed);
        }
        self.used.set(before + memory_words(done));
        head.store(first(MEMORY, done as u32), Ordering::Relaxed);
        start.store(address.0, Ordering::Relaxed);
        Ok(done)
    }

    /// The value of a trace state variable.
    pub(crate) fn variable(&self, number: u32, value: i64) -> Result<(), TooLong> {
        let [head, place] = self.take(2)? else {
            return Err(TooLong);
        };
        head.store(first(VARIABLE, number), Ordering::Relaxed);
        place.store(value as u64, Ordering::Relaxed);
        Ok(())
    }

    /// The data of a marker.
    pub(crate) fn static_data(&self, data: &[u8]) -> Result<(), TooLong> {
        let [head, places @ ..] = self.take(static_words(data.len()))? else {
            return Err(TooLong);
        };
        head.store(first(STATIC, data.len() as u32), Ordering::Relaxed);
        for (place, bytes) in places.iter().zip(data.chunks(8)) {
            place.store(word_of(bytes), Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Up to eight bytes, little-endian, with zeros behind them.
fn word_of(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    let length = bytes.len().min(8);
    word[..length].copy_from_slice(&bytes[..length]);
    u64::from_le_bytes(word)
}

/// All registers of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registers {
    /// Core registers.
    pub core: CoreRegs,
    /// SIMD and floating point.
    pub fp: FpRegs,
    /// System registers.
    pub sys: SysRegs,
}

/// One block of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Block {
    /// All registers.
    Registers(alloc::boxed::Box<Registers>),
    /// Memory.
    Memory {
        /// The first byte's address.
        address: Gva,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A trace state variable.
    Variable {
        /// Its number.
        number: u32,
        /// Its value.
        value: i64,
    },
    /// What a marker says.
    Static(Vec<u8>),
}

/// A frame, taken out of the buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// What it begins with.
    pub head: Head,
    /// What was collected, in order.
    pub blocks: Vec<Block>,
}

impl Frame {
    /// The frame in `words`, as far as it is one.
    pub(crate) fn decode(words: &[u64]) -> Option<Self> {
        let head = Head::decode(|index| words.get(index).copied().unwrap_or(0));
        let used = (words.get(1)? >> 40) as usize;
        let mut rest = words.get(HEAD_WORDS..used)?;
        let mut blocks = Vec::new();
        while let [first, more @ ..] = rest {
            let (block, taken) = decode_block(*first, more)?;
            blocks.push(block);
            rest = more.get(taken..)?;
        }
        Some(Self { head, blocks })
    }

    /// The registers, where they were collected.
    pub fn registers(&self) -> Option<&Registers> {
        self.blocks.iter().find_map(|block| match block {
            Block::Registers(registers) => Some(&**registers),
            _ => None,
        })
    }

    /// What a marker has said, where that was collected.
    pub fn static_data(&self) -> Option<&[u8]> {
        self.blocks.iter().find_map(|block| match block {
            Block::Static(bytes) => Some(&bytes[..]),
            _ => None,
        })
    }

    /// The value of a variable, where it was collected.
    pub fn variable(&self, wanted: u32) -> Option<i64> {
        self.blocks.iter().find_map(|block| match block {
            Block::Variable { number, value } if *number == wanted => Some(*value),
            _ => None,
        })
    }

    /// What was collected of the memory from `address` on: not all that there may be, but at least a byte.
    pub fn memory(&self, wanted: Gva) -> Option<&[u8]> {
        self.blocks.iter().find_map(|block| match block {
            Block::Memory { address, bytes } => {
                let offset = usize::try_from(wanted.0.checked_sub(address.0)?).ok()?;
                bytes.get(offset..).filter(|rest| !rest.is_empty())
            }
            _ => None,
        })
    }
}

impl Head {
    /// The head in the words of a frame.
    pub(crate) fn decode(word: impl Fn(usize) -> u64) -> Self {
        let who = word(1);
        Self {
            number: who as u32,
            vcpu: VcpuId((who >> 32) as u8),
            pc: Gva(word(2)),
            time_ns: word(3),
        }
    }
}

/// The block that begins with the word `first`, and how many of the words behind it are its.
fn decode_block(first: u64, words: &[u64]) -> Option<(Block, usize)> {
    let number = (first >> 8) as u32;
    let length = number as usize;
    match first as u8 {
        REGISTERS => {
            let words = words.get(..length)?;
            let (core, rest) = words.split_first_chunk::<CORE_WORDS>()?;
            let (fp, sys) = rest.split_first_chunk::<{ FpRegs::WORDS }>()?;
            let registers = Registers {
                core: CoreRegs::from_words(core),
                fp: FpRegs::from_words(fp),
                sys: SysRegs::from_words(sys),
            };
            Some((Block::Registers(registers.into()), length))
        }
        MEMORY => {
            let data = words.get(1..memory_words(length) - 1)?;
            let bytes = bytes_of(data, length);
            let address = Gva(*words.first()?);
            Some((Block::Memory { address, bytes }, memory_words(length) - 1))
        }
        VARIABLE => {
            let value = *words.first()? as i64;
            Some((Block::Variable { number, value }, 1))
        }
        STATIC => {
            let data = words.get(..static_words(length) - 1)?;
            Some((Block::Static(bytes_of(data, length)), data.len()))
        }
        _ => None,
    }
}

/// The first bytes of words.
fn bytes_of(words: &[u64], length: usize) -> Vec<u8> {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes());
    bytes.take(length).collect()
}

#[cfg(test)]
mod tests;
