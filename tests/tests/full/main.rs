//! What takes too long for every change: the soak, every CPU model, oldstable's kernel. `cargo xtask test --full` runs
//! them; otherwise there is nothing here.

mod guest;
mod random;
mod soak;

use e2e::{Named, Scope, cases, named, scope};
use std::process::ExitCode;

fn main() -> ExitCode {
    match scope() {
        Scope::Quick => cases(Vec::<Named>::new()),
        Scope::Full => cases(vec![named("soak", soak::soak)]),
    }
}
