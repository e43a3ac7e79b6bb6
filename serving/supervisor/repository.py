"""ModelRepository: the models on disk. Read-only."""

from __future__ import annotations

from pathlib import Path

from serving.config import Config, cores
from serving.errors import ModelError
from serving.model import DEFAULT_MODEL, Model, read_model


def find_model(config: Config) -> Model:
    """The one model of a single-model server. Raises ModelError."""
    if config.multi_model:
        raise ModelError("multi-model mode is not available in this version")
    return read_model(Path(config.model_dir), DEFAULT_MODEL, config, cores())
