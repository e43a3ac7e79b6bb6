"""Weights: a module without code: one file of TorchScript, ``torch.export`` or a pickled module."""

from __future__ import annotations

from pathlib import Path

from serving.adapters.convention import Choice, Convention, Folder
from serving.model.names import is_hidden

SUFFIXES = (".pt", ".pth", ".pt2")


class Weights(Convention):
    name = "weights"
    title = "a module without code"
    handler = "handlers.module:ModuleHandler"

    def matches(self, folder: Folder) -> bool:
        return self.is_model(folder.root)

    def read(self, folder: Folder) -> Choice:
        return Choice(self.handler, {"allow_pickle": True} if folder.settings.allow_pickle else {})

    def is_model(self, root: Path) -> bool:
        return any(path.suffix in SUFFIXES and not is_hidden(path.name) and path.is_file() for path in root.iterdir())
