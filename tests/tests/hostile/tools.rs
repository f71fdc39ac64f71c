//! The endpoint for tools: what no packet, no file and no end of a client may do there.

use crate::packets::{PACKET_SIZE, mutant};
use crate::world::World;
use anyhow::{Context, Result, ensure};
use e2e::remote::{Remote, Upload, connect, frame, hex};
use e2e::{MOMENT, Random};
use ebpf::builtin;
use std::io::Write;
use std::time::Instant;

/// How many mutated packets are sent, and how many by one client.
const MUTANTS: usize = 1500;
const MUTANTS_OF_A_CLIENT: usize = 100;

fn attach(world: &World) -> Result<Remote> {
    Remote::attach(world.machine.ports().tools())
}

/// The client is answered as if nothing had been.
fn answers(client: &mut Remote) -> Result<()> {
    client.resync()?;
    let halted = client.ask("?")?;
    ensure!(halted == "W00", "`?` is answered with {halted}");
    Ok(())
}

/// Bytes without any order, and packets that are cut off or too long.
pub fn garbage(world: &World) -> Result<()> {
    let mut random = Random::new(11);
    for _ in 0..8 {
        let mut client = attach(world)?;
        client.send(random.bytes(1024))?;
        answers(&mut client)?;
    }
    let mut client = attach(world)?;
    for packet in ["$vFile:open:", "$", "$?#3", "$vFile:pwrite:0,0,}"] {
        client.send(packet)?;
        answers(&mut client).with_context(|| format!("after `{packet}`"))?;
    }
    let reply = client.ask(vec![b'v'; PACKET_SIZE + 17])?;
    ensure!(reply.starts_with('E'), "an oversized packet: {reply}");
    answers(&mut client)
}

/// What is for debuggers is refused, and streams are read where they go on, by who has opened them.
pub fn requests(world: &World) -> Result<()> {
    let mut client = attach(world)?;
    let code = world.subject.address;
    for body in [
        "g".to_owned(),
        "vCont;c".to_owned(),
        "Hg1".to_owned(),
        format!("m{code:x},4"),
        format!("Z0,{code:x},4"),
        format!("M{code:x},4:00000000"),
        format!("qMemoryRegionInfo:{code:x}"),
        "qXfer:features:read:target.xml:0,100".to_owned(),
    ] {
        let reply = client.ask(&body)?;
        ensure!(reply.starts_with("E."), "`{body}`: {reply}");
    }
    let open = |name: &str| format!("vFile:open:{},0,0", hex(name.as_bytes()));
    let refused = [
        (open("btf"), "E."),
        (open("vm9/btf"), "E."),
        // The tiny guest is no Linux.
        (open("vm1/btf"), "E."),
        (open("vm1/linux_banner"), "E."),
        (open("../../etc/passwd"), "E.there is no file passwd."),
        (open(""), "E.there is no file"),
        ("vFile:pread:0,10,0".to_owned(), "F-1,"),
    ];
    for (body, wanted) in refused {
        let reply = client.ask(&body)?;
        ensure!(reply.starts_with(wanted), "`{body}`: {reply}");
    }
    for fd in 0..4 {
        ensure!(
            client.ask(open("stream"))? == format!("F{fd:02x}"),
            "stream {fd}"
        );
    }
    ensure!(
        client.ask(open("stream"))?.starts_with('E'),
        "a fifth stream"
    );
    for body in [
        "vFile:pread:0,10,1",
        "vFile:pread:0,10,ffffffffffffffff",
        "vFile:pwrite:0,0,abc",
        "vFile:pread:4,10,0",
    ] {
        let reply = client.ask(body)?;
        ensure!(reply.starts_with("F-1,"), "`{body}`: {reply}");
    }
    ensure!(client.ask("vFile:close:1")? == "F0", "close");
    ensure!(
        client.ask("vFile:close:1")?.starts_with("F-1,"),
        "close again"
    );
    ensure!(
        client.ask("vFile:pread:0,ffffffff,0")?.starts_with('F'),
        "a large read"
    );
    answers(&mut client)
}

