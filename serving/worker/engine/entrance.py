"""Entrance: from an arrival to its bucket: what is not for the model goes elsewhere, the rest is decoded."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from serving.deadline import Clock
from serving.handler import Handler
from serving.worker.batching.batcher import Alone, Batcher, Item
from serving.worker.counts import EngineCounts
from serving.worker.engine.apart import Apart
from serving.worker.engine.batches import Batches
from serving.worker.engine.calls import Calls
from serving.worker.engine.computing import Computing
from serving.worker.engine.decoding import Decoded, decode, threads_of
from serving.worker.engine.encoding import ReplyEncoder
from serving.worker.engine.failures import decode_error, expired, of_cancelled, predict_error
from serving.worker.engine.flights import Flights
from serving.worker.engine.gathering.gathering import Gathering
from serving.worker.engine.handover import Handover
from serving.worker.engine.streams.streams import Streams
from serving.worker.rules import Rules


class Entrance:
    """The entrance of one engine. ``threads`` decode, if there are any, else the engine's thread does.

    ``sent`` waits until all that was handed over has left the process.
    """

    def __init__(
        self,
        handler: Handler,
        batcher: Batcher,
        batches: Batches,
        streams: Streams,
        flights: Flights,
        computing: Computing,
        encoder: ReplyEncoder,
        calls: Calls,
        handover: Handover,
        counts: EngineCounts,
        sent: Callable[[], None],
        rules: Rules,
        clock: Clock,
    ) -> None:
        self._handler = handler
        self._batcher = batcher
        self._pace = batcher.pace
        self._batches = batches
        self._streams = streams
        self._flights = flights
        self._computing = computing
        self._encoder = encoder
        self._hooks = encoder.hooks
        self._calls = calls
        self._handover = handover
        self._counts = counts
        self._apart = Apart(streams, sent)
        self._clock = clock
        self.gathering = Gathering(handler, encoder.records, calls, batcher, handover, rules, clock)
        self.threads = threads_of(handler, batcher, calls.progress, rules.timeout, clock)

    def take_all(self, item: Item | None) -> None:
        """Take an arrival and those behind it, until a batch is full."""
        if self.threads is None:
            self._pace.begins()
        while item is not None:
            self._take(item)
            item = self._batcher.next_arrival()
        if self.threads is None:
            self._pace.ended()
        # No other code runs between two decodes, so once is enough.
        self._calls.finish()

    def _take(self, item: Item) -> None:
        if item.live is not None:
            self._streams.converse(item, self._handler)
            return
        if item.cancelled:
            if replies := of_cancelled([item]):
                self._handover.settle(replies)
            return
        now = self._clock()
        if item.request.deadline.at <= now:
            self._handover.settle([expired(item)])
            return
        if item.alone:
            self._wait_for_others()
            self._apart.run(item, self._run_alone, lambda error: self._handover.settle([(item, error)]))
            return
        if self._pace.is_slow and self._batcher.is_hopeless(item, now):
            self._handover.settle([(item, self._batcher.promises.too_late(item, now))])
            return
        if item.session is not None:
            if (outcome := self._hooks.before(item, item.session, now)) is not None:
                self._handover.settle([(item, outcome)])
                return
            now = self._clock()
        if self.gathering.take(item):
            return
        if self.threads is not None:
            self._batcher.lend()
            self._flights.decoding(item)
            self.threads.submit(item)
            return
        self._calls.one(item, now)
        decoded = decode(self._handler, item)
        after = self._clock()
        self._pace.add(after - now)
        self._counts.decoded(after - now, after)
        self._admit(decoded)

    def _wait_for_others(self) -> None:
        """Wait until no user code is working."""
        while self._flights:
            self.collect()
            if not self._batches.land(only_done=False) and self._flights:
                self._batcher.rest(self._flights.pause())

    def _run_alone(self, item: Item) -> None:
        if self.gathering.take(item):
            self.gathering.finish()
            return
        self._calls.one(item, self._clock())
        decoded = decode(self._handler, item)
        if decoded.error is None:
            self._handover.settle(self._batches.run(Alone(item.id), [item]))
        else:
            self._admit(decoded)

    def collect(self) -> None:
        """Put requests that decode threads have finished into their buckets."""
        if self.threads is None:
            return
        while (decoded := self.threads.next_done()) is not None:
            self._batcher.regain()
            self._flights.decoded(decoded.item)
            if decoded.hopeless:
                self._handover.settle([(decoded.item, self._batcher.promises.too_late(decoded.item, self._clock()))])
                continue
            if decoded.seconds:
                self._pace.add(decoded.seconds)
                self._counts.decoded_beside(decoded.seconds)
            self._calls.one(decoded.item, self._clock())
            self._admit(decoded)
            self._calls.finish()

    def _admit(self, decoded: Decoded) -> None:
        item, exc = decoded.item, decoded.error
        if exc is None:
            try:
                self._batcher.admit(item, decoded.bucket, decoded.priority)
            except BaseException as unhashable:
                exc, decoded = unhashable, replace(decoded, in_decode=False)
        if exc is None:
            return
        self._computing.check_decoding(exc)
        error = decode_error(item, exc) if decoded.in_decode else predict_error(item, exc)
        self._handover.settle([self._encoder.failed(item, error, exc)])

    def close(self) -> None:
        if self.threads is not None:
            self.threads.close()
