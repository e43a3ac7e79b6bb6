"""Script: a model's ``model.py``, from its import to its end."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

import triton_python_backend_utils as pb_utils
from serving.adapters.triton.config import TritonConfig, TritonConfigError, as_dict, from_dict, read_config
from serving.adapters.triton.folder import check, notes
from serving.errors import ModelError
from serving.system import log
from serving.usercode import surroundings

CLASS = "TritonPythonModel"


class Script:
    """One instance of the model's class, used by one thread at a time."""

    def __init__(self, folder: Path, version: str, config: TritonConfig) -> None:
        """Import the script and complete the configuration. Raises ModelError."""
        self._folder = folder
        self._version = version
        self._class = import_class(folder, version, config.default_model_filename or "model.py")
        self.config = self._completed(config)
        self.is_async = inspect.iscoroutinefunction(getattr(self._class, "execute", None))
        self._model: Any = None
        self._runner: asyncio.Runner | None = None

    def _completed(self, config: TritonConfig) -> TritonConfig:
        complete = getattr(self._class, "auto_complete_config", None)
        if complete is None:
            return config
        try:
            made = complete(pb_utils.ModelConfig(msgspec.json.encode(as_dict(config)).decode()))
            if not isinstance(made, pb_utils.ModelConfig):
                raise ModelError(f"auto_complete_config gave {type(made).__name__}, not the ModelConfig")
            return from_dict(made.as_dict())
        except (ValueError, TritonConfigError) as exc:
            raise ModelError(str(exc)) from exc

    def initialize(self, device: str) -> None:
        """Create the instance. Raises what the model raises."""
        kind, _, index = device.partition(":")
        self._model = self._class()
        arguments = {
            "model_config": msgspec.json.encode(as_dict(self.config)).decode(),
            "model_instance_kind": "GPU" if kind == "cuda" else "CPU",
            "model_instance_name": f"{self.config.name}_0",
            "model_instance_device_id": index or "0",
            "model_repository": str(self._folder),
            "model_version": self._version,
            "model_name": self.config.name,
        }
        initialize = getattr(self._model, "initialize", None)
        if initialize is not None:
            self._finished(initialize(arguments))

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> Any:
        """Return the result of the model's ``execute``, awaited if needed."""
        return self._finished(self.begin(requests))

    def begin(self, requests: Sequence[pb_utils.InferenceRequest]) -> Any:
        """Return the result of the model's ``execute``, not awaited."""
        import torch

        with torch.inference_mode(False):  # as in Triton: some models need gradients
            return self._model.execute(list(requests))

    def is_ready(self) -> bool:
        """Return the model's own ``is_ready``; False where that fails."""
        method = getattr(self._model, "is_ready", None)
        if method is None:
            return True
        try:
            return bool(self._finished(method()))
        except Exception as exc:
            log.error("is_ready failed", exc=exc, model=self.config.name)
            return False

    def finalize(self) -> None:
        method = getattr(self._model, "finalize", None)
        if method is not None:
            self._finished(method())
        if self._runner is not None:
            self._runner.close()

    def _finished(self, value: Any) -> Any:
        if not inspect.isawaitable(value):
            return value
        if self._runner is None:
            self._runner = asyncio.Runner()

        async def wait() -> Any:
            return await value

        return self._runner.run(wait())


def import_class(folder: Path, version: str, script: str) -> Any:
    """Import ``<version>.<name>``, as Triton does, with both folders on the path.

    Here they come before installed packages, as for all models.
    """
    if not script.endswith(".py") or "/" in script:
        raise ModelError(f"default_model_filename is {script!r}; allowed: a file name that ends with .py")
    sys.path[:0] = [path for path in (str(folder / version), str(folder)) if path not in sys.path]
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(f"{version}.{script.removesuffix('.py')}")
    except BaseException as exc:
        log.error("the script cannot be imported", exc=exc, script=str(folder / version / script))
        raise ModelError(f"importing {folder / version / script} failed: {surroundings.describe(exc)}") from exc
    found = getattr(module, CLASS, None)
    if not isinstance(found, type):
        raise ModelError(f"{folder / version / script} has no class {CLASS}")
    if not callable(getattr(found, "execute", None)):
        raise ModelError(f"{CLASS} of {folder / version / script} has no execute")
    return found


def write_log(level: int, message: str) -> None:
    """Log a message of a model's ``Logger``."""
    log.emit(level, message)


def open_script(model_dir: Path, version: str) -> Script:
    """Return the script of a model's version, with its configuration. Raises ModelError for one that can never work."""
    try:
        config, warnings = read_config(model_dir)
        script = Script(model_dir, version, config)
        check(model_dir, script.config)
    except TritonConfigError as exc:
        raise ModelError(str(exc)) from exc
    for warning in [*warnings, *notes(script.config)]:
        log.warning(warning, model=script.config.name)
    return script
