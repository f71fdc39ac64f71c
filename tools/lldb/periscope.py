"""Periscope's commands in LLDB (22 and newer). `command script import tools/lldb/periscope.py`, or a line with that in
~/.lldbinit.

The commands are `periscope kprobe`, `hprobe`, `trace`, `map`, `vm` and `ksym`. All but `trace`, which LLDB has itself,
are there without `periscope` too. docs/lldb-extension.md describes them.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import lldb
from lldb.plugins.parsed_cmd import ParsedCommand

_TOOLS = Path(__file__).resolve().parents[1]
if str(_TOOLS / "python") not in sys.path:
    sys.path.insert(0, str(_TOOLS / "python"))

from periscope_client import Problem, language  # noqa: E402  (it is where the path above leads)
from periscope_client.session import Session  # noqa: E402

# What LLDB writes behind the output of a packet.
_PACKET = re.compile(r"^ *packet: .*?\nresponse: (?P<response>.*)\n\Z", re.DOTALL | re.MULTILINE)
# Bytes of a file in a packet.
_PART = 512
# Bytes that would end a word or a line of LLDB's, besides those that the protocol escapes (GDB manual, "Overview" of
# the remote protocol): `}` and the byte with bit 5 the other way stand for any byte.
_ESCAPED = b"\0\n\r\"\\`#$}"
# Commands that LLDB has too.
_TAKEN = {"trace"}


class LldbSession(Session):
    """LLDB's connection to the debug server."""

    def __init__(self, debugger: lldb.SBDebugger, result: lldb.SBCommandReturnObject) -> None:
        self._debugger = debugger
        self._result = result

    def monitor(self, line: str) -> str:
        return _PACKET.sub("", self._packet(f"monitor {line}"))

    def thread_name(self) -> str | None:
        return self._process().GetSelectedThread().GetName()

    def put(self, file: Path, name: str) -> None:
        # GDB's flags for a file that is created and written: O_WRONLY, O_CREAT, O_TRUNC.
        descriptor = self._file(f"vFile:open:{name.encode().hex()},601,1b6")
        data = file.read_bytes()
        parts = range(0, len(data), _PART)
        packets = [f"vFile:pwrite:{descriptor:x},{at:x},".encode() + _escape(data[at : at + _PART]) for at in parts]
        self._send_bytes(packets)
        self._file(f"vFile:close:{descriptor:x}")

    def get_kernel_types(self, file: Path) -> None:
        # LLDB shows answers as text, in which bytes get lost; the types are where these symbols are (Linux
        # include/asm-generic/vmlinux.lds.h, "BTF").
        start, stop = (self._symbol(name) for name in ("__start_BTF", "__stop_BTF"))
        error = lldb.SBError()
        data = self._process().ReadMemory(start, stop - start, error)
        if error.Fail():
            raise Problem(f"cannot read the kernel's types: {error.GetCString()}.")
        file.write_bytes(data)

    def tell(self, text: str) -> None:
        self._result.AppendMessage(text.rstrip("\n"))

    def _process(self) -> lldb.SBProcess:
        process = self._debugger.GetSelectedTarget().GetProcess()
        if not process.IsValid() or process.GetPluginName() != "gdb-remote":
            raise Problem("not connected to a Periscope debug server: `gdb-remote localhost:1234` connects to vm1.")
        if process.GetState() == lldb.eStateRunning:
            raise Problem("the VM runs: `process interrupt` stops it.")
        return process

    def _symbol(self, name: str) -> int:
        """Where a symbol of the guest's kernel is."""
        answer = self.ask(["gsym", f"{self.space()}:{name}"])
        return int(answer.notes[0].split()[0], 16)

    def _packet(self, command: str) -> str:
        self._process()
        result = lldb.SBCommandReturnObject()
        line = f"process plugin packet {command}"
        self._debugger.GetCommandInterpreter().HandleCommand(line, result)
        if not result.Succeeded():
            raise Problem(result.GetError().strip().removeprefix("error: "))
        return result.GetOutput() or ""

    def _file(self, packet: str) -> int:
        """The number that a `vFile` packet is answered with (GDB manual, "Host I/O Packets")."""
        match = _PACKET.search(self._packet(f"send {packet}"))
        answer = match["response"] if match else ""
        number = re.match(r"F([0-9a-f]+)", answer)
        if number is None:
            raise Problem(f"the file cannot be uploaded: the server answers {answer or 'nothing'}.")
        return int(number[1], 16)

    def _send_bytes(self, packets: list[bytes]) -> None:
        """Sends packets that are no text, which only a file of commands can hold."""
        lines = b"".join(b'process plugin packet send "' + packet + b'"\n' for packet in packets)
        handle, name = tempfile.mkstemp(prefix="periscope-", suffix=".lldb")
        try:
            with os.fdopen(handle, "wb") as script:
                script.write(lines)
            result = lldb.SBCommandReturnObject()
            command = f"command source --silent-run true --stop-on-error true {name}"
            self._debugger.GetCommandInterpreter().HandleCommand(command, result)
        finally:
            os.unlink(name)
        if not result.Succeeded():
            raise Problem(f"the file cannot be uploaded: {result.GetError().strip()}")


def _escape(data: bytes) -> bytes:
    return b"".join(b"}" + bytes([byte ^ 0x20]) if byte in _ESCAPED else bytes([byte]) for byte in data)


def _command(word: language.Word) -> type:
    """The class that LLDB makes a command of (LLDB's documentation, "Adding a new command")."""

    class Command(ParsedCommand):
        def setup_command_definition(self) -> None:
            # Options are the server's: LLDB hands all words over where a command has none.
            parser = self.get_parser()
            parser.add_argument_set([parser.make_argument_element(lldb.eArgTypeNone, "star")])

        def __call__(
            self,
            debugger: lldb.SBDebugger,
            data: lldb.SBStructuredData,
            _: lldb.SBExecutionContext,
            result: lldb.SBCommandReturnObject,
        ) -> None:
            words = [str(word) for word in data]
            full = [*word.path, *words] if words or word.alone is None else list(word.alone)
            session = LldbSession(debugger, result)
            try:
                text = session.run(full, os.environ.get("PERISCOPE_TOOL"))
            except Problem as problem:
                result.SetError(str(problem))
                return
            result.AppendMessage(text.rstrip("\n"))

        def handle_argument_completion(self, words: list[str], index: int, cursor: int) -> bool | dict:
            session = LldbSession(self.debugger, lldb.SBCommandReturnObject())
            partial = words[index][:cursor] if index < len(words) else ""
            try:
                found = session.complete([*word.path, *words[:index]], partial)
            except Problem:
                # Nobody is there to ask.
                return True
            return {"values": found} if found else True

        def get_short_help(self) -> str:
            return word.summary

        def get_long_help(self) -> str:
            return word.details

    return Command


# LLDB finds the classes of commands by name, in this module.
for _word in language.WORDS:
    globals()[_word.name.capitalize()] = _command(_word)


def __lldb_init_module(debugger: lldb.SBDebugger, _: dict) -> None:
    def run(line: str) -> None:
        debugger.HandleCommand(line)

    run('command container add --overwrite --help "Periscope\'s debug server." periscope')
    for word in language.WORDS:
        names = [f"periscope {word.name}"]
        if word.name not in _TAKEN:
            names.append(word.name)
        for name in names:
            run(f"command script add --overwrite --parsed --class {__name__}.{word.name.capitalize()} {name}")
