"""Whoever sends a head that is none is told what is wrong with it."""

from __future__ import annotations

import pytest

from serving.errors import BadRequest
from serving.frontend.http.head import Head

LINE, HOST = b"POST /invocations HTTP/1.1\r\n", b"host: x\r\n"
FAULTS: dict[str, tuple[bytes, str]] = {
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "this is TLS"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "this is HTTP/2"),
    "an unknown method": (b"FOO / HTTP/1.1\r\n", "does not begin with a method"),
    "a body": (b'{"a": 1}\r\n\r\n', "does not begin with a method"),
    "no target": (b"GET HTTP/1.1\r\n", "the target in the request line"),
    "a letter in the target": ("GET /é HTTP/1.1\r\n".encode(), "the target in the request line"),
    "a blank in the target": (b"GET /a b HTTP/1.1\r\n", "a target without blanks"),
    "another protocol": (b"GET / HTTX/1.1\r\n", "a target without blanks, and HTTP/1.1"),
    "another version": (b"GET / HTTP/1.2\r\n", "a version of HTTP that is not spoken here"),
    "2.0 without its preface": (b"POST /invocations HTTP/2.0\r\ncontent-length: 2\r\n" + HOST, "not spoken here"),
    "2.0, kept alive": (b"GET / HTTP/2.0\r\nconnection: keep-alive\r\n" + HOST, "not spoken here"),
    "0.9": (b"POST /invocations HTTP/0.9\r\ncontent-length: 2\r\n" + HOST, "not spoken here"),
    "0.9, kept alive": (b"GET / HTTP/0.9\r\nconnection: keep-alive\r\n" + HOST, "not spoken here"),
    "RTSP": (b"POST /invocations RTSP/1.0\r\ncontent-length: 2\r\n" + HOST, "blanks, and HTTP/1.1"),
    "RTSP of another version": (b"GET / RTSP/1.1\r\n" + HOST, "blanks, and HTTP/1.1"),
    "RTSP behind an empty line": (b"\r\nGET / RTSP/1.1\r\n" + HOST, "blanks, and HTTP/1.1"),
    "ICE": (b"SOURCE / ICE/1.0\r\n" + HOST, "HTTP"),
    "no colon": (LINE + b"host x\r\n", "a name, a colon right behind it"),
    "a blank before the colon": (LINE + b"host : x\r\n", "a name, a colon right behind it"),
    "a control character": (LINE + b"a: x\0y\r\n", "a control character"),
    "a second line": (LINE + HOST + b" more\r\n", "goes on in a second line"),
    "line feeds alone": (b"GET / HTTP/1.1\nhost: x\n\n", "does not end with CR LF"),
    "a line feed alone": (LINE + b"host: x\na: b\r\n", "does not end with CR LF"),
    "a carriage return alone": (LINE + b"host: x\ra: b\r\n", "does not end with CR LF"),
    "a length of letters": (LINE + HOST + b"content-length: ten\r\n", "Content-Length must be one number"),
    "a long length": (LINE + HOST + b"content-length: " + b"9" * 30 + b"\r\n", "Content-Length must be one number"),
    "two lengths": (LINE + HOST + b"content-length: 1\r\ncontent-length: 1\r\n", "Content-Length must be one number"),
    "both": (LINE + HOST + b"content-length: 1\r\ntransfer-encoding: chunked\r\n", "said in two ways"),
    "another encoding": (LINE + HOST + b"transfer-encoding: gzip\r\n", "only chunked is supported"),
    "chunked twice": (LINE + HOST + b"transfer-encoding: chunked\r\n" * 2, "only chunked is supported"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_of_a_head_has_its_own_words(name: str) -> None:
    data, words = FAULTS[name]
    with pytest.raises(BadRequest, match=words) as caught:
        Head().read(data + b"\r\n", 0)
    assert "cannot be read" not in caught.value.message, "the parser has another reason now"


@pytest.mark.parametrize("name", [name for name in FAULTS if name not in ("TLS", "HTTP/2")])
def test_wherever_it_is_cut(name: str) -> None:
    data, words = FAULTS[name]
    pieces = [bytes([byte]) for byte in data + b"\r\n"]
    with pytest.raises(BadRequest, match=words):
        read_all(pieces)


def read_all(pieces: list[bytes]) -> Head:
    head = Head()
    for piece in pieces:
        head.read(piece, 0)
    return head


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("before", [b"", b"\r\n"])
@pytest.mark.parametrize("target", [b"/", b"/RTSP/1.0", b"/ICE/1.0?a=%20RTSP/1.0", b"/" + b"x" * 1000])
def test_both_versions_are_spoken_whatever_else_the_line_says(version: bytes, before: bytes, target: bytes) -> None:
    data = before + b"POST " + target + b" HTTP/" + version + b"\r\n" + HOST + b"a: b RTSP/1.0\r\n\r\n"
    for pieces in ([data], [data[:9], data[9:]], [bytes([byte]) for byte in data]):
        head = read_all(pieces)
        head.check()
        assert (head.url, head.is_complete) == (target, True)
