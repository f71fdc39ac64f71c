"""The commands `kprobe`, `hprobe`, `trace`, `map`, `vm` and `ksym`, and the setting `periscope-tool`."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace

import gdb
from periscope_client import Problem, language
from periscope_client.programs import ProgramFile, files

from .session import GdbSession

_CONDITION = re.compile(r"(?:^|\s)if\b\s*")
# A field of a record of MI.
_FIELD = re.compile(r'(?P<name>[\w-]+)=(?P<value>"(?:[^"\\]|\\.)*")')


class Tool(gdb.Parameter):
    """The host's `periscope` tool, which links eBPF programs.

    Empty: the newest that was built in this project, else that of the PATH, else `cargo run`."""

    set_doc = "Set the `periscope` tool that links eBPF programs."
    show_doc = "Show the `periscope` tool that links eBPF programs."

    def __init__(self) -> None:
        super().__init__("periscope-tool", gdb.COMMAND_FILES, gdb.PARAM_OPTIONAL_FILENAME)
        self.value = None

    def get_set_string(self) -> str:
        return ""

    def get_show_string(self, value: str) -> str:
        return f"The `periscope` tool is {value or 'found by itself'}."


class Command(gdb.Command):
    """A command of the server's language."""

    def __init__(self, word: language.Word, session: GdbSession, tool: Tool) -> None:
        self.__doc__ = f"{word.summary}\n\n{word.details}"
        self._word = word
        self._session = session
        self._tool = tool
        super().__init__(word.name, gdb.COMMAND_RUNNING)

    def invoke(self, argument: str, from_tty: bool) -> None:
        self.dont_repeat()
        try:
            gdb.write(self.run(argument))
        except Problem as problem:
            raise gdb.GdbError(str(problem)) from None

    def run(self, argument: str) -> str:
        """What it prints."""
        words = argument.split()
        if not words and self._word.alone is not None:
            line = list(self._word.alone)
        else:
            line = [*self._word.path, *words]
        return self._session.run(line, self._tool.value)

    def complete(self, text: str, word: str | None) -> list[str]:
        words = text.split()
        partial = words.pop() if words and not text[-1:].isspace() else ""
        found = self._session.complete([*self._word.path, *words], partial)
        # GDB completes from the last of its separators on, of which `vm1:vfs_read` and `--mode` have some.
        kept = len(partial) - len(word or "")
        return [candidate[kept:] for candidate in found]


# What `trace` does besides, in GDB.
_TRACEPOINTS = """
trace LOCATION [if CONDITION]: sets a GDB tracepoint, as without this extension. A function that is called
as one of the words above needs `trace -function NAME`."""


class Trace(Command):
    """The same for `trace`, which is GDB's command too."""

    def __init__(self, word: language.Word, session: GdbSession, tool: Tool) -> None:
        super().__init__(replace(word, details=word.details + _TRACEPOINTS), session, tool)

    def run(self, argument: str) -> str:
        first = argument.split(maxsplit=1)[:1]
        is_ours = first and (first[0] in language.TRACE_WORDS or ProgramFile.of_word(first[0]) is not None)
        return super().run(argument) if is_ours else _gdb_tracepoint(argument)

    def complete(self, text: str, word: str | None) -> list[str]:
        before = text.split()
        is_first = not before or (len(before) == 1 and not text[-1:].isspace())
        if not is_first:
            return super().complete(text, word)
        partial = before[0] if before else ""
        kept = len(partial) - len(word or "")
        found = [name for name in language.TRACE_WORDS if name.startswith(partial)]
        found += files(partial)
        if partial:
            # Places of GDB tracepoints are those of its breakpoints.
            said = gdb.execute(f"complete break {partial}", to_string=True)
            found += [line[len("break ") :] for line in said.splitlines()]
        return [candidate[kept:] for candidate in found if candidate.startswith(partial)]


def _gdb_tracepoint(argument: str) -> str:
    """Sets one, as GDB's own `trace` does, whose name this extension has taken (GDB manual, "GDB/MI Breakpoint
    Commands", `-break-insert -a`)."""
    place, *condition = _CONDITION.split(argument.strip(), maxsplit=1)
    words = ["-break-insert", "-a"]
    if condition:
        words += ["-c", json.dumps(condition[0])]
    if place.startswith("-"):
        # An explicit location (`-function f`) is MI's own language.
        words.append(place)
    else:
        # Without a place, where the user is.
        words.append(json.dumps(place.strip() or "*$pc"))
    result = gdb.execute(f"interpreter-exec mi {json.dumps(' '.join(words))}", to_string=True)
    fields = {match["name"]: ast.literal_eval(match["value"]) for match in _FIELD.finditer(result)}
    if "number" not in fields:
        raise Problem(fields.get("msg", f"GDB sets no tracepoint: {result}"))
    where = f" in {fields['func']}" if "func" in fields else ""
    return f"Tracepoint {fields['number']} at {fields['addr']}{where}\n"


def register() -> None:
    """Adds the commands to this GDB."""
    tool, session = Tool(), GdbSession()
    for word in language.WORDS:
        kind = Trace if word.name == "trace" else Command
        kind(word, session, tool)
