"""Claims: how much memory the samples of a process take, claimed before it is taken.

A body of few bytes may decode to many, and there are as many samples at a time as a batch and the decode threads take.
So each decoder says what it is about to make, on behalf of the request that this thread decodes. What a request has
claimed is given back when it is answered.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from serving.errors import BodiesFull, BodyTooLarge

UNLIMITED = 1 << 31  # bytes for a process that was told of no limit, such as a test's


class Holder(Protocol):
    """A request that is being decoded."""

    claim: Any


class Ledger:
    """``limit`` is in bytes, of all samples together. From any thread."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held = 0
        self._lock = threading.Lock()
        self._returned: deque[int] = deque()  # appended to without the lock, which a destructor might wait for for ever

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
    """What one request has claimed of ``ledger``. It goes back with the last reference to this."""

    __slots__ = ("_ledger", "size")

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.size = 0

    def take(self, size: int) -> None:
        """Raises BodyTooLarge for what can never fit, and BodiesFull for what does not beside others."""
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
    """Where a thread says for whom it decodes."""

    holder: Holder | None


class Engine:
    """``holder`` is what the engine's thread decodes for."""

    __slots__ = ("holder",)

    def __init__(self) -> None:
        self.holder: Holder | None = None


class Own(threading.local):
    """``holder`` is what a thread beside the engine's decodes for. To look at these takes longer."""

    holder: Holder | None = None


engine = Engine()
own = Own()
_ledger = Ledger(UNLIMITED)


def set_limit(limit: int) -> None:
    """How many bytes the samples of this process may take from now on."""
    _ledger.limit = limit


def held() -> int:
    """Bytes that are claimed now."""
    return _ledger.held


def holder() -> Holder | None:
    return own.holder or engine.holder


def take(size: int) -> None:
    """This thread is about to make ``size`` bytes. Raises BodyTooLarge and BodiesFull. Where it decodes for no request
    in particular only what is too large by itself is refused."""
    one = holder()
    if one is None:
        check(size, _ledger)
        return
    if one.claim is None:
        one.claim = Claim(_ledger)
    one.claim.take(size)


def settle(holder: Holder, sample: object, kept: int = 0) -> None:
    """All is decoded: of a ``sample`` that tells its bytes these stay claimed, and ``kept`` beside, and no more."""
    size = getattr(sample, "nbytes", None)
    if isinstance(size, int) and size + kept < holder.claim.size:
        holder.claim.give(holder.claim.size - size - kept)


def release(holders: Sequence[Holder]) -> None:
    """They are answered: their samples are not needed any more."""
    for holder in holders:
        if (claim := holder.claim) is not None:
            holder.claim = None
            claim.give(claim.size)


def give(size: int) -> None:
    """Of what was taken so much is not needed any more."""
    one = holder()
    if one is not None and one.claim is not None:
        one.claim.give(size)
