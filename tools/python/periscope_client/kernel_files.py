"""Files of guests' kernels for debuggers (`vmlinux` of a debug server), kept on the host by build ID.

A kernel is elsewhere in each boot (KASLR). Its file is not fetched again for that: everything in it moves by the same
distance, which debuggers can do. Modules move on their own, so where they are beside the kernel is a part of what a file
is kept by.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from .cache import Cache

# A file has some 15 MB.
_CACHE = Cache("kernels", ".elf", 8)


@dataclass(frozen=True)
class Identity:
    """What `vmlinux.id` says of the file that the server would make."""

    build_id: str
    # A hash of what else is in it.
    contents: str
    # Where the kernel begins.
    start: int

    @classmethod
    def of_text(cls, text: str) -> Identity:
        """A ValueError where this is none."""
        build_id, contents, start = text.split()
        return cls(bytes.fromhex(build_id).hex(), f"{int(contents, 16):016x}", int(start, 16))


@dataclass(frozen=True)
class KernelFile:
    """A kept file, and how far the kernel that runs is from the one in it, in bytes."""

    path: Path
    distance: int


def of_kernel(identity: Identity, fetch: Callable[[Path], None]) -> KernelFile:
    """The file of a kernel. `fetch` reads it when none is here yet."""
    prefix = f"{identity.build_id}-{identity.contents}-"
    path = _CACHE.find(prefix) or _CACHE.keep(f"{prefix}{identity.start:x}", fetch)
    start = int(path.stem.removeprefix(prefix), 16)
    return KernelFile(path, identity.start - start)
