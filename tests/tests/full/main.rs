//! What takes too long for every change: the soak, the storm, and Debian's kernels beside their own tracers. `cargo xtask test
//! --full` runs them, and the other end-to-end tests on every CPU model; otherwise there is nothing here.

mod guest;
mod kernels;
mod rig;
mod soak;
mod storm;

use e2e::{Named, Scope, cases, named, scope};
use kernels::Kernel;
use std::process::ExitCode;
use xtask::guest::Release;

/// Debian 13's.
const STABLE: Kernel = Kernel {
    release: Release::Stable,
    cpu: None,
    page_size: " 4 kB",
    version: "6.12.",
    symbols: 100_000,
};
/// Debian 12's: without `KALLSYMS_ALL` there are symbols of code only.
const OLDSTABLE: Kernel = Kernel {
    release: Release::Oldstable,
    cpu: None,
    page_size: " 4 kB",
    version: "6.1.",
    symbols: 40_000,
};
/// Debian 13's with large pages. A Cortex-A72 has none of 16 KiB.
const STABLE_16K: Kernel = Kernel {
    release: Release::Stable16K,
    cpu: Some("max,pauth-impdef=on"),
    page_size: " 16 kB",
    version: "6.12.",
    symbols: 100_000,
};

fn main() -> ExitCode {
    match scope() {
        Scope::Quick => cases(Vec::<Named>::new()),
        Scope::Full => cases(vec![
            named("stable_kernel_beside_its_tracers", || {
                kernels::check(&STABLE)
            }),
            named("oldstable_kernel_beside_its_tracers", || {
                kernels::check(&OLDSTABLE)
            }),
            named("kernel_with_16k_pages_beside_its_tracers", || {
                kernels::check(&STABLE_16K)
            }),
            named("soak", soak::soak),
            named("storm", storm::storm),
        ]),
    }
}
