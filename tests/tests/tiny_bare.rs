//! The tiny guest on QEMU alone: the ground truth that the hypervisor's tests compare with.

use anyhow::{Result, ensure};
use e2e::cases;
use e2e::tiny::{Bare, truth};
use std::process::ExitCode;

/// QEMU's CPU models that the guest runs on, with their cheap pointer authentication.
const MODELS: [(&str, &str); 3] = [
    ("cortex-a72", "cortex-a72"),
    ("neoverse-n1", "neoverse-n1"),
    ("max", "max,pauth-impdef=on"),
];

fn main() -> ExitCode {
    let list = MODELS.map(|(name, cpu)| (format!("commands_on_{name}"), move || ground_truth(cpu)));
    cases(list.into())
}

/// Every command, a reset and the end, on one CPU model.
fn ground_truth(cpu: &str) -> Result<()> {
    let mut bare = Bare::boot(cpu)?;
    let mut tiny = bare.tiny();
    truth::check(&mut tiny)?;
    tiny.send("reset")?;
    ensure!(tiny.wait_ready()? == 2, "CPUs after a reset");
    tiny.send("off")?;
    bare.wait_off()
}
