//! A console device in memory for the driver's tests: control messages, throttling and discarding as in QEMU's
//! `hw/char/virtio-serial-bus.c`.

use super::transport as reg;
use super::{Control, event};
use crate::mmio::Mmio;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::Deref;
use core::ptr;

/// The device's registers, as the driver sees them.
#[derive(Clone, Debug)]
pub(super) struct Handle(Rc<RefCell<Fake>>);

impl Deref for Handle {
    type Target = RefCell<Fake>;

    fn deref(&self) -> &RefCell<Fake> {
        &self.0
    }
}

impl Mmio for Handle {
    fn read(&self, offset: usize) -> u32 {
        self.borrow_mut().read(offset)
    }

    fn write(&self, offset: usize, value: u32) {
        self.borrow_mut().write(offset, value);
    }
}

#[derive(Debug, Default)]
pub(super) struct FakeQueue {
    size: u32,
    descriptors: u64,
    available: u64,
    used: u64,
    ready: bool,
    next: u16,
}

#[derive(Debug)]
pub(super) struct FakePort {
    id: u32,
    name: String,
    host_open: bool,
    pub(super) guest_open: bool,
    pub(super) throttled: bool,
    /// The buffer that it was sending when it was throttled.
    in_hand: Option<(u32, u64, usize)>,
    /// What the host's client has read.
    pub(super) received: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Fake {
    pub(super) magic: u32,
    pub(super) version: u32,
    pub(super) device_id: u32,
    pub(super) features: u64,
    pub(super) refuses_features: bool,
    pub(super) status: u32,
    pub(super) interrupt: u32,
    pub(super) queues: Vec<FakeQueue>,
    driver_features: u64,
    features_half: u32,
    selected: usize,
    ports: Vec<FakePort>,
}

const CONTROL_IN: usize = 2;
const CONTROL_OUT: usize = 3;
const DEVICE_PORTS: usize = 31;

pub(super) fn receive_queue(port: u32) -> usize {
    if port == 0 { 0 } else { 2 * port as usize + 2 }
}

impl Fake {
    pub(super) fn with_ports(ports: &[(u32, &str)]) -> Handle {
        let port = |&(id, name): &(u32, &str)| FakePort {
            id,
            name: name.to_string(),
            host_open: false,
            guest_open: false,
            throttled: false,
            in_hand: None,
            received: Vec::new(),
        };
        Handle(Rc::new(RefCell::new(Self {
            magic: reg::MAGIC_VALUE,
            version: 2,
            device_id: 3,
            features: 1 << 1 | 1 << 2 | 1 << 28 | 1 << 29 | 1 << 32,
            refuses_features: false,
            status: 0xff,
            interrupt: 0,
            queues: (0..2 * DEVICE_PORTS + 2)
                .map(|_| FakeQueue::default())
                .collect(),
            driver_features: 0,
            features_half: 0,
            selected: 0,
            ports: ports.iter().map(port).collect(),
        })))
    }

    pub(super) fn port(&self, id: u32) -> &FakePort {
        self.ports.iter().find(|port| port.id == id).unwrap()
    }

    pub(super) fn port_mut(&mut self, id: u32) -> &mut FakePort {
        self.ports.iter_mut().find(|port| port.id == id).unwrap()
    }

    pub(super) fn connect(&mut self, id: u32) {
        self.port_mut(id).host_open = true;
        if self.status & reg::status::DRIVER_OK != 0 {
            self.send_control(id, event::PORT_OPEN, 1);
        }
    }

    pub(super) fn disconnect(&mut self, id: u32) {
        let port = self.port_mut(id);
        port.host_open = false;
        port.throttled = false;
        // QEMU forgets it: the driver never gets that buffer back (`discard_throttle_data`).
        port.in_hand = None;
        self.serve_output(id);
        self.send_control(id, event::PORT_OPEN, 0);
    }

    pub(super) fn unplug(&mut self, id: u32) {
        let port = self.port_mut(id);
        port.host_open = false;
        port.guest_open = false;
        self.send_control(id, event::PORT_REMOVE, 1);
    }

    pub(super) fn plug(&mut self, id: u32) {
        self.send_control(id, event::PORT_ADD, 1);
    }

    pub(super) fn unthrottle(&mut self, id: u32) {
        self.port_mut(id).throttled = false;
        self.serve_output(id);
    }

