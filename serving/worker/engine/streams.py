"""Streams: answers in chunks, many at a time, on the engine's thread.

A generator is asked for one chunk at a time, in turn with all others and with the batches; an async generator runs on
an event loop between them. At most a window of bytes of one stream is on its way to its client, so that a slow client
holds up nobody and costs no memory."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from inspect import isasyncgen, isgenerator
from typing import Any, cast

from serving import codecs
from serving.conversation import Close, Message
from serving.deadline import Clock
from serving.errors import HandlerError, ServingError
from serving.handler import MAX_BATCH
from serving.http.accept import concrete
from serving.ipc.flow import Flow, cost
from serving.request import Body, Piece, Pieces, Request, Response, StreamingResponse
from serving.system import log
from serving.worker.batching.batcher import Batcher, Item
from serving.worker.engine.checks import check_head
from serving.worker.engine.failures import expired, forget, predict_error
from serving.worker.engine.loop import UserLoop
from serving.worker.engine.stamps import Stamps
from serving.worker.rules import Rules

CLOSE_TIME = 5.0  # seconds that a generator's clean-up may take

TEXT, BYTES = "text/plain; charset=utf-8", "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Begin:
    """The head of a stream and its first chunk, in ``response``."""

    response: Response


@dataclass(frozen=True, slots=True)
class More:
    """The next chunk."""

    body: Body


@dataclass(frozen=True, slots=True)
class End:
    """The end of a stream."""


@dataclass(frozen=True, slots=True)
class Used:
    """A count of bytes from the client that were taken in, so that it may send as many more."""

    count: int


NOBODY = Item(0, Request())


def nothing() -> None:
    """Do nothing, after the end."""


Part = Begin | More | End | Message | Used | Close | ServingError


@dataclass(slots=True, eq=False)
class Stream:
    """One stream under way. ``on_end`` is called after its last chunk."""

    item: Item
    response: StreamingResponse
    on_end: Callable[[], None]
    wake: Callable[[Stream], None]
    flow: Flow = field(default_factory=Flow)
    begun: bool = False
    settled: bool = False
    task: asyncio.Task[None] | None = None
    room: asyncio.Event = field(default_factory=asyncio.Event)

    def changed(self) -> None:
        self.wake(self)

    @property
    def pieces(self) -> Iterator[Piece]:
        return cast("Iterator[Piece]", self.response.pieces)

    @property
    def charset(self) -> str:
        """The charset of the stream's text. Raises HandlerError for an unknown one."""
        return codecs.own_charset(self.response.content_type or "")

    def take(self, piece: Piece) -> Begin | More:
        """Return what to send for a chunk. Raises HandlerError where it is neither text nor bytes, or has a character
        that the charset lacks."""
        if not isinstance(piece, str | bytes | bytearray | memoryview):
            raise HandlerError(f"the pieces of an answer are text or bytes, not {type(piece).__name__}")
        body = codecs.to_bytes(piece, self.charset) if isinstance(piece, str) else bytes(piece)
        if self.begun:
            self.flow.sent += cost(body)
            return More(body)
        self.begun = True
        return self._begin(body, TEXT if isinstance(piece, str) else BYTES)

    def _begin(self, body: bytes, usual: str) -> Begin:
        answer = self.response if self.response.late is None else self.response.late()
        kind = answer.content_type or concrete(self.item.request.accept) or usual
        check_head(answer.status, kind, answer.custom_attributes)
        return Begin(Response(body, kind, answer.status, answer.custom_attributes))

    def let_go(self) -> None:
        """Drop the request, which refers back to this stream: both would stay until garbage collection."""
        self.item, self.on_end = NOBODY, nothing

    def close(self) -> list[Begin | More | End]:
        """Return what to send at the end; a stream without chunks still has a head."""
        return [End()] if self.begun else [self.take(b""), End()]


