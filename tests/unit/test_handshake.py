"""The head of a WebSocket's request becomes an ASGI scope, and what the app accepts or refuses an HTTP response."""

from __future__ import annotations

import pytest

from serving.errors import BadRequest, CodedError
from serving.frontend.websocket.denial import Denial
from serving.frontend.websocket.framing import Framing
from serving.frontend.websocket.handshake import complete, open_handshake, scope_of

HEAD = (
    b"GET /a%%20b?c=d HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: %b\r\n"
    b"Sec-WebSocket-Protocol: one, two\r\nsec-websocket-protocol: three\r\n\r\n"
)


def test_a_head_becomes_a_scope() -> None:
    scope = scope_of(HEAD % b"13", "/root", scheme="ws")
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/root/a b", b"/root/a%20b", b"c=d")
    assert scope["subprotocols"] == ["one", "two", "three"]
    assert (b"host", b"x") in scope["headers"]
    assert scope["scheme"] == "ws"


def test_a_target_that_is_no_url_is_400() -> None:
    with pytest.raises(BadRequest, match="no URL"):
        scope_of(b"GET http:// HTTP/1.1\r\n\r\n", "")


def test_what_the_app_accepts_with_is_in_the_response() -> None:
    framing = Framing(10)
    response = open_handshake(framing, HEAD % b"13")
    complete(response, {"subprotocol": "two", "headers": [(b"x-a", b"b")]}, [(b"server", b"me")])
    framing.send_response(response)
    sent = b"".join(framing.data_to_send())
    assert sent.startswith(b"HTTP/1.1 101 ")
    for line in (b"server: me", b"x-a: b", b"sec-websocket-protocol: two"):
        assert line + b"\r\n" in sent
    assert b"\r\nDate:" not in sent


@pytest.mark.parametrize("header", [(b"x a", b"b"), (b"x-a", b"b\r\nx-c: d"), (b"", b"")])
def test_a_header_that_could_split_the_response_is_an_error_of_the_app(header: tuple[bytes, bytes]) -> None:
    response = open_handshake(Framing(10), HEAD % b"13")
    with pytest.raises(RuntimeError, match="is no header"):
        complete(response, {"headers": [header]}, [])
    with pytest.raises(RuntimeError, match="is no header"):
        Denial(400, [header]).encoded([])


def test_another_version_of_the_protocol_is_told_which_one_is_spoken() -> None:
    framing = Framing(10)
    with pytest.raises(CodedError) as caught:
        open_handshake(framing, HEAD % b"8")
    assert framing.data_to_send() == [b""] or framing.data_to_send() == []
    sent = Denial.of(caught.value).encoded([])
    assert sent.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
    assert b"\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n" in sent


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\n\r\n", HEAD.replace(b"GET", b"POST") % b"13"])
def test_what_is_no_handshake_is_400(head: bytes) -> None:
    with pytest.raises(BadRequest, match="no WebSocket handshake"):
        open_handshake(Framing(10), head)


def test_a_refusals_own_length_and_connection_replace_those_of_the_app() -> None:
    start = {"status": 299, "headers": [(b"Content-Length", b"9"), (b"connection", b"keep-alive"), (b"x-a", b"b")]}
    denial = Denial.begin(start)
    denial.body += b"no"
    assert denial.encoded([]) == b"HTTP/1.1 299 \r\nx-a: b\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno"
    for status in (199, 600):
        with pytest.raises(RuntimeError, match="no status"):
            Denial.begin({"status": status})
