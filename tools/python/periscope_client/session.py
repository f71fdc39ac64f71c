"""What a user's command does, over whatever connection the debugger has."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from pathlib import Path
from tempfile import TemporaryDirectory

from . import Problem, answers, kernel_types, language
from .programs import ProgramFile, files

# The server's names of threads: `vm1/vcpu0`, `hyp/cpu2`.
_THREAD = re.compile(r"(?P<space>vm\d+|hyp)/v?cpu\d+")
_HYPERVISOR = "hyp"


class Session(ABC):
    """A debugger's connection to a debug server."""

    @abstractmethod
    def monitor(self, line: str) -> str:
        """What a `monitor` command prints. A Problem where there is no server to ask."""

    @abstractmethod
    def thread_name(self) -> str | None:
        """What the server calls the current thread."""

    @abstractmethod
    def put(self, file: Path, name: str) -> None:
        """Uploads a file. A Problem where that fails."""

    @abstractmethod
    def get_kernel_types(self, file: Path) -> None:
        """Writes the BTF of the current VM's kernel to a file."""

    @abstractmethod
    def tell(self, text: str) -> None:
        """Shows the user a line at once."""

    def space(self) -> str:
        """`vm1`, `vm2`... of the current thread, or `hyp`."""
        match = _THREAD.fullmatch(self.thread_name() or "")
        if match is None:
            raise Problem("the current thread is no vCPU of Periscope's: choose one of those first.")
        return match["space"]

    def ask(self, words: list[str]) -> answers.Answer:
        """A `monitor` command's answer. Refusals are Problems."""
        return answers.parse(self.monitor(" ".join([*words, "--json"])))

    def complete(self, words: list[str], partial: str) -> list[str]:
        """What `partial` can become behind `words`."""
        # `?` stands for an empty word.
        found = self.monitor(" ".join(["complete", *words, partial or "?"])).splitlines()
        if language.takes_programs(words):
            found += files(partial)
        return sorted(candidate for candidate in found if candidate.startswith(partial))

    def run(self, words: list[str], tool: str | None) -> str:
        """Runs a line of the server's language, files in it uploaded before, and returns what people read. `tool` is
        the `periscope` tool, if the user has chosen one."""
        if words[0] == "trace" and len(words) > 1 and ProgramFile.of_word(words[1]) is not None:
            words.insert(1, "attach")
        if language.takes_programs(words):
            words = [*words[:2], *(self._with_name(word, tool) for word in words[2:])]
            if words[1] == "attach" and len(words) == 3:
                # Where its sections say, in the VM that the user looks at.
                words.append(self.space())
        if language.is_laid_out(words):
            return self.monitor(" ".join(words))
        return str(self.ask(words))

    def _with_name(self, word: str, tool: str | None) -> str:
        file = ProgramFile.of_word(word)
        return word if file is None else self._load(file, tool)

    def _load(self, file: ProgramFile, tool: str | None) -> str:
        file.check()
        # Before anything is compiled for nobody.
        space = self.space()
        with TemporaryDirectory(prefix="periscope-") as directory:
            types = None if file.is_linked else self._kernel_types(space)
            linked = file.link(types, Path(directory), tool)
            name = file.object_name
            try:
                self.put(linked, f"{name}.lp")
            except Problem:
                # Debuggers see but a number; the server knows why.
                self.ask(["trace", "load", name])
                raise
        return file.name

    def _kernel_types(self, space: str) -> Path | None:
        """The types of a VM's kernel. The hypervisor's own functions have none."""
        if space == _HYPERVISOR:
            return None
        # Version, address of the text and number of symbols: this boot of this kernel.
        identity = "\n".join(self.ask(["vm", "info", space]).notes)
        if ": no symbols" in identity:
            # Programs that are about no types of a kernel link all the same.
            return None

        def fetch(file: Path) -> None:
            self.tell(f"Reading the types of {space}'s kernel from its memory (once in each boot)...\n")
            self.get_kernel_types(file)

        try:
            return kernel_types.of_boot(identity, fetch)
        except OSError as error:
            raise Problem(f"cannot keep the kernel's types in {error.filename}: {error.strerror}.") from error
