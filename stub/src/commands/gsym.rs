//! `gsym`: guest symbols, both ways.

use super::{Command, Invocation, Problem, refused};
use alloc::format;
use alloc::string::ToString;
use probes::symbols::Symbols;
use probes::target::Target;

/// How many names are suggested for one that does not exist.
const SUGGESTIONS: usize = 5;

/// How many symbols of one name are looked through.
const MAX_HOMONYMS: usize = 8;

pub(super) const COMMAND: Command = Command {
    path: &["gsym"],
    arguments: "[VM:]SYMBOL|ADDRESS",
    summary: "show where a guest's symbol is, or which symbol is at an address",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let [place] = invocation.exactly()?;
    let (space, target) = invocation.place(place)?;
    let vm = space.vm();
    let symbols = space
        .find_symbols()
        .map_err(|reason| refused(format!("{vm} has no symbols: {reason}")))?;
    match target {
        Target::Address(address) => match symbols.by_address(address) {
            Some(at) => writeln!(
                invocation.out,
                "{address} {vm}:{}+{:#x}",
                at.name, at.offset
            )?,
            None => {
                return Err(Problem::Refused(format!(
                    "no symbol of {vm} covers {address}."
                )));
            }
        },
        Target::Symbol { name, offset } => {
            let start = symbols
                .by_name(&name)
                .ok_or_else(|| unknown(&*symbols, &vm.to_string(), &name))?;
            let address = start.0.wrapping_add(offset);
            // With its module, which the user need not have named.
            let mut named = symbols.named(&name, MAX_HOMONYMS).into_iter();
            let full = named.find(|named| named.address == start);
            let name = full.map_or(name, |named| named.name);
            writeln!(
                invocation.out,
                "{address:#x} {vm}:{}",
                Target::Symbol { name, offset }
            )?;
        }
    }
    Ok(())
}

fn unknown(symbols: &dyn Symbols, vm: &str, name: &str) -> Problem {
    let similar = symbols.similar(name, SUGGESTIONS);
    if similar.is_empty() {
        return Problem::Refused(format!("no symbol {name} in {vm}."));
    }
    Problem::Refused(format!(
        "no symbol {name} in {vm}. Did you mean {}?",
        similar.join(", ")
    ))
}
