//! `ebpf dump`.

use super::{Command, Flag, Invocation, Problem, refused};
use alloc::format;
use ebpf::jit::Listing;

pub(super) const COMMAND: Command = Command {
    path: &["ebpf", "dump"],
    arguments: "PROGRAM [--jit]",
    summary: "show the instructions of a program, and what they were compiled to",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let (rest, jit) = invocation.take_flag("--jit")?;
    let [name] = rest[..] else {
        return Err(Problem::Usage("this needs the name of a program.".into()));
    };
    let store = invocation.periscope().programs();
    let found = store.program(name).map_err(refused)?;
    let program = found.program();
    let code = program.compiled();
    if jit == Flag::Given && code.is_none() {
        let text = match program.declined() {
            Some(reason) => format!("{name} is interpreted: {reason}."),
            None => format!("{name} is interpreted: nothing is compiled here."),
        };
        return Err(Problem::Refused(text));
    }
    let listing = Listing {
        insns: program.insns(),
        code: code.filter(|_| jit == Flag::Given),
    };
    write!(invocation.out, "{listing}")?;
    Ok(())
}
