"""Heads that came before: what is taken without the parser is what the parser would have said."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.frontend.http.repeat import MAX_HEAD, Repeat
from serving.frontend.invocation.head_reader import HeadReader
from serving.frontend.invocation.invocation_head import InvocationHead

PARSED = HeadReader(many=False).read(b"/invocations", [(b"content-type", b"text/csv")])
assert isinstance(PARSED, InvocationHead)
HEAD = (
    b"POST /invocations HTTP/1.1\r\nHost: here\r\nContent-Type: text/csv\r\nContent-Length: %d\r\nAccept: */*\r\n\r\n"
)


class Messages:
    """What the parser makes of bytes: each whole message as url, headers and body."""

    def __init__(self, data: bytes) -> None:
        self.found: list[tuple[bytes, list[tuple[bytes, bytes]], bytes]] = []
        self.complete = True
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.url, self.body, self.complete = b"", b"", False
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True
        self.found.append((self.url, self.headers, self.body))


def request(body: bytes) -> bytes:
    return HEAD % len(body) + body


def known(body: bytes = b"1,2") -> Repeat:
    found = Repeat.of(PARSED, request(body), len(body))
    assert found is not None
    return found


def test_a_body_of_the_same_length_and_of_another_one_is_found() -> None:
    for body in (b"1,2", b"3,4", b"", b"5", bytes(range(256)) * 4):
        assert known().body_of(request(body)) == body


@pytest.mark.parametrize(
    "data",
    [
        request(b"1,2") + b"P",
        request(b"1,2") + request(b"1,2"),
        request(b"1,2")[:-1],
        request(b"1,2").replace(b"here", b"hare"),
        request(b"1,2").replace(b"*/*", b"*/a"),
        request(b"1,2").replace(b"Length: 3", b"Length: +3"),
        request(b"1,2").replace(b"Length: 3", b"Length: 3, 3"),
        request(b"1,2").replace(b"Length: 3", b"Length: "),
        request(b"1,2").replace(b"Length: 3", b"Length: 3 "),
        b"",
    ],
    ids=lambda data: repr(data[-40:]),
)
def test_whatever_else_is_the_parsers(data: bytes) -> None:
    assert known().body_of(data) is None


def test_a_request_that_is_not_whole_and_alone_is_not_remembered() -> None:
    whole = request(b"1,2")
    assert Repeat.of(PARSED, whole[:-1], 3) is None
    assert Repeat.of(PARSED, whole + whole, 3) is None
    assert Repeat.of(PARSED, whole[10:], 3) is not None  # only who sees the beginning of a message may ask
    chunked = b"POST /invocations HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert Repeat.of(PARSED, chunked + b"0\r\n\r\n", 0) is None
    assert Repeat.of(PARSED, chunked, 0) is None
    long = whole.replace(b"*/*", b"a" * MAX_HEAD)
    assert Repeat.of(PARSED, long, 3) is None


MUTATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("cut"), st.integers(0, 200), st.integers(0, 5)),
        st.tuples(
            st.just("put"), st.integers(0, 200), st.sampled_from([b"0", b"1", b"\r\n", b" ", b"a", b"\x00", b":"])
        ),
    ),
    max_size=2,
)


@given(st.binary(max_size=40), st.binary(max_size=40), MUTATIONS)
@example(b"abc", b"", [("put", 90, b"0")])
def test_what_is_found_is_one_message_of_the_parsers(first: bytes, second: bytes, mutations: list[tuple]) -> None:  # type: ignore[type-arg]
    data = request(second)
    for kind, at, what in mutations:
        data = data[:at] + data[at + what :] if kind == "cut" else data[:at] + what + data[at:]
    body = known(first).body_of(data)
    if body is None:
        return
    messages = Messages(data)
    assert messages.complete
    [(url, headers, parsed)] = messages.found
    [(_, expected, _)] = Messages(request(first)).found
    assert (url, parsed) == (b"/invocations", body)
    assert [one for one in headers if one[0] != b"content-length"] == [
        one for one in expected if one[0] != b"content-length"
    ]
