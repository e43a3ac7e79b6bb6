"""Streaming: handlers that send parts of their answers while they work, by ``send_intermediate_predict_response``.

Such a handler pushes while the engine pulls, so it runs on a thread of its own, in lockstep with the engine's: one of
the two always waits for the other. User code only ever runs while the engine watches it.
"""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from serving.adapters.torchserve.outputs import coded, failed
from serving.system import log


class Abandoned(Exception):
    """All clients have left: unwinds a handler that would go on working."""


class UserThread:
    """A second thread for user code. It runs ``prepare`` first."""

    def __init__(self, prepare: Callable[[], None]) -> None:
        self._prepare = prepare
        self._go = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._work: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._run, name="torchserve handler", daemon=True)
        self._thread.start()

    @property
    def is_current(self) -> bool:
        return threading.current_thread() is self._thread

    def _run(self) -> None:
        self._prepare()
        while True:
            self._go.acquire()
            work, self._work = self._work, None
            assert work is not None
            work()
            self._back.release()

    def start(self, work: Callable[[], None]) -> None:
        """Run ``work``, which raises nothing, until it gives way or ends."""
        self._work = work
        self.resume()

    def resume(self) -> None:
        self._go.release()
        self._back.acquire()

    def give_way(self) -> None:
        """Let the engine continue until it wants more. On the user's thread."""
        self._back.release()
        self._go.acquire()


class Run:
    """One call of the handler for a batch with these ``ids``. Without a ``thread`` it runs to its end at once.

    ``results`` are its answers once it is ``done``, unless it failed.
    """

    def __init__(self, call: Callable[[], list[Any]], ids: Mapping[int, str], thread: UserThread | None) -> None:
        self._call = call
        self._ids = ids
        self._thread = thread
        self._abandoned = False
        self._listeners = set(ids)
        self.kind: str | None = None  # the type of the first chunk
        self.queues: list[deque[bytes | Exception]] = [deque() for _ in ids]
        self.results: list[Any] = []
        self.error: BaseException | None = None
        self.done = False

    @property
    def has_chunks(self) -> bool:
        return not self.done or any(self.queues)

    def start(self) -> None:
        if self._thread is None:
            self._work()
        else:
            self._thread.start(self._work)

    def _work(self) -> None:
        try:
            self.results = self._call()
        except BaseException as exc:
            self.error = exc
        self.done = True

    def finish(self) -> None:
        """Run it to its end; chunks that it sends wait for their readers."""
        while not self.done:
            self.resume()

    def resume(self) -> None:
        assert self._thread is not None
        self._thread.resume()

    # For the handler.

    def send(self, values: Any, ids: Mapping[int, str], message: str, code: int) -> None:
        """Send a chunk to each request of ``ids``, by index. Raises Abandoned."""
        for index in ids:
            chunk, kind = coded(values[index])
            self.kind = self.kind or kind
            self.queues[index].append(failed(message) if code >= 400 else chunk)
        if self._thread is not None and self._thread.is_current and any(self.queues):
            self._thread.give_way()
            if self._abandoned:
                raise Abandoned("the client has gone away")

    def sendall(self, message: bytes) -> None:
        """Send what the real TorchServe writes to its socket, the same in its own framing."""
        code, text, responses = read_responses(bytes(message))
        index_of = {request_id: index for index, request_id in self._ids.items()}
        known = {index_of[request_id]: value for request_id, value in responses.items() if request_id in index_of}
        self.send(known, {index: self._ids[index] for index in known}, text, code)

    # For its readers.

    def next_chunk(self, index: int) -> bytes:
        """Return the next chunk. Raises StopIteration after the last, and the handler's exception."""
        queue = self.queues[index]
        while not queue and not self.done:
            self.resume()
        if queue:
            chunk = queue.popleft()
            if isinstance(chunk, Exception):
                raise chunk
            return chunk
        if self.error is not None:
            raise self.error
        raise StopIteration

    def leave(self, index: int) -> None:
        self._listeners.discard(index)
        if not self._listeners and not self.done:
            self._abandoned = True
            self.finish()
            if not isinstance(self.error, Abandoned | None):
                log.warning("a handler failed after its client had gone", error=type(self.error).__name__)


class IntermediateChunks:
    """The chunks of one request's response; the handler's result comes last."""

    def __init__(self, run: Run, index: int) -> None:
        self._run = run
        self._index = index
        self.kind = run.kind
        self._ended = False

    def __iter__(self) -> IntermediateChunks:
        return self

    def __next__(self) -> bytes:
        while not self._ended:
            try:
                chunk = self._run.next_chunk(self._index)
            except StopIteration:
                self._ended = True
                chunk = coded(self._run.results[self._index])[0]
            if chunk:
                return chunk
        raise StopIteration

    def close(self) -> None:
        self._ended = True
        self._run.leave(self._index)


def read_responses(message: bytes) -> tuple[int, str, dict[str, bytes]]:
    """Return code, message and values by request id from a response in the framing of TorchServe's workers."""
    at = 0

    def number() -> int:
        nonlocal at
        (value,) = struct.unpack_from("!i", message, at)
        at += 4
        return int(value)

    def text() -> bytes:
        nonlocal at
        size = number()
        at += size
        return message[at - size : at]

    code, phrase = number(), text().decode()
    responses: dict[str, bytes] = {}
    while (size := number()) >= 0:
        at += size
        request_id = message[at - size : at].decode()
        text(), number(), text()  # content type, status and phrase, which the context has too
        for _ in range(2 * number()):
            text()
        responses[request_id] = text()
    return code, phrase, responses
