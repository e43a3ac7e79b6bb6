"""Inbox: the messages of a WebSocket's client that the app has not received yet."""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.types import Message

LIMIT = 64 * 1024  # bytes that may wait before no more is read
OVERHEAD = 256  # bytes of memory that a message takes besides its payload, so that empty ones count too


class Inbox:
    """Messages in order of arrival. The last one, which announces the end, is returned again by every further
    ``get``.
    """

    def __init__(self) -> None:
        self._messages: deque[tuple[Message, int]] = deque()
        self._waiting = 0
        self._last: Message | None = None
        self._arrived = asyncio.Event()

    @property
    def is_full(self) -> bool:
        return self._waiting > LIMIT and self._last is None

    @property
    def size(self) -> int:
        """The bytes that wait, with the overhead of each message."""
        return self._waiting

    def put(self, message: Message, size: int = 0) -> None:
        """Add a message of ``size`` bytes; it is dropped after the end."""
        if self._last is None:
            self._messages.append((message, size + OVERHEAD))
            self._waiting += size + OVERHEAD
            self._arrived.set()

    def end(self, last: Message) -> None:
        """Set the last message. Only the first call counts: it has the cause of any later ones."""
        if self._last is None:
            self._last = last
            self._arrived.set()

    def clear(self) -> None:
        self._messages.clear()
        self._waiting = 0

    async def get(self) -> Message:
        while not self._messages:
            if self._last is not None:
                return self._last
            self._arrived.clear()
            await self._arrived.wait()
        message, size = self._messages.popleft()
        self._waiting -= size
        return message
