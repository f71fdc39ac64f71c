//! `cargo xtask`: the only script of this project. One module per subcommand.

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use xtask::command;

/// Build, run, test and show Periscope.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(command::demo::Args),
    Setup(command::setup::Args),
    Build(command::build::Args),
    Run(command::run::Args),
    Shell(command::shell::Args),
    Test(command::test::Args),
    Bench(command::bench::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(args) => command::demo::run(&args),
        Command::Setup(args) => command::setup::run(&args),
        Command::Build(args) => command::build::run(&args),
        Command::Run(args) => command::run::run(&args),
        Command::Shell(args) => command::shell::run(&args),
        Command::Test(args) => command::test::run(&args),
        Command::Bench(args) => command::bench::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
