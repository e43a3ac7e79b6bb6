"""Wrapped: a stand-in for a module that replaces its call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Wrapped:
    """The module with another ``__call__``; all else is the module's own."""

    def __init__(self, module: Any, call: Callable[..., Any]) -> None:
        self._module = module
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
