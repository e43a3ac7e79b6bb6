"""Browser: one client's connection to the HTTP protocol, without a network or a replica.

The model behind it is an echo: ``POST /invocations`` is answered with its body. ``/early/503`` is answered 503 before
anything of the body has been read.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, cast

import msgspec
from starlette.types import Message, Receive, Scope, Send
from uvicorn import Config as UvicornConfig
from uvicorn.server import ServerState

from serving.config.config import load
from serving.deadline import Deadline
from serving.errors import NotFound
from serving.frontend.bodies import Bodies
from serving.frontend.http.protocol import HttpProtocol
from serving.frontend.invocation.endpoint import Endpoint
from serving.frontend.responses import Responses
from serving.frontend.routing.connection import ReplicaLost
from serving.ipc.messages import Placement
from serving.ipc.scoreboard import Scoreboard
from serving.ipc.wire import ReplyHead
from serving.request import Body, Request, Response

MODES = ("exchange", "asgi")  # who answers POST /invocations here: an exchange, or the application, as all other paths
TURNS = 6  # of the event loop, more than anything here takes to settle
REPLY = msgspec.msgpack.encode(ReplyHead(200, "text/plain"))


class Wire(asyncio.Transport):
    """What the protocol writes to, and what brings it what the client sends, as far as it reads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self._loop = loop
        self.written = bytearray()
        self.unsent = b""
        self.is_reading = True
        self.is_ended = False  # our half
        self.is_closed = False
        self.protocol: Any = None
        self.has_paused_writing = False

    def write(self, data: Body) -> None:
        assert not self.is_ended, "written after the end"
        if not self.is_closed:
            self.written += data

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(parts))

    def write_eof(self) -> None:
        self.is_ended = True

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._loop.call_soon(self.protocol.connection_lost, None)

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def deliver(self) -> None:
        while self.unsent and self.is_reading and not self.is_closed:
            if isinstance(self.protocol, asyncio.BufferedProtocol):
                room = cast(memoryview, self.protocol.get_buffer(-1))
                part, self.unsent = self.unsent[: len(room)], self.unsent[len(room) :]
                room[: len(part)] = part
                self.protocol.buffer_updated(len(part))
            else:
                part, self.unsent = self.unsent, b""
                self.protocol.data_received(part)


class Echo:
    """A replica that answers at once or, where it is ``slow``, a turn of the event loop later; not while some are
    ``waiting``."""

    waiting: list[tuple[Any, bytes]] | None = None

    def __init__(self, seen: list[bytes], is_slow: bool) -> None:
        self.seen = seen
        self.is_slow = is_slow

    def next_id(self) -> int:
        return 1

    def send(self, head: object, body: Body, id: int, waiter: Any) -> None:
        self.seen.append(bytes(body))
        if self.waiting is not None:
            self.waiting.append((waiter, bytes(body)))
        elif self.is_slow:
            asyncio.get_running_loop().call_soon(waiter.on_reply, REPLY, bytes(body))
        else:
            waiter.on_reply(REPLY, bytes(body))

    def forget(self, id: int) -> bool:
        return False


class Replicas:
    def __init__(self, echo: Echo, timeout: float) -> None:
        self.echo: Echo | None = echo
        self.placement = Placement("", timeout=timeout)

    def known(self, model: str) -> Placement | None:
        return self.placement

    def at_hand(self, model: str) -> Any:
        return self.echo

    def report_overdue(self, connection: Any) -> None: ...


class Invocations:
    """What is asked of a replica later, here at once. ``heads`` are the requests' headers."""

    def __init__(self, seen: list[bytes], heads: list[list[tuple[str, str]]], timeout: float) -> None:
        self._seen = seen
        self._heads = heads
        self._timeout = timeout

    async def deadline(self, model: str, load: bool, arrival: float, continues: bool = False) -> Deadline:
        return Deadline(arrival + self._timeout)

    async def takes(self, model: str, path: str, load: bool, deadline: Deadline) -> None:
        raise NotFound(f"POST {path} is not served here")

    async def invoke(self, request: Request, load: bool, lost: ReplicaLost | None) -> Response:
        self._seen.append(bytes(request.body))
        self._heads.append(list(request.headers.items()))
        return Response(bytes(request.body), "text/plain")

    def timed_out(self, model: str, asked: object = None) -> Exception:
        raise AssertionError("nothing here is late")


class Slot:
    in_flight = 0

    def enter(self) -> None:
        self.in_flight += 1

    def leave(self) -> None:
        self.in_flight -= 1


