"""Claims: a bound on the memory of decoded samples in one process, which is claimed before it is allocated.

A small body may decode to a large sample, and a batch and the decode threads hold many samples at a time. So each
decoder claims the bytes that it is about to allocate, for the request that its thread decodes. A request's claim is
given back when the request is answered.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from serving.errors import BodiesFull, BodyTooLarge

UNLIMITED = 1 << 31  # bytes for a process without a configured limit, such as a test's


class Holder(Protocol):
    """A request that is being decoded."""

    claim: Any


class Ledger:
    """The sum of all claims of a process; ``limit`` is in bytes. Safe from any thread."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held = 0
        self._lock = threading.Lock()
        self._returned: deque[int] = deque()  # appended to without the lock, on which a destructor could deadlock

    @property
    def held(self) -> int:
        with self._lock:
            return self._count()

    def _count(self) -> int:
        while self._returned:
            self._held -= self._returned.popleft()
        return self._held

    def take(self, size: int) -> bool:
        with self._lock:
            if self._count() + size > self.limit:
                return False
            self._held += size
            return True

    def give(self, size: int) -> None:
        self._returned.append(size)


class Claim:
    """The bytes of ``ledger`` that one request has claimed. They are given back with the last reference to the
    claim.
    """

    __slots__ = ("_ledger", "size")

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.size = 0

    def take(self, size: int) -> None:
        """Claim ``size`` more bytes. Raises BodyTooLarge where they can never fit, BodiesFull where others leave no
        room.
        """
        check(self.size + size, self._ledger)
        if not self._ledger.take(size):
            raise BodiesFull(f"there is no room for {size} bytes of decoded data beside those of other requests")
        self.size += size

    def give(self, size: int) -> None:
        size = max(0, min(size, self.size))
        self.size -= size
        self._ledger.give(size)

    def __del__(self) -> None:
        self._ledger.give(self.size)


def check(size: int, ledger: Ledger) -> None:
    if size > ledger.limit:
        raise BodyTooLarge(f"the body decodes to about {size} bytes; at most {ledger.limit} are taken")


class Here(Protocol):
    """The place where a thread records the request that it decodes."""

    holder: Holder | None


class Engine:
    """The request that the engine's thread decodes, as ``holder``."""

    __slots__ = ("holder",)

    def __init__(self) -> None:
        self.holder: Holder | None = None


class Own(threading.local):
    """The request that another thread decodes, as ``holder``. Reading a thread-local takes longer."""

    holder: Holder | None = None


engine = Engine()
own = Own()
_ledger = Ledger(UNLIMITED)


def set_limit(limit: int) -> None:
    """Set the bytes that the samples of this process may take from now on."""
    _ledger.limit = limit


def held() -> int:
    """Return the bytes that are claimed now."""
    return _ledger.held


def holder() -> Holder | None:
    return own.holder or engine.holder


def take(size: int) -> None:
    """Claim ``size`` bytes that this thread is about to allocate. Raises BodyTooLarge and BodiesFull. In a thread that
    decodes for no request, only a size that can never fit is refused.
    """
    one = holder()
    if one is None:
        check(size, _ledger)
        return
    if one.claim is None:
        one.claim = Claim(_ledger)
    one.claim.take(size)


def settle(holder: Holder, sample: object, kept: int = 0) -> None:
    """Reduce the claim of a decoded request to the bytes of its ``sample``, where they are known, and ``kept`` more
    bytes.
    """
    size = getattr(sample, "nbytes", None)
    if isinstance(size, int) and size + kept < holder.claim.size:
        holder.claim.give(holder.claim.size - size - kept)


def release(holders: Sequence[Holder]) -> None:
    """Give back the claims of answered requests."""
    for holder in holders:
        if (claim := holder.claim) is not None:
            holder.claim = None
            claim.give(claim.size)


def give(size: int) -> None:
    """Give back ``size`` of the bytes that this thread has claimed for its request."""
    one = holder()
    if one is not None and one.claim is not None:
        one.claim.give(size)
