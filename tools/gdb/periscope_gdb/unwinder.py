"""Backtraces through kernels that sign return addresses (FEAT_PAuth), for GDBs before 14.

Such a GDB takes the signature off a return address as if it were one of user space, clears the upper bits of the
kernel's addresses, and ends the backtrace there. Newer ones know the masks of both halves (`pauth_cmask_high` in the
target's description). This unwinder takes only frames whose return address is signed, and those of functions that
sign it: such a GDB ends the backtrace there even where the CPU has no signatures. All others are GDB's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import gdb
import gdb.unwinder

# The first GDB that needs no help.
_FIRST_WITH_MASKS = 14
# Bit 55 says which half of the address space it is, and is never part of a signature (Arm ARM D8.8).
_KERNEL_HALF = 1 << 55
# Instructions of a prologue, at most.
_PROLOGUE = 32

# Registers that are the same in all frames. What an unwinder does not name, the caller does not have.
_COMMON = ("cpsr", "pauth_dmask", "pauth_cmask", "pauth_dmask_high", "pauth_cmask_high", "sp_el0")
# Registers that a function gives back as it got them (AAPCS64 6.1.1), the frame pointer left out.
_CALLEE_SAVED = range(19, 29)

# Arm ARM C6.2: the instructions of prologues and epilogues.
_PACIASP = 0xD503233F
_AUTIASP = 0xD50323BF
_RET = 0xD65F03C0
_RETAA = 0xD65F0BFF


@dataclass
class Prologue:
    """What a function has done of its prologue when it is at some place."""

    # Bytes of stack that it has taken.
    taken: int = 0
    # Where, from its stack pointer on, the caller's x29 and x30 are; nothing while they are in the registers.
    record: int | None = None
    # Whether x29 points there.
    is_linked: bool = False
    # The same for other registers that it has to restore.
    saved: dict[int, int] = field(default_factory=dict)
    # Whether it has signed the return address, if the CPU does that.
    signs: bool = False
    # Whether the prologue was followed to its end: a function may leave early, by a branch before it has a record.
    is_certain: bool = True

    @classmethod
    def of(cls, instructions: list[int]) -> Prologue:
        """Follows the instructions from a function's first up to the place."""
        prologue = cls()
        for instruction in instructions:
            if not prologue._step(instruction):
                prologue.is_certain = prologue.record is not None
                break
        return prologue

    def _step(self, instruction: int) -> bool:
        first, base, second = instruction & 31, instruction >> 5 & 31, instruction >> 10 & 31
        pair_offset = _signed(instruction >> 15 & 0x7F, 7) * 8
        if instruction == _PACIASP:
            self.signs = True
        elif instruction & 0xFFC0_7FFF == 0xA980_7BFD:  # stp x29, x30, [sp, #-N]!
            self.taken -= pair_offset
            self.record = 0
        elif instruction & 0xFF80_03FF == 0xD100_03FF:  # sub sp, sp, #N
            size = (instruction >> 10 & 0xFFF) << (12 if instruction >> 22 & 1 else 0)
            self.taken += size
            self._move(size)
        elif instruction & 0xFFC0_03FF == 0x9100_03FD:  # add x29, sp, #N; mov x29, sp
            self.is_linked = self.record is not None
        elif instruction & 0xFFC0_03E0 == 0xA900_03E0:  # stp xA, xB, [sp, #N]
            self._save(first, pair_offset)
            self._save(second, pair_offset + 8)
        elif instruction & 0xFFC0_03E0 == 0xF900_03E0:  # str xA, [sp, #N]
            self._save(first, (instruction >> 10 & 0xFFF) * 8)
        elif _is_call(instruction):
            # The function tracer's call comes before the record is made; others come after the prologue.
            return self.record is None
        else:
            return not _is_branch(instruction)
        return True

    def _save(self, register: int, offset: int) -> None:
        if register == 29:
            self.record = offset
        elif register in _CALLEE_SAVED:
            self.saved.setdefault(register, offset)

    def _move(self, size: int) -> None:
        if self.record is not None:
            self.record += size
        self.saved = {register: offset + size for register, offset in self.saved.items()}


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _is_call(instruction: int) -> bool:
    return instruction >> 26 == 0b100101


def _is_branch(instruction: int) -> bool:
    # Arm ARM C4.1.65 "Branches, Exception Generating and System instructions": hints and barriers are no branches.
    conditional = instruction >> 24 == 0x54 or instruction & 0x7C00_0000 == 0x3400_0000
    return conditional or instruction >> 26 == 0b000101 or instruction >> 25 == 0b1101011