class Browser:
    """Within a running event loop. ``seen`` is each body that the model was asked with, ``heads`` the headers of those
    requests that were not answered at once."""

    def __init__(self, mode: str, is_slow: bool = False, timeout: float = 60.0, limit: int = 0) -> None:
        loop = asyncio.get_running_loop()
        self.seen: list[bytes] = []
        self.heads: list[list[tuple[str, str]]] = []
        self.slot = Slot()
        self.gate = asyncio.Event()
        self.gate.set()
        self.replicas = Replicas(Echo(self.seen, is_slow), timeout)
        self.wire = Wire(loop)
        self.protocol = HttpProtocol(UVICORN, ServerState(), {}, loop)
        self.wire.protocol = self.protocol
        setup: Any = self.protocol
        setup.app, setup.endpoint = self._app, self._endpoint(mode, limit)
        self.protocol.connection_made(self.wire)

    def _endpoint(self, mode: str, limit: int) -> Endpoint:
        config = msgspec.structs.replace(CONFIG, max_body=limit)
        answers, bodies, replicas = Responses(config, BOARD), Bodies(1 << 30), cast(Any, self.replicas)
        invocations: Any = Invocations(self.seen, self.heads, self.replicas.placement.timeout)
        made = Endpoint(config, BOARD, replicas, invocations, answers, lambda: "an-id", bodies)
        made.slot = cast(Any, self.slot)
        read = made.heads.read
        is_for_asgi = lambda url: mode == "asgi" or url.startswith(b"/early/")  # noqa: E731
        setup: Any = made.heads
        setup.read = lambda url, headers: None if is_for_asgi(url) else read(url, headers)
        return made

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.heads.append([(name.decode(), value.decode()) for name, value in scope["headers"]])
        status, body = 404, b"early"
        if scope["path"].startswith("/early/"):
            status = int(scope["path"][len("/early/") :])
        elif scope["path"] == "/invocations":
            status, body = 200, b""
            while True:
                message: Message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message["body"]
                if not message["more_body"]:
                    break
            self.seen.append(body)
            await self.gate.wait()
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body))]}
        )
        await send({"type": "http.response.body", "body": body})

    def hold(self) -> None:
        """The model answers nothing until ``release``."""
        self.gate.clear()
        if self.replicas.echo is not None:
            self.replicas.echo.waiting = []

    async def release(self) -> None:
        self.gate.set()
        echo = self.replicas.echo
        if echo is not None and echo.waiting is not None:
            waiting, echo.waiting = echo.waiting, None
            for waiter, body in waiting:
                waiter.on_reply(REPLY, body)
        await self.settle()

    async def send(self, *parts: bytes) -> None:
        """Each part in a read of its own, as soon as what it finds is settled."""
        for part in parts:
            self.wire.unsent += part
            await self.settle()

    async def settle(self) -> None:
        for _ in range(TURNS):
            self.wire.deliver()
            await asyncio.sleep(0)

    async def end(self) -> None:
        """Close the client's half."""
        if not self.wire.is_closed and not self.wire.protocol.eof_received():
            self.wire.close()
        await self.settle()

    @property
    def has_ended(self) -> bool:
        return self.wire.is_ended or self.wire.is_closed

    @property
    def answers(self) -> list[tuple[int, bytes]]:
        """Status and body of each; an error's body is its code."""
        return [(status, code_of(body)) for status, _, body in self.read()]

    def read(self) -> list[tuple[int, dict[str, str], bytes]]:
        """Everything that was written, which must be whole answers."""
        rest, found = bytes(self.wire.written), []
        while rest:
            head, end, rest = rest.partition(b"\r\n\r\n")
            assert end, f"half a head: {head!r}"
            first, *lines = head.decode().split("\r\n")
            assert re.fullmatch(r"HTTP/1.1 \d\d\d [A-Za-z -]+", first), first
            headers = dict(line.lower().split(": ", 1) for line in lines)
            status, size = int(first.split()[1]), int(headers.get("content-length", 0))
            assert len(rest) >= size, f"half a body: {rest!r}"
            found.append((status, headers, rest[:size]))
            rest = rest[size:]
        return found


async def nothing(scope: Scope, receive: Receive, send: Send) -> None: ...


CONFIG = load({})
UVICORN = UvicornConfig(nothing, lifespan="off", log_config=None, ws="none", timeout_keep_alive=90)
UVICORN.load()
BOARD = Scoreboard.create()


def code_of(body: bytes) -> bytes:
    if body.startswith(b'{"error"'):
        return str(msgspec.json.decode(body)["error"]["code"]).encode()
    return b"ping" if body.startswith(b"{") else body


def post(body: bytes, *lines: str, path: str = "/invocations", method: str = "POST") -> bytes:
    head = [f"{method} {path} HTTP/1.1", "host: x", *lines, f"content-length: {len(body)}"]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def chunked(body: bytes, *lines: str, trailers: bytes = b"", path: str = "/invocations", size: int = 7) -> bytes:
    head = [f"POST {path} HTTP/1.1", "host: x", *lines, "transfer-encoding: chunked"]
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return "\r\n".join(head).encode() + b"\r\n\r\n" + chunks + b"0\r\n" + trailers + b"\r\n"
