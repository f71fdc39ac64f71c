//! `step irqs`.

use super::{Command, Invocation, Problem};
use alloc::format;
use probes::machine::StepInterrupts;

pub(super) const COMMAND: Command = Command {
    path: &["step", "irqs"],
    arguments: "[on|off]",
    summary: "let interrupts in when the debugger steps: a step then can end in an interrupt handler",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let space = invocation.here()?;
    let (vm, machine) = (space.vm(), space.machine());
    let wanted = match invocation.arguments {
        [] => None,
        ["on"] => Some(StepInterrupts::Taken),
        ["off"] => Some(StepInterrupts::Wait),
        _ => return Err(Problem::Usage("this takes on or off.".into())),
    };
    if let Some(wanted) = wanted
        && !machine.set_step_interrupts(wanted)
    {
        let refusal = format!("{vm}: interrupts always wait until a step is done.");
        return Err(Problem::Refused(refusal));
    }
    let state = match machine.step_interrupts() {
        StepInterrupts::Wait => "off: interrupts wait while the debugger steps",
        StepInterrupts::Taken => "on: a step can end in an interrupt handler",
    };
    writeln!(invocation.out, "{vm}: {state}")?;
    Ok(())
}
