//! Breakpoints and watchpoints: `Z0` to `Z4`.

use super::DebugTarget;
use crate::packet::request::Errno;
use alloc::format;
use alloc::string::ToString;
use gdbstub::target::ext::breakpoints::{
    Breakpoints, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind as GdbWatchKind,
};
use gdbstub::target::{TargetError, TargetResult};
use probes::addr::Gva;
use probes::machine::{HwPoint, WatchKind};
use probes::refusal::Refusal;
use probes::space::Placement;

/// The `kind` of a breakpoint on A64 code: the size of an instruction. Others mean A32 and T32 code.
const A64_INSTRUCTION: usize = 4;

impl DebugTarget {
    fn refuse(&mut self, refusal: &Refusal) -> TargetResult<bool, Self> {
        self.refusal = Some(refusal.to_string());
        Err(TargetError::Errno(Errno::Inval as u8))
    }

    fn insert_hw(&mut self, point: HwPoint) -> TargetResult<bool, Self> {
        let inserted = match self.orders.next.take() {
            Some(orders) => self.space.insert_hw_with(point, &orders),
            None => self.space.insert_hw(point),
        };
        match inserted {
            Ok(()) => Ok(true),
            Err(refusal) => self.refuse(&refusal),
        }
    }

    /// GDB looks for its breakpoint at the PC of a stop: it has to be told the address that it knows.
    fn remember_pad(&mut self, site: Gva, asked: Gva) {
        if site == asked {
            self.behind_pads.remove(&site.0);
        } else {
            self.behind_pads.insert(site.0, asked.0);
        }
    }

    /// Where the client set the breakpoint of a site that is not there itself.
    pub(crate) fn pad_before(&self, site: Gva) -> Option<Gva> {
        self.behind_pads.get(&site.0).copied().map(Gva)
    }

    fn tell_pending(&mut self, address: Gva) {
        if self.told_pending.insert(address.0) {
            let vm = self.space.vm();
            self.notice(format!(
                "{vm}: {address} is not mapped. The breakpoint arms itself when it is."
            ));
        }
    }
}

impl Breakpoints for DebugTarget {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for DebugTarget {
    fn add_sw_breakpoint(&mut self, address: u64, kind: usize) -> TargetResult<bool, Self> {
        if kind != A64_INSTRUCTION {
            return Ok(false);
        }
        let address = Gva(address);
        let inserted = match self.orders.next.take() {
            Some(orders) => {
                let space = self.space;
                space.insert_breakpoint_with(address, self.focus, &orders)
            }
            None => self.space.insert_breakpoint(address, self.focus),
        };
        match inserted {
            Ok(Placement::Armed { address: site }) => {
                self.remember_pad(site, address);
                Ok(true)
            }
            Ok(Placement::Pending) => {
                self.tell_pending(address);
                Ok(true)
            }
            Err(refusal) => self.refuse(&refusal),
        }
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        self.space.remove_breakpoint(Gva(address));
        Ok(true)
    }
}

impl HwBreakpoint for DebugTarget {
    fn add_hw_breakpoint(&mut self, address: u64, kind: usize) -> TargetResult<bool, Self> {
        let aligned = address.is_multiple_of(A64_INSTRUCTION as u64);
        if kind != A64_INSTRUCTION || !aligned {
            return Ok(false);
        }
        self.insert_hw(HwPoint::Break(Gva(address)))
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        self.space.remove_hw(HwPoint::Break(Gva(address)));
        Ok(true)
    }
}

impl HwWatchpoint for DebugTarget {
    fn add_hw_watchpoint(
        &mut self,
        address: u64,
        length: u64,
        kind: GdbWatchKind,
    ) -> TargetResult<bool, Self> {
        self.insert_hw(watch(address, length, kind))
    }

    fn remove_hw_watchpoint(
        &mut self,
        address: u64,
        length: u64,
        kind: GdbWatchKind,
    ) -> TargetResult<bool, Self> {
        self.space.remove_hw(watch(address, length, kind));
        Ok(true)
    }
}

fn watch(address: u64, length: u64, kind: GdbWatchKind) -> HwPoint {
    let kind = match kind {
        GdbWatchKind::Write => WatchKind::Write,
        GdbWatchKind::Read => WatchKind::Read,
        GdbWatchKind::ReadWrite => WatchKind::Access,
    };
    HwPoint::Watch {
        address: Gva(address),
        length,
        kind,
    }
}
