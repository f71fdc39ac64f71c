//! `trace progs`.

use super::table::{Align, Table};
use super::{Command, Invocation, Problem};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use ebpf::Object;

pub(super) const COMMAND: Command = Command {
    path: &["trace", "progs"],
    arguments: "",
    summary: "show the loaded programs and the uploads that were refused",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let [] = invocation.exactly()?;
    let heading = [
        ("NAME", Align::Left),
        ("PROGRAMS", Align::Left),
        ("MAPS", Align::Left),
    ];
    let mut table = Table::new(&heading);
    let store = invocation.periscope().programs();
    for name in store.names() {
        // It may have been unloaded since.
        if let Ok(object) = store.object(&name) {
            table.row([name, programs(&object), maps(&object)]);
        }
    }
    table.write(invocation.out)?;
    for upload in invocation.server.refused_uploads() {
        writeln!(
            invocation.out,
            "not loaded: {}: {}",
            upload.name, upload.reason
        )?;
    }
    Ok(())
}

fn programs(object: &Object) -> String {
    object
        .programs()
        .iter()
        .map(|program| match program.declined() {
            Some(reason) => format!("{} (interpreted: {reason})", program.name()),
            None => program.name().to_string(),
        })
        .collect::<Vec<_>>()
        .join(", ")
}

fn maps(object: &Object) -> String {
    object
        .maps()
        .iter()
        .map(|map| map.name())
        .collect::<Vec<_>>()
        .join(", ")
}
