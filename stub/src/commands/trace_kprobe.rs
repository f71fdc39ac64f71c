//! `trace kprobe`.

use super::probe_words::{self, ProbeWords};
use super::{Command, Invocation, Problem, refused};
use alloc::format;
use alloc::string::String;
use probes::machine::VmId;
use probes::options::Moment;
use probes::space::Placement;
use probes::target::Target;

pub(super) const COMMAND: Command = Command {
    path: &["trace", "kprobe"],
    arguments: probe_words::ARGUMENTS,
    summary: "count hits of guest code, run a program there, go on (--stop: stop; --ret: when the function returns)",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let words = ProbeWords::read(invocation)?;
    let (space, target) = invocation.place(words.place)?;
    if space.vm().is_hypervisor() {
        let name = Target::split_space(words.place).0.unwrap_or("hyp");
        return Err(Problem::Refused(format!(
            "{name} is the hypervisor itself: `trace hprobe {target}` probes its own code."
        )));
    }
    let (id, placement) = space
        .attach_probe(&target, words.program.clone(), words.options)
        .map_err(refused)?;
    let vm = space.vm();
    let kind = match words.options.moment {
        Moment::Before => "kprobe",
        Moment::Return { .. } => "kretprobe",
    };
    writeln!(
        invocation.out,
        "probe {id}: {kind} {vm}:{target}{}{}",
        describe(vm, placement),
        words.describe()
    )?;
    Ok(())
}

/// How a probe has been accepted, as a user reads it.
pub(super) fn describe(vm: VmId, placement: Placement) -> String {
    match placement {
        Placement::Armed { address } => format!(" at {address}"),
        Placement::Pending => format!(" (not mapped in {vm} yet: arms itself when it is)"),
    }
}