    /// A client sends; returns how much the driver's buffers take.
    pub(super) fn host_send(&mut self, id: u32, bytes: &[u8]) -> usize {
        let port = self.port(id);
        if !port.host_open || !port.guest_open {
            return 0;
        }
        let queue = receive_queue(id);
        let mut sent = 0;
        while sent < bytes.len() {
            let Some((buffer, address, length)) = self.pop(queue) else {
                break;
            };
            let chunk = &bytes[sent..bytes.len().min(sent + length)];
            memory::write(address, chunk);
            self.push_used(queue, buffer, chunk.len() as u32);
            sent += chunk.len();
        }
        sent
    }

    pub(super) fn send_control_bytes(&mut self, message: &[u8]) {
        // QEMU drops messages that find no buffer.
        let Some((buffer, address, length)) = self.pop(CONTROL_IN) else {
            return;
        };
        let message = &message[..message.len().min(length)];
        memory::write(address, message);
        self.push_used(CONTROL_IN, buffer, message.len() as u32);
    }

    /// Puts an element on a used ring, and interrupts unless the driver does not want that.
    pub(super) fn push_used(&mut self, queue: usize, buffer: u32, length: u32) {
        let queue = &self.queues[queue];
        let index = memory::read_u16(queue.used + 2);
        let element = queue.used + 4 + 8 * (u64::from(index) % u64::from(queue.size));
        memory::write(element, &buffer.to_le_bytes());
        memory::write(element + 4, &length.to_le_bytes());
        memory::write(queue.used + 2, &index.wrapping_add(1).to_le_bytes());
        if memory::read_u16(queue.available) & 1 == 0 {
            self.interrupt |= 1;
        }
    }

    fn read(&mut self, offset: usize) -> u32 {
        match offset {
            reg::MAGIC => self.magic,
            reg::VERSION => self.version,
            reg::DEVICE_ID => self.device_id,
            reg::DEVICE_FEATURES => (self.features >> (32 * self.features_half)) as u32,
            reg::QUEUE_NUM_MAX if self.selected < self.queues.len() => 128,
            reg::QUEUE_READY => self
                .queues
                .get(self.selected)
                .map_or(0, |queue| u32::from(queue.ready)),
            reg::INTERRUPT_STATUS => self.interrupt,
            reg::STATUS => self.status,
            _ if offset == reg::CONFIG + 4 => DEVICE_PORTS as u32,
            _ => 0,
        }
    }

    fn write(&mut self, offset: usize, value: u32) {
        let low = u64::from(value);
        let high = low << 32;
        match offset {
            reg::DEVICE_FEATURES_SEL | reg::DRIVER_FEATURES_SEL => self.features_half = value,
            reg::DRIVER_FEATURES => self.driver_features |= low << (32 * self.features_half),
            reg::STATUS => self.set_status(value),
            reg::INTERRUPT_ACK => self.interrupt &= !value,
            reg::QUEUE_NOTIFY => self.notified(value as usize),
            reg::QUEUE_SEL => self.selected = value as usize,
            reg::QUEUE_NUM => self.selected().size = value,
            reg::QUEUE_READY => self.selected().ready = value == 1,
            reg::QUEUE_DESC_LOW => self.selected().descriptors |= low,
            reg::QUEUE_DESC_HIGH => self.selected().descriptors |= high,
            reg::QUEUE_DRIVER_LOW => self.selected().available |= low,
            reg::QUEUE_DRIVER_HIGH => self.selected().available |= high,
            reg::QUEUE_DEVICE_LOW => self.selected().used |= low,
            reg::QUEUE_DEVICE_HIGH => self.selected().used |= high,
            _ => panic!("write of {value:#x} to register {offset:#x}"),
        }
    }

    fn selected(&mut self) -> &mut FakeQueue {
        &mut self.queues[self.selected]
    }

    fn set_status(&mut self, value: u32) {
        if value & reg::status::DRIVER_OK != 0 {
            assert_eq!(self.driver_features, super::FEATURES);
            assert_ne!(self.status & reg::status::FEATURES_OK, 0, "features first");
        }
        self.status = value;
        if self.refuses_features {
            self.status &= !reg::status::FEATURES_OK;
        }
    }

