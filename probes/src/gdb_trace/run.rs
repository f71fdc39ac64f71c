//! A run: what the hits of all GDB tracepoints share from `tstart` to the next.

use super::buffer::{FrameBuffer, Shape};
use crate::engine::ShortText;
use crate::fixed::try_words;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use ebpf::RunError;

/// Bytes of a frame at most.
pub const MAX_FRAME: usize = 64 << 10;
/// Words of an error's text.
const TEXT_WORDS: usize = ShortText::CAPACITY / 8;

/// Why a run has stopped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StopReason {
    /// Somebody said so, with these words.
    Command(String),
    /// The trace buffer is full.
    Full,
    /// The client has gone.
    Disconnected,
    /// That tracepoint has had its last hit.
    PassCount(u32),
    /// An expression of that tracepoint could not be evaluated.
    Error {
        /// The tracepoint.
        number: u32,
        /// What was wrong.
        text: String,
    },
}

/// [`Run::state`]: hits are collected.
const RUNNING: u8 = 0;
/// Somebody stops the run, and writes down why.
const STOPPING: u8 = 1;
const COMMAND: u8 = 2;
const FULL: u8 = 3;
const DISCONNECTED: u8 = 4;
const PASS_COUNT: u8 = 5;
const ERROR: u8 = 6;

/// One run.
pub(crate) struct Run {
    pub(crate) buffer: FrameBuffer,
    /// Where the frames are made whose length is known when they are whole, by physical CPU.
    scratch: Vec<Box<[AtomicU64]>>,
    /// How many system registers a vCPU of the space has.
    pub(crate) system_registers: usize,
    state: AtomicU8,
    stopper: AtomicU32,
    error: [AtomicU64; TEXT_WORDS],
    started_ns: u64,
    stopped_ns: AtomicU64,
}

/// What a run needs.
pub(crate) struct Needs {
    /// Bytes of the buffer.
    pub(crate) size: usize,
    pub(crate) shape: Shape,
    /// How many CPUs make frames whose length is not known beforehand.
    pub(crate) scratch: usize,
    pub(crate) system_registers: usize,
    pub(crate) now_ns: u64,
}

impl Run {
    /// A run that begins now; `None` where there is no memory for it.
    pub(crate) fn new(needs: &Needs) -> Option<Self> {
        let scratch = (0..needs.scratch).map(|_| try_words(MAX_FRAME / 8));
        Some(Self {
            buffer: FrameBuffer::new(needs.size, needs.shape)?,
            scratch: scratch.collect::<Option<_>>()?,
            system_registers: needs.system_registers,
            state: AtomicU8::new(RUNNING),
            stopper: AtomicU32::new(0),
            error: [const { AtomicU64::new(0) }; TEXT_WORDS],
            started_ns: needs.now_ns,
            stopped_ns: AtomicU64::new(0),
        })
    }

    /// Whether hits are collected.
    pub(crate) fn is_running(&self) -> bool {
        self.state.load(Ordering::Relaxed) == RUNNING
    }

    /// The words in which a CPU makes a frame.
    pub(crate) fn scratch(&self, cpu: usize) -> &[AtomicU64] {
        self.scratch.get(cpu).map_or(&[], |words| words)
    }

    /// Whether there is a scratch.
    pub(crate) fn has_scratch(&self) -> bool {
        !self.scratch.is_empty()
    }

    // ---- Stops, on the way of a hit too: the first counts ----

    pub(crate) fn full(&self, now_ns: u64) -> bool {
        self.stop(FULL, now_ns, || {})
    }

    pub(crate) fn pass_count(&self, number: u32, now_ns: u64) -> bool {
        self.stop(PASS_COUNT, now_ns, || {
            self.stopper.store(number, Ordering::Relaxed);
        })
    }

    pub(crate) fn command(&self, now_ns: u64) -> bool {
        self.stop(COMMAND, now_ns, || {})
    }

    pub(crate) fn disconnected(&self, now_ns: u64) -> bool {
        self.stop(DISCONNECTED, now_ns, || {})
    }

    pub(crate) fn failed(&self, number: u32, error: &RunError, now_ns: u64) -> bool {
        self.stop(ERROR, now_ns, || {
            let mut text = ShortText::new();
            // Writing to a `ShortText` does not fail.
            let _ = write!(text, "{error}");
            self.keep_text(text.as_bytes());
            self.stopper.store(number, Ordering::Relaxed);
        })
    }

    pub(crate) fn too_long(&self, number: u32, now_ns: u64) -> bool {
        self.stop(ERROR, now_ns, || {
            self.keep_text(b"it collects more than fits in one frame, 65536 bytes");
            self.stopper.store(number, Ordering::Relaxed);
        })
    }

    fn keep_text(&self, text: &[u8]) {
        for (place, bytes) in self.error.iter().zip(text.chunks(8)) {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            place.store(u64::from_le_bytes(word), Ordering::Relaxed);
        }
    }

    /// Returns whether the run has stopped because of this.
    fn stop(&self, reason: u8, now_ns: u64, explain: impl FnOnce()) -> bool {
        let is_first = self
            .state
            .compare_exchange(RUNNING, STOPPING, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if is_first {
            explain();
            self.stopped_ns.store(now_ns, Ordering::Relaxed);
            self.state.store(reason, Ordering::Release);
        }
        is_first
    }

    // ---- What the server asks ----

    /// Why the run has stopped; `words` are those of who has said so. `None` while it goes on.
    pub(crate) fn reason(&self, words: &str) -> Option<StopReason> {
        let state = self.state.load(Ordering::Acquire);
        let number = self.stopper.load(Ordering::Relaxed);
        Some(match state {
            COMMAND => StopReason::Command(words.into()),
            FULL => StopReason::Full,
            DISCONNECTED => StopReason::Disconnected,
            PASS_COUNT => StopReason::PassCount(number),
            ERROR => {
                let text = self.error_text();
                StopReason::Error { number, text }
            }
            _ => return None,
        })
    }

    fn error_text(&self) -> String {
        let words = self.error.iter();
        let bytes: Vec<u8> = words
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
            .take_while(|byte| *byte != 0)
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// When it began, in nanoseconds.
    pub(crate) fn started_ns(&self) -> u64 {
        self.started_ns
    }

    /// When it stopped; 0 while it goes on.
    pub(crate) fn stopped_ns(&self) -> u64 {
        self.stopped_ns.load(Ordering::Relaxed)
    }
}
