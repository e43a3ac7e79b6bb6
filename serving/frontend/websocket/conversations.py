"""Conversations: a client's WebSocket connected to a replica, frame by frame, with bounds on both sides.

A refusal before the upgrade is an HTTP response; after it, a close code gives the reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import Receive, Scope, Send

from serving.config.config import Config
from serving.conversation import ABNORMAL, GOING_AWAY, INTERNAL, TRY_LATER, Close, Message, shortened
from serving.errors import BodiesFull, Draining, ServingError
from serving.frontend.bodies import BodyReservation
from serving.frontend.error_responses import Api, Failure, json_body, report
from serving.frontend.http.headers import Headers, id_of, read_headers, request_id_header
from serving.frontend.invocation.endpoint import Endpoint
from serving.frontend.responses import HAS_DISCONNECTED, JSON
from serving.frontend.routing.stream import Stream
from serving.ipc.wire import OpenHead
from serving.system import log

CROWDED = Close(TRY_LATER, "there is no room for large messages")
LOOK = 1.0  # seconds between looks at the bounds
GOODBYE = 2.0  # seconds for the handler to close after it is told to
QUIET = 1.0  # seconds without a message after which a conversation counts as idle when the server stops
THOUGHT = 10.0  # the same if the last message was the client's: the handler may be about to answer
LEFTOVER_TIME = 10.0  # seconds in which the handler must take some of the messages that a client left behind
OPEN_TIME = 25.0  # seconds to find a replica
OPENING = Api(disconnected="a client left before its conversation began", disconnect=ConnectionError)
OPEN = Api(fault="a conversation failed", disconnected="", disconnect=OSError)


@dataclass(slots=True, eq=False)
class OpenWebSocket:
    """One conversation. ``active`` is the instant of the last message in either direction. ``has_disconnected`` returns
    whether the client has disconnected, also before all its messages are received. ``reservation`` counts the bytes
    that the handler has not taken.
    """

    stream: Stream
    receive: Receive
    send: Send
    request_id: str
    has_disconnected: Callable[[], bool]
    reservation: BodyReservation
    active: float = field(default_factory=time.monotonic)
    was_asked: bool = False
    is_crowded: bool = False

    def is_busy(self, now: float) -> bool:
        """Return whether messages are being exchanged, or the client's last one may still be answered."""
        return now < self.active + (THOUGHT if self.was_asked else QUIET)

    async def listen(self) -> Close:
        """Pass the client's messages to the replica until the client leaves. Returns the reason for the end."""
        while True:
            event = await self.receive()
            if event["type"] != "websocket.receive":
                return Close(event.get("code") or 1005, event.get("reason") or "")
            self.active, self.was_asked = time.monotonic(), True
            text = event.get("text")
            await self.stream.send_message(Message(event["bytes"] if text is None else text, event.get("fin", True)))
            self.count()
            if self.is_crowded:
                return CROWDED

    def count(self) -> None:
        try:
            self.reservation.hold(self.stream.untaken, self.crowd)
        except BodiesFull:
            self.crowd()

    def crowd(self) -> None:
        """Mark the conversation to be ended: there is no room for the messages that the handler does not take."""
        self.is_crowded = True

    async def talk(self) -> Close:
        """Pass the handler's messages to the client until the handler closes. Raises the ServingError that ends the
        stream.
        """
        while True:
            message = await self.stream.next()
            if isinstance(message, Close):
                return message
            self.active, self.was_asked = time.monotonic(), False
            key = "text" if isinstance(message.data, str) else "bytes"
            await self.send({"type": "websocket.send", key: message.data, "fin": message.fin})
            self.stream.use(message)

    async def close(self, close: Close) -> None:
        code = GOING_AWAY if close.code == ABNORMAL else close.code
        await self.send({"type": "websocket.close", "code": code, "reason": shortened(close.reason)})


