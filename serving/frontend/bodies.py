"""Bodies: how much of the memory large request bodies take, and no more of them where that would be too much.

A body is held twice until it is answered: here, since a replica that ends must not take it along, and at the replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from serving.errors import BodiesFull
from serving.memory import release_freed

COUNTED = 64 * 1024  # bytes from which on a body counts; smaller ones are bounded by how many may wait
COPIES = 2
REST = 2.0  # seconds without any of them after which their memory goes back to the kernel


class Rest(Protocol):
    def cancel(self) -> object: ...


def rest() -> Rest:
    """In a while the memory of bodies goes back to the kernel."""
    loop = asyncio.get_running_loop()
    return loop.call_later(REST, loop.run_in_executor, None, release_freed)


class Bodies:
    """``memory`` is in bytes, this HTTP worker's share. ``rest`` is called when there is none any more; what it gives
    is cancelled where another one comes."""

    def __init__(self, memory: int, rest: Callable[[], Rest] | None = None) -> None:
        self._limit = memory // COPIES
        self._held = 0
        self._rest = rest
        self._resting: Rest | None = None

    def take(self, size: int, instead_of: int = 0) -> bool:
        """False where there is no room. One that finds no other is always taken, whatever its size."""
        others = self._held - instead_of
        if others and others + size > self._limit:
            return False
        self._held = others + size
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        return True

    def give(self, size: int) -> None:
        self._held -= size
        if size and not self._held and self._rest is not None:
            self._resting = self._rest()


class Held:
    """What one request has taken of ``bodies``, ``size`` bytes so far; ``release`` gives it back."""

    def __init__(self, bodies: Bodies, size: int = 0) -> None:
        self._bodies = bodies
        self._size = size

    def grow(self, size: int) -> None:
        """The body has, or will have, ``size`` bytes. Raises BodiesFull."""
        if size < COUNTED or size <= self._size:
            return
        if not self._bodies.take(size, self._size):
            raise BodiesFull(f"there is no room for a body of {size} bytes beside those of other requests")
        self._size = size

    def release(self) -> None:
        self._bodies.give(self._size)
        self._size = 0


def counted(size: int) -> int:
    return size if size >= COUNTED else 0
