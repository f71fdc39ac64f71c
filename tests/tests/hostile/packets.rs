//! Bytes that are no packets, packets that are no requests, and requests that cannot be met.

use crate::world::World;
use anyhow::{Context, Result, ensure};
use e2e::Random;
use e2e::remote::{Remote, frame, hex};

/// What the server announces (`PacketSize`), in bytes.
pub const PACKET_SIZE: usize = 64 << 10;
/// How many mutated packets are sent, and how many by one client.
const MUTANTS: usize = 4000;
const MUTANTS_OF_A_CLIENT: usize = 100;

/// A stream of bytes without any order is skipped, and the next packet is answered.
pub fn garbage(world: &World) -> Result<()> {
    let mut random = Random::new(1);
    for _ in 0..16 {
        let mut client = world.attach()?;
        client.send(random.bytes(1024))?;
        answers(&mut client)?;
    }
    Ok(())
}

/// A packet that never ends is forgotten when the next begins.
pub fn truncated(world: &World) -> Result<()> {
    let mut client = world.attach()?;
    for packet in [
        "$m40200000,",
        "$",
        "$g#",
        "$g#6",
        "$vFile:pwrite:0,0,}",
        "$X40200000,10:\x03",
    ] {
        client.send(packet)?;
        answers(&mut client).with_context(|| format!("after `{packet}`"))?;
    }
    Ok(())
}

/// A packet longer than announced costs one error, however long it is.
pub fn oversized(world: &World) -> Result<()> {
    let mut client = world.attach()?;
    for length in [PACKET_SIZE + 17, 2 * PACKET_SIZE, 16 * PACKET_SIZE] {
        let mut body = b"G".to_vec();
        body.resize(length, b'0');
        let reply = client.ask(&body)?;
        ensure!(reply.starts_with('E'), "{length} bytes: {reply}");
        answers(&mut client)?;
    }
    Ok(())
}

/// Before `QStartNoAckMode` a bad checksum is a `-`, and a `-` brings the last reply again.
pub fn checksums(world: &World) -> Result<()> {
    let mut client = Remote::connect(world.port(1))?;
    for bad in ["$g#00", "$g#zz", "$qSupported#g7", "$?#.."] {
        client.send(bad)?;
        client
            .expect("-")
            .with_context(|| format!("after `{bad}`"))?;
    }
    ensure!(client.is_silent(), "more than one `-`");
    client.ask("qSupported")?;
    client.send("+")?;
    let reply = client.ask("qC")?;
    for _ in 0..100 {
        client.send("-")?;
        ensure!(client.packet()? == reply, "not the same again");
    }
    drop(client);
    let mut client = world.attach()?;
    client.send("$g#00")?;
    answers(&mut client)
}

/// What a packet that cannot be honoured is answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    /// `E…`.
    Error,
    /// The empty reply: there is no such packet here.
    Unknown,
    /// The end of what there is.
    End,
    /// Some data.
    Data,
}

