//! What real clients have said, played again: by clients that go in the middle of it, and several at a time.

mod support;

use probes::machine::RunControl;
use std::path::Path;
use stub::{Endpoint, MachineSession, Session};
use support::{Bench, Wire, frame, frame_bytes};

/// One thing that a recording holds (`support/recording.rs`).
#[derive(Clone)]
enum Happening {
    Bytes(Vec<u8>),
    Closed,
    Opened,
}

/// A recording: whose client it is, and what happens.
struct Recording {
    name: String,
    endpoint: u8,
    happenings: Vec<Happening>,
}

fn recordings() -> Vec<Recording> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/session");
    let files = std::fs::read_dir(directory).expect("they are committed");
    let recordings: Vec<Recording> = files
        .map(|file| {
            let path = file.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            parse(name, &bytes)
        })
        .collect();
    assert!(recordings.len() >= 10);
    recordings
}

fn parse(name: String, bytes: &[u8]) -> Recording {
    let mut parts = bytes.split(|byte| *byte == b'#');
    let Some([0x84, endpoint]) = parts.next() else {
        panic!("{name} does not say whose client it is");
    };
    let happenings = parts
        .map(|part| match part {
            [0x81] => Happening::Closed,
            [0x82] => Happening::Opened,
            [3] => Happening::Bytes(vec![3]),
            body => Happening::Bytes(frame_bytes(body)),
        })
        .collect();
    Recording {
        name,
        endpoint: *endpoint,
        happenings,
    }
}

fn endpoint_of(bench: &Bench, recording: &Recording) -> Box<dyn Endpoint> {
    match recording.endpoint {
        0 => Box::new(Session::new(bench.server, 0).unwrap()),
        _ => Box::new(MachineSession::new(bench.server)),
    }
}

fn happen(bench: &Bench, endpoint: &mut dyn Endpoint, happening: &Happening) -> Wire {
    match happening {
        Happening::Bytes(bytes) => endpoint.receive(bytes),
        Happening::Closed => endpoint.closed(),
        Happening::Opened => endpoint.opened(),
    }
    bench.let_run(20);
    endpoint.poll();
    let mut wire = Wire::default();
    endpoint.flush(&mut wire);
    wire
}

/// Nobody holds a VM, nothing that stops is in one, they run, and whoever comes next is served.
fn nobody_was_here(bench: &Bench, endpoint: &mut dyn Endpoint, when: &str) {
    for machine in &bench.machines {
        assert!(!machine.held(), "{when}: held");
        assert!(machine.points().is_empty(), "{when}: hardware points");
    }
    for space in bench.periscope.spaces() {
        let breakpoints = space.list().into_iter().filter(|entry| entry.id.is_none());
        assert_eq!(breakpoints.count(), 0, "{when}: breakpoints");
    }
    assert_ne!(bench.vm().run(10), 0, "{when}: the guest does not run");
    endpoint.opened();
    endpoint.receive(&frame("qSupported:multiprocess+"));
    let mut wire = Wire::default();
    endpoint.flush(&mut wire);
    let hello = String::from_utf8_lossy(&wire.0).into_owned();
    assert!(hello.starts_with("+$PacketSize="), "{when}: {hello}");
    endpoint.closed();
}

#[test]
fn a_client_can_go_after_every_packet() {
    for recording in recordings() {
        let bench = Bench::new(2);
        let mut endpoint = endpoint_of(&bench, &recording);
        for end in 0..recording.happenings.len() {
            endpoint.opened();
            for happening in &recording.happenings[..=end] {
                happen(&bench, &mut *endpoint, happening);
            }
            endpoint.closed();
            let when = format!("{} after {end}", recording.name);
            nobody_was_here(&bench, &mut *endpoint, &when);
            // Probes are the debugger's, not the session's. The next round sets its own.
            for space in bench.periscope.all_spaces() {
                for id in space.list().into_iter().filter_map(|entry| entry.id) {
                    space.detach(id).unwrap();
                }
            }
        }
    }
}

#[test]
fn clients_of_all_endpoints_at_once() {
    let recordings = recordings();
    let bench = Bench::new(2);
    let mut clients: Vec<(Box<dyn Endpoint>, std::slice::Iter<'_, Happening>)> = Vec::new();
    let mut of_vm = recordings
        .iter()
        .filter(|recording| recording.endpoint == 0);
    let vms: Vec<Session> = (0..)
        .map_while(|index| Session::new(bench.server, index))
        .collect();
    assert_eq!(vms.len(), 2);
    for session in vms.into_iter().chain([Session::of_tools(bench.server)]) {
        let recording = of_vm.next_back().unwrap();
        clients.push((Box::new(session), recording.happenings.iter()));
    }
    let whole = recordings.iter().find(|recording| recording.endpoint == 3);
    let machine = MachineSession::new(bench.server);
    clients.push((Box::new(machine), whole.unwrap().happenings.iter()));
    let mut speaks = true;
    while std::mem::take(&mut speaks) {
        for (endpoint, happenings) in &mut clients {
            if let Some(happening) = happenings.next() {
                speaks = true;
                happen(&bench, &mut **endpoint, happening);
            }
        }
    }
    for (endpoint, _) in &mut clients {
        endpoint.closed();
    }
    for (endpoint, _) in &mut clients {
        nobody_was_here(&bench, &mut **endpoint, "in the end");
    }
}