@dataclass(frozen=True)
class Caller:
    """Where a function goes back to, and what its caller's registers are."""

    # As it is kept, with its signature.
    return_address: int
    stack: int
    registers: dict[str, int]
    # Whether the function signs return addresses.
    signs: bool
    # Whether callee-saved registers that are not named are as they were.
    keeps_others: bool = True


class FrameId:
    """What tells frames from each other: the caller's stack pointer, and the function."""

    def __init__(self, sp: int, pc: int) -> None:
        self.sp = gdb.Value(sp)
        self.pc = gdb.Value(pc)


class KernelUnwinder(gdb.unwinder.Unwinder):
    """Unwinds frames of a kernel whose return address is signed."""

    def __init__(self) -> None:
        super().__init__("periscope-pauth")

    def __call__(self, frame: gdb.PendingFrame) -> gdb.UnwindInfo | None:
        if not frame.architecture().name().startswith("aarch64"):
            return None
        try:
            mask = _number(frame, "pauth_cmask_high")
            pc = _number(frame, "pc")
            if not pc & _KERNEL_HALF:
                return None
            start = _start_of_function(pc)
            caller = _caller(frame, pc, start)
        except (ValueError, gdb.error):
            # No such register, or memory that is not there: GDB's own unwinders say what they can.
            return None
        plain = caller.return_address | mask
        is_signed = plain != caller.return_address
        if not (is_signed or caller.signs) or not caller.return_address & _KERNEL_HALF:
            return None
        info = frame.create_unwind_info(FrameId(caller.stack, pc if start is None else start))
        registers = {"pc": plain, "sp": caller.stack, "x30": plain, **caller.registers}
        for name, value in registers.items():
            kind = frame.read_register(name).type
            info.add_saved_register(name, gdb.Value(value).cast(kind))
        untouched = {f"x{number}" for number in _CALLEE_SAVED} if caller.keeps_others else set()
        for name in (untouched - registers.keys()).union(_COMMON):
            value = frame.read_register(name)
            if not value.is_optimized_out:
                info.add_saved_register(name, value)
        return info


def _caller(frame: gdb.PendingFrame, pc: int, start: int | None) -> Caller:
    sp, x29, x30 = (_number(frame, name) for name in ("sp", "x29", "x30"))
    is_newest = frame.level() == 0
    if is_newest and _instructions(pc, 1)[0] in (_AUTIASP, _RET, _RETAA):
        # Everything is restored but the return address.
        return Caller(x30, sp, {"x29": x29}, signs=False)
    if start is None:
        prologue = Prologue(is_certain=False)
    else:
        count = min((pc - start) // 4, _PROLOGUE)
        prologue = Prologue.of(_instructions(start, count))
    if is_newest and prologue.record is None and prologue.is_certain:
        return Caller(x30, sp + prologue.taken, {"x29": x29}, signs=prologue.signs)
    if prologue.record is None:
        # The frame record (AAPCS64 6.4.6) is all that is known; of the stack, that the caller's is above it.
        return Caller(_word(x29 + 8), x29 + 16, {"x29": _word(x29)}, signs=prologue.signs, keeps_others=False)
    # Later the function may have taken more stack, but x29 stays.
    bottom = x29 - prologue.record if prologue.is_linked else sp
    registers = {"x29": _word(bottom + prologue.record)}
    for register, offset in prologue.saved.items():
        registers[f"x{register}"] = _word(bottom + offset)
    return_address = _word(bottom + prologue.record + 8)
    return Caller(return_address, bottom + prologue.taken, registers, signs=prologue.signs)


def _number(frame: gdb.PendingFrame, register: str) -> int:
    return int(frame.read_register(register)) & 0xFFFF_FFFF_FFFF_FFFF


def _start_of_function(pc: int) -> int | None:
    """By GDB's symbols, with or without debugging information."""
    # <vfs_read+12> or <vfs_read>; without a symbol only the address.
    text = gdb.format_address(pc)
    _, symbol, name = text.partition(" <")
    if not symbol:
        return None
    _, plus, offset = name.rstrip(">").rpartition("+")
    return pc - int(offset) if plus and offset.isdigit() else pc


def _instructions(address: int, count: int) -> list[int]:
    memory = gdb.selected_inferior().read_memory(address, 4 * count) if count else b""
    data = bytes(memory)
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]


def _word(address: int) -> int:
    return int.from_bytes(bytes(gdb.selected_inferior().read_memory(address, 8)), "little")


def register() -> None:
    """Adds it to a GDB that needs it."""
    major = int(gdb.VERSION.split(".", maxsplit=1)[0])
    if major < _FIRST_WITH_MASKS:
        gdb.unwinder.register_unwinder(None, KernelUnwinder(), replace=True)
