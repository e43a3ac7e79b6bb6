"""WebSocket frames, one for one in both directions, as raw bytes and through real clients."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as connect_sync

from tests.e2e.frames import (
    BINARY,
    CLOSE,
    CONT,
    LIMIT,
    PING,
    PONG,
    TEXT,
    Frame,
    Host,
    Message,
    accept,
    close_data,
    disconnect,
    echo,
    encoded,
    held,
    received,
)
from tests.e2e.server import eventually


def test_each_frame_is_one_message(host: Host) -> None:
    with host.raw(host.recorder()) as client:
        client.send(TEXT, b"a", fin=False)
        client.send(CONT, b"", fin=False)
        client.send(CONT, b"bc")
        client.send(BINARY, b"\x00\xff", fin=False)
        client.send(CONT, b"\xfe")
        client.send(TEXT, b"")
        client.send(BINARY, b"")
        client.socket.sendall(b"".join(encoded(BINARY, bytes([n])) for n in range(3)))
        messages = [host.see() for _ in range(10)]
    assert messages == [
        received("text", "a", False),
        received("text", "", False),
        received("text", "bc"),
        received("bytes", b"\x00\xff", False),
        received("bytes", b"\xfe"),
        received("text", ""),
        received("bytes", b""),
        *(received("bytes", bytes([n])) for n in range(3)),
    ]
    assert host.see() == disconnect(1006)


def test_each_send_is_one_frame(host: Host) -> None:
    sends: list[Message] = [
        {"text": "ä", "fin": False},
        {"text": "", "fin": False},
        {"text": "b", "fin": True},
        {"bytes": b"c", "fin": False},
        {"bytes": b"d"},
        {"text": "e"},
        {"bytes": b"f" * 126},
        {"bytes": b"g" * 65_536},
    ]
    with host.raw(host.recorder(*({"type": "websocket.send", **message} for message in sends))) as client:
        assert [client.read() for _ in sends] == [
            Frame(False, TEXT, "ä".encode()),
            Frame(False, CONT, b""),
            Frame(True, CONT, b"b"),
            Frame(False, BINARY, b"c"),
            Frame(True, CONT, b"d"),
            Frame(True, TEXT, b"e"),
            Frame(True, BINARY, b"f" * 126),
            Frame(True, BINARY, b"g" * 65_536),
        ]
    assert host.see() == disconnect(1006)


def test_a_frame_that_comes_byte_by_byte_is_one_message(host: Host) -> None:
    with host.raw(echo) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in encoded(BINARY, b"x" * 130, fin=False) + encoded(CONT, b"y"):
            client.socket.sendall(bytes([byte]))
        assert client.read() == Frame(False, BINARY, b"x" * 130)
        assert client.read() == Frame(True, CONT, b"y")


def test_a_character_that_two_frames_share_arrives_with_the_second(host: Host) -> None:
    euro = "€".encode()
    with host.raw(echo) as client:
        client.send(TEXT, b"1" + euro[:1], fin=False)
        client.send(CONT, euro[1:2], fin=False)
        client.send(CONT, euro[2:] + b"2")
        assert [client.read() for _ in range(3)] == [
            Frame(False, TEXT, b"1"),
            Frame(False, CONT, b""),
            Frame(True, CONT, euro + b"2"),
        ]


@pytest.mark.parametrize(
    "frames",
    [
        [encoded(TEXT, b"\xff")],
        [encoded(TEXT, b"a\xe2\x82")],
        [encoded(TEXT, b"\xe2", fin=False), encoded(CONT, b"a", fin=False)],
        [encoded(TEXT, b"\xe2", fin=False), encoded(CONT, b"")],
        [encoded(TEXT, b"\xed\xa0\x80")],
        [encoded(CLOSE, close_data(1000) + b"\xff")],
    ],
    ids=["wrong", "cut", "cut by the next frame", "cut by the end", "surrogate", "reason"],
)
def test_text_that_is_not_utf_8_closes_1007(host: Host, frames: list[bytes]) -> None:
    with host.raw(echo) as client:
        client.socket.sendall(b"".join(frames))
        while (frame := client.read()).opcode != CLOSE:
            assert frame == Frame(False, TEXT, b"")
        assert frame.data[:2] == close_data(1007)
        assert client.is_at_end()


def test_bytes_may_be_anything_after_a_text(host: Host) -> None:
    with host.raw(echo) as client:
        client.send(TEXT, b"a", fin=False)
        client.send(CONT, b"b")
        client.send(BINARY, b"\xff", fin=False)
        client.send(CONT, b"\xff")
        assert [client.read().data for _ in range(4)] == [b"a", b"b", b"\xff", b"\xff"]


@pytest.mark.parametrize(
    "data",
    [
        encoded(TEXT, b"a", mask=False),
        encoded(TEXT, b"a", rsv=4),
        encoded(BINARY, b"a", rsv=2),
        encoded(PING, b"a", rsv=1),
        encoded(CONT, b"a"),
        encoded(TEXT, b"a", fin=False) + encoded(TEXT, b"b"),
        encoded(3, b"a"),
        encoded(11, b"a"),
        encoded(PING, b"a", fin=False),
        encoded(PING, b"a" * 126),
        encoded(CLOSE, b"\x03"),
        encoded(CLOSE, close_data(1005)),
        encoded(CLOSE, close_data(999)),
    ],
    ids=[
        "unmasked",
        "rsv1",
        "rsv2",
        "rsv3",
        "nothing to continue",
        "begins within another",
        "opcode 3",
        "opcode 11",
        "fragmented ping",
        "large ping",
        "half a code",
        "code 1005",
        "code 999",
    ],
)
def test_a_frame_that_breaks_the_protocol_closes_1002(host: Host, data: bytes) -> None:
    with host.raw(host.recorder()) as client:
        client.socket.sendall(data)
        code, _ = client.read_close()
        assert code == 1002
        assert client.is_at_end()
    last = host.see()
    if last["type"] == "websocket.receive":
        assert last == received("text", "a", False)
        last = host.see()
    assert last["code"] == 1002


def test_kinds_within_a_message_must_not_change(host: Host) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await send({"type": "websocket.send", "text": "a", "fin": False})
        for wrong in ({"bytes": b"b"}, {}, {"bytes": b"b", "text": "b"}):
            with pytest.raises(RuntimeError):
                await send({"type": "websocket.send", **wrong})
        await send({"type": "websocket.send", "text": "c"})
        await send({"type": "websocket.send", "bytes": b"d"})
        await send({"type": "websocket.close"})

    with host.raw(app) as client:
        frames = [client.read() for _ in range(4)]
    assert frames == [
        Frame(False, TEXT, b"a"),
        Frame(True, CONT, b"c"),
        Frame(True, BINARY, b"d"),
        Frame(True, CLOSE, close_data(1000)),
    ]


def test_pings_are_answered_while_the_app_receives_nothing(host: Host) -> None:
    with host.raw(held) as client:
        for data in (b"", b"1", b"2" * 125):
            client.send(BINARY, b"x" * 10_000)
            client.send(PING, data)
            assert client.read() == Frame(True, PONG, data)
        client.send(PONG, b"unasked")
        client.send(PING, b"3")
        assert client.read() == Frame(True, PONG, b"3")


def test_pings_between_fragments_are_no_part_of_the_message(host: Host) -> None:
    with host.raw(echo) as client:
        client.send(TEXT, b"a", fin=False)
        client.send(PING, b"p")
        assert {client.read(), client.read()} == {Frame(False, TEXT, b"a"), Frame(True, PONG, b"p")}
        client.send(CONT, b"b")
        assert client.read() == Frame(True, CONT, b"b")


def test_nothing_follows_a_close(host: Host) -> None:
    with host.raw(echo) as client:
        client.socket.sendall(encoded(PING, b"1") + encoded(CLOSE, close_data(1000)) + encoded(PING, b"2"))
        assert client.read() == Frame(True, PONG, b"1")
        assert client.read_close() == (1000, "")
        assert client.is_at_end()


def test_a_ping_within_a_message_at_the_limit_has_room(host: Host) -> None:
    with host.raw(host.recorder()) as client:
        client.send(BINARY, bytes(LIMIT), fin=False)
        client.send(PING, b"p" * 125)
        assert client.read() == Frame(True, PONG, b"p" * 125)
        client.send(CONT)
        assert host.see() == received("bytes", bytes(LIMIT), False)
        assert host.see() == received("bytes", b"")
    host.see()


def test_pongs_that_nobody_reads_do_not_pile_up(host: Host) -> None:
    count = 10_000
    with host.raw(held) as client:
        client.socket.sendall(b"".join(encoded(PING, struct.pack("!I", n) + bytes(121)) for n in range(count)))
        pongs = 1
        while client.read().data[:4] != struct.pack("!I", count - 1):
            pongs += 1
        assert 100 < pongs < count // 2


def test_a_real_client_echoes(host: Host) -> None:
    with connect_sync(host.url(echo), compression="deflate") as client:
        client.send("ä" * 1000)
        assert client.recv() == "ä" * 1000
        client.send([b"1", b"2", b"3"])
        assert list(client.recv_streaming()) == [b"1", b"2", b"3", b""]  # the client ends it by an empty frame
        assert client.ping().wait(5)
        assert client.protocol.extensions == []


def test_a_real_client_is_refused(host: Host) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close"})

    with pytest.raises(InvalidStatus) as caught, connect_sync(host.url(app)):
        pass
    assert caught.value.response.status_code == 403


def test_200_connections_at_once(host: Host) -> None:
    url = host.url(echo)

    async def one(n: int) -> None:
        async with connect(url, compression=None) as client:
            for turn in range(3):
                await client.send([f"{n}", f".{turn}"])
                assert await client.recv() == f"{n}.{turn}"

    async def run() -> None:
        await asyncio.gather(*(one(n) for n in range(200)))

    asyncio.run(run())
    eventually(lambda: not host.server.server_state.connections)
