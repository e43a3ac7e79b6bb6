"""Endings: the three ways in which a stream ends, whoever makes its chunks. Each settles it once."""

from __future__ import annotations

from collections.abc import Callable

from serving.deadline import Clock
from serving.worker.batching.items import Item
from serving.worker.engine.failures import expired, forget, predict_error
from serving.worker.engine.streams.parts import End, Part
from serving.worker.engine.streams.stream import Stream


class Endings:
    """Ends streams. ``emit`` sends one part at once; ``check`` gets each exception of user code before its client."""

    def __init__(
        self, emit: Callable[[Item, Part], None], check: Callable[[BaseException], object], clock: Clock
    ) -> None:
        self._emit = emit
        self._check = check
        self._clock = clock

    def finish(self, stream: Stream) -> None:
        """End a stream that has no more chunks."""
        try:
            stream.on_end()
            parts = stream.last()
        except BaseException as exc:
            self.fail(stream, exc)
            return
        stream.settled = True
        for part in parts:
            self._emit(stream.item, part)
        stream.let_go()

    def fail(self, stream: Stream, exc: BaseException) -> None:
        """End a stream whose code has raised ``exc``."""
        self._check(exc)
        stream.settled = True
        if not stream.begun and stream.item.request.deadline.expired(self._clock):
            self._emit(*expired(stream.item))
        else:
            self._emit(stream.item, predict_error(stream.item, exc))
        forget(exc)
        stream.let_go()

    def abandon(self, stream: Stream) -> None:
        """End a stream whose client has left."""
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
