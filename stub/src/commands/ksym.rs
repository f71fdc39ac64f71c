//! `ksym`: the hypervisor's own symbols, both ways.

use super::number::{self, grouped};
use super::table::{Align, Table};
use super::{Command, Invocation, Problem};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use probes::addr::Gva;
use probes::symbols::Symbols;
use probes::target::Target;

/// How many names are suggested for one that does not exist.
const SUGGESTIONS: usize = 5;
/// Rows that are shown at most; who sees all of them says more.
const MAX_ROWS: usize = 50;

pub(super) const LOOKUP: Command = Command {
    path: &["ksym", "lookup"],
    arguments: "FUNCTION|ADDRESS",
    summary: "show where a function of the hypervisor is, or which is at an address",
    run: lookup,
};

pub(super) const SEARCH: Command = Command {
    path: &["ksym", "search"],
    arguments: "TEXT",
    summary: "show the hypervisor's functions whose names contain a text",
    run: search,
};

pub(super) const INFO: Command = Command {
    path: &["ksym", "info"],
    arguments: "",
    summary: "show what is known of the hypervisor's symbols",
    run: info,
};

fn symbols(invocation: &Invocation<'_>) -> Result<Arc<dyn Symbols>, Problem> {
    let own = invocation.periscope().hypervisor();
    own.and_then(|space| space.symbols()).ok_or_else(|| {
        Problem::Refused(
            "this hypervisor has no symbols of its own: `cargo xtask build` puts them into its \
             image."
                .into(),
        )
    })
}

fn heading() -> Table {
    Table::new(&[("ADDRESS", Align::Right), ("FUNCTION", Align::Left)])
}

fn row(address: Gva, name: &str, offset: u64) -> [String; 2] {
    let offset = match offset {
        0 => String::new(),
        offset => format!("+{offset:#x}"),
    };
    [address.to_string(), format!("{name}{offset}")]
}

fn lookup(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let [word] = invocation.exactly()?;
    let symbols = symbols(invocation)?;
    let mut table = heading();
    match Target::parse(word) {
        Ok(Target::Address(address)) => {
            let Some(at) = symbols.by_address(address) else {
                let text = format!("no function of the hypervisor covers {address}.");
                return Err(Problem::Refused(text));
            };
            table.row(row(address, &at.name, at.offset));
        }
        Ok(Target::Symbol { name, offset }) => {
            let found = symbols.named(&name, MAX_ROWS);
            if found.is_empty() {
                return Err(unknown(&*symbols, &name));
            }
            for named in found {
                let address = Gva(named.address.0.wrapping_add(offset));
                table.row(row(address, &named.name, offset));
            }
        }
        Err(error) => return Err(Problem::Usage(error.to_string())),
    }
    table.write(invocation.out)?;
    Ok(())
}

fn unknown(symbols: &dyn Symbols, name: &str) -> Problem {
    let places = symbols.inlined(name);
    if places > 0 {
        let plural = if places == 1 { "" } else { "s" };
        return Problem::Refused(format!(
            "{name} is inlined in {places} place{plural} and has no code of its own."
        ));
    }
    let similar = symbols.similar(name, SUGGESTIONS);
    let hint = match similar.is_empty() {
        true => "`ksym search` looks for parts of names.".to_string(),
        false => format!("Did you mean {}?", similar.join(", ")),
    };
    Problem::Refused(format!("the hypervisor has no function {name}. {hint}"))
}

fn search(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let [text] = invocation.exactly()?;
    let symbols = symbols(invocation)?;
    let mut table = heading();
    let mut found = 0;
    symbols.each(&mut |address, name| {
        if name.contains(text) {
            found += 1;
            if found <= MAX_ROWS {
                table.row(row(address, name, 0));
            }
        }
        true
    });
    if found == 0 {
        return Err(unknown(&*symbols, text));
    }
    table.write(invocation.out)?;
    if found > MAX_ROWS {
        let rest = grouped((found - MAX_ROWS) as u64);
        writeln!(invocation.out, "and {rest} more: say more of the name")?;
    }
    Ok(())
}

fn info(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let [] = invocation.exactly()?;
    let symbols = symbols(invocation)?;
    let (mut first, mut last) = (None, Gva(0));
    symbols.each(&mut |address, _| {
        first.get_or_insert(address);
        last = address;
        true
    });
    let mut table = Table::new(&[
        ("FUNCTIONS", Align::Right),
        ("FIRST", Align::Right),
        ("LAST", Align::Right),
    ]);
    table.row([
        number::grouped(symbols.count() as u64),
        first.unwrap_or_default().to_string(),
        last.to_string(),
    ]);
    table.write(invocation.out)?;
    Ok(())
}
