"""WebSocketProtocol: uvicorn's ``ws`` class for ASGI apps that handle frames instead of messages.

It adds ``fin`` to ASGI's websocket messages: each data frame from the client is one ``websocket.receive``, each
``websocket.send`` one data frame (see ``framing``). The limits are class attributes; a subclass sets others.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from enum import Enum
from typing import Any, ClassVar

from starlette.types import Message, Scope
from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.server import ServerState
from websockets.frames import CloseCode, Frame
from websockets.protocol import SEND_EOF, State

from serving.errors import BodiesFull, DeadlineExceeded, Draining, ServingError
from serving.frontend.bodies import Bodies
from serving.frontend.error_responses import INTERNAL
from serving.frontend.http.outlet import READ_TIME
from serving.frontend.responses import HAS_DISCONNECTED
from serving.frontend.watch.absence import Lookout
from serving.frontend.watch.reader import ReaderWatch
from serving.frontend.websocket.denial import Denial
from serving.frontend.websocket.flow import Flow
from serving.frontend.websocket.framing import Framing, Outgoing, Unacceptable, cut
from serving.frontend.websocket.handshake import complete, connection_scope, open_handshake, scope_of
from serving.frontend.websocket.received import DATA, Received
from serving.frontend.websocket.running import run_app
from serving.system import log

PING_TIME = 10.0  # seconds between pings to a client that may have left
TURN = 256  # frames after which other callbacks of the event loop run


class Stage(Enum):
    """The stages of a connection, which decide what the app may do. CLOSED can follow every other stage, and none
    follows it.
    """

    CONNECTING = "before it is accepted"
    REFUSING = "within its refusal"
    OPEN = "while it is open"
    CLOSED = "after its end"


class WebSocketProtocol(asyncio.Protocol):
    """One WebSocket connection, from the head of its request to its end."""

    max_message: ClassVar[int] = 16 * 1024 * 1024  # bytes of a client's message, its fragments together
    handshake_time: ClassVar[float] = 30.0  # seconds in which the app accepts or refuses
    close_time: ClassVar[float] = 5.0  # seconds from an end by either side until the connection is cut
    read_time: ClassVar[float] = READ_TIME
    bodies: ClassVar[Bodies] = Bodies(sys.maxsize)  # the memory that large messages are counted against

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        self._config = config
        self._server = server_state
        self._app_state = app_state
        self._loop = asyncio.get_running_loop()
        self._framing = Framing(self.max_message)
        self._received = Received(self._framing, self.max_message, self.bodies)
        self._inbox = self._received.inbox
        self._outgoing = Outgoing()
        self._stage = Stage.CONNECTING
        self._has_head = False
        self._has_disconnected = False
        self._pinged = -PING_TIME  # when, by the loop's clock
        self._denial = Denial(500)

    # 1. What the transport calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._server.connections.add(self)  # type: ignore[arg-type]
        lookout = Lookout(transport, self._loop, lambda: not self._flow.is_reading, self._on_doubt)
        self._flow = Flow(transport, ReaderWatch(transport, self._loop, self.read_time), lookout)
        late = DeadlineExceeded("the handshake was not answered in time")
        self._timer = self._loop.call_later(self.handshake_time, self._refuse, late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_disconnected = True
        self._server.connections.discard(self)
        self._end(CloseCode.ABNORMAL_CLOSURE)
        self._timer.cancel()
        self._received.drop()
        self._flow.stop()

    def eof_received(self) -> None:
        self._end(CloseCode.ABNORMAL_CLOSURE)

    def _on_doubt(self, sends_no_more: bool) -> None:
        """Record or test, while nothing is read, whether the client has left; the app may still want its messages."""
        self._has_disconnected = self._has_disconnected or sends_no_more
        if self._stage in (Stage.CONNECTING, Stage.REFUSING):
            if sends_no_more:
                self._transport.abort()
        elif self._stage is Stage.OPEN and self._flow.is_writable and self._loop.time() >= self._pinged + PING_TIME:
            self._pinged = self._loop.time()
            self._framing.send_ping(b"")
            self._flush()

    def pause_writing(self) -> None:
        self._flow.pause_writing()
        self._framing.hold_pongs()

    def resume_writing(self) -> None:
        self._flow.resume_writing()
        self._framing.release_pong()
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take received data. The first call gets the request's head, all of it."""
        if not self._has_head:
            self._has_head = True
            self._begin(data)
        elif not self._is_refused:
            self._received.add(data)
            self._parse()

    def shutdown(self) -> None:
        """Close or refuse: uvicorn stops."""
        self._leave(CloseCode.GOING_AWAY, Draining("the server is stopping"))

    # 2. What the app calls

    async def receive(self) -> Message:
        message = await self._inbox.get()
        self._count()
        if not self._flow.is_reading and not self._inbox.is_full:
            self._loop.call_soon(self._parse)
        return message

    async def send(self, message: Message) -> None:
        """Take a message from the app; waits for a client that reads slowly. Raises OSError after the end, RuntimeError
        for a message that is not allowed now.
        """
        await self._flow.drain()
        if self._stage is Stage.CLOSED:
            raise ClientDisconnected
        step = STEPS.get((self._stage, message["type"]))
        if step is None:
            raise RuntimeError(f"no {message['type']} is sent to a WebSocket {self._stage.value}")
        step(self, message)

    async def _run(self, scope: Scope) -> None:
        try:
            if await run_app(self._config.loaded_app, scope, self) and self._stage is not Stage.CLOSED:
                log.error("the app of a WebSocket left it open", path=scope["path"])
        finally:
            self._leave(CloseCode.INTERNAL_ERROR, ServingError(INTERNAL))

    def _leave(self, code: int, error: ServingError) -> None:
        if self._stage is Stage.OPEN:
            self._close(code, error.message)
        else:
            self._refuse(error)

    # 3. The handshake

    def _begin(self, head: bytes) -> None:
        try:
            self._response = open_handshake(self._framing, head)
            scope = self._scope(head)
        except ServingError as error:
            self._refuse(error)
            return
        self._inbox.put({"type": "websocket.connect"})
        task = self._loop.create_task(self._run(scope))
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    def _scope(self, head: bytes) -> Scope:
        scope = scope_of(head, self._config.root_path, **connection_scope(self._transport, self._config))
        scope["state"] = self._app_state.copy()
        scope["extensions"][HAS_DISCONNECTED] = lambda: self._has_disconnected
        return scope

    def _on_accept(self, message: Message) -> None:
        complete(self._response, message, self._server.default_headers)
        self._timer.cancel()
        self._stage = Stage.OPEN
        self._framing.send_response(self._response)
        self._flush()
        self._parse()

    def _on_forbid(self, message: Message) -> None:
        self._respond(Denial(403))

    def _on_refusal(self, message: Message) -> None:
        self._denial = Denial.begin(message)
        self._stage = Stage.REFUSING

    def _on_refusal_body(self, message: Message) -> None:
        self._denial.body += message.get("body", b"")
        if not message.get("more_body", False):
            self._respond(self._denial)

    def _refuse(self, error: ServingError) -> None:
        if self._stage is not Stage.CLOSED:
            self._respond(Denial.of(error))

    def _respond(self, denial: Denial) -> None:
        self._flow.write(denial.encoded(self._server.default_headers))
        self._end(CloseCode.ABNORMAL_CLOSURE)
        self._received.drop_unread()
        self._flow.end()
        self._flow.set_reading(True)

    @property
    def _is_refused(self) -> bool:
        return self._stage is Stage.CLOSED and self._framing.state is State.CONNECTING

    # 4. Frames

    def _parse(self) -> None:
        """Parse received data until the inbox is full, or other callbacks of the event loop must have their turn."""
        frames = 0
        can_go_on = self._stage not in (Stage.CONNECTING, Stage.REFUSING)
        while can_go_on and frames < TURN and self._received.can_be_parsed:
            frames += self._take()
        if frames >= TURN and not self._inbox.is_full:
            self._loop.call_soon(self._parse)
        self._count()
        self._flow.set_reading(self._received.wants_more)

    def _count(self) -> None:
        """Count the bytes held for the client; the connection is closed where there is no room for them."""
        if self._stage is not Stage.OPEN:
            return
        try:
            self._received.count(self._go)
        except BodiesFull:
            self._go()

    def _go(self) -> None:
        self._fail(CloseCode.TRY_AGAIN_LATER, "there is no room for large messages")
        self._flush()
        self._received.give_back()

    def _take(self) -> int:
        frames = self._received.parse()
        for frame in frames:
            if frame.opcode in DATA and self._stage is Stage.OPEN:
                self._on_data(frame)
        self._flush()
        if (end := self._framing.end) is not None:
            self._end(end.code, end.reason)
        return len(frames)

    def _on_data(self, frame: Frame) -> None:
        try:
            self._received.take(frame)
        except Unacceptable as exc:
            self._fail(exc.code, exc.reason)

    def _fail(self, code: int, reason: str) -> None:
        self._framing.fail(code, reason)
        self._end(code, reason)

    def _on_send(self, message: Message) -> None:
        self._outgoing.send(self._framing, message)
        self._flush()

    # 5. The end

    def _on_close(self, message: Message) -> None:
        self._close(message.get("code") or CloseCode.NORMAL_CLOSURE, message.get("reason") or "")
        self._inbox.clear()

    def _close(self, code: int, reason: str) -> None:
        """Start the closing handshake. Parsing goes on, since the client answers with a close frame."""
        reason = cut(reason)
        self._framing.send_close(code, reason)
        self._flush()
        self._end(code, reason)
        self._parse()

    def _end(self, code: int, reason: str = "") -> None:
        """Stop all messages to and from the app. The closing handshake has ``close_time`` to finish."""
        if self._stage is not Stage.CLOSED:
            self._stage = Stage.CLOSED
            self._inbox.end({"type": "websocket.disconnect", "code": int(code), "reason": reason})
            self._timer.cancel()
            self._timer = self._loop.call_later(self.close_time, self._transport.abort)

    def _flush(self) -> None:
        writes = self._framing.data_to_send()
        self._flow.write(b"".join(writes))
        if SEND_EOF not in writes:
            return
        if self._framing.close_rcvd is not None:
            self._transport.close()
        else:
            self._flow.end()


STEPS: dict[tuple[Stage, str], Callable[[WebSocketProtocol, Message], None]] = {
    (Stage.CONNECTING, "websocket.accept"): WebSocketProtocol._on_accept,
    (Stage.CONNECTING, "websocket.close"): WebSocketProtocol._on_forbid,
    (Stage.CONNECTING, "websocket.http.response.start"): WebSocketProtocol._on_refusal,
    (Stage.REFUSING, "websocket.http.response.body"): WebSocketProtocol._on_refusal_body,
    (Stage.OPEN, "websocket.send"): WebSocketProtocol._on_send,
    (Stage.OPEN, "websocket.close"): WebSocketProtocol._on_close,
}
