"""WebSocketProtocol: a handshake is answered once, frames cross one to one, and each end is told once to both sides.

The transport is a real one on a socket pair; the app is the test, which says what it sends and sees what it receives.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.server import ServerState
from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from serving.frontend.websocket.framing import cut
from serving.frontend.websocket.protocol import WebSocketProtocol
from tests.contracts.build import run, settle

ACCEPT: Message = {"type": "websocket.accept"}
CLOSE: Message = {"type": "websocket.close", "code": 4000, "reason": "enough"}


class Small(WebSocketProtocol):
    max_message = 10


class Chat:
    """One connection: the app's two verbs, and the client's side of the protocol."""

    def __init__(self) -> None:
        self.protocol: WebSocketProtocol
        self.state = ServerState()
        self.client = ClientProtocol(parse_uri("ws://test/path?a=b"))
        self.near, self.far = socket.socketpair()
        self.far.setblocking(False)
        self.scope: Scope = {}
        self.receive: Receive
        self.send: Send
        self.left = asyncio.Event()  # set, the app returns
        self.fault: Exception | None = None
        self.raw = b""  # what the client has got before the library took it
        self.has_ended = False

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        await self.left.wait()
        if self.fault is not None:
            raise self.fault

    async def say(self, data: bytes | None = None) -> None:
        """Send ``data``, or what the client's library wants to send."""
        self.far.sendall(b"".join(self.client.data_to_send()) if data is None else data)
        await settle()

    async def hear(self) -> list[Any]:
        """What has come to the client: its response and frames."""
        await settle()
        while not self.has_ended:
            try:
                data = self.far.recv(1 << 16)
            except BlockingIOError:
                break
            except ConnectionError:
                data = b""
            self.raw += data
            self.has_ended = not data
            (self.client.receive_data if data else self.client.receive_eof)(*[data][: bool(data)])
        return self.client.events_received()

    async def shake(self) -> None:
        self.client.send_request(self.client.connect())
        await self.say()

    async def open(self) -> None:
        await self.shake()
        assert await self.receive() == {"type": "websocket.connect"}
        await self.send(ACCEPT)
        [response] = await self.hear()
        assert isinstance(response, Response)
        assert response.status_code == 101


@asynccontextmanager
async def chat(kind: type[WebSocketProtocol] = WebSocketProtocol) -> AsyncIterator[Chat]:
    one = Chat()
    config = Config(one.app, lifespan="off")
    config.load()
    config.loaded_app = one.app
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_accepted_socket(lambda: kind(config, one.state, {}), one.near)
    one.protocol = protocol
    try:
        yield one
    finally:
        one.left.set()
        transport.abort()
        await settle()
        one.far.close()
        assert not one.state.connections
        assert not one.state.tasks


def test_frames_cross_one_to_one_and_the_clients_close_is_answered() -> None:
    async def test() -> None:
        async with chat() as one:
            await one.open()
            assert (one.scope["path"], one.scope["query_string"]) == ("/path", b"a=b")
            one.client.send_text(b"on", fin=False)
            one.client.send_continuation(b"e", fin=True)
            one.client.send_binary(b"\x00")
            await one.say()
            seen = [await one.receive() for _ in range(3)]
            assert [(m.get("text"), m.get("bytes"), m["fin"]) for m in seen] == [
                ("on", None, False),
                ("e", None, True),
                (None, b"\x00", True),
            ]
            await one.send({"type": "websocket.send", "text": "a", "fin": False})
            await one.send({"type": "websocket.send", "text": "b"})
            frames = await one.hear()
            assert [(f.opcode, f.data, f.fin) for f in frames] == [
                (Opcode.TEXT, b"a", False),
                (Opcode.CONT, b"b", True),
            ]
            one.client.send_close(1000, "bye")
            await one.say()
            for _ in range(2):
                assert await one.receive() == {"type": "websocket.disconnect", "code": 1000, "reason": "bye"}
            with pytest.raises(ClientDisconnected):
                await one.send({"type": "websocket.send", "text": "late"})
            [close] = await one.hear()
            assert isinstance(close, Frame)
            assert close.opcode is Opcode.CLOSE

    run(test())


def test_the_apps_close_ends_both_sides() -> None:
    async def test() -> None:
        async with chat() as one:
            await one.open()
            await one.send({**CLOSE, "reason": 200 * "é"})
            await one.hear()
            assert one.client.close_rcvd == Close(4000, cut(200 * "é"))
            assert (await one.receive())["code"] == 4000
            await one.say()
            await one.hear()
            assert one.has_ended

    run(test())


