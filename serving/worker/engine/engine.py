"""Engine: the thread that runs user code.

Every call of user code is announced on the scoreboard with the time that it may take, so that the supervisor can end
it; requests stay listed as running until their answers are handed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from serving.deadline import Clock
from serving.handler import Handler
from serving.worker.batching.batcher import Batcher
from serving.worker.counts import EngineCounts
from serving.worker.device.border import Device
from serving.worker.device.host import Host
from serving.worker.engine.batches import Batches
from serving.worker.engine.calls import Calls
from serving.worker.engine.computing import Computing, Lost
from serving.worker.engine.encoding import ReplyEncoder
from serving.worker.engine.entrance import Entrance
from serving.worker.engine.flights import Flights, progress_of
from serving.worker.engine.handover import Deliver, Handover
from serving.worker.engine.progressrow import EngineRow
from serving.worker.engine.streams.streams import Streams
from serving.worker.rules import DEFAULT, Rules


class Engine:
    """The engine of one model. ``deliver`` gets the outcomes of each batch, on the engine's thread: exactly one for
    each request, or a stream that ends with one. ``lost`` ends the process when its ``device`` is lost to it. ``sent``
    waits until all that was delivered has left the process, ``room`` only while that is much."""

    def __init__(
        self,
        handler: Handler,
        batcher: Batcher,
        row: EngineRow,
        deliver: Deliver,
        rules: Rules = DEFAULT,
        device: Device | None = None,
        lost: Lost | None = None,
        clock: Clock = time.monotonic,
        sent: Callable[[], None] = lambda: None,
        room: Callable[[], None] = lambda: None,
        counts: EngineCounts | None = None,
    ) -> None:
        self._handler = handler
        self._counts = counts = counts or EngineCounts()
        self._batcher = batcher
        self._bell = batcher.bell
        self._clock = clock
        self._flights = Flights(rules.timeout, clock)
        device = device or Host()
        progress = progress_of(row, self._flights, device.runs_ahead)
        self._computing = computing = Computing(handler, device, counts.padded, lost)
        self._handover = handover = Handover(deliver, progress)
        self.streams = Streams(batcher, progress, handover.emit, rules, computing.check, clock)
        calls = Calls(progress, rules.timeout, self.streams.unsent, clock)
        encoder = ReplyEncoder(handler, computing, calls, self.streams, rules)
        tools = (self._flights, computing, encoder, calls, handover, counts)
        self._batches = Batches(batcher, *tools, room, clock)
        self._entrance = Entrance(handler, batcher, self._batches, self.streams, *tools, sent, rules, clock)
        self._gathering = self._entrance.gathering

    def run(self) -> None:
        """Work until the batcher is closed and empty, and every stream has ended."""
        for _ in self.turns():
            pass

    def turns(self) -> Iterator[None]:
        """Run as ``run`` does, one step each time the iterator is advanced."""
        while self._wait():
            self.step()
            yield
        self.streams.close()
        self._entrance.close()

    def _wait(self) -> bool:
        self._bell.away(len(self.streams) > 0)
        if self._gathering.pending:
            return True
        if self._flights.batches:
            if not self._batcher.is_full:
                self._batcher.rest(self._flights.pause())
            return True
        if self.streams.is_async:
            self.streams.wait()
            return True
        return self.streams.can_step or self._batcher.wait(pending=len(self.streams) > 0)

    def step(self) -> None:
        """Decode new requests until a batch is full; run the batch that is due and one step of a stream."""
        self._step_batch()
        if self._gathering.pending:
            self._gathering.step()
        if len(self.streams):
            since = self._clock()
            self.streams.step()
            self._counts.stepped(since, self._clock())
        if self._handler.exclusive_streams and not self.streams.can_step:
            self._batcher.forecast.released(self._clock())

    def _step_batch(self) -> None:
        self._bell.look()
        if self._entrance.threads is not None:
            self._entrance.collect()
        if (item := self._batcher.next_arrival()) is not None:
            self._entrance.take_all(item)
        if self._handler.exclusive_streams and self.streams.can_step:
            self._batcher.forecast.holds(self._clock())
            return
        if not self._flights.batches or self._flights.has_room:
            self._batches.take()
        if self._flights.batches:
            self._land()

    def _land(self) -> None:
        """Answer the batches that are done; wait for one if there is nothing else to do or a stream needs its turn."""
        waits = len(self.streams) > 0 or (self._batcher.is_full and not self._flights.has_room)
        while self._batches.land(only_done=not waits):
            waits = len(self.streams) > 0