/// Packets that were good before bytes of them were changed.
pub fn mutants(world: &World) -> Result<()> {
    let seeds: Vec<(&str, String)> = [
        "?".to_owned(),
        "qfThreadInfo".to_owned(),
        "qSupported".to_owned(),
        format!("qRcmd,{}", hex(b"trace list")),
        format!("qRcmd,{}", hex(b"map dump count hits --json")),
        format!("vFile:open:{},0,0", hex(b"stream")),
        format!("vFile:open:{},0,0", hex(b"vm1/btf")),
        format!("vFile:open:{},601,1b6", hex(b"x.lp")),
        "vFile:pwrite:0,0,abcdefgh".to_owned(),
        "vFile:pread:0,100,0".to_owned(),
        "vFile:fstat:0".to_owned(),
        "vFile:close:0".to_owned(),
        format!("vFile:unlink:{}", hex(b"x.lp")),
        "D".to_owned(),
    ]
    .map(|body| ("", body))
    .into();
    let mut random = Random::new(12);
    for _ in 0..MUTANTS / MUTANTS_OF_A_CLIENT {
        let mut client = attach(world)?;
        for _ in 0..MUTANTS_OF_A_CLIENT {
            let seed = random.choose(&seeds);
            client.send(mutant(seed, &mut random))?;
        }
        client.resync()?;
    }
    Ok(())
}

/// Clients that die while they bring, attach and read: nothing of them is left.
pub fn killed_anywhere(world: &World) -> Result<()> {
    let bytes = builtin::linked("count")
        .context("it is built in")?
        .encode()?;
    let place = format!("vm1:{:#x}", world.subject.address);
    let before = footprint(world)?;
    let mut client = attach(world)?;
    ensure!(
        client.put("brought.lp", &bytes)? == Upload::Loaded,
        "a good one"
    );
    client.monitor(&format!("trace kprobe {place} brought"))?;
    ensure!(footprint(world)? != before, "the probe takes something");
    drop(client);
    wait_for(world, &before)?;
    // The same cut off at many points, in one go.
    let mut conversation = frame(b"qSupported");
    conversation.push(b'+');
    conversation.extend(frame(b"QStartNoAckMode"));
    conversation.push(b'+');
    conversation.extend(frame(
        format!("vFile:open:{},601,1b6", hex(b"brought.lp")).as_bytes(),
    ));
    for (number, byte) in bytes.iter().enumerate() {
        let mut packet = format!("vFile:pwrite:0,{number:x},").into_bytes();
        match byte {
            b'#' | b'$' | b'}' | b'*' => packet.extend([b'}', byte ^ 0x20]),
            byte => packet.push(*byte),
        }
        conversation.extend(frame(&packet));
    }
    conversation.extend(frame(b"vFile:close:0"));
    let attaches = format!("trace kprobe {place} brought");
    conversation.extend(frame(
        format!("qRcmd,{}", hex(attaches.as_bytes())).as_bytes(),
    ));
    conversation.extend(frame(
        format!("vFile:open:{},0,0", hex(b"stream")).as_bytes(),
    ));
    let ends = (0..conversation.len()).step_by(conversation.len() / 20);
    for end in ends.chain([conversation.len()]) {
        connect(world.machine.ports().tools())?.write_all(&conversation[..end])?;
    }
    wait_for(world, &before)
}

/// What is loaded and attached, and the memory that it takes.
fn footprint(world: &World) -> Result<String> {
    let mut shell = world.machine.shell()?;
    let commands = ["trace list", "map list", "vm memory"];
    let said = commands.map(|command| shell.run(command));
    Ok(said.into_iter().collect::<Result<Vec<_>>>()?.concat())
}

fn wait_for(world: &World, wanted: &str) -> Result<()> {
    let deadline = Instant::now() + MOMENT;
    loop {
        let now = footprint(world)?;
        if now == wanted {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{now}\nbut before\n{wanted}");
    }
}
