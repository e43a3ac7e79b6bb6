"""Expected: the input that an exported program declares, to refuse others before the program runs."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from serving import BadRequest

ROWS = "rows"  # the key of the number of rows in a module's meta


class Expected(NamedTuple):
    """The declared input: ``sizes`` of each dimension behind the rows, None for any.

    It has ``low`` to ``high`` rows, None for any number.
    """

    dtype: torch.dtype
    sizes: tuple[int | None, ...]
    low: int = 0
    high: int | None = None

    def __str__(self) -> str:
        sizes = ", ".join("any" if size is None else str(size) for size in self.sizes)
        rows = str(self.low) if self.low == self.high else "rows"
        return f"{name_of(self.dtype)} [{', '.join(filter(None, (rows, sizes)))}]"

    def fit(self, tensor: Tensor) -> Tensor:
        """Return ``tensor`` [rows, …] in the program's dtype. Raises BadRequest."""
        self.check_shape(tuple(tensor.shape))
        if tensor.dtype == self.dtype:
            return tensor
        if self.dtype.is_complex or self.dtype.is_floating_point:
            return converted(tensor, self.dtype)
        if not (tensor.is_floating_point() or tensor.is_complex() or self.dtype == torch.bool):
            return converted(tensor, self.dtype)
        raise BadRequest(f"expected {name_of(self.dtype)} values, got {name_of(tensor.dtype)}")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        rows, sizes = shape[0], shape[1:]
        fits = len(sizes) == len(self.sizes)
        if not fits or any(size not in (None, given) for size, given in zip(self.sizes, sizes, strict=True)):
            if fits and len(sizes) == 1:
                raise BadRequest(f"expected {self.sizes[0]} values a row, got {sizes[0]}")
            raise BadRequest(f"expected {self}, got {list(shape)}")
        if rows < self.low or (self.high is not None and rows > self.high):
            allowed = str(self.low) if self.low == self.high else f"{self.low} to {self.high or 'any number'}"
            raise BadRequest(f"expected {allowed} rows, got {rows}")


def converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert numbers to another dtype; infinities and NaN that were sent stay.

    Raises BadRequest for a number out of range.
    """
    if tensor.is_complex() and not dtype.is_complex:
        raise BadRequest(f"expected {name_of(dtype)} values, got complex numbers")
    found = tensor.to(dtype)
    if dtype.is_complex or dtype.is_floating_point:
        sent_so = tensor.isinf() if tensor.is_complex() or tensor.is_floating_point() else torch.tensor(False)
        lost = (found.isinf() & ~sent_so).numpy()
    else:
        lost = found.numpy() != tensor.numpy()  # numpy compares integers of all dtypes; torch does not
    if lost.any():
        worst = tensor.numpy()[lost].tolist()[0]
        raise BadRequest(f"{worst!r} is beyond the numbers of {name_of(dtype)} that the model takes")
    return found


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def note_rows(module: Any, program: Any) -> None:
    """Store the program's limits on the number of rows in the module's meta."""
    shape: Any = next((node.meta["val"].shape for node in inputs_of(module)), ())
    symbol = getattr(getattr(shape[0] if len(shape) else None, "node", None), "expr", None)
    found = program.range_constraints.get(symbol)
    if found is not None:
        module.meta[ROWS] = (bound(found.lower) or 0, bound(found.upper))


def bound(limit: Any) -> int | None:
    try:
        return int(limit)
    except (TypeError, ValueError, OverflowError, AttributeError):  # it is infinite
        return None


def inputs_of(module: Any) -> list[Any]:
    """Return the input nodes of an exported module; none where they are unknown."""
    graph = getattr(module, "graph", None)
    nodes = [node for node in graph.nodes if node.op == "placeholder"] if isinstance(graph, torch.fx.Graph) else []
    return nodes if all(isinstance(node.meta.get("val"), Tensor) for node in nodes) else []


def expected_of(module: Any) -> Expected | None:
    """Return the expected input of a module that takes one tensor of rows; None where it is unknown."""
    nodes = inputs_of(module)
    if len(nodes) != 1 or not nodes[0].meta["val"].ndim:
        return None
    value = nodes[0].meta["val"]
    sizes = [size if isinstance(size, int) else None for size in value.shape]
    low, high = getattr(module, "meta", {}).get(ROWS, (0, None))
    if sizes[0] is not None:
        low = high = sizes[0]
    return Expected(value.dtype, tuple(sizes[1:]), low, high)
