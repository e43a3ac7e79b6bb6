"""ResponseWriter: writes the responses of exchanges to one connection."""

from __future__ import annotations

from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from serving.frontend.http.headers import Headers
from serving.frontend.http.outlet import Outlet
from serving.frontend.http.sending import CUT_TIME
from serving.frontend.invocation.border import Outgoing
from serving.frontend.invocation.endpoint import Endpoint
from serving.frontend.responses import LARGE, EncodedResponse
from serving.request import BODILESS, Body

CLOSE = b"connection: close\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
PING_LINES = b"content-type: application/json\r\ncontent-length: "


class ResponseWriter:
    """The responses of one connection. ``expects``: the client waits for a 100 Continue before it sends the body.

    ``on_end`` is called after each response, with whether the connection outlives it.
    """

    __slots__ = (
        "_endpoint",
        "_flow",
        "_is_framed",
        "_leaving",
        "_on_end",
        "_sending",
        "_state",
        "_transport",
        "abort",
        "expects",
        "is_there",
        "unread",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        state: ServerState,
        outlet: Outlet,
        on_end: Callable[[bool], None],
    ) -> None:
        self._endpoint = endpoint
        self._state = state
        self._transport = outlet.transport
        self._sending = outlet.sending
        self._flow = outlet.flow
        self._on_end = on_end
        self._leaving: Outgoing | None = None
        self._is_framed = True
        self.expects = False
        self.is_there = outlet.presence.is_there
        self.unread: Callable[[], int] = outlet.transport.get_write_buffer_size
        self.abort: Callable[[], None] = outlet.transport.abort

    def go_ahead(self) -> None:
        if self.expects:
            self.expects = False
            self._sending.write(CONTINUE)

    # EncodedResponse responses.

    def reply(self, exchange: Outgoing, start: bytes, body: Body) -> bool:
        end = b"\r\n" if exchange.keep_alive else b"connection: close\r\n\r\n"
        fields = f"{len(body)}\r\nx-request-id: {exchange.request_id}\r\n".encode()
        lines = self._endpoint.default_lines(self._state.default_headers)
        if len(body) < LARGE and not self._flow.write_paused:
            exchange.settle()
            if not self._sending.is_closing():
                self._sending.write(b"".join((start, fields, lines, end, body)))
                self._on_end(exchange.keep_alive)
        elif exchange.holds(body):
            self._write_large(exchange, b"".join((start, fields, lines, end)), body)
        return True

    def respond(self, exchange: Outgoing, response: EncodedResponse) -> None:
        head = self._head(exchange, response.status, response.headers, b"")
        if len(response.body) < LARGE and not self._flow.write_paused:
            exchange.settle()
            if not self._sending.is_closing():
                self._sending.write(head + response.body)
                self._on_end(exchange.keep_alive)
        else:
            self._write_large(exchange, head, response.body)

    def _head(self, exchange: Outgoing, status: int, headers: Headers, framing: bytes) -> bytes:
        lines: list[bytes] = [STATUS_LINE[status], self._endpoint.default_lines(self._state.default_headers)]
        closes = False
        for name, value in headers:
            closes = closes or (name == b"connection" and value == b"close")
            lines += (name, b": ", value, b"\r\n")
        if not exchange.keep_alive and not closes:
            lines.append(CLOSE)
        exchange.keep_alive = exchange.keep_alive and not closes
        return b"".join((*lines, framing, b"\r\n"))

    def _write_large(self, exchange: Outgoing, head: bytes, body: Body) -> None:
        """Write a large response. It is complete once most of it is sent, so that the request counts as in flight until
        then.
        """
        if self._sending.is_closing():
            exchange.settle()
            return
        exchange.leave()
        self._sending.writelines((head, body))
        if self._flow.write_paused:
            self._leaving = exchange
        else:
            self._end_response(exchange)

    def _end_response(self, exchange: Outgoing) -> None:
        exchange.settle()
        self._on_end(exchange.keep_alive)

    def on_writable(self) -> None:
        """Complete the response that was waiting for its client to read."""
        exchange, self._leaving = self._leaving, None
        if exchange is not None:
            self._end_response(exchange)

    def ping(self) -> None:
        """Write the response to GET /ping."""
        endpoint = self._endpoint
        status, body = endpoint.ping()
        ends = endpoint.board.is_draining
        tail = b"\r\nconnection: close\r\n\r\n" if ends else b"\r\n\r\n"
        size, id = b"%d" % len(body), b"\r\nx-request-id: " + endpoint.new_id().encode()
        defaults = endpoint.default_lines(self._state.default_headers)
        self._sending.write(b"".join((STATUS_LINE[status], defaults, PING_LINES, size, id, tail, body)))
        self._on_end(not ends)

    # Streamed responses.

    def begin(self, exchange: Outgoing, status: int, headers: Headers) -> None:
        # HTTP/1.0 knows no chunks: the body ends with the connection.
        self._is_framed = not exchange.is_old and status not in BODILESS
        if exchange.is_old:
            exchange.keep_alive = False
        self._sending.write(self._head(exchange, status, headers, CHUNKED if self._is_framed else b""))
        exchange.sent += 1

    async def write(self, exchange: Outgoing, chunk: Body) -> None:
        if self._flow.write_paused:
            await self._flow.drain()
        self._write_chunk(chunk)
        exchange.sent += 1

    def _write_chunk(self, chunk: Body) -> None:
        if self._is_framed:
            self._sending.writelines((b"%x\r\n" % len(chunk), chunk, b"\r\n"))
        else:
            self._sending.write(chunk)

    def end(self, exchange: Outgoing, seconds: float) -> None:
        if exchange.is_old:
            self._close(exchange, max(CUT_TIME, seconds))
            return
        if self._is_framed:
            self._sending.write(LAST_CHUNK)
        self._end_response(exchange)

    def cut(self, exchange: Outgoing, record: bytes, code: str) -> None:
        if record:
            self._write_chunk(record)
        self._close(exchange, CUT_TIME)

    def _close(self, exchange: Outgoing, seconds: float) -> None:
        """Close the connection once everything is sent; the request counts as in flight until then."""
        exchange.leave()
        exchange.end_within(seconds)
        self._transport.close()
