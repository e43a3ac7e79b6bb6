"""ModuleHandler: a folder without code: TorchScript ``*.pt``, ``*.pt2`` of ``torch.export`` or AOTInductor."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handlers.built import BuiltHandler
from handlers.expected import converted, expected_of
from handlers.firstuse import first_use_of
from handlers.options import overridable
from serving import BadRequest, BatchPolicy, Request, codecs
from serving.transfer import to_device


class Rows(tuple[Tensor, bool]):
    """One request: a tensor whose first dimension is its rows, and whether it was a single bare row."""

    __slots__ = ()

    @property
    def shape(self) -> torch.Size:
        return self[0].shape

    @property
    def nbytes(self) -> int:
        """The bytes that stay claimed for the request while it waits."""
        return self[0].nbytes


class ModuleHandler(BuiltHandler):
    """A handler of one or more rows a request: JSON ``{"instances": [[…], […]]}``, CSV, npy, raw tensors or one image.

    A flat list of numbers is one row, and its answer one row. An image is float32 [1, 3 or 1, height, width], 0 … 1.
    Requests are batched by joining their rows; float64 input becomes float32 unless the module takes float64.
    """

    policy = BatchPolicy(max_size=32)
    records = "rows"

    @overridable
    def load(self, model_dir: Path, device: str, file: str | None = None, allow_pickle: bool = False) -> None:
        """Load the model. ``file`` chooses one of several.

        ``allow_pickle`` allows pickled objects and compiled code, which can do anything.
        """
        self.device = device
        self.module, static = self.load_module(model_dir, device, file, allow_pickle)
        if static is not None:
            # The batch dimension was fixed when the model was exported, so requests cannot be joined.
            self.policy = replace(self.policy, max_size=1)
        self.expected = expected_of(self.module) or first_use_of(self.module)
        self.takes = "" if self.expected is None else str(self.expected)

    def fit(self, rows: Tensor) -> Tensor:
        """Return rows in the form that the module declares, if it does. Raises BadRequest."""
        return rows if self.expected is None else self.expected.fit(rows)

    def decode(self, request: Request) -> Rows:
        value = super().decode(request)
        if not hasattr(value, "shape"):
            raise BadRequest(f"the body holds no rectangular array of numbers{odd_record(value)}")
        tensor = torch.tensor(value)
        if tensor.dtype == torch.float64 and (self.expected is None or self.expected.dtype != torch.float64):
            tensor = converted(tensor, torch.float32)
        if request.media_type.startswith("image/"):
            channels = tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)
            return Rows((self.fit(channels[None].float() / 255), True))
        single = tensor.ndim < 2
        return Rows((self.fit(tensor.reshape(1, -1) if single else tensor), single))

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
        parts = outputs.split(self.rows)
        return [part[0] if single else part for part, single in zip(parts, self.singles, strict=True)]


def odd_record(value: Any) -> str:
    """Return a note on the first element of a list that differs from the first in shape, counted from 1."""
    if not isinstance(value, list) or not value:
        return ""
    shapes = [getattr(codecs.to_array(one), "shape", None) for one in value]
    odd = next((number for number, shape in enumerate(shapes, 1) if shape is None or shape != shapes[0]), None)
    return "" if odd is None else f": record {odd} is none, or of another shape than the first"
