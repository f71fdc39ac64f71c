//! The driver against a device in memory that behaves as QEMU's `hw/char/virtio-serial-bus.c`.

extern crate std;

use super::fake::{Fake, Handle, receive_queue};
use super::*;
use alloc::vec;
use core::cell::RefCell;
use proptest::prelude::*;

const VM1: u32 = 1;
/// Bytes that a port takes from us and from a client.
const SENT: usize = SENT_BUFFERS as usize * SENT_SIZE;
const RECEIVED: usize = RECEIVED_BUFFERS as usize * RECEIVED_SIZE;

fn device() -> Handle {
    Fake::with_ports(&[
        (VM1, "org.periscope.vm1"),
        (2, "org.periscope.console1"),
        (5, "org.periscope.hyp"),
    ])
}

fn started(device: &Handle) -> Console<Handle> {
    let mut console = Console::probe(device.clone()).unwrap();
    console.handle_interrupt();
    console.handle_interrupt();
    console
}

fn opened() -> (Handle, Console<Handle>, Port<Handle>) {
    let device = device();
    let mut console = started(&device);
    let port = console.take_port("org.periscope.vm1").unwrap();
    (device, console, port)
}

/// With a client there.
fn connected() -> (Handle, Console<Handle>, Port<Handle>) {
    let (device, mut console, mut port) = opened();
    device.borrow_mut().connect(VM1);
    console.handle_interrupt();
    assert_eq!(port.take_event(), Some(ChannelEvent::Opened));
    (device, console, port)
}

fn read_all(port: &mut Port<Handle>) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 100];
    loop {
        let length = port.read(&mut buffer);
        all.extend(&buffer[..length]);
        if length == 0 {
            return all;
        }
    }
}

#[test]
fn transports_without_a_usable_console_are_told_apart() {
    let probe = |change: fn(&mut Fake)| {
        let device = device();
        change(&mut device.borrow_mut());
        Console::probe(device).map(|_| ()).unwrap_err()
    };
    assert_eq!(probe(|fake| fake.magic = 0), ProbeError::NotVirtio);
    assert_eq!(probe(|fake| fake.device_id = 0), ProbeError::Empty);
    assert_eq!(probe(|fake| fake.device_id = 2), ProbeError::OtherDevice(2));
    assert_eq!(probe(|fake| fake.version = 1), ProbeError::Legacy);
    assert_eq!(
        probe(|fake| fake.features = 1 << 32),
        ProbeError::NoMultiport
    );
    assert_eq!(
        probe(|fake| fake.refuses_features = true),
        ProbeError::NoMultiport
    );
    assert_eq!(
        probe(|fake| fake.queues.truncate(3)),
        ProbeError::NoQueue(4)
    );
}

#[test]
fn a_failed_probe_leaves_the_device_failed() {
    let device = device();
    device.borrow_mut().queues.truncate(3);
    assert!(Console::probe(device.clone()).is_err());
    assert_eq!(device.borrow().status, transport::status::FAILED);
}

#[test]
fn ports_are_found_by_name() {
    let device = device();
    let mut console = started(&device);
    let names: Vec<_> = console.port_names().collect();
    assert_eq!(
        names,
        [
            "org.periscope.vm1",
            "org.periscope.console1",
            "org.periscope.hyp"
        ]
    );
    assert!(console.take_port("org.periscope.vm2").is_none());
    assert!(!device.borrow().port(5).guest_open);
    assert!(console.take_port("org.periscope.hyp").is_some());
    assert!(device.borrow().port(5).guest_open);
    assert!(!device.borrow().port(VM1).guest_open);
    assert!(console.take_port("org.periscope.hyp").is_none(), "taken");
}

#[test]
fn the_interrupt_is_acknowledged() {
    let (device, mut console, _port) = opened();
    device.borrow_mut().connect(VM1);
    assert_eq!(device.borrow().interrupt, 1);
    console.handle_interrupt();
    assert_eq!(device.borrow().interrupt, 0);
}

#[test]
fn comings_and_goings_are_events() {
    let (device, mut console, mut port) = opened();
    assert_eq!(port.take_event(), None);
    for _ in 0..3 {
        device.borrow_mut().connect(VM1);
        console.handle_interrupt();
        assert!(port.is_connected());
        assert_eq!(port.take_event(), Some(ChannelEvent::Opened));
        assert_eq!(port.take_event(), None);
        device.borrow_mut().disconnect(VM1);
        device.borrow_mut().connect(VM1);
        device.borrow_mut().disconnect(VM1);
        console.handle_interrupt();
        assert_eq!(port.take_event(), Some(ChannelEvent::Closed));
        assert_eq!(port.take_event(), Some(ChannelEvent::Opened));
        assert_eq!(port.take_event(), Some(ChannelEvent::Closed));
        assert_eq!(port.take_event(), None);
        assert!(!port.is_connected());
    }
}

