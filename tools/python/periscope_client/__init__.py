"""What the extensions of GDB and of LLDB share: the `monitor` language, its answers as tables, and how a
program gets from source or object to what the debug server takes.

Nothing here knows a debugger; nothing is needed but Python's standard library (3.9 or newer).
"""


class Problem(Exception):
    """What is wrong, and what to do. Debuggers show it as an error of the command."""
