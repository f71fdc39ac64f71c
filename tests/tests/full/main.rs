//! What takes too long for every change: the soak, every CPU model, oldstable's kernel. `cargo xtask test --full` runs
//! them; otherwise there is nothing here.

mod guest;
mod random;
mod soak;

use anyhow::Result;
use e2e::{Scope, cases, scope};
use std::process::ExitCode;

/// A test by its name.
type Named = (String, Box<dyn FnOnce() -> Result<()> + Send>);

fn main() -> ExitCode {
    match scope() {
        Scope::Quick => cases(Vec::<Named>::new()),
        Scope::Full => cases(vec![named("soak", soak::soak)]),
    }
}

fn named(name: &str, run: impl FnOnce() -> Result<()> + Send + 'static) -> Named {
    (name.to_owned(), Box::new(run))
}
