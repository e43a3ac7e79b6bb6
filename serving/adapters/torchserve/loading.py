"""Loading: models of TorchServe archives from files; none runs code unless allowed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from serving.adapters.torchserve.entry import import_file
from serving.errors import ModelError
from serving.system import log
from serving.weights import ALLOW, check_weights, is_torchscript, load_exported, load_torchscript
from serving.weights.packages import is_package, load_package
from serving.weights.statedict import is_mappable


def load_model(path: Path | None, device: str, allow_pickle: bool) -> Any:
    """Load a model that needs no code of its own, by its suffix. Raises ModelError."""
    if path is None:
        raise ModelError("the manifest names neither serializedFile nor modelFile, so that there is no model to load")
    if path.suffix not in (".pt", ".pth", ".pt2"):
        raise ModelError(f"serializedFile is {path.name}; the built-in handlers load .pt, .pth and .pt2 alone")
    check_weights(path)
    if path.suffix == ".pt2" and is_package(path):
        return load_package(path, device, allow_pickle)
    if path.suffix == ".pt2":
        return load_exported(path, allow_pickle).module().to(device)
    if not is_torchscript(path):
        raise ModelError(f"{path.name} is no TorchScript file; for a state dict the manifest must name a modelFile")
    return load_torchscript(path, device)


def load_eager(script: Path, weights: Path | None, device: str, allow_pickle: bool) -> Any:
    """Create the only class of ``script``, without arguments, and load its state dict. Raises ModelError."""
    module = import_file(script)
    own = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
    if len(own) != 1:
        names = ", ".join(one.__name__ for one in own) or "none"
        raise ModelError(f"modelFile {script.name} must define one class; its classes: {names}")
    model = own[0]()
    if weights is not None:
        model.load_state_dict(load_pickled(weights, device, allow_pickle))
    return model


def load_pickled(path: Path, device: str, allow_pickle: bool) -> Any:
    """Load a ``torch.save`` file. Raises ModelError for more than tensors and plain values, unless allowed."""
    check_weights(path)
    try:
        return torch.load(path, map_location=device, weights_only=not allow_pickle, mmap=is_mappable(path))
    except pickle.UnpicklingError as exc:
        raise ModelError(f"{path.name} holds pickled objects that are no weights: {ALLOW}") from exc


def compiled(model: Any, setting: Any) -> Any:
    """Return the model compiled as the ``pt2`` section of ``model-config.yaml`` says, else unchanged."""
    options = compile_options(setting)
    if options is None:
        return model
    try:
        return torch.compile(model, **options)
    except Exception as exc:  # only speed depends on it
        log.warning("the model is not compiled", error=f"{type(exc).__name__}: {exc}", **options)
        return model


def compile_options(setting: Any) -> dict[str, Any] | None:
    """Return options of ``pt2: {compile: {enable: true, …}}``, or the older ``pt2: backend`` and ``pt2: {backend: …}``.

    None where compilation is off.
    """
    if isinstance(setting, str):
        options = {"backend": setting}
    elif isinstance(setting, dict) and "compile" in setting:
        options = dict(setting["compile"] or {})
        if not options.pop("enable", False):
            return None
    elif isinstance(setting, dict) and "export" not in setting and setting:
        options = dict(setting)
    elif isinstance(setting, dict | None):
        return None
    else:
        raise ModelError(f"pt2 of the model's configuration is {setting!r}; allowed: a backend's name or options")
    from importlib import import_module

    valid = import_module("ts.utils.util").check_valid_pt2_backend(options.get("backend", "inductor"))
    return options if valid else None
