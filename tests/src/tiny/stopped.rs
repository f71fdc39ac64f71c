//! What must be true of a guest while a debugger has stopped it.

use super::Tiny;
use crate::Gdb;
use anyhow::{Result, ensure};
use std::thread;
use std::time::Duration;

/// The guest's counter across a stop of two seconds shows less than these two seconds, and its timer goes on where it
/// stood. GDB has stopped the guest, and has stopped it again afterwards.
pub fn time_stands_still(tiny: &mut Tiny<'_>, gdb: &mut Gdb) -> Result<()> {
    const STOP: Duration = Duration::from_secs(2);
    gdb.resume()?;
    let before = tiny.run("timer")?;
    gdb.interrupt()?;
    thread::sleep(STOP);
    gdb.resume()?;
    let after = tiny.run("timer")?;
    let passed = after.number("counter")? - before.number("counter")?;
    let stopped = before.number("frequency")? * STOP.as_secs();
    ensure!(passed > 0, "guest time has stopped for good");
    ensure!(
        passed < stopped,
        "{passed} ticks passed, {stopped} in the stop alone"
    );
    let slept = tiny.run("sleep 20")?;
    ensure!(
        slept.number("passed")? >= slept.number("asked")?,
        "{}",
        slept.text
    );
    gdb.interrupt().map(drop)
}
