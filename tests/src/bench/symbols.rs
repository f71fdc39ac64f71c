//! Costs of looking symbols up, in a Debian kernel's table of 115,000.

use super::{Page, Sample, Unit, Wanted};
use crate::{Linux, Spec, TestMachine};
use anyhow::{Context, Result};
use xtask::guest::Release;
use xtask::machine::Start;

/// Looked up so often each.
const LOOKUPS: usize = 200;
/// What every kernel has, spread over its table.
const FUNCTIONS: [&str; 3] = ["vfs_read", "schedule", "do_exit"];

const BY_NAME: &str = "symbols.lookup.name";
const BY_ADDRESS: &str = "symbols.lookup.address";

/// Measures what is wanted.
pub(super) fn measure(
    wanted: &Wanted<'_>,
    page: &mut Page,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    if ![BY_NAME, BY_ADDRESS].iter().any(|id| wanted.has(id)) {
        return Ok(());
    }
    say("a Debian kernel's symbols");
    let machine =
        TestMachine::start(Spec::hypervisor().linux(Release::Stable, 1, Start::Immediately)?)?;
    machine.wait_for_shell(1)?;
    let mut linux = Linux::new(machine.console(1)?);
    linux.quieten()?;
    let mut by_name = Vec::new();
    let mut by_address = Vec::new();
    for function in FUNCTIONS {
        let address = linux.address(function)? + 4;
        by_name.push(format!("gsym vm1:{function}"));
        by_address.push(format!("gsym vm1:{address:#x}"));
    }
    let mut shell = machine.shell()?;
    for (id, commands) in [(BY_NAME, by_name), (BY_ADDRESS, by_address)] {
        let mut durations = Vec::new();
        for command in commands {
            durations.extend(shell.durations(&command, LOOKUPS)?);
        }
        let numbers = durations.into_iter().map(|ns| ns as f64).collect();
        let sample = Sample::new(numbers).context("no lookups")?;
        page.add(id, Unit::Ns, &sample, None);
    }
    Ok(())
}
