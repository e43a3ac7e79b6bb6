"""Encoding: from a model's output, or an error, to what is sent for a request."""

from __future__ import annotations

from typing import Any

from serving import claims
from serving.errors import ServingError
from serving.handler import Handler
from serving.request import Response
from serving.worker.batching.items import Item
from serving.worker.engine.calls import Calls
from serving.worker.engine.checks import responder, sound, sound_stream
from serving.worker.engine.computing import Computing
from serving.worker.engine.failures import forget, predict_error
from serving.worker.engine.gathering.recordbatches import RecordBatches
from serving.worker.engine.sessionhooks import SessionHooks
from serving.worker.engine.streams.parts import Reply
from serving.worker.engine.streams.stream import streaming
from serving.worker.engine.streams.streams import Streams
from serving.worker.rules import Rules


class ReplyEncoder:
    """The replies of one model. ``records`` runs records one by one, ``hooks`` are the handler's about sessions."""

    def __init__(self, handler: Handler, computing: Computing, calls: Calls, streams: Streams, rules: Rules) -> None:
        self._handler = handler
        self._computing = computing
        self._streams = streams
        self._respond = responder(rules.default_accept)
        self.hooks = SessionHooks(handler, calls, rules.session_max_bytes, computing.check)
        self.records = RecordBatches(handler, computing, self._respond, calls, rules.bad_record)

    def encode(self, item: Item, output: Any) -> Reply | None:
        """Return the reply, or None where the reply is a stream, which begins now."""
        try:
            value = self._handler.encode(output, item.request)
            if type(value) is not Response and (chunks := streaming(value)) is not None:
                self._streams.open(item, sound_stream(chunks), lambda: self.hooks.after(item))
                return None
            response = sound(value) if type(value) is Response else self._respond(value, item.request)
            if item.session is not None:
                self.hooks.after(item)
            return item, response
        except BaseException as exc:
            self._computing.check(exc)
            return self.failed(item, predict_error(item, exc), exc)

    def failed(self, item: Item, error: ServingError, exc: BaseException) -> Reply:
        """Return the reply to a request that failed by itself; of its records some may still be good."""
        forget(exc)
        claims.release([item])
        return item, self.records.salvage(item, error)