@pytest.mark.parametrize("send", [{"type": "websocket.send", "text": "a"}, {"type": "websocket.http.response.body"}])
def test_what_is_not_allowed_before_it_is_accepted_is_an_error_of_the_app(send: Message) -> None:
    async def test() -> None:
        async with chat() as one:
            await one.shake()
            with pytest.raises(RuntimeError, match="before it is accepted"):
                await one.send(send)
            await one.send(ACCEPT)
            with pytest.raises(RuntimeError, match="while it is open"):
                await one.send(ACCEPT)

    run(test())


def test_a_refusal_is_whole_and_the_last_answer() -> None:
    async def test() -> None:
        async with chat() as one:
            await one.shake()
            start = {"type": "websocket.http.response.start", "status": 418, "headers": [(b"x-a", b"b")]}
            await one.send(start)
            await one.send({"type": "websocket.http.response.body", "body": b"no", "more_body": True})
            await one.send({"type": "websocket.http.response.body", "body": b"pe"})
            await one.hear()
            assert one.raw.startswith(b"HTTP/1.1 418 ")
            assert b"x-a: b\r\ncontent-length: 4\r\nconnection: close\r\n\r\nnope" in one.raw
            assert one.has_ended
            assert (await one.receive())["type"] == "websocket.connect"
            assert (await one.receive())["type"] == "websocket.disconnect"

    run(test())


@pytest.mark.parametrize(
    ("how", "status"),
    [("forbid", b"403"), ("return", b"500"), ("raise", b"500"), ("stop", b"503"), ("no handshake", b"400")],
)
def test_a_handshake_that_is_not_accepted_is_refused_once(how: str, status: bytes) -> None:
    async def test() -> None:
        async with chat() as one:
            if how == "no handshake":
                await one.say(b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\n\r\n")
            else:
                await one.shake()
            match how:
                case "forbid":
                    await one.send(CLOSE)
                case "return":
                    one.left.set()
                case "raise":
                    one.fault = ValueError("a fault of the app")
                    one.left.set()
                case "stop":
                    one.protocol.shutdown()
            await one.hear()
            assert one.raw.startswith(b"HTTP/1.1 " + status)
            assert one.raw.count(b"HTTP/1.1") == 1
            one.protocol.shutdown()
            await one.hear()
            assert one.raw.count(b"HTTP/1.1") == 1

    run(test())


@pytest.mark.parametrize(
    ("how", "code"), [("stop", 1001), ("return", 1011), ("large", 1009), ("no text", 1007), ("no frame", 1002)]
)
def test_an_open_connection_is_closed_with_the_code_of_its_cause(how: str, code: int) -> None:
    async def test() -> None:
        async with chat(Small) as one:
            await one.open()
            match how:
                case "stop":
                    one.protocol.shutdown()
                case "return":
                    one.left.set()
                case "large":
                    one.client.send_binary(b"123456", fin=False)
                    one.client.send_continuation(b"78901", fin=True)
                    await one.say()
                case "no text":
                    one.client.send_text(b"\xff")
                    await one.say()
                case "no frame":
                    await one.say(b"\xff\xff\xff\xff")
            await one.hear()
            assert one.client.close_rcvd is not None
            assert one.client.close_rcvd.code == code
            last = await one.receive()
            while last["type"] == "websocket.receive":
                last = await one.receive()
            assert (last["type"], last["code"]) == ("websocket.disconnect", code)

    run(test())


def test_a_client_that_is_gone_is_told_to_the_app_once() -> None:
    async def test() -> None:
        async with chat() as one:
            await one.open()
            one.far.close()
            await settle()
            assert (await one.receive())["code"] == 1006
            with pytest.raises(ClientDisconnected):
                await one.send(CLOSE)

    run(test())


def test_no_more_is_read_than_the_app_takes_and_all_of_it_in_order() -> None:
    async def test() -> None:
        async with chat() as one:
            await one.open()
            for number in range(100):
                one.client.send_binary(number.to_bytes(2, "big") + bytes(2000))
            await one.say()
            assert not one.protocol._flow.is_reading
            seen = []
            for _ in range(100):
                seen.append(int.from_bytes((await one.receive())["bytes"][:2], "big"))
            assert seen == list(range(100))
            await settle()
            assert one.protocol._flow.is_reading

    run(test())
