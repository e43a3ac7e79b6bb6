"""Compiled: a module run through ``torch.compile``, or without it where that fails."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from serving.system import log
from serving.worker.device.trees import map_tensors

RECORDING = ("reduce-overhead", "max-autotune")  # modes with CUDA graphs
SPARE = 8  # kinds of input that may be compiled while requests wait; more run uncompiled


class Compiled:
    """The compiled module; runs uncompiled before ``warming``. ``mode`` is one of ``torch.compile``.

    ``on_recompile`` is called when something is compiled after ``settle``. ``threads`` bounds the number of compilers.
    """

    def __init__(self, call: Callable[..., Any], mode: str, on_recompile: Callable[[], None], threads: int = 1) -> None:
        import torch
        from torch._inductor import config

        config.compile_threads = min(config.compile_threads or 1, max(1, threads))
        self._eager = call
        self._records = mode in RECORDING
        self._begun = False
        self._compiled: Callable[..., Any] | None = torch.compile(call, mode=mode)
        self._on_recompile = on_recompile
        self._count = -1

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._compiled is None or not self._begun:
            return self._eager(*args, **kwargs)
        try:
            outputs = self._compiled(*args, **kwargs)
        except Exception as exc:
            if not is_of_the_compiler(exc):
                raise
            self._compiled = None
            log.warning("the model cannot be compiled and runs as it is", error=f"{type(exc).__name__}: {exc}"[:500])
            return self._eager(*args, **kwargs)
        if self._count >= 0 and (count := compilations()) != self._count:
            self._count = count
            log.warning("the model was compiled again while requests waited", graphs=count)
            self._on_recompile()
        # In these modes the next call overwrites the outputs, so the caller gets copies.
        return map_tensors(copy_of, outputs) if self._records else outputs

    @contextmanager
    def warming(self, kinds: int) -> Iterator[None]:
        """Context in which each of ``kinds`` kinds of input is compiled by itself."""
        import torch._dynamo

        self._begun = True
        config = torch._dynamo.config
        # Beyond this number the module would silently run uncompiled.
        config.recompile_limit = max(config.recompile_limit, kinds + SPARE)
        config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, kinds + SPARE)
        # Sizes are fixed: code for any size, torch's default from the second on, would be slower for each.
        with config.patch(automatic_dynamic_shapes=False):
            yield

    def settle(self) -> None:
        """End the warm-up: everything is compiled."""
        self._count = compilations()
        end_compilers()


def copy_of(tensor: Any) -> Any:
    return tensor.clone() if tensor.is_cuda else tensor


def end_compilers() -> None:
    """End the compiler's processes, which would sleep beside the model for ever; they start again when needed."""
    module = sys.modules.get("torch._inductor.async_compile")
    if module is not None:
        module.shutdown_compile_workers()


def compilations() -> int:
    """Return how many graphs this process has compiled."""
    from torch._dynamo.utils import counters  # torch has no public name for it

    return int(counters["stats"]["unique_graphs"])


def is_of_the_compiler(exc: BaseException) -> bool:
    """Return whether the compiler failed, not the model, by the type of the error or of its causes."""
    seen: set[int] = set()
    one: BaseException | None = exc
    while one is not None and id(one) not in seen:
        if any(base.__module__.startswith(("torch._dynamo", "torch._inductor")) for base in type(one).__mro__):
            return True
        seen.add(id(one))
        one = one.__cause__
    return False
