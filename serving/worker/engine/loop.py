"""UserLoop: the event loop on which a handler's async code runs, on the engine's thread and only between batches."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

CLOSE_TIME = 2.0  # seconds for tasks to end after they were cancelled


class Watched(selectors.DefaultSelector):
    """A loop runs code of others whenever it is not waiting here; ``before`` and ``after`` see it come and go."""

    def __init__(self, before: Callable[[], None], after: Callable[[], None]) -> None:
        super().__init__()
        self._before = before
        self._after = after

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._before()
        try:
            return super().select(timeout)
        finally:
            self._after()


class UserLoop:
    """``on_wait`` is called where the loop begins to wait, ``on_run`` before it runs what is due."""

    def __init__(self, on_wait: Callable[[], None], on_run: Callable[[], None]) -> None:
        self._loop = asyncio.SelectorEventLoop(Watched(on_wait, on_run))
        self._on_wait = on_wait
        self._on_run = on_run
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """From any thread: let ``turn`` come back."""
        self.call(self._woken.set)

    def call(self, function: Callable[..., object], *args: object) -> None:
        """From any thread: run this on the loop; nothing happens once it is closed."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._loop.create_task(work)

    def turn(self, delay: Callable[[], float | None]) -> None:
        """Run tasks until woken, but not longer than ``delay()`` seconds; each task that can gets one turn at least."""
        import torch

        self._on_run()
        try:
            with torch.inference_mode():
                self._loop.run_until_complete(self._turn(delay))
        finally:
            self._on_wait()

    async def _turn(self, delay: Callable[[], float | None]) -> None:
        self._woken.clear()
        await asyncio.sleep(0)
        seconds = delay()
        if seconds is not None and seconds <= 0:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    def close(self) -> None:
        """End what still runs."""
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._on_run()
        try:
            if tasks:
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=CLOSE_TIME))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._on_wait()
            self._loop.close()
