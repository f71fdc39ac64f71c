//! Calls of subprograms and helpers. Lookups in arrays and the number of the CPU are inlined.

use super::CompileError;
use super::asm::{AddSub, Cond, FP, Reg, SP, Size, Transfer, ZR};
use super::emit::{CALL_SLOT, CPU_SLOT, Emitter};
use super::flow::Value;
use super::immediate::{self, fits_add_sub};
use super::native::{Failure, Service};
use super::registers::{
    self, BUDGET, CALLEE, HELPER, LEFT, MARK, OPERAND, RUN, TEMPORARY, TEMPORARY2,
};
use crate::decode::Step;
use crate::helper::Helper;
use crate::map::{Map, MapKind};
use crate::width::Width;

/// The result of a call.
pub(super) const RESULT: Reg = Reg(0);
/// The registers of r0 to r5, which a function may change (AAPCS64 section 6.1.1).
const CLOBBERED: [[Reg; 2]; 3] = [
    [registers::of(0), registers::of(1)],
    [registers::of(2), registers::of(3)],
    [registers::of(4), registers::of(5)],
];
/// Bytes that they take on the stack.
const CLOBBERED_FRAME: i32 = 48;

impl Emitter<'_> {
    /// Calls a subprogram.
    pub(super) fn call(&mut self, step: &Step) {
        let entry = step.argument as usize;
        self.pay_for(entry);
        let function = self.function_at(entry);
        self.asm.bl(function);
    }

    /// Pays for the function at `entry`.
    pub(super) fn pay_for(&mut self, entry: usize) {
        let cost = self.length_of(entry);
        self.charge(cost);
        let stub = self.stub(Failure::Budget);
        self.asm.b_cond(Cond::Lo, stub);
    }

    /// Calls a helper, or does what it would.
    pub(super) fn helper(&mut self, helper: Helper) -> Result<(), CompileError> {
        if helper == Helper::GetSmpProcessorId {
            self.slot(RESULT, CPU_SLOT);
            return Ok(());
        }
        if helper == Helper::MapLookupElem
            && let Value::Map(map) = self.state.get(1)
            && let Some(map) = self.maps.get(map)
            && matches!(map.definition().kind, MapKind::Array | MapKind::PerCpuArray)
        {
            return self.array_lookup(map);
        }
        // Nothing of the hypervisor's may look like an argument. `trace_printk` takes as many as its text has place
        // for, set or not.
        let passed = match helper {
            Helper::TracePrintk => 5,
            _ => helper.prototype().count(),
        };
        for register in 1..=passed {
            if self.state.get(register) == Value::Uninitialized {
                self.asm.mov(Size::X, registers::of(register), ZR);
            }
        }
        self.call_runtime(Service::Helper(helper));
        Ok(())
    }

    /// Loads from the guest. Unlike a call, a load leaves all registers of the program but its
    /// destination as they are.
    pub(super) fn load_guest(&mut self, service: Service, step: &Step) {
        let [first, second, third] = CLOBBERED;
        self.asm.stp_pre(first[0], first[1], SP, -CLOBBERED_FRAME);
        self.asm.stp(second[0], second[1], SP, 16);
        self.asm.stp(third[0], third[1], SP, 32);
        let base = registers::of(step.src);
        self.add(Size::X, registers::of(1), base, step.argument);
        self.call_runtime(service);
        let value = TEMPORARY;
        self.asm.mov(Size::X, value, RESULT);
        self.asm.ldp(third[0], third[1], SP, 32);
        self.asm.ldp(second[0], second[1], SP, 16);
        self.asm.ldp_post(first[0], first[1], SP, CLOBBERED_FRAME);
        self.asm.mov(Size::X, registers::of(step.dst), value);
    }

    /// Calls the hypervisor's function, whose other arguments are in their registers.
    pub(super) fn call_runtime(&mut self, service: Service) {
        let stub = self.stub(Failure::Helper);
        immediate::load(&mut self.asm, CALLEE, self.options.runtime.helper_entry);
        self.slot(RUN, CALL_SLOT);
        immediate::load(&mut self.asm, HELPER, service.number().into());
        self.asm.mov(Size::X, LEFT, BUDGET);
        self.asm.blr(CALLEE);
        // x1 is what is left plus 1, or 0.
        self.asm.cbz(Size::X, HELPER, stub);
        self.asm
            .add_sub_imm(AddSub::Sub, Size::X, BUDGET, HELPER, 1);
    }

    /// Loads what the entry has put into its frame.
    fn slot(&mut self, d: Reg, slot: i32) {
        let load = Transfer::load(8);
        if let Some(scaled) = load.scaled(slot) {
            self.asm.transfer(load, d, FP, scaled);
        }
    }

    /// The address of the value whose index the key at r2 is, or 0: no branches.
    fn array_lookup(&mut self, map: &Map) -> Result<(), CompileError> {
        let index = OPERAND;
        self.load(Transfer::load(4), index, 2, 0, Width::Word)?;
        let shape = map.values().shape();
        let [start, scale] = [TEMPORARY, TEMPORARY2];
        immediate::load(&mut self.asm, start, map.values().start() as u64);
        if shape.copies > 1 {
            let cpu = RESULT;
            self.slot(cpu, CPU_SLOT);
            immediate::load(&mut self.asm, scale, shape.block as u64);
            self.asm.madd(Size::X, start, cpu, scale, start);
        }
        if shape.stride.is_power_of_two() {
            let shift = shape.stride.ilog2();
            self.asm
                .add_sub(AddSub::Add, Size::X, RESULT, start, index, shift);
        } else {
            immediate::load(&mut self.asm, scale, shape.stride as u64);
            self.asm.madd(Size::X, RESULT, index, scale, start);
        }
        self.asm
            .add_sub(AddSub::Add, Size::X, RESULT, RESULT, MARK, 0);
        self.compare_index(index, shape.entries as u32);
        self.asm.csel(RESULT, RESULT, ZR, Cond::Lo);
        Ok(())
    }

    fn compare_index(&mut self, index: Reg, entries: u32) {
        if fits_add_sub(entries) {
            self.asm
                .add_sub_imm(AddSub::Subs, Size::W, ZR, index, entries);
        } else {
            immediate::load(&mut self.asm, TEMPORARY2, entries.into());
            self.asm
                .add_sub(AddSub::Subs, Size::W, ZR, index, TEMPORARY2, 0);
        }
    }
}
