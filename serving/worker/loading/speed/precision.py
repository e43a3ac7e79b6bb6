"""Precision: a module's dtype and memory format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serving.errors import ModelError
from serving.model.model import Model, Speed
from serving.worker.device.trees import map_tensors


def to_precision(module: Any, speed: Speed, model: Model) -> None:
    """Change floating-point weights and buffers in place. Raises ModelError where the module cannot be changed."""
    import torch

    try:
        if speed.dtype is not None:
            module.to(getattr(torch, speed.dtype))
        if speed.channels_last:
            module.to(memory_format=torch.channels_last)
    except (RuntimeError, NotImplementedError, AttributeError, TypeError) as exc:
        raise ModelError(f"{model.path}: {', '.join(speed.keys())}: this module cannot be changed: {exc}") from exc


class Cast:
    """A module with its inputs cast to its dtype, and its outputs to float32, so that callers need not know."""

    def __init__(self, call: Callable[..., Any], speed: Speed) -> None:
        import torch

        self._call = call
        self._dtype = None if speed.dtype is None else getattr(torch, speed.dtype)
        self._last = speed.channels_last

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = map_tensors(self._in, (args, kwargs))
        outputs = self._call(*args, **kwargs)
        return outputs if self._dtype is None else map_tensors(self._out, outputs)

    def _in(self, tensor: Any) -> Any:
        import torch

        if self._dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(self._dtype)
        return tensor.contiguous(memory_format=torch.channels_last) if self._last and tensor.ndim == 4 else tensor

    def _out(self, tensor: Any) -> Any:
        return tensor.float() if tensor.dtype == self._dtype else tensor
