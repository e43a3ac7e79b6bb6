"""Record batches: the records of one body, run through the model beside the batches of other requests."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from serving import claims
from serving.errors import BadRequest, ServingError
from serving.handler import Handler
from serving.request import Request, Response
from serving.worker.batching.items import Item
from serving.worker.engine.calls import Calls
from serving.worker.engine.computing import Computing
from serving.worker.engine.decoding import decode
from serving.worker.engine.failures import decode_error, let_go, predict_error
from serving.worker.engine.gathering.joining import Join
from serving.worker.engine.records import RecordOutcome, Records, has_records
from serving.worker.engine.streams.stream import streaming


class RecordBatches:
    """Runs records at once, by themselves. ``respond`` makes a Response of a handler's result.

    ``placeholder`` stands for a bad record in an answer; None fails the whole body.
    """

    def __init__(
        self,
        handler: Handler,
        computing: Computing,
        respond: Callable[[Any, Request], Response],
        calls: Calls,
        placeholder: str | None,
    ) -> None:
        self._handler = handler
        self._computing = computing
        self._respond = respond
        self._calls = calls
        self._records = None if placeholder is None else Records(placeholder, self.respond_alone, handler)

    def respond_alone(self, request: Request) -> Response:
        """Return the response to one request, which runs at once and by itself. Raises a ServingError."""
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

    def salvage(self, item: Item, error: ServingError) -> Response | ServingError:
        """Return the answer to a request that failed with ``error``: some of its records may still be good."""
        if self._records is None or item.session is not None or not has_records(item.request.content_type):
            return error
        return self._records.salvage(item.request, error)

    def run(self, parent: Item, requests: list[Request], join: Join) -> list[RecordOutcome]:
        """Answer some records of the body of ``parent``, as far as they share buckets in one batch."""
        items = [Item(parent.id, request) for request in requests]
        outcomes = [RecordOutcome() for _ in items]
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
                self._run_batch(items, places, outcomes, join)
        finally:
            claims.release(items)
        return outcomes

    def _run_batch(self, items: list[Item], places: list[int], outcomes: list[RecordOutcome], join: Join) -> None:
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
            self._run_batch(items, places[:middle], outcomes, join)
            self._run_batch(items, places[middle:], outcomes, join)
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
        fault = self._computing.check(exc)
        return decode_error(item, exc) if in_decode else predict_error(item, exc, fault)
