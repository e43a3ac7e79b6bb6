"""Recorder: CUDA kernels recorded as graphs, all with one memory pool and on one stream."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

WARMUPS = 3  # runs before one is recorded


class Recorder:
    """The graphs of one device. ``check`` raises where the device does not compute any more."""

    def __init__(self, device: str, check: Callable[[], None]) -> None:
        self._device = device
        self._check = check
        self._stream: Any = None
        self._pool: Any = None
        self._broken: list[Any] = []

    def record(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Return a function that replays the kernels of ``function``, and its outputs.

        Each replay of any graph of this recorder may overwrite them. Raises what ``function`` raises while recorded, or
        the error of a lost device.
        """
        import torch

        if self._stream is None:
            # Libraries keep memory for each stream that they have worked on, so all graphs share one.
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()
        computing = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(computing)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream), uncached_casts():
            # First-use work, such as workspaces and tuning, must not be part of the graph.
            for _ in range(WARMUPS):
                function()
            outputs = self._capture(graph, function)
        computing.wait_stream(self._stream)
        return graph.replay, outputs

    def _capture(self, graph: Any, function: Callable[[], Any]) -> Any:

        try:
            return self._trace(graph, function)
        except BaseException:
            self._abandon(graph)
            self._check()
            raise

    def _trace(self, graph: Any, function: Callable[[], Any]) -> Any:
        import torch

        # Only this thread is recorded: others may go on.
        mode = "thread_local"
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode=mode):
            return function()

    def _abandon(self, graph: Any) -> None:
        """Clean up after a capture that the driver has aborted, which for torch never ends.

        Its allocator would keep back memory that several streams have used, and its random numbers would stay a
        graph's.
        """
        import torch

        self._broken.append(graph)  # the allocator may still use it
        end = getattr(torch._C, "_cuda_endAllocateToPool", None)
        with contextlib.suppress(RuntimeError):  # where the capture did end
            if end is not None:
                end(torch.device(self._device).index, self._pool)
        # Earlier graphs keep the old pool; later ones get a new one.
        self._pool = torch.cuda.graph_pool_handle()
        with contextlib.suppress(RuntimeError):
            # A capture that ends well resets the state that the broken one has left.
            self._trace(torch.cuda.CUDAGraph(), lambda: torch.ones(1, device=self._device) + 1)


@contextlib.contextmanager
def uncached_casts() -> Iterator[None]:
    """Context without autocast's cache of cast weights, which a graph would read after the cache is gone."""
    import torch

    before = torch.is_autocast_cache_enabled()
    torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
