"""Types of guests' kernels (BTF), kept on the host: to read them takes seconds."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Callable

# How many kernels' types are kept; a file has some 5 MB.
_KEPT = 8


def of_boot(identity: str, fetch: Callable[[Path], None]) -> Path:
    """The file with the types of the kernel that `identity` is about: all that tells this boot of it from others.
    `fetch` reads them into a file when they are not here yet."""
    directory = _directory()
    directory.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:32]
    kept = directory / f"{digest}.btf"
    if kept.is_file():
        kept.touch()
        return kept
    # Somebody else may do the same, or this may be interrupted: the name is there when the types are.
    partial = directory / f"{digest}.{os.getpid()}.partial"
    try:
        fetch(partial)
        partial.replace(kept)
    finally:
        partial.unlink(missing_ok=True)
    by_age = sorted(directory.glob("*.btf"), key=lambda file: file.stat().st_mtime, reverse=True)
    for old in by_age[_KEPT:]:
        old.unlink(missing_ok=True)
    return kept


def _directory() -> Path:
    # XDG Base Directory Specification.
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "periscope" / "kernel-types"
