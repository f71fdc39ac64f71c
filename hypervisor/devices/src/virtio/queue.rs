//! A split virtqueue (virtio 1.2, 2.7) whose descriptor n always stands for its n-th buffer: nothing is allocated or
//! chained after it is set up.

use super::ProbeError;
use super::dma::DmaMemory;
use super::transport as reg;
use crate::mmio::Mmio;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

/// Which way a queue's buffers go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    /// The device writes them.
    FromDevice,
    /// The device reads them.
    ToDevice,
}

/// Where the parts of a queue are in its memory, in bytes.
#[derive(Clone, Copy, Debug)]
struct Layout {
    available: usize,
    used: usize,
    buffers: usize,
    end: usize,
}

impl Layout {
    fn new(size: u16, buffer_size: usize) -> Self {
        let size = usize::from(size);
        let available = 16 * size;
        let used = (available + 6 + 2 * size).next_multiple_of(4);
        let buffers = (used + 6 + 8 * size).next_multiple_of(64);
        Self {
            available,
            used,
            buffers,
            end: buffers + buffer_size * size,
        }
    }
}

/// `VIRTQ_DESC_F_WRITE`: the device writes the buffer.
const DESCRIPTOR_WRITE: u16 = 2;
/// `VIRTQ_AVAIL_F_NO_INTERRUPT`.
const NO_INTERRUPT: u16 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY`.
const NO_NOTIFY: u16 = 1;

/// A buffer that the device has given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Used {
    buffer: u16,
    /// How many bytes the device has written, at most the size of a buffer.
    length: usize,
}

/// A queue that the device knows.
#[derive(Debug)]
struct Queue<M> {
    registers: M,
    index: u32,
    size: u16,
    buffer_size: usize,
    layout: Layout,
    memory: DmaMemory,
    next_available: u16,
    next_used: u16,
}

impl<M: Mmio> Queue<M> {
    /// Tells the device of queue `index` (4.2.3.2), with at most `size` buffers (a power of two).
    fn new(
        registers: &M,
        index: u32,
        size: u16,
        buffer_size: usize,
        direction: Direction,
    ) -> Result<Self, ProbeError> {
        registers.write(reg::QUEUE_SEL, index);
        let largest = registers.read(reg::QUEUE_NUM_MAX).min(u32::from(size)) as u16;
        if largest == 0 || registers.read(reg::QUEUE_READY) != 0 {
            return Err(ProbeError::NoQueue(index));
        }
        let size = 1 << largest.ilog2();
        let layout = Layout::new(size, buffer_size);
        let memory = DmaMemory::new(layout.end).ok_or(ProbeError::OutOfMemory)?;
        let registers = registers.clone();
        let mut queue = Self {
            registers,
            index,
            size,
            buffer_size,
            layout,
            memory,
            next_available: 0,
            next_used: 0,
        };
        queue.describe(direction);
        queue.register();
        Ok(queue)
    }

    fn describe(&mut self, direction: Direction) {
        for buffer in 0..self.size {
            let descriptor = 16 * usize::from(buffer);
            let address = self.memory.address(self.offset(buffer));
            self.memory.write_u64(descriptor, address);
            self.memory
                .write_u32(descriptor + 8, self.buffer_size as u32);
            let flags = if direction == Direction::FromDevice {
                DESCRIPTOR_WRITE
            } else {
                0
            };
            self.memory.write_u16(descriptor + 12, flags);
        }
    }

    fn register(&self) {
        let set = |low: usize, high: usize, offset: usize| {
            let address = self.memory.address(offset);
            self.registers.write(low, address as u32);
            self.registers.write(high, (address >> 32) as u32);
        };
        self.registers.write(reg::QUEUE_NUM, u32::from(self.size));
        set(reg::QUEUE_DESC_LOW, reg::QUEUE_DESC_HIGH, 0);
        set(
            reg::QUEUE_DRIVER_LOW,
            reg::QUEUE_DRIVER_HIGH,
            self.layout.available,
        );
        set(
            reg::QUEUE_DEVICE_LOW,
            reg::QUEUE_DEVICE_HIGH,
            self.layout.used,
        );
        self.registers.write(reg::QUEUE_READY, 1);
    }

    /// Where a buffer is.
    fn offset(&self, buffer: u16) -> usize {
        self.layout.buffers + usize::from(buffer) * self.buffer_size
    }

    /// Gives a buffer to the device.
    fn give(&mut self, buffer: u16) {
        let slot = usize::from(self.next_available % self.size);
        self.memory
            .write_u16(self.layout.available + 4 + 2 * slot, buffer);
        self.next_available = self.next_available.wrapping_add(1);
        // The device must see the buffer and the ring entry before the index (2.7.13.2). It runs on CPUs of the inner
        // shareable domain, as Linux' weak barriers assume.
        fence(Ordering::Release);
        self.memory
            .write_u16(self.layout.available + 2, self.next_available);
    }

    /// Tells the device that there are new buffers, unless it does not want to know.
    fn notify(&self) {
        // The index must be visible before the flag is read (2.7.13.4.1).
        fence(Ordering::SeqCst);
        if self.memory.read_u16(self.layout.used) & NO_NOTIFY == 0 {
            self.registers.write(reg::QUEUE_NOTIFY, self.index);
        }
    }

    /// Whether the device has given a buffer back.
    fn has_used(&self) -> bool {
        self.memory.read_u16(self.layout.used + 2) != self.next_used
    }

    /// Takes the next buffer that the device has given back. What a device says of a buffer that does not exist is
    /// skipped.
    fn take(&mut self) -> Option<Used> {
        for _ in 0..self.size {
            if !self.has_used() {
                return None;
            }
            // The element and the buffer are read after the index that covers them (2.7.14).
            fence(Ordering::Acquire);
            let element = self.layout.used + 4 + 8 * usize::from(self.next_used % self.size);
            let (id, length) = (
                self.memory.read_u32(element),
                self.memory.read_u32(element + 4),
            );
            self.next_used = self.next_used.wrapping_add(1);
            if id < u32::from(self.size) {
                return Some(Used {
                    buffer: id as u16,
                    length: (length as usize).min(self.buffer_size),
                });
            }
        }
        None
    }
}

/// The queue of what the device sends.
#[derive(Debug)]
pub(super) struct Receiver<M> {
    queue: Queue<M>,
    /// The buffer that is being read, and how much of it has been.
    current: Option<(Used, usize)>,
}

impl<M: Mmio> Receiver<M> {
    /// Sets queue `index` up. The device gets the buffers with [`Receiver::start`].
    pub(super) fn new(
        registers: &M,
        index: u32,
        size: u16,
        buffer_size: usize,
    ) -> Result<Self, ProbeError> {
        let queue = Queue::new(registers, index, size, buffer_size, Direction::FromDevice)?;
        Ok(Self {
            queue,
            current: None,
        })
    }

    /// Gives the device all buffers. The device is live.
    pub(super) fn start(&mut self) {
        for buffer in 0..self.queue.size {
            self.queue.give(buffer);
        }
        self.queue.notify();
    }

    /// Tells the device once more that there are buffers.
    pub(super) fn remind(&self) {
        self.queue.notify();
    }

    /// Whether there is something to read.
    pub(super) fn has_data(&self) -> bool {
        self.current.is_some() || self.queue.has_used()
    }

    /// Moves received bytes to the front of `bytes`; returns how many. They are of one buffer of the device's: of the
    /// one that [`Receiver::has_data`] has seen.
    pub(super) fn read(&mut self, bytes: &mut [u8]) -> usize {
        let next = self.current.take();
        let Some((used, from)) = next.or_else(|| Some((self.queue.take()?, 0))) else {
            return 0;
        };
        let length = (used.length - from).min(bytes.len());
        let offset = self.queue.offset(used.buffer) + from;
        self.queue.memory.copy_out(offset, &mut bytes[..length]);
        if from + length < used.length {
            self.current = Some((used, from + length));
        } else {
            self.queue.give(used.buffer);
            self.queue.notify();
        }
        length
    }

    /// Moves the next message, one buffer of the device's, to the front of `bytes`; returns its length. What does not
    /// fit is lost.
    pub(super) fn read_message(&mut self, bytes: &mut [u8]) -> Option<usize> {
        let used = self.queue.take()?;
        let length = used.length.min(bytes.len());
        self.queue
            .memory
            .copy_out(self.queue.offset(used.buffer), &mut bytes[..length]);
        self.queue.give(used.buffer);
        self.queue.notify();
        Some(length)
    }
}

/// The queue of what the driver sends.
#[derive(Debug)]
pub(super) struct Sender<M> {
    queue: Queue<M>,
    free: Vec<u16>,
    /// By buffer: whether the device has it.
    lent: Vec<bool>,
    /// Those that are about to go, in order.
    filled: Vec<u16>,
}

impl<M: Mmio> Sender<M> {
    /// Sets queue `index` up.
    pub(super) fn new(
        registers: &M,
        index: u32,
        size: u16,
        buffer_size: usize,
    ) -> Result<Self, ProbeError> {
        let mut queue = Queue::new(registers, index, size, buffer_size, Direction::ToDevice)?;
        queue.memory.write_u16(queue.layout.available, NO_INTERRUPT);
        let free = (0..queue.size).collect();
        let lent = alloc::vec![false; usize::from(queue.size)];
        let filled = Vec::with_capacity(usize::from(queue.size));
        Ok(Self {
            queue,
            free,
            lent,
            filled,
        })
    }

    /// Sends as many of `bytes` as there are free buffers for; returns how many. Where that is not all, the device
    /// interrupts when it gives a buffer back. `is_wanted` is asked right before the device hears of it: where nobody wants
    /// them any more, the bytes go nowhere.
    pub(super) fn write(&mut self, bytes: &[u8], is_wanted: impl FnOnce() -> bool) -> usize {
        self.reclaim();
        let mut done = self.fill(bytes);
        if done == bytes.len() {
            self.queue
                .memory
                .write_u16(self.queue.layout.available, NO_INTERRUPT);
        } else {
            self.queue.memory.write_u16(self.queue.layout.available, 0);
            // Buffers that came back before the device saw that raise no interrupt: look once more.
            fence(Ordering::SeqCst);
            self.reclaim();
            done += self.fill(&bytes[done..]);
        }
        if done == 0 {
            return 0;
        }
        if !is_wanted() {
            self.free.append(&mut self.filled);
            return bytes.len();
        }
        for buffer in self.filled.drain(..) {
            self.lent[usize::from(buffer)] = true;
            self.queue.give(buffer);
        }
        self.queue.notify();
        done
    }

    /// How many buffers are free.
    pub(super) fn room(&mut self) -> usize {
        self.reclaim();
        self.free.len()
    }

    fn reclaim(&mut self) {
        while let Some(used) = self.queue.take() {
            if core::mem::take(&mut self.lent[usize::from(used.buffer)]) {
                self.free.push(used.buffer);
            }
        }
    }

    /// The device has dropped what it was to send to somebody, and has given the buffers back: all but the one that it was
    /// at, where it is QEMU (`discard_throttle_data` in `hw/char/virtio-serial-bus.c` has it leave the queue without a
    /// word). That one is taken back here.
    pub(super) fn take_back(&mut self) {
        self.reclaim();
        self.lent.fill(false);
        self.free.clear();
        self.free.extend(0..self.queue.size);
    }

    /// Puts as many of `bytes` as there are free buffers for into these.
    fn fill(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        for chunk in bytes.chunks(self.queue.buffer_size) {
            let Some(buffer) = self.free.pop() else { break };
            let offset = self.queue.offset(buffer);
            self.queue.memory.copy_in(offset, chunk);
            self.queue
                .memory
                .write_u32(16 * usize::from(buffer) + 8, chunk.len() as u32);
            self.filled.push(buffer);
            done += chunk.len();
        }
        done
    }
}
