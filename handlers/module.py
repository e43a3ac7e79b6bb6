"""ModuleHandler: serves a folder without code: TorchScript ``*.pt``, ``*.pt2`` of ``torch.export`` or AOTInductor."""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from serving import BadRequest, BatchPolicy, Handler, Request, codecs
from serving.errors import ModelError
from serving.names import is_hidden
from serving.packages import is_package, load_package
from serving.statedict import is_mappable, report
from serving.transfer import to_device
from serving.weights import is_torchscript, load_exported, load_torchscript

SUFFIXES = (".pt2", ".pt", ".pth")
TELLING = 1 << 20  # bytes of a file whose load says something of how fast bytes come

logger = logging.getLogger("serving.handlers")


class Rows(tuple[Tensor, bool]):
    """One request: a tensor whose first dimension is its rows, and whether it came as one bare row."""

    __slots__ = ()

    @property
    def shape(self) -> torch.Size:
        return self[0].shape


class ModuleHandler(Handler):
    """One request carries one or more rows: JSON ``{"instances": [[…], […]]}``, CSV, npy, raw tensors or one image.

    A flat list of numbers is one row, and its answer one row. An image is float32 [1, 3 or 1, height, width], 0 … 1.
    Requests are batched by joining their rows; float64 input becomes float32.
    """

    policy = BatchPolicy(max_size=32)
    records = "rows"

    def load(self, model_dir: Path, device: str, file: str | None = None, allow_pickle: bool = False) -> None:
        """``file`` names one of several; ``allow_pickle`` lets pickled objects and compiled code be loaded, which
        can do anything."""
        self.device = device
        self.module, static = load_module(model_dir, device, file, allow_pickle)
        if static is not None:
            # The batch dimension was fixed when the model was exported, so requests cannot be joined.
            self.policy = replace(self.policy, max_size=1)

    def decode(self, request: Request) -> Rows:
        value = super().decode(request)
        if not hasattr(value, "shape"):
            raise BadRequest(f"the body holds no rectangular array of numbers{odd_record(value)}")
        tensor = torch.tensor(value)
        if tensor.dtype == torch.float64:
            tensor = tensor.float()
        if request.media_type.startswith("image/"):
            channels = tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)
            return Rows((channels[None].float() / 255, True))
        single = tensor.ndim < 2
        return Rows((tensor.reshape(1, -1) if single else tensor, single))

    def bucket(self, sample: Rows) -> Hashable:
        return tuple(sample[0].shape[1:]), sample[0].dtype

    def collate(self, samples: Sequence[Rows]) -> Tensor:
        self.rows = [len(sample[0]) for sample in samples]
        self.singles = [sample[1] for sample in samples]
        batch: Tensor = to_device(torch.cat([sample[0] for sample in samples]), self.device)
        return batch

    def predict(self, batch: Tensor) -> Any:
        return self.module(batch)

    def split(self, outputs: Any, n: int) -> Sequence[Any]:
        if isinstance(outputs, dict):
            parts = [self.split(value, n) for value in outputs.values()]
            return [dict(zip(outputs, row, strict=True)) for row in zip(*parts, strict=True)]
        if isinstance(outputs, tuple | list):
            return list(zip(*(self.split(value, n) for value in outputs), strict=True))
        pieces = outputs.split(self.rows)
        return [piece[0] if single else piece for piece, single in zip(pieces, self.singles, strict=True)]


def odd_record(value: Any) -> str:
    """Where it is a list, which of it differs from the first, counted from 1."""
    if not isinstance(value, list) or not value:
        return ""
    shapes = [getattr(codecs.to_array(one), "shape", None) for one in value]
    odd = next((number for number, shape in enumerate(shapes, 1) if shape is None or shape != shapes[0]), None)
    return "" if odd is None else f": record {odd} is none, or of another shape than the first"


def load_module(model_dir: Path, device: str, file: str | None, allow_pickle: bool) -> tuple[Any, int | None]:
    """The module of a model folder on ``device``, and its batch size where that is fixed. Raises ModelError."""
    path = choose_file(model_dir, file)
    started = time.monotonic()
    found = load_file(path, device, allow_pickle)
    if (size := path.stat().st_size) >= TELLING:
        report(path, device, size, started)
    return found


def load_file(path: Path, device: str, allow_pickle: bool) -> tuple[Any, int | None]:
    if path.suffix == ".pt2" and not is_package(path):
        return load_program(path, device, allow_pickle)
    if is_torchscript(path):
        return load_torchscript(path, device), None
    return (load_package if path.suffix == ".pt2" else load_pickled)(path, device, allow_pickle), None


def choose_file(model_dir: Path, name: str | None) -> Path:
    """The named file, else ``model.*``, else the only candidate. Raises ModelError."""
    files = [path for path in model_dir.iterdir() if not is_hidden(path.name)]
    found = sorted(path for path in files if path.suffix in SUFFIXES)
    if name is not None:
        found = [path for path in found if path.name == name]
    elif len(found) > 1:
        found = [path for path in found if path.stem == "model"] or found
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ModelError(
            f"{model_dir}: expected one *.pt, *.pth or *.pt2 file, found {names}; [options] file names one"
        )
    return found[0]


def load_program(path: Path, device: str, allow_pickle: bool) -> tuple[Any, int | None]:
    """The module of a ``.pt2`` file on ``device``, and its batch size where that is fixed."""
    program = load_exported(path, allow_pickle)
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    inputs = set(program.graph_signature.user_inputs)
    shapes = [
        node.meta["val"].shape for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs
    ]
    sizes = [shape[0] for shape in shapes if len(shape)]
    return program.module(), next((size for size in sizes if isinstance(size, int)), None)


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
