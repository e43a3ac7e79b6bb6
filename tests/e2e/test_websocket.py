"""WebSockets: frames one for one, limits, handshakes, closes; every case over a real socket."""

from __future__ import annotations

import asyncio
import json
import queue
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as connect_sync

from serving.frontend.websocket import WebSocketProtocol
from tests.e2e.frames import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Frame,
    Host,
    Raw,
    accept,
    echo,
    encoded,
    header,
    held,
    hosting,
    upgrade_lines,
)
from tests.e2e.server import eventually

LIMIT = 300_000  # bytes of a message
Message = dict[str, Any]


@pytest.fixture(scope="module")
def ordinary() -> Iterator[Host]:
    with hosting(max_message=LIMIT) as host:
        yield host


@pytest.fixture(scope="module")
def impatient() -> Iterator[Host]:
    with hosting(handshake_time=0.2, close_time=0.2, read_time=0.2) as host:
        yield host


@pytest.fixture
def host(ordinary: Host) -> Host:
    ordinary.forget()
    return ordinary


@pytest.fixture
def hasty(impatient: Host) -> Host:
    impatient.forget()
    return impatient


def received(kind: str, value: str | bytes, fin: bool = True) -> Message:
    return {"type": "websocket.receive", kind: value, "fin": fin}


def disconnect(code: int, reason: str = "") -> Message:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def close_data(code: int, reason: str = "") -> bytes:
    return struct.pack("!H", code) + reason.encode()


# 1. Frames


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


# 2. Pings


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


# 3. Limits


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


# 4. Handshakes


def test_the_scope_tells_what_was_asked(host: Host) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        host.seen.put(scope)
        await accept(receive, send)

    host.apps["/a b"] = app
    with Raw(host.port) as client:
        lines = ["X-Odd: \xe4 ", "Sec-WebSocket-Protocol: one, two", "sec-websocket-protocol: three"]
        answer = client.upgrade("/a%20b?c=%20d", *lines, "sec-websocket-extensions: permessage-deflate")
        assert client.read_close()[0] == 1011
        mine = client.socket.getsockname()
    scope = host.see()
    assert (scope["type"], scope["scheme"], scope["http_version"]) == ("websocket", "ws", "1.1")
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"c=%20d")
    assert scope["subprotocols"] == ["one", "two", "three"]
    assert (b"x-odd", b"\xe4") in scope["headers"]
    assert (b"host", b"localhost") in scope["headers"]
    assert (scope["client"], scope["server"]) == (mine, ("127.0.0.1", host.port))
    assert "websocket.http.response" in scope["extensions"]
    assert (scope["asgi"]["version"], scope["state"]) == ("3.0", {})
    assert answer.headers["sec-websocket-accept"] == "ICX+Yqv66kxgM0FcWaLWlFLwTAI="
    assert not {"sec-websocket-extensions", "sec-websocket-protocol"} & answer.headers.keys()


def test_accept_may_name_a_subprotocol_and_headers(host: Host) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send, subprotocol="two", headers=[(b"x-more", b"1"), (b"x-more", b"2")])
        await receive()

    with connect_sync(host.url(app), subprotocols=["one", "two"]) as client:
        assert client.subprotocol == "two"
        assert client.response is not None
        assert client.response.headers.get_all("x-more") == ["1", "2"]
        assert len(client.response.headers.get_all("date")) == 1


def test_a_refusal_has_the_apps_status_headers_and_body(host: Host) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"content-type", b"text/odd"), (b"content-length", b"7"), (b"x-more", b"1")]
        with pytest.raises(RuntimeError):
            await send({"type": "websocket.http.response.start", "status": 101})
        await send({"type": "websocket.http.response.start", "status": 418, "headers": headers})
        with pytest.raises(RuntimeError):
            await send({"type": "websocket.accept"})
        await send({"type": "websocket.http.response.body", "body": b"tea", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"pot!"})
        with pytest.raises(OSError):  # noqa: PT011
            await send({"type": "websocket.http.response.body", "body": b"more"})
        host.seen.put(await receive())

    with Raw(host.port) as client:
        answer = client.upgrade(host.add(app))
        assert (answer.status, answer.body, answer.headers["x-more"]) == (418, b"teapot!", "1")
        assert (answer.headers["content-length"], answer.headers["connection"]) == ("7", "close")
        assert answer.headers["content-type"] == "text/odd"
        assert client.is_at_end()
    assert host.see() == disconnect(1006)


def test_a_close_before_accept_is_403(host: Host) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 4000})

    with Raw(host.port) as client:
        answer = client.upgrade(host.add(app))
        assert (answer.status, answer.body, answer.headers["content-length"]) == (403, b"", "0")
        assert client.is_at_end()


