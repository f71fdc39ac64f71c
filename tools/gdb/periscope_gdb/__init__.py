"""Periscope's extension of GDB (13.1 and newer): commands, convenience functions, and an unwinder for kernels with
pointer authentication."""

from . import commands, functions, unwinder


def register() -> None:
    """Adds everything to this GDB. Doing so again replaces it."""
    commands.register()
    functions.register()
    unwinder.register()
