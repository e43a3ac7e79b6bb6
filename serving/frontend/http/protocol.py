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
from serving.frontend.http.framing import Framing
from serving.frontend.http.head import Head
from serving.frontend.http.outlet import Outlet
from serving.frontend.http.refusal import refusal
from serving.frontend.http.repeat import HeadCache
from serving.frontend.http.turn import Turn
from serving.frontend.http.upgrade import upgrade
from serving.frontend.http.writer import ResponseWriter
from serving.frontend.invocation.endpoint import Endpoint
from serving.frontend.invocation.exchange import Exchange, open_exchange
from serving.frontend.watch.clienttimer import ClientTimer
from serving.frontend.watch.lingering import Lingering

PING = b"/ping"


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection. ``turn`` is the request that is not answered yet, None between requests.

    ``_is_open`` until nothing more is read or written here.
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
        self._timer = ClientTimer(self.loop, transport.close, lambda: self.timeout_keep_alive, self._is_asking)
        self._framing = Framing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        self._outlet.stop()
        self._framing.drop()
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
        framing = self._framing
        data = framing.joined(data)
        is_first = not framing.is_within
        self._read(data, 0)
        turn = self.turn
        if is_first and isinstance(turn, Exchange) and turn.is_whole and not framing.has_unread:
            cache.remember(data, turn.size)
        else:
            self._read_straight()

    def _read_straight(self) -> None:
        """Have the rest of a large body read directly into its buffer."""
        exchange = self.turn
        if self._framing.left < STRAIGHT:
            return
        if isinstance(exchange, Exchange) and exchange.is_receiving and exchange.length <= LARGEST:
            BodyReader(self, self.transport, exchange, self._end_of_straight)

    def _end_of_straight(self) -> None:
        self._framing.left = 0
        self._end_body()

    def _read(self, data: bytes, at: int) -> None:
        framing, size = self._framing, len(data)
        try:
            while at < size and self._is_open:
                if framing.is_in_body:
                    at = framing.read_body(data, at, self._on_part, self._end_body)
                elif self._is_busy:
                    framing.keep(data, at)
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

    def _is_asking(self) -> bool:
        return self._framing.head is not None or self.turn is not None

    def _read_head(self, data: bytes, at: int) -> int:
        framing = self._framing
        head = framing.head
        if head is None:
            head, at = framing.begin_head(data, at)
            if head is None:
                return at
            self._timer.stop_head()
        at = head.read(data, at)
        if not head.is_complete:
            self._timer.await_head()
            return at
        self._timer.stop_head()
        head.check()
        if head.upgrade and head.is_websocket and self._should_upgrade_to_ws():
            self._upgrade(head, data[at:])
            return len(data)
        framing.begin_body(head)
        self._start(head)
        if not head.has_body:
            self._end_body()
        return at

    def _upgrade(self, head: Head, rest: bytes) -> None:
        self._stop_timers()
        self._outlet.stop()
        self._is_open = False
        self._outlet.end()
        upgrade(self, head, rest)

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
        self._outlet.presence.has_eof = True
        self._timer.stop_head()
        if not self._framing.has_unread:
            self._at_end()
        return not self.transport.is_closing()

    def _at_end(self) -> None:
        turn, is_within = self.turn, self._framing.is_within
        if not self._is_busy and not is_within:
            self.end()
        elif is_within and (turn is None or not turn.has_begun):
            self._refuse(BadRequest("the request ended before it was whole"))
        elif turn is not None:
            self._outlet.presence.suspect(turn)

    def _on_doubt(self, sends_no_more: bool) -> None:
        """Check whether the client has left, while nothing is read."""
        if self.turn is not None and not self._framing.is_within:  # reading on with the rest of a request tells more
            self._outlet.presence.suspect(self.turn, sends_no_more)

    def _refuse(self, error: ServingError) -> None:
        """Answer what is no request, and close the connection."""
        turn = self.turn
        if turn is not None:
            if turn.refuse(error):
                return
            turn.disconnect()
        if turn is None or not turn.has_begun:
            head = self._framing.head
            headers = head.headers if head is not None else []
            self._outlet.sending.write(refusal(error, headers, self.server_state.default_headers))
        self.end(lingers=True)

    def end(self, lingers: bool = False) -> None:
        """Close the connection after what was written. It ``lingers`` also where more of a request is to come."""
        self._stop_timers()
        self._is_open = False
        self._outlet.end()
        more = lingers or self._framing.is_within or self._framing.has_unread
        if more and not self._outlet.presence.has_eof and not self.transport.is_closing():
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
        if self._framing.has_unread or self._outlet.presence.has_eof:
            self.loop.call_soon(self._read_on)
        self._timer.await_request()

    def _on_asgi_end(self) -> None:
        self._outlet.flow.resume_reading()
        self._on_end(True)  # a connection that ends here is closed already

    def _read_on(self) -> None:
        """Parse the data that came too early."""
        if self.turn is None:
            self._outlet.presence.stop_watch()
        if self._is_busy or not self._is_open:
            return
        self._outlet.flow.release()
        self._read(*self._framing.take())
        self._read_straight()
        if self._outlet.presence.has_eof and not self._framing.has_unread and self._is_open:
            self._at_end()

    def pause_writing(self) -> None:
        self._outlet.pause()

    def resume_writing(self) -> None:
        self._outlet.resume()
        self._writer.on_writable()
        if self._framing.has_unread or self._outlet.presence.has_eof:
            self.loop.call_soon(self._read_on)

    def _stop_timers(self) -> None:
        self._timer.stop()
        self._outlet.presence.stop()
