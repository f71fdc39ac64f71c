//! `trace loadsyms`.

use super::number::grouped;
use super::{Command, Invocation, Problem, refused};
use alloc::format;
use probes::symbols::Symbols;
use probes::system_map::SystemMap;

pub(super) const COMMAND: Command = Command {
    path: &["trace", "loadsyms"],
    arguments: "VM FILE",
    summary: "take a VM's symbols from an uploaded System.map or ELF file, not from its kernel",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let [name, file] = invocation.exactly()?;
    let space = invocation.periscope().space(name).map_err(refused)?;
    let vm = space.vm();
    let Some(text) = invocation.server.take_map(file) else {
        return Err(Problem::Refused(format!(
            "no file {file} has been uploaded: GDB's `remote put System.map System.map` does that \
             (`nm -n vmlinux > System.map` makes one), or `remote put FILE vmlinux` with an ELF file."
        )));
    };
    let map = SystemMap::parse(&text).map_err(|error| refused(format!("{file}: {error}")))?;
    // The text is several times the table.
    drop(text);
    let count = grouped(map.count() as u64);
    match space.load_symbols(map) {
        Ok(slide) => writeln!(
            invocation.out,
            "{vm}: {count} symbols from {file}, moved by {slide:#x}"
        )?,
        Err(reason) => writeln!(
            invocation.out,
            "{vm}: {count} symbols from {file}, to be used when the kernel is up: {reason}"
        )?,
    }
    Ok(())
}
