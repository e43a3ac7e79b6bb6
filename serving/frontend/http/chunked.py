"""Chunked: finds the end of a chunked body (RFC 9112 §7.1), and drops chunk extensions and trailers.

It is stricter than some proxies, so that both always agree on the end of the body: lines end with CR LF, a size is
digits alone, and a trailer is a proper header.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from serving.errors import BadRequest, HeadTooLarge
from serving.frontend.http.head import MAX_HEAD

MAX_LINE = 4096  # bytes of a chunk's size and its extensions
SIZE = re.compile(rb"([0-9a-fA-F]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")
TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n")
LINE_END = b"\r\n"
LONG_LINE = "a line of the chunked body is too long"


class Chunked:
    """The reader of one chunked body. ``is_done`` is set once the empty line after the trailers has been read."""

    __slots__ = ("_in_trailers", "_left", "_rest", "_trailers", "is_done")

    def __init__(self) -> None:
        self.is_done = False
        self._left = 0  # bytes of the chunk, with the end of its line
        self._rest = b""  # the beginning of a line
        self._in_trailers = False
        self._trailers = 0  # bytes

    def read(self, data: bytes, at: int, take: Callable[[bytes], None]) -> int:
        """Pass the parts of the body in ``data``, from position ``at`` on, to ``take``.

        Returns the position after what was read. Raises BadRequest, HeadTooLarge.
        """
        shift = 0
        if self._rest:
            shift = at - len(self._rest)
            data, at, self._rest = self._rest + data[at:], 0, b""
        while at < len(data) and not self.is_done:
            if self._left:
                at = self._read_chunk(data, at, take)
            elif self._in_trailers:
                at = self._read_trailer(data, at)
            else:
                at = self._read_size(data, at)
        return at + shift

    def _read_chunk(self, data: bytes, at: int, take: Callable[[bytes], None]) -> int:
        left = self._left
        end = at + left - len(LINE_END)
        if end > at:
            part = data[at:end]
            self._left = left - len(part)
            take(part)
            return at + len(part)
        if data[at] != LINE_END[-left]:
            raise BadRequest("a chunk is longer than it says")
        self._left = left - 1
        return at + 1

    def _read_size(self, data: bytes, at: int) -> int:
        found = SIZE.match(data, at)
        if found is None:
            return self._keep(data, at, MAX_LINE)
        if found.end() - at > MAX_LINE:
            raise HeadTooLarge(LONG_LINE)
        size = int(found[1], 16)
        if size:
            self._left = size + len(LINE_END)
        else:
            self._in_trailers = True
        return found.end()

    def _read_trailer(self, data: bytes, at: int) -> int:
        if data.startswith(LINE_END, at):
            self.is_done = True
            return at + len(LINE_END)
        found = TRAILER.match(data, at)
        if found is None:
            return self._keep(data, at, MAX_HEAD - self._trailers)
        self._trailers += found.end() - at
        if self._trailers > MAX_HEAD:
            raise HeadTooLarge(f"the trailers have more than {MAX_HEAD} bytes")
        return found.end()

    def _keep(self, data: bytes, at: int, most: int) -> int:
        """Keep the beginning of a line until the rest arrives. Raises BadRequest for a bad line, HeadTooLarge for a
        long one.
        """
        if data.find(LINE_END, at) >= 0 or data.find(b"\n", at) >= 0:
            raise BadRequest("the body is not chunked as it should be")
        if len(data) - at > most:
            raise HeadTooLarge(LONG_LINE)
        self._rest = data[at:]
        return len(data)
