"""Exchange: one plain invocation and its response, without ASGI between the connection and the replica."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serving.deadline import EARLY, Deadline
from serving.errors import BodiesFull, CodedError, DeadlineExceeded, Draining, ServingError
from serving.frontend.answers import LARGE, STOPPED, Whole
from serving.frontend.bodies import COUNTED, Held
from serving.frontend.http.headers import SentHeaders, picked
from serving.frontend.http.plain import Plain
from serving.frontend.routing.connection import Connection, ReplicaLost, reply_head, response_of
from serving.frontend.routing.stream import Streamed
from serving.ipc.wire import RequestHead
from serving.request import Body, Request, Response

if TYPE_CHECKING:
    from serving.frontend.http.body_reader import BodyReader
    from serving.frontend.http.direct import Direct
    from serving.frontend.http.direct_protocol import DirectProtocol


CLOSE = b"connection: close\r\n\r\n"
STILL_BODY = "nothing came of the body while others needed its room"


class Exchange(msgspec.Struct, eq=False):
    """One request on ``protocol``, the connection, which treats it like one of uvicorn's cycles.

    It is settled once: answered, passed to ASGI, or abandoned by its client. ``arrival`` and ``expires`` are instants,
    ``timeout`` is in seconds. ``headers`` are the names of the request headers that the handler asks for. ``length`` is
    the Content-Length in bytes, 0 where there is none. ``reader`` reads the rest of a large body. ``is_leaving``: the
    response is written, and the client has yet to read it.
    """

    direct: Direct
    protocol: DirectProtocol
    plain: Plain
    request_id: str
    arrival: float
    timeout: float
    expires: float
    length: int = 0
    headers: tuple[str, ...] = ()
    size: int = 0
    keep_alive: bool = True
    response_complete: bool = False
    disconnected: bool = False
    is_leaving: bool = False
    reader: BodyReader | None = None
    _held: Held | None = None
    _buffers: list[Body] = []
    _connection: Connection | None = None
    _id: int = 0

    @property
    def response_started(self) -> bool:
        return self.is_leaving or self.response_complete

    @property
    def message_event(self) -> Exchange:
        """Looks like the event that uvicorn sets when the client disconnects."""
        return self

    def set(self) -> None:
        """End the request: the client has disconnected."""
        if not self.response_complete:
            self._end()
            self._leave()

    def add(self, part: Body) -> None:
        self._buffers.append(part)
        self.size += len(part)
        if self.size >= COUNTED:
            self.count(self.size)

    def replace(self, body: bytearray) -> None:
        """Replace the buffers by ``body``, which has the final size and begins with what has arrived."""
        self._buffers = [body]
        self.size = len(body)

    def count(self, size: int) -> None:
        """Count ``size`` bytes of the body as arrived. The request fails where there is no room for them."""
        try:
            self._holding().grow(size)
        except BodiesFull as error:
            self._refuse(error)

    def _holding(self) -> Held:
        if self._held is None:
            self._held = Held(self.direct.bodies, lambda: self._refuse(BodiesFull(STILL_BODY)))
        return self._held

    def _refuse(self, error: ServingError) -> None:
        if not self.response_complete:
            self.fail(error)

    @property
    def body(self) -> Body:
        """The body, as far as it has arrived."""
        if len(self._buffers) != 1:
            self._buffers = [b"".join(self._buffers)]
        return self._buffers[0]

    def ask(self) -> None:
        """Send the request, whose body is complete, to a replica."""
        if self._held is not None:
            self._held.keep()
        direct = self.direct
        try:
            plain = self.plain
            connection = direct.replicas.at_hand(plain.model)
            if connection is None:
                self.protocol.give_over(self)
                return
            head = RequestHead(
                self.expires, self.request_id, plain.content_type, plain.accept, plain.model, False, plain.sagemaker
            )
            if self.headers:
                head = replace(head, headers=picked(SentHeaders(plain.headers), self.headers))
            self._id, self._connection = connection.next_id(), connection
            connection.send(head, self.body, self._id, self)
        except ServingError as error:
            self.fail(error)

    # The replica's reply: one of these, once.

    def on_reply(self, head: bytes, body: Body) -> None:
        self._connection = None
        protocol, direct = self.protocol, self.direct
        start = direct.start_of(head)
        if start is None or self.plain.attributes or protocol.is_full:
            self._reply(head, body)
        elif not self.response_complete:
            end = b"\r\n" if self.keep_alive else CLOSE
            told = f"{len(body)}\r\nx-request-id: {self.request_id}\r\n".encode()
            lines = direct.default_lines(protocol)
            if len(body) < LARGE:
                self._end()
                protocol.finish(self, b"".join((start, told, lines, end, body)))
            elif self._holds(body):
                self._let_go()
                self.is_leaving = True
                protocol.send_large(self, b"".join((start, told, lines, end)), body)

    def _holds(self, body: Body) -> bool:
        """Return whether there is room for a large response until its client has read it; the request fails where
        not.
        """
        self._buffers = []
        transport = self.protocol.transport
        try:
            self._holding().answer(len(body), transport.get_write_buffer_size, transport.abort)
        except BodiesFull as error:
            self.fail(error)
            return False
        return True

    def _reply(self, head: bytes, body: Body) -> None:
        reply = reply_head(head)
        if reply.code is not None:
            message = bytes(body).decode("utf-8", "replace")
            self.fail(CodedError(reply.status, reply.code, message, reply.retry_after))
            return
        response = response_of(reply, body)
        if len(body) >= LARGE or self.protocol.is_full:
            self._resume(response)
        else:
            self._send(self.direct.answers.whole(response, self.plain.attributes, self.request_id))

    def on_begin(self, streamed: Streamed) -> None:
        self._connection = None
        self._resume(streamed)

    def on_lost(self, lost: ReplicaLost) -> None:
        self._connection = None
        self._resume(lost)

    def fail(self, error: ServingError) -> None:
        self._send(self.direct.answers.failure(error, self.request_id, []))

    def expire(self) -> None:
        """Answer that the deadline has passed."""
        if self.protocol.receiving is self:
            self.fail(DeadlineExceeded("the body did not arrive in time"))
            return
        connection = self._connection
        if self._leave() and connection is not None and self.expires - self.direct.clock() < EARLY:
            self.direct.replicas.report_overdue(connection)
        self.fail(self.direct.invocations.timed_out(self.plain.model))

    def give_up(self) -> None:
        """Answer that the server stops, because its time for draining is over."""
        if not self.response_complete and not self.is_leaving:
            self._leave()
            self.fail(Draining(STOPPED))

    # The end, in one of three ways.

    def _send(self, whole: Whole) -> None:
        closes = False
        lines: list[bytes] = [STATUS_LINE[whole.status], self.direct.default_lines(self.protocol)]
        for name, value in whole.headers:
            closes = closes or (name == b"connection" and value == b"close")
            lines += (name, b": ", value, b"\r\n")
        if self.response_complete:
            return
        if self.protocol.receiving is self:  # the rest of its body would be read as the next request
            self.protocol.stop_receiving()
            self.keep_alive = False
        lines.append(b"\r\n" if closes or self.keep_alive else CLOSE)
        lines.append(bytes(whole.body))
        self.keep_alive = self.keep_alive and not closes
        self._end()
        self.protocol.finish(self, b"".join(lines))

    def _resume(self, reply: Response | Streamed | ReplicaLost) -> None:
        if self.response_complete:
            if isinstance(reply, Streamed):
                reply.stream.cancel()
            return
        self.response_complete = True
        self.direct.expiries.discard(self)
        plain = self.plain
        request = Request(
            self.body,
            plain.content_type,
            plain.accept,
            self.request_id,
            Deadline(self.expires),
            plain.model,
            MappingProxyType(plain.sagemaker),
            headers=SentHeaders(plain.headers),
        )
        self._buffers = []
        held, self._held = self._holding(), None
        self.protocol.resume(self, self.direct.resume(request, self.arrival, plain.load, reply, held))

    def _end(self) -> None:
        self.response_complete = True
        self._let_go()
        self.direct.slot.leave()
        if self._held is not None:
            self._held.release()

    def _let_go(self) -> None:
        """Release what is needed only until there is a response."""
        self._buffers = []  # the connection keeps this exchange until its next request
        if self.reader is not None:
            self.reader.drop()
            self.reader = None
        self.direct.expiries.discard(self)

    def has_left(self) -> None:
        """Complete the exchange: enough of the response sent by ``send_large`` has left."""
        self._end()

    def give_over(self) -> ASGIApp:
        """Return the ASGI application that continues this request, accepted already, with the memory that it holds."""
        self.response_complete = True
        self._let_go()
        held, self._held = self._holding(), None
        return self.direct.go_on(self.plain, self.arrival, self.request_id, self.expires, held)

    def _leave(self) -> bool:
        """Tell the replica that nobody waits for its reply. Returns False where it had no such request."""
        connection, self._connection = self._connection, None
        return connection is not None and connection.forget(self._id)
