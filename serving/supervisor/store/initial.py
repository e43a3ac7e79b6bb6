"""Initial: the models of a server before it starts. What reads archives is imported only where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from serving.config.config import Config, cores
from serving.errors import ModelError, ServingError
from serving.model.folder import read_model
from serving.model.model import DEFAULT_MODEL, Model
from serving.model.names import ARCHIVES, is_hidden
from serving.supervisor.store.diskcache import DiskCache


def open_models(config: Config, gpus: Sequence[str] = ()) -> tuple[list[Model], DiskCache | None]:
    """Return the model of a single-model server, or the cache for many models. Raises ModelError, Stopped, OSError."""
    if not config.many:
        return [open_one(config, gpus)], None
    if config.model_store is not None and not Path(config.store).is_dir():
        raise ModelError(f"model store {config.store} does not exist")
    from serving.supervisor.store.repository import ModelRepository

    disk = DiskCache.open()
    repository = ModelRepository(config, disk, lambda _: True)
    for name in (*(config.preload or ()), *filter(None, [config.default_model])):
        try:
            repository.find(name)
        except ServingError as exc:
            raise ModelError(exc.message) from exc
    return [], disk


def open_one(config: Config, gpus: Sequence[str]) -> Model:
    """Return the model of a single-model server. Raises ModelError, Stopped, OSError."""
    path = Path(config.model_dir)
    archive = archive_in(path)
    if archive is None:
        return read_model(path, DEFAULT_MODEL, config, cores(), gpus)
    from serving.supervisor.store.repository import ModelRepository

    repository = ModelRepository(config, DiskCache.open(), lambda _: True, gpus)
    try:
        # The unpacked folder is held until this process ends.
        model = repository.open(DEFAULT_MODEL, archive.absolute())
    except ServingError as exc:
        raise ModelError(f"{archive}: {exc.message}") from exc
    return msgspec.structs.replace(model, url="", digest="", fingerprint="", size=0)


def archive_in(path: Path) -> Path | None:
    """Return the archive at ``path``, or the archive that is the only file in that folder, as happens when the platform
    unpacks a ``model.tar.gz`` that holds another archive.
    """
    if path.is_file() and path.name.endswith(ARCHIVES):
        return path
    entries = [entry for entry in path.iterdir() if not is_hidden(entry.name)] if path.is_dir() else []
    return entries[0] if len(entries) == 1 and entries[0].is_file() and entries[0].name.endswith(ARCHIVES) else None
