"""The convenience functions `$_vm()` and `$_current()`."""

from __future__ import annotations

import inspect

import gdb
from periscope_client import Problem

from .session import GdbSession

# PSTATE.M of EL1t and EL1h (Arm ARM C5.2.19, "SPSR_EL1").
_EL1 = (0b0100, 0b0101)


class Function(gdb.Function):
    """A function whose documentation is shown without its indentation."""

    def __init__(self, name: str) -> None:
        self.__doc__ = inspect.getdoc(type(self))
        super().__init__(name)


class Vm(Function):
    """The VM of the current thread, as a string: "vm1"; "hyp" in the hypervisor itself.

    break do_sys_openat2 if $_streq($_vm(), "vm1")"""

    def __init__(self) -> None:
        super().__init__("_vm")

    def invoke(self) -> str:
        try:
            return GdbSession().space()
        except Problem as problem:
            raise gdb.GdbError(str(problem)) from None


class Current(Function):
    """The task that the current vCPU runs: Linux' `current`, a pointer to its struct task_struct.

    It is in SP_EL0 while the vCPU is in its kernel (Linux arch/arm64/include/asm/current.h). Typed where the type is
    known, else a number: print $_current()->comm"""

    def __init__(self) -> None:
        super().__init__("_current")

    def invoke(self) -> gdb.Value:
        try:
            frame = gdb.newest_frame()
            space = GdbSession().space()
        except (Problem, gdb.error) as problem:
            raise gdb.GdbError(str(problem)) from None
        if space == "hyp":
            raise gdb.GdbError("the hypervisor has no tasks: `thread N` chooses a vCPU of a VM.")
        if int(frame.read_register("cpsr")) & 0xF not in _EL1:
            raise gdb.GdbError(
                "the vCPU is not in its kernel, so SP_EL0 is a stack of user space: stop it in the kernel, as with "
                "`tbreak do_sys_openat2`."
            )
        task = frame.read_register("sp_el0")
        try:
            return task.cast(gdb.lookup_type("struct task_struct").pointer())
        except gdb.error:
            return task.cast(frame.architecture().integer_type(64, False))


def register() -> None:
    """Adds the functions to this GDB."""
    Vm()
    Current()
