"""Flow: how much of a stream is on its way. One side counts what it sends, the other says what was used up."""

from __future__ import annotations

from collections.abc import Callable

WINDOW = 128 * 1024  # bytes of one stream that may be on their way; one more piece is begun while they are fewer
PIECE = 64  # bytes that an empty or small piece counts at least, so that many of them are bounded too


class Flow:
    """``sent`` and ``used`` are each counted by one thread only."""

    def __init__(self) -> None:
        self.sent = 0
        self.used = 0

    @property
    def is_open(self) -> bool:
        return self.sent - self.used < WINDOW


class Credit:
    """What was used up on the receiving side; ``give`` tells the sender, a quarter of a window at a time."""

    def __init__(self, give: Callable[[int], None]) -> None:
        self._give = give
        self._used = 0

    def use(self, count: int) -> None:
        self._used += count
        if self._used >= WINDOW // 4:
            count, self._used = self._used, 0
            self._give(count)


def cost(piece: bytes | bytearray | memoryview) -> int:
    return max(PIECE, len(piece))
