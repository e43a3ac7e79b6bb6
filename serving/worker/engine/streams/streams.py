"""Streams: all answers in chunks and all conversations of one engine."""

from __future__ import annotations

import time
from collections.abc import Callable

from serving.deadline import Clock
from serving.handler import Handler
from serving.request import StreamingResponse
from serving.worker.batching.batcher import Batcher
from serving.worker.batching.items import Item
from serving.worker.engine.progressrow import ProgressRow
from serving.worker.engine.streams.asyncgenerators import AsyncGenerators
from serving.worker.engine.streams.conversations import WebSocketRunner
from serving.worker.engine.streams.endings import Endings
from serving.worker.engine.streams.generators import Generators
from serving.worker.engine.streams.parts import Part
from serving.worker.engine.streams.stream import Stream
from serving.worker.engine.streams.tasks import Tasks
from serving.worker.engine.streams.unsent import Unsent
from serving.worker.rules import Rules


class Streams:
    """The streams of one engine. ``emit`` sends one part at once; call all but ``call`` on the engine's thread.

    A chunk may take the ``stream_idle`` of ``rules``, counted from the request for it; the first one may take the
    model's time-out, or in async code the smaller of the two. The HTTP worker watches the time of a whole answer and of
    its beginning. ``check`` gets an exception of user code before the client does: the device may be lost with it.
    """

    def __init__(
        self,
        batcher: Batcher,
        progress: ProgressRow,
        emit: Callable[[Item, Part], None],
        rules: Rules,
        check: Callable[[BaseException], object],
        clock: Clock = time.monotonic,
    ) -> None:
        self._batcher = batcher
        self._progress = progress
        self._emit = emit
        self._check = check
        self.unsent = Unsent()
        self._endings = Endings(emit, check, clock)
        self._generators = Generators(progress, emit, self._endings, self.unsent, rules, clock)
        self._tasks = Tasks(batcher, progress, self.unsent, rules, clock, self._count)
        self._async = AsyncGenerators(self._tasks, emit, self._endings)
        self.call = self._tasks.call

    def __len__(self) -> int:
        return len(self._generators.turns) + len(self._tasks.running)

    def _count(self) -> None:
        self._progress.hold(len(self))

    @property
    def responses(self) -> int:
        """The number of streams; the others under way are conversations."""
        return len(self._generators.turns) + self._tasks.streams

    @property
    def can_step(self) -> bool:
        """Whether a generator can be asked for a chunk, or has to be closed."""
        return bool(self._generators.turns) and self._generators.can_step

    @property
    def is_async(self) -> bool:
        return bool(self._tasks.running)

    def open(self, item: Item, response: StreamingResponse, on_end: Callable[[], None]) -> None:
        """Begin a stream; ``on_end`` may raise an error that replaces its end."""
        is_async = hasattr(response.pieces, "__anext__")
        wake: Callable[[Stream], None] = self._async.wake if is_async else lambda _: self._batcher.wake()
        item.live = stream = Stream(item, response, on_end, wake)
        if is_async and item.cancelled:  # none of its code has run, and a task cancelled now would never begin
            self._endings.abandon(stream)
            return
        self.unsent[item.id] = item
        if is_async:
            self._async.add(stream)
        else:
            self._generators.turns.append(stream)
            self._count()

    def converse(self, item: Item, handler: Handler) -> None:
        """Run the conversation that ``item`` begins until it is done."""
        assert isinstance(item.live, WebSocketRunner)
        self._tasks.run(item, item.live.converse(handler, item, self._emit, self._check))

    def step(self) -> None:
        """Ask the next generator in turn for one chunk."""
        if self._generators.turns:
            self._generators.step()
            self._count()

    def wait(self) -> None:
        """Run async code until there is something else to do."""
        self._turn(self._batcher.delay)

    def go_on(self, seconds: float) -> None:
        """Advance what is under way by one step, and nothing else; waits at most ``seconds``."""
        self._batcher.away(True)
        self.step()
        if self.is_async:
            self._turn(lambda: seconds)
        elif self._generators.turns and not self.can_step:
            self._batcher.pause(seconds)

    def _turn(self, delay: Callable[[], float | None]) -> None:
        self._tasks.turn(lambda: 0.0 if self.can_step else delay())

    def close(self) -> None:
        """End the event loop of async code."""
        self._tasks.close()
