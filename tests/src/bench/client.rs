//! What somebody at a client waits for: the first prompt, memory, steps.

use super::{Beside, Page, Unit, Wanted};
use crate::tiny::{Bare, Tiny, World};
use crate::{Gdb, LONG, MOMENT, Spec};
use anyhow::{Result, ensure};
use std::fs;
use std::time::Instant;
use xtask::workspace;

const ATTACH: &str = "client.attach";
const MEMORY: &str = "client.memory";
const STEPS: &str = "client.steps";

/// In how many turns both are measured.
const TURNS: usize = 10;
/// KiB that are read in a turn.
const KIB: u64 = 512;
/// Instructions that are stepped in a turn.
const STEPPED: u32 = 100;

/// Measures the rows that are wanted.
pub(super) fn measure(
    wanted: &Wanted<'_>,
    page: &mut Page,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    if !wanted.has_any([ATTACH, MEMORY, STEPS].into_iter()) {
        return Ok(());
    }
    let world = World::boot_on(Spec::hypervisor())?;
    let mut bare = Bare::boot(Spec::hypervisor().model())?;
    if wanted.has(ATTACH) {
        say(ATTACH);
        let here = || prompt(|| world.attach());
        let emulator = || prompt(|| bare.attach());
        Beside::in_turns(TURNS, here, emulator)?.add_to(page, ATTACH, Unit::Ns);
    }
    let mut reference = bare.attach()?;
    world.with(|tiny, _| {
        let mut gdb = world.attach()?;
        if wanted.has(MEMORY) {
            say(MEMORY);
            let here = || memory(&mut gdb);
            let emulator = || memory(&mut reference);
            Beside::in_turns(TURNS, here, emulator)?.add_to(page, MEMORY, Unit::PerSecond);
        }
        if wanted.has(STEPS) {
            say(STEPS);
            let here = || steps(&mut gdb, tiny);
            let emulator = || steps(&mut reference, &mut bare.tiny());
            Beside::in_turns(TURNS, here, emulator)?.add_to(page, STEPS, Unit::PerSecond);
        }
        gdb.detach()
    })
}

/// Nanoseconds from the start of a GDB to its prompt with the guest stopped.
fn prompt(attach: impl Fn() -> Result<Gdb>) -> Result<f64> {
    let begun = Instant::now();
    let mut gdb = attach()?;
    let took = begun.elapsed();
    gdb.detach()?;
    Ok(took.as_nanos() as f64)
}

/// KiB of the guest's memory in a second, from its code on.
fn memory(gdb: &mut Gdb) -> Result<f64> {
    let file = workspace::target_dir().join("bench-memory.bin");
    let begin = gdb.value("(unsigned long)&fn_nop")?;
    let bytes = KIB << 10;
    let end = begin + bytes;
    let command = format!("dump binary memory {} {begin:#x} {end:#x}", file.display());
    let begun = Instant::now();
    gdb.console_within(&command, LONG)?;
    let took = begun.elapsed();
    let read = fs::metadata(&file)?.len();
    fs::remove_file(&file)?;
    ensure!(read == bytes, "{read} of {bytes} bytes were read");
    Ok(KIB as f64 / took.as_secs_f64())
}

/// Instructions in a second, stepped in a guest that calls a function over and over. GDB looks at the guest after each.
fn steps(gdb: &mut Gdb, tiny: &mut Tiny<'_>) -> Result<f64> {
    gdb.console("tbreak *fn_nop")?;
    tiny.send("call fn_nop 10000")?;
    gdb.resume_until_stop(MOMENT)?;
    let begun = Instant::now();
    for _ in 0..STEPPED {
        gdb.mi("-exec-step-instruction")?;
        gdb.wait_stop(MOMENT)?;
    }
    let took = begun.elapsed();
    gdb.resume()?;
    let reply = tiny.reply()?;
    ensure!(reply.number("bad")? == 0, "{}", reply.text);
    gdb.interrupt()?;
    Ok(f64::from(STEPPED) / took.as_secs_f64())
}
