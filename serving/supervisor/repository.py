"""ModelRepository: the models on disk. Reads them only; archives are unpacked into a cache of its own.

A name is looked up below the store's root and never leaves it, links included. Everything here may block on the disk,
so that it is called from threads.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from serving.config import Config, cores
from serving.conventions import is_model
from serving.errors import BadRequest, ModelError, ModelNotFound, ServingError
from serving.folder import read_model
from serving.model import DEFAULT_MODEL, Model
from serving.names import ARCHIVES, without_suffix
from serving.supervisor.archives import Limits, extract
from serving.supervisor.diskcache import DiskCache, discard

DEPTH = 4  # folders below the store in which models are listed
NAME_LIMIT = 255  # bytes that a file's name may have
FORBIDDEN = ("/dev", "/proc", "/sys")  # as a model's address


def open_models(config: Config, gpus: Sequence[str] = ()) -> tuple[list[Model], DiskCache | None]:
    """The one model of a single-model server, or the cache for many. Raises ModelError, OSError."""
    if not config.many:
        return [open_one(config, gpus)], None
    if config.model_store is not None and not Path(config.store).is_dir():
        raise ModelError(f"model store {config.store} does not exist")
    disk = DiskCache.open()
    repository = ModelRepository(config, disk, lambda _: True)
    for name in (*(config.preload or ()), *filter(None, [config.default_model])):
        try:
            repository.find(name)
        except ServingError as exc:
            raise ModelError(exc.message) from exc
    return [], disk


def open_one(config: Config, gpus: Sequence[str]) -> Model:
    """The model of a single-model server. Raises ModelError, OSError."""
    path = Path(config.model_dir)
    archive = archive_in(path)
    if archive is None:
        return read_model(path, DEFAULT_MODEL, config, cores(), gpus)
    repository = ModelRepository(config, DiskCache.open(), lambda _: True, gpus)
    try:
        return msgspec.structs.replace(repository.open(DEFAULT_MODEL, archive), url="", digest="", size=0)
    except ServingError as exc:
        raise ModelError(f"{archive}: {exc.message}") from exc


def archive_in(path: Path) -> Path | None:
    """The archive that ``path`` is, or the only thing in that folder if it is a ``.mar``, as the platform unpacks a
    ``model.tar.gz`` with one in it."""
    if path.is_file() and path.name.endswith(ARCHIVES):
        return path
    entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")] if path.is_dir() else []
    return entries[0] if len(entries) == 1 and entries[0].is_file() and entries[0].suffix == ".mar" else None


def is_folder_of_one(path: Path) -> bool:
    """Whether it is a folder, and not one that only holds folders of models."""
    return path.is_dir() and (is_model(path) or any(not entry.is_dir() for entry in path.iterdir()))


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model's folder or archive. ``digest`` changes whenever it does; ``size`` is in bytes."""

    path: Path
    digest: str
    size: int


class ModelRepository:
    """``in_use`` tells whether a running model still needs an unpacked folder; ``gpus`` are those the server sees."""

    def __init__(
        self, config: Config, cache: DiskCache, in_use: Callable[[Path], bool], gpus: Sequence[str] = ()
    ) -> None:
        self._config = config
        self._gpus = gpus
        self._root = Path(config.store).absolute()
        self._cache = cache
        self._in_use = in_use
        self._limits = Limits(config.archive_max_bytes, config.archive_max_files, config.archive_max_ratio)

    def names(self) -> list[str]:
        """Every model of the store, sorted."""
        return sorted(set(self._walk(self._root, "", DEPTH)))

    def _walk(self, folder: Path, prefix: str, depth: int) -> Iterator[str]:
        if not folder.is_dir():
            return
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith("."):
                continue
            if entry.is_file() and entry.name.endswith(ARCHIVES):
                yield prefix + without_suffix(entry.name)
            elif entry.is_dir() and is_model(entry):
                yield prefix + entry.name
            elif entry.is_dir() and depth > 1:
                yield from self._walk(entry, f"{prefix}{entry.name}/", depth - 1)

    def find(self, name: str) -> Path:
        """The folder or archive of a model of the store; a folder wins. Raises ModelNotFound, BadRequest."""
        for candidate in (name, *(name + suffix for suffix in ARCHIVES)):
            path = self._root / candidate
            if len(path.name) > NAME_LIMIT:
                continue
            if not (is_folder_of_one(path) if candidate == name else path.is_file()):
                continue
            if not path.resolve().is_relative_to(self._root.resolve()):
                raise BadRequest(f"model {name} is a link that leaves the model store")
            return path
        raise ModelNotFound(f"the model store has no model {name}")

    def locate(self, name: str, url: str) -> Path:
        """Where a model to be loaded by address is. Raises BadRequest, ModelNotFound."""
        if not url:
            return self.find(without_suffix(name))
        path = Path(url.removeprefix("file://"))
        if not path.is_absolute() or ".." in path.parts or "\0" in url:
            raise BadRequest(f"url is {url[:200]!r}; allowed: an absolute path")
        real = path.resolve()
        if any(one.is_relative_to(folder) for one in (path, real) for folder in FORBIDDEN):
            raise BadRequest(f"url is {url[:200]!r}; models do not live below {', '.join(FORBIDDEN)}")
        if not self._config.multi_model and not real.is_relative_to(self._root.resolve()):
            raise BadRequest(f"url is {url[:200]!r}, which is not below the model store")
        if not path.is_dir() and not path.is_file():
            raise ModelNotFound(f"url is {url[:200]!r}, where nothing is")
        return path

    def open(self, name: str, path: Path) -> Model:
        """The model at ``path``, unpacked if need be. Raises BadArchive, ModelError, OSError."""
        if path.is_dir():
            read_model(
                path, name, self._config, cores(), self._gpus
            )  # what is no model may be as large as the whole disk
        found = artifact(path)
        folder = path if path.is_dir() else self._unpacked(found)
        model = read_model(folder, name, self._config, cores(), self._gpus)
        pinned = model.pin or name in (self._config.pin or ())
        return msgspec.structs.replace(model, url=str(path), digest=found.digest, size=found.size, pin=pinned)

    def _unpacked(self, found: Artifact) -> Path:
        home = self._cache.home(found.path)
        folder = home / found.digest
        if not folder.is_dir():
            for old in home.iterdir():
                if not old.name.startswith(".") and not self._in_use(old):
                    discard(old)
            extract(found.path, folder, self._limits)
        return folder


def artifact(path: Path) -> Artifact:
    """What is at ``path`` now, told by names, sizes and times of change. Raises ModelError where nothing is."""
    try:
        entries = sorted(listing(path)) if path.is_dir() else [stamp(path, "")]
    except OSError as exc:
        raise ModelError(f"{path} cannot be read: {os.strerror(exc.errno or 0)}") from exc
    digest = hashlib.sha256(repr((str(path.resolve()), entries)).encode()).hexdigest()[:32]
    return Artifact(path, digest, sum(size for _, size, _ in entries))


def stamp(path: Path, name: str) -> tuple[str, int, int]:
    status = path.stat()
    return name, status.st_size, status.st_mtime_ns


def listing(folder: Path) -> Iterator[tuple[str, int, int]]:
    for parent, folders, files in os.walk(folder):
        # Python writes these itself when a model is loaded.
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in files:
            path = Path(parent, name)
            if path.exists():
                yield stamp(path, str(path.relative_to(folder)))
