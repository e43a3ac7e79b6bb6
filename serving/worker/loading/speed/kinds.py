"""Kinds: whether two calls of a module are alike, so that a recording of one holds for the other."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from contextlib import ExitStack
from enum import Enum
from typing import Any

PLAIN = (type(None), bool, int, str, bytes, Enum)


class Unknown(Exception):
    """A value of which nobody can tell whether it is the same the next time."""


def kind_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable | None:
    """Return all that a recording of this call depends on, except the numbers in its tensors.

    That is each value's place and name, its value if it is no tensor, and a tensor's device, dtype, shape and strides.
    None where that cannot be known, as for objects of user classes, which may change unseen.
    """
    # Sorted, since the order of keyword arguments makes no difference.
    named = sorted(kwargs.items())
    try:
        return casts(), part_of(args), *((name, part_of(value)) for name, value in named)
    except Unknown:
        return None


def casts() -> tuple[tuple[str, Any], ...]:
    """Return the device types with autocast on, each with its dtype."""
    import torch

    return tuple((name, torch.get_autocast_dtype(name)) for name in ("cuda", "cpu") if torch.is_autocast_enabled(name))


def casting(wanted: Iterable[tuple[str, Any]]) -> ExitStack:
    """Return a context in which ``casts`` returns ``wanted``."""
    import torch

    with ExitStack() as stack:
        for name, dtype in wanted:
            stack.enter_context(torch.autocast(name, dtype))
        return stack.pop_all()


def part_of(value: Any) -> Hashable:
    """Return one value's part of the kind. Raises Unknown."""
    import torch

    kind = type(value)
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided:
            raise Unknown
        return kind, value.device, value.dtype, value.shape, order_of(value), value.is_conj(), value.is_neg()
    if isinstance(value, tuple | list):
        return kind, *map(part_of, value)
    if isinstance(value, dict):
        return kind, *((part_of(key), part_of(one)) for key, one in value.items())
    if isinstance(value, PLAIN):
        return kind, value
    if isinstance(value, float | complex):
        return kind, repr(value)  # 0.0 and -0.0 are equal
    if isinstance(value, torch.dtype | torch.device | torch.memory_format | torch.layout):
        return kind, str(value)
    raise Unknown


def order_of(tensor: Any) -> Hashable:
    """Return the strides, 0 for dimensions of size 1, where they do not matter."""
    return tuple(step if size > 1 else 0 for size, step in zip(tensor.shape, tensor.stride(), strict=True))
