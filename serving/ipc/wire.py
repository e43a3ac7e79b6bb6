"""Wire: frames to bytes and back, as our processes exchange them over Unix sockets. No I/O.

A frame is a prefix of 24 bytes, a head (msgpack of a small struct) and a body that is passed on unread:

    u8 version | u8 kind | u16 zero | u32 head length | u64 body length | u64 id | head | body

Reading is total: any bytes give frames or ``WireError``. A body of 64 KiB or more is read directly into its own buffer,
so it is copied once between the socket and the handler.
"""

from __future__ import annotations

import enum
import struct
from typing import Annotated

import msgspec

from serving.errors import WireError
from serving.request import Body
from serving.system.memory import unfilled

VERSION = 1
PREFIX = struct.Struct("<BBHIQQ")
MAX_HEAD = 64 * 1024
LARGE_BODY = 64 * 1024  # bytes; from here on a body gets a buffer of its own
AHEAD = 4 * 1024  # bytes to read after a large body: the next frame's head, and little of its body, which is copied
SCRATCH = 256 * 1024  # bytes; holds any small frame: prefix + MAX_HEAD + LARGE_BODY
MAX_BODY = 1 << 34  # 16 GiB; a larger length is taken for a corrupt one


class FrameKind(enum.IntEnum):
    REQUEST = 1
    REPLY = 2
    CANCEL = 3
    CONTROL = 4
    RETURN = 5  # a request sent back untouched: its replica is retiring
    BEGIN = 6  # a streamed response begins, with its head and first chunk; or a conversation
    CHUNK = 7  # a chunk of a response, or a fragment of a conversation's message, in either direction
    END = 8  # the end of a streamed response, in which a head carries an error; or of a conversation
    CREDIT = 9  # the receiver has used this many bytes of chunks: more may be sent
    OPEN = 10  # a request for a conversation


KINDS = frozenset(int(kind) for kind in FrameKind)


class Frame(msgspec.Struct, frozen=True):
    """One frame. ``kind`` is a FrameKind, ``id`` its request or stream; the kind decides how ``head`` is encoded."""

    kind: int
    id: int
    head: bytes
    body: Body


class RequestHead(msgspec.Struct, frozen=True, array_like=True):
    """Head of REQUEST. ``deadline`` is an instant of the monotonic clock; ``alone`` keeps the request out of any batch.
    ``accepted``: a replica that died had accepted the request, so it is not refused for a full queue.
    """

    deadline: float
    request_id: str
    content_type: str = ""
    accept: str = ""
    model: str = ""
    alone: bool = False
    sagemaker: dict[str, str] = {}
    accepted: bool = False
    path: str = ""
    content_encoding: str = ""
    headers: dict[str, str] | None = None


class ReplyHead(msgspec.Struct, frozen=True, array_like=True):
    """Head of REPLY. Where ``code`` is set the reply is an error, with the message in UTF-8 as its body.

    ``status`` is a valid HTTP status. ``retry_after`` is in seconds.
    """

    status: Annotated[int, msgspec.Meta(ge=200, le=599)]
    content_type: str = ""
    custom_attributes: str | None = None
    code: str | None = None
    new_session: str | None = None
    closed_session: str | None = None
    retry_after: int = 1


class OpenHead(msgspec.Struct, frozen=True, array_like=True):
    """Head of OPEN: the request that asks for a conversation. Header names are in lower case."""

    request_id: str
    model: str
    path: str
    query: str
    headers: dict[str, str]


class CloseHead(msgspec.Struct, frozen=True, array_like=True):
    """Head of END for a conversation: a close code and a reason (RFC 6455 §7.4)."""

    code: int
    reason: str = ""


class ChunkHead(enum.IntFlag):
    """Head of CHUNK in a conversation, one byte."""

    TEXT = 1
    FIN = 2


CREDIT = struct.Struct("<Q")  # head of CREDIT, in bytes


def encode(kind: int, id: int, head: bytes = b"", body: Body = b"") -> list[Body]:
    """Return the buffers of one frame, in order; a large body is not copied."""
    start = PREFIX.pack(VERSION, kind, 0, len(head), len(body), id) + head
    if not body:
        return [start]
    return [start + bytes(body)] if len(body) < LARGE_BODY else [start, body]


