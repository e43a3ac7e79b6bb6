"""Batches: what becomes of one batch: it runs, or flies and lands, and is answered; or it fails and is run apart.

taken ─ run ──────────────────────→ answered
    └── launched ─ landed ──────────→ answered
at any of these: failed → its halves. One alone runs once more if the device runs ahead and memory or a passing fault
was to blame, else it gets its error
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from serving import claims
from serving.deadline import Clock
from serving.ipc.faults import Fault
from serving.system import log
from serving.worker.batching.batcher import Batcher, Item, Taken
from serving.worker.batching.bell import uninterrupted
from serving.worker.counts import EngineCounts
from serving.worker.engine.calls import Calls
from serving.worker.engine.computing import Computing
from serving.worker.engine.encoding import ReplyEncoder
from serving.worker.engine.failures import describe, expired, let_go, of_cancelled, predict_error
from serving.worker.engine.flights import Flight, Flights
from serving.worker.engine.handover import Handover
from serving.worker.engine.streams.parts import Reply


class Batches:
    """The batches of one engine. ``room`` waits while much of what was handed over has not left the process."""

    def __init__(
        self,
        batcher: Batcher,
        flights: Flights,
        computing: Computing,
        encoder: ReplyEncoder,
        calls: Calls,
        handover: Handover,
        counts: EngineCounts,
        room: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._batcher = batcher
        self._promises = batcher.promises
        self._flights = flights
        self._computing = computing
        self._encoder = encoder
        self._calls = calls
        self._handover = handover
        self._counts = counts
        self._room = room
        self._clock = clock

    def take(self) -> None:
        """Run or launch the batch that is due, if there is one, and settle what has waited too long."""
        self._room()
        # Behind a batch on the device only a full one is added: others may still grow.
        taken = self._batcher.take(full=bool(self._flights.batches))
        replies: list[Reply] = []
        if taken.expired or taken.hopeless or taken.cancelled:
            replies = self._dropped(taken)
        if taken.batch:
            run = self._launch if self._computing.device.runs_ahead else self.run
            replies += run(taken.bucket, taken.batch)
        if replies:
            self._handover.settle(replies)

    def _dropped(self, taken: Taken) -> list[Reply]:
        """Drop requests that are not run, and return their errors."""
        self._calls.drop([*taken.expired, *taken.hopeless, *taken.cancelled])
        if replies := of_cancelled(taken.cancelled):
            self._handover.settle(replies)
        now = self._clock()
        errors: list[Reply] = [expired(item) for item in taken.expired]
        return errors + [(item, self._promises.too_late(item, now)) for item in taken.hopeless]

    def run(self, bucket: Hashable, batch: list[Item], again: bool = False) -> list[Reply]:
        """Run one batch and return its outcomes; where it fails as a whole, those of its halves."""
        live, replies = self._in_time(batch, bucket)
        if not live:
            return replies
        since = self._clock()
        try:
            outputs = self._computing.predict([item.sample for item in live])
        except BaseException as exc:
            self._counts.failed(since, self._clock())
            return [*replies, *self._recover(bucket, live, exc, again)]
        return [*replies, *self._encode(bucket, live, outputs, since)]

    def _in_time(self, batch: list[Item], bucket: Hashable) -> tuple[list[Item], list[Reply]]:
        """Return the requests with time left, now announced as running, and the errors of the others."""
        now = self._clock()
        late = [item for item in batch if item.request.deadline.at <= now]
        live = [item for item in batch if item.request.deadline.at > now] if late else batch
        if late:
            self._calls.drop(late)
        if live:
            self._calls.batch(live)
            self._promises.begins(bucket, len(live), now)
            self._counts.begins(live, now)
        return live, [expired(item) for item in late]

    def _encode(self, bucket: Hashable, live: list[Item], outputs: Sequence[Any], since: float) -> list[Reply]:
        """Encode the outputs of a batch that began at ``since``. Returns all outcomes but those of streams."""
        self._batcher.caps.succeeded(bucket, len(live))
        encoded: list[Reply] = []
        encoder, calls, clock = self._encoder, self._calls, self._clock
        computed = clock()
        self._counts.predicted(since, computed)
        for item, output in zip(live, outputs, strict=True):
            if clock() > calls.fresh_until:
                calls.again()
            if (reply := encoder.encode(item, output)) is not None:
                encoded.append(reply)
            item.sample = None  # its destructor runs here, while the supervisor watches
            if item.claim is not None:
                claims.release([item])
        now = clock()
        self._counts.encoded(computed, now)
        self._promises.ended(bucket, len(live), since, now, len(self._flights.batches))
        return encoded

    # On a device that runs ahead of the engine's thread.

    def _launch(self, bucket: Hashable, batch: list[Item]) -> list[Reply]:
        """Start a batch on the device. Where that fails, recover at once."""
        live, replies = self._in_time(batch, bucket)
        if not live:
            return replies
        try:
            with uninterrupted(self._batcher.bell):
                landing = self._computing.launch([item.sample for item in live])
        except BaseException as exc:
            return [*replies, *self._recover(bucket, live, exc)]
        self._flights.add(Flight(bucket, live, landing, self._clock()))
        self._calls.finish()
        return replies

    def land(self, only_done: bool) -> bool:
        """Answer the oldest batch on the device; with ``only_done``, only if it is done. Returns whether there was
        one.
        """
        flight = self._flights.first(only_done)
        if flight is None:
            return False
        replies = self._landed(flight)
        del flight  # its outputs' destructors are user code: run them while the supervisor watches
        self._handover.settle(replies)
        return True

    def _landed(self, flight: Flight) -> list[Reply]:
        """Wait for a batch and return its outcomes."""
        items = flight.items
        self._calls.landing(items, flight.until)
        try:
            landed = flight.landing.wait()
            self._calls.batch(items)
            outputs = self._computing.split(landed, len(items))
        except BaseException as exc:
            self._counts.failed(flight.since, self._clock())
            return self._recover(flight.bucket, items, exc)
        return self._encode(flight.bucket, items, outputs, flight.since)

    # Where a batch fails.

    def _recover(self, bucket: Hashable, live: list[Item], exc: BaseException, again: bool = False) -> list[Reply]:
        """Retry a batch that has failed as a whole, apart or once more, and return the outcomes."""
        self._calls.batch(live)
        self._promises.failed(self._clock(), len(self._flights.batches))
        fault = self._computing.check(exc)
        if fault is Fault.MEMORY:
            let_go(exc)
            self._make_room(bucket, live)
        # Memory that others held is free now, or the fault has passed.
        passes = fault in (Fault.MEMORY, Fault.TRANSIENT)
        if self._computing.device.runs_ahead and not again and passes and len(live) == 1:
            return self.run(bucket, live, again=True)
        if len(live) == 1:
            failed = self._encoder.failed(live[0], predict_error(live[0], exc, fault), exc)
            live[0].sample = None
            return [failed]
        self._counts.bisected()
        log.warning("a batch failed; running its members apart", size=len(live), error=describe(exc))
        middle = len(live) // 2
        return [*self.run(bucket, live[:middle]), *self.run(bucket, live[middle:])]

    def _make_room(self, bucket: Hashable, live: list[Item]) -> None:
        self._counts.halved()
        self._batcher.caps.failed(bucket, len(live))
        while self.land(only_done=False):
            pass
        self._calls.batch(live)
        self._computing.device.free()
