"""Where requests begin and end in what a connection reads, however it is cut."""

from __future__ import annotations

import itertools

import pytest

from serving.errors import BadRequest
from serving.frontend.http.framing import Framing

HOST = b"Host: a\r\n"
NONE = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
SIZED = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nab\r\nc"
CHUNKED = (
    b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
)
BODIES = {NONE: b"", SIZED: b"ab\r\nc", CHUNKED: b"abcde"}


class Reader:
    """Reads as a connection does that answers each request at once."""

    def __init__(self) -> None:
        self.framing = Framing()
        self.bodies: list[bytes] = []
        self.ends = 0

    def feed(self, data: bytes) -> None:
        framing, at = self.framing, 0
        while at < len(data):
            if framing.is_in_body:
                at = framing.read_body(data, at, self._on_part, self._on_end)
            else:
                at = self._head(data, at)

    def _head(self, data: bytes, at: int) -> int:
        head = self.framing.head
        if head is None:
            head, at = self.framing.begin_head(data, at)
            if head is None:
                return at
        at = head.read(data, at)
        if head.is_complete:
            head.check()
            self.framing.begin_body(head)
            self.bodies.append(b"")
            if not head.has_body:
                self._on_end()
        return at

    def _on_part(self, part: bytes) -> None:
        self.bodies[-1] += part

    def _on_end(self) -> None:
        self.ends += 1


@pytest.mark.parametrize("requests", list(itertools.product(BODIES, repeat=3)))
def test_bodies_are_the_same_for_every_cut(requests: tuple[bytes, ...]) -> None:
    data = b"\r\n".join(requests)  # blank lines may come before a head
    for cut in range(len(data) + 1):
        reader = Reader()
        reader.feed(data[:cut])
        reader.feed(data[cut:])
        assert (reader.bodies, reader.ends) == ([BODIES[one] for one in requests], 3)
        assert not reader.framing.is_within


@pytest.mark.parametrize("request_bytes", BODIES)
def test_a_request_is_under_way_from_its_first_byte_to_its_last(request_bytes: bytes) -> None:
    reader = Reader()
    for at in range(len(request_bytes)):
        assert reader.framing.is_within is (at > 0)
        assert reader.ends == 0
        reader.feed(request_bytes[at : at + 1])
    assert (reader.framing.is_within, reader.ends) == (False, 1)


def test_blank_lines_begin_no_request() -> None:
    reader = Reader()
    reader.feed(b"\r\n\r\n\n")
    assert (reader.framing.is_within, reader.bodies) == (False, [])


def test_what_is_no_chunk_is_refused() -> None:
    reader = Reader()
    with pytest.raises(BadRequest):
        reader.feed(CHUNKED.replace(b"3\r\nabc", b"x\r\nabc"))


def test_data_that_came_too_early_is_kept_and_joined_with_what_follows() -> None:
    framing = Framing()
    framing.keep(b"0123456789", 4)
    assert framing.has_unread
    assert framing.joined(b"abc") == b"456789abc"
    assert not framing.has_unread
    assert framing.joined(b"abc") == b"abc"
    framing.keep(b"0123456789", 4)
    assert (framing.take(), framing.has_unread) == ((b"0123456789", 4), False)


def test_nothing_is_under_way_after_a_drop() -> None:
    reader = Reader()
    reader.feed(NONE[:10])
    reader.framing.keep(b"more", 0)
    reader.framing.drop()
    assert (reader.framing.is_within, reader.framing.has_unread) == (False, False)
