"""Rows of a table that are there as soon as they are measured: printed, and kept in a file, one JSON object a line."""

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
    """The device, what drives it, and when: what one has to know to compare these numbers with others."""
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
    """``columns`` are keys of the rows and what stands above them: ``{value:…}`` formats of the cells come with those.

    ``facts`` go above the table; ``file`` grows by each row, with the ``benchmark``'s name and the facts in it.
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
        """Keep the table in RESULTS.md, if it was measured on a GPU: with ``group``, a column, all that is there of
        groups that were not measured this time stays as it is."""
        if not torch.cuda.is_available():
            return
        blocks = self._kept(name, group) if group else []
        write_section(RESULTS, "\n\n".join([*blocks, self.block(self._rows)]), name, title)

    def block(self, rows: Iterable[dict[str, Value]]) -> str:
        return "\n".join([self._facts, "", self._head(), *map(self._line, rows)])

    def _kept(self, name: str, group: str) -> list[str]:
        """Tables of the results, each with its facts, without the rows of groups that were measured anew."""
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
    """Blocks of facts and a table, without the rows whose cell ``at`` is among ``new``; what has none left goes."""
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
