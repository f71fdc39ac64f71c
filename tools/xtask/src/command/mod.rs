//! One module per subcommand.

pub mod bench;
pub mod build;
pub mod demo;
mod machine_args;
pub mod run;
pub mod setup;
pub mod shell;
pub mod test;