    fn notified(&mut self, queue: usize) {
        assert_ne!(
            self.status & reg::status::DRIVER_OK,
            0,
            "the device is not live yet"
        );
        if queue == CONTROL_OUT {
            return self.serve_control();
        }
        let sender = self
            .ports
            .iter()
            .find(|port| receive_queue(port.id) + 1 == queue);
        if let Some(id) = sender.map(|port| port.id) {
            self.serve_output(id);
        }
    }

    fn serve_control(&mut self) {
        while let Some((buffer, address, length)) = self.pop(CONTROL_OUT) {
            let message = memory::read(address, length);
            let (control, rest) = Control::decode(&message).expect("a whole message");
            assert!(rest.is_empty());
            self.push_used(CONTROL_OUT, buffer, 0);
            self.control(control);
        }
    }

    fn control(&mut self, control: Control) {
        assert_eq!(control.value, 1);
        match control.event {
            event::DEVICE_READY => {
                let ids: Vec<u32> = self.ports.iter().map(|port| port.id).collect();
                ids.into_iter()
                    .for_each(|id| self.send_control(id, event::PORT_ADD, 1));
            }
            event::PORT_READY => {
                let head = Control {
                    port: control.port,
                    event: event::PORT_NAME,
                    value: 1,
                }
                .encode();
                let port = self.port(control.port);
                let open = port.host_open;
                let message = [&head, port.name.as_bytes(), b"\0"].concat();
                self.send_control_bytes(&message);
                if open {
                    self.send_control(control.port, event::PORT_OPEN, 1);
                }
            }
            event::PORT_OPEN => self.port_mut(control.port).guest_open = true,
            other => panic!("control event {other}"),
        }
    }

    fn send_control(&mut self, port: u32, event: u16, value: u16) {
        self.send_control_bytes(&Control { port, event, value }.encode());
    }

    fn serve_output(&mut self, id: u32) {
        loop {
            let in_hand = self.port_mut(id).in_hand.take();
            let Some((buffer, address, length)) =
                in_hand.or_else(|| self.pop(receive_queue(id) + 1))
            else {
                return;
            };
            if self.port(id).throttled {
                self.port_mut(id).in_hand = Some((buffer, address, length));
                return;
            }
            if self.port(id).host_open {
                let bytes = memory::read(address, length);
                self.port_mut(id).received.extend(bytes);
            }
            self.push_used(receive_queue(id) + 1, buffer, 0);
        }
    }

    /// The next buffer that the driver has made available: its descriptor, address and length.
    fn pop(&mut self, queue: usize) -> Option<(u32, u64, usize)> {
        let queue = &mut self.queues[queue];
        if !queue.ready || memory::read_u16(queue.available + 2) == queue.next {
            return None;
        }
        let slot = u64::from(queue.next) % u64::from(queue.size);
        let buffer = memory::read_u16(queue.available + 4 + 2 * slot);
        queue.next = queue.next.wrapping_add(1);
        let descriptor = queue.descriptors + 16 * u64::from(buffer);
        let address = u64::from_le_bytes(memory::read(descriptor, 8).try_into().unwrap());
        let length = u32::from_le_bytes(memory::read(descriptor + 8, 4).try_into().unwrap());
        Some((u32::from(buffer), address, length as usize))
    }
}

/// The driver's memory as the device sees it, by address.
#[expect(unsafe_code, reason = "a device accesses memory by its address")]
mod memory {
    use super::{Vec, ptr};

    pub(super) fn read(address: u64, length: usize) -> Vec<u8> {
        let start = ptr::with_exposed_provenance::<u8>(address as usize);
        // SAFETY: the driver has told the device of this memory and never frees it.
        (0..length)
            .map(|n| unsafe { start.add(n).read_volatile() })
            .collect()
    }

    pub(super) fn read_u16(address: u64) -> u16 {
        u16::from_le_bytes(read(address, 2).try_into().unwrap())
    }

    pub(super) fn write(address: u64, bytes: &[u8]) {
        let start = ptr::with_exposed_provenance_mut::<u8>(address as usize);
        for (n, byte) in bytes.iter().enumerate() {
            // SAFETY: the driver has told the device of this memory and never frees it.
            unsafe { start.add(n).write_volatile(*byte) }
        }
    }
}
