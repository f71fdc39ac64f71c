//! The trace buffer: where hits on all CPUs put their frames.
//!
//! A frame takes its words with one compare-and-exchange and fills them in place; it is there for readers when its first
//! word says so. Nobody waits for anybody: in a circular buffer a frame that would have to push out one which another
//! CPU still writes is given up and counted. Readers come only while the VM is held, when nobody writes.
//!
//! Positions count words since the buffer was made, without wrapping; the first word of a frame holds its own, so what
//! an earlier lap has left is never taken for a frame.

use crate::fixed::try_words;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

/// Words at the beginning of a frame, before its blocks ([`super::frame`]).
pub(crate) const HEAD_WORDS: usize = 4;

/// What happens when the buffer is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Shape {
    /// The run stops.
    #[default]
    Linear,
    /// The oldest frames go.
    Circular,
}

/// Why there is no room for a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoRoom {
    /// The buffer is full, or smaller than the frame.
    Full,
    /// What would have to go is still being written.
    Contended,
}

/// The memory of frames.
pub struct FrameBuffer {
    words: Box<[AtomicU64]>,
    shape: Shape,
    /// Where the next frame begins.
    head: AtomicU64,
    /// Where the oldest begins.
    tail: AtomicU64,
    created: AtomicU64,
    dropped: AtomicU64,
    /// Frames given up because of another that was being written.
    lost: AtomicU64,
}

/// Words that a CPU has got for a frame.
#[derive(Clone, Copy)]
pub(crate) struct Region<'a> {
    position: u64,
    pub(crate) words: &'a [AtomicU64],
}

/// The first word of a frame: its position, how many words it takes, and whether it only fills the end of the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct First {
    position: u64,
    size: u64,
    is_padding: bool,
}

impl First {
    const SIZE_BITS: u32 = 23;
    const PADDING: u64 = 1 << Self::SIZE_BITS;
    const POSITION_SHIFT: u32 = Self::SIZE_BITS + 1;

    const fn encode(self) -> u64 {
        let padding = if self.is_padding { Self::PADDING } else { 0 };
        self.position << Self::POSITION_SHIFT | padding | self.size
    }

    /// `None` where `word` is not the first of a whole frame at `position`.
    fn decode(word: u64, position: u64) -> Option<Self> {
        let size = word & (Self::PADDING - 1);
        let is_here = word >> Self::POSITION_SHIFT
            == position << Self::POSITION_SHIFT >> Self::POSITION_SHIFT;
        (is_here && size != 0).then_some(Self {
            position,
            size,
            is_padding: word & Self::PADDING != 0,
        })
    }
}

/// The largest buffer, in bytes: a frame's size has to fit its first word.
pub const MAX_BUFFER: usize = 16 << 20;
const _: () = assert!(MAX_BUFFER / 8 < 1 << First::SIZE_BITS);

impl FrameBuffer {
    /// A buffer of `bytes` bytes, at most [`MAX_BUFFER`]; `None` where there is no memory for it.
    pub(crate) fn new(bytes: usize, shape: Shape) -> Option<Self> {
        let count = bytes.min(MAX_BUFFER) / 8;
        Some(Self {
            words: try_words(count.max(HEAD_WORDS))?,
            shape,
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            created: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        })
    }

    /// Whether it is circular.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Its size in bytes.
    pub fn size(&self) -> usize {
        8 * self.words.len()
    }

    /// Bytes that no frame takes.
    pub fn free(&self) -> usize {
        let used = self.head.load(Ordering::Relaxed) - self.tail.load(Ordering::Relaxed);
        self.size().saturating_sub(8 * used as usize)
    }

    /// Frames ever made.
    pub fn created(&self) -> u64 {
        self.created.load(Ordering::Relaxed)
    }

    /// Frames that are in it.
    pub fn frames(&self) -> u64 {
        self.created()
            .saturating_sub(self.dropped.load(Ordering::Relaxed))
    }

    /// Frames that were given up because another CPU was still writing what they would have pushed out.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    // ---- On the way of a hit ----

