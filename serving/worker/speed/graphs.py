"""Graphed: a module's kernels recorded once for each shape of input and replayed as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serving.worker.device.border import Capture
from serving.worker.device.trees import map_tensors
from serving.worker.speed.sizes import kind_of


class Graph:
    """``inputs`` and ``outputs`` are the memory that the recorded kernels read and write."""

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
        return self._outputs


class Graphed:
    """Records until ``settle``; a shape that comes first after that runs without a graph. What it gives is overwritten
    by the next call with the same shapes."""

    def __init__(self, call: Callable[..., Any], capture: Capture) -> None:
        self._call = call
        self._capture = capture
        self._graphs: dict[Any, Graph] = {}
        self._settled = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        key = kind_of((args, kwargs))
        graph = self._graphs.get(key)
        if graph is None:
            if self._settled:
                return self._call(*args, **kwargs)
            graph = self._graphs[key] = Graph(self._call, self._capture, args, kwargs)
        return graph(args, kwargs)

    def settle(self) -> None:
        self._settled = True