class Streams:
    """The streams of one engine. ``emit`` sends one part at once; call all but ``call`` on the engine's thread.

    A chunk may take the ``stream_idle`` of ``rules``, counted from the request for it, the first one the model's
    time-out; the HTTP worker watches the time of a whole answer and of its beginning. ``check`` gets an exception of
    user code before the client does: the device may be lost with it."""

    def __init__(
        self,
        batcher: Batcher,
        stamps: Stamps,
        emit: Callable[[Item, Part], None],
        rules: Rules,
        check: Callable[[BaseException], object],
        clock: Clock = time.monotonic,
    ) -> None:
        self._batcher = batcher
        self._stamps = stamps
        self._emit = emit
        self._idle = rules.stream_idle
        self._first = rules.timeout
        self._clock = clock
        self._check = check
        self._turns: deque[Stream] = deque()  # the generators
        self._tasks: dict[asyncio.Task[None], Item] = {}  # the async ones, and conversations
        self.unsent: dict[int, Item] = {}
        """The requests with nothing sent so far, as of the last look."""
        self._loop: UserLoop | None = None

    def __len__(self) -> int:
        return len(self._turns) + len(self._tasks)

    @property
    def answers(self) -> int:
        """The number of streams; the others under way are conversations."""
        return len(self._turns) + sum(isinstance(item.live, Stream) for item in self._tasks.values())

    @property
    def can_step(self) -> bool:
        """Whether a generator can be asked for a chunk, or has to be closed."""
        return any(stream.flow.is_open or stream.item.cancelled for stream in self._turns)

    @property
    def is_async(self) -> bool:
        return bool(self._tasks)

    def begin(self, item: Item, response: StreamingResponse, on_end: Callable[[], None]) -> None:
        """Start a stream; ``on_end`` may raise an error that replaces its end."""
        if hasattr(response.pieces, "__anext__"):
            item.live = stream = Stream(item, response, on_end, self._wake_task)
            if item.cancelled:  # none of its code has run, and a task cancelled now would never begin
                self._abandon(stream)
                return
            self.unsent[item.id] = item
            stream.task = self.start(item, self._pump(stream))
            return
        self.unsent[item.id] = item
        item.live = stream = Stream(item, response, on_end, lambda _: self._batcher.wake())
        self._turns.append(stream)
        self._stamps.hold(len(self))

    def step(self) -> None:
        """Ask the next generator in turn for one chunk."""
        if not self._turns:
            return
        for _ in range(len(self._turns)):
            stream = self._turns.popleft()
            if stream.item.cancelled:
                self._close(stream)
            elif stream.flow.is_open:
                if self._advance(stream):
                    self._turns.append(stream)
            else:
                self._turns.append(stream)
                continue
            break
        self._stamps.hold(len(self))

    def _advance(self, stream: Stream) -> bool:
        """Ask a generator for one chunk. Returns whether there may be more."""
        import torch

        self._stamps.start(self.at_risk(), self._clock() + (self._idle if stream.begun else self._first))
        id = stream.item.id
        try:
            with torch.inference_mode():
                part = stream.take(next(stream.pieces))
            self._emit(stream.item, part)
            return True
        except StopIteration:
            self._finish(stream)
        except BaseException as exc:
            self._fail(stream, exc)
        finally:
            self._stamps.finish(0)
        self.unsent.pop(id, None)
        return False

    def at_risk(self) -> list[int]:
        """Return the ids of requests that user code may be working on and of which nothing was sent yet."""
        if not self.unsent:
            return []
        for id in [id for id, item in self.unsent.items() if item.begun or item.cancelled]:
            del self.unsent[id]
        return list(self.unsent)[:MAX_BATCH]

    def _finish(self, stream: Stream) -> None:
        try:
            stream.on_end()
            parts = stream.close()
        except BaseException as exc:
            self._fail(stream, exc)
            return
        stream.settled = True
        for part in parts:
            self._emit(stream.item, part)
        stream.let_go()

    def _fail(self, stream: Stream, exc: BaseException) -> None:
        self._check(exc)
        stream.settled = True
        if not stream.begun and stream.item.request.deadline.expired(self._clock):
            self._emit(*expired(stream.item))
        else:
            self._emit(stream.item, predict_error(stream.item, exc))
        forget(exc)
        stream.let_go()

    def _close(self, stream: Stream) -> None:
        """Close a generator whose client has left."""
        self._stamps.start(self.at_risk(), self._clock() + CLOSE_TIME)
        try:
            close = getattr(stream.response.pieces, "close", None)
            if close is not None:
                close()
        except BaseException as exc:
            predict_error(stream.item, exc)
        self._abandon(stream)
        self._stamps.finish(0)

    def _abandon(self, stream: Stream) -> None:
        try:
            stream.on_end()
        except BaseException as exc:
            predict_error(stream.item, exc)
        stream.settled = True
        if stream.begun:
            self._emit(stream.item, End())
        else:
            self._emit(*expired(stream.item))  # also tells a session that it did not begin
        stream.let_go()

    # Async.

    def start(self, item: Item, work: Any) -> asyncio.Task[None]:
        """Run async user code for ``item`` until it is done."""
        if self._loop is None:
            self._loop = UserLoop(self._stamps.pause, self._stamp)
            self._batcher.wakes_also(self._loop.wake)
        task = self._loop.start(work)
        self._tasks[task] = item
        task.add_done_callback(self._forget)
        self._stamps.hold(len(self))
        return task

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call a function on the event loop, if there is one. From any thread."""
        if self._loop is not None:
            self._loop.call(function, *args)

    def wait(self) -> None:
        """Run async code until there is something else to do."""
        self._turn(self._batcher.delay)

    def go_on(self, seconds: float) -> None:
        """Advance what is under way by one step, and nothing else; waits at most ``seconds``."""
        self._batcher.away(True)
        self.step()
        if self.is_async:
            self._turn(lambda: seconds)
        elif self._turns and not self.can_step:
            self._batcher.pause(seconds)

    def _turn(self, delay: Callable[[], float | None]) -> None:
        assert self._loop is not None
        try:
            self._loop.turn(lambda: 0.0 if self.can_step or not self._tasks else delay())
        except (SystemExit, KeyboardInterrupt) as exc:  # asyncio lets these through from any task
            log.error("a task of the handler's wanted to end the process", exc=exc)
        self._stamps.finish(0)

    def close(self) -> None:
        if self._loop is not None:
            self._batcher.wakes_also(None)
            self._loop.close()

    def _stamp(self) -> None:
        """Announce async code. Which task runs is unknown; a stream that has begun has more time than others."""
        has_begun = any(not isinstance(item.live, Stream) or item.live.begun for item in self._tasks.values())
        self._stamps.start(self.at_risk(), self._clock() + (self._idle if has_begun else min(self._idle, self._first)))

    def _forget(self, task: asyncio.Task[None]) -> None:
        item = self._tasks.pop(task, None)
        if item is None:
            return
        self.unsent.pop(item.id, None)
        self._stamps.hold(len(self))
        if isinstance(item.live, Stream) and not item.live.settled:
            self._abandon(item.live)
        if self._loop is not None:
            self._loop.wake()

    def _wake_task(self, stream: Stream) -> None:
        self.call(self._changed, stream)

    def _changed(self, stream: Stream) -> None:
        stream.room.set()
        if stream.item.cancelled and stream.task is not None and not stream.task.done():
            stream.task.cancel()
            asyncio.get_running_loop().call_later(CLOSE_TIME, self._give_up, stream.task)

    def _give_up(self, task: asyncio.Task[None]) -> None:
        """Drop a task that does not end after it was cancelled, with its place and its session."""
        if not task.done():
            log.error("an async generator does not end though nobody listens any more")
            self._forget(task)

    async def _pump(self, stream: Stream) -> None:
        pieces = cast("AsyncIterator[Piece]", stream.response.pieces)
        failure: BaseException | None = None
        try:
            await self._pass_on(stream, pieces)
        except BaseException as exc:
            failure = exc
        await self._end(pieces)
        if stream.settled:
            return
        if failure is None:
            self._finish(stream)
        elif isinstance(failure, asyncio.CancelledError):
            self._abandon(stream)
        else:
            self._fail(stream, failure)

    async def _pass_on(self, stream: Stream, pieces: AsyncIterator[Piece]) -> None:
        async for piece in pieces:
            self._emit(stream.item, stream.take(piece))
            self._stamp()  # the next task in this turn of the loop has its own time
            await asyncio.sleep(0)  # a generator that never waits must give others a turn
            while not stream.flow.is_open:
                stream.room.clear()
                await stream.room.wait()

    async def _end(self, pieces: AsyncIterator[Piece]) -> None:
        close = getattr(pieces, "aclose", None)
        if close is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIME):
                await close()
        except BaseException as exc:
            log.error("an async generator failed to close", exc=exc)


def streaming(value: Any) -> StreamingResponse | None:
    """Return the result of ``encode`` as a stream, or None where it is none."""
    if type(value) is Response:
        return None
    if isinstance(value, StreamingResponse):
        return value
    return StreamingResponse(cast(Pieces, value)) if isgenerator(value) or isasyncgen(value) else None
