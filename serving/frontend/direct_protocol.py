"""DirectProtocol: the HTTP protocol that answers plain invocations and pings itself, and hands on all the rest.

A request that comes while another one on its connection is under way waits as one of uvicorn's cycles, as it would
without this, so that answers keep their order.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, cast

import httptools
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from serving.frontend.bodies import COUNTED
from serving.frontend.body_reader import STRAIGHT, BodyReader
from serving.frontend.cycle import cycle_of
from serving.frontend.direct import Direct
from serving.frontend.exchange import Exchange
from serving.frontend.headers import Headers
from serving.frontend.plain import Plain
from serving.frontend.protocol import HttpProtocol
from serving.frontend.repeat import Repeat
from serving.request import Body

PING = b"/ping"
TELLING = frozenset({b"content-length", b"connection", b"expect", b"upgrade"})
GIVE_UP = 0.9  # seconds from the end of service to when its clients are told, a little before uvicorn's own


class DirectProtocol(HttpProtocol):
    """``receiving`` is the exchange whose body is being read. The methods that an exchange calls settle it.

    There is a ``_repeat`` while nothing has come since one whole plain invocation, so that the parser is between two
    messages and need not see the next one.
    """

    direct: ClassVar[Direct]
    headers: Headers

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.receiving: Exchange | None = None
        self._current: Exchange | None = None
        self._leaving: Exchange | None = None
        self._length = 0
        self._in_message = False
        self._foreign = False
        self._closes = False
        self._plain: Plain | None = None
        self._repeat: Repeat | None = None
        self._idle_since = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)
        if self._current is not None:
            self._current.set()
        self.receiving = self._leaving = None

    def shutdown(self) -> None:
        super().shutdown()
        if self._current is not None and not self._current.response_complete:
            self.loop.call_later(GIVE_UP, self._current.give_up)

    # The parser's callbacks.

    def on_message_begin(self) -> None:
        self._in_head = self._in_message = True
        if self._timer is not None:
            self._stop_timer()
        self.url = b""
        self.headers = []
        self.expect_100_continue = self._foreign = self._closes = False
        self._length = 0

    def on_url(self, url: bytes) -> None:
        self.url = self.url + url if self.url else url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
        if name in TELLING:
            self._look_at(name, value)

    def _look_at(self, name: bytes, value: bytes) -> None:
        if name == b"content-length":
            self._length = int(value)
        elif name == b"connection":
            self._closes = True
        else:
            self._foreign = True
            self.expect_100_continue |= name == b"expect" and value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        cycle = self.cycle
        if (cycle is None or cycle.response_complete) and not self._foreign and not self.pipeline:
            parser = self.parser
            method = parser.get_method()
            # What keeps a connection without being asked to is HTTP/1.1.
            keep_alive = parser.should_keep_alive()
            if (self._closes or not keep_alive) and parser.get_http_version() != "1.1":
                pass
            elif method == b"POST":
                if self._begin(keep_alive):
                    return
            elif method == b"GET" and self.url == PING and keep_alive and self._is_bare():
                self._in_head = False
                self._answer_ping()
                return
        self._begin_asgi()

    def _begin(self, keep_alive: bool) -> bool:
        plain = self._plain
        if plain is None or plain.headers != self.headers or plain.url != self.url:
            plain = self._plain = self.direct.read(self.url, self.headers)
            if plain is None:
                return False
        exchange = self.direct.open(self, plain, self._length)
        if exchange is None:
            return False
        exchange.keep_alive = keep_alive
        self._in_head = False
        self.cycle = exchange  # type: ignore[assignment]
        self._current = self.receiving = exchange
        return True

    def _is_bare(self) -> bool:
        """Whether the request has no body."""
        return not self._length and not any(name == b"transfer-encoding" for name, _ in self.headers)

    def _begin_asgi(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        exchange = self.receiving
        if exchange is None:
            super().on_body(body)
            return
        exchange.add(body)
        if self.receiving is None:
            return  # there is no room for it
        limit = self.direct.limit
        # How large a body will be whose length is not said only ASGI watches.
        if (limit and exchange.size > limit) or exchange.size >= max(COUNTED, exchange.length + 1):
            self.receiving = None
            self.give_over(exchange, complete=False)

    def on_message_complete(self) -> None:
        self._in_message = False
        exchange = self.receiving
        if exchange is not None:
            self.receiving = None
            exchange.ask()
        elif self.cycle is not None:
            super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        repeat = self._repeat
        if repeat is not None and self.cycle.response_complete:
            body = repeat.body_of(data)
            if body is not None and self._take(repeat.plain, body):
                return
        self._parse(data)

    def _take(self, plain: Plain, body: bytes) -> bool:
        exchange = self.direct.open(self, plain, len(body))
        if exchange is None:
            return False
        self.cycle = exchange  # type: ignore[assignment]
        self._current = exchange
        exchange.add(body)
        if not exchange.response_complete:
            exchange.ask()
        return True

    def _parse(self, data: bytes) -> None:
        self._repeat = None
        before = self._current
        between = not self._in_message  # else what was remembered would begin with the rest of a body
        super().data_received(data)
        exchange = self.receiving
        if exchange is None:
            if between and self._current is not before and not self.pipeline:
                self._remember(data)
        elif self._length - exchange.size >= STRAIGHT and not self.transport.is_closing():
            BodyReader(self, self.transport, exchange, self._length)
            self._renew_parser()  # which waits for a body that it will not see

    def _remember(self, data: bytes) -> None:
        exchange, newest = self._current, cast(object, self.cycle)
        if exchange is not None and newest is exchange and exchange.keep_alive and not self._closes:
            self._repeat = Repeat.of(exchange.plain, data, self._length)

    def _renew_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def stop_receiving(self) -> None:
        """What comes of this body is dropped."""
        self.receiving = None

    # Called by an exchange.

    @property
    def is_full(self) -> bool:
        """Whether the client has yet to read much of what was sent to it."""
        return self.flow.write_paused

    def finish(self, exchange: Exchange, answer: bytes) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(answer)
        self._finished(exchange)

    def send_large(self, exchange: Exchange, head: bytes, body: Body) -> None:
        """The answer is complete once most of it has left, so that "in flight" means what it says."""
        if self.transport.is_closing():
            exchange.has_left()
            return
        self.transport.writelines((head, body))
        if self.flow.write_paused:
            self._leaving = exchange
        else:
            exchange.has_left()
            self._finished(exchange)

    def resume_writing(self) -> None:
        super().resume_writing()
        exchange, self._leaving = self._leaving, None
        if exchange is not None and not exchange.response_complete:
            exchange.has_left()
            self._finished(exchange)

    def _finished(self, exchange: Exchange) -> None:
        if not exchange.keep_alive:
            self.transport.close()
            self._repeat = None
        self._go_on()

    def give_over(self, exchange: Exchange, complete: bool = True) -> None:
        """Have ASGI begin with this request; ``complete`` says whether all of its body is there."""
        self._repeat = None
        body = bytearray(exchange.body)
        exchange.end_direct()
        cycle = self._goes_on_as(exchange, complete)
        cycle.body = body
        cycle.more_body = not complete
        cycle.message_event.set()
        self._start_asgi_task(cycle, self.app)

    def resume(self, exchange: Exchange, app: Any) -> None:
        """Have ``app``, an ASGI application, end this request, which it knows."""
        self._repeat = None
        cycle = self._goes_on_as(exchange)
        cycle.more_body = False
        self._start_asgi_task(cycle, app)

    def _goes_on_as(self, exchange: Exchange, complete: bool = True) -> RequestResponseCycle:
        cycle = cycle_of(self, exchange, complete)
        if cast(object, self.cycle) is exchange:
            self.cycle = cycle
        return cycle

    def _answer_ping(self) -> None:
        answer, ends = self.direct.ping(self)
        self.transport.write(answer)
        if ends:
            self.transport.close()
        self._go_on()

    def _go_on(self) -> None:
        """As uvicorn does when an answer is complete, but with one timer for all that a connection answers."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            self.flow.resume_reading()
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._look)

    def _look(self) -> None:
        """Close the connection where nothing has come for long; while something is under way this is not called."""
        self._idle_timer = None
        if self._in_head or (self.cycle is not None and not self.cycle.response_complete):
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left <= 0:
            self.timeout_keep_alive_handler()
        else:
            self._idle_timer = self.loop.call_later(left, self._look)
