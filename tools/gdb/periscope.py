"""Periscope's commands in GDB. `source tools/gdb/periscope.py`, or a line with that in ~/.gdbinit.

docs/gdb-extension.md describes them; `help kprobe` and its likes do so in GDB.
"""

import sys
from pathlib import Path

_TOOLS = Path(__file__).resolve().parents[1]
for _directory in (_TOOLS / "gdb", _TOOLS / "python"):
    if str(_directory) not in sys.path:
        sys.path.insert(0, str(_directory))

import periscope_gdb  # noqa: E402  (it is where the path above leads)

periscope_gdb.register()
