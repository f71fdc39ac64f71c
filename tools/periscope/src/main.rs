#![forbid(unsafe_code)]
//! The `periscope` command: what a user runs on the host beside the debugger. One module per
//! subcommand.

mod btf;
mod dump;
mod header;
mod link;
mod linked_file;
mod record_types;
mod remote;
mod symbols;
#[cfg(test)]
mod testing;
mod trace;
mod verify;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Tools for the Periscope debug server.
#[derive(Parser)]
#[command(version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Link(link::Args),
    Trace(trace::Args),
    Btf(btf::Args),
    Dump(dump::Args),
    Verify(verify::Args),
    Symbols(symbols::Args),
    Header(header::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Link(args) => link::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Btf(args) => btf::run(&args),
        Command::Dump(args) => dump::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Symbols(args) => symbols::run(&args),
        Command::Header(args) => header::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
