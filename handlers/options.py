"""Options: checks of ``[options]`` when a model loads, and imports of optional packages."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

from serving.errors import ModelError

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
}


def overridable(load: Callable[..., None]) -> Callable[..., None]:
    """Mark a ``load`` that a subclass may replace by one with other options; type checkers then accept any.

    Options are still checked against its signature when the model loads.
    """
    return load


def one_of(name: str, value: str, *allowed: str) -> str:
    """Return ``value`` if it is one of ``allowed``. Raises ModelError."""
    if value not in allowed:
        raise ModelError(f"[options] {name} is {value!r}; allowed: {', '.join(allowed)}")
    return value


def within(name: str, value: Any, low: float, high: float) -> Any:
    """Return ``value`` if it is a number from ``low`` to ``high``. Raises ModelError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ModelError(f"[options] {name} is {value!r}; allowed: {low:g} to {high:g}")
    return value


def whole(name: str, value: Any, low: int, high: int) -> int:
    """Return ``value`` if it is an integer from ``low`` to ``high``. Raises ModelError."""
    if not isinstance(value, int):
        raise ModelError(f"[options] {name} is {value!r}; allowed: an integer from {low} to {high}")
    return int(within(name, value, low, high))


def dtype(name: str, *allowed: str) -> torch.dtype:
    """Return the dtype of that name. Raises ModelError."""
    return DTYPES[one_of("dtype", name, *allowed)]


def need(module: str, extra: str) -> Any:
    """Import a module of an optional package. Raises ModelError with the extra to install, since no retry can help."""
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise ModelError(f"this handler needs {module}: pip install 'serving[{extra}]' ({exc})") from exc
