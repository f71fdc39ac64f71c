//! What a hit of a GDB tracepoint does: it asks the condition, and writes a frame.
//!
//! All of it is on the way of a hit: nothing allocates, parses or waits. What is collected has been worked out when the
//! run began: where a frame's length was known then, the frame is written in its place in the buffer; where an
//! expression decides what is collected, it is made in a scratch of the CPU's own and copied.

use super::buffer::{HEAD_WORDS, NoRoom, Region};
use super::definition::PointId;
use super::experiment::{TIMESTAMP, VCPU};
use super::frame::{Head, TooLong, Writer, memory_words, register_words, static_words};
use super::run::{MAX_FRAME, Run};
use crate::addr::{Gva, PAGE_SIZE};
use crate::machine::{LiveMemory, Stamp, VcpuId};
use crate::programs::ProgramRef;
use crate::regs::{CoreRegs, SysReg};
use crate::space::Space;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use ebpf::{CollectFault, Host, ReadFault, RunError};
use spin::Mutex;

/// How many `while-stepping` tracepoints a vCPU can step for at the same time. A hit of one more collects at the hit only.
const MAX_LEGS: usize = 8;

/// Strings are read in pieces of so many bytes.
const STRING_PIECE: usize = 64;

/// Something to collect, ready for the way of a hit.
#[derive(Debug)]
pub(crate) enum Item {
    Registers,
    Memory {
        base: Option<u8>,
        offset: u64,
        length: usize,
    },
    Program(ProgramRef),
}

/// What is collected at a hit, or after a step.
pub(crate) struct Collection {
    items: Box<[Item]>,
    /// Words of a frame, where they do not depend on the hit.
    fixed: Option<usize>,
}

impl Collection {
    /// In a space whose vCPUs have so many system registers.
    pub(crate) fn new(items: Box<[Item]>, system_registers: usize) -> Self {
        let mut fixed = Some(HEAD_WORDS);
        for item in &items {
            let words = match item {
                Item::Registers => Some(register_words(system_registers)),
                Item::Memory { length, .. } => Some(memory_words(*length)),
                Item::Program(_) => None,
            };
            fixed = fixed.zip(words).map(|(sum, words)| sum + words);
        }
        Self { items, fixed }
    }

    /// Words of a frame, where they do not depend on the hit.
    pub(crate) fn fixed(&self) -> Option<usize> {
        self.fixed
    }
}

/// A GDB tracepoint of a run.
pub(crate) struct Recorder {
    pub(crate) run: Arc<Run>,
    pub(crate) id: PointId,
    pub(crate) condition: Option<ProgramRef>,
    pub(crate) at_hit: Collection,
    pub(crate) at_step: Collection,
    pub(crate) steps: u64,
    pub(crate) passes: u64,
    /// Hits for which the condition holds.
    pub(crate) hits: AtomicU64,
    /// Bytes of frames.
    pub(crate) usage: AtomicU64,
}

impl core::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.id)
    }
}

/// What has happened.
pub(crate) struct Occurrence<'a, M> {
    pub(crate) vcpu: VcpuId,
    pub(crate) regs: &'a CoreRegs,
    pub(crate) memory: M,
    pub(crate) stamp: Stamp,
}

impl Recorder {
    /// Where the client sees a hit: at the tracepoint, also where the site is behind its landing pad.
    fn shown_pc(&self, pc: u64) -> Gva {
        if pc.wrapping_sub(self.id.address.0) == 4 {
            self.id.address
        } else {
            Gva(pc)
        }
    }
}

