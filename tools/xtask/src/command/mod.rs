//! One module per subcommand.

pub mod bench;
pub mod build;
pub mod run;
pub mod setup;
pub mod test;