#[test]
fn a_client_that_was_there_first_is_seen() {
    let device = device();
    device.borrow_mut().connect(VM1);
    let mut console = started(&device);
    let mut port = console.take_port("org.periscope.vm1").unwrap();
    assert_eq!(port.take_event(), Some(ChannelEvent::Opened));
}

#[test]
fn what_a_client_sends_lies_between_its_coming_and_its_going() {
    let (device, mut console, mut port) = opened();
    device.borrow_mut().connect(VM1);
    device.borrow_mut().host_send(VM1, b"$?#3f");
    assert_eq!(port.read(&mut [0; 8]), 0, "its coming is not known yet");
    console.handle_interrupt();
    assert_eq!(
        port.read(&mut [0; 8]),
        0,
        "its coming has not been taken yet"
    );
    assert_eq!(port.take_event(), Some(ChannelEvent::Opened));
    device.borrow_mut().host_send(VM1, b"$k#6b");
    device.borrow_mut().disconnect(VM1);
    console.handle_interrupt();
    assert!(!port.is_connected());
    assert_eq!(port.take_event(), None, "there is more to read");
    assert_eq!(port.read(&mut [0; 3]), 3);
    assert_eq!(port.take_event(), None, "there is more to read");
    assert_eq!(read_all(&mut port), b"3f$k#6b");
    assert_eq!(port.take_event(), Some(ChannelEvent::Closed));
    device.borrow_mut().connect(VM1);
    device.borrow_mut().host_send(VM1, b"next");
    assert_eq!(port.read(&mut [0; 8]), 0);
    console.handle_interrupt();
    assert_eq!(port.take_event(), Some(ChannelEvent::Opened));
    assert_eq!(read_all(&mut port), b"next");
}

#[test]
fn clients_faster_than_the_control_queue_cannot_be_told_apart() {
    let (device, mut console, mut port) = connected();
    device.borrow_mut().host_send(VM1, b"$m0");
    device.borrow_mut().disconnect(VM1);
    device.borrow_mut().connect(VM1);
    device.borrow_mut().host_send(VM1, b"+$qSupported#37");
    assert!(port.has_data());
    console.handle_interrupt();
    assert_eq!(port.take_event(), Some(ChannelEvent::Replaced));
    assert_eq!(read_all(&mut port), b"$m0+$qSupported#37");
    assert_eq!(port.take_event(), None);
    device.borrow_mut().host_send(VM1, b"$k#6b");
    for _ in 0..2 {
        device.borrow_mut().disconnect(VM1);
        device.borrow_mut().connect(VM1);
    }
    device.borrow_mut().disconnect(VM1);
    console.handle_interrupt();
    assert_eq!(port.take_event(), Some(ChannelEvent::Replaced));
    assert_eq!(read_all(&mut port), b"$k#6b");
    assert_eq!(port.take_event(), Some(ChannelEvent::Closed));
    assert_eq!(port.take_event(), None);
}

/// Writes until the port takes no more; returns how much it has taken.
fn write_all(port: &mut Port<Handle>, bytes: &[u8]) -> usize {
    let mut done = 0;
    while done < bytes.len() {
        match port.write(&bytes[done..]) {
            0 => break,
            taken => done += taken,
        }
    }
    done
}

#[test]
fn what_was_meant_for_one_client_does_not_reach_the_next() {
    let (device, mut console, mut port) = connected();
    device.borrow_mut().host_send(VM1, b"$g#67");
    device.borrow_mut().disconnect(VM1);
    console.handle_interrupt();
    assert_eq!(read_all(&mut port), b"$g#67");
    device.borrow_mut().connect(VM1);
    assert_eq!(port.write(b"old"), 3);
    console.handle_interrupt();
    assert_eq!(port.take_event(), Some(ChannelEvent::Closed));
    assert_eq!(port.take_event(), Some(ChannelEvent::Opened));
    assert_eq!(port.write(b"new"), 3);
    assert_eq!(device.borrow().port(VM1).received, b"new");
}

std::thread_local! {
    static CROSSING: RefCell<Option<(Handle, Console<Handle>)>> = const { RefCell::new(None) };
}

