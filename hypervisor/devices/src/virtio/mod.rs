//! Driver of a virtio console with several ports (virtio 1.2, 5.3, `VIRTIO_CONSOLE_F_MULTIPORT`) on a virtio-mmio
//! transport: one byte channel for each port, found by its name.
//!
//! [`Console`] owns the control queue: it learns of ports and of who connects to them. [`Port`] owns the two queues of
//! one port and shares nothing with the console or other ports but an atomic counter, so sessions on different CPUs
//! need no common lock. The device has one interrupt: its handler calls [`Console::handle_interrupt`] and then looks at
//! all ports. Calling it without an interrupt is polling.
//!
//! No call waits for the host. With nobody connected, QEMU takes what is sent and drops it; a client that does not read
//! leaves [`Port`]'s buffers full, and [`ByteChannel::write`] returns what it could take. Received bytes stay in their
//! buffers until they are read, so a slow reader holds its client back and nothing is lost. Data and control go through
//! different queues; [`Port`] puts them in order again: nothing is read of a client before its `Opened` is taken, and its
//! `Closed` comes when all that it sent has been read. Of two clients that follow each other faster than the control
//! queue is served, the bytes cannot be told apart: they all come after `Replaced`. For this the control queue has to be
//! served after [`Channel::has_data`] said yes and before the data is read.
//!
//! The crate virtio-drivers 0.13 has a console without ports; its queue wants its buffers lent anew for each
//! transfer. Fixed buffers make this queue shorter than that interface would be.

#[expect(unsafe_code, reason = "memory that a device shares")]
mod dma;
#[cfg(test)]
mod fake;
mod queue;
#[cfg(test)]
mod tests;
mod transport;

pub use transport::TRANSPORT_SIZE;

use crate::channel::{Channel, ChannelEvent};
use crate::mmio::Mmio;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use queue::{Receiver, Sender};
use stub::ByteChannel;

/// Most ports of a console that are used; a device may have more.
pub const MAX_PORTS: usize = 16;

/// Buffers of a port that the device fills.
const RECEIVED_BUFFERS: u16 = 16;
/// Bytes of one.
const RECEIVED_SIZE: usize = 512;
/// Buffers of a port that the driver fills.
const SENT_BUFFERS: u16 = 4;
/// Bytes of one: the longest packet of a debug session. QEMU writes buffers one by one, and a client that dies while it gets
/// the second of one answer silences the port for the client after it: QEMU ends the connection in the midst of the write,
/// and then takes what it could not write for something that has to wait (`flush_buf` in `hw/char/virtio-console.c`,
/// `tcp_chr_write` in `chardev/char-socket.c`), until that client goes too. Nothing that the driver does ends that.
const SENT_SIZE: usize = 66 << 10;
/// Control messages that fit before the device drops them: all ports' names and states at once.
const CONTROL_BUFFERS: u16 = 32;
/// Answers to one control message, at most.
const MOST_ANSWERS: usize = 2;
/// A control message with a port's name.
const CONTROL_BUFFER_SIZE: usize = 128;

/// `VIRTIO_CONSOLE_F_MULTIPORT` and `VIRTIO_F_VERSION_1`.
const FEATURES: u64 = 1 << 1 | 1 << 32;
/// `max_nr_ports` in the configuration space (5.3.4).
const CONFIG_MAX_PORTS: usize = transport::CONFIG + 4;
/// The port of a message that is about the device.
const NO_PORT: u32 = !0;

/// Why a transport has no console that this driver can use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeError {
    /// There is no virtio-mmio transport.
    NotVirtio,
    /// No device is plugged into it.
    Empty,
    /// Another kind of device, by its virtio device ID.
    OtherDevice(u32),
    /// The transport has the interface from before virtio 1.0.
    Legacy,
    /// The device does not end its reset.
    NoReset,
    /// The device does not offer ports.
    NoMultiport,
    /// The queue of this number does not exist.
    NoQueue(u32),
    /// No memory for the queues.
    OutOfMemory,
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotVirtio => f.write_str("no virtio-mmio transport"),
            Self::Empty => f.write_str("no device in the virtio-mmio transport"),
            Self::OtherDevice(id) => write!(f, "virtio device {id} is not a console"),
            Self::Legacy => f.write_str(
                "virtio console with the legacy interface: give QEMU -global virtio-mmio.force-legacy=false",
            ),
            Self::NoReset => f.write_str("virtio console does not end its reset"),
            Self::NoMultiport => f.write_str(
                "virtio console without ports: give QEMU -device virtio-serial-device with max_ports over 1",
            ),
            Self::NoQueue(index) => write!(f, "virtio console has no queue {index}"),
            Self::OutOfMemory => f.write_str("no memory for the virtio console's queues"),
        }
    }
}

/// Whether a port's host side is open, and how often that has changed: odd while it is open.
#[derive(Debug, Default)]
struct Link(AtomicU32);