    /// Takes `count` words for a frame.
    pub(crate) fn reserve(&self, count: usize) -> Result<Region<'_>, NoRoom> {
        let capacity = self.words.len() as u64;
        let count = count as u64;
        if count > capacity {
            return Err(NoRoom::Full);
        }
        loop {
            let head = self.head.load(Ordering::Relaxed);
            // A frame is in one piece.
            let left = capacity - head % capacity;
            let is_at_end = left < count;
            let size = if is_at_end { left } else { count };
            if self.shape == Shape::Linear && (is_at_end || head + size > capacity) {
                return Err(NoRoom::Full);
            }
            self.make_room((head + size).saturating_sub(capacity))?;
            let taken = self.head.compare_exchange_weak(
                head,
                head + size,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            match taken {
                Ok(_) if is_at_end => self.publish(First {
                    position: head,
                    size,
                    is_padding: true,
                }),
                Ok(_) => {
                    return Ok(Region {
                        position: head,
                        words: self.at(head, count as usize),
                    });
                }
                Err(_) => {}
            }
        }
    }

    /// The frame in `region` is whole.
    pub(crate) fn commit(&self, region: Region<'_>) {
        self.created.fetch_add(1, Ordering::Relaxed);
        self.publish(First {
            position: region.position,
            size: region.words.len() as u64,
            is_padding: false,
        });
    }

    fn publish(&self, first: First) {
        if let [word, ..] = self.at(first.position, 1) {
            word.store(first.encode(), Ordering::Release);
        }
    }

    /// Lets frames go until none begins before `needed`.
    fn make_room(&self, needed: u64) -> Result<(), NoRoom> {
        loop {
            let tail = self.tail.load(Ordering::Acquire);
            if tail >= needed {
                return Ok(());
            }
            let Some(oldest) = self.first_at(tail) else {
                // Another CPU may have let it go, and a third may write there already.
                if self.tail.load(Ordering::Acquire) != tail {
                    continue;
                }
                self.lost.fetch_add(1, Ordering::Relaxed);
                return Err(NoRoom::Contended);
            };
            let gone = self.tail.compare_exchange(
                tail,
                tail + oldest.size,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if gone.is_ok() && !oldest.is_padding {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn first_at(&self, position: u64) -> Option<First> {
        let [word, ..] = self.at(position, 1) else {
            return None;
        };
        First::decode(word.load(Ordering::Acquire), position)
    }

    /// So many words from a position on; fewer at the end.
    fn at(&self, position: u64, count: usize) -> &[AtomicU64] {
        let start = (position % self.words.len() as u64) as usize;
        let rest = &self.words[start..];
        &rest[..count.min(rest.len())]
    }

    // ---- While nobody writes ----

    /// The positions of the frames, oldest first.
    pub(crate) fn positions(&self) -> Positions<'_> {
        self.positions_from(self.tail.load(Ordering::Acquire))
    }

    /// The same from the frame at `position` on.
    pub(crate) fn positions_from(&self, position: u64) -> Positions<'_> {
        Positions {
            buffer: self,
            rest: position..self.head.load(Ordering::Acquire),
        }
    }

    /// The words of the frame at `position`; none where there is no frame.
    pub(crate) fn read(&self, position: u64) -> Vec<u64> {
        let Some(first) = self.first_at(position) else {
            return Vec::new();
        };
        let words = self.at(position, first.size as usize).iter();
        words.map(|word| word.load(Ordering::Relaxed)).collect()
    }

    /// Word `index` of the frame at `position`.
    pub(crate) fn word(&self, position: u64, index: usize) -> u64 {
        let words = self.at(position, index + 1);
        words
            .get(index)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }
}

/// Goes from frame to frame.
pub(crate) struct Positions<'a> {
    buffer: &'a FrameBuffer,
    rest: Range<u64>,
}

impl Positions<'_> {
    /// Where it has come to.
    pub(crate) fn position(&self) -> u64 {
        self.rest.start
    }
}

