//! The ground: the hypervisor boots at EL2 on every CPU model and count that it promises.

use anyhow::{Result, ensure};
use e2e::{Spec, TestMachine, cases};
use std::process::ExitCode;

/// QEMU's CPU models that the hypervisor promises.
const MODELS: [&str; 3] = ["cortex-a72", "neoverse-n1", "max"];

fn main() -> ExitCode {
    let boots = MODELS
        .iter()
        .flat_map(|model| (1..=4).map(move |cpus| (*model, cpus)));
    let list = boots.map(|(model, cpus)| {
        (format!("boots_on_{model}_with_{cpus}_cpus"), move || {
            boots_on(model, cpus)
        })
    });
    cases(list.collect())
}

fn boots_on(model: &str, cpus: u32) -> Result<()> {
    let machine = TestMachine::start(Spec::hypervisor().cpu(model).cpus(cpus))?;
    let ready = machine.ready_line();
    ensure!(
        ready
            .split_whitespace()
            .any(|word| word == format!("cpus={cpus}")),
        "the hypervisor found other CPUs: `{ready}`\n{}",
        machine.log()
    );
    ensure!(
        !machine.log().contains("panic"),
        "the log is not clean:\n{}",
        machine.log()
    );
    Ok(())
}