impl Space {
    /// A hit of a GDB tracepoint.
    pub(crate) fn record<M: LiveMemory>(&self, recorder: &Arc<Recorder>, hit: &Occurrence<'_, M>) {
        let run = &*recorder.run;
        if !run.is_running() {
            return;
        }
        if let Some(condition) = &recorder.condition {
            match self.evaluate(condition, hit, None) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => return self.failed(recorder, &error, hit.stamp),
            }
        }
        let count = recorder.hits.fetch_add(1, Ordering::Relaxed) + 1;
        if recorder.passes != 0 && count > recorder.passes {
            return;
        }
        let pc = recorder.shown_pc(hit.regs.pc);
        let went_well = self.write_frame(recorder, &recorder.at_hit, hit, pc);
        let Some(walk) = self.walks.get(usize::from(hit.vcpu.0)) else {
            return;
        };
        let walks = recorder.steps != 0 && went_well.is_ok() && walk.begin(recorder, count);
        if !walks {
            self.passed(recorder, count, hit.stamp);
        }
    }

    /// A static tracepoint marker has said something, which a GDB tracepoint there collects. Not on the way of a hit: events
    /// come out of the rings a moment later.
    pub(crate) fn record_mark(&self, recorder: &Recorder, mark: &Mark<'_>) {
        let run = &*recorder.run;
        if !run.is_running() {
            return;
        }
        let count = recorder.hits.fetch_add(1, Ordering::Relaxed) + 1;
        let words = HEAD_WORDS + static_words(mark.data.len());
        let ended = match run.buffer.reserve(words) {
            Ok(region) => {
                let writer = Writer::new(region.words);
                // The words were counted for it.
                let _ = writer.static_data(mark.data);
                writer.finish(&Head {
                    number: recorder.id.number,
                    vcpu: mark.vcpu,
                    pc: recorder.id.address,
                    time_ns: mark.time_ns,
                });
                run.buffer.commit(region);
                recorder
                    .usage
                    .fetch_add(8 * words as u64, Ordering::Relaxed);
                let is_last = recorder.passes != 0 && count >= recorder.passes;
                is_last && run.pass_count(recorder.id.number, mark.time_ns)
            }
            Err(NoRoom::Full) => run.full(mark.time_ns),
            Err(NoRoom::Contended) => false,
        };
        if ended {
            self.note_run_ended();
        }
    }

    /// A vCPU has executed an instruction, and GDB tracepoints step it. Returns whether they still do.
    pub fn walked(
        &self,
        vcpu: VcpuId,
        regs: &CoreRegs,
        memory: &dyn LiveMemory,
        stamp: Stamp,
    ) -> bool {
        let Some(walk) = self.walks.get(usize::from(vcpu.0)) else {
            return false;
        };
        let step = Occurrence {
            vcpu,
            regs,
            memory,
            stamp,
        };
        walk.go(
            |recorder| {
                let is_running = recorder.run.is_running();
                let pc = Gva(regs.pc);
                is_running
                    && self
                        .write_frame(recorder, &recorder.at_step, &step, pc)
                        .is_ok()
            },
            |recorder, count| self.passed(recorder, count, stamp),
        )
    }

    /// Whether GDB tracepoints step a vCPU.
    #[inline]
    pub fn walks(&self, vcpu: VcpuId) -> bool {
        let walk = self.walks.get(usize::from(vcpu.0));
        walk.is_some_and(|walk| walk.goes_on.load(Ordering::Relaxed))
    }

    /// The value of a trace state variable at a hit.
    pub(crate) fn variable_at(&self, number: u16, vcpu: VcpuId, stamp: Stamp) -> Option<i64> {
        match number.into() {
            TIMESTAMP => Some((stamp.time_ns / 1000) as i64),
            VCPU => Some(vcpu.0.into()),
            number => self.variables().get(number),
        }
    }

    /// A hit is over that was number `count`.
    fn passed(&self, recorder: &Recorder, count: u64, stamp: Stamp) {
        let is_last = recorder.passes != 0 && count >= recorder.passes;
        if is_last && recorder.run.pass_count(recorder.id.number, stamp.time_ns) {
            self.note_run_ended();
        }
    }

    fn failed(&self, recorder: &Recorder, error: &RunError, stamp: Stamp) {
        if recorder
            .run
            .failed(recorder.id.number, error, stamp.time_ns)
        {
            self.note_run_ended();
        }
    }

    /// Writes a frame, or stops the run because it cannot be written.
    fn write_frame<M: LiveMemory>(
        &self,
        recorder: &Recorder,
        collection: &Collection,
        hit: &Occurrence<'_, M>,
        pc: Gva,
    ) -> Result<(), NoFrame> {
        let run = &*recorder.run;
        let written = match collection.fixed {
            Some(words) => run
                .buffer
                .reserve(words)
                .map_err(NoFrame::NoRoom)
                .and_then(|region| {
                    let writer = Writer::new(region.words);
                    let filled = self.fill(recorder, collection, hit, pc, &writer);
                    // What could not be read is left out, so its length fits in any case.
                    run.buffer.commit(region);
                    filled.map(|()| region.words.len())
                }),
            None => self.write_by_scratch(recorder, collection, hit, pc),
        };
        let now = hit.stamp.time_ns;
        let ended = match &written {
            Ok(words) => {
                recorder
                    .usage
                    .fetch_add(8 * *words as u64, Ordering::Relaxed);
                false
            }
            Err(NoFrame::NoRoom(NoRoom::Full)) => run.full(now),
            Err(NoFrame::NoRoom(NoRoom::Contended)) => false,
            Err(NoFrame::TooLong) => run.too_long(recorder.id.number, now),
            Err(NoFrame::Failed(error)) => run.failed(recorder.id.number, error, now),
        };
        if ended {
            self.note_run_ended();
        }
        written.map(|_| ())
    }

    /// Makes a frame in the CPU's scratch, and copies it.
    #[inline(never)]
    fn write_by_scratch<M: LiveMemory>(
        &self,
        recorder: &Recorder,
        collection: &Collection,
        hit: &Occurrence<'_, M>,
        pc: Gva,
    ) -> Result<usize, NoFrame> {
        let run = &*recorder.run;
        let scratch = run.scratch(hit.stamp.cpu);
        let writer = Writer::new(scratch);
        self.fill(recorder, collection, hit, pc, &writer)?;
        let region: Region<'_> = run.buffer.reserve(writer.used()).map_err(NoFrame::NoRoom)?;
        // The first word is the buffer's.
        for (place, word) in region.words.iter().zip(scratch).skip(1) {
            place.store(word.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        run.buffer.commit(region);
        Ok(region.words.len())
    }

    fn fill<M: LiveMemory>(
        &self,
        recorder: &Recorder,
        collection: &Collection,
        hit: &Occurrence<'_, M>,
        pc: Gva,
        writer: &Writer<'_>,
    ) -> Result<(), NoFrame> {
        let run = &*recorder.run;
        for item in &collection.items {
            match item {
                Item::Registers => {
                    writer.registers(hit.regs, pc, &hit.memory, run.system_registers)?;
                }
                Item::Memory {
                    base,
                    offset,
                    length,
                } => {
                    let words = hit.regs.as_words();
                    let base = base.and_then(|base| words.get(usize::from(base)));
                    let address = base.copied().unwrap_or(0).wrapping_add(*offset);
                    writer.memory(&hit.memory, Gva(address), *length)?;
                }
                Item::Program(program) => {
                    self.evaluate(program, hit, Some(writer))
                        .map_err(NoFrame::Failed)?;
                }
            }
        }
        writer.finish(&Head {
            number: recorder.id.number,
            vcpu: hit.vcpu,
            pc,
            time_ns: hit.stamp.time_ns,
        });
        Ok(())
    }

    /// Runs a compiled agent expression. `frame` is what it collects into.
    fn evaluate<M: LiveMemory>(
        &self,
        program: &ProgramRef,
        hit: &Occurrence<'_, M>,
        frame: Option<&Writer<'_>>,
    ) -> Result<u64, RunError> {
        let host = Evaluation {
            space: self,
            hit,
            frame,
        };
        program.program().run(hit.regs.as_words(), &host)
    }
}

/// What a static tracepoint marker has said.
#[derive(Clone, Copy, Debug)]
pub struct Mark<'a> {
    /// The vCPU that it was about.
    pub vcpu: VcpuId,
    /// When: [`crate::machine::Clock::now_ns`].
    pub time_ns: u64,
    /// What it says.
    pub data: &'a [u8],
}

