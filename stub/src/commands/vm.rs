//! `vm list`, `vm vcpus`, `vm info`, `vm memory`, `vm start`, `vm stop`, `vm reset`.

use super::table::{Align, Table};
use super::{Command, Invocation, Problem, refused};
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use probes::machine::{Machine, Power, VcpuId, VmState};
use probes::space::Space;

pub(super) const LIST: Command = Command {
    path: &["vm", "list"],
    arguments: "",
    summary: "show the VMs",
    run: list,
};

pub(super) const VCPUS: Command = Command {
    path: &["vm", "vcpus"],
    arguments: "",
    summary: "show the vCPUs and the physical CPUs that execute them",
    run: vcpus,
};

pub(super) const INFO: Command = Command {
    path: &["vm", "info"],
    arguments: "[VM]",
    summary: "show which kernel a VM runs and where",
    run: info,
};

pub(super) const MEMORY: Command = Command {
    path: &["vm", "memory"],
    arguments: "[VM]",
    summary: "show what the probes in a VM take of the hypervisor's memory",
    run: memory,
};

pub(super) const START: Command = Command {
    path: &["vm", "start"],
    arguments: "VM",
    summary: "start a VM that is ready or off",
    run: start,
};

pub(super) const STOP: Command = Command {
    path: &["vm", "stop"],
    arguments: "VM",
    summary: "switch a VM off",
    run: stop,
};

pub(super) const RESET: Command = Command {
    path: &["vm", "reset"],
    arguments: "VM",
    summary: "load a VM's guest anew and start it",
    run: reset,
};

fn list(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let [] = invocation.exactly()?;
    let heading = [
        ("VM", Align::Left),
        ("STATE", Align::Left),
        ("VCPUS ON", Align::Left),
    ];
    let mut table = Table::new(&heading);
    for space in invocation.periscope().spaces() {
        let machine = space.machine();
        let count = u8::try_from(machine.vcpu_count()).unwrap_or(u8::MAX);
        let on = (0..count)
            .filter(|vcpu| machine.power(VcpuId(*vcpu)) == Power::On)
            .count();
        table.row([
            space.vm().to_string(),
            state(machine).to_string(),
            format!("{on} of {count}"),
        ]);
    }
    table.write(invocation.out)?;
    Ok(())
}

fn vcpus(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let [] = invocation.exactly()?;
    let mut table = Table::new(&[
        ("VM", Align::Left),
        ("VCPU", Align::Right),
        ("THREAD", Align::Right),
        ("STATE", Align::Left),
        ("CPU", Align::Right),
    ]);
    for space in invocation.periscope().spaces() {
        let machine = space.machine();
        let count = u8::try_from(machine.vcpu_count()).unwrap_or(u8::MAX);
        for vcpu in (0..count).map(VcpuId) {
            let state = match machine.power(vcpu) {
                Power::On => "on",
                Power::Off => "off",
            };
            let cpu = machine.physical_cpu(vcpu);
            table.row([
                space.vm().to_string(),
                vcpu.0.to_string(),
                crate::target::tid(vcpu).to_string(),
                state.to_string(),
                cpu.map_or_else(|| "-".to_string(), |cpu| cpu.to_string()),
            ]);
        }
    }
    table.write(invocation.out)?;
    Ok(())
}

fn info(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    for space in named_or_shown(invocation)? {
        let vm = space.vm();
        match space.find_symbols() {
            Ok(symbols) => {
                let banner = space.kernel_banner().unwrap_or_default();
                let release = banner.strip_prefix("Linux version ").unwrap_or(&banner);
                let release = release.split(' ').next().unwrap_or_default();
                write!(invocation.out, "{vm}: Linux {release}")?;
                if let Some(text) = symbols.by_name("_text") {
                    write!(invocation.out, ", text at {text}")?;
                }
                writeln!(invocation.out, ", {} symbols", symbols.count())?;
            }
            Err(reason) => writeln!(invocation.out, "{vm}: no symbols: {reason}")?,
        }
    }
    Ok(())
}

fn memory(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let mut table = Table::new(&[
        ("VM", Align::Left),
        ("SITES", Align::Right),
        ("SHADOW PAGES", Align::Right),
        ("XN PAGES", Align::Right),
        ("TABLE PAGES", Align::Right),
    ]);
    for space in named_or_shown(invocation)? {
        let usage = space.machine().view_usage();
        table.row([
            space.vm().to_string(),
            usage.sites.to_string(),
            usage.shadows.to_string(),
            usage.no_execute.to_string(),
            usage.tables.to_string(),
        ]);
    }
    table.write(invocation.out)?;
    Ok(())
}

fn state(machine: &dyn Machine) -> &'static str {
    match machine.state() {
        VmState::Ready => "ready",
        VmState::Off => "off",
        VmState::Running if machine.held() => "stopped",
        VmState::Running => "running",
    }
}

/// The VM that is named, or without a name all that a listing shows.
fn named_or_shown(invocation: &Invocation<'_>) -> Result<Vec<&'static Space>, Problem> {
    match invocation.arguments {
        [] => Ok(invocation.shown_spaces()),
        _ => Ok([named(invocation)?].to_vec()),
    }
}

fn named(invocation: &Invocation<'_>) -> Result<&'static Space, Problem> {
    let [name] = invocation.exactly()?;
    let space = invocation.periscope().space(name).map_err(refused)?;
    if space.vm().is_hypervisor() {
        let text = format!("{name} is the hypervisor itself: say which VM.");
        return Err(Problem::Refused(text));
    }
    Ok(space)
}

fn start(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let space = named(invocation)?;
    if space.machine().state() == VmState::Running {
        return Err(Problem::Refused(format!("{} runs already.", space.vm())));
    }
    space.machine().start();
    writeln!(invocation.out, "{} starts", space.vm())?;
    Ok(())
}

fn stop(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let space = named(invocation)?;
    space.machine().power_off();
    writeln!(invocation.out, "{} is off", space.vm())?;
    Ok(())
}

fn reset(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let space = named(invocation)?;
    space.machine().reset();
    writeln!(invocation.out, "{} starts anew", space.vm())?;
    Ok(())
}
