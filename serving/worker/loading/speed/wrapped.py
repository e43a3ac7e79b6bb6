"""Wrapped: stands in for a module and calls it another way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Wrapped:
    """All but the call is the module's own."""

    def __init__(self, module: Any, call: Callable[..., Any]) -> None:
        self._module = module
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
