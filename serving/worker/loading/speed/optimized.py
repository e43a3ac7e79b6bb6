"""Optimized: a TorchScript module frozen and optimised for inference, or as it is where that fails."""

from __future__ import annotations

import warnings
from typing import Any

from serving.errors import ModelError
from serving.model.model import Model
from serving.system import log


class Optimized:
    """The frozen module. Raises ModelError for a module that is not TorchScript."""

    def __init__(self, module: Any, model: Model) -> None:
        import torch

        if not isinstance(module, torch.jit.ScriptModule):
            raise ModelError(f"{model.path}: optimize: {type(module).__name__} is no TorchScript module")
        self._module = module
        self._frozen: Any = None
        try:
            self._frozen = freeze(module)
        except RuntimeError as exc:  # torch.jit.Error is one
            self._log(exc)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._frozen is None:
            return self._module(*args, **kwargs)
        try:
            return self._frozen(*args, **kwargs)
        except RuntimeError as exc:
            outputs = self._module(*args, **kwargs)  # raises the model's own errors
            self._frozen = None
            self._log(exc)
            return outputs

    def _log(self, exc: RuntimeError) -> None:
        log.warning("the model cannot be optimized and runs as it is", error=f"{type(exc).__name__}: {exc}"[:500])


def freeze(module: Any) -> Any:
    """Return an optimised copy with the weights as constants of its graph. ``module`` stays as it is."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is deprecated, but many models use it
        # The outer call freezes too, but would set the caller's module to evaluation mode for it.
        return torch.jit.optimize_for_inference(torch.jit.freeze(module))
