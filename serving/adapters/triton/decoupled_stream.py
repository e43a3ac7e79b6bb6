"""DecoupledStream: the responses of a decoupled model to one call, from the threads that send them to its client.

A response is encoded where it is sent, so that the model may reuse its arrays. At most a window of bytes waits for a
slow client: then ``send`` waits, for as long as a request may take.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator

import triton_python_backend_utils as pb_utils
from serving.adapters.triton.calls import Call
from serving.adapters.triton.decoupled import Executor
from serving.adapters.triton.response_encoder import EVENTS, ResponseEncoder, coded
from serving.adapters.triton.statistics import Statistics
from serving.errors import CodedError, HandlerError
from serving.ipc.flow import Flow, cost
from serving.request import Request
from serving.system import log

LOOK = 0.25  # seconds between checks whether the client has left, since no event may tell
SURPLUS = 16 << 20  # bytes that may be queued where the sender is an event loop and cannot wait

Chunk = bytes | BaseException


class DecoupledStream:
    def __init__(
        self, call: Call, encoder: ResponseEncoder, executor: Executor, request: Request, statistics: Statistics
    ) -> None:
        self._call = call
        self._statistics = statistics
        self._encoder = encoder
        self._executor = executor
        self._events = wants_events(request)
        self._patience = request.deadline.at - call.arrival
        self._ready: deque[Chunk | None] = deque()
        self._begun = False
        self._refusal = ""
        self._flow = Flow()
        self._room = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        call.sink = self

    def put(self, response: pb_utils.InferenceResponse | None, final: bool) -> None:
        """Queue a response. Raises TritonModelException where the client has left."""
        self._executor.progress()
        if response is not None:
            self._push(self._encoded(response))
        if final:
            self._ready.append(None)
            self._call.sent.set()
        self._wake()

    def fail(self, exc: BaseException) -> None:
        self._ready.append(exc)
        self._call.sent.set()
        self._wake()

    def _encoded(self, response: pb_utils.InferenceResponse) -> Chunk:
        error = response.error()
        if error is not None and not self._begun:
            return coded(error)  # before the first response the status can still change
        self._begun = True
        try:
            return self._encoder.encode_chunk(self._call, response, self._events)
        except Exception as exc:
            return exc

    def _push(self, chunk: Chunk) -> None:
        with self._room:
            self._wait_for_room()
            if self._refusal or self._call.client.gone:
                if self._call.shares and self._executor.is_here:
                    return  # raising would also end the other requests of this ``execute``
                raise pb_utils.TritonModelException(self._refusal or "Unable to send response. The client has gone.")
            self._flow.sent += cost(chunk) if isinstance(chunk, bytes) else 0
            self._ready.append(chunk)

    def _wait_for_room(self) -> None:
        if self._flow.is_open:
            return
        if self._executor.is_loop:
            if self._flow.sent - self._flow.used > SURPLUS:
                self._give_up(f"more than {SURPLUS} bytes of the answer wait for the client to read them")
            return
        until = time.monotonic() + self._patience
        with self._executor.waiting():
            while not (self._flow.is_open or self._refusal or self._call.client.gone):
                left = until - time.monotonic()
                if left <= 0:
                    self._give_up("the client has not read what was sent to it in time")
                    return
                self._room.wait(min(left, LOOK))

    def _give_up(self, why: str) -> None:
        log.warning("the answer of a decoupled model ends early", reason=why)
        self._refusal = f"Unable to send response: {why}."
        self.fail(HandlerError(why))

    def _wake(self) -> None:
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the worker ends
                loop.call_soon_threadsafe(self._changed.set)

    # On the engine's thread.

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield each response as it is sent. Raises the exception of ``execute``, and an error that comes first."""
        self._loop = asyncio.get_running_loop()
        is_complete = False
        try:
            while (chunk := await self._next()) is not None:
                if isinstance(chunk, BaseException):
                    raise chunk
                self._use(chunk)
                yield chunk
            is_complete = True
        except (asyncio.CancelledError, GeneratorExit):
            self._leave()
            if time.monotonic() - self._call.arrival >= self._patience:
                self._executor.wait_if_stuck(self._patience)
            raise
        finally:
            self._leave()
            if is_complete:
                self._statistics.succeeded(self._call, 0)
            else:
                self._statistics.failed(self._call.arrival)

    def _use(self, chunk: bytes) -> None:
        with self._room:
            self._flow.used += cost(chunk)
            self._room.notify_all()

    def _leave(self) -> None:
        with self._room:
            self._call.client.gone = True
            self._ready.clear()
            self._room.notify_all()

    async def _next(self) -> Chunk | None:
        while not self._ready:
            self._changed.clear()
            if not self._ready:
                await self._changed.wait()
        return self._ready.popleft()


class Warming:
    """A sink for responses to a warm-up call, which are dropped."""

    def __init__(self, call: Call) -> None:
        self._call = call
        call.sink = self

    def put(self, response: pb_utils.InferenceResponse | None, final: bool) -> None:
        error = None if response is None else response.error()
        if error is not None:
            self._call.failure = coded(error)
        if final:
            self._call.sent.set()

    def fail(self, exc: BaseException) -> None:
        self._call.failure = exc if isinstance(exc, CodedError) else HandlerError(f"{type(exc).__name__}: {exc}")
        self._call.sent.set()


def wants_events(request: Request) -> bool:
    return EVENTS in request.accept.lower()
