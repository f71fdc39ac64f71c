//! `phys`.

use super::{Command, Invocation, Problem, number};
use alloc::format;
use alloc::string::String;
use core::fmt::Write;
use probes::addr::Gpa;
use probes::machine::{PhysFault, VmId};
use probes::space::Space;

/// Bytes that are shown unless asked otherwise.
const DEFAULT: u64 = 64;
/// Bytes that are shown at most.
const MAX: u64 = 4096;
/// Bytes in a line.
const LINE: u64 = 16;

pub(super) const COMMAND: Command = Command {
    path: &["phys"],
    arguments: "[VM:]ADDRESS [LENGTH]",
    summary: "show guest-physical memory",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let (place, length) = match *invocation.arguments {
        [place] => (place, DEFAULT),
        [place, length] => (place, parse(length)?),
        _ => return Err(Problem::Usage("this needs an address.".into())),
    };
    if length == 0 || length > MAX {
        return Err(Problem::Refused(format!(
            "a length is 1 to {MAX} bytes, not {length}."
        )));
    }
    let (space, address) = invocation.split_space(place)?;
    let start = parse(address)?;
    if start.checked_add(length - 1).is_none() {
        return Err(Problem::Refused(
            "the range goes over the end of the address space.".into(),
        ));
    }
    let mut done = 0;
    while done < length {
        let count = (length - done).min(LINE);
        dump_line(space, Gpa(start + done), count, invocation.out)?;
        done += count;
    }
    Ok(())
}

fn parse(text: &str) -> Result<u64, Problem> {
    number::parse(text).ok_or_else(|| Problem::Usage(format!("{text:?} is no number.")))
}

fn dump_line(space: &Space, gpa: Gpa, count: u64, out: &mut dyn Write) -> Result<(), Problem> {
    let mut buffer = [0; LINE as usize];
    let bytes = &mut buffer[..count as usize];
    let read = space.machine().read_phys(gpa, bytes);
    read.map_err(|fault| Problem::Refused(explain(space.vm(), fault)))?;
    let mut digits = String::new();
    let mut text = String::new();
    for byte in bytes {
        write!(digits, " {byte:02x}")?;
        let printable = byte.is_ascii_graphic() || *byte == b' ';
        text.push(if printable { char::from(*byte) } else { '.' });
    }
    writeln!(out, "{gpa}:{digits:<48}  {text}")?;
    Ok(())
}

fn explain(vm: VmId, fault: PhysFault) -> String {
    match fault {
        PhysFault::Unmapped(gpa) => format!("{vm} has no memory at guest-physical {gpa}."),
        PhysFault::Device(gpa) => {
            format!("guest-physical {gpa} of {vm} is a device: reading it could change it.")
        }
    }
}
