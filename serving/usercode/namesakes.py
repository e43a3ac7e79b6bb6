"""Namesakes: modules of a model with the name of a module that its process has loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from serving.model.model import Model
from serving.system import log
from serving.usercode import surroundings

OURS = "handlers"  # a package beside this server; a model may have its own


def settle(model: Model) -> None:
    """Let a model's own ``handlers`` replace ours, unless ours serve it, and warn of names that stay taken.

    Call it before anything of the model is imported.
    """
    own = dict(modules_of(model))
    if OURS in own and model.handler.partition(":")[0].partition(".")[0] != OURS:
        for name in [name for name in sys.modules if name.partition(".")[0] == OURS]:
            del sys.modules[name]
    taken = sorted(str(path) for name, path in own.items() if is_taken(name, path))
    if taken:
        log.warning(
            "modules of the model that cannot be imported: their names are taken",
            model=model.name,
            files=", ".join(taken),
        )


def modules_of(model: Model) -> Iterator[tuple[str, Path]]:
    """Yield the top-level modules and packages in the model's folders by name; of duplicates the last one counts."""
    for folder in dict.fromkeys((Path(model.path), Path(model.code), Path(surroundings.script_of(model)).parent)):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix == ".py" and path.stem.isidentifier():
                yield path.stem, path
            elif path.name.isidentifier() and (path / "__init__.py").is_file():
                yield path.name, path / "__init__.py"


def is_taken(name: str, path: Path) -> bool:
    there = sys.modules.get(name)
    return there is not None and getattr(there, "__file__", None) != str(path)
