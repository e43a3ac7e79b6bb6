"""Speed: a model's ``serving.toml`` settings for dtype, memory format, compilation, CUDA graphs and freezing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving.errors import ModelError
from serving.handler import Handler
from serving.model.model import Model
from serving.model.samples import requests_of
from serving.system import log
from serving.worker.device.border import Device
from serving.worker.loading.speed.automatic import ATTRIBUTES, Automatic, automatic
from serving.worker.loading.speed.compiled import RECORDING, Compiled
from serving.worker.loading.speed.graphs import Graphed
from serving.worker.loading.speed.optimized import Optimized
from serving.worker.loading.speed.precision import Cast, to_precision
from serving.worker.loading.speed.sizes import Sized, sizes_for, tuning
from serving.worker.loading.speed.wrapped import Wrapped

__all__ = ["Accelerated", "Automatic", "accelerate"]

ROUNDS = 3  # calls of one shape until a recording mode replays: one warms up, one records


def accelerate(
    handler: Handler, model: Model, device: Device, on_recompile: Callable[[], None], by_itself: bool = True
) -> Accelerated | Automatic | None:
    """Replace a loaded handler's module by a faster one; returns None where nothing is wanted.

    The module is the handler's ``self.module`` or ``self.model``. With ``by_itself`` a module without settings is
    recorded where that changes no answer. Raises ModelError where there are settings and no module, or it cannot be
    changed.
    """
    speed = model.speed
    may_record = by_itself and speed.cuda_graphs is None and speed.compile == "off" and model.gpus == 1
    if not speed.wanted:
        return automatic(handler, device) if may_record else None
    name, module = find_module(handler, model)
    call: Callable[..., Any] = module
    if speed.dtype is not None or speed.channels_last:
        to_precision(module, speed, model)
    if speed.optimize:
        if device.name != "cpu":
            log.warning("optimize has no effect here", model=model.name, device=device.name)
        else:
            call = Optimized(module, model)
    if speed.dtype is not None or speed.channels_last:
        call = Cast(call, speed)
    compiled = graphed = None
    if speed.compile != "off":
        call = compiled = Compiled(call, speed.compile, on_recompile, model.threads)
    if speed.cuda_graphs:
        if device.capture is None:
            log.warning("cuda_graphs has no effect here", model=model.name, device=device.name)
        else:
            call = graphed = Graphed(call, device.capture, device.name)
    recording = automatic(handler, device) if may_record else None  # before the handler's module is replaced
    sized = Sized(call, sizes_for(speed.batch_sizes, handler.policy.max_size))
    setattr(handler, name, Wrapped(module, sized if compiled or graphed else call))
    rounds = ROUNDS if speed.compile in RECORDING and device.capture is not None else 1
    return recording or Accelerated(handler, sized, compiled, graphed, rounds)


def find_module(handler: Handler, model: Model) -> tuple[str, Any]:
    import torch

    for name in ATTRIBUTES:
        module = getattr(handler, name, None)
        if isinstance(module, torch.nn.Module):
            return name, module
    keys = ", ".join(model.speed.keys())
    raise ModelError(f"{model.path}: {keys}: {type(handler).__name__} keeps no torch.nn.Module as self.module")


class Accelerated:
    """A faster module. ``warm`` runs every batch size ``rounds`` times; later compilations count as recompilations."""

    def __init__(
        self, handler: Handler, sized: Sized, compiled: Compiled | None, graphed: Graphed | None, rounds: int = 1
    ) -> None:
        self._rounds = rounds
        self._handler = handler
        self._sized = sized
        self._compiled = compiled
        self._graphed = graphed

    def warm(self, folder: Path) -> None:
        """Warm up after the handler's own ``warmup``; where that ran nothing, the samples show the model's input."""
        if self._compiled is None and self._graphed is None:
            return
        if not self._sized.seen:
            for request in requests_of(folder):
                self._handler.predict(self._handler.collate([self._handler.decode(request)]))
        if not self._sized.seen:
            log.warning("no warmup and no sample.* show what the input is like: the first requests will be slow")
        with contextlib.ExitStack() as stack:
            stack.enter_context(tuning())
            if self._compiled is not None:
                stack.enter_context(self._compiled.warming(len(self._sized.seen) * len(self._sized.sizes)))
            if self._graphed is not None:
                self._graphed.begin()
            self._sized.warm(self._rounds)
        if self._compiled is not None:
            self._compiled.settle()
        if self._graphed is not None:
            self._graphed.settle()
