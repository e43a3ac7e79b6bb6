"""What a WebSocket client may leave us holding or waiting for."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import struct
from typing import Any

import pytest

from serving.frontend.bodies import COPIES, COUNTED, STILL, Bodies
from serving.frontend.websocket.protocol import WebSocketProtocol
from tests.e2e.frames import (
    BINARY,
    CONT,
    LIMIT,
    Host,
    Message,
    Raw,
    accept,
    disconnect,
    echo,
    encoded,
    header,
    hosting,
    received,
)
from tests.e2e.server import eventually


def test_the_limit_on_messages_is_16_mib() -> None:
    assert WebSocketProtocol.max_message == 16 * 1024 * 1024


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_message_at_the_limit_passes(host: Host, pieces: int) -> None:
    size = LIMIT // pieces
    with host.raw(host.recorder()) as client:
        for _ in range(2):
            for n in range(pieces):
                client.send(CONT if n else BINARY, bytes(size), fin=n == pieces - 1)
            assert [host.see() for _ in range(pieces)] == [
                received("bytes", bytes(size), n == pieces - 1) for n in range(pieces)
            ]
    assert host.see() == disconnect(1006)


@pytest.mark.parametrize("pieces", [1, 2])
def test_one_byte_more_closes_1009(host: Host, pieces: int) -> None:
    with host.raw(host.recorder()) as client:
        if pieces == 2:
            client.send(BINARY, bytes(LIMIT), fin=False)
            client.send(CONT, b"x")
            host.see()
        else:
            client.send(BINARY, bytes(LIMIT + 1))
        assert client.read_close()[0] == 1009
        assert client.is_at_end()
        assert host.see()["code"] == 1009


@pytest.mark.parametrize("size", [LIMIT + 126, 1 << 40, (1 << 63) + 1])
def test_an_announced_length_is_refused_before_its_payload(host: Host, size: int) -> None:
    with host.raw(echo) as client:
        client.socket.sendall(header(BINARY, size))
        assert client.read_close()[0] == 1009
        assert client.is_at_end()


def test_a_client_in_the_middle_of_a_large_message_can_read_why(host: Host) -> None:
    """Closing at once would answer its data by a reset, which takes the close frame with it."""
    with host.raw(echo) as client:
        client.socket.sendall(header(BINARY, 4_000_000) + bytes(4_000_004))
        assert client.read_close()[0] == 1009
        assert client.is_at_end()


def test_an_app_that_receives_nothing_stops_its_client(host: Host) -> None:
    go_on: queue.Queue[str] = queue.Queue()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, go_on.get, True, 5)
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "bytes": message["bytes"][:4]})

    frames = [encoded(BINARY, struct.pack("!I", n) + bytes(9_996)) for n in range(400)]
    with host.raw(app) as client:
        sent = client.send_until_blocked(b"".join(frames), 0.3)
        assert sent < 2_000_000
        go_on.put("go on")
        client.socket.sendall(b"".join(frames)[sent:])
        assert [client.read().data for _ in frames] == [struct.pack("!I", n) for n in range(400)]


def test_many_tiny_frames_arrive_in_order(host: Host) -> None:
    count = 20_000
    with host.raw(echo) as client:
        client.socket.sendall(b"".join(encoded(BINARY, struct.pack("!H", n)) for n in range(500)))
        for n in range(count):
            assert client.read().data == struct.pack("!H", n)
            if n + 500 < count:
                client.send(BINARY, struct.pack("!H", n + 500))


def test_send_waits_for_a_client_that_reads_nothing(host: Host) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        sent = 0
        try:
            while True:
                await asyncio.wait_for(send({"type": "websocket.send", "bytes": bytes(10_000)}), 0.3)
                sent += 1
        except TimeoutError:
            host.seen.put(sent)
        await send({"type": "websocket.send", "bytes": b"end"})
        await send({"type": "websocket.close"})

    with host.raw(app) as client:
        sent = host.see()
        assert sent < 100
        assert [client.read().data for _ in range(sent)] == [bytes(10_000)] * sent
        assert client.read().data == b"end"
        assert client.read_close() == (1000, "")


def test_a_client_that_reads_nothing_is_cut(hasty: Host) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        with pytest.raises(OSError):  # noqa: PT011, PT012
            while True:
                await send({"type": "websocket.send", "bytes": bytes(10_000)})
        hasty.seen.put(await receive())

    with hasty.raw(app):
        assert hasty.see() == disconnect(1006)


# The memory of all of them together.


def half_a_message(host: Host, size: int) -> Raw:
    """A client all of whose message has come but a byte."""
    client = host.raw(host.recorder())
    client.socket.sendall(encoded(BINARY, bytes(size))[:-1])
    return client


def test_messages_that_are_not_whole_count_together_and_who_is_beyond_the_room_is_told_1013() -> None:
    size = 4 * COUNTED
    with hosting(bodies=Bodies(COPIES * 3 * size)) as host, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(half_a_message(host, size + COUNTED // 2)) for _ in range(3)]
        newcomer = stack.enter_context(half_a_message(host, size))
        assert newcomer.read_close()[0] == 1013
        assert newcomer.is_at_end()
        assert host.see()["code"] == 1013
        for client in clients:
            client.socket.sendall(b"\0")
            assert len(host.see()["bytes"]) == size + COUNTED // 2
        client = stack.enter_context(half_a_message(host, size))
        client.socket.sendall(b"\0")
        assert len(host.see()["bytes"]) == size, "there is room again"


def test_one_that_brings_nothing_makes_room_for_one_that_does() -> None:
    size, clock = 4 * COUNTED, Clock()
    bodies = Bodies(COPIES * size, clock=clock)
    with hosting(bodies=bodies) as host, half_a_message(host, size) as idle:
        eventually(lambda: bodies.held == size - COUNTED)
        clock.now += STILL
        with half_a_message(host, size) as busy:
            assert idle.read_close()[0] == 1013
            assert host.see()["code"] == 1013
            busy.socket.sendall(b"\0")
            assert len(host.see()["bytes"]) == size


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_client_that_leaves_within_a_message_gives_its_room_back() -> None:
    size = 4 * COUNTED
    with hosting(bodies=Bodies(COPIES * size)) as host:
        for _ in range(5):
            half_a_message(host, size).close()
            assert host.see()["code"] == 1006
        with half_a_message(host, size) as client:
            client.socket.sendall(b"\0")
            assert len(host.see()["bytes"]) == size
