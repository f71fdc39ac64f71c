//! How vCPUs go on. gdbstub fills a [`ResumePlan`]; the session carries it out.

use super::DebugTarget;
use alloc::collections::BTreeMap;
use core::convert::Infallible;
use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::multithread::{
    MultiThreadRangeStepping, MultiThreadRangeSteppingOps, MultiThreadResume,
    MultiThreadSchedulerLocking, MultiThreadSchedulerLockingOps, MultiThreadSingleStep,
    MultiThreadSingleStepOps,
};
use probes::addr::Gva;
use probes::machine::{RunMode, VcpuId};

/// What a `vCont` asks of the vCPUs.
#[derive(Clone, Debug)]
pub(crate) struct ResumePlan {
    /// The vCPUs that the packet names.
    named: BTreeMap<VcpuId, RunMode>,
    /// All others.
    others: RunMode,
}

impl Default for ResumePlan {
    fn default() -> Self {
        Self {
            named: BTreeMap::new(),
            others: RunMode::Continue,
        }
    }
}

impl ResumePlan {
    /// How `vcpu` goes on.
    pub(crate) fn mode(&self, vcpu: VcpuId) -> RunMode {
        self.named.get(&vcpu).copied().unwrap_or(self.others)
    }
}

impl DebugTarget {
    /// Of several actions for a thread the leftmost counts (GDB manual, E.2 "vCont").
    fn plan_for(&mut self, tid: Tid, mode: RunMode) {
        if let Some(vcpu) = self.vcpu(tid) {
            self.plan.named.entry(vcpu).or_insert(mode);
        }
    }
}

/// A guest has no signals: the number that a client passes on is not looked at.
impl MultiThreadResume for DebugTarget {
    fn resume(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), Infallible> {
        self.plan = ResumePlan::default();
        Ok(())
    }

    fn set_resume_action_continue(
        &mut self,
        tid: Tid,
        _signal: Option<Signal>,
    ) -> Result<(), Infallible> {
        self.plan_for(tid, RunMode::Continue);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_range_step(&mut self) -> Option<MultiThreadRangeSteppingOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for DebugTarget {
    fn set_resume_action_step(
        &mut self,
        tid: Tid,
        _signal: Option<Signal>,
    ) -> Result<(), Infallible> {
        self.plan_for(tid, RunMode::Step);
        Ok(())
    }
}

impl MultiThreadRangeStepping for DebugTarget {
    fn set_resume_action_range_step(
        &mut self,
        tid: Tid,
        start: u64,
        end: u64,
    ) -> Result<(), Infallible> {
        self.plan_for(
            tid,
            RunMode::StepRange {
                start: Gva(start),
                end: Gva(end),
            },
        );
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for DebugTarget {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Infallible> {
        self.plan.others = RunMode::Stay;
        Ok(())
    }
}
