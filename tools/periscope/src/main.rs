//! The `periscope` command: what a user runs on the host beside the debugger. One module per
//! subcommand.

mod symbols;

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
    Symbols(symbols::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Symbols(args) => symbols::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
