"""Convention: one layout of model folders, and the handler that serves such folders."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from serving.config.config import Config
from serving.model.model import BatchTable, Model, Settings


class Choice(NamedTuple):
    """How a folder is served: ``handler`` (``module:Class``) and the ``options`` of its ``load``.

    ``replicas``, ``device`` and ``batch`` are those of the folder's own files; None where they set nothing.
    """

    handler: str
    options: Mapping[str, Any] = MappingProxyType({})
    replicas: int | None = None
    device: str | None = None
    batch: BatchTable = BatchTable()


@dataclass(frozen=True, slots=True)
class Folder:
    """A model folder. ``code`` is the folder of its code, ``settings`` its ``serving.toml``."""

    root: Path
    code: Path
    settings: Settings
    config: Config

    @property
    def script(self) -> Path:
        """The file that the setting ``program`` names, which may not exist."""
        return self.code / self.config.program


class Convention(abc.ABC):
    """One layout of model folders. Subclass it and name the subclass as an entry point of the group
    ``serving.conventions``.

    Only ``matches`` and ``read`` have to be defined. Conventions are read in processes without torch: only model
    workers import the module of ``handler``.
    """

    name: ClassVar[str] = ""
    """One word, unique among conventions."""
    title: ClassVar[str] = "a model"
    """The name of such a folder in ``serving check``."""
    handler: ClassVar[str] = ""
    """``module:Class`` of the handler that serves such folders."""
    files: ClassVar[tuple[str, ...]] = ()
    """Names of files and folders, at the top, that mark a model."""
    expected: ClassVar[tuple[str, ...]] = ()
    """Names of files and folders that the error about a folder without a model mentions."""

    @abc.abstractmethod
    def matches(self, folder: Folder) -> bool:
        """Return whether this convention serves the folder. The first convention that does is used."""

    @abc.abstractmethod
    def read(self, folder: Folder) -> Choice:
        """Return how the folder is served. Raises ModelError for invalid files."""

    def refine(self, root: Path, settings: Settings) -> Settings:
        """Return ``serving.toml``'s settings with what the folder's own files add. Raises ModelError."""
        return settings

    def is_model(self, root: Path) -> bool:
        """Return whether a folder of the store is such a model, without reading its files."""
        return any((root / name).exists() for name in self.files)

    def requirements(self, root: Path) -> Path | None:
        """Return the requirements file that the folder names, beside the usual ones. Raises ModelError."""
        return None

    def script(self, model: Model) -> str | None:
        """Return the path of the model's first file of code; None where its options have it."""
        return None

    def version(self, root: Path) -> str:
        """Return the version of the model that is served."""
        return "1"