/// Another client takes the place of the one that is there, and the control queue is served.
fn another_comes() {
    CROSSING.with_borrow_mut(|crossing| {
        let (device, console) = crossing.as_mut().expect("the test has put them there");
        device.borrow_mut().disconnect(VM1);
        device.borrow_mut().connect(VM1);
        console.handle_interrupt();
    });
}

#[test]
fn who_goes_while_it_is_answered_leaves_no_answer_to_the_next() {
    let (device, console, port) = connected();
    CROSSING.set(Some((device.clone(), console)));
    let mut port = port.looking(another_comes);
    assert_eq!(port.write(b"old"), 3);
    let mut port = port.looking(|| {});
    assert_eq!(port.take_event(), Some(ChannelEvent::Closed));
    assert_eq!(port.take_event(), Some(ChannelEvent::Opened));
    assert_eq!(write_all(&mut port, &[b'n'; SENT]), SENT);
    assert_eq!(device.borrow().port(VM1).received, [b'n'; SENT]);
}

#[test]
fn with_nobody_there_writing_goes_on() {
    let (device, _console, mut port) = opened();
    for _ in 0..1000 {
        assert_eq!(port.write(&[b'.'; 1000]), 1000);
    }
    assert!(device.borrow().port(VM1).received.is_empty());
}

#[test]
fn a_client_that_does_not_read_fills_the_buffers() {
    let (device, _console, mut port) = connected();
    device.borrow_mut().port_mut(VM1).throttled = true;
    let bytes: Vec<u8> = (0..2 * SENT).map(|n| (n % 251) as u8).collect();
    let taken = write_all(&mut port, &bytes);
    assert_eq!(taken, SENT);
    assert_eq!(write_all(&mut port, &bytes[taken..]), 0);
    device.borrow_mut().interrupt = 0;
    device.borrow_mut().unthrottle(VM1);
    assert_eq!(
        device.borrow().interrupt,
        1,
        "it says that there is room again"
    );
    assert_eq!(write_all(&mut port, &bytes[taken..]), SENT);
    assert_eq!(device.borrow().port(VM1).received, bytes);
    device.borrow_mut().interrupt = 0;
    assert_eq!(port.write(b"x"), 1);
    assert_eq!(device.borrow().interrupt, 0, "nobody waits for that");
}

#[test]
fn clients_that_do_not_read_cost_no_buffers() {
    let (device, mut console, mut port) = connected();
    for _ in 0..2 * SENT_BUFFERS {
        device.borrow_mut().port_mut(VM1).throttled = true;
        assert_eq!(write_all(&mut port, &[b'.'; 2 * SENT]), SENT);
        device.borrow_mut().disconnect(VM1);
        console.handle_interrupt();
        assert_eq!(port.take_event(), Some(ChannelEvent::Closed));
        device.borrow_mut().connect(VM1);
        console.handle_interrupt();
        assert_eq!(port.take_event(), Some(ChannelEvent::Opened));
    }
    assert_eq!(write_all(&mut port, &[b'x'; SENT]), SENT);
    assert_eq!(device.borrow().port(VM1).received, [b'x'; SENT]);
}

#[test]
fn nor_do_those_that_are_followed_at_once() {
    let (device, mut console, mut port) = connected();
    for _ in 0..2 * SENT_BUFFERS {
        device.borrow_mut().port_mut(VM1).throttled = true;
        assert_eq!(write_all(&mut port, &[b'.'; 2 * SENT]), SENT);
        device.borrow_mut().host_send(VM1, b"$g#67");
        device.borrow_mut().disconnect(VM1);
        device.borrow_mut().connect(VM1);
        console.handle_interrupt();
        assert_eq!(port.take_event(), Some(ChannelEvent::Replaced));
        assert_eq!(read_all(&mut port), b"$g#67");
    }
    assert_eq!(write_all(&mut port, &[b'x'; SENT]), SENT);
    assert_eq!(device.borrow().port(VM1).received, [b'x'; SENT]);
}

#[test]
fn a_buffer_that_comes_back_late_is_not_there_twice() {
    let (device, mut console, mut port) = connected();
    device.borrow_mut().port_mut(VM1).throttled = true;
    port.write(b"..");
    device.borrow_mut().disconnect(VM1);
    console.handle_interrupt();
    assert_eq!(port.take_event(), Some(ChannelEvent::Closed));
    device.borrow_mut().connect(VM1);
    console.handle_interrupt();
    assert_eq!(port.take_event(), Some(ChannelEvent::Opened));
    for buffer in 0..SENT_BUFFERS {
        let queue = receive_queue(VM1) + 1;
        device.borrow_mut().push_used(queue, u32::from(buffer), 0);
    }
    let bytes: Vec<u8> = (0..SENT).map(|n| (n % 251) as u8).collect();
    assert_eq!(write_all(&mut port, &bytes), SENT);
    assert_eq!(device.borrow().port(VM1).received, bytes);
}

