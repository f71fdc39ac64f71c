"""GDB's connection to the debug server."""

from __future__ import annotations

from pathlib import Path

import gdb
from periscope_client import Problem
from periscope_client.session import Session


class GdbSession(Session):
    """That of the current inferior."""

    def is_connected(self) -> bool:
        """Whether there is a remote target to ask."""
        return isinstance(gdb.selected_inferior().connection, gdb.RemoteTargetConnection)

    def monitor(self, line: str) -> str:
        return self._execute(f"monitor {line}")

    def thread_name(self) -> str | None:
        self._check()
        thread = gdb.selected_thread()
        return None if thread is None else thread.name

    def put(self, file: Path, name: str) -> None:
        self._execute(f"remote put {_quoted(str(file))} {_quoted(name)}")

    def get_kernel_types(self, file: Path) -> None:
        self._execute(f"remote get btf {_quoted(str(file))}")

    def tell(self, text: str) -> None:
        gdb.write(text)
        gdb.flush()

    def complete(self, words: list[str], partial: str) -> list[str]:
        try:
            return super().complete(words, partial)
        except Problem:
            # Not connected, or the target runs: there is nobody to ask.
            return []

    def _execute(self, command: str) -> str:
        self._check()
        try:
            return gdb.execute(command, to_string=True)
        except gdb.error as error:
            raise Problem(str(error)) from error

    def _check(self) -> None:
        if not self.is_connected():
            raise Problem(
                "not connected to a Periscope debug server: `target remote localhost:1234` connects to vm1, "
                "`target extended-remote localhost:1229` to the whole machine."
            )


def _quoted(name: str) -> str:
    """As GDB's commands with several file names split their arguments (libiberty's buildargv)."""
    return "'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'"
