"""Answers of the debug server's `monitor` commands, as `--json` gives them, and how people read them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from . import Problem

# What stands for nothing in a cell.
_NOTHING = "-"
# Numbers from here on are addresses of a kernel, which people read in hexadecimal.
_ADDRESSES = 1 << 63


@dataclass
class Answer:
    """What a command prints: rows of a table, and lines of text around them."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [table(self.rows)] if self.rows else []
        parts.extend(f"{note}\n" for note in self.notes)
        return "".join(parts) or "There is none.\n"


def parse(text: str) -> Answer:
    """Reads the lines that a `monitor` command with `--json` prints. An error of the server is a Problem."""
    answer = Answer()
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            # Output of programs may come between.
            answer.notes.append(line)
            continue
        if not isinstance(row, dict):
            answer.notes.append(line)
        elif row.keys() == {"error"}:
            raise Problem(str(row["error"]))
        elif row.keys() == {"note"}:
            answer.notes.append(str(row["note"]))
        else:
            answer.rows.append(row)
    return answer


def table(rows: list[dict[str, Any]]) -> str:
    """Rows under a heading. Structures have a column for each member; figures are flush right."""
    flat = [_flatten(row) for row in rows]
    # All keys, each where it first comes.
    columns = list(dict.fromkeys(key for row in flat for key in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in flat]
    lines = [[column.replace("_", " ").upper() for column in columns], *cells]
    widths = [max(map(len, column)) for column in zip(*lines)]
    right = [_is_figures([row.get(column) for row in flat]) for column in columns]
    text = []
    for line in lines:
        padded = (
            cell.rjust(width) if flush_right else cell.ljust(width)
            for cell, width, flush_right in zip(line, widths, right)
        )
        text.append("  ".join(padded).rstrip() + "\n")
    return "".join(text)


def _flatten(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict) and value:
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _is_figures(values: list[Any]) -> bool:
    def is_figure(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    given = [value for value in values if value is not None and value != _NOTHING]
    return bool(given) and all(map(is_figure, given))


def _cell(value: Any) -> str:
    if value is None:
        return _NOTHING
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:#x}" if value >= _ADDRESSES else f"{value:,}"
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