#[test]
fn a_reader_that_is_slow_holds_the_client_back() {
    let (device, _console, mut port) = connected();
    let bytes: Vec<u8> = (0..RECEIVED + 10).map(|n| (n % 251) as u8).collect();
    let sent = device.borrow_mut().host_send(VM1, &bytes);
    assert_eq!(sent, RECEIVED);
    assert_eq!(read_all(&mut port), &bytes[..sent]);
    assert_eq!(device.borrow_mut().host_send(VM1, &bytes[sent..]), 10);
    assert_eq!(read_all(&mut port), &bytes[sent..]);
}

#[test]
fn a_port_can_go_and_come_back() {
    let (device, mut console, mut port) = connected();
    device.borrow_mut().unplug(VM1);
    console.handle_interrupt();
    assert_eq!(port.take_event(), Some(ChannelEvent::Closed));
    assert!(!console.port_names().any(|name| name == "org.periscope.vm1"));
    device.borrow_mut().plug(VM1);
    console.handle_interrupt();
    assert!(device.borrow().port(VM1).guest_open);
    device.borrow_mut().connect(VM1);
    console.handle_interrupt();
    assert_eq!(port.take_event(), Some(ChannelEvent::Opened));
    assert_eq!(port.write(b"back"), 4);
    assert_eq!(device.borrow().port(VM1).received, b"back");
}

#[test]
fn more_ports_than_are_used_do_no_harm() {
    let names: Vec<_> = (1..31).map(|id| (id, alloc::format!("port{id}"))).collect();
    let names: Vec<_> = names
        .iter()
        .map(|(id, name)| (*id, name.as_str()))
        .collect();
    let device = Fake::with_ports(&names);
    let mut console = Console::probe(device.clone()).unwrap();
    for _ in 0..4 {
        console.handle_interrupt();
    }
    assert_eq!(console.port_names().count(), MAX_PORTS - 1);
}

#[test]
fn what_a_broken_device_says_is_survived() {
    let (device, mut console, mut port) = connected();
    for (id, length) in [(16, 1), (u32::MAX, u32::MAX), (3, u32::MAX)] {
        device.borrow_mut().push_used(4, id, length);
    }
    let mut buffer = [0; 4096];
    assert_eq!(
        port.read(&mut buffer),
        RECEIVED_SIZE,
        "clamped to the buffer"
    );
    for message in [
        &b""[..],
        b"short",
        &[0xff; 8],
        &[0xff; 128],
        b"\x01\0\0\0\x07\0\x01\0\xff\xfe",
    ] {
        device.borrow_mut().send_control_bytes(message);
    }
    console.handle_interrupt();
    assert!(console.take_port("").is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn bytes_pass_in_order(steps in prop::collection::vec((0..1500usize, 0..1500usize, 0..1500usize, any::<bool>()), 1..60)) {
        let (device, _console, mut port) = connected();
        let (mut to_guest, mut from_guest) = (Vec::new(), Vec::new());
        let mut read = Vec::new();
        for (host, guest, wanted, throttled) in steps {
            let bytes: Vec<u8> = (0..host).map(|n| (to_guest.len() + n) as u8).collect();
            let sent = device.borrow_mut().host_send(VM1, &bytes);
            to_guest.extend(&bytes[..sent]);
            if throttled {
                device.borrow_mut().port_mut(VM1).throttled = true;
            } else {
                device.borrow_mut().unthrottle(VM1);
            }
            let bytes: Vec<u8> = (0..guest).map(|n| (from_guest.len() + n) as u8).collect();
            let sent = write_all(&mut port, &bytes);
            from_guest.extend(&bytes[..sent]);
            let mut buffer = vec![0; wanted];
            let length = port.read(&mut buffer);
            read.extend(&buffer[..length]);
        }
        device.borrow_mut().unthrottle(VM1);
        read.extend(read_all(&mut port));
        prop_assert_eq!(read, to_guest);
        let received = device.borrow().port(VM1).received.clone();
        prop_assert_eq!(received, from_guest);
    }
}
