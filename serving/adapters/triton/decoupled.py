"""Decoupled models: ``execute`` returns no responses but sends any number for each request, at any time.

``execute`` runs on a thread of its own, so that responses leave at once; requests that arrive meanwhile are its next
batch. The engine's thread only passes responses on. Where ``execute`` has sent nothing for as long as a request may
take, the engine's thread waits for it, so that the supervisor sees that and ends the process. An ``execute`` that waits
for a slow client also makes no progress, but is not at fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serving.adapters.triton.calls import Call
from serving.adapters.triton.script import Script
from serving.adapters.triton.statistics import Statistics
from serving.errors import HandlerError
from serving.system import log


class Executor:
    """The thread of a decoupled model. ``batches`` splits waiting calls into lists that may share an ``execute``."""

    def __init__(self, script: Script, batches: Callable[[Sequence[Call]], Any], statistics: Statistics) -> None:
        self._script = script
        self._statistics = statistics
        self._batches = batches
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy_since: float | None = None
        self._waits_for_client = False
        self._thread = threading.Thread(target=self._run, name="execute", daemon=True)
        self._thread.start()

    def submit(self, call: Call) -> None:
        self._queue.put(call)

    def progress(self) -> None:
        """Record that a response was sent."""
        if self._busy_since is not None:
            self._busy_since = time.monotonic()

    @property
    def is_here(self) -> bool:
        """Whether the current thread is that of ``execute``."""
        return threading.current_thread() is self._thread

    @property
    def is_loop(self) -> bool:
        """Whether the current thread is that of an async ``execute``, where waiting would block other requests."""
        return self.is_here and self._loop is not None

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Context of a sender that waits for a client to read. Only ``execute`` itself could look hung meanwhile."""
        here = self.is_here
        self._waits_for_client = here or self._waits_for_client
        try:
            yield
        finally:
            self.progress()
            self._waits_for_client = self._waits_for_client and not here

    def wait_if_stuck(self, patience: float) -> None:
        """Wait for an ``execute`` that has sent nothing for ``patience`` seconds. From the engine's thread."""
        since = self._busy_since
        if self._loop is not None:
            self._wait_for_loop(self._loop)
        elif since is not None and time.monotonic() - since >= patience:
            if self._waits_for_client:
                return
            log.error("execute of a decoupled model stands still")
            while self._busy_since == since and not self._waits_for_client:
                time.sleep(0.01)

    def _wait_for_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until the loop runs other code: an async ``execute`` hangs where it never yields."""
        turned = threading.Event()
        with contextlib.suppress(RuntimeError):  # the loop is closed: the worker ends
            loop.call_soon_threadsafe(turned.set)
            turned.wait()

    def close(self) -> None:
        """Let queued calls finish, for at most 2 seconds: their clients have left."""
        self._queue.put(None)
        self._thread.join(2.0)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            if self._script.is_async:
                self._loop = runner.get_loop()
                runner.run(self._serve_async())
                return
        while (calls := self._take()) is not None:
            for batch in self._batches(calls):
                # Their clients may have left while earlier batches ran.
                if live := [call for call in batch if not call.client.gone]:
                    self._work(live)

    def _take(self) -> list[Call] | None:
        """Return all waiting calls, once there is one; None at the end."""
        call = self._queue.get()
        calls: list[Call] = []
        while call is not None:
            calls += [] if call.client.gone else [call]
            try:
                call = self._queue.get_nowait()
            except queue.Empty:
                return calls
        if calls:
            self._queue.put(None)
        return calls or None

    def _work(self, batch: list[Call]) -> None:
        set_shared(batch)
        self._busy_since = time.monotonic()
        try:
            with self._statistics.running(batch):
                given = self._script.execute([call.renew() for call in batch])
            self._settle(batch, given)
        except BaseException as exc:
            fail(batch, exc)
        finally:
            self._busy_since = None

    # An async execute: many at a time.

    async def _serve_async(self) -> None:
        loop = asyncio.get_running_loop()
        # A separate thread: the loop's own may all be busy with calls of other models.
        taker = ThreadPoolExecutor(1, "take")
        while (calls := await loop.run_in_executor(taker, self._take)) is not None:
            for batch in self._batches(calls):
                task = loop.create_task(self._work_async(batch))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)

    async def _work_async(self, batch: list[Call]) -> None:
        set_shared(batch)
        try:
            work: Coroutine[Any, Any, Any] = self._script.begin([call.renew() for call in batch])
            with self._statistics.running(batch):
                given = await work
            self._settle(batch, given)
        except BaseException as exc:
            fail(batch, exc)

    def _settle(self, batch: list[Call], given: Any) -> None:
        if given is not None and any(one is not None for one in given):
            raise HandlerError("execute of a decoupled model gives None and sends its responses")
        for call in batch:
            if call.is_rescheduled:
                self.submit(call)


def set_shared(batch: list[Call]) -> None:
    for call in batch:
        call.shares = len(batch) > 1


def fail(batch: list[Call], exc: BaseException) -> None:
    for call in batch:
        assert call.sink is not None
        call.sink.fail(exc)
