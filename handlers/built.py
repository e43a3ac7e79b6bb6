"""BuiltHandler: the base of handlers with one model file, a program or the weights of a module built in code."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from handlers.expected import note_rows
from serving import Handler, load_weights
from serving.errors import ModelError
from serving.model.names import is_hidden
from serving.weights import check_weights, is_torchscript, load_exported, load_torchscript
from serving.weights.packages import is_package, load_package
from serving.weights.statedict import is_mappable, report

SUFFIXES = (".pt", ".pth", ".pt2")
STATES = (".safetensors", ".pt", ".pth", ".bin")
TELLING = 1 << 20  # bytes; loads of smaller files say nothing about speed

logger = logging.getLogger("serving.handlers")


class BuiltHandler(Handler):
    """A handler whose model is one file of the folder."""

    def build_module(self, model_dir: Path) -> torch.nn.Module | None:
        """Override it to return a module without weights, on the CPU.

        The model's file is then a state dict, ``*.safetensors`` or one of ``torch.save``, and is loaded into it. By
        default the file is a program with its own module.
        """
        return None

    def load_module(
        self, model_dir: Path, device: str, file: str | None = None, allow_pickle: bool = False
    ) -> tuple[Any, int | None]:
        """Return the module on ``device``, and its batch size where that is fixed. Raises ModelError."""
        module = self.build_module(model_dir)
        if module is None:
            return load_module(model_dir, device, file, allow_pickle)
        return with_weights(module, choose_file(model_dir, file, STATES), device), None


def load_module(model_dir: Path, device: str, file: str | None, allow_pickle: bool) -> tuple[Any, int | None]:
    """Return the module of a model folder on ``device``, and its batch size where that is fixed. Raises ModelError."""
    path = choose_file(model_dir, file)
    started = time.monotonic()
    found = load_file(path, device, allow_pickle)
    if (size := path.stat().st_size) >= TELLING:
        report(path, device, size, started)
    return found


def load_file(path: Path, device: str, allow_pickle: bool) -> tuple[Any, int | None]:
    check_weights(path)
    if path.suffix == ".pt2" and not is_package(path):
        return load_program(path, device, allow_pickle)
    if is_torchscript(path):
        return load_torchscript(path, device), None
    return (load_package if path.suffix == ".pt2" else load_pickled)(path, device, allow_pickle), None


def choose_file(model_dir: Path, name: str | None, suffixes: Sequence[str] = SUFFIXES) -> Path:
    """Return the named file, else ``model.*``, else the only candidate. Raises ModelError."""
    files = [path for path in model_dir.iterdir() if not is_hidden(path.name)]
    found = sorted(path for path in files if path.suffix in suffixes)
    if name is not None:
        found = [path for path in found if path.name == name]
    elif len(found) > 1:
        found = [path for path in found if path.stem == "model"] or found
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        *most, last = (f"*{suffix}" for suffix in suffixes)
        raise ModelError(
            f"{model_dir}: expected one {', '.join(most)} or {last} file, found {names}; [options] file names one"
        )
    return found[0]


def load_program(path: Path, device: str, allow_pickle: bool) -> tuple[Any, int | None]:
    """Return the module of a ``.pt2`` file on ``device``, and its batch size where that is fixed."""
    program = load_exported(path, allow_pickle)
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    inputs = set(program.graph_signature.user_inputs)
    shapes = [
        node.meta["val"].shape for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs
    ]
    sizes = [shape[0] for shape in shapes if len(shape)]
    module = program.module()
    note_rows(module, program)
    return module, next((size for size in sizes if isinstance(size, int)), None)


def with_weights(module: torch.nn.Module, path: Path, device: str) -> torch.nn.Module:
    """Load a file's state dict into ``module`` on ``device``. Raises ModelError where it does not fit."""
    module = module.to(device)
    try:
        module.load_state_dict(load_weights(path, device), assign=True)
    except RuntimeError as exc:  # it lists the names
        raise ModelError(f"{path.name} does not fit {type(module).__name__}: {' '.join(str(exc).split())}") from exc
    return module.eval()


def load_pickled(path: Path, device: str, allow_pickle: bool) -> torch.nn.Module:
    if not allow_pickle:
        raise ModelError(
            f"{path.name} is no TorchScript archive: a state_dict needs a handler that builds the module, "
            "and a pickled module needs `allow_pickle = true` in serving.toml"
        )
    logger.warning("loading %s with pickle, as serving.toml allows", path.name)
    module = torch.load(path, map_location=device, weights_only=False, mmap=is_mappable(path))
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"{path.name} holds a {type(module).__name__}, not a module")
    return module.eval()
