"""Bodies: how much of an HTTP worker's memory large bodies take, and who goes first where it is all taken.

Counted is what is there: of a request what has arrived, of an answer what was sent while its client has yet to read
it, of a WebSocket what has come of its client's messages until the handler takes them. A request's body is held twice
until it is answered: here, since a replica that ends must not take it along, and at the replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from serving.errors import BodiesFull
from serving.system.memory import BUSY, release_freed, resident

COUNTED = 64 * 1024  # bytes from which on a body counts; smaller ones are bounded by how many may wait
COPIES = 2
STILL = 3.0  # seconds in which one moves by less than COUNTED bytes, after which it may go before others
LOOSE = 64 << 20  # bytes that are let go until somebody looks how much of them the allocator keeps
REST = 2.0  # seconds without any of them after which their memory goes back to the kernel


class Rest(Protocol):
    def cancel(self) -> object: ...


def rest() -> Rest:
    """In a while the memory of bodies goes back to the kernel."""
    loop = asyncio.get_running_loop()
    return loop.call_later(REST, loop.run_in_executor, None, release_freed)


class Tidy:
    """Gives what was freed back to the kernel where much of it is kept while there are large bodies all the time. What
    lies between two blocks in use is kept by the allocator whatever its size."""

    def begin(self) -> None:
        """So much as now is held is held without large bodies."""
        self._base = resident("self")

    def __call__(self, held: int) -> None:
        """``held`` bytes are in use."""
        if resident("self") > self._base + held + BUSY:
            asyncio.get_running_loop().run_in_executor(None, release_freed)


class Bodies:
    """``memory`` is in bytes, this HTTP worker's share. ``rest`` is called when there is none any more; what it gives
    is cancelled where another one comes. ``tidy`` is called with what is held, each time ``LOOSE`` bytes were given
    back."""

    def __init__(
        self,
        memory: int,
        rest: Callable[[], Rest] | None = None,
        clock: Callable[[], float] = monotonic,
        tidy: Callable[[int], None] | None = None,
    ) -> None:
        self.clock = clock
        self._limit = memory // COPIES
        self._held = 0
        self._loose = 0
        self._tidy = tidy
        self._rest = rest
        self._resting: Rest | None = None
        self._moving: dict[Held, None] = {}

    @property
    def held(self) -> int:
        """Bytes that are taken."""
        return self._held

    def take(self, size: int, instead_of: int = 0, who: Held | None = None) -> bool:
        """Take ``size`` bytes for ``who``, who had ``instead_of``; those who stand still make room. False where there
        is none all the same. One that finds no other is always taken, whatever its size."""
        if not self._fits(size, instead_of):
            self._make_room(size, instead_of, who)
            if not self._fits(size, instead_of):
                return False
        self._held += size - instead_of
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        return True

    def _fits(self, size: int, instead_of: int) -> bool:
        others = self._held - instead_of
        return not others or others + size <= self._limit

    def _make_room(self, size: int, instead_of: int, who: Held | None) -> None:
        now = self.clock()
        still = [one for one in self._moving if one is not who and one.stands_still(now)]
        for one in sorted(still, key=lambda one: one.moved):
            one.go()
            if self._fits(size, instead_of):
                return

    def give(self, size: int) -> None:
        self._held -= size
        self._loose += size
        if self._loose >= LOOSE:
            self._loose = 0
            if self._tidy is not None:
                self._tidy(self._held)
        if size and not self._held and self._rest is not None:
            self._resting = self._rest()

    def watch(self, one: Held) -> None:
        """From now on it may have to go."""
        self._moving[one] = None

    def forget(self, one: Held) -> None:
        self._moving.pop(one, None)


class Held:
    """What one request, and then its answer, has taken of ``bodies``; ``release`` gives it back.

    ``leave`` ends the request for a lack of room: it is called once, where the body stands still while others need the
    room, and not once all of it is there. ``moved`` is when it last moved by as much as counts.
    """

    def __init__(self, bodies: Bodies, leave: Callable[[], None] | None = None) -> None:
        self._bodies = bodies
        self._leave = leave
        self.had_to_go = False
        self._size = 0
        self._unread: Callable[[], int] | None = None
        self._left = 0
        self.moved = bodies.clock()

    def watch(self, leave: Callable[[], None]) -> None:
        """A body begins to come, which ``leave`` ends."""
        self._leave = leave
        self.moved = self._bodies.clock()

    def ask(self, size: int) -> None:
        """Whether to begin with a body of ``size`` bytes. Raises BodiesFull where there is no room at all."""
        if size >= COUNTED:
            self.grow(COUNTED)

    def grow(self, size: int) -> None:
        """``size`` bytes of the body have arrived. Raises BodiesFull."""
        size -= size % COUNTED
        if size <= self._size:
            return
        self._take(size, "a body")
        if self._leave is not None:
            self._bodies.watch(self)

    def hold(self, size: int, leave: Callable[[], None]) -> None:
        """``size`` bytes are held now, more or fewer than before, and ``leave`` ends what holds them. Raises
        BodiesFull."""
        size -= size % COUNTED
        if size == self._size:
            return
        self._take(size, "a message")
        if not size:
            self.keep()
        elif self._leave is None:
            self._leave = leave
            self._bodies.watch(self)

    def keep(self) -> None:
        """All of the body is there: it stays until it is answered."""
        self._bodies.forget(self)
        self._leave = None

    def answer(self, size: int, unread: Callable[[], int] | None, leave: Callable[[], None] | None) -> None:
        """An answer of ``size`` bytes takes the place of the body. ``unread`` tells how many bytes of it wait for the
        client, and ``leave`` cuts the connection of one that does not read. Raises BodiesFull."""
        self.keep()
        if size < COUNTED and not self._size:
            return
        self._take(size if size >= COUNTED else 0, "an answer")
        self._unread, self._left = unread, size
        if leave is not None and self._size:
            self._leave = leave
            self._bodies.watch(self)

    def _take(self, size: int, what: str) -> None:
        if size > self._size:
            if not self._bodies.take(size, self._size, self):
                raise BodiesFull(f"there is no room for {what} of {size} bytes or more beside those of other requests")
        else:
            self._bodies.give(self._size - size)
        self._size = size
        self.moved = self._bodies.clock()

    def stands_still(self, now: float) -> bool:
        if self._unread is not None and (left := self._unread()) <= self._left - COUNTED:
            self._left, self.moved = left, now
        return now >= self.moved + STILL

    def go(self) -> None:
        """Make room for others."""
        leave, self.had_to_go = self._leave, True
        self.release()
        if leave is not None:
            leave()

    def release(self) -> None:
        self._bodies.forget(self)
        self._bodies.give(self._size)
        self._size, self._leave, self._unread = 0, None, None
