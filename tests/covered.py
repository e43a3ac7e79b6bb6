"""Prints the branch coverage of each folder, from what ``make coverage`` has measured, and holds the floor.

    python tests/covered.py

The floor is ``fail_under`` of ``[tool.coverage.report]`` in pyproject.toml; it only rises.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from coverage import Coverage

HEADS = ("folder", "files", "statements", "branches", "covered")


def summaries() -> dict[str, Mapping[str, Any]]:
    """Return coverage.py's counts by file."""
    measured = Coverage()
    measured.load()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "coverage.json"
        measured.json_report(outfile=str(file))
        return {name: one["summary"] for name, one in json.loads(file.read_text())["files"].items()}


def share(counts: Mapping[str, int]) -> float:
    """Return the statements and branches that ran, in percent of all."""
    there = counts["num_statements"] + counts["num_branches"]
    return 100 * (counts["covered_lines"] + counts["covered_branches"]) / max(1, there)


def total(summaries: Iterable[Mapping[str, Any]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for one in summaries:
        counts.update({name: value for name, value in one.items() if isinstance(value, int)}, files=1)
    return counts


def row(name: str, counts: Mapping[str, int]) -> str:
    parts = [name, counts["files"], counts["num_statements"], counts["num_branches"], f"{share(counts):.1f} %"]
    return f"| {' | '.join(map(str, parts))} |"


def main() -> None:
    found = summaries()
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
    for folder in sorted({str(Path(name).parent) for name in found}):
        print(row(folder, total(one for name, one in found.items() if str(Path(name).parent) == folder)))
    whole = total(found.values())
    print(row("all", whole))
    floor = float(str(Coverage().get_option("report:fail_under")))
    may = f"; it may rise to {int(share(whole))}" if share(whole) >= floor else ", and this is below it"
    print(f"the floor is {floor:g} %, fail_under in pyproject.toml{may}")
    sys.exit(share(whole) < floor)


if __name__ == "__main__":
    main()
