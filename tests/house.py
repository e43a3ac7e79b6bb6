"""Prints what the source is like at large: its size, its knots, and what is larger than the rest.

    python tests/house.py [folder ...]

Another checkout can be measured with ``--root``, so that two states can be compared.
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

FOLDERS = ("serving", "handlers", "triton_python_backend_utils")
ROOT = Path(__file__).parent.parent


class Source(NamedTuple):
    """One file: ``name`` as it is imported, and what it imports of the same tree."""

    name: str
    path: Path
    tree: ast.Module
    text: str


def sources(root: Path, folders: Sequence[str]) -> list[Source]:
    found = []
    for path in sorted(path for folder in folders for path in (root / folder).rglob("*.py")):
        text = path.read_text()
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        found.append(Source(name, path, ast.parse(text), text))
    return found


def imports(source: Source, known: set[str]) -> set[str]:
    """Return the modules of the tree that a file imports anywhere, for types too; without the packages of those."""
    names: set[str] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            names |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
    names = (names & known) - {source.name}
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)}


def knots(graph: dict[str, set[str]]) -> set[str]:
    """Return the modules that import each other, or that are imported only together with such."""
    left = {name: set(others) for name, others in graph.items()}
    for _ in range(2):
        while leaves := {name for name, others in left.items() if not others & left.keys()}:
            for name in leaves:
                del left[name]
        turned: dict[str, set[str]] = {name: set() for name in left}
        for name, others in left.items():
            for other in others & left.keys():
                turned[other].add(name)
        left = turned
    return set(left)


def lengths(source: Source, kinds: tuple[type[ast.AST], ...]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(source.tree):
        if isinstance(node, kinds):
            name = str(getattr(node, "name", ""))
            yield int(getattr(node, "end_lineno", 0)) - int(getattr(node, "lineno", 0)) + 1, f"{source.name}.{name}"


def comments(text: str) -> int:
    return sum(token.type == tokenize.COMMENT for token in tokenize.generate_tokens(io.StringIO(text).readline))


def measures(root: Path, folders: Sequence[str]) -> list[tuple[str, str]]:
    """Return the table: what is measured, and what it is."""
    found = sources(root, folders)
    known = {one.name for one in found}
    graph = {one.name: imports(one, known) for one in found}
    lines = sum(len(one.text.splitlines()) for one in found)
    functions = sorted(length for one in found for length, _ in lengths(one, (ast.FunctionDef, ast.AsyncFunctionDef)))
    classes = [(length, name) for one in found for length, name in lengths(one, (ast.ClassDef,))]
    files = Counter(str(one.path.parent.relative_to(root)) for one in found)
    stems = Counter(one.path.stem for one in found if one.path.stem != "__init__")
    names = Counter(name.rpartition(".")[2] for _, name in classes)
    fan = max(graph.items(), key=lambda pair: len(pair[1]))
    longest = max(found, key=lambda one: len(one.text.splitlines()))
    most = files.most_common(1)[0]
    return [
        ("lines", f"{lines:,}"),
        ("files", f"{len(found)}"),
        ("most files in a folder", f"{most[1]} ({most[0]})"),
        ("longest file", f"{len(longest.text.splitlines())} ({longest.name})"),
        ("function, median / nine in ten / longest", f"{at(functions, 0.5)} / {at(functions, 0.9)} / {functions[-1]}"),
        ("longest class", "{} ({})".format(*max(classes))),
        ("classes over 250 lines", f"{sum(length > 250 for length, _ in classes)}"),
        ("most imports of the tree in one file", f"{len(fan[1])} ({fan[0]})"),
        ("files with more than 15", f"{sum(len(others) > 15 for others in graph.values())}"),
        ("modules in a cycle", f"{len(knots(graph))}"),
        ("comments in 100 lines", f"{100 * sum(comments(one.text) for one in found) / lines:.1f}"),
        ("names of files that there are twice", f"{sum(count > 1 for count in stems.values())}"),
        ("names of classes that there are twice", f"{sum(count > 1 for count in names.values())}"),
    ]


def at(values: Sequence[int], share: float) -> int:
    return values[min(len(values) - 1, int(len(values) * share))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", default=FOLDERS)
    parser.add_argument("--root", type=Path, action="append", help="a checkout; several are put side by side")
    options = parser.parse_args()
    tables = [measures(root, options.folders) for root in options.root or [ROOT]]
    for rows in zip(*tables, strict=True):
        print(f"| {rows[0][0]} | {' | '.join(value for _, value in rows)} |")


if __name__ == "__main__":
    main()
