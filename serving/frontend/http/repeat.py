"""HeadCache: the head of the last invocation on a connection, so that an equal one need not be parsed.

A client sends the same head again and again on its connection, except for the length of the body.
"""

from __future__ import annotations

import re

from serving.frontend.http.head import Head
from serving.frontend.invocation.head_reader import HeadReader
from serving.frontend.invocation.invocation_head import InvocationHead

LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)[ \t]*\r\n", re.IGNORECASE)
MAX_HEAD = 4096  # bytes that are kept for a connection
DIGITS = 10  # of the length; a longer one is not a request that arrives in one read


class Repeat:
    """A head, with its empty line and one Content-Length, that the parser has accepted; ``head`` is its parsed
    form.
    """

    __slots__ = ("_after", "_before", "_bytes", "_size", "_whole", "head")

    def __init__(self, head: InvocationHead, data: bytes, digits: slice, length: int) -> None:
        self.head = head
        self._bytes = data
        self._size = len(data)
        self._whole = len(data) + length
        self._before = data[: digits.start]
        self._after = data[digits.stop :]

    @classmethod
    def of(cls, head: InvocationHead, data: bytes, length: int) -> Repeat | None:
        """Return the Repeat for ``data``, one whole request with a body of ``length`` bytes; None where it is not
        that.
        """
        end = len(data) - length
        if not 0 < end <= MAX_HEAD or data.find(b"\r\n\r\n") != end - 4:
            return None
        lines = data[:end]
        found = LENGTH.search(lines)
        return None if found is None else cls(head, lines, slice(*found.span(1)), length)

    def body_of(self, data: bytes) -> bytes | None:
        """Return the body of ``data`` if it is one whole request with the same head but for the length; otherwise
        None.
        """
        if len(data) == self._whole and data.startswith(self._bytes):
            return data[self._size :]
        before, after = self._before, self._after
        if not data.startswith(before):
            return None
        start = len(before)
        end = data.find(after, start, start + DIGITS + len(after))
        digits = data[start:end]
        if end < 0 or not digits.isdigit():
            return None
        body = end + len(after)
        return data[body:] if len(data) - body == int(digits) else None


class HeadCache:
    """The head of the last invocation on one connection. ``repeat`` is set while nothing has arrived since one whole
    invocation.
    """

    __slots__ = ("_head", "_may_repeat", "_reader", "_url", "repeat")

    def __init__(self, reader: HeadReader) -> None:
        self._reader = reader
        self._url = b""
        self._head: InvocationHead | None = None
        self._may_repeat = False
        self.repeat: Repeat | None = None

    def read(self, head: Head) -> InvocationHead | None:
        """Return the parsed head of a POST; None where it is no invocation. Raises BadRequest."""
        known = self._head
        if known is None or known.headers != head.headers or self._url != head.url:
            known = self._head = self._reader.read(head.url, head.headers)
            self._url = head.url
        self._may_repeat = not (head.has_connection or head.is_foreign or head.is_chunked) and head.keep_alive
        return known

    def forget(self) -> None:
        """Note that something arrives that is no repetition."""
        self.repeat = None
        self._may_repeat = False

    def remember(self, data: bytes, size: int) -> None:
        """Remember the head in ``data``, where that is one whole invocation with a body of ``size`` bytes."""
        if self._may_repeat and self._head is not None:
            self.repeat = Repeat.of(self._head, data, size)
