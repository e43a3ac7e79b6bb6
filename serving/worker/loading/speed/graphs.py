"""Graphed: a module's kernels, recorded once for each kind of call and replayed as one graph."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

from serving.ipc.faults import Fault
from serving.metrics import catalog
from serving.metrics.instruments import Cell
from serving.system import log
from serving.system.devicefaults import fault_of
from serving.worker.device.border import Capture
from serving.worker.device.trees import map_tensors
from serving.worker.loading.speed.alike import difference, halved
from serving.worker.loading.speed.kinds import kind_of


class Graph:
    """One recording. Its kernels read and write the memory of ``inputs`` and ``outputs``."""

    def __init__(self, call: Callable[..., Any], capture: Capture, args: Any, kwargs: Any) -> None:
        self._inputs: list[Any] = []
        own = map_tensors(self._keep, (args, kwargs))
        self._replay, self._outputs = capture(lambda: call(*own[0], **own[1]))

    def _keep(self, tensor: Any) -> Any:
        self._inputs.append(tensor.clone())
        return self._inputs[-1]

    def __call__(self, args: Any, kwargs: Any) -> Any:
        given: list[Any] = []
        map_tensors(given.append, (args, kwargs))
        for own, tensor in zip(self._inputs, given, strict=True):
            own.copy_(tensor)
        self._replay()
        # Copies: the next replay of this graph, or of another with the same memory, overwrites the outputs.
        return map_tensors(lambda tensor: tensor.clone(), self._outputs)


class Differs(Exception):
    """A replay gives other values than the module."""


REPLAYS, MISSES = Cell(catalog.GRAPH_REPLAYS, {}), Cell(catalog.GRAPH_MISSES, {})


class Graphed:
    """A module whose calls are recorded between ``begin`` and ``settle``; each recording is compared with the module.

    Where one differs none is used, since the module then does what no recording can repeat, such as drawing random
    numbers. These calls run without a graph: those of a kind not recorded; those with tensors outside ``device``, whose
    numbers would be recorded; those with gradients; those of another thread, whose replay could overwrite this one's.
    ``asked``: a setting wants the recording, so its failure is a warning.
    """

    def __init__(self, call: Callable[..., Any], capture: Capture, device: str, asked: bool = True) -> None:
        import torch

        self.reason = "there was no time for it"
        """Why nothing is recorded."""
        self._say_why = log.warning if asked else log.debug
        self._thread = threading.get_ident()
        self._until = math.inf

        self._call = call
        self._capture = capture
        self._device = torch.device(device)
        self._graphs: dict[Hashable, Graph] = {}
        self._failed: set[Hashable] = set()
        self._records = False
        self._has_logged = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        kwargs = dict(sorted(kwargs.items()))
        kind = self._kind(args, kwargs)
        graph = None if kind is None else self._graphs.get(kind)
        if graph is not None:
            REPLAYS.inc()
            return graph(args, kwargs)
        outputs = self._call(*args, **kwargs)  # raises the model's own errors
        if self._records and kind is not None and kind not in self._failed and time.monotonic() < self._until:
            self._record(kind, args, kwargs)
        elif not self._records:
            MISSES.inc()
            self._log_once()
        return outputs

    @property
    def count(self) -> int:
        return len(self._graphs)

    def has(self, args: Any, kwargs: Any) -> bool:
        """Return whether this call is of a kind that is recorded, or may be now."""
        kind = self._kind(args, dict(sorted(kwargs.items())))
        return kind is not None and (self._records or kind in self._graphs)

    def begin(self, seconds: float = math.inf) -> None:
        """Record the kinds of call of the next ``seconds``."""
        self._records = True
        self._thread = threading.get_ident()
        self._until = time.monotonic() + seconds

    def settle(self) -> None:
        self._records = False

    def forget(self) -> None:
        """Free the memory of all recordings; calls run as they are."""
        self._records = False
        self._graphs.clear()

    def _kind(self, args: Any, kwargs: Any) -> Hashable | None:
        import torch

        if torch.is_grad_enabled() or threading.get_ident() != self._thread:
            return None
        places: set[Any] = set()
        map_tensors(lambda tensor: places.add(tensor.device), (args, kwargs))
        return kind_of(args, kwargs) if places == {self._device} else None

    def _record(self, kind: Hashable, args: Any, kwargs: Any) -> None:
        try:
            graph = Graph(self._call, self._capture, args, kwargs)
            self._compare(graph, args, kwargs)
            self._graphs[kind] = graph
        except Differs as exc:
            self._graphs.clear()
            self._records, self._has_logged = False, True
            self.reason = str(exc)
            self._say_why("a recording gives other values than the model, which runs without a graph", error=str(exc))
        except Exception as exc:
            self._failed.add(kind)
            if fault_of(exc) is not Fault.MEMORY:  # after MEMORY a smaller one may fit
                self._records = False
            self._has_logged = True
            self.reason = f"{type(exc).__name__}: {exc}"[:500]
            self._say_why(
                "the model's kernels cannot be recorded and it runs without a graph",
                error=self.reason,
                recorded=len(self._graphs),
            )

    def _compare(self, graph: Graph, args: Any, kwargs: Any) -> None:
        """Replay the recorded call, and the same with other numbers. Raises Differs."""
        for given in ((args, kwargs), map_tensors(halved, (args, kwargs))):
            try:
                wanted = self._call(*given[0], **given[1])
            except Exception as exc:
                if fault_of(exc) not in (None, Fault.NONE):
                    raise
                return  # the module does not take such numbers
            if (words := difference(wanted, graph(*given))) is not None:
                raise Differs(words)

    def _log_once(self) -> None:
        """Log once why a call is slow."""
        if self._graphs and not self._has_logged:
            self._has_logged = True
            self._say_why("a call is of no kind that was recorded and runs without a graph", recorded=len(self._graphs))
