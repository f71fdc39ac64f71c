"""From source or object to a linked program: clang, then the host's `periscope link`."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import Problem

# A file, and perhaps one program of it.
_FILE = re.compile(r"(?P<file>.+\.(?:c|o|lp))(?::(?P<program>\w+))?")
# What is cut off a file's name to make the object's.
_SUFFIXES = re.compile(r"(?:\.bpf)?\.(?:c|o|lp)")
# How long the host's tools may take. Cargo may have to build.
_PATIENCE = 600
# Where clang's output and the tool's are shortened in an error.
_MOST_LINES = 20

_ROOT = Path(__file__).resolve().parents[3]
_HEADERS = _ROOT / "tools" / "periscope" / "examples"


@dataclass(frozen=True)
class ProgramFile:
    """A word of a command that names a file: `tools/opens.bpf.c`, `opens.bpf.o:opens`."""

    path: Path
    program: str | None

    @classmethod
    def of_word(cls, word: str) -> ProgramFile | None:
        """The file that a word names, if it has the suffix of one."""
        match = _FILE.fullmatch(word)
        if match is None:
            return None
        return cls(Path(match["file"]).expanduser(), match["program"])

    @property
    def object_name(self) -> str:
        """What the server calls the object."""
        return _SUFFIXES.sub("", self.path.name)

    @property
    def name(self) -> str:
        """What the server calls the program."""
        return self.object_name if self.program is None else f"{self.object_name}:{self.program}"

    @property
    def is_linked(self) -> bool:
        """Whether it needs no types of a kernel any more."""
        return self.path.suffix == ".lp"

    def check(self) -> None:
        """Fails if there is no such file."""
        if not self.path.is_file():
            raise Problem(f"there is no file {self.path} (in {os.getcwd()}).")
        if not self.object_name:
            raise Problem(f"{self.path.name} has nothing before its suffix: the program would have no name.")

    def link(self, kernel_types: Path | None, directory: Path, tool: str | None) -> Path:
        """Makes a linked program of it in `directory`, for the kernel with these types."""
        if self.is_linked:
            return self.path
        compiled = self.path
        if self.path.suffix == ".c":
            compiled = directory / f"{self.object_name}.bpf.o"
            _compile(self.path, compiled)
        linked = directory / f"{self.object_name}.lp"
        words = [*tool_words(tool), "link", str(compiled), "-o", str(linked)]
        if kernel_types is not None:
            words += ["--btf", str(kernel_types)]
        _run(words)
        return linked


def tool_words(chosen: str | None) -> list[str]:
    """How the host's `periscope` tool is run: the one that the user chose, the newest that was built, that of the
    PATH, or cargo, which builds it."""
    if chosen:
        if shutil.which(chosen) is None:
            raise Problem(f"the tool {chosen} cannot be run: choose another one, or none.")
        return [chosen]
    target = Path(os.environ.get("CARGO_TARGET_DIR", _ROOT / "target"))
    built = [target / profile / "periscope" for profile in ("release", "debug")]
    built = [tool for tool in built if os.access(tool, os.X_OK)]
    if built:
        return [str(max(built, key=lambda tool: tool.stat().st_mtime))]
    installed = shutil.which("periscope")
    if installed is not None:
        return [installed]
    cargo = shutil.which("cargo")
    manifest = _ROOT / "Cargo.toml"
    if cargo is not None and manifest.is_file():
        return [cargo, "run", "--quiet", "--manifest-path", str(manifest), "--package", "periscope", "--"]
    raise Problem(
        f"there is no `periscope` tool to link programs with: `cargo build -p periscope` in {_ROOT} makes it."
    )


def _compile(source: Path, output: Path) -> None:
    if shutil.which("clang") is None:
        raise Problem(f"there is no clang to compile {source} with: install it, or give the compiled object.")
    headers = [f"-I{directory}" for directory in (source.parent, _HEADERS)]
    _run(["clang", "-O2", "-g", "-target", "bpf", *headers, "-c", str(source), "-o", str(output)])


def _run(words: list[str]) -> None:
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PATIENCE,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise Problem(f"cannot run {words[0]}: {error.strerror}.") from error
    except subprocess.TimeoutExpired as error:
        raise Problem(f"{words[0]} has not ended in {_PATIENCE} s.") from error
    if done.returncode < 0:
        raise Problem(f"{Path(words[0]).name} was interrupted.")
    if done.returncode != 0:
        said = done.stdout.strip().splitlines()
        if len(said) > _MOST_LINES:
            said = [*said[:_MOST_LINES], f"({len(said) - _MOST_LINES} more lines)"]
        raise Problem("\n".join(said) or f"{Path(words[0]).name} failed and does not say why.")


def files(partial: str) -> list[str]:
    """Programs on the host's disk that the beginning of a path can become."""
    patterns = (f"{glob.escape(partial)}*{suffix}" for suffix in (".bpf.c", ".bpf.o", ".lp"))
    return [path for pattern in patterns for path in glob.glob(pattern)]