/// Requests whose numbers, lengths, threads or kinds are wrong.
pub fn requests(world: &World) -> Result<()> {
    let code = world.subject.address;
    let scratch = World::SCRATCH;
    let table: Vec<(String, Answer)> = [
        ("m0,ffffffffffffffff", Answer::Error),
        ("m7fff00000000,4", Answer::Error),
        ("mffffffffffffffff,2", Answer::Error),
        ("m10000000000000000,1", Answer::Error),
        ("m,", Answer::Error),
        ("m40200000", Answer::Error),
        ("m-1,4", Answer::Error),
        ("mCODE,fffff", Answer::Data),
        ("M7fff00000000,1:00", Answer::Error),
        ("MSCRATCH,4:00", Answer::Error),
        ("MSCRATCH,1:0000", Answer::Error),
        ("MSCRATCH,1:0", Answer::Error),
        ("MSCRATCH,1:zz", Answer::Error),
        ("MSCRATCH,1", Answer::Error),
        ("Mffffffffffffffff,2:0000", Answer::Error),
        ("X7fff00000000,1:a", Answer::Error),
        ("XSCRATCH,4:a", Answer::Error),
        ("XSCRATCH,1:ab", Answer::Error),
        ("XSCRATCH,1:}", Answer::Error),
        ("Xffffffffffffffff,2:ab", Answer::Error),
        ("pffffffff", Answer::Error),
        ("p10000000000000000", Answer::Error),
        ("p", Answer::Error),
        ("p-1", Answer::Error),
        ("Pffffffff=0000000000000000", Answer::Error),
        ("P0=", Answer::Error),
        ("P0=00", Answer::Error),
        ("P0=000000000000000000", Answer::Error),
        ("P0=0", Answer::Error),
        ("P0", Answer::Error),
        ("P=00", Answer::Error),
        ("G", Answer::Error),
        ("G00", Answer::Error),
        ("G0", Answer::Error),
        ("Gzz", Answer::Error),
        ("Z0,CODE,0", Answer::Error),
        ("Z0,CODE,3", Answer::Error),
        ("Z0,CODE,ffffffffffffffff", Answer::Error),
        ("Z1,CODE,3", Answer::Error),
        ("Z0,40200001,4", Answer::Error),
        ("Z1,40200002,4", Answer::Error),
        ("Z2,SCRATCH,0", Answer::Error),
        ("Z4,ffffffffffffffff,8", Answer::Error),
        ("Z0,CODE,4;X1,22", Answer::Error),
        ("Z0,CODE,4;cmds:0", Answer::Error),
        ("Z0", Answer::Error),
        ("Z,CODE,4", Answer::Error),
        ("Z0,CODE", Answer::Error),
        ("Z5,CODE,4", Answer::Unknown),
        ("Z9,CODE,4", Answer::Unknown),
        ("Hg99", Answer::Error),
        ("Hgp1.99", Answer::Error),
        ("Hgzz", Answer::Error),
        ("Hc99", Answer::Error),
        ("T99", Answer::Error),
        ("Tzz", Answer::Error),
        ("qThreadExtraInfo,99", Answer::Error),
        ("qThreadExtraInfo,", Answer::Error),
        ("vCont;c:99", Answer::Error),
        ("vCont;s:p1.99;c", Answer::Error),
        ("vCont;c:zz", Answer::Error),
        ("vCont;q", Answer::Error),
        ("vCont;", Answer::Error),
        ("vCont;r1:1", Answer::Error),
        ("vCont;t", Answer::Error),
        ("cCODE", Answer::Error),
        ("s0", Answer::Error),
        ("Czz", Answer::Error),
        ("qXfer:features:read:target.xml:ffffff,10", Answer::End),
        (
            "qXfer:features:read:target.xml:ffffffffffffffff,ffffffffffffffff",
            Answer::End,
        ),
        (
            "qXfer:features:read:target.xml:0,ffffffffffffffff",
            Answer::Data,
        ),
        ("qXfer:features:read:nonsense.xml:0,100", Answer::Error),
        ("qXfer:memory-map:read::ffffffff,1", Answer::End),
        ("qXfer:threads:read::ffffffffffffffff,1", Answer::End),
        ("qXfer:features:read:target.xml:zz,1", Answer::Error),
        ("qXfer:features:write:target.xml:0:00", Answer::Unknown),
        ("qXfer:nonsense:read::0,1", Answer::Unknown),
        ("qXfer", Answer::Unknown),
        ("qRcmd,zz", Answer::Error),
        ("qRcmd,0", Answer::Error),
        ("qMemoryRegionInfo:zz", Answer::Unknown),
        ("qMemoryRegionInfo:ffffffffffffffff", Answer::Data),
        ("x7fff00000000,4", Answer::Error),
        ("xffffffffffffffff,ffffffffffffffff", Answer::Error),
        ("xCODE", Answer::Error),
        ("xCODE,0", Answer::Data),
        ("qCRC:7fff00000000,4", Answer::Error),
        ("qCRC:CODE,0", Answer::Error),
        ("qCRC:CODE,ffffffffffffffff", Answer::Error),
        ("qSearch:memory:CODE;0;a", Answer::Error),
        ("qSearch:memory:CODE;10;", Answer::Error),
        ("qSearch:memory:CODE;10;}", Answer::Error),
        ("qSearch:memory:7fff00000000;10;a", Answer::Data),
        (
            "qSearch:memory:0;ffffffffffffffff;periscope-is-not-there",
            Answer::Error,
        ),
        ("qXfer:osdata:read:nonsense:0,100", Answer::Error),
        ("qXfer:osdata:read:vms:ffffffff,100", Answer::End),
        ("p0;thread:99;", Answer::Error),
        ("p0;thread:", Answer::Error),
        ("g;thread:zz;", Answer::Error),
        ("QRestoreRegisterState:99", Answer::Error),
        ("QThreadEvents:7", Answer::Error),
        ("QNonStop:1", Answer::Error),
        ("QCatchSyscalls:1", Answer::Error),
        ("QPassSignals:zz", Answer::Error),
        ("_M1000,rwx", Answer::Error),
        ("_m40200000", Answer::Error),
        ("jThreadsInfo", Answer::Data),
        ("jNonsense:{]", Answer::Unknown),
        ("qNonsense", Answer::Unknown),
        ("QNonsense:1", Answer::Unknown),
        ("vNonsense", Answer::Unknown),
        ("vRun;2f", Answer::Unknown),
        ("R00", Answer::Unknown),
        ("!", Answer::Unknown),
        ("~~~", Answer::Unknown),
        ("", Answer::Unknown),
    ]
    .into_iter()
    .map(|(body, answer)| {
        let body = body
            .replace("CODE", &format!("{code:x}"))
            .replace("SCRATCH", &format!("{scratch:x}"));
        (body, answer)
    })
    .collect();
    let mut client = world.attach()?;
    let mut wrong = Vec::new();
    for (body, wanted) in table {
        let reply = client.ask(&body)?;
        let found = match reply.as_bytes() {
            [] => Answer::Unknown,
            [b'E', ..] => Answer::Error,
            b"l" => Answer::End,
            _ => Answer::Data,
        };
        if found != wanted {
            wrong.push(format!("`{body}`: `{reply}` is not {wanted:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    answers(&mut client)
}

/// The longest packets that are allowed are honoured.
pub fn longest(world: &World) -> Result<()> {
    let mut client = world.attach()?;
    let scratch = World::SCRATCH;
    let mut random = Random::new(2);
    for length in [1, 511, 32_000] {
        let data = random.bytes(length);
        let write = format!("M{scratch:x},{length:x}:{}", hex(&data));
        ensure!(client.ask(write)? == "OK", "M of {length} bytes");
        ensure!(
            client.ask(format!("m{scratch:x},{length:x}"))? == hex(&data),
            "m of {length} bytes"
        );
    }
    // Every byte has to be escaped, so half as many fit.
    for byte in [b'#', b'$', b'}', b'*'] {
        let length = (PACKET_SIZE - 32) / 2;
        let mut write = format!("X{scratch:x},{length:x}:").into_bytes();
        write.extend([b'}', byte ^ 0x20].repeat(length));
        ensure!(client.ask(&write)? == "OK", "X of {length} bytes {byte:#x}");
        let read = client.ask(format!("m{:x},1", scratch + length as u64 - 1))?;
        ensure!(read == hex(&[byte]), "the last {byte:#x} is {read}");
    }
    Ok(())
}

/// Thousands of packets that were good before bytes of them were changed.
pub fn mutants(world: &World) -> Result<()> {
    let seeds = seeds(world);
    let mut random = Random::new(3);
    for _ in 0..MUTANTS / MUTANTS_OF_A_CLIENT {
        let mut client = Remote::attach(world.port(1))?;
        for _ in 0..MUTANTS_OF_A_CLIENT {
            let seed = random.choose(&seeds);
            client.send(mutant(seed, &mut random))?;
        }
        client.resync()?;
    }
    Ok(())
}

/// Good packets: what must stay as it is, and what may change. Writes to the guest go nowhere, so that what they
/// become cannot break it either.
fn seeds(world: &World) -> Vec<(&'static str, String)> {
    let code = world.subject.address;
    let changeable = [
        "g".to_owned(),
        "?".to_owned(),
        "qC".to_owned(),
        "qfThreadInfo".to_owned(),
        "qThreadExtraInfo,1".to_owned(),
        "Hg1".to_owned(),
        "Hc-1".to_owned(),
        "T2".to_owned(),
        format!("m{code:x},40"),
        "p20".to_owned(),
        format!("Z0,{code:x},4"),
        format!("z0,{code:x},4"),
        format!("Z1,{code:x},4"),
        format!("Z2,{:x},8", World::SCRATCH),
        format!("z2,{:x},8", World::SCRATCH),
        "vCont?".to_owned(),
        "vCont;c".to_owned(),
        "vCont;s:1;c".to_owned(),
        format!("vCont;r{code:x},{:x}:1", code + 64),
        "qSupported:swbreak+;hwbreak+".to_owned(),
        "qXfer:features:read:target.xml:0,7f0".to_owned(),
        "qXfer:threads:read::0,400".to_owned(),
        "qXfer:memory-map:read::0,400".to_owned(),
        format!("qRcmd,{}", hex(b"trace list")),
        format!("qRcmd,{}", hex(b"help trace")),
        format!("qMemoryRegionInfo:{code:x}"),
        format!("vFile:open:{},601,1b6", hex(b"x.lp")),
        "vFile:pwrite:0,0,abcdefgh".to_owned(),
        "vFile:pread:0,10,0".to_owned(),
        "vFile:fstat:0".to_owned(),
        "vFile:close:0".to_owned(),
        format!("vFile:unlink:{}", hex(b"x.lp")),
        "D".to_owned(),
    ];
    let fixed = [
        ("M7fff00000000,", "4:01020304".to_owned()),
        ("X7fff00000000,", "4:abcd".to_owned()),
        ("Pffff", "=0102030405060708".to_owned()),
        ("Gzz", "00".repeat(64)),
    ];
    let free = changeable.map(|body| ("", body));
    free.into_iter().chain(fixed).collect()
}

/// One to four bytes changed, inserted or cut; most with a good checksum.
pub fn mutant((fixed, seed): &(&str, String), random: &mut Random) -> Vec<u8> {
    let mut body = seed.clone().into_bytes();
    for _ in 0..=random.below(4) {
        let at = random.below(body.len() + 1);
        match random.below(5) {
            0 => body.insert(at, random.byte()),
            1 => body.truncate(at),
            2 => body.extend_from_slice(&body.clone()[at..]),
            _ if at < body.len() => {
                body[at] = *random.choose(b"0123456789abcdefxp:;,-#$}*\x03\xff")
            }
            _ => body.push(b'f'),
        }
    }
    let mut whole = fixed.as_bytes().to_vec();
    whole.append(&mut body);
    // What writes to the guest by chance is not the server's mistake.
    if fixed.is_empty() && matches!(whole.first(), Some(b'M' | b'X' | b'P' | b'G')) {
        whole[0] = b'q';
    }
    let mut framed = frame(&whole);
    if random.below(16) == 0 {
        framed.truncate(random.below(framed.len()));
    }
    framed
}

/// The client is answered as if nothing had been.
fn answers(client: &mut Remote) -> Result<()> {
    client.resync()?;
    let halted = client.ask("?")?;
    ensure!(halted.starts_with('T'), "`?` is answered with {halted}");
    Ok(())
}
