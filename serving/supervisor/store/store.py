"""Store: the names of the models below a folder. A name never leaves it, links included; no two name one model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from serving.adapters.conventions import is_model
from serving.errors import BadRequest, ModelNotFound
from serving.model.names import ARCHIVES, is_hidden, without_suffix

DEPTH = 4  # folders below the store in which models are listed
NAME_LIMIT = 255  # bytes that a file's name may have


class Store:
    """``root`` is an absolute path. Everything here may block on the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def holds(self, path: Path) -> bool:
        """Whether it is below the root once links are followed."""
        return path.resolve().is_relative_to(self.root.resolve())

    def names(self) -> list[str]:
        """Every model of the store, sorted; each of these names finds what it stands for."""
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
        """An archive goes without its suffix, unless something else is called so."""
        bare = without_suffix(file)
        return bare if self._at(bare) == self.root / file else file

    def _at(self, name: str) -> Path | None:
        """What is called so: a folder, a file by its whole name, or an archive without its suffix, in this order."""
        if is_folder_of_one(self._path(name)):
            return self._path(name)
        files = [name] if name.endswith(ARCHIVES) else []
        return next((path for path in map(self._path, (*files, *with_suffixes(name))) if is_archive_file(path)), None)

    def _path(self, name: str) -> Path:
        return self.root / name

    def resolve(self, target: str) -> tuple[str, Path]:
        """The name of the model that a client means, and its folder or archive. Raises ModelNotFound, BadRequest.

        What is called so to the letter comes first. Where nothing is, one suffix may be too much.
        """
        self._check_place(target)
        path = self._at(target)
        name = target
        if path is None:
            name = without_suffix(target)
            path = self._at(name)
            if path is not None and path.name == PurePosixPath(name).name and path.is_file():
                path = None  # a second suffix on top of the file's own
        elif path == self._path(target) and path.is_file():
            name = self._name_of(target)
        if path is None:
            raise ModelNotFound(f"the model store has no model {target}")
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise BadRequest(f"model {target} is a link that leaves the model store")
        return name, path

    def _check_place(self, name: str) -> None:
        """Raises BadRequest for what is inside of a model."""
        for parent in list(PurePosixPath(name).parents)[:-1]:
            if is_model(self.root / parent):
                raise BadRequest(f"{name} is a part of model {parent}, and no model")


def is_folder_of_one(path: Path) -> bool:
    """Whether it is a folder, and not one that only holds folders of models."""
    if not path.is_dir():
        return False
    return is_model(path) or any(not entry.is_dir() and not is_hidden(entry.name) for entry in path.iterdir())


def with_suffixes(name: str) -> list[str]:
    return [name + suffix for suffix in ARCHIVES]


def is_archive_file(path: Path) -> bool:
    return len(path.name) <= NAME_LIMIT and path.is_file()