class Conversations:
    """Runs the conversations of this HTTP worker, for which it shares ``endpoint`` with invocations."""

    def __init__(self, config: Config, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._bodies = endpoint.bodies
        self._many = config.many
        self._idle = config.conversation_idle_timeout
        self._total = config.conversation_timeout
        self._drain = config.drain_timeout - GOODBYE - LOOK
        self._patience = min(OPEN_TIME, config.request_timeout)
        self._board = endpoint.board
        self._invocations = endpoint.invocations
        self.model_of = endpoint.model_of
        self._new_id = endpoint.new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = id_of(read_headers(scope["headers"])[2], self._new_id)
        await receive()  # websocket.connect
        has_disconnected = scope["extensions"].get(HAS_DISCONNECTED, never)
        try:
            stream = await self._unless_over(asyncio.ensure_future(self._open(scope, request_id)), has_disconnected)
        except (ServingError, ConnectionError) as exc:
            failure = report(exc, OPENING, request_id)
            if failure is not None:
                await refuse(send, failure, request_id)
            return
        websocket = OpenWebSocket(stream, receive, send, request_id, has_disconnected, BodyReservation(self._bodies))
        try:
            await send({"type": "websocket.accept", "headers": [request_id_header(request_id)]})
            await self._converse(websocket)
        except OSError:
            log.debug("a client left its conversation", request_id=request_id)
        finally:
            stream.cancel()
            websocket.reservation.release()

    async def _open(self, scope: Scope, request_id: str) -> Stream:
        if self._board.is_draining:
            raise Draining("the server is stopping")
        arrival = time.monotonic()
        model = await self.model_of(scope["headers"])
        deadline = await self._invocations.deadline(model, self._many, arrival)
        query = scope["query_string"].decode("latin-1")
        head = OpenHead(request_id, model, scope["path"], query, headers_of(scope["headers"]))
        stream = await self._invocations.converse(head, self._many, deadline.sooner(arrival + self._patience))
        self._endpoint.counts.of(model).connected()
        return stream

    async def _unless_over(self, opening: asyncio.Future[Stream], has_disconnected: Callable[[], bool]) -> Stream:
        """Wait for ``opening``. Raises Draining when the server stops first, and ConnectionError when the client leaves
        first.
        """
        try:
            while not opening.done():
                await asyncio.wait({opening}, timeout=LOOK)
                if has_disconnected() and not opening.done():
                    raise ConnectionAbortedError
                if self._board.is_draining and not opening.done():
                    raise Draining("the server is stopping")
            return opening.result()
        finally:
            opening.cancel()

    async def _converse(self, websocket: OpenWebSocket) -> None:
        until = time.monotonic() + self._total
        listening = asyncio.ensure_future(websocket.listen())
        talking = asyncio.ensure_future(websocket.talk())
        try:
            while not (listening.done() or talking.done()) and self._overdue(websocket, until) is None:
                await asyncio.wait({listening, talking}, timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
            if talking.done():
                await websocket.close(outcome(talking, websocket.request_id))
            elif listening.done() and not websocket.is_crowded:
                close = outcome(listening, websocket.request_id)
                websocket.stream.hang_up(close.code, close.reason)
                await asyncio.wait({talking}, timeout=GOODBYE)  # let the handler finish
            else:
                close = self._overdue(websocket, until) or Close()
                websocket.stream.hang_up(close.code, close.reason)
                await asyncio.wait({talking, listening}, timeout=GOODBYE, return_when=asyncio.FIRST_COMPLETED)
                await websocket.close(close)
        finally:
            for task in (listening, talking):
                task.cancel()
            await asyncio.gather(listening, talking, return_exceptions=True)

    def _overdue(self, websocket: OpenWebSocket, until: float) -> Close | None:
        """Return why the server must end the conversation, or None."""
        now = time.monotonic()
        websocket.count()
        if websocket.is_crowded:
            return CROWDED
        if self._board.is_draining and (
            not websocket.is_busy(now) or now >= self._board.read_header().since + self._drain
        ):
            return Close(GOING_AWAY, "the server is stopping")
        if websocket.has_disconnected() and now >= websocket.active + LEFTOVER_TIME:
            return Close(ABNORMAL)
        if now >= until:
            return Close(GOING_AWAY, f"a conversation ends after {self._total:g} s")
        if now >= websocket.active + self._idle:
            return Close(GOING_AWAY, f"no message for {self._idle:g} s")
        return None


def never() -> bool:
    return False


def outcome(task: asyncio.Future[Close], request_id: str) -> Close:
    """Return what ended one direction, as a close code and reason."""
    error = task.exception()
    if error is None:
        return task.result()
    failure = report(error, OPEN, request_id)
    return Close(ABNORMAL) if failure is None else Close(INTERNAL, f"{failure.code}: {failure.message}")


def headers_of(headers: Headers) -> dict[str, str]:
    """Return the headers by name in lower case; repeated headers are joined (RFC 9110 §5.3)."""
    found: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


async def refuse(send: Send, failure: Failure, request_id: str) -> None:
    body = json_body(failure, request_id)
    headers = [(b"content-type", JSON.encode()), (b"content-length", str(len(body)).encode())]
    headers += [request_id_header(request_id), *failure.headers]
    await send({"type": "websocket.http.response.start", "status": failure.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
