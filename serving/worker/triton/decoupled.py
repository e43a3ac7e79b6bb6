"""Decoupled models: ``execute`` gives no responses but sends them, any number for each request, when it likes.

``execute`` runs on a thread of its own, so that what it sends on the way leaves at once; requests that have come in
the meantime are its next batch. The engine's thread only passes responses on. A call of ``execute`` that has sent
nothing for as long as a request may take is waited for on the engine's thread, where the supervisor sees it and ends
the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils
from serving import log
from serving.errors import HandlerError
from serving.request import Request
from serving.worker.triton.answers import EVENTS, Answers, coded
from serving.worker.triton.calls import Call
from serving.worker.triton.script import Script

RESCHEDULE = pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE


class Executor:
    """Runs a decoupled model. ``batches`` splits the calls that wait into lists that may share an ``execute``."""

    def __init__(self, script: Script, batches: Callable[[Sequence[Call]], Any]) -> None:
        self._script = script
        self._batches = batches
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="execute", daemon=True)
        self._thread.start()

    def submit(self, call: Call) -> None:
        self._queue.put(call)

    def progress(self) -> None:
        """A response was sent."""
        if self._busy_since is not None:
            self._busy_since = time.monotonic()

    def wait_if_stuck(self, patience: float) -> None:
        """Wait for an ``execute`` that has sent nothing for ``patience`` seconds. From the engine's thread."""
        since = self._busy_since
        if self._loop is not None:
            self._wait_for_loop(self._loop)
        elif since is not None and time.monotonic() - since >= patience:
            log.error("execute of a decoupled model stands still")
            while self._busy_since == since:
                time.sleep(0.01)

    def _wait_for_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """An async ``execute`` stands still where it lets nobody else run."""
        turned = threading.Event()
        with contextlib.suppress(RuntimeError):  # it is closed: the worker ends
            loop.call_soon_threadsafe(turned.set)
            turned.wait()

    def close(self) -> None:
        """Let what is queued finish, but not for long: nobody waits for it any more."""
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
                self._work(batch)

    def _take(self) -> list[Call] | None:
        """All that waits, once something does; None at the end."""
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
        self._busy_since = time.monotonic()
        try:
            self._settle(batch, self._script.execute([call.renew() for call in batch]))
        except BaseException as exc:
            fail(batch, exc)
        finally:
            self._busy_since = None

    # An async execute: many at a time.

    async def _serve_async(self) -> None:
        while (calls := await asyncio.to_thread(self._take)) is not None:
            for batch in self._batches(calls):
                task = asyncio.get_running_loop().create_task(self._work_async(batch))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)

    async def _work_async(self, batch: list[Call]) -> None:
        try:
            work: Coroutine[Any, Any, Any] = self._script.begin([call.renew() for call in batch])
            self._settle(batch, await work)
        except BaseException as exc:
            fail(batch, exc)

    def _settle(self, batch: list[Call], given: Any) -> None:
        if given is not None and any(one is not None for one in given):
            raise HandlerError("execute of a decoupled model gives None and sends its responses")
        for call in batch:
            if call.request._release == RESCHEDULE:
                self.submit(call)


def fail(batch: list[Call], exc: BaseException) -> None:
    for call in batch:
        assert isinstance(call.sink, Pieces)
        call.sink.fail(exc)


class Pieces:
    """The responses to one call, from the threads that send them to the engine's event loop."""

    def __init__(self, call: Call, answers: Answers, executor: Executor, request: Request) -> None:
        self._call = call
        self._answers = answers
        self._executor = executor
        self._events = wants_events(request)
        self._patience = request.deadline.at - call.arrival
        self._ready: deque[pb_utils.InferenceResponse | BaseException | None] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        call.sink = self

    def put(self, response: pb_utils.InferenceResponse | None, final: bool) -> None:
        self._executor.progress()
        if response is not None:
            self._ready.append(response)
        if final:
            self._ready.append(None)
            self._call.sent.set()
        self._wake()

    def fail(self, exc: BaseException) -> None:
        self._ready.append(exc)
        self._call.sent.set()
        self._wake()

    def _wake(self) -> None:
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the worker ends
                loop.call_soon_threadsafe(self._changed.set)

    async def stream(self) -> AsyncIterator[bytes]:
        """Each response as it is sent. Raises what ``execute`` raised, and an error that comes first."""
        self._loop = asyncio.get_running_loop()
        begun = False
        try:
            while (response := await self._next()) is not None:
                if isinstance(response, BaseException):
                    raise response
                error = response.error()
                if error is not None and not begun:
                    raise coded(error)
                begun = True
                yield self._answers.piece(self._call, response, self._events)
        except asyncio.CancelledError:
            self._call.client.gone = True
            if time.monotonic() - self._call.arrival >= self._patience:
                self._executor.wait_if_stuck(self._patience)
            raise
        finally:
            self._call.client.gone = True

    async def _next(self) -> pb_utils.InferenceResponse | BaseException | None:
        while not self._ready:
            self._changed.clear()
            if not self._ready:
                await self._changed.wait()
        return self._ready.popleft()


def wants_events(request: Request) -> bool:
    return EVENTS in request.accept.lower()
