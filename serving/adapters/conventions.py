"""Conventions: all conventions that this server knows, and the choice of one for a model folder."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from serving.adapters.convention import Convention, Folder
from serving.adapters.djl.convention import Djl
from serving.adapters.toolkit.convention import Toolkit
from serving.adapters.torchserve.convention import TorchServe
from serving.adapters.triton.convention import Triton
from serving.adapters.weights import Weights
from serving.errors import ModelError, NoModel
from serving.model.names import is_hidden
from serving.system import log

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "serving.conventions"
# The first that matches serves a folder: conventions with distinctive files come before the others.
OURS: tuple[Convention, ...] = (TorchServe(), Triton(), Toolkit(), Djl())
WEIGHTS = Weights()
SETTINGS = "serving.toml"


def conventions() -> Iterator[Convention]:
    """Yield our conventions, those of installed packages, and last that of weights alone."""
    yield from OURS
    yield from installed().usable  # only when reached: searching all packages takes about 20 ms
    yield WEIGHTS


class Installed(NamedTuple):
    """Conventions of installed packages, and what is wrong with those that cannot be used."""

    usable: tuple[Convention, ...]
    problems: tuple[str, ...]


@functools.cache
def installed() -> Installed:
    """Return the conventions of installed packages, by name."""
    from importlib.metadata import entry_points

    found = [loaded(point) for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)]
    usable = tuple(one for one in found if isinstance(one, Convention))
    return Installed(usable, tuple(one for one in found if isinstance(one, str)))


def loaded(point: EntryPoint) -> Convention | str:
    """Return a convention, or what is wrong with it."""
    try:
        found = point.load()
        if isinstance(found, type) and issubclass(found, Convention):
            return found()
        return f"the convention {point.name} = {point.value} is no subclass of Convention"
    except Exception as exc:
        return f"the convention {point.name} = {point.value} cannot be used: {exc}"


def convention_of(folder: Folder) -> Convention:
    """Return the convention that serves a folder. Raises ModelError, and NoModel where none does."""
    root = folder.root
    if folder.config.sources["program"] != "default" and not folder.script.is_file():
        log.warning("the program that is set is not there; the model's other files count", program=str(folder.script))
    for convention in conventions():
        if convention is WEIGHTS and installed().problems:
            raise ModelError("; ".join(installed().problems))  # one of them may be for this folder
        if convention.matches(folder):
            return convention
    expected = [f"code/{folder.config.program}", *(name for one in conventions() for name in one.expected)]
    found = ", ".join(sorted(entry.name for entry in root.iterdir() if not is_hidden(entry.name))[:10]) or "nothing"
    raise NoModel(
        f"{root} holds no model: expected {SETTINGS} with a handler, {', '.join(expected)}, "
        f"or a *.pt, *.pth or *.pt2 file; found {found}"
    )


def convention_named(name: str) -> Convention | None:
    """Return the convention of that name; None for "", the name in a model whose ``serving.toml`` has a handler."""
    if not name:
        return None
    ours = next((one for one in (*OURS, WEIGHTS) if one.name == name), None)
    return ours or next((one for one in installed().usable if one.name == name), None)


def is_marked(root: Path) -> bool:
    """Return whether a folder's content marks it as a model, so that it is no folder around one."""
    return (root / SETTINGS).exists() or any(one.is_model(root) for one in conventions())


def is_model(folder: Path) -> bool:
    """Return whether a folder of the store is a model, not a folder of models.

    The platform puts each below ``model/``.
    """
    try:
        return is_marked(folder) or (folder / "model").exists()
    except OSError:
        return False


def version_of(path: Path) -> str:
    """Return the served version of the model at a path of the store."""
    try:
        return next((one.version(path) for one in conventions() if path.is_dir() and one.is_model(path)), "1")
    except OSError:
        return "1"  # its load says what is wrong
