"""HttpProtocol: one HTTP connection, with bounds on every wait for its client.

A connection reads a head, its body, the next head. Which of them comes next follows from the bytes read alone, never
from the responses. A head is not parsed before the previous response is complete: data that comes too early is kept,
and reading stops.

Invocations are exchanges, and pings are answered at once; everything else goes to the ASGI application.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.errors import BadRequest, ServingError
from serving.frontend.http.asgi import turn_of
from serving.frontend.http.body_reader import LARGEST, STRAIGHT, BodyReader
from serving.frontend.http.chunked import Chunked
from serving.frontend.http.head import Head
from serving.frontend.http.outlet import Outlet
from serving.frontend.http.refusal import refusal
from serving.frontend.http.repeat import HeadCache
from serving.frontend.http.turn import Turn
from serving.frontend.http.upgrade import upgrade
from serving.frontend.http.writer import ResponseWriter
from serving.frontend.invocation.endpoint import Endpoint
from serving.frontend.invocation.exchange import Exchange, open_exchange
from serving.frontend.watch.idle import IdleTimer
from serving.frontend.watch.lingering import Lingering

HEAD_TIME = 30.0  # seconds from a head's first byte to its last
IDLE_TIME = 90.0  # seconds from a connection's beginning to its first byte
BLANK = b"\r\n"  # bytes that may come before a head
PING = b"/ping"


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection. ``turn`` is the request that is not answered yet, None between requests.

    ``_head`` is the head being read. ``_left`` bytes of the body are yet to come, or it is chunked and read by
    ``_chunks``. ``_is_open`` until nothing more is read or written here.
    """

    endpoint: ClassVar[Endpoint]
    _outlet: Outlet
    _is_open = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.parser = None  # type: ignore[assignment]  # each head has its own
        self.turn: Turn | None = None
        is_blind = lambda: self._is_open and self._outlet.flow.read_paused  # noqa: E731
        self._outlet = Outlet(transport, self.loop, self.end, is_blind, self._on_doubt)
        self.flow = self._outlet.flow
        self._writer = ResponseWriter(self.endpoint, self.server_state, self._outlet, self._on_end)
        self._cache = HeadCache(self.endpoint.heads)
        self._idle = IdleTimer(self.loop, lambda: self.timeout_keep_alive, self._is_asking, transport.close)
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(IDLE_TIME, transport.close)
        self._head: Head | None = None
        self._left = 0
        self._chunks: Chunked | None = None
        self._unread = b""
        self._unread_at = 0
        self._has_eof = False

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        self._outlet.stop()
        if self._head is not None:
            self._head.drop()
        self._head = self._chunks = None
        self._unread = b""
        self._is_open = False
        self._outlet.end()
        super().connection_lost(exc)
        turn, self.turn = self.turn, None
        if turn is not None:
            turn.disconnect()

    def shutdown(self) -> None:
        """Close the connection after the response that is under way: the server stops."""
        if self.turn is None:
            self.transport.close()
        else:
            self.turn.keep_alive = False

    def give_up(self) -> None:
        """Fail the current request: the server's time for draining is over."""
        if self.turn is not None:
            self.turn.give_up()

    # Reading.

    def data_received(self, data: bytes) -> None:
        cache = self._cache
        repeat = cache.repeat
        if repeat is not None and self.turn is None:
            body = repeat.body_of(data)
            if body is not None:
                exchange = self.turn = open_exchange(self.endpoint, self._writer, repeat.head, len(body))
                exchange.on_body(body)
                exchange.on_body_end()
                return
        cache.forget()
        if self._unread:
            data, self._unread = self._unread[self._unread_at :] + data, b""
        is_first = not self._is_within
        self._read(data, 0)
        turn = self.turn
        if is_first and isinstance(turn, Exchange) and turn.is_whole and not self._unread:
            cache.remember(data, turn.size)
        elif self._left >= STRAIGHT:
            self._read_straight()

    def _read_straight(self) -> None:
        """Have the rest of a large body read directly into its buffer."""
        exchange = self.turn
        if isinstance(exchange, Exchange) and exchange.is_receiving and exchange.length <= LARGEST:
            BodyReader(self, self.transport, exchange, self._end_of_straight)

    def _end_of_straight(self) -> None:
        self._left = 0
        self._end_body()

    def _read(self, data: bytes, at: int) -> None:
        size = len(data)
        try:
            while at < size and self._is_open:
                if self._left:
                    at = self._read_body(data, at)
                elif self._chunks is not None:
                    at = self._read_chunks(self._chunks, data, at)
                elif self._is_busy:
                    self._unread, self._unread_at = data, at
                    self._outlet.flow.hold()
                    return
                else:
                    at = self._read_head(data, at)
        except ServingError as error:
            self._refuse(error)

    @property
    def _is_busy(self) -> bool:
        """Whether a response is under way, or much of one has yet to be read by the client."""
        return self.turn is not None or self._outlet.flow.write_paused

    @property
    def _is_within(self) -> bool:
        """Whether part of a request has arrived, but not all of it."""
        return self._head is not None or self._left > 0 or self._chunks is not None

    def _is_asking(self) -> bool:
        return self._head is not None or self.turn is not None

    def _read_head(self, data: bytes, at: int) -> int:
        head = self._head
        if head is None:
            while data[at] in BLANK:
                at += 1
                if at == len(data):
                    return at
            head = self._head = Head()
            self._stop_timer()
        at = head.read(data, at)
        if not head.is_complete:
            if self._timer is None:
                self._timer = self.loop.call_later(HEAD_TIME, self.transport.close)
            return at
        self._stop_timer()
        head.check()
        if head.upgrade and head.is_websocket and self._should_upgrade_to_ws():
            self._stop_timers()
            self._outlet.stop()
            self._is_open = False
            self._outlet.end()
            upgrade(self, head, data[at:])
            return len(data)
        self._head = None
        self._left = head.length
        if head.is_chunked:
            self._chunks = Chunked()
        self._start(head)
        if not head.has_body:
            self._end_body()
        return at

    def _read_body(self, data: bytes, at: int) -> int:
        part = data[at : at + self._left]
        self._left -= len(part)
        self._on_part(part)
        if not self._left:
            self._end_body()
        return at + len(part)

    def _read_chunks(self, chunks: Chunked, data: bytes, at: int) -> int:
        at = chunks.read(data, at, self._on_part)
        if chunks.is_done:
            self._chunks = None
            self._end_body()
        return at

    def _on_part(self, part: bytes) -> None:
        if self.turn is not None:
            self.turn.on_body(part)

    def _end_body(self) -> None:
        if self.turn is not None:
            self.turn.on_body_end()

    # Beginning to answer.

    def _start(self, head: Head) -> None:
        """Begin to answer. Raises BadRequest."""
        if head.method == b"POST":
            known = self._cache.read(head)
            if known is not None:
                exchange = self.turn = open_exchange(self.endpoint, self._writer, known, head.length)
                exchange.keep_alive, exchange.is_old = head.keep_alive, head.version == "1.0"
                self._writer.expects = head.expects
                if head.expects and exchange.is_ready:
                    self._writer.go_ahead()
                return
        elif head.method == b"GET" and head.url == PING and head.keep_alive and not (head.has_body or head.is_foreign):
            self._writer.ping()
            return
        turn = self.turn = turn_of(self, self._outlet.sending, head, self._on_asgi_end)
        self._start_asgi_task(turn, self.app)

    # The client's end of file, and what is no request.

    def eof_received(self) -> bool:  # type: ignore[override]
        """Handle the client's end of file: it sends no more, but may still read."""
        self._has_eof = self._outlet.presence.has_eof = True
        self._stop_timer()
        if not self._unread:
            self._at_end()
        return not self.transport.is_closing()

    def _at_end(self) -> None:
        turn = self.turn
        if not self._is_busy and not self._is_within:
            self.end()
        elif self._is_within and (turn is None or not turn.has_begun):
            self._refuse(BadRequest("the request ended before it was whole"))
        elif turn is not None:
            self._outlet.presence.suspect(turn)

    def _on_doubt(self, sends_no_more: bool) -> None:
        """Check whether the client has left, while nothing is read."""
        if self.turn is not None and not self._is_within:  # reading on with the rest of a request tells more
            self._outlet.presence.suspect(self.turn, sends_no_more)

    def _refuse(self, error: ServingError) -> None:
        """Answer what is no request, and close the connection."""
        turn = self.turn
        if turn is not None:
            if turn.refuse(error):
                return
            turn.disconnect()
        if turn is None or not turn.has_begun:
            headers = self._head.headers if self._head is not None else []
            self._outlet.sending.write(refusal(error, headers, self.server_state.default_headers))
        self.end(lingers=True)

    def end(self, lingers: bool = False) -> None:
        """Close the connection after what was written. It ``lingers`` also where more of a request is to come."""
        self._stop_timers()
        self._is_open = False
        self._outlet.end()
        more = lingers or self._is_within or self._unread
        if more and not self._has_eof and not self.transport.is_closing():
            Lingering(self, self.transport, self.loop)
        else:
            self.transport.close()

    # After a response, and writing.

    def _on_end(self, keep_alive: bool) -> None:
        """Go on after a complete response."""
        self.turn = None
        self.server_state.total_requests += 1
        if not keep_alive:
            self.end()
        if not self._is_open:
            return
        if self._unread or self._has_eof:
            self.loop.call_soon(self._read_on)
        self._idle.start()

    def _on_asgi_end(self) -> None:
        self._outlet.flow.resume_reading()
        self._on_end(True)  # a connection that ends here is closed already

    def _read_on(self) -> None:
        """Parse the data that came too early."""
        if self.turn is None:
            self._outlet.presence.stop_watch()
        if self._is_busy or not self._is_open:
            return
        data, self._unread = self._unread, b""
        self._outlet.flow.release()
        self._read(data, self._unread_at)
        if self._left >= STRAIGHT:
            self._read_straight()
        if self._has_eof and not self._unread and self._is_open:
            self._at_end()

    def pause_writing(self) -> None:
        self._outlet.pause()

    def resume_writing(self) -> None:
        self._outlet.resume()
        self._writer.on_writable()
        if self._unread or self._has_eof:
            self.loop.call_soon(self._read_on)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_timers(self) -> None:
        self._stop_timer()
        self._idle.stop()
        self._outlet.presence.stop()
