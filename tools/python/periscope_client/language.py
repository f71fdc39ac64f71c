"""The debugger's commands, and the `monitor` commands behind them.

The server parses, completes and explains its language (`monitor help`, `monitor complete`); here is only what
has to be known without one.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import fill

# The words that can follow `trace`. GDB has a `trace` of its own, so they must be known here: anything else is a
# place for a GDB tracepoint.
TRACE_WORDS = (
    "attach",
    "detach",
    "disable",
    "dump",
    "enable",
    "hprobe",
    "hretprobe",
    "kprobe",
    "list",
    "load",
    "loadsyms",
    "progs",
    "reset",
    "stat",
    "stream",
    "tracepoints",
    "unhprobe",
    "unkprobe",
    "unload",
    "verbose",
)

# Commands that print what is no table: the server lays it out.
_PLAIN = {("ebpf", "dump"), ("help",), ("log",), ("phys",)}


@dataclass(frozen=True)
class Word:
    """A command of the debugger."""

    name: str
    # The words of the server's language that it stands for.
    path: tuple[str, ...]
    # What it means without arguments, if it means something.
    alone: tuple[str, ...] | None
    summary: str
    details: str


WORDS = (
    Word(
        "kprobe",
        ("trace", "kprobe"),
        ("trace", "list"),
        "Count hits of a guest kernel's function, or run an eBPF program there.",
        "kprobe [VM:]PLACE [PROGRAM] [--ret] [--mode hvc|xn|hw] [--vcpu N] [--stop] [--once|--count N]\n"
        "PLACE is a symbol or an address. PROGRAM is the name of a loaded one, or a file: FILE.bpf.c is compiled,\n"
        "FILE.bpf.o is linked for the kernel that runs, FILE.lp is loaded; FILE:NAME takes one program of several.\n"
        "--ret: at the function's return. --stop: the guest stops there. `trace unkprobe` detaches.\n"
        "Without arguments: the probes that there are.",
    ),
    Word(
        "hprobe",
        ("trace", "hprobe"),
        ("trace", "list"),
        "Count hits of a function of the hypervisor, or run an eBPF program there.",
        "hprobe [hyp:]PLACE [PROGRAM] [--vcpu CPU] [--stop] [--once|--count N]\n"
        "PROGRAM is the name of a loaded one or a file, as for `kprobe`. `trace hretprobe` is for returns,\n"
        "`trace unhprobe` detaches. Without arguments: the probes that there are.",
    ),
    Word(
        "trace",
        ("trace",),
        None,
        "Attach, switch and list probes; load programs; show events.",
        f"trace WORD ..., where WORD is one of\n{fill(', '.join(TRACE_WORDS), 100)}.\n"
        "`monitor help trace WORD` explains each; FILE.bpf.c, FILE.bpf.o or FILE.lp can stand for a program.\n"
        "trace FILE.bpf.o [VM]: loads the file and attaches its programs where their sections say.",
    ),
    Word(
        "map",
        ("map",),
        ("map", "list"),
        "Show and change the maps of eBPF programs.",
        "map list [PROGRAM]\n"
        "map dump PROGRAM MAP [--hist]\n"
        "map lookup|delete PROGRAM MAP [KEY]\n"
        "map update PROGRAM MAP [KEY] VALUE [--cpu N] [--flag any|noexist|exist]\n"
        "Keys and values are shown by their types. Without arguments: all maps.",
    ),
    Word(
        "vm",
        ("vm",),
        ("vm", "list"),
        "Show the VMs, and start, stop or reset one.",
        "vm list\nvm info|memory [VM]\nvm start|stop|reset VM\nWithout arguments: all VMs.",
    ),
    Word(
        "ksym",
        ("ksym",),
        ("ksym", "info"),
        "Look up functions of the hypervisor.",
        "ksym lookup FUNCTION|ADDRESS\nksym search TEXT\nksym info\n"
        "`monitor gsym` does the same for a guest's kernel.",
    ),
)


def is_laid_out(words: list[str]) -> bool:
    """Whether the server's own layout of a command's output is the best: listings of instructions and the like."""
    return any(tuple(words[: len(path)]) == path for path in _PLAIN) or "--hist" in words


def takes_programs(words: list[str]) -> bool:
    """Whether files can stand for programs in a line of the server's language."""
    loading = {"attach", "hprobe", "hretprobe", "kprobe", "load"}
    tracing = words[0] == "trace" and len(words) > 1
    return tracing and words[1] in loading
