"""Bodies: the memory of an HTTP worker that large bodies take, and which request is ended first when none is left.

Only bytes in memory count: of a request what has arrived, of a response what its client has yet to read, of a WebSocket
the messages until the handler takes them. A request's body is held twice until it is answered: here, so that it
survives the death of a replica, and in the replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from serving.errors import BodiesFull
from serving.system.memory import BUSY, release_freed, resident

COUNTED = 64 * 1024  # bytes; smaller bodies are not counted: the queue's limit bounds their sum
COPIES = 2
STILL = 3.0  # seconds without COUNTED bytes of progress, after which a body may be ended to make room
LOOSE = 64 << 20  # bytes freed between two checks of how much memory the allocator keeps
REST = 2.0  # seconds without any large body, after which freed memory is returned to the kernel


class Rest(Protocol):
    def cancel(self) -> object: ...


def rest() -> Rest:
    """Schedule the return of freed memory to the kernel, in ``REST`` seconds."""
    loop = asyncio.get_running_loop()
    return loop.call_later(REST, loop.run_in_executor, None, release_freed)


class Tidy:
    """Returns freed memory to the kernel when the allocator keeps much of it while there are always some large bodies.
    The allocator keeps every free block that lies between two blocks in use, whatever its size.
    """

    def begin(self) -> None:
        """Remember the present memory as what this process takes without large bodies."""
        self._base = resident("self")

    def __call__(self, held: int) -> None:
        """Return freed memory to the kernel if much more than ``held`` bytes, those in use, is resident."""
        if resident("self") > self._base + held + BUSY:
            asyncio.get_running_loop().run_in_executor(None, release_freed)


class Bodies:
    """The large bodies of one HTTP worker, whose share of memory is ``memory`` bytes.

    ``rest`` is called when no body is left; what it returns is cancelled when another one comes. ``tidy`` is called
    with the bytes held, each time ``LOOSE`` bytes were freed.
    """

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
        self._moving: dict[BodyReservation, None] = {}

    @property
    def held(self) -> int:
        """The bytes that are taken."""
        return self._held

    def take(self, size: int, instead_of: int = 0, who: BodyReservation | None = None) -> bool:
        """Take ``size`` bytes for ``who``, in place of ``instead_of`` bytes taken before. Bodies that stand still are
        ended to make room. Returns False if there is still no room. The only body is always taken, whatever its size.
        """
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

    def _make_room(self, size: int, instead_of: int, who: BodyReservation | None) -> None:
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

    def watch(self, one: BodyReservation) -> None:
        """Add a body that may be ended to make room."""
        self._moving[one] = None

    def forget(self, one: BodyReservation) -> None:
        self._moving.pop(one, None)


class BodyReservation:
    """The memory of ``bodies`` that one request, and then its response, has taken; ``release`` gives it back.

    ``leave`` ends the request for lack of room. It is called at most once, when the body stands still while others need
    the room, and never once the body is complete. ``moved`` is the instant of its last progress of ``COUNTED`` bytes.
    """

    def __init__(self, bodies: Bodies, leave: Callable[[], None] | None = None) -> None:
        self._bodies = bodies
        self._leave = leave
        self.had_to_go = False
        self._size = 0
        self._unread: Callable[[], int] | None = None
        self._unsent = 0
        self.moved = bodies.clock()

    def watch(self, leave: Callable[[], None]) -> None:
        """Begin to receive a body, which ``leave`` ends."""
        self._leave = leave
        self.moved = self._bodies.clock()

    def ask(self, size: int) -> None:
        """Check that a body of ``size`` bytes may begin. Raises BodiesFull where there is no room at all."""
        if size >= COUNTED:
            self.grow(COUNTED)

    def grow(self, size: int) -> None:
        """Count ``size`` bytes of the body as arrived. Raises BodiesFull."""
        size -= size % COUNTED
        if size <= self._size:
            return
        self._take(size, "a body")
        if self._leave is not None:
            self._bodies.watch(self)

    def hold(self, size: int, leave: Callable[[], None]) -> None:
        """Count ``size`` bytes as held now, more or fewer than before; ``leave`` ends what holds them. Raises
        BodiesFull.
        """
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
        """Mark the body as complete: it stays in memory until it is answered."""
        self._bodies.forget(self)
        self._leave = None

    def count_response(self, size: int, unread: Callable[[], int] | None, leave: Callable[[], None] | None) -> None:
        """Count a response of ``size`` bytes in place of the body. ``unread`` returns the number of its bytes that wait
        for the client; ``leave`` closes the connection of a client that does not read. Raises BodiesFull.
        """
        self.keep()
        if size < COUNTED and not self._size:
            return
        self._take(size if size >= COUNTED else 0, "an answer")
        self._unread, self._unsent = unread, size
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
        if self._unread is not None and (unsent := self._unread()) <= self._unsent - COUNTED:
            self._unsent, self.moved = unsent, now
        return now >= self.moved + STILL

    def go(self) -> None:
        """Release the memory and end the request, to make room for others."""
        leave, self.had_to_go = self._leave, True
        self.release()
        if leave is not None:
            leave()

    def release(self) -> None:
        self._bodies.forget(self)
        self._bodies.give(self._size)
        self._size, self._leave, self._unread = 0, None, None
