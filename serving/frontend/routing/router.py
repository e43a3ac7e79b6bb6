"""Router: which replica gets a request. Pure, so that every HTTP worker decides alike."""

from __future__ import annotations

from collections.abc import Sequence


def pick(loads: Sequence[int], turn: int) -> int:
    """The index of the least loaded replica; ``turn`` spreads requests over equals. ``loads`` is not empty."""
    n = len(loads)
    return min(range(n), key=lambda index: (loads[index], (index - turn) % n))
