//! What people type: at the hypervisor's shell and at a guest's console.

use crate::world::{PROMPT, World};
use anyhow::{Result, bail, ensure};
use e2e::remote::connect;
use e2e::tiny::Tiny;
use e2e::{Console, MOMENT, Random};
use std::io::Write;
use std::time::Duration;

/// Bytes of a line without an end, and of garbage.
const ENDLESS: usize = 1 << 20;
const GARBAGE: usize = 64 * 1024;
/// Characters of a console that an error shows.
const SHOWN: usize = 2000;
/// How often a command is sent to a guest that is busy with garbage.
const ATTEMPTS: u32 = 6;

/// A line longer than all memory for lines costs one error; the next command works.
pub fn endless_line(world: &World) -> Result<()> {
    let mut shell = world.shell_within(MOMENT)?;
    for _ in 0..ENDLESS / 4096 {
        shell.send([b'a'; 4096])?;
    }
    shell.send("\n")?;
    let answer = shell.expect(PROMPT, MOMENT)?;
    ensure!(answer.contains("too long"), "{answer}");
    ensure!(
        answer.len() < 200,
        "the answer is {} bytes long",
        answer.len()
    );
    works(&mut shell)
}

/// A long line whose beginning is a command is not that command.
pub fn cut_line(world: &World) -> Result<()> {
    let mut shell = world.shell_within(MOMENT)?;
    let command = format!("vm stop vm1{}x\n", " ".repeat(4096));
    shell.send(command)?;
    let answer = shell.expect(PROMPT, MOMENT)?;
    ensure!(answer.contains("too long"), "{answer}");
    works(&mut shell)
}

/// Bytes that are no text.
pub fn binary_garbage(world: &World) -> Result<()> {
    let mut shell = world.shell_within(MOMENT)?;
    shell.send(Random::new(6).bytes(GARBAGE))?;
    shell.send("\n")?;
    works(&mut shell)
}

/// Commands whose output nobody reads.
pub fn unread_output(world: &World) -> Result<()> {
    let mut stream = connect(world.machine.ports().shell())?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    let commands = "help\n".repeat(1000);
    for _ in 0..200 {
        // The shell may stop taking commands until their output is read.
        if stream.write_all(commands.as_bytes()).is_err() {
            break;
        }
    }
    drop(stream);
    works(&mut world.shell_again()?)
}

/// The guest gets bytes whatever they are; the hypervisor does not look.
pub fn guest_console(world: &World) -> Result<()> {
    let mut console = world.machine.console(1)?;
    let mut garbage = Random::new(7).bytes(GARBAGE);
    // A line that by chance is a command would be obeyed.
    garbage
        .iter_mut()
        .filter(|byte| byte.is_ascii_graphic())
        .for_each(|byte| *byte |= 0x80);
    for chunk in garbage.chunks(1024) {
        console.send(chunk)?;
    }
    // The guest's own ring loses what comes while it is full, and so may lose a command.
    for _ in 0..ATTEMPTS {
        console.send("\nsleep 1\n")?;
        // Only that command's reply has this field.
        if console.expect("asked=", MOMENT / 3).is_ok() {
            console.expect("\n", MOMENT)?;
            return Tiny::new(&mut console).settle();
        }
    }
    let text = console.text();
    let end: String = text.chars().rev().take(SHOWN).collect();
    let end: String = end.chars().rev().collect();
    bail!("the guest takes no command any more; it said last:\n{end}")
}

fn works(shell: &mut Console) -> Result<()> {
    shell.send("vm list\n")?;
    let list = shell.expect("vm2", MOMENT)?;
    ensure!(list.contains("vm1"), "{list}");
    Ok(())
}