impl Iterator for Positions<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        while self.rest.start < self.rest.end {
            let position = self.rest.start;
            let first = self.buffer.first_at(position)?;
            self.rest.start = position + first.size;
            if !first.is_padding {
                return Some(position);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;
    use std::thread;

    fn buffer(words: usize, shape: Shape) -> FrameBuffer {
        FrameBuffer::new(8 * words, shape).expect("there should be memory")
    }

    /// A frame of `size` words, all of which but the first are `mark`.
    fn write(buffer: &FrameBuffer, size: usize, mark: u64) -> Result<(), NoRoom> {
        let region = buffer.reserve(size)?;
        for word in &region.words[1..] {
            word.store(mark, Ordering::Relaxed);
        }
        buffer.commit(region);
        Ok(())
    }

    /// Sizes and marks of what is in a buffer.
    fn content(buffer: &FrameBuffer) -> Vec<(usize, u64)> {
        let frames = buffer.positions().map(|position| buffer.read(position));
        frames
            .map(|words| {
                assert!(words[1..].iter().all(|word| *word == words[1]), "{words:?}");
                (words.len(), words[1])
            })
            .collect()
    }

    #[test]
    fn a_linear_buffer_ends() {
        let buffer = buffer(20, Shape::Linear);
        assert_eq!(write(&buffer, 8, 1), Ok(()));
        assert_eq!(write(&buffer, 8, 2), Ok(()));
        assert_eq!(write(&buffer, 8, 3), Err(NoRoom::Full));
        assert_eq!(write(&buffer, 4, 4), Ok(()));
        assert_eq!(content(&buffer), [(8, 1), (8, 2), (4, 4)]);
        assert_eq!(
            (buffer.free(), buffer.frames(), buffer.created()),
            (0, 3, 3)
        );
    }

    #[test]
    fn a_circular_buffer_keeps_the_newest() {
        let buffer = buffer(20, Shape::Circular);
        for mark in 1..=5 {
            assert_eq!(write(&buffer, 8, mark), Ok(()));
        }
        // Two of them fit, and four words at the end are padding.
        assert_eq!(content(&buffer), [(8, 4), (8, 5)]);
        assert_eq!((buffer.frames(), buffer.created()), (2, 5));
        assert_eq!(write(&buffer, 21, 6), Err(NoRoom::Full));
        assert_eq!(write(&buffer, 20, 7), Ok(()));
        assert_eq!(content(&buffer), [(20, 7)]);
    }

    #[test]
    fn a_frame_that_is_being_written_is_not_pushed_out() {
        let buffer = buffer(16, Shape::Circular);
        let region = buffer.reserve(8).expect("there is room");
        assert_eq!(write(&buffer, 8, 2), Ok(()));
        assert_eq!(write(&buffer, 8, 3), Err(NoRoom::Contended));
        assert_eq!(buffer.lost(), 1);
        for word in &region.words[1..] {
            word.store(1, Ordering::Relaxed);
        }
        buffer.commit(region);
        assert_eq!(content(&buffer), [(8, 1), (8, 2)]);
        assert_eq!(write(&buffer, 8, 4), Ok(()));
        assert_eq!(content(&buffer), [(8, 2), (8, 4)]);
    }

    #[test]
    fn cpus_do_not_tear_each_others_frames() {
        for shape in [Shape::Linear, Shape::Circular] {
            let buffer = buffer(1000, shape);
            thread::scope(|scope| {
                for cpu in 0..4_u64 {
                    let buffer = &buffer;
                    scope.spawn(move || {
                        for number in 0..2000_u64 {
                            let size = 2 + (number as usize * 7 + cpu as usize) % 30;
                            let _ = write(buffer, size, cpu << 32 | number);
                        }
                    });
                }
            });
            let kept = content(&buffer);
            assert_eq!(kept.len() as u64, buffer.frames());
            assert!(kept.len() > 20, "{kept:?}");
            for cpu in 0..4 {
                let of_cpu = kept.iter().filter(|(_, mark)| mark >> 32 == cpu);
                assert!(of_cpu.map(|(_, mark)| mark).is_sorted());
            }
        }
    }

    proptest! {
        /// What is in a circular buffer are the newest frames, in order.
        #[test]
        fn the_newest_frames_in_order(sizes in prop::collection::vec(2..40_usize, 1..200)) {
            let buffer = buffer(128, Shape::Circular);
            for (mark, size) in sizes.iter().enumerate() {
                prop_assert_eq!(write(&buffer, *size, mark as u64), Ok(()));
            }
            let kept = content(&buffer);
            let all: Vec<_> = sizes.iter().copied().zip(0..).collect();
            prop_assert!(all.ends_with(&kept));
            // At most one frame's size is wasted at the end, and one is about to go.
            let words: usize = kept.iter().map(|(size, _)| size).sum();
            prop_assert!(kept.len() == sizes.len() || words > 128 - 80);
        }
    }
}
