"""Convention: how somebody lays out a model folder, and which handler serves such folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from serving.config.config import Config
from serving.model.model import BatchTable, Model, Settings


class Choice(NamedTuple):
    """How a folder is served: by which handler (``module:Class``), with which options of its ``load``, and what the
    folder's own files say of replicas, device and batches; None where they say nothing."""

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


class Convention:
    """One way to lay out a model folder. Subclass it and name the subclass as an entry point of the group
    ``serving.conventions``; only ``matches`` and ``read`` have to be defined.

    It is read in processes that have no torch: the module of ``handler`` is imported by model workers alone.
    """

    name: ClassVar[str] = ""
    """One word, which no other convention has."""
    title: ClassVar[str] = "a model"
    """What ``serving check`` calls such a folder."""
    handler: ClassVar[str] = ""
    """``module:Class`` of the handler that serves such folders."""
    files: ClassVar[tuple[str, ...]] = ()
    """Names of files and folders, at the top, that only a model has."""
    expected: ClassVar[tuple[str, ...]] = ()
    """The same as an error says it to somebody whose folder holds no model."""

    def matches(self, folder: Folder) -> bool:
        """Return whether this convention serves the folder. The first that does is asked for the rest."""
        raise NotImplementedError

    def read(self, folder: Folder) -> Choice:
        """Return how the folder is served. Raises ModelError for files that say nothing sensible."""
        raise NotImplementedError

    def refine(self, root: Path, settings: Settings) -> Settings:
        """Return ``serving.toml``'s settings with what the folder's own files add. Raises ModelError."""
        return settings

    def is_model(self, root: Path) -> bool:
        """Return whether a folder of the store is such a model, told without reading it."""
        return any((root / name).exists() for name in self.files)

    def requirements(self, root: Path) -> Path | None:
        """Return the file of requirements that the folder names, beside the usual ones. Raises ModelError."""
        return None

    def script(self, model: Model) -> str | None:
        """Return the path of the file that the model's code begins with, None where its options say it."""
        return None

    def version(self, root: Path) -> str:
        """Return the version of the model that is served."""
        return "1"
