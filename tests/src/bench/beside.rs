//! What is measured beside the stub of QEMU itself.
//!
//! The reference is the same guest, GDB, QEMU and CPU model without a hypervisor under the guest, which is the best that
//! QEMU's stub can do: the guest's own instructions have one stage of translation less there. Either side stands in its
//! debugger while the other is measured, and takes no time.

use super::{Page, Sample, Unit};
use anyhow::{Context, Result};

/// One measure of both sides.
pub struct Beside {
    /// Of our stub, at EL2.
    pub here: Sample,
    /// Of the emulator's stub.
    pub emulator: Sample,
}

impl Beside {
    /// Measures both in turns: how fast the machine is may change meanwhile.
    pub(super) fn in_turns(
        turns: usize,
        mut here: impl FnMut() -> Result<f64>,
        mut emulator: impl FnMut() -> Result<f64>,
    ) -> Result<Self> {
        let mut measured = (Vec::new(), Vec::new());
        for _ in 0..turns {
            measured.0.push(here()?);
            measured.1.push(emulator()?);
        }
        let sample = |numbers| Sample::new(numbers).context("nothing was measured");
        Ok(Self {
            here: sample(measured.0)?,
            emulator: sample(measured.1)?,
        })
    }

    /// Adds the row.
    pub(super) fn add_to(&self, page: &mut Page, id: &str, unit: Unit) {
        page.add(id, unit, &self.here, Some(self.emulator.median()));
    }
}
