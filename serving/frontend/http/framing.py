"""Framing: where each request begins and ends in the bytes that a connection reads."""

from __future__ import annotations

from collections.abc import Callable

from serving.frontend.http.chunked import Chunked
from serving.frontend.http.head import Head

BLANK = b"\r\n"  # bytes that may come before a head


class Framing:
    """The position in what a connection reads: at a head, or within a body. It follows from the bytes read alone.

    ``head`` is the head that is being read, or was last read in part. ``left`` bytes of the body are yet to come, or it
    comes in chunks.
    """

    __slots__ = ("_chunks", "_unread", "_unread_at", "head", "left")

    def __init__(self) -> None:
        self.head: Head | None = None
        self.left = 0
        self._chunks: Chunked | None = None
        self._unread = b""
        self._unread_at = 0

    @property
    def is_in_body(self) -> bool:
        return self.left > 0 or self._chunks is not None

    @property
    def is_within(self) -> bool:
        """Whether part of a request has arrived, but not all of it."""
        return self.head is not None or self.left > 0 or self._chunks is not None

    def begin_head(self, data: bytes, at: int) -> tuple[Head | None, int]:
        """Return a new head and the position in ``data``, from ``at`` on, where it begins; None where only blank bytes
        have come.
        """
        while at < len(data) and data[at] in BLANK:
            at += 1
        if at < len(data):
            self.head = Head()
        return self.head, at

    def begin_body(self, head: Head) -> None:
        """Note that the head is whole: its body is next, if it has one."""
        self.head = None
        self.left = head.length
        if head.is_chunked:
            self._chunks = Chunked()

    def read_body(self, data: bytes, at: int, on_part: Callable[[bytes], None], on_end: Callable[[], None]) -> int:
        """Pass the part of the body in ``data``, from ``at`` on, to ``on_part``, and call ``on_end`` after the last.

        Returns the position after it. Raises a ServingError for what is no chunk.
        """
        chunks = self._chunks
        if chunks is None:
            part = data[at : at + self.left]
            self.left -= len(part)
            at += len(part)
            on_part(part)
        else:
            at = chunks.read(data, at, on_part)
            if chunks.is_done:
                self._chunks = None
        if not self.is_in_body:
            on_end()
        return at

    # Data that came before it could be read.

    @property
    def has_unread(self) -> bool:
        return bool(self._unread)

    def keep(self, data: bytes, at: int) -> None:
        """Keep ``data`` from ``at`` on, until the response before it is complete."""
        self._unread, self._unread_at = data, at

    def take(self) -> tuple[bytes, int]:
        """Return the kept data and the position at which it goes on; nothing is kept afterwards."""
        data, self._unread = self._unread, b""
        return data, self._unread_at

    def joined(self, data: bytes) -> bytes:
        """Return the kept data and ``data`` after it; nothing is kept afterwards."""
        if not self._unread:
            return data
        kept, at = self.take()
        return kept[at:] + data

    def drop(self) -> None:
        """Release all that was read."""
        if self.head is not None:
            self.head.drop()
        self.head = self._chunks = None
        self._unread = b""