class FrameReader:
    """Turns bytes into frames. The caller fills ``get_buffer()``, or ``get_buffers()`` in order, and reports the number
    of bytes by ``buffer_updated(n)``.
    """

    def __init__(self, max_body: int = MAX_BODY) -> None:
        self._max_body = max_body
        # Not zeroed, so that unused pages take no memory: there is one buffer for each replica.
        self._scratch = memoryview(unfilled(SCRATCH))
        self._start = 0
        self._end = 0
        self._large: tuple[int, int, bytes] | None = None  # kind, id and head of the frame whose body is being read
        self._body = bytearray()
        self._filled = 0
        self._after_large = False  # the last frame had a large body, as the next one probably has

    def get_buffer(self) -> memoryview:
        """Return the buffer for the next bytes; never empty."""
        if self._large is not None:
            return memoryview(self._body)[self._filled :]
        return self._scratch[self._end : self._end + AHEAD] if self._after_large else self._scratch[self._end :]

    def get_buffers(self) -> list[memoryview]:
        """Return the buffers for the next bytes: within a large body, its buffer and one for what follows."""
        if self._large is not None:
            return [memoryview(self._body)[self._filled :], self._scratch[:AHEAD]]
        return [self.get_buffer()]

    @property
    def is_within_body(self) -> bool:
        """Whether part of a large body is still to come."""
        return self._large is not None

    def buffer_updated(self, n: int) -> list[Frame]:
        """Process ``n`` new bytes; returns the frames that they complete. Raises WireError."""
        if self._large is None:
            self._end += n
            return self._parse()
        beyond = self._filled + n - len(self._body)
        if beyond < 0:
            self._filled += n
            return []
        kind, id, head = self._large
        frame = Frame(kind, id, head, self._body)
        self._large, self._body = None, bytearray()
        self._start, self._end = 0, beyond
        return [frame, *self._parse()] if beyond else [frame]

    def feed(self, data: bytes) -> list[Frame]:
        """Copy ``data`` into the buffers and return the frames that it completes. Raises WireError."""
        frames: list[Frame] = []
        rest = memoryview(data)
        while len(rest):
            buffer = self.get_buffer()
            n = min(len(buffer), len(rest))
            buffer[:n] = rest[:n]
            rest = rest[n:]
            frames += self.buffer_updated(n)
        return frames

    def _parse(self) -> list[Frame]:
        frames: list[Frame] = []
        # Small frames are copied once, all together, and then sliced.
        data = self._scratch[self._start : self._end].tobytes()
        at, end, size = 0, len(data), PREFIX.size
        while end - at >= size:
            version, kind, zero, head_size, body_size, id = PREFIX.unpack_from(data, at)
            if version != VERSION or zero or kind not in KINDS:
                raise WireError(f"no frame starts with version {version}, kind {kind}")
            if head_size > MAX_HEAD or body_size > self._max_body:
                raise WireError(f"head of {head_size} or body of {body_size} bytes is beyond the limit")
            body_at = at + size + head_size
            if body_size >= LARGE_BODY:
                if end < body_at:
                    break
                at = self._begin_large(kind, id, data, body_at - head_size, body_at, body_size, frames)
                self._after_large = True
            else:
                if end < body_at + body_size:
                    self._after_large = False
                    break
                at = body_at + body_size
                frames.append(Frame(kind, id, data[body_at - head_size : body_at], data[body_at:at]))
                self._after_large = False
        self._start += at
        self._compact()
        return frames

    def _begin_large(
        self, kind: int, id: int, data: bytes, head_at: int, body_at: int, size: int, frames: list[Frame]
    ) -> int:
        """Begin a frame whose body gets its own buffer. Returns the position after the part of the body that is in
        ``data``.
        """
        head = data[head_at:body_at]
        there = min(size, len(data) - body_at)
        body = unfilled(size)
        body[:there] = memoryview(data)[body_at : body_at + there]
        if there == size:
            frames.append(Frame(kind, id, head, body))
        else:
            self._large, self._body, self._filled = (kind, id, head), body, there
        return body_at + there

    def _compact(self) -> None:
        rest = self._end - self._start
        if rest == 0:
            self._start = self._end = 0
        elif SCRATCH - self._end < LARGE_BODY:
            self._scratch[:rest] = bytes(self._scratch[self._start : self._end])
            self._start, self._end = 0, rest
