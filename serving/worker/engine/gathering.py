"""Gathering: a body of many records for a handler that takes one at a time.

Each record of a CSV or JSON Lines body is decoded as a request of its own, they share batches among themselves, and
their answers become one. This goes on between the batches of other requests, one batch of records at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from serving import claims
from serving.deadline import Clock
from serving.errors import BadRequest, CodedError, ServingError
from serving.handler import EACH, Handler
from serving.http.paths import INVOCATIONS
from serving.ipc.faults import Fault
from serving.request import Request, Response
from serving.worker.batching.batcher import Batcher, Item
from serving.worker.engine.calls import Calls
from serving.worker.engine.computing import Computing
from serving.worker.engine.decoding import decode
from serving.worker.engine.failures import decode_error, expired, let_go, predict_error
from serving.worker.engine.inflating import unpacked
from serving.worker.engine.joining import Join
from serving.worker.engine.records import Outcome, has_records, is_theirs, requests_of, split, takes
from serving.worker.engine.streams import Part, streaming
from serving.worker.rules import Rules


@dataclass(slots=True)
class Gathered:
    """One request of many records, and the ``outcomes`` so far.

    ``records`` are below the ``header``; those of the next batch are made requests like ``like``. All at once would
    take many times the body's memory.
    """

    item: Item
    like: Request
    header: bytes
    records: list[bytes]
    join: Join
    outcomes: list[Outcome] = field(default_factory=list)


class Gathering:
    """The bodies of many records that are being answered. ``respond`` makes a Response of a handler's result.

    ``check`` inspects an exception and does not return where the device is lost. ``settle`` gets the answer to a
    request; until then the request counts as waiting.
    """

    def __init__(
        self,
        handler: Handler,
        computing: Computing,
        respond: Callable[[Any, Request], Response],
        check: Callable[[BaseException], Fault],
        calls: Calls,
        batcher: Batcher,
        settle: Callable[[list[tuple[Item, Response | Part]]], None],
        rules: Rules,
        clock: Clock,
    ) -> None:
        self._handler = handler
        self._splits = takes(handler) == EACH
        self._computing = computing
        self._respond = respond
        self._check = check
        self._calls = calls
        self._batcher = batcher
        self._settle = settle
        self._rules = rules
        self._clock = clock
        self.pending: deque[Gathered] = deque()
        """The requests that are not answered yet, the next in turn first."""

    def take(self, item: Item) -> bool:
        """Take the request if each of its records is to be answered by itself. Returns whether it was taken."""
        request = item.request
        if not self._splits or not has_records(request.content_type):
            return False
        if item.session is not None or request.path != INVOCATIONS:
            return False
        self._calls.one(item, self._clock())
        try:
            self.pending.append(self._begin(item))
        except BaseException as exc:
            claims.release([item])
            self._settle([(item, decode_error(item, exc))])
            return True
        self._calls.finish()
        self._batcher.lend()
        return True

    def _begin(self, item: Item) -> Gathered:
        """Split a body into its records. Raises a ServingError where it has none."""
        claims.engine.holder = item
        try:
            if item.request.content_encoding:
                item.request = unpacked(item.request)
            request = item.request
            join = Join(request, self._rules.default_accept)
            header, records = split(request, self._handler.has_header)
        finally:
            claims.engine.holder = None
        if not records:
            raise BadRequest("the body has no records")
        like = replace(request, body=b"", accept=join.asked)
        return Gathered(item, like, header.encode(), records, join)

    def step(self) -> None:
        """Run one batch of the records whose turn it is."""
        one = self.pending.popleft()
        if one.item.cancelled:
            claims.release([one.item])
            self._batcher.regain()
            return
        self._calls.one(one.item, self._clock())
        try:
            outcome: Response | ServingError | None = self._go_on(one)
        except ServingError as error:
            outcome = error
        if outcome is None:
            self.pending.append(one)
            self._calls.finish()
            return
        claims.release([one.item])
        self._batcher.regain()
        self._settle([(one.item, outcome)])

    def answer(self, request: Request) -> Response:
        """Answer one request at once, by itself. Raises a ServingError."""
        item = Item(0, request)
        self._calls.again()
        decoded = decode(self._handler, item)
        if decoded.error is not None and decoded.in_decode:
            raise decode_error(item, decoded.error) from decoded.error
        try:
            [output] = self._computing.predict([item.sample])
            return self._respond(self._handler.encode(output, request), request)
        except BaseException as exc:
            raise predict_error(item, exc) from exc

    def finish(self) -> None:
        """Answer all, without other work in between."""
        while self.pending:
            self.step()

    def _go_on(self, one: Gathered) -> Response | None:
        """Answer the next batch of records. Returns the response after the last, else None. Raises a ServingError."""
        if one.item.request.deadline.at <= self._clock():
            raise expired(one.item)[1]
        at = len(one.outcomes)
        turn = one.records[at : at + self._handler.policy.max_size]
        requests = list(requests_of(one.like, one.header, turn, at + 1))
        for number, outcome in enumerate(self._answer(one.item, requests, one.join), at + 1):
            if outcome.error is not None and (self._rules.bad_record is None or not is_theirs(outcome.error)):
                raise of_record(number, outcome.error)
            one.outcomes.append(outcome)
        if len(one.outcomes) < len(one.records):
            return None
        errors = [(number, found.error) for number, found in enumerate(one.outcomes, 1) if found.error is not None]
        broken = [of_record(*pair) for pair in errors if pair[1].status >= 500]
        if broken and len(errors) == len(one.outcomes):
            raise broken[0]
        return one.join.answer(one.outcomes, self._rules.bad_record or "")

    def _answer(self, parent: Item, requests: list[Request], join: Join) -> list[Outcome]:
        items = [Item(parent.id, request) for request in requests]
        outcomes = [Outcome() for _ in items]
        buckets: dict[Hashable, list[int]] = {}
        try:
            for place, item in enumerate(items):
                self._calls.again()
                decoded = decode(self._handler, item)
                if decoded.error is None:
                    buckets.setdefault((decoded.bucket,), []).append(place)
                else:
                    outcomes[place].error = self._failed(item, decoded.error, decoded.in_decode)
            for places in buckets.values():
                self._run(items, places, outcomes, join)
        finally:
            claims.release(items)
        return outcomes

    def _run(self, items: list[Item], places: list[int], outcomes: list[Outcome], join: Join) -> None:
        """Run one batch; where it fails as a whole run its halves, so that only the bad record fails."""
        self._calls.again()
        try:
            outputs = self._computing.predict([items[place].sample for place in places])
        except BaseException as exc:
            error = self._failed(items[places[0]], exc, False)
            let_go(exc)
            if len(places) == 1:
                outcomes[places[0]].error = error
                return
            middle = len(places) // 2
            self._run(items, places[:middle], outcomes, join)
            self._run(items, places[middle:], outcomes, join)
            return
        for place, output in zip(places, outputs, strict=True):
            self._calls.again()
            try:
                join.fill(outcomes[place], self._encode(output, items[place].request))
            except BaseException as exc:
                outcomes[place].error = self._failed(items[place], exc, False)

    def _encode(self, output: Any, request: Request) -> Response:
        value = self._handler.encode(output, request)
        if type(value) is not Response and streaming(value) is not None:
            raise BadRequest(
                "the model answers in pieces, which a body of many records cannot: send one record a request"
            )
        return self._respond(value, request)

    def _failed(self, item: Item, exc: BaseException, in_decode: bool) -> ServingError:
        fault = self._check(exc)
        return decode_error(item, exc) if in_decode else predict_error(item, exc, fault)


def of_record(number: int, error: ServingError) -> ServingError:
    """Return the same error with the record's number, counted from 1, in its message."""
    again = getattr(error, "retry_after", 1)
    return CodedError(error.status, error.code, f"record {number}: {error.message}", again)
