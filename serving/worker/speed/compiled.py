"""Compiled: a module through ``torch.compile``, and without it where that fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serving import log


class Compiled:
    """``mode`` is one of ``torch.compile``. ``on_recompile`` is called when something is compiled after ``settle``."""

    def __init__(self, call: Callable[..., Any], mode: str, on_recompile: Callable[[], None]) -> None:
        import torch

        self._eager = call
        self._compiled: Callable[..., Any] | None = torch.compile(call, mode=mode)
        self._on_recompile = on_recompile
        self._count = -1

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._compiled is None:
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
        return outputs

    def settle(self) -> None:
        """All that is to be compiled is."""
        self._count = compilations()


def compilations() -> int:
    """How many graphs have been compiled in this process."""
    from torch._dynamo.utils import counters  # the only place where torch says it

    return int(counters["stats"]["unique_graphs"])


def is_of_the_compiler(exc: BaseException) -> bool:
    """Whether the compiler failed and not the model, by the type of the error or of what led to it."""
    seen: set[int] = set()
    one: BaseException | None = exc
    while one is not None and id(one) not in seen:
        if any(base.__module__.startswith(("torch._dynamo", "torch._inductor")) for base in type(one).__mro__):
            return True
        seen.add(id(one))
        one = one.__cause__
    return False
