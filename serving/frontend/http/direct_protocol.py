"""DirectProtocol: the HTTP protocol that answers plain invocations and pings itself, and passes the rest to ASGI."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, cast

from serving.errors import ServingError
from serving.frontend.bodies import COUNTED
from serving.frontend.http.body_reader import STRAIGHT, BodyReader
from serving.frontend.http.cycle import Cycle, cycle_of
from serving.frontend.http.direct import Direct
from serving.frontend.http.exchange import Exchange
from serving.frontend.http.head import Head
from serving.frontend.http.plain import Plain
from serving.frontend.http.protocol import HttpProtocol
from serving.frontend.http.repeat import Repeat
from serving.request import Body

PING = b"/ping"


class DirectProtocol(HttpProtocol):
    """One HTTP connection. ``receiving`` is the exchange whose body is being read. An exchange calls the methods that
    settle it.

    ``_repeat`` is set while nothing has arrived since one whole plain invocation: a next one like it is not parsed.
    """

    direct: ClassVar[Direct]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.receiving: Exchange | None = None
        self._current: Exchange | None = None
        self._leaving: Exchange | None = None
        self._closes = False
        self._length = 0
        self._plain: Plain | None = None
        self._repeat: Repeat | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._current is not None:
            self._current.set()
        self.receiving = self._leaving = None

    def give_up(self) -> None:
        """Fail the current request: the server's time for draining is over."""
        if self._current is not None:
            self._current.give_up()

    # Reading.

    def _start(self, head: Head) -> None:
        if not head.is_foreign and (head.version == "1.1" or (head.keep_alive and not head.closes)):
            if head.method == b"POST":
                if self._open(head):
                    return
            elif head.method == b"GET" and head.url == PING and head.keep_alive and not head.has_body:
                self._answer_ping()
                return
        super()._start(head)

    def _open(self, head: Head) -> bool:
        plain = self._plain
        if plain is None or plain.headers != head.headers or plain.url != head.url:
            plain = self._plain = self.direct.read(head.url, head.headers)
            if plain is None:
                return False
        exchange = self.direct.open(self, plain, head.length)
        if exchange is None:
            return False
        exchange.keep_alive = head.keep_alive
        self._closes, self._length = head.closes, head.length
        self.cycle = exchange  # type: ignore[assignment]
        self._current = self.receiving = exchange
        return True

    def on_body(self, body: bytes) -> None:
        exchange = self.receiving
        if exchange is None:
            super().on_body(body)
            return
        exchange.add(body)
        if self.receiving is None:
            return  # it was refused for lack of room
        limit = self.direct.limit
        # Only ASGI bounds a body that comes without a Content-Length.
        if (limit and exchange.size > limit) or exchange.size >= max(COUNTED, exchange.length + 1):
            self.receiving = None
            self.give_over(exchange, complete=False)

    def on_message_complete(self) -> None:
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
        between = not self._is_within  # otherwise the data begins with the rest of another request
        super().data_received(data)
        exchange = self.receiving
        if exchange is None:
            if between and self._current is not before and not self._unread:
                self._remember(data)
        elif self._left >= STRAIGHT and not self.sending.is_closing():
            BodyReader(self, self.transport, exchange, self._length)

    def _remember(self, data: bytes) -> None:
        exchange, newest = self._current, cast(object, self.cycle)
        if exchange is not None and newest is exchange and exchange.keep_alive and not self._closes:
            self._repeat = Repeat.of(exchange.plain, data, self._length)

    def end_of_straight(self) -> None:
        """Continue after the body that a BodyReader has read."""
        self._left = 0
        self.on_message_complete()

    def _refuse(self, error: ServingError) -> None:
        if self.receiving is not None:
            self.receiving.fail(error)
        else:
            super()._refuse(error)

    def stop_receiving(self) -> None:
        """Drop the rest of this request's body as it arrives."""
        self.receiving = None

    # Called by an exchange.

    @property
    def is_full(self) -> bool:
        """Whether much of what was sent still waits for the client."""
        return self.flow.write_paused

    def finish(self, exchange: Exchange, answer: bytes) -> None:
        sending = self.sending
        if sending.is_closing():
            return
        sending.write(answer)
        self._finished(exchange)

    def send_large(self, exchange: Exchange, head: bytes, body: Body) -> None:
        """Send a large response. It is complete once most of it is sent, so that the request counts as in flight until
        then.
        """
        if self.sending.is_closing():
            exchange.has_left()
            return
        self.sending.writelines((head, body))
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
            self.end()
            self._repeat = None
        self._go_on()

    def give_over(self, exchange: Exchange, complete: bool = True) -> None:
        """Continue this request in ASGI; ``complete``: its whole body has arrived."""
        self._repeat = None
        cycle = self._goes_on_as(exchange, complete)
        cycle.body = bytearray(exchange.body)
        cycle.more_body = not complete
        cycle.message_event.set()
        self._start_asgi_task(cycle, cast(Any, exchange.give_over()))

    def resume(self, exchange: Exchange, app: Any) -> None:
        """Finish this request with ``app``, an ASGI application that already has the request."""
        self._repeat = None
        cycle = self._goes_on_as(exchange)
        cycle.more_body = False
        self._start_asgi_task(cycle, app)

    def _goes_on_as(self, exchange: Exchange, complete: bool = True) -> Cycle:
        cycle = cycle_of(self, exchange, complete)
        if cast(object, self.cycle) is exchange:
            self.cycle = cycle
        return cycle

    def _answer_ping(self) -> None:
        answer, ends = self.direct.ping(self)
        self.sending.write(answer)
        if ends:
            self.end()
        self._go_on()