/// Why there is no frame.
enum NoFrame {
    NoRoom(NoRoom),
    TooLong,
    Failed(RunError),
}

impl From<TooLong> for NoFrame {
    fn from(_: TooLong) -> Self {
        Self::TooLong
    }
}

/// What a compiled expression may ask for.
struct Evaluation<'a, M> {
    space: &'a Space,
    hit: &'a Occurrence<'a, M>,
    frame: Option<&'a Writer<'a>>,
}

impl<M: LiveMemory> Host for Evaluation<'_, M> {
    fn ktime_ns(&self) -> u64 {
        self.space.machine().now_ns()
    }

    fn cpu(&self) -> usize {
        self.hit.stamp.cpu
    }

    fn vm(&self) -> u32 {
        self.space.vm().0.into()
    }

    fn vcpu(&self) -> u32 {
        self.hit.vcpu.0.into()
    }

    fn register(&self, number: u16) -> Option<u64> {
        let register = SysReg::ALL.get(usize::from(number))?;
        self.hit.memory.system(*register)
    }

    fn read_guest(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadFault> {
        let read = self.hit.memory.inspect(Gva(address), buffer);
        read.map_err(|_| ReadFault)
    }

    /// What an expression prints goes nowhere: a tracepoint collects.
    fn print(&self, _: &[u8]) {}

    fn state_variable(&self, number: u16) -> Option<u64> {
        self.variable(number).map(|value| value as u64)
    }

    fn set_state_variable(&self, number: u16, value: u64) -> Option<()> {
        let is_set = self.space.variables().set(number.into(), value as i64);
        is_set.then_some(())
    }

    fn collect(&self, address: u64, length: u64) -> Result<(), CollectFault> {
        let frame = self.frame.ok_or(CollectFault::NoFrame)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(MAX_FRAME);
        let written = frame.memory(&self.hit.memory, Gva(address), length);
        written.map_err(|_| CollectFault::Full)
    }

    /// Of a string that cannot be read to its end, as much as can be.
    fn collect_string(&self, address: u64, limit: u64) -> Result<(), CollectFault> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(MAX_FRAME);
        let mut buffer = [0; STRING_PIECE];
        let mut length = 0;
        while length < limit {
            let at = Gva(address.wrapping_add(length as u64));
            let to_page_end = (PAGE_SIZE - at.page_offset()) as usize;
            let piece = &mut buffer[..STRING_PIECE.min(limit - length).min(to_page_end)];
            if self.hit.memory.inspect(at, piece).is_err() {
                break;
            }
            match piece.iter().position(|byte| *byte == 0) {
                Some(end) => {
                    length += end + 1;
                    break;
                }
                None => length += piece.len(),
            }
        }
        self.collect(address, length as u64)
    }

    fn collect_state_variable(&self, number: u16) -> Result<(), CollectFault> {
        let frame = self.frame.ok_or(CollectFault::NoFrame)?;
        let value = self.variable(number);
        let value = value.ok_or(CollectFault::NoVariable(number))?;
        let written = frame.variable(number.into(), value);
        written.map_err(|_| CollectFault::Full)
    }
}

