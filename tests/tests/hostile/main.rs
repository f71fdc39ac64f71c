//! Bad input, at every door of the machine. Each costs its sender one clear error and nobody else anything: the guests
//! go on and compute what they should, the next client works, no probe is left, and EL2 has nothing to say.

mod clients;
mod consoles;
mod debuggers;
mod packets;
mod programs;
mod tools;
mod world;

use anyhow::Context;
use e2e::{Case, suite};
use std::process::ExitCode;
use world::World;

fn main() -> ExitCode {
    suite(World::boot, CASES)
}

/// A case that ends with a look at the whole machine.
macro_rules! case {
    ($module:ident :: $name:ident) => {
        Case {
            name: concat!(stringify!($module), "_", stringify!($name)),
            run: |world| {
                let outcome = $module::$name(world);
                let after = world.check();
                // The first cause is told first.
                outcome.and(after.context("afterwards"))
            },
        }
    };
}

const CASES: &[Case<World>] = &[
    case!(packets::garbage),
    case!(packets::truncated),
    case!(packets::oversized),
    case!(packets::checksums),
    case!(packets::requests),
    case!(packets::longest),
    case!(packets::mutants),
    case!(clients::killed_anywhere),
    case!(clients::killed_unread),
    case!(clients::never_reads),
    case!(clients::many_never_read),
    case!(clients::asks_while_the_vm_runs),
    case!(clients::two_in_turn),
    case!(clients::two_endpoints),
    case!(debuggers::killed_while_stopped),
    case!(debuggers::killed_while_running),
    case!(debuggers::killed_while_stepping),
    case!(debuggers::breakpoints_nowhere),
    case!(debuggers::commands),
    case!(programs::not_programs),
    case!(programs::mutants),
    case!(programs::map_index_out_of_range),
    case!(programs::too_much_memory),
    case!(tools::garbage),
    case!(tools::requests),
    case!(tools::mutants),
    case!(tools::killed_anywhere),
    case!(consoles::endless_line),
    case!(consoles::cut_line),
    case!(consoles::binary_garbage),
    case!(consoles::unread_output),
    case!(consoles::guest_console),
];
