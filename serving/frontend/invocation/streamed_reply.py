"""StreamedReply: a streamed response on its way from a replica to its client."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from serving.frontend.error_responses import Failure
from serving.frontend.invocation.border import Border, Outgoing
from serving.frontend.responses import Responses, record_of
from serving.frontend.routing.stream import Streamed
from serving.request import Body


class StreamedReply:
    """Passes one streamed response on to ``border``. It must be complete at the instant ``until``."""

    __slots__ = ("_border", "_exchange", "_responses", "_streamed", "_until")

    def __init__(self, exchange: Outgoing, border: Border, responses: Responses, reply: Streamed, until: float) -> None:
        self._exchange = exchange
        self._border = border
        self._responses = responses
        self._streamed = reply
        self._until = until

    def begin(self, attributes: str | None) -> int:
        """Send the head; returns its status. ``attributes`` are the request's custom attributes."""
        response = self._streamed.response
        headers = self._responses.stream_headers(response, attributes, self._exchange.request_id)
        self._border.begin(self._exchange, response.status, headers)
        return response.status

    async def pass_on(self, hold: Callable[[Body], None]) -> None:
        """Send all chunks. ``hold`` counts one as held until the client has read it. Raises a ServingError."""
        await self._responses.pass_on(self._streamed, self._write, hold, self._until)

    async def _write(self, chunk: Body) -> None:
        await self._border.write(self._exchange, chunk)

    def end(self) -> None:
        """Send the end, after the last chunk."""
        self.cancel()
        self._border.end(self._exchange, self._until - monotonic())

    def cut(self, failure: Failure) -> None:
        """Cut the response, whose status has been sent already. Its last record says why, if its type has records."""
        self.cancel()
        request_id, streamed = self._exchange.request_id, self._streamed
        record = record_of(failure, streamed.response.content_type, request_id, streamed.tail)
        self._border.cut(self._exchange, record, failure.code)

    def cancel(self) -> None:
        """Tell the replica that nobody reads the rest."""
        self._streamed.stream.cancel()