@pytest.mark.parametrize(
    ("method", "lines", "status"),
    [
        ("GET", upgrade_lines(version="12"), 426),
        ("GET", upgrade_lines()[:2] + upgrade_lines()[3:], 426),
        ("GET", upgrade_lines()[:3], 400),
        ("GET", upgrade_lines(key="c2hvcnQ="), 400),
        ("GET", upgrade_lines(key="\xe4"), 400),
        ("GET", [*upgrade_lines(), upgrade_lines()[3]], 400),
        ("GET", [*upgrade_lines(), f"x: {'y' * 9000}"], 400),
        ("POST", [*upgrade_lines(), "content-length: 0"], 400),
    ],
    ids=["version 12", "no version", "no key", "short key", "odd key", "two keys", "long header", "POST"],
)
def test_what_is_no_handshake_is_refused(host: Host, method: str, lines: list[str], status: int) -> None:
    with Raw(host.port) as client:
        answer = client.request("/", *lines, method=method)
        assert client.is_at_end()
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    error = json.loads(answer.body)["error"]
    assert error["code"] == ("upgrade_required" if status == 426 else "bad_request")
    assert error["request_id"]
    assert answer.headers.get("sec-websocket-version") == ("13" if status == 426 else None)


def test_a_target_that_is_no_url_is_refused(host: Host) -> None:
    with Raw(host.port) as client:
        assert client.upgrade("http://:80/").status == 400


def test_an_app_that_does_not_answer_is_refused_504(hasty: Host) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        hasty.seen.put(await receive())
        with pytest.raises(OSError):  # noqa: PT011
            await send({"type": "websocket.accept"})

    with Raw(hasty.port) as client:
        answer = client.upgrade(hasty.add(app))
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (504, "deadline_exceeded")
        assert client.is_at_end()
    assert hasty.see() == disconnect(1006)


def test_a_client_that_leaves_before_accept_is_noticed(host: Host) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        host.seen.put("connected")
        host.seen.put(await receive())

    with Raw(host.port) as client:
        head = "\r\n".join([f"GET {host.add(app)} HTTP/1.1", *upgrade_lines(), "", ""])
        client.socket.sendall(head.encode())
        assert host.see() == "connected"
    assert host.see() == disconnect(1006)


def test_frames_that_come_before_accept_wait_for_it(host: Host) -> None:
    go_on: queue.Queue[str] = queue.Queue()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        host.seen.put(await receive())
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, go_on.get, True, 5)
        await send({"type": "websocket.accept"})
        await send((await receive()) | {"type": "websocket.send"})
        await receive()

    with Raw(host.port) as client:
        head = "\r\n".join([f"GET {host.add(app)} HTTP/1.1", *upgrade_lines(), "", ""])
        client.socket.sendall(head.encode())
        assert host.see() == {"type": "websocket.connect"}
        client.send(TEXT, b"early")
        go_on.put("go on")
        assert client.answer().status == 101
        assert client.read() == Frame(True, TEXT, b"early")


def test_an_upgrade_may_follow_other_requests(host: Host) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    with Raw(host.port) as client:
        for _ in range(2):
            assert client.request(host.add(app)).body == b"ok"
        assert client.upgrade(host.add(echo)).status == 101
        client.send(TEXT, b"a")
        assert client.read() == Frame(True, TEXT, b"a")


def test_a_header_cannot_be_split(host: Host) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        for wrong in ((b"a", b"b\r\nc: d"), (b"a: b\r\nc", b"d"), (b"", b"")):
            with pytest.raises(RuntimeError):
                await send({"type": "websocket.accept", "headers": [wrong]})
        await send({"type": "websocket.accept"})
        await receive()

    with Raw(host.port) as client:
        answer = client.upgrade(host.add(app))
        assert (answer.status, answer.headers.get("a"), answer.headers.get("c")) == (101, None, None)


# 5. Ends


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (close_data(1000), 1000, ""),
        (close_data(4711, "enough ä"), 4711, "enough ä"),
        (close_data(1001, "x" * 123), 1001, "x" * 123),
        (b"", 1005, ""),
    ],
)
def test_the_clients_close_reaches_the_app_and_is_answered(host: Host, data: bytes, code: int, reason: str) -> None:
    with host.raw(host.recorder()) as client:
        client.send(BINARY, b"before")
        client.send(CLOSE, data)
        assert client.read() == Frame(True, CLOSE, data)
        assert client.is_at_end()
    assert host.see() == received("bytes", b"before")
    assert host.see() == disconnect(code, reason)


def test_a_close_may_cut_a_message_short(host: Host) -> None:
    with host.raw(host.recorder()) as client:
        client.send(TEXT, b"a", fin=False)
        client.send(CLOSE, close_data(1001, "no more"))
        assert client.read_close() == (1001, "no more")
        assert client.is_at_end()
    assert host.see() == received("text", "a", False)
    assert host.see() == disconnect(1001, "no more")


