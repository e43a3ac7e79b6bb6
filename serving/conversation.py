"""Conversation: one WebSocket, as ``Handler.converse`` sees it. Message fragments are kept as they come, in both
directions.

    async def converse(self, stream):
        async for message in stream:
            await stream.send(message.data, message.fin)
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from serving.ipc.flow import Credit, Flow, cost
from serving.ipc.wire import ChunkHead, Frame
from serving.request import NO_HEADERS

NORMAL, GOING_AWAY, POLICY, INTERNAL, TRY_LATER = 1000, 1001, 1008, 1011, 1013  # RFC 6455 §7.4.1 and its registry
ABNORMAL = 1006  # the other side has left; never sent over a connection
REASON = 123  # bytes


class ConversationClosed(ConnectionError):
    """The other side is gone, or this side has closed. A handler need not catch it."""


@dataclass(frozen=True, slots=True)
class Message:
    """One frame: ``data`` is text or bytes; if ``fin`` is false the next frame continues the same message."""

    data: str | bytes
    fin: bool = True

    @property
    def body(self) -> bytes:
        """The data as bytes. Raises ValueError for a lone surrogate, which is no character."""
        return encoded(self.data, "a message") if isinstance(self.data, str) else self.data

    @property
    def head(self) -> bytes:
        """The head of its frame between our processes; ``read`` is the inverse."""
        text = ChunkHead.TEXT if isinstance(self.data, str) else ChunkHead(0)
        return bytes([text | (ChunkHead.FIN if self.fin else ChunkHead(0))])

    @classmethod
    def read(cls, frame: Frame) -> Message:
        """Return the message in a frame. The chunks of a streamed response have no head: they are bytes."""
        flags = ChunkHead(frame.head[0]) if frame.head else ChunkHead.FIN
        body = bytes(frame.body)
        return cls(body.decode("utf-8", "replace") if flags & ChunkHead.TEXT else body, bool(flags & ChunkHead.FIN))


@dataclass(frozen=True, slots=True)
class Close:
    """The end of a conversation."""

    code: int = NORMAL
    reason: str = ""


class Conversation:
    """A WebSocket. ``query`` is the part of the URL after ``?``, ``headers`` have names in lower case. Not thread-safe.

    Iteration yields messages until the other side closes; then ``close_code`` and ``close_reason`` say how.
    """

    def __init__(
        self,
        emit: Callable[[Message | Close], None],
        use: Callable[[int], None],
        wake: Callable[[Callable[[], object]], None],
        path: str = "",
        query: str = "",
        headers: Mapping[str, str] = NO_HEADERS,
        request_id: str = "",
        model: str = "",
    ) -> None:
        self.path = path
        self.query = query
        self.headers = headers
        self.request_id = request_id
        self.model = model
        self.close_code: int | None = None
        self.close_reason = ""
        self.flow = Flow()
        self._emit = emit
        self._credit = Credit(use)
        self._wake = wake
        self._incoming: deque[Message] = deque()
        self._changed = asyncio.Event()
        self._open_type: type | None = None
        self._has_closed = False
        self._ended = asyncio.Event()

    def __aiter__(self) -> Conversation:
        return self

    async def __anext__(self) -> Message:
        while not self._incoming:
            if self.close_code is not None or self._has_closed:
                raise StopAsyncIteration
            await self._wait()
        message = self._incoming.popleft()
        self._credit.use(cost(message.body))
        return message

    @property
    def is_closed(self) -> bool:
        """Whether either side has closed."""
        return self._has_closed or self.close_code is not None

    async def send(self, data: str | bytes, fin: bool = True) -> None:
        """Send one frame; waits while the other side is slow.

        If ``fin`` is false the next frame continues the message, and must be of the same type. Raises
        ConversationClosed, TypeError, and ValueError for text that UTF-8 cannot encode.
        """
        if not isinstance(data, str | bytes | bytearray | memoryview):
            raise TypeError(f"a message is text or bytes, not {type(data).__name__}")
        kind = str if isinstance(data, str) else bytes
        if self._open_type not in (None, kind):
            raise TypeError(f"the message was begun as {self._open_type.__name__}")
        message = Message(data if isinstance(data, str) else bytes(data), fin)
        size = cost(message.body)
        while not self.is_closed and not self.flow.is_open:
            await self._wait()
        if self.is_closed:
            raise ConversationClosed("the conversation is closed")
        self._open_type = None if fin else kind
        self.flow.sent += size
        self._emit(message)
        await asyncio.sleep(0)  # a handler that only sends must let others run

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the conversation after what was sent before. ``code`` is 1000 to 1003, 1007 to 1014 or 3000 to 4999.
        Raises ValueError for any other.
        """
        if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
            raise ValueError(f"{code} is no close code that may be sent")
        encoded(reason, "a reason")
        self._end(Close(code, shortened(reason)))

    def _end(self, close: Close) -> None:
        if not self._has_closed:
            self._has_closed = True
            if self.close_code is None:
                self._emit(close)
            self._ended.set()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # For the worker, from any thread.

    def feed(self, message: Message) -> None:
        """Add a message of the client."""
        self._incoming.append(message)
        self.changed()

    def end(self, code: int, reason: str) -> None:
        """Record that the other side has closed, or is gone."""
        if self.close_code is None:
            self.close_reason, self.close_code = reason, code
            self._wake(self._ended.set)
            self.changed()

    async def wait_closed(self) -> None:
        """Wait until either side has closed."""
        if self.close_code is None:
            await self._ended.wait()

    def changed(self) -> None:
        """Wake whoever waits for a message, credit or the end."""
        self._wake(self._changed.set)


def encoded(text: str, what: str) -> bytes:
    """Return the text in UTF-8. Raises ValueError."""
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise ValueError(f"{what} has half a surrogate pair at position {exc.start}, which is no character") from exc


def shortened(reason: str) -> str:
    """Return as much of a reason as fits into a close frame."""
    return reason.encode("utf-8", "replace")[:REASON].decode("utf-8", "ignore")
