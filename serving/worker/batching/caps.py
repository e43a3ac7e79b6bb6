"""Caps: the largest batch of each bucket, learned from batches that ran out of memory."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from serving.system import log

PATIENCE = 16  # batches of the capped size until a larger one is tried
LONGEST = 16 * 64  # the most such batches, after repeated failures of larger ones
KNOWN = 1024  # buckets whose caps are remembered


@dataclass(slots=True)
class Cap:
    """The cap of one bucket.

    After ``left`` more batches of ``size`` a larger one is tried; ``left`` begins at ``patience``.
    """

    size: int
    left: int = PATIENCE
    patience: int = PATIENCE


class Caps:
    """The caps of all buckets: halved at once, raised by an eighth now and then.

    Half of the batches above memory's limit are lost work, while too low a cap costs little throughput.
    """

    def __init__(self, max_size: int) -> None:
        self._max = max_size
        self.learned: dict[Hashable, Cap] = {}

    def of(self, bucket: Hashable) -> int:
        cap = self.learned.get(bucket) if self.learned else None
        return self._max if cap is None else cap.size

    def failed(self, bucket: Hashable, size: int) -> None:
        """Record that a batch of ``size`` ran out of memory."""
        if size < 2:
            return
        cap = self.learned.get(bucket)
        if cap is None and len(self.learned) < KNOWN:
            cap = self.learned[bucket] = Cap(self._max)
        if cap is None or size > cap.size:
            return
        raised = cap.size < self._max
        cap.size = size // 2
        cap.patience = min(LONGEST, 2 * cap.patience) if raised else cap.patience
        cap.left = cap.patience
        log.warning("batches of a bucket are smaller now, for want of memory", size=size, cap=cap.size)

    def succeeded(self, bucket: Hashable, size: int) -> None:
        cap = self.learned.get(bucket) if self.learned else None
        if cap is None or size < cap.size:
            return
        cap.left -= 1
        if cap.left > 0:
            return
        cap.size, cap.left = cap.size + max(1, cap.size // 8), cap.patience
        if cap.size >= self._max:
            del self.learned[bucket]
