"""HttpProtocol: one HTTP connection, with bounds on every wait for its client.

A connection reads a head, its body, the next head. Which of them comes next follows from the bytes read alone, never
from the responses. A head is not parsed before the previous response is complete: data that comes too early is kept,
and reading stops.

Invocations are exchanges, and pings are answered at once; everything else goes to the ASGI application.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.errors import BadRequest, ServingError
from serving.frontend.http.asgi import turn_of
from serving.frontend.http.body_reader import LARGEST, STRAIGHT, BodyReader
from serving.frontend.http.chunked import Chunked
from serving.frontend.http.flow import Flow
from serving.frontend.http.head import Head
from serving.frontend.http.idle import IdleTimer
from serving.frontend.http.lingering import Lingering
from serving.frontend.http.presence import Presence
from serving.frontend.http.reader import ReaderWatch
from serving.frontend.http.refusal import refusal
from serving.frontend.http.repeat import Repeat
from serving.frontend.http.sending import Sending
from serving.frontend.http.turn import Turn
from serving.frontend.http.writer import ResponseWriter
from serving.frontend.invocation.border import FINDING, READING
from serving.frontend.invocation.endpoint import Endpoint
from serving.frontend.invocation.exchange import Exchange, open_exchange
from serving.frontend.invocation.invocation_head import InvocationHead

HEAD_TIME = 30.0  # seconds from a head's first byte to its last
IDLE_TIME = 90.0  # seconds from a connection's beginning to its first byte
READ_TIME = 60.0  # seconds in which a client that is sent an answer must read some of it
BLANK = b"\r\n"  # bytes that may come before a head
PING = b"/ping"


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection. ``turn`` is the request that is not answered yet, None between requests.

    ``_head`` is the head being read. ``_left`` bytes of the body are yet to come, or it is chunked and read by
    ``_chunks``. ``_is_open`` until nothing more is read or written here. ``_repeat`` is set while nothing has arrived
    since one whole invocation: a next one like it is not parsed. ``_known`` is the parsed head of the last invocation.
    """

    endpoint: ClassVar[Endpoint]
    flow: Flow

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.parser = None  # type: ignore[assignment]  # each head has its own
        self.turn: Turn | None = None
        self._sending = Sending(transport, self.end)
        self._presence = Presence(
            transport, self.loop, self._sending, lambda: self._is_open and self.flow.read_paused, self._on_doubt
        )
        self.flow = Flow(transport, self._presence.on_blind)
        self._writer = ResponseWriter(
            self.endpoint, self.server_state, transport, self._sending, self.flow, self._presence, self._on_end
        )
        self._reader = ReaderWatch(transport, self.loop, READ_TIME)
        self._idle = IdleTimer(self.loop, lambda: self.timeout_keep_alive, self._is_within_request, transport.close)
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(IDLE_TIME, transport.close)
        self._head: Head | None = None
        self._left = 0
        self._chunks: Chunked | None = None
        self._unread = b""
        self._unread_at = 0
        self._is_open = True
        self._known: tuple[bytes, InvocationHead] | None = None
        self._repeat: Repeat | None = None
        self._opened: Exchange | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        self._reader.stop()
        if self._head is not None:
            self._head.drop()
        self._head = self._chunks = self._repeat = self._opened = None
        self._unread = b""
        self._is_open = False
        self._sending.end()
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
        repeat = self._repeat
        if repeat is not None and self.turn is None:
            body = repeat.body_of(data)
            if body is not None:
                self._open_again(repeat.head, body)
                return
        self._repeat = self._opened = None
        if self._unread:
            data, self._unread = self._unread[self._unread_at :] + data, b""
            self._read(data, 0)
        elif self._left or self._chunks is not None or self._head is not None:
            self._read(data, 0)
        else:
            self._read(data, 0)
            self._remember(data)
        self._read_straight()

    def _open_again(self, head: InvocationHead, body: bytes) -> None:
        exchange = self.turn = open_exchange(self.endpoint, self._writer, head, len(body))
        if exchange.state is FINDING:
            exchange.find()
        exchange.on_body(body)
        exchange.on_body_end()

    def _remember(self, data: bytes) -> None:
        """Remember the head in ``data``, where that is one whole invocation."""
        exchange, self._opened = self._opened, None
        if exchange is not None and exchange.is_whole and not self._unread:
            self._repeat = Repeat.of(exchange.head, data, exchange.size)

    def _read_straight(self) -> None:
        """Have the rest of a large body read directly into its buffer."""
        exchange = self.turn
        if self._left < STRAIGHT or not isinstance(exchange, Exchange) or exchange.length > LARGEST:
            return
        if exchange.state <= READING and not self._sending.is_closing():
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
                    self.flow.hold()
                    return
                else:
                    at = self._read_head(data, at)
        except ServingError as error:
            self._refuse(error)

    @property
    def _is_busy(self) -> bool:
        """Whether a response is under way, or much of one has yet to be read by the client."""
        return self.turn is not None or self.flow.write_paused

    @property
    def _is_within(self) -> bool:
        """Whether part of a request has arrived, but not all of it."""
        return self._head is not None or self._left > 0 or self._chunks is not None

    def _is_within_request(self) -> bool:
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
            self._upgrade(head, data[at:])
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
            known = self._read_invocation(head)
            if known is not None:
                self._open(head, known)
                return
        elif head.method == b"GET" and head.url == PING and head.keep_alive and not (head.has_body or head.is_foreign):
            self._on_end(self._writer.ping())
            return
        turn = turn_of(self, self._sending, head, self._on_asgi_end)
        self.turn = turn
        self._start_asgi_task(turn, self.app)

    def _read_invocation(self, head: Head) -> InvocationHead | None:
        known = self._known
        if known is not None and known[0] == head.url and known[1].headers == head.headers:
            return known[1]
        found = self.endpoint.read(head.url, head.headers)
        self._known = None if found is None else (head.url, found)
        return found

    def _open(self, head: Head, known: InvocationHead) -> None:
        exchange = open_exchange(self.endpoint, self._writer, known, head.length)
        exchange.keep_alive, exchange.is_old = head.keep_alive, head.version == "1.0"
        self.turn = exchange
        if not (head.closes or head.is_foreign or head.is_chunked or exchange.is_old):
            self._opened = exchange
        self._writer.expects = head.expects
        if exchange.state is FINDING:
            exchange.find()
        elif head.expects:
            self._writer.go_ahead()

    def _upgrade(self, head: Head, rest: bytes) -> None:
        """Pass the connection to the WebSocket protocol, with the data that came after the head."""
        self._stop_timers()
        self._reader.stop()
        self._is_open = False
        self._sending.end()
        self.connections.discard(self)
        protocol: Any = self.ws_protocol_class(  # type: ignore[call-arg, misc]
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        lines = [head.method, b" ", head.url, b" HTTP/1.1\r\n", *(b"%b: %b\r\n" % one for one in head.headers), b"\r\n"]
        protocol.connection_made(self.transport)
        protocol.data_received(b"".join(lines))
        self.transport.set_protocol(protocol)
        if rest:
            protocol.data_received(rest)

    # The client's end of file, and what is no request.

    def eof_received(self) -> bool:  # type: ignore[override]
        """Handle the client's end of file: it sends no more, but may still read."""
        self._presence.has_eof = True
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
            self._presence.suspect(turn)

    def _on_doubt(self, sends_no_more: bool) -> None:
        """Check whether the client has left, while nothing is read."""
        if self.turn is not None and not self._is_within:  # reading on with the rest of a request tells more
            self._presence.suspect(self.turn, sends_no_more)

    def _refuse(self, error: ServingError) -> None:
        """Answer what is no request, and close the connection."""
        turn = self.turn
        if turn is not None:
            if turn.refuse(error):
                return
            turn.disconnect()
        if turn is None or not turn.has_begun:
            headers = self._head.headers if self._head is not None else []
            self._sending.write(refusal(error, headers, self.server_state.default_headers))
        self.end(lingers=True)

    def end(self, lingers: bool = False) -> None:
        """Close the connection after what was written. It ``lingers`` also where more of a request is to come."""
        self._stop_timers()
        self._is_open = False
        self._sending.end()
        more = lingers or self._is_within or self._unread
        if more and not self._presence.has_eof and not self.transport.is_closing():
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
        if self._unread or self._presence.has_eof:
            self.loop.call_soon(self._read_on)
        self._idle.start()

    def _on_asgi_end(self) -> None:
        self.flow.resume_reading()
        self._on_end(True)  # a connection that ends here is closed already

    def _read_on(self) -> None:
        """Parse the data that came too early."""
        if self.turn is None:
            self._presence.stop_watch()
        if self._is_busy or not self._is_open:
            return
        data, self._unread = self._unread, b""
        self.flow.release()
        self._read(data, self._unread_at)
        self._read_straight()
        if self._presence.has_eof and not self._unread and self._is_open:
            self._at_end()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reader.stop()
        self._writer.on_writable()
        if self._unread or self._presence.has_eof:
            self.loop.call_soon(self._read_on)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_timers(self) -> None:
        self._stop_timer()
        self._idle.stop()
        self._presence.stop()
