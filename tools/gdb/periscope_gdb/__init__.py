"""Periscope's extension of GDB (13.1 and newer): commands, convenience functions, symbols that are kept on the host, and
an unwinder for kernels with pointer authentication."""

from . import commands, functions, kernel_files, unwinder


def register() -> None:
    """Adds everything to this GDB. Doing so again replaces it."""
    commands.register()
    functions.register()
    kernel_files.register()
    unwinder.register()
