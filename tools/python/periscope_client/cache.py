"""Files that were read from a target, kept on the host: to read them takes seconds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable


class Cache:
    """A directory of them, below XDG_CACHE_HOME or ~/.cache (XDG Base Directory Specification)."""

    def __init__(self, directory: str, suffix: str, most: int) -> None:
        """`most` files are kept, the ones that were used last."""
        self._directory = directory
        self._suffix = suffix
        self._most = most

    @property
    def path(self) -> Path:
        """Where they are."""
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(base) / "periscope" / self._directory

    def find(self, prefix: str) -> Path | None:
        """The file that was used last among those whose names begin like this."""
        found = self._by_age(prefix)
        if not found:
            return None
        found[0].touch()
        return found[0]

    def keep(self, name: str, fetch: Callable[[Path], None]) -> Path:
        """Has `fetch` write a file, and keeps it under `name`."""
        self.path.mkdir(parents=True, exist_ok=True)
        kept = self.path / f"{name}{self._suffix}"
        # Somebody else may do the same, or this may be interrupted: the name is there when the file is whole.
        partial = self.path / f"{name}.{os.getpid()}.partial"
        try:
            fetch(partial)
            partial.replace(kept)
        finally:
            partial.unlink(missing_ok=True)
        for old in self._by_age("")[self._most :]:
            old.unlink(missing_ok=True)
        return kept

    def _by_age(self, prefix: str) -> list[Path]:
        found = self.path.glob(f"{prefix}*{self._suffix}")
        return sorted(found, key=lambda file: file.stat().st_mtime, reverse=True)
