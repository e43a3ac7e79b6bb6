"""Engine: the thread that runs user code, and the rule for each way in which that can fail.

Every call of user code is announced on the scoreboard with the time that it may take, so that the supervisor can end
it; requests stay listed as running until their answers are handed over."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from serving import claims, codecs
from serving.deadline import Clock
from serving.errors import ServingError
from serving.handler import Handler
from serving.ipc.faults import Fault
from serving.request import Request, Response
from serving.system import log
from serving.system.devicefaults import fault_of
from serving.worker.batching.batcher import Alone, Batcher, Item, Taken
from serving.worker.batching.bell import uninterrupted
from serving.worker.device.border import Device
from serving.worker.device.host import Host
from serving.worker.engine.apart import Apart
from serving.worker.engine.calls import Calls
from serving.worker.engine.checks import sound, sound_stream
from serving.worker.engine.computing import Computing
from serving.worker.engine.conversations import Partner
from serving.worker.engine.decoding import Decoded, DecodeThreads, decode
from serving.worker.engine.failures import decode_error, describe, end_process, expired, forget, let_go, predict_error
from serving.worker.engine.flights import Flight, Flights, Merged
from serving.worker.engine.gathering import Gathering
from serving.worker.engine.records import Records, has_records
from serving.worker.engine.sessionhooks import SessionHooks
from serving.worker.engine.stamps import Row, Stamps
from serving.worker.engine.streams import Part, Streams, streaming
from serving.worker.rules import DEFAULT, Rules

Outcome = tuple[Item, Response | Part]


class Engine:
    """The engine of one model. ``deliver`` gets the outcomes of each batch, on the engine's thread: exactly one for
    each request, or a stream that ends with one. ``lost`` ends the process when its ``device`` is lost to it. ``sent``
    waits until all that was delivered has left the process, ``room`` only while that is much."""

    def __init__(
        self,
        handler: Handler,
        batcher: Batcher,
        row: Row,
        deliver: Callable[[list[Outcome]], None],
        rules: Rules = DEFAULT,
        device: Device | None = None,
        lost: Callable[[Fault], None] | None = None,
        clock: Clock = time.monotonic,
        sent: Callable[[], None] = lambda: None,
        room: Callable[[], None] = lambda: None,
    ) -> None:
        self._rules = rules
        self._handler = handler
        self._batcher = batcher
        self._device = device or Host()
        self._lost = lost or end_process
        self._clock = clock
        self._flights = Flights(rules.timeout, clock)
        stamps: Stamps = Merged(row, self._flights) if self._device.runs_ahead else row
        self.streams = Streams(batcher, stamps, self._emit, rules, self._check_device, clock)
        self._apart = Apart(self.streams, sent)
        self._calls = Calls(stamps, rules.timeout, self.streams, clock)
        self._hooks = SessionHooks(handler, self._calls, rules.session_max_bytes, self._check_device)
        self._threads = None
        if handler.decode_threads:
            self._threads = DecodeThreads(handler, batcher.wake, stamps, rules.timeout, clock, batcher.is_hopeless)
        self._computing = Computing(handler, self._device, stamps.count_padding)
        self._pace = batcher.pace
        self._deliver, self._room = deliver, room
        tools = (self._computing, self._response, self._check_device, self._calls, batcher, self._settle)
        self._gathering = Gathering(handler, *tools, rules, clock)
        self._records = None if rules.bad_record is None else Records(rules.bad_record, self._gathering.answer, handler)

    def run(self) -> None:
        """Work until the batcher is closed and empty, and every stream has ended."""
        for _ in self.turns():
            pass

    def turns(self) -> Iterator[None]:
        """Run as ``run`` does, one step for each item."""
        while self._wait():
            self.step()
            yield
        self.streams.close()
        if self._threads is not None:
            self._threads.close()

    def _wait(self) -> bool:
        self._batcher.away(len(self.streams) > 0)
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
        self.streams.step()
        if self._handler.exclusive_streams and not self.streams.can_step:
            self._batcher.forecast.released(self._clock())

    def _step_batch(self) -> None:
        self._batcher.bell.look()
        if self._threads is not None:
            self._collect(self._threads)
        if (item := self._batcher.next_arrival()) is not None:
            self._decode_all(item)
        if self._handler.exclusive_streams and self.streams.can_step:
            self._batcher.forecast.holds(self._clock())
            return
        if not self._flights.batches or self._flights.has_room:
            self._take()
        if self._flights.batches:
            self._land()

    def _decode_all(self, item: Item | None) -> None:
        if self._threads is None:
            self._pace.begins()
        while item is not None:
            self._decode(item)
            item = self._batcher.next_arrival()
        if self._threads is None:
            self._pace.ended()
        # No other code runs between two decodes, so once is enough.
        self._calls.finish()

    def _take(self) -> None:
        self._room()
        # Behind a batch on the device only a full one is added: others may still grow.
        taken = self._batcher.take(full=bool(self._flights.batches))
        outcomes: list[Outcome] = []
        if taken.expired or taken.hopeless or taken.cancelled:
            self._calls.drop([*taken.expired, *taken.hopeless, *taken.cancelled])
            self._settle_cancelled(taken.cancelled)
            outcomes += [expired(item) for item in taken.expired]
            outcomes += [(item, self._batcher.promises.too_late(item, self._clock())) for item in taken.hopeless]
        if taken.batch:
            outcomes += self._launch(taken) if self._device.runs_ahead else self._run(taken.bucket, taken.batch)
        if outcomes:
            self._settle(outcomes)

    def _land(self) -> None:
        """Answer the batches that are done; wait for one if there is nothing else to do or a stream needs its turn."""
        waits = len(self.streams) > 0 or (self._batcher.is_full and not self._flights.has_room)
        while self._land_one(only_done=not waits):
            waits = len(self.streams) > 0

    def _land_one(self, only_done: bool) -> bool:
        flight = self._flights.first(only_done)
        if flight is None:
            return False
        outcomes = self._finish(flight)
        del flight  # its outputs' destructors are user code: run them while the supervisor watches
        self._settle(outcomes)
        return True

    def _quiet(self) -> None:
        """Wait until no user code is working."""
        while self._flights:
            if self._threads is not None:
                self._collect(self._threads)
            if not self._land_one(only_done=False) and self._flights:
                self._batcher.rest(self._flights.pause())

    def _settle_cancelled(self, items: list[Item]) -> None:
        """Settle cancelled requests of sessions, since their session's next call waits for that."""
        outcomes: list[Outcome] = [expired(item) for item in items if item.session is not None]
        if outcomes:
            self._settle(outcomes)

    def _settle(self, outcomes: list[Outcome]) -> None:
        # Hand answers over before the scoreboard forgets the requests: if the worker dies in between, they are tried
        # again, never lost.
        self._deliver(outcomes)
        self._calls.finish(len(outcomes))

    def _emit(self, item: Item, part: Part) -> None:
        self._deliver([(item, part)])

    def _decode(self, item: Item) -> None:
        if item.live is not None and isinstance(item.live, Partner):
            self.streams.start(item, item.live.converse(self._handler, item, self._emit, self._check_device))
            return
        if item.cancelled:
            self._settle_cancelled([item])
            return
        now = self._clock()
        if item.request.deadline.at <= now:
            self._settle([expired(item)])
            return
        if item.alone:
            self._quiet()
            self._apart.run(item, self._run_alone, lambda error: self._settle([(item, error)]))
            return
        if self._pace.is_slow and self._batcher.is_hopeless(item, now):
            self._settle([(item, self._batcher.promises.too_late(item, self._clock()))])
            return
        if item.session is not None:
            if (outcome := self._hooks.begin(item, item.session, now)) is not None:
                self._settle([(item, outcome)])
                return
            now = self._clock()
        if self._gathering.take(item):
            return
        if self._threads is not None:
            self._batcher.lend()
            self._flights.begin(item)
            self._threads.submit(item)
            return
        self._calls.one(item, now)
        decoded = decode(self._handler, item)
        self._pace.add(self._clock() - now)
        self._admit(decoded)

    def _run_alone(self, item: Item) -> None:
        if self._gathering.take(item):
            self._gathering.finish()
            return
        self._calls.one(item, self._clock())
        decoded = decode(self._handler, item)
        if decoded.error is None:
            self._settle(self._run(Alone(item.id), [item]))
        else:
            self._admit(decoded)

    def _collect(self, threads: DecodeThreads) -> None:
        """Put requests that decode threads have finished into their buckets."""
        while (decoded := threads.next_done()) is not None:
            self._batcher.regain()
            self._flights.end(decoded.item)
            if decoded.hopeless:
                self._settle([(decoded.item, self._batcher.promises.too_late(decoded.item, self._clock()))])
                continue
            if decoded.seconds:
                self._pace.add(decoded.seconds)
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
        if fault_of(exc) is not None:  # bad requests must not cause a device test each
            self._check_device(exc)
        error = decode_error(item, exc) if decoded.in_decode else predict_error(item, exc)
        self._settle([self._failed(item, error, exc)])

    def _failed(self, item: Item, error: ServingError, exc: BaseException) -> Outcome:
        """Return the outcome of a request that failed by itself; of its records some may still be good."""
        forget(exc)
        claims.release([item])
        if self._records is None or item.session is not None or not has_records(item.request.content_type):
            return item, error
        return item, self._records.salvage(item.request, error)

    def _response(self, value: Any, request: Request) -> Response:
        if type(value) is not Response:
            value = codecs.encode(value, request.accept, self._rules.default_accept)
        return sound(value)

    def _begun(self, batch: list[Item], bucket: Hashable) -> tuple[list[Item], list[Outcome]]:
        """Return the requests with time left, now running, and the errors of the others."""
        now = self._clock()
        late = [item for item in batch if item.request.deadline.at <= now]
        live = [item for item in batch if item.request.deadline.at > now] if late else batch
        if late:
            self._calls.drop(late)
        if live:
            self._calls.batch(live)
            self._batcher.promises.begins(bucket, len(live), now)
        return live, [expired(item) for item in late]

    def _launch(self, taken: Taken) -> list[Outcome]:
        """Start a batch on a device that runs ahead. Where that fails, recover at once."""
        live, outcomes = self._begun(taken.batch, taken.bucket)
        if not live:
            return outcomes
        try:
            with uninterrupted(self._batcher.bell):
                landing = self._device.fetch(self._computing.compute([item.sample for item in live]))
        except BaseException as exc:
            return [*outcomes, *self._recover(taken.bucket, live, exc)]
        self._flights.add(Flight(taken.bucket, live, landing, self._clock()))
        self._calls.finish()
        return outcomes

    def _finish(self, flight: Flight) -> list[Outcome]:
        """Return the answers of a batch that was started on the device."""
        items = flight.items
        self._calls.landing(items, flight.until)
        try:
            landed = flight.landing.wait()
            self._calls.batch(items)
            outputs = self._computing.split(landed, len(items))
        except BaseException as exc:
            return self._recover(flight.bucket, items, exc)
        return self._answer(flight.bucket, items, outputs, flight.since)

    def _run(self, bucket: Hashable, batch: list[Item], again: bool = False) -> list[Outcome]:
        """Run one batch; where it fails as a whole, run its halves, so that only the bad request fails."""
        live, outcomes = self._begun(batch, bucket)
        if not live:
            return outcomes
        since = self._clock()
        try:
            outputs = self._computing.predict([item.sample for item in live])
        except BaseException as exc:
            return [*outcomes, *self._recover(bucket, live, exc, again)]
        return [*outcomes, *self._answer(bucket, live, outputs, since)]

    def _recover(self, bucket: Hashable, live: list[Item], exc: BaseException, again: bool = False) -> list[Outcome]:
        """Retry a batch that has failed as a whole, apart or once more, and return the outcomes."""
        self._calls.batch(live)
        self._batcher.promises.failed(self._clock(), len(self._flights.batches))
        fault = self._check_device(exc)
        if fault is Fault.MEMORY:
            let_go(exc)
            self._make_room(bucket, live)
        # Memory that others held is free now, or the fault has passed.
        if self._device.runs_ahead and not again and fault in (Fault.MEMORY, Fault.TRANSIENT) and len(live) == 1:
            return self._run(bucket, live, again=True)
        if len(live) == 1:
            failed = self._failed(live[0], predict_error(live[0], exc, fault), exc)
            live[0].sample = None
            return [failed]
        log.warning("a batch failed; running its members apart", size=len(live), error=describe(exc))
        middle = len(live) // 2
        return [*self._run(bucket, live[:middle]), *self._run(bucket, live[middle:])]

    def _make_room(self, bucket: Hashable, live: list[Item]) -> None:
        self._batcher.caps.failed(bucket, len(live))
        while self._land_one(only_done=False):
            pass
        self._calls.batch(live)
        self._device.free()

    def _check_device(self, exc: BaseException) -> Fault:
        """Return the device's fault, if any. Does not return where the device is lost to this process."""
        fault = self._device.fault(exc)
        if fault in (Fault.STICKY, Fault.HARDWARE):
            log.error("the device is lost to this process", exc=exc, device=self._device.name, fault=fault.value)
            self._lost(fault)
        return fault

    def _answer(self, bucket: Hashable, live: list[Item], outputs: Sequence[Any], since: float) -> list[Outcome]:
        self._batcher.caps.succeeded(bucket, len(live))
        encoded: list[Outcome] = []
        calls, clock = self._calls, self._clock
        for item, output in zip(live, outputs, strict=True):
            if clock() > calls.fresh_until:
                calls.again()
            if (outcome := self._encode(item, output)) is not None:
                encoded.append(outcome)
            item.sample = None  # its destructor runs here, while the supervisor watches
            if item.claim is not None:
                claims.release([item])
        self._batcher.promises.ended(bucket, len(live), since, self._clock(), len(self._flights.batches))
        return encoded

    def _encode(self, item: Item, output: Any) -> Outcome | None:
        """Return the outcome, or None where the answer is a stream, which begins now."""
        try:
            value = self._handler.encode(output, item.request)
            if type(value) is not Response and (pieces := streaming(value)) is not None:
                self.streams.begin(item, sound_stream(pieces), lambda: self._hooks.end(item))
                return None
            response = sound(value) if type(value) is Response else self._response(value, item.request)
            if item.session is not None:
                self._hooks.end(item)
            return item, response
        except BaseException as exc:
            self._check_device(exc)
            return self._failed(item, predict_error(item, exc), exc)
