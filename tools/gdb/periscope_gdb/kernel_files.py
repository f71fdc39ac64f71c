"""Symbols of the kernel that runs, from files that are kept on the host.

GDB asks a target for its executable file as soon as it is connected, and reads it from there each time. This does it in
GDB's place. What is not Periscope's target is served as GDB would have done it.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import gdb
from periscope_client import Problem, kernel_files
from periscope_client.kernel_files import Identity

# "[remote]" is GDB's own name of a process that has none (`magic_null_ptid`).
_NO_PID = 42000
_PACKET = "remote pid-to-exec-file-packet"
# How long the server may take for an answer while a file is fetched, in seconds.
_PATIENCE = 60


class KernelFiles:
    """What has been loaded, for each inferior."""

    def __init__(self) -> None:
        # The connections that were looked at, by the numbers of their inferiors.
        self._seen: dict[int, tuple[object, int]] = {}
        # The files that were loaded, likewise: to be replaced by others.
        self._loaded: dict[int, str] = {}

    def look(self, _event: object) -> None:
        """Loads symbols where an inferior is new, and its user has named no file."""
        inferior = gdb.selected_inferior()
        connection = inferior.connection
        if not isinstance(connection, gdb.RemoteTargetConnection):
            return
        if self._seen.get(inferior.num) == (connection, inferior.pid):
            return
        self._seen[inferior.num] = (connection, inferior.pid)
        names = [objfile.filename for objfile in gdb.objfiles()[:1]] + [inferior.progspace.filename]
        if not {None, self._loaded.get(inferior.num)}.issuperset(names):
            return
        try:
            name = _executable(connection, inferior.pid)
            if name is None:
                return
            identity = _identity(name)
            if identity is None:
                gdb.execute(f"file {gdb.parameter('sysroot')}{name}")
            else:
                self._loaded[inferior.num] = _load(name, identity)
        except (OSError, Problem, gdb.error) as error:
            gdb.write(f"No symbols from the target: {error}\n", gdb.STDERR)


def _executable(connection: gdb.RemoteTargetConnection, pid: int) -> str | None:
    """The name of the file that runs (GDB manual, E.4 "qXfer executable filename read")."""
    annex = "" if pid == _NO_PID else f"{pid:x}"
    reply = connection.send_packet(f"qXfer:exec-file:read:{annex}:0,fff")
    return reply[1:].decode() if reply[:1] == b"l" and reply[1:] else None


def _identity(name: str) -> Identity | None:
    """What tells the file from others; `None` where the target is not Periscope's."""
    with TemporaryDirectory(prefix="periscope-") as directory:
        file = Path(directory) / "id"
        try:
            gdb.execute(f"remote get {name}.id {file}", to_string=True)
            return Identity.of_text(file.read_text())
        except (gdb.error, ValueError):
            return None


def _load(name: str, identity: Identity) -> str:
    """Loads the symbols of the kernel that `name` is the target's file of. Returns the file on this host."""

    def fetch(file: Path) -> None:
        gdb.write(f"Reading {name} from the target (once for each kernel)...\n")
        gdb.flush()
        # The server makes the file when it is opened, in seconds, for which GDB would not wait.
        timeout = gdb.parameter("remotetimeout")
        gdb.execute(f"set remotetimeout {max(timeout, _PATIENCE)}")
        try:
            gdb.execute(f"remote get {name} {file}", to_string=True)
        finally:
            gdb.execute(f"set remotetimeout {timeout}")

    kept = kernel_files.of_kernel(identity, fetch)
    gdb.write(f"Symbols of the kernel: {kept.path}, moved by {kept.distance:#x}\n")
    gdb.execute(f"symbol-file {kept.path} -o {kept.distance}", to_string=True)
    gdb.execute("frame")
    return str(kept.path)


def register() -> None:
    """Takes over from GDB, unless its user has it ask for no file."""
    if "auto" not in gdb.execute(f"show {_PACKET}", to_string=True):
        return
    gdb.execute(f"set {_PACKET} off")
    gdb.events.stop.connect(KernelFiles().look)
