"""Types of guests' kernels (BTF), kept on the host."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Callable

from .cache import Cache

# A file has some 5 MB.
_CACHE = Cache("kernel-types", ".btf", 8)


def of_boot(identity: str, fetch: Callable[[Path], None]) -> Path:
    """The file with the types of the kernel that `identity` is about: all that tells this boot of it from others.
    `fetch` reads them into a file when they are not here yet."""
    digest = hashlib.sha256(identity.encode()).hexdigest()[:32]
    return _CACHE.find(digest) or _CACHE.keep(digest, fetch)
