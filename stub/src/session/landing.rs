//! Breakpoints behind landing pads.
//!
//! In a guarded page the target of an indirect branch must be a `BTI` or a `PACIASP`, so a breakpoint there sits one
//! instruction later. GDB, which knows nothing of that, looks for its breakpoint at the PC of the stop, finds none, and
//! goes on. So the client is shown the vCPU on the pad; before the vCPU moves, its PC is put where it really is. The pad
//! is never executed twice, which matters to `PACIASP`.

use super::Session;
use probes::addr::Gva;
use probes::machine::{RunMode, Stop, StopReason, VcpuId};

/// A vCPU whose PC is shown one instruction back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rewound {
    /// What the client sees.
    pad: Gva,
    /// Where the vCPU stopped.
    site: Gva,
}

impl Session {
    /// Shows a vCPU that stopped at a breakpoint behind a landing pad on the pad.
    pub(super) fn rewind_to_pad(&mut self, stop: Stop) {
        if !matches!(stop.reason, StopReason::Site { .. }) {
            return;
        }
        let Ok(mut core) = self.machine().core(stop.vcpu) else {
            return;
        };
        let site = Gva(core.pc);
        let Some(pad) = self.target.pad_before(site) else {
            return;
        };
        core.pc = pad.0;
        if self.machine().set_core(stop.vcpu, &core).is_ok() {
            self.rewound.insert(stop.vcpu, Rewound { pad, site });
        }
    }

    /// Puts the vCPUs that the plan moves where they really are. A step from a pad thereby is done: its stop.
    pub(super) fn put_forward(&mut self) -> Option<Stop> {
        let mut stepped = None;
        for (vcpu, rewound) in self.rewound.clone() {
            let mode = self.target.plan().mode(vcpu);
            if mode == RunMode::Stay || !self.put_one_forward(vcpu, rewound) {
                continue;
            }
            let done = match mode {
                RunMode::Step => true,
                RunMode::StepRange { start, end } => !(start..end).contains(&rewound.site),
                RunMode::Continue | RunMode::Stay => false,
            };
            if done {
                stepped = Some(Stop {
                    vcpu,
                    reason: StopReason::Step,
                });
            }
        }
        stepped
    }

    /// The same for all vCPUs, when the client goes.
    pub(super) fn put_all_forward(&mut self) {
        for (vcpu, rewound) in self.rewound.clone() {
            self.put_one_forward(vcpu, rewound);
        }
    }

    /// Whether the vCPU still stood on the pad: the client may have changed its PC.
    fn put_one_forward(&mut self, vcpu: VcpuId, rewound: Rewound) -> bool {
        self.rewound.remove(&vcpu);
        let machine = self.machine();
        match machine.core(vcpu) {
            Ok(mut core) if core.pc == rewound.pad.0 => {
                core.pc = rewound.site.0;
                machine.set_core(vcpu, &core).is_ok()
            }
            _ => false,
        }
    }
}