impl Link {
    fn changes(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    fn is_open(&self) -> bool {
        self.changes() % 2 == 1
    }

    /// Only the console, behind its lock, changes a link.
    fn set(&self, open: bool) {
        if self.is_open() != open {
            self.0.fetch_add(1, Ordering::Release);
        }
    }
}

/// Events of control messages (5.3.6.2).
mod event {
    pub(super) const DEVICE_READY: u16 = 0;
    pub(super) const PORT_ADD: u16 = 1;
    pub(super) const PORT_REMOVE: u16 = 2;
    pub(super) const PORT_READY: u16 = 3;
    pub(super) const PORT_OPEN: u16 = 6;
    pub(super) const PORT_NAME: u16 = 7;
}

/// `struct virtio_console_control`, without a name behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Control {
    port: u32,
    event: u16,
    value: u16,
}

impl Control {
    const SIZE: usize = 8;

    fn encode(self) -> [u8; Self::SIZE] {
        let [p0, p1, p2, p3] = self.port.to_le_bytes();
        let ([e0, e1], [v0, v1]) = (self.event.to_le_bytes(), self.value.to_le_bytes());
        [p0, p1, p2, p3, e0, e1, v0, v1]
    }

    /// The message at the front of `bytes`, and what follows it.
    fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_first_chunk::<{ Self::SIZE }>()?;
        let [p0, p1, p2, p3, e0, e1, v0, v1] = *head;
        let control = Self {
            port: u32::from_le_bytes([p0, p1, p2, p3]),
            event: u16::from_le_bytes([e0, e1]),
            value: u16::from_le_bytes([v0, v1]),
        };
        Some((control, rest))
    }
}

/// What the console knows of a port.
#[derive(Debug)]
struct Slot<M> {
    name: Option<String>,
    link: Arc<Link>,
    /// The port's queues, until somebody takes it.
    queues: Option<(Receiver<M>, Sender<M>)>,
}

/// A console device. The interrupt handler and whoever takes ports share it behind a lock.
#[derive(Debug)]
pub struct Console<M> {
    registers: M,
    control_in: Receiver<M>,
    control_out: Sender<M>,
    slots: Vec<Slot<M>>,
}

impl<M: Mmio> Console<M> {
    /// Starts the console behind a transport. The device announces its ports soon after: call
    /// [`Console::handle_interrupt`], by interrupt or by polling, until the names that are wanted are known.
    pub fn probe(registers: M) -> Result<Self, ProbeError> {
        transport::identify(&registers)?;
        Self::start(registers.clone()).inspect_err(|_| {
            registers.write(transport::STATUS, transport::status::FAILED);
        })
    }

    fn start(registers: M) -> Result<Self, ProbeError> {
        transport::negotiate(&registers, FEATURES)?;
        let ports = (registers.read(CONFIG_MAX_PORTS) as usize).clamp(1, MAX_PORTS);
        let slots = (0..ports)
            .map(|port| Slot::new(&registers, port))
            .collect::<Result<_, _>>()?;
        let control_in = Receiver::new(&registers, 2, CONTROL_BUFFERS, CONTROL_BUFFER_SIZE)?;
        let control_out = Sender::new(&registers, 3, CONTROL_BUFFERS, Control::SIZE)?;
        transport::go_live(&registers);
        let mut console = Self {
            registers,
            control_in,
            control_out,
            slots,
        };
        for (receiver, _) in console
            .slots
            .iter_mut()
            .filter_map(|slot| slot.queues.as_mut())
        {
            receiver.start();
        }
        console.control_in.start();
        console.send(NO_PORT, event::DEVICE_READY);
        Ok(console)
    }

    /// Acknowledges the device's interrupt and serves the control queue. The ports may have news: look at all of them
    /// afterwards. May be called at any time.
    pub fn handle_interrupt(&mut self) {
        let pending = self.registers.read(transport::INTERRUPT_STATUS);
        self.registers.write(transport::INTERRUPT_ACK, pending);
        let mut message = [0; CONTROL_BUFFER_SIZE];
        // A message may ask for answers: it waits while there is no room for them. Bounded, so that a device
        // that never falls silent does not keep the CPU.
        for _ in 0..2 * CONTROL_BUFFERS {
            if self.control_out.room() < MOST_ANSWERS {
                return;
            }
            let Some(length) = self.control_in.read_message(&mut message) else {
                return;
            };
            if let Some((control, rest)) = Control::decode(&message[..length]) {
                self.serve(control, rest);
            }
        }
    }

    /// The names of the ports that the device has announced.
    pub fn port_names(&self) -> impl Iterator<Item = &str> {
        self.slots.iter().filter_map(|slot| slot.name.as_deref())
    }

