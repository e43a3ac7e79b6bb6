"""Tasks: async user code, on an event loop that runs between the batches, on the engine's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from serving.deadline import Clock
from serving.system import log
from serving.worker.batching.batcher import Batcher
from serving.worker.batching.items import Item
from serving.worker.engine.progressrow import ProgressRow
from serving.worker.engine.streams.loop import UserLoop
from serving.worker.engine.streams.stream import Stream, nothing
from serving.worker.engine.streams.unsent import Unsent
from serving.worker.rules import Rules


class Tasks:
    """The tasks of one engine, each for one request. ``on_change`` is called whenever their number has changed."""

    def __init__(
        self,
        batcher: Batcher,
        progress: ProgressRow,
        unsent: Unsent,
        rules: Rules,
        clock: Clock,
        on_change: Callable[[], None],
    ) -> None:
        self._batcher = batcher
        self._progress = progress
        self._unsent = unsent
        self._idle = rules.stream_idle
        self._first = min(rules.stream_idle, rules.timeout)
        self._clock = clock
        self._on_change = on_change
        self.running: dict[asyncio.Task[None], tuple[Item, Callable[[], None]]] = {}
        """The tasks under way, each with its request and what is called at its end."""
        self._loop: UserLoop | None = None

    @property
    def streams(self) -> int:
        """The number of streams; the other tasks are conversations."""
        return sum(isinstance(item.live, Stream) for item, _ in self.running.values())

    def run(
        self, item: Item, work: Coroutine[Any, Any, None], on_end: Callable[[], None] = nothing
    ) -> asyncio.Task[None]:
        """Run async user code for ``item`` until it is done or given up, then call ``on_end``."""
        if self._loop is None:
            self._loop = UserLoop(self._progress.pause, self.record_start)
            self._batcher.wakes_also(self._loop.wake)
        task = self._loop.start(work)
        self.running[task] = item, on_end
        task.add_done_callback(self._forget)
        self._on_change()
        return task

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call a function on the event loop, if there is one. From any thread."""
        if self._loop is not None:
            self._loop.call(function, *args)

    def turn(self, delay: Callable[[], float | None]) -> None:
        """Run tasks until there is something else to do, at most ``delay()`` seconds."""
        assert self._loop is not None
        try:
            self._loop.turn(lambda: delay() if self.running else 0.0)
        except (SystemExit, KeyboardInterrupt) as exc:  # asyncio lets these through from any task
            log.error("a task of the handler's wanted to end the process", exc=exc)
        self._progress.finish(0)

    def record_start(self) -> None:
        """Announce async code. Which task runs is unknown; a stream that has begun has more time than others."""
        has_begun = any(not isinstance(item.live, Stream) or item.live.begun for item, _ in self.running.values())
        self._progress.start(self._unsent.at_risk(), self._clock() + (self._idle if has_begun else self._first))

    def give_up(self, task: asyncio.Task[None]) -> None:
        """Drop a task that does not end after it was cancelled, with its place and its session."""
        if not task.done():
            log.error("an async generator does not end though nobody listens any more")
            self._forget(task)

    def _forget(self, task: asyncio.Task[None]) -> None:
        found = self.running.pop(task, None)
        if found is None:
            return
        item, on_end = found
        self._unsent.pop(item.id, None)
        self._on_change()
        on_end()
        if self._loop is not None:
            self._loop.wake()

    def close(self) -> None:
        """Cancel what still runs, and end the event loop."""
        if self._loop is not None:
            self._batcher.wakes_also(None)
            self._loop.close()
