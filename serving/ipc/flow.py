"""Flow: the window of a stream. The sender counts what it sends, and the receiver reports what it has used."""

from __future__ import annotations

from collections.abc import Callable

WINDOW = 128 * 1024  # bytes in flight per stream: while there are fewer, one more chunk of any size is sent
LEAST_COST = 64  # bytes that a chunk counts at least, so that the number of small ones is bounded too


class Flow:
    """The sender's counters of one stream; ``sent`` and ``used`` are each written by one thread only."""

    def __init__(self) -> None:
        self.sent = 0
        self.used = 0

    @property
    def is_open(self) -> bool:
        return self.sent - self.used < WINDOW


class Credit:
    """The receiver's counter of one stream; ``give`` reports to the sender, a quarter of a window at a time."""

    def __init__(self, give: Callable[[int], None]) -> None:
        self._give = give
        self._used = 0

    def use(self, count: int) -> None:
        self._used += count
        if self._used >= WINDOW // 4:
            count, self._used = self._used, 0
            self._give(count)


def cost(chunk: bytes | bytearray | memoryview) -> int:
    return max(LEAST_COST, len(chunk))
