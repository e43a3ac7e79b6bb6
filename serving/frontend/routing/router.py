"""Router: the choice of the replica that gets a request. Pure, so that every HTTP worker decides alike."""

from __future__ import annotations

from collections.abc import Sequence


def pick(loads: Sequence[int], turn: int) -> int:
    """Return the index of the least loaded replica; ``turn`` rotates among equals. ``loads`` must not be empty."""
    n = len(loads)
    return min(range(n), key=lambda index: (loads[index], (index - turn) % n))
