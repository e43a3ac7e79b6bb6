"""Insights: captum's methods for explanations of built-in handlers, imported at first use."""

from __future__ import annotations

import importlib
from typing import Any

from serving.errors import CodedError


def attribution(name: str) -> Any:
    """Return a class of ``captum.attr``. Raises CodedError where captum is not installed."""
    try:
        module = importlib.import_module("captum.attr")
    except ImportError as exc:
        raise CodedError(501, "prediction_exception", "explanations need captum, which is not installed") from exc
    return getattr(module, name)
