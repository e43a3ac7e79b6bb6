"""Gathering: a body of many records for a handler that takes one at a time.

Each record of a CSV or JSON Lines body is decoded as a request of its own, they share batches among themselves, and
their answers become one. This goes on between the batches of other requests, one batch of records at a time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from msgspec.structs import replace

from serving import claims
from serving.deadline import Clock
from serving.errors import BadRequest, CodedError, ServingError
from serving.handler import EACH, Handler
from serving.http.paths import INVOCATIONS
from serving.request import Request, Response
from serving.worker.batching.batcher import Batcher, Item
from serving.worker.engine.calls import Calls
from serving.worker.engine.failures import decode_error, expired
from serving.worker.engine.gathering.joining import Join
from serving.worker.engine.gathering.recordbatches import RecordBatches
from serving.worker.engine.handover import Handover
from serving.worker.engine.inflating import unpacked
from serving.worker.engine.records import RecordOutcome, has_records, is_theirs, requests_of, split, takes
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
    outcomes: list[RecordOutcome] = field(default_factory=list)


class Gathering:
    """The bodies of many records that are being answered, by ``batches`` of their records.

    Until its answer is handed over a request counts as waiting.
    """

    def __init__(
        self,
        handler: Handler,
        batches: RecordBatches,
        calls: Calls,
        batcher: Batcher,
        handover: Handover,
        rules: Rules,
        clock: Clock,
    ) -> None:
        self._splits = takes(handler) == EACH
        self._has_header = handler.has_header
        self._size = handler.policy.max_size
        self._batches = batches
        self._calls = calls
        self._batcher = batcher
        self._handover = handover
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
            self.pending.append(self._split(item))
        except BaseException as exc:
            claims.release([item])
            self._handover.settle([(item, decode_error(item, exc))])
            return True
        self._calls.finish()
        self._batcher.lend()
        return True

    def _split(self, item: Item) -> Gathered:
        """Split a body into its records. Raises a ServingError where it has none."""
        claims.engine.holder = item
        try:
            if item.request.content_encoding:
                item.request = unpacked(item.request)
            request = item.request
            join = Join(request, self._rules.default_accept)
            header, records = split(request, self._has_header)
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
        self._handover.settle([(one.item, outcome)])

    def finish(self) -> None:
        """Answer all, without other work in between."""
        while self.pending:
            self.step()

    def _go_on(self, one: Gathered) -> Response | None:
        """Answer the next batch of records. Returns the response after the last, else None. Raises a ServingError."""
        if one.item.request.deadline.at <= self._clock():
            raise expired(one.item)[1]
        at = len(one.outcomes)
        turn = one.records[at : at + self._size]
        requests = list(requests_of(one.like, one.header, turn, at + 1))
        for number, outcome in enumerate(self._batches.run(one.item, requests, one.join), at + 1):
            if outcome.error is not None and (self._rules.bad_record is None or not is_theirs(outcome.error)):
                raise of_record(number, outcome.error)
            one.outcomes.append(outcome)
        if len(one.outcomes) < len(one.records):
            return None
        errors = [(number, found.error) for number, found in enumerate(one.outcomes, 1) if found.error is not None]
        broken = [of_record(*pair) for pair in errors if pair[1].status >= 500]
        if broken and len(errors) == len(one.outcomes):
            raise broken[0]
        return one.join.response(one.outcomes, self._rules.bad_record or "")


def of_record(number: int, error: ServingError) -> ServingError:
    """Return the same error with the record's number, counted from 1, in its message."""
    again = getattr(error, "retry_after", 1)
    return CodedError(error.status, error.code, f"record {number}: {error.message}", again)
