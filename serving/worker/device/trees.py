"""Trees: tensors in a handler's results, alone or within tuples, lists and dicts of any depth."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any


def map_tensors(function: Callable[[Any], Any], value: Any) -> Any:
    """Return ``value`` with each tensor replaced by ``function`` of it, or ``value`` itself where there is none.

    Types are kept, also of named tuples and of dicts such as the outputs of ``transformers``.
    """
    import torch

    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, tuple | list):
        found = [map_tensors(function, one) for one in value]
        if all(new is old for new, old in zip(found, value, strict=True)):
            return value
        return type(value)._make(found) if hasattr(value, "_make") else type(value)(found)
    if isinstance(value, dict):
        changed = {key: map_tensors(function, one) for key, one in value.items()}
        if all(changed[key] is one for key, one in value.items()):
            return value
        result = copy.copy(value)
        for key, one in changed.items():
            result[key] = one
        return result
    return value