@pytest.mark.parametrize(
    ("more", "code", "reason"),
    [
        ({}, 1000, ""),
        ({"code": 1008, "reason": None}, 1008, ""),
        ({"code": 4000, "reason": "ä" * 62}, 4000, "ä" * 61),
        ({"code": 4000, "reason": "x" * 122 + "€"}, 4000, "x" * 122),
    ],
)
def test_the_apps_close_reaches_the_client(host: Host, more: Message, code: int, reason: str) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close", **more})
        host.seen.put(await receive())
        host.seen.put(await receive())
        with pytest.raises(OSError):  # noqa: PT011
            await send({"type": "websocket.send", "text": "late"})

    with host.raw(app) as client:
        assert client.read_close() == (code, reason)
        client.send(PING, b"still here")
        assert client.read() == Frame(True, PONG, b"still here")
        client.send(CLOSE, close_data(code))
        assert client.is_at_end()
    assert host.see() == disconnect(code, reason)
    assert host.see() == disconnect(code, reason)


def test_a_close_gets_past_what_the_app_has_not_received(host: Host) -> None:
    go_on: queue.Queue[str] = queue.Queue()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await send({"type": "websocket.send", "bytes": b"ready"})
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, go_on.get, True, 5)
        await send({"type": "websocket.close", "code": 1013})
        host.seen.put(await receive())

    with host.raw(app) as client:
        client.read()
        data = encoded(BINARY, bytes(1000)) * 2000
        sent = client.send_until_blocked(data, 0.2)
        assert sent < len(data)
        go_on.put("go on")
        client.socket.sendall(data[sent:] + encoded(CLOSE, close_data(1013)))
        assert client.read_close()[0] == 1013
        assert client.is_at_end()
        assert host.see() == disconnect(1013)


def test_a_client_that_does_not_answer_a_close_is_cut(hasty: Host) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close"})

    with hasty.raw(app) as client:
        assert client.read_close()[0] == 1000
        eventually(lambda: not hasty.server.server_state.connections)
        assert client.is_at_end()


@pytest.mark.parametrize("half", [False, True], ids=["gone", "half-open"])
def test_a_connection_that_breaks_is_1006(host: Host, half: bool) -> None:
    with host.raw(host.recorder()) as client:
        client.send(TEXT, b"a", fin=False)
        client.socket.sendall(encoded(CONT, b"bcdef")[:7])
        if half:
            client.socket.shutdown(socket.SHUT_WR)
            assert client.is_at_end()
    assert host.see() == received("text", "a", False)
    assert host.see() == disconnect(1006)


def test_after_a_disconnect_receive_repeats_it_and_send_raises(host: Host) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        first = await receive()
        assert await receive() == first
        for type in ("websocket.send", "websocket.close", "websocket.accept"):
            with pytest.raises(OSError):  # noqa: PT011
                await send({"type": type, "text": "late"})
        host.seen.put(first)
        await send({"type": "websocket.send", "text": "an app need not catch it"})

    others = set(host.server.server_state.tasks)
    with host.raw(app) as client:
        client.send(CLOSE, close_data(1000))
        client.read_close()
    assert host.see() == disconnect(1000)
    eventually(lambda: host.server.server_state.tasks <= others)


@pytest.mark.parametrize("accepts", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_an_app_that_ends_without_closing(host: Host, accepts: bool, fails: bool, caplog: Any) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        if accepts:
            await accept(receive, send)
        if fails:
            raise KeyError("a secret")

    with Raw(host.port) as client:
        answer = client.upgrade(host.add(app))
        if accepts:
            assert client.read_close() == (1011, "internal error")
        else:
            assert (answer.status, json.loads(answer.body)["error"]["code"]) == (500, "internal")
            assert b"secret" not in answer.body
            assert client.is_at_end()
    message = "the app of a WebSocket " + ("failed" if fails else "left it open")
    eventually(lambda: message in [record.message for record in caplog.records])


def test_what_asgi_does_not_know_is_an_error_of_the_app(host: Host) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        for type in ("websocket.send", "websocket.http.response.body", "odd"):
            with pytest.raises(RuntimeError):
                await send({"type": type, "text": "early"})
        await accept(receive, send)
        for type in ("websocket.accept", "websocket.http.response.start"):
            with pytest.raises(RuntimeError):
                await send({"type": type, "status": 200})
        await send({"type": "websocket.close", "code": 4999})

    with host.raw(app) as client:
        assert client.read_close()[0] == 4999


def test_a_stop_closes_1001_or_refuses_503() -> None:
    async def undecided(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        host.seen.put("connected")
        host.seen.put(await receive())

    host = Host()
    with host.raw(host.recorder()) as opened, Raw(host.port) as asking:
        head = "\r\n".join([f"GET {host.add(undecided)} HTTP/1.1", *upgrade_lines(), "", ""])
        asking.socket.sendall(head.encode())
        assert host.see() == "connected"
        host.server.should_exit = True
        code, reason = opened.read_close()
        assert code == 1001
        opened.send(CLOSE, close_data(1001))
        assert opened.is_at_end()
        answer = asking.answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert json.loads(answer.body)["error"]["code"] == "draining"
    ends = [host.see(), host.see()]
    assert disconnect(1001, reason) in ends
    assert disconnect(1006) in ends
    host.stop()


# 6. Real clients


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
