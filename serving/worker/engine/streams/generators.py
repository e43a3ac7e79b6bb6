"""Generators: streams of plain generators, each asked for one chunk in its turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from serving.deadline import Clock
from serving.worker.batching.items import Item
from serving.worker.engine.failures import predict_error
from serving.worker.engine.progressrow import ProgressRow
from serving.worker.engine.streams.endings import Endings
from serving.worker.engine.streams.parts import Part
from serving.worker.engine.streams.stream import Stream
from serving.worker.engine.streams.unsent import Unsent
from serving.worker.rules import Rules

CLOSE_TIME = 5.0  # seconds that a generator's clean-up may take


class Generators:
    """The generators of one engine, in the order of their turns. ``emit`` sends one part at once."""

    def __init__(
        self,
        progress: ProgressRow,
        emit: Callable[[Item, Part], None],
        endings: Endings,
        unsent: Unsent,
        rules: Rules,
        clock: Clock,
    ) -> None:
        self._progress = progress
        self._emit = emit
        self._endings = endings
        self._unsent = unsent
        self._idle = rules.stream_idle
        self._first = rules.timeout
        self._clock = clock
        self.turns: deque[Stream] = deque()
        """The streams under way, the next in turn first."""

    @property
    def can_step(self) -> bool:
        """Whether a generator can be asked for a chunk, or has to be closed."""
        return any(stream.flow.is_open or stream.item.cancelled for stream in self.turns)

    def step(self) -> None:
        """Ask the next generator in turn for one chunk, or close it where its client has left."""
        for _ in range(len(self.turns)):
            stream = self.turns.popleft()
            if stream.item.cancelled:
                self._close(stream)
            elif stream.flow.is_open:
                if self._advance(stream):
                    self.turns.append(stream)
            else:
                self.turns.append(stream)
                continue
            break

    def _advance(self, stream: Stream) -> bool:
        """Ask a generator for one chunk. Returns whether there may be more."""
        import torch

        self._progress.start(self._unsent.at_risk(), self._clock() + (self._idle if stream.begun else self._first))
        id = stream.item.id
        try:
            with torch.inference_mode():
                part = stream.take(next(stream.chunks))
            self._emit(stream.item, part)
            return True
        except StopIteration:
            self._endings.finish(stream)
        except BaseException as exc:
            self._endings.fail(stream, exc)
        finally:
            self._progress.finish(0)
        self._unsent.pop(id, None)
        return False

    def _close(self, stream: Stream) -> None:
        """Close a generator whose client has left."""
        self._progress.start(self._unsent.at_risk(), self._clock() + CLOSE_TIME)
        try:
            close = getattr(stream.response.pieces, "close", None)
            if close is not None:
                close()
        except BaseException as exc:
            predict_error(stream.item, exc)
        self._endings.abandon(stream)
        self._progress.finish(0)
