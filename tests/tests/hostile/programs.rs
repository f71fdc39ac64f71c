//! Programs that are none, and programs that are not safe.

use crate::world::World;
use anyhow::{Context, Result, ensure};
use e2e::Random;
use e2e::remote::Upload;
use ebpf::builtin;
use ebpf::insn::{Insn, LD_IMM64, PSEUDO_MAP, PSEUDO_MAP_VALUE};
use ebpf::linked::Linked;
use ebpf::map::{MapDef, MapKind};

/// How many changed programs are tried.
const MUTANTS: usize = 300;

/// Bytes that are no linked program, and every way to cut one short.
pub fn not_programs(world: &World) -> Result<()> {
    let mut client = world.attach()?;
    let mut random = Random::new(4);
    let good = good()?.encode()?;
    let mut bad = vec![vec![], b"\x7fELF".to_vec(), random.bytes(5000)];
    bad.extend((0..good.len()).step_by(7).map(|end| good[..end].to_vec()));
    for bytes in bad {
        let upload = client.put("bad.lp", &bytes)?;
        ensure!(
            upload == Upload::Refused,
            "{} bytes are loaded",
            bytes.len()
        );
    }
    let why = client.monitor("trace progs")?;
    ensure!(why.contains("bad") && why.contains("cut off"), "{why}");
    ensure!(
        client.put("good.lp", &good)? == Upload::Loaded,
        "a good one"
    );
    ensure!(
        client.monitor("trace unload good")?.lines().count() <= 1,
        "unload"
    );
    Ok(())
}

/// Bytes and instructions changed under a good checksum: loaded or refused, nothing else. What is loaded is run.
pub fn mutants(world: &World) -> Result<()> {
    let mut client = world.attach()?;
    let mut random = Random::new(5);
    let place = format!("{:#x}", world.subject.address);
    let mut loaded = 0;
    for number in 0..MUTANTS {
        let mut linked = good()?;
        for _ in 0..=random.below(3) {
            let insns = &mut linked.programs[0].insns;
            let at = random.below(insns.len());
            let mut raw = insns[at].encode();
            raw[random.below(raw.len())] = random.byte();
            insns[at] = Insn::decode(raw);
        }
        // What the format itself refuses was tried before.
        let Ok(bytes) = linked.encode() else { continue };
        if client.put("mutant.lp", &bytes)? == Upload::Refused {
            continue;
        }
        loaded += 1;
        let context = || format!("mutant {number}");
        client
            .monitor(&format!("trace kprobe {place} mutant"))
            .with_context(context)?;
        ensure!(client.ask("D")? == "OK", "detach");
        // The next one is served when this one is gone.
        drop(client);
        world.check_guest(1).with_context(context)?;
        client = world.attach()?;
        client
            .monitor(&format!("trace unkprobe {place}"))
            .with_context(context)?;
        client
            .monitor("trace unload mutant")
            .with_context(context)?;
    }
    ensure!(loaded > 0, "no mutant was loaded: this tests nothing");
    Ok(())
}

/// An instruction that names a map which the object has not.
pub fn map_index_out_of_range(world: &World) -> Result<()> {
    let mut client = world.attach()?;
    for index in [1, 63, 64, i32::MAX, -1] {
        let mut linked = good()?;
        let insns = linked.programs[0].insns.iter_mut();
        let mut changed = 0;
        for insn in insns.filter(|insn| insn.code == LD_IMM64) {
            if matches!(insn.src, PSEUDO_MAP | PSEUDO_MAP_VALUE) {
                insn.imm = index;
                changed += 1;
            }
        }
        ensure!(changed > 0, "the program has no map");
        let upload = client.put("index.lp", &linked.encode()?)?;
        ensure!(upload == Upload::Refused, "map {index} is taken");
        let why = client.monitor("trace progs")?;
        ensure!(why.contains("map"), "{why}");
    }
    Ok(())
}

/// Programs whose maps together are larger than EL2's memory: at some point there is no more room, and no harm.
pub fn too_much_memory(world: &World) -> Result<()> {
    let mut client = world.attach()?;
    let mut names = Vec::new();
    for number in 0..80 {
        let mut linked = good()?;
        linked.maps.push(MapDef {
            name: "large".into(),
            kind: MapKind::Hash,
            key_size: 8,
            value_size: 64,
            max_entries: 65_536,
            ..linked.maps[0].clone()
        });
        let name = format!("large{number}");
        if client.put(&format!("{name}.lp"), &linked.encode()?)? == Upload::Refused {
            break;
        }
        names.push(name);
    }
    ensure!(
        (1..80).contains(&names.len()),
        "{} programs fit",
        names.len()
    );
    for name in names {
        client.monitor(&format!("trace unload {name}"))?;
    }
    Ok(())
}

/// A program that counts in a map.
fn good() -> Result<Linked> {
    builtin::linked("count").context("there is no built-in `count`")
}
