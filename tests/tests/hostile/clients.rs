//! Clients that die, that do not read, that come two at a time.

use crate::world::World;
use anyhow::{Context, Result, ensure};
use e2e::MOMENT;
use e2e::remote::{Remote, connect, frame};
use e2e::tiny::Tiny;
use std::io::Write;
use std::thread;
use std::time::Duration;

/// Rounds of two busy clients.
const ROUNDS: usize = 100;

/// How many packets a client sends that never reads a reply: their replies are larger than all buffers on the way.
const UNREAD: usize = 20_000;
/// How many such clients there are: more than the device has buffers for a port.
const NEVER_READING: usize = 20;
/// How long replies to clients that are gone may be on their way.
const LAST_REPLIES: Duration = Duration::from_secs(1);

/// What clients say first.
fn introduction() -> Vec<u8> {
    frame(b"qSupported:swbreak+")
}

/// What a client of `vm1` says until the guest runs, with a breakpoint in it.
fn conversation(world: &World) -> Vec<u8> {
    let mut bytes = introduction();
    bytes.push(b'+');
    bytes.extend(frame(b"QStartNoAckMode"));
    bytes.push(b'+');
    bytes.extend(frame(
        format!("Z0,{:x},4", world.subject.address).as_bytes(),
    ));
    bytes.extend(frame(b"vCont;s:1"));
    bytes.extend(frame(b"vCont;c"));
    bytes
}

/// A client that does not wait for the stop that it is owed: memory, breakpoints and commands are answered, and the
/// guest runs on.
pub fn asks_while_the_vm_runs(world: &World) -> Result<()> {
    let (code, scratch) = (world.subject.address, World::SCRATCH);
    let mut client = world.attach()?;
    client.send(frame(b"vCont;c"))?;
    for round in 0..50 {
        let write = format!("M{scratch:x},1:{round:02x}");
        ensure!(client.ask(write)? == "OK", "a write in round {round}");
        let read = client.ask(format!("m{scratch:x},1"))?;
        ensure!(read == format!("{round:02x}"), "round {round} read {read}");
    }
    world.check_guest(1)?;
    ensure!(
        client.monitor("vm list")?.contains("running"),
        "the VM is held"
    );
    ensure!(client.ask("g")?.starts_with('E'), "registers of what runs");
    ensure!(
        client.ask(format!("Z0,{code:x},4"))? == "OK",
        "a breakpoint"
    );
    let mut console = world.machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    tiny.send(&format!("call {} 1", world.subject.name))?;
    let stop = client.packet()?;
    ensure!(
        stop.starts_with("T05") && stop.contains("swbreak:;"),
        "{stop}"
    );
    client.send(frame(b"vCont;c"))?;
    ensure!(client.ask(format!("z0,{code:x},4"))? == "OK", "its removal");
    ensure!(
        tiny.reply()?.number("count")? == world.subject.count(1),
        "the call"
    );
    Ok(())
}

/// A client that dies at every point of a conversation, with a FIN.
pub fn killed_anywhere(world: &World) -> Result<()> {
    let bytes = conversation(world);
    for end in 0..=bytes.len() {
        let mut stream = connect(world.port(1))?;
        stream.write_all(&bytes[..end])?;
    }
    // A reply that was on its way when its client died goes to whom QEMU has connected by then.
    thread::sleep(LAST_REPLIES);
    Ok(())
}

/// The same with replies that it has not read: the connection is reset. Before an introduction there may be no reply:
/// the server cannot tell such bytes from those of the client before.
pub fn killed_unread(world: &World) -> Result<()> {
    let bytes = conversation(world);
    for end in (introduction().len()..=bytes.len()).step_by(7) {
        let mut stream = connect(world.port(1))?;
        stream.set_read_timeout(Some(MOMENT))?;
        stream.write_all(&bytes[..end])?;
        stream.write_all(&frame(b"g"))?;
        // Until something has come that stays unread.
        stream
            .peek(&mut [0])
            .with_context(|| format!("no reply to {end} bytes"))?;
    }
    Ok(())
}

/// A client that asks and never reads.
pub fn never_reads(world: &World) -> Result<()> {
    let mut stream = connect(world.port(1))?;
    stream.set_nonblocking(true)?;
    let mut bytes = introduction();
    bytes.push(b'+');
    bytes.extend(frame(b"QStartNoAckMode"));
    bytes.push(b'+');
    stream.write_all(&bytes)?;
    let packet = frame(b"g");
    for _ in 0..UNREAD {
        // The server may stop taking what it cannot answer.
        if stream.write_all(&packet).is_err() {
            break;
        }
    }
    Ok(())
}

/// The same again and again: what the device has in hand for one that goes is lost to nobody else.
pub fn many_never_read(world: &World) -> Result<()> {
    for round in 0..NEVER_READING {
        never_reads(world)?;
        let served = world
            .attach_again(1)
            .and_then(|mut client| client.ask("g"))
            .with_context(|| format!("the client after {} that did not read", round + 1))?;
        ensure!(served.len() > 500, "registers: {served}");
    }
    Ok(())
}

/// Who comes second is served when the first is gone.
pub fn two_in_turn(world: &World) -> Result<()> {
    let mut first = world.attach()?;
    let mut second = Remote::connect(world.port(1))?;
    second.send(frame(b"qSupported"))?;
    ensure!(second.is_silent(), "two clients are served at once");
    ensure!(first.ask("?")?.starts_with('T'), "the first client");
    drop(first);
    let features = second.packet().context("the second client")?;
    ensure!(features.contains("PacketSize"), "{features}");
    second.send("+")?;
    ensure!(second.ask("?")?.starts_with('T'), "the second client");
    Ok(())
}

/// Clients of both VMs at once, each with breakpoints, stops and steps of its own.
pub fn two_endpoints(world: &World) -> Result<()> {
    thread::scope(|scope| {
        let busy: Vec<_> = (1..=World::VMS)
            .map(|vm| {
                let (port, code) = (world.port(vm), world.subject.address);
                scope.spawn(move || busy_client(vm, port, code))
            })
            .collect();
        for client in busy {
            client.join().expect("no test panics")?;
        }
        Ok(())
    })
}

fn busy_client(vm: u16, port: u16, code: u64) -> Result<()> {
    let mut client = Remote::attach(port)?;
    let original = client.ask(format!("m{code:x},10"))?;
    for round in 0..ROUNDS {
        let context = || format!("vm{vm}, round {round}");
        let breakpoint = format!("0,{code:x},4");
        ensure!(client.ask(format!("Z{breakpoint}"))? == "OK", context());
        ensure!(client.ask(format!("m{code:x},10"))? == original, context());
        let step = client.ask("vCont;s:1")?;
        ensure!(step.starts_with("T05"), "{}: {step}", context());
        client.send(frame(b"vCont;c"))?;
        client.send("\x03")?;
        let stop = client.packet().with_context(context)?;
        ensure!(stop.starts_with("T02"), "{}: {stop}", context());
        ensure!(client.ask(format!("z{breakpoint}"))? == "OK", context());
    }
    ensure!(client.ask("D")? == "OK", "detach");
    Ok(())
}
