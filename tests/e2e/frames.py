"""A uvicorn with a WebSocket app in a thread, and a client that writes and reads single frames."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import queue
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import uvicorn

from serving.frontend.websocket.protocol import WebSocketProtocol
from tests.e2e.desk import Bound
from tests.e2e.server import eventually

LIMIT = 300_000  # bytes of a message, where a test does not set another
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
BUFFER = 32 * 1024  # bytes of each socket buffer, so that little fills them
Message = dict[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


class Frame(NamedTuple):
    fin: bool
    opcode: int
    data: bytes


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Host:
    """Each app has a path of its own; ``seen`` is what apps want a test to see."""

    def __init__(self, **limits: Any) -> None:
        self.apps: dict[str, App] = {}
        self.seen: queue.Queue[Any] = queue.Queue()
        self._paths = map("/{}".format, itertools.count())
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self.port: int = listener.getsockname()[1]
        self.protocol = type("Protocol", (WebSocketProtocol,), limits)
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            loop="uvloop",
            http=Bound,
            ws=self.protocol,
            lifespan="off",
            server_header=False,
            access_log=False,
            proxy_headers=False,
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.server.run, args=([listener],), daemon=True)
        self._thread.start()
        eventually(lambda: self.server.started)

    async def _app(self, scope: Message, receive: Any, send: Any) -> None:
        await self.apps[scope["path"]](scope, receive, send)

    def add(self, app: App) -> str:
        path = next(self._paths)
        self.apps[path] = app
        return path

    def url(self, app: App) -> str:
        return f"ws://127.0.0.1:{self.port}{self.add(app)}"

    def forget(self) -> None:
        """What an earlier test's app may yet show goes nowhere."""
        self.seen = queue.Queue()

    def see(self) -> Any:
        return self.seen.get(timeout=5)

    def raw(self, app: App, *lines: str) -> Raw:
        """A connection whose upgrade has been accepted."""
        client = Raw(self.port)
        assert client.upgrade(self.add(app), *lines).status == 101
        return client

    def recorder(self, *more: Message) -> App:
        """Accepts, sends what it was given, and shows what it receives, to the end."""
        seen = self.seen

        async def app(scope: Message, receive: Any, send: Any) -> None:
            await accept(receive, send)
            for message in more:
                await send(message)
            while (message := await receive())["type"] != "websocket.disconnect":
                seen.put(message)
            seen.put(message)

        return app

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(5)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def hosting(**limits: Any) -> Iterator[Host]:
    host = Host(**limits)
    try:
        yield host
    finally:
        host.stop()


async def accept(receive: Any, send: Any, **more: Any) -> None:
    assert await receive() == {"type": "websocket.connect"}
    await send({"type": "websocket.accept", **more})


async def echo(scope: Message, receive: Any, send: Any) -> None:
    """Each frame comes back as it is."""
    await accept(receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        await send(message | {"type": "websocket.send"})


async def held(scope: Message, receive: Any, send: Any) -> None:
    """Accepts and receives nothing more."""
    await accept(receive, send)
    await asyncio.Event().wait()


def received(kind: str, value: str | bytes, fin: bool = True) -> Message:
    return {"type": "websocket.receive", kind: value, "fin": fin}


def disconnect(code: int, reason: str = "") -> Message:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def close_data(code: int, reason: str = "") -> bytes:
    return struct.pack("!H", code) + reason.encode()


def encoded(opcode: int, data: bytes = b"", fin: bool = True, mask: bool = True, rsv: int = 0) -> bytes:
    key = os.urandom(4)
    return header(opcode, len(data), fin, mask, rsv) + (key + masked(data, key) if mask else data)


def masked(data: bytes, key: bytes) -> bytes:
    keys = (key * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(keys, "big")).to_bytes(len(data), "big")


def header(opcode: int, size: int, fin: bool = True, mask: bool = True, rsv: int = 0) -> bytes:
    first, bit = fin << 7 | rsv << 4 | opcode, mask << 7
    if size < 126:
        return struct.pack("!BB", first, bit | size)
    if size < 1 << 16:
        return struct.pack("!BBH", first, bit | 126, size)
    return struct.pack("!BBQ", first, bit | 127, size)


class Raw:
    def __init__(self, port: int) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self.socket.settimeout(5)
        self.socket.connect(("127.0.0.1", port))
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def send_until_blocked(self, data: bytes, seconds: float) -> int:
        """How many bytes went out before the server took none for so long."""
        self.socket.settimeout(seconds)
        sent = 0
        try:
            while sent < len(data):
                sent += self.socket.send(data[sent : sent + 10_000])
        except TimeoutError:
            pass
        self.socket.settimeout(5)
        return sent

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def request(self, path: str, *lines: str, method: str = "GET") -> Answer:
        head = "\r\n".join([f"{method} {path} HTTP/1.1", "host: localhost", *lines, "", ""])
        self.socket.sendall(head.encode("latin-1"))
        return self.answer()

    def upgrade(self, path: str, *lines: str) -> Answer:
        return self.request(path, *upgrade_lines(), *lines)

    def answer(self) -> Answer:
        status = int(self._file.readline().split(b" ")[1])
        headers = {}
        while (line := self._file.readline()) != b"\r\n":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return Answer(status, headers, self._file.read(int(headers.get("content-length", 0))))

    def send(self, opcode: int, data: bytes = b"", fin: bool = True, **more: Any) -> None:
        self.socket.sendall(encoded(opcode, data, fin, **more))

    def read(self) -> Frame:
        """The next frame but pings, which are answered: the server sends them while we may have left."""
        while (frame := self._read()).opcode == PING:
            self.send(PONG, frame.data)
        return frame

    def _read(self) -> Frame:
        """A frame exactly as it is on the wire: not masked, no reserved bit, its length in the shortest form."""
        first, second = self._file.read(2)
        assert first & 0x70 == 0
        assert second < 128
        size = second
        if second == 126:
            size = struct.unpack("!H", self._file.read(2))[0]
            assert size > 125
        elif second == 127:
            size = struct.unpack("!Q", self._file.read(8))[0]
            assert size > 65_535
        return Frame(first >= 128, first & 15, self._file.read(size))

    def read_close(self) -> tuple[int, str]:
        frame = self.read()
        assert frame.fin
        assert frame.opcode == CLOSE
        return struct.unpack("!H", frame.data[:2])[0], frame.data[2:].decode()

    def is_at_end(self) -> bool:
        """Waits for the end of file; a reset would raise."""
        return self._file.read(1) == b""


def upgrade_lines(version: str = "13", key: str = base64.b64encode(bytes(16)).decode()) -> list[str]:
    return [
        "connection: keep-alive, Upgrade",
        "upgrade: websocket",
        f"sec-websocket-version: {version}",
        f"sec-websocket-key: {key}",
    ]
