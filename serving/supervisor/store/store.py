"""Store: the names of the models below a folder. A name never leaves it, links included; no two names mean one
model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from serving.adapters.conventions import is_model
from serving.errors import BadRequest, ModelNotFound
from serving.model.names import ARCHIVES, is_hidden, without_suffix

DEPTH = 4  # folders below the store in which models are listed
NAME_LIMIT = 255  # bytes of a file's name at most


class Store:
    """The models below ``root``, an absolute path. Every method may block on the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def holds(self, path: Path) -> bool:
        """Return whether ``path`` is below the root once links are followed."""
        return path.resolve().is_relative_to(self.root.resolve())

    def names(self) -> list[str]:
        """Return the name of every model of the store, sorted; each is found by that name."""
        return sorted(set(self._walk(self.root, "", DEPTH)))

    def _walk(self, folder: Path, prefix: str, depth: int) -> Iterator[str]:
        if not folder.is_dir():
            return
        for entry in sorted(folder.iterdir()):
            if is_hidden(entry.name):
                continue
            if entry.is_file() and entry.name.endswith(ARCHIVES):
                yield self._name_of(prefix + entry.name)
            elif entry.is_dir() and is_model(entry):
                yield prefix + entry.name
            elif entry.is_dir() and depth > 1:
                yield from self._walk(entry, f"{prefix}{entry.name}/", depth - 1)

    def _name_of(self, file: str) -> str:
        """Return an archive's name: without its suffix, unless something else has that name."""
        bare = without_suffix(file)
        return bare if self._at(bare) == self.root / file else file

    def _at(self, name: str) -> Path | None:
        """Return the path with a name: a folder, a file by its whole name, or an archive without its suffix, in this
        order.
        """
        if is_folder_of_one(self._path(name)):
            return self._path(name)
        files = [name] if name.endswith(ARCHIVES) else []
        return next((path for path in map(self._path, (*files, *with_suffixes(name))) if is_archive_file(path)), None)

    def _path(self, name: str) -> Path:
        return self.root / name

    def resolve(self, target: str) -> tuple[str, Path]:
        """Return the own name of the model that ``target`` means, and its folder or archive. Raises ModelNotFound,
        BadRequest.

        An exact name comes first. If there is none, ``target`` may have one suffix too many.
        """
        self._check_place(target)
        path = self._at(target)
        name = target
        if path is None:
            name = without_suffix(target)
            path = self._at(name)
            if path is not None and path.name == PurePosixPath(name).name and path.is_file():
                path = None  # a second suffix after the file's own
        elif path == self._path(target) and path.is_file():
            name = self._name_of(target)
        if path is None:
            raise ModelNotFound(f"the model store has no model {target}")
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise BadRequest(f"model {target} is a link that leaves the model store")
        return name, path

    def _check_place(self, name: str) -> None:
        """Check that ``name`` is not inside a model. Raises BadRequest."""
        for parent in list(PurePosixPath(name).parents)[:-1]:
            if is_model(self.root / parent):
                raise BadRequest(f"{name} is a part of model {parent}, and no model")


def is_folder_of_one(path: Path) -> bool:
    """Return whether it is the folder of one model, not one that only holds folders of models."""
    if not path.is_dir():
        return False
    return is_model(path) or any(not entry.is_dir() and not is_hidden(entry.name) for entry in path.iterdir())


def with_suffixes(name: str) -> list[str]:
    return [name + suffix for suffix in ARCHIVES]


def is_archive_file(path: Path) -> bool:
    return len(path.name) <= NAME_LIMIT and path.is_file()
