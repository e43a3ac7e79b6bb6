"""FirstUse: what a TorchScript module does first with its input, which tells what that must be like."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from handlers.expected import converted, name_of
from serving import BadRequest

LINEAR = "aten::linear"
CONVOLUTIONS = {"aten::conv1d": 3, "aten::conv2d": 4, "aten::conv3d": 5}  # and how many dimensions they take
TRACED = "aten::_convolution"
GROUPS = {**dict.fromkeys(CONVOLUTIONS, 6), TRACED: 8}  # which of their inputs is the number of groups
RESHAPING = {"aten::flatten", "aten::reshape", "aten::view", "aten::squeeze", "aten::unsqueeze", "aten::permute"}
KEEPING = {"aten::contiguous", "aten::dropout", "aten::detach"}


class FirstUse(NamedTuple):
    """A layer with weights of ``dtype``. Where ``size`` is known it is that of ``axis``, of ``dimensions`` or of any
    number of them."""

    dtype: torch.dtype
    axis: int = -1
    size: int | None = None
    dimensions: int | None = None

    def __str__(self) -> str:
        sizes = ["rows", *(["any"] * ((self.dimensions or 2) - 1))]
        sizes[self.axis] = "any" if self.size is None else str(self.size)
        return f"{name_of(self.dtype)} [{', '.join(sizes)}]"

    def fit(self, tensor: Tensor) -> Tensor:
        """Return ``tensor`` [rows, …] in the layer's dtype. Raises BadRequest."""
        shape = tensor.shape
        if self.size is not None and self.dimensions in (None, len(shape)) and shape[self.axis] != self.size:
            if self.axis == -1:
                raise BadRequest(f"expected {self.size} values a row, got {shape[-1]}")
            raise BadRequest(f"expected {self}, got {list(shape)}")
        return tensor if tensor.dtype == self.dtype else converted(tensor, self.dtype)


def inputs_of(module: Any) -> list[Any]:
    """Return the values that a TorchScript module's graph begins with, itself first; [] for what has no such graph."""
    if not isinstance(module, torch.jit.ScriptModule):
        return []
    try:
        return list(module.inlined_graph.inputs())
    except (RuntimeError, AttributeError):
        return []


def use_of(kind: str, inputs: list[Any], weight: Tensor) -> FirstUse:
    """Return what a layer of this kind does with its input, which nothing has reshaped."""
    if kind == LINEAR:
        return FirstUse(weight.dtype, -1, int(weight.shape[1]))
    groups: Any = inputs[GROUPS[kind]].toIValue()
    size = None if groups is None else int(weight.shape[1]) * int(groups)
    return FirstUse(weight.dtype, 1, size, CONVOLUTIONS.get(kind, weight.ndim))


def first_use_of(module: Any) -> FirstUse | None:
    """Return what a TorchScript module of one input does with that first; None where it is no layer that is known."""
    values = inputs_of(module)
    if len(values) != 2:
        return None
    found, value = values
    is_reshaped = False
    while len(uses := value.uses()) == 1:
        node = uses[0].user
        kind = node.kind()
        if kind in RESHAPING or kind in KEEPING:
            is_reshaped = is_reshaped or kind in RESHAPING
            value = node.output()
            continue
        if kind not in (LINEAR, TRACED, *CONVOLUTIONS) or uses[0].offset != 0:
            return None
        inputs = list(node.inputs())
        weight = tensor_of(inputs[1], module, found)
        if weight is None or not (weight.is_floating_point() or weight.is_complex()):
            return None
        return FirstUse(weight.dtype) if is_reshaped else use_of(kind, inputs, weight)
    return None


def tensor_of(value: Any, module: Any, itself: Any) -> Tensor | None:
    """Return the weight that a value of the graph of ``module`` is, a constant or an attribute; None for others.
    ``itself`` is the graph's value for the module."""
    if (constant := value.toIValue()) is not None:
        return constant if isinstance(constant, Tensor) else None
    names: list[str] = []
    while value.node().kind() == "prim::GetAttr":
        names.append(value.node().s("name"))
        value = next(iter(value.node().inputs()))
    if value.debugName() != itself.debugName():
        return None
    for name in reversed(names):
        module = getattr(module, name, None)
    return module if isinstance(module, Tensor) else None