impl<M> Evaluation<'_, M> {
    fn variable(&self, number: u16) -> Option<i64> {
        self.space
            .variable_at(number, self.hit.vcpu, self.hit.stamp)
    }
}

/// The GDB tracepoints that step a vCPU. Its own CPU looks at it, and the server while the VM is held, so nobody ever waits
/// for the lock.
pub(crate) struct Walk {
    goes_on: AtomicBool,
    legs: Mutex<[Option<Leg>; MAX_LEGS]>,
}

/// The steps after one hit.
struct Leg {
    recorder: Arc<Recorder>,
    /// The number of the hit.
    count: u64,
    left: u64,
}

impl Walk {
    pub(crate) const fn new() -> Self {
        Self {
            goes_on: AtomicBool::new(false),
            legs: Mutex::new([const { None }; MAX_LEGS]),
        }
    }

    /// Begins the steps after hit number `count`. Returns whether there was room.
    fn begin(&self, recorder: &Arc<Recorder>, count: u64) -> bool {
        let Some(mut legs) = self.legs.try_lock() else {
            return false;
        };
        let Some(place) = legs.iter_mut().find(|place| place.is_none()) else {
            return false;
        };
        *place = Some(Leg {
            recorder: recorder.clone(),
            count,
            left: recorder.steps,
        });
        self.goes_on.store(true, Ordering::Relaxed);
        true
    }

    /// An instruction has been executed: calls `step`, which says whether to go on, for each leg, and `end` where it was
    /// the last. Returns whether there is one left.
    fn go(&self, step: impl Fn(&Recorder) -> bool, end: impl Fn(&Recorder, u64)) -> bool {
        let Some(mut legs) = self.legs.try_lock() else {
            return false;
        };
        for place in legs.iter_mut() {
            let Some(leg) = place else {
                continue;
            };
            let goes_well = step(&leg.recorder);
            leg.left -= 1;
            if goes_well && leg.left != 0 {
                continue;
            }
            end(&leg.recorder, leg.count);
            // The registry has it too, so nothing is freed here.
            *place = None;
        }
        let goes_on = legs.iter().any(Option::is_some);
        self.goes_on.store(goes_on, Ordering::Relaxed);
        goes_on
    }

    /// Ends all. The VM is held.
    pub(crate) fn clear(&self) {
        *self.legs.lock() = [const { None }; MAX_LEGS];
        self.goes_on.store(false, Ordering::Relaxed);
    }
}
