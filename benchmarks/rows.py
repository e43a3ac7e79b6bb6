"""Rows: a table whose rows are printed and stored as soon as they are measured, one JSON object a line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch
from serve import RESULTS, write_section

Value = str | float | None


def where() -> str:
    """Return the device, its software and the date, which a comparison with other numbers needs."""
    device = f"{torch.cuda.get_device_name(0)}, driver {driver()}" if torch.cuda.is_available() else "CPU"
    return f"{device}; torch {torch.__version__}; {datetime.now(UTC).date().isoformat()}"


def driver() -> str:
    found = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.splitlines()[0].strip()


class Rows:
    """A table. ``columns`` maps the keys of its rows to a title and a format of the cell.

    ``facts`` go above the table; each row is appended to ``file``, with the ``benchmark``'s name and the facts.
    """

    def __init__(self, benchmark: str, facts: str, columns: Mapping[str, tuple[str, str]], file: Path | None) -> None:
        self._benchmark = benchmark
        self._facts = f"{where()}; {facts}"
        self._columns = columns
        self._file = file
        self._rows: list[dict[str, Value]] = []
        print(f"{self._facts}\n\n{self._head()}", flush=True)

    def add(self, **row: Value) -> None:
        self._rows.append(row)
        print(self._line(row), flush=True)
        if self._file is not None:
            with self._file.open("a") as file:
                file.write(json.dumps({"benchmark": self._benchmark, **row, "facts": self._facts}) + "\n")

    def write(self, name: str, title: str, group: str | None = None) -> None:
        """Store the table in RESULTS.md, if it was measured on a GPU.

        With ``group``, a column, earlier rows of groups that were not measured this time stay.
        """
        if not torch.cuda.is_available():
            return
        blocks = self._kept(name, group) if group else []
        write_section(RESULTS, "\n\n".join([*blocks, self.block(self._rows)]), name, title)

    def block(self, rows: Iterable[dict[str, Value]]) -> str:
        return "\n".join([self._facts, "", self._head(), *map(self._line, rows)])

    def _kept(self, name: str, group: str) -> list[str]:
        """Return the stored tables, each with its facts, without the rows of groups that were measured anew."""
        text = RESULTS.read_text() if RESULTS.exists() else ""
        section = text.partition(f"<!-- begin {name} -->")[2].partition(f"<!-- end {name} -->")[0]
        new = {str(row[group]) for row in self._rows}
        at = list(self._columns).index(group) + 1
        return keep(section, new, at)

    def _head(self) -> str:
        titles = [title for title, _ in self._columns.values()]
        sides = ["---:" if ":" in cell else "---" for _, cell in self._columns.values()]
        return f"| {' | '.join(titles)} |\n|{'|'.join(sides)}|"

    def _line(self, row: Mapping[str, Value]) -> str:
        cells = (
            "" if (value := row.get(key)) is None else cell.format(value) for key, (_, cell) in self._columns.items()
        )
        return f"| {' | '.join(cells)} |"


def keep(section: str, new: set[str], at: int) -> list[str]:
    """Return blocks of facts and a table, without rows whose cell ``at`` is among ``new``; empty tables are dropped."""
    found: list[str] = []
    facts, lines = "", []
    for line in [*section.splitlines(), "end"]:
        if line.startswith("|"):
            lines.append(line)
            continue
        rows = [one for one in lines[2:] if one.split("|")[at].strip() not in new]
        if rows:
            found.append("\n".join([facts, "", *lines[:2], *rows]))
        lines = []
        if line and not line.startswith("#"):
            facts = line
    return found
