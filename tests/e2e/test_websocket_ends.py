"""How a WebSocket begins and ends: handshakes, refusals, closes, both ways."""

from __future__ import annotations

import asyncio
import json
import queue
import socket
from typing import Any

import pytest
from websockets.sync.client import connect as connect_sync

from tests.e2e.frames import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Frame,
    Host,
    Message,
    Raw,
    accept,
    close_data,
    disconnect,
    echo,
    encoded,
    received,
    upgrade_lines,
)
from tests.e2e.server import eventually


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
        head = "\r\n".join([f"GET {host.add(app)} HTTP/1.1", "host: x", *upgrade_lines(), "", ""])
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
        head = "\r\n".join([f"GET {host.add(app)} HTTP/1.1", "host: x", *upgrade_lines(), "", ""])
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
        head = "\r\n".join([f"GET {host.add(undecided)} HTTP/1.1", "host: x", *upgrade_lines(), "", ""])
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