    /// Opens the port called `name`. `None` where the device has announced none of that name (yet), where somebody has
    /// taken it, and, for a moment, when the control queue is full.
    pub fn take_port(&mut self, name: &str) -> Option<Port<M>> {
        if self.control_out.room() == 0 {
            return None;
        }
        let index = self
            .slots
            .iter()
            .position(|slot| slot.name.as_deref() == Some(name))?;
        let slot = &mut self.slots[index];
        let (receiver, sender) = slot.queues.take()?;
        let port = Port {
            link: slot.link.clone(),
            seen: 0,
            receiver,
            sender,
            look: || {},
        };
        self.send(index as u32, event::PORT_OPEN);
        // QEMU stopped reading from a client that came before the port was open, and asks its character device again
        // only when the queue is kicked (`hw/char/virtio-console.c`, `guest_writable`).
        port.receiver.remind();
        Some(port)
    }

    fn serve(&mut self, control: Control, rest: &[u8]) {
        let Some(slot) = self.slots.get_mut(control.port as usize) else {
            return;
        };
        match control.event {
            event::PORT_ADD => {
                let taken = slot.queues.is_none();
                self.send(control.port, event::PORT_READY);
                if taken {
                    self.send(control.port, event::PORT_OPEN);
                }
            }
            event::PORT_REMOVE => {
                slot.name = None;
                slot.link.set(false);
            }
            event::PORT_NAME => {
                // QEMU ends the name with a NUL; the standard does not.
                let name = rest.split(|byte| *byte == 0).next().unwrap_or(rest);
                slot.name = Some(String::from_utf8_lossy(name).into_owned());
            }
            event::PORT_OPEN => slot.link.set(control.value != 0),
            // CONSOLE_PORT and RESIZE are for terminals.
            _ => {}
        }
    }

    /// Sends a control message with the value 1, as all the driver's are.
    fn send(&mut self, port: u32, event: u16) {
        let _ = self.control_out.write(
            &Control {
                port,
                event,
                value: 1,
            }
            .encode(),
            || true,
        );
    }
}

impl<M: Mmio> Slot<M> {
    /// Sets the queues of a port up (5.3.2: port 0 has queues 0 and 1, the control queues are 2 and 3).
    fn new(registers: &M, port: usize) -> Result<Self, ProbeError> {
        let first = if port == 0 { 0 } else { 2 * port as u32 + 2 };
        let receiver = Receiver::new(registers, first, RECEIVED_BUFFERS, RECEIVED_SIZE)?;
        let sender = Sender::new(registers, first + 1, SENT_BUFFERS, SENT_SIZE)?;
        Ok(Self {
            name: None,
            link: Arc::default(),
            queues: Some((receiver, sender)),
        })
    }
}

/// One port, open on our side.
#[derive(Debug)]
pub struct Port<M> {
    link: Arc<Link>,
    /// How many changes of the link have been taken.
    seen: u32,
    receiver: Receiver<M>,
    sender: Sender<M>,
    /// Serves the control queue.
    look: fn(),
}

impl<M> Port<M> {
    /// The same port, which has the control queue served right before it sends: what one client was to get shall not go to
    /// the next. Between that and the device there remain some instructions in which the one can still take the place of the
    /// other.
    pub fn looking(self, look: fn()) -> Self {
        Self { look, ..self }
    }

    /// Whether somebody is connected on the host's side.
    pub fn is_connected(&self) -> bool {
        self.link.is_open()
    }

    /// Whether [`Channel::take_event`] may have something.
    pub fn has_event(&self) -> bool {
        self.link.changes() != self.seen
    }

    /// Whether the last event that was taken is `Opened`.
    fn opened_last(&self) -> bool {
        self.seen % 2 == 1
    }
}

impl<M: Mmio> ByteChannel for Port<M> {
    /// What is meant for a client that has gone is for nobody: the device would hand it to the next. One buffer at a time, so
    /// that the device can see in between that the client has gone.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let (link, seen, had_client) = (&self.link, self.seen, self.opened_last());
        let look = self.look;
        let bytes = &bytes[..bytes.len().min(SENT_SIZE)];
        self.sender.write(bytes, || {
            look();
            !had_client || link.changes() == seen
        })
    }
}

impl<M: Mmio> Channel for Port<M> {
    fn has_data(&self) -> bool {
        self.receiver.has_data()
    }

    fn read(&mut self, buffer: &mut [u8]) -> usize {
        if self.opened_last() {
            self.receiver.read(buffer)
        } else {
            0
        }
    }

    fn take_event(&mut self) -> Option<ChannelEvent> {
        let unread = self.opened_last() && self.receiver.has_data();
        let changes = self.link.changes();
        match changes.wrapping_sub(self.seen) {
            0 => return None,
            // What it sent comes before its `Closed`.
            1 if unread => return None,
            _ if unread => {
                // The last client that came, be it still there or not.
                self.seen = changes - u32::from(changes.is_multiple_of(2));
                self.sender.take_back();
                return Some(ChannelEvent::Replaced);
            }
            _ => {}
        }
        self.seen = self.seen.wrapping_add(1);
        Some(if self.opened_last() {
            ChannelEvent::Opened
        } else {
            self.sender.take_back();
            ChannelEvent::Closed
        })
    }
}
