"""UserLoop: the event loop of a handler's async code, on the engine's thread and only between batches."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

CLOSE_TIME = 2.0  # seconds for tasks to end after they were cancelled


class Watched(selectors.DefaultSelector):
    """A selector that calls ``before`` and ``after`` each wait; a loop runs user code whenever it is not waiting."""

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
    """The loop. ``on_wait`` is called before it waits, ``on_run`` before it runs tasks."""

    def __init__(self, on_wait: Callable[[], None], on_run: Callable[[], None]) -> None:
        self._loop = asyncio.SelectorEventLoop(Watched(on_wait, on_run))
        self._on_wait = on_wait
        self._on_run = on_run
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Make ``turn`` return. From any thread."""
        self.call(self._woken.set)

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Run a function on the loop, or nothing once that is closed. From any thread."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._loop.create_task(work)

    def turn(self, delay: Callable[[], float | None]) -> None:
        """Run tasks until woken, at most ``delay()`` seconds; each ready task gets at least one turn."""
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
        """Cancel what still runs, and close the loop."""
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
